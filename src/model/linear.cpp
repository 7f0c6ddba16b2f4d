#include "src/model/linear.h"

#include <cassert>

namespace fathom {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

float decode(const WeightFormat& f, const std::byte* row, std::int64_t c) {
  switch (f.decode) {
    case Decode::f32: return load<float>(row + 4 * c);
    case Decode::f16: return f16_to_float(load<std::uint16_t>(row + 2 * c));
    case Decode::bf16: return bf16_to_float(load<std::uint16_t>(row + 2 * c));
    case Decode::e4m3: return e4m3_to_float(load<std::uint8_t>(row + c));
    case Decode::e2m1:
    case Decode::offset: break;
  }
  const auto byte = load<std::uint8_t>(row + c / 2);
  const auto nibble = static_cast<std::uint8_t>(c % 2 == 0 ? byte & 15 : byte >> 4);
  return f.decode == Decode::e2m1 ? e2m1_to_float(nibble) : static_cast<float>(nibble - f.zero_point);
}

}  // namespace

Linear Linear::rows_slice(std::int64_t begin, std::int64_t end) const {
  assert(0 <= begin && begin <= end && end <= rows);
  Linear s = *this;
  s.data += begin * row_bytes;
  s.rows = end - begin;
  s.row0 += begin;
  return s;
}

Linear Linear::cols_slice(std::int64_t begin, std::int64_t end) const {
  assert(0 <= begin && begin <= end && end <= cols && (format.bits >= 8 || begin % 2 == 0));
  Linear s = *this;
  s.data += begin * format.bits / 8;
  s.cols = end - begin;
  s.col0 += begin;
  return s;
}

std::int64_t Linear::bytes() const {
  const std::int64_t codes = rows * ceil_div(cols * format.bits, 8);
  if (!format.scaled() || rows == 0 || cols == 0) return codes;
  const std::int64_t grid_rows = (row0 + rows - 1) / format.group_rows - row0 / format.group_rows + 1;
  const std::int64_t grid_cols = (col0 + cols - 1) / format.group_cols - col0 / format.group_cols + 1;
  return codes + grid_rows * grid_cols * static_cast<std::int64_t>(dtype_size(format.scale));
}

float Linear::scale_at(std::int64_t r, std::int64_t c) const {
  if (!format.scaled()) return 1.0f;
  const std::int64_t index = (row0 + r) / format.group_rows * scale_cols + (col0 + c) / format.group_cols;
  return element_as_float(format.scale, scale, static_cast<std::size_t>(index));
}

float Linear::at(std::int64_t r, std::int64_t c) const {
  return decode(format, data + r * row_bytes, c) * scale_at(r, c);
}

Linear make_linear(const TensorView& weight, const TensorView* scale, const WeightFormat& format) {
  assert(weight.shape.size() == 2);
  const std::int64_t codes_per_element = format.bits >= 8 ? 1 : 8 / format.bits;
  const std::int64_t stored_cols = weight.shape[1];
  const std::int64_t element_bits = static_cast<std::int64_t>(dtype_size(weight.dtype)) * 8;
  Linear l;
  l.data = weight.data;
  l.rows = weight.shape[0];
  l.cols = codes_per_element == 1 ? stored_cols : stored_cols * element_bits / format.bits;
  l.row_bytes = stored_cols * element_bits / 8;
  l.format = format;
  if (scale != nullptr) {
    l.scale = scale->data;
    l.scale_cols = ceil_div(l.cols, format.group_cols);
  }
  return l;
}

}  // namespace fathom
