// How a weight matrix is stored, and a view of one (or of a tensor-parallel slice of one).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/base/tensor.h"

namespace fathom {

// How a stored code becomes a number, before its scale.
enum class Decode : std::uint8_t {
  f32,
  f16,
  bf16,
  e4m3,
  e2m1,    // 4 bits, low nibble = even column
  offset,  // unsigned integer code minus zero_point; 4 bits, low nibble = even column
};

// A storage format as a value: weight(r, c) = decode(code(r, c)) * scale(r / group_rows, c / group_cols).
// FP8 128x128 with F32 or E8M0 scales, BF16, later INT4 1x32 and MXFP4 1x32, are all values of it.
struct WeightFormat {
  int bits = 32;                 // per weight: 4, 8, 16 or 32
  int group_rows = 0;            // rows and columns that share one scale; 0 and 0: there are no scales
  int group_cols = 0;
  DType scale = DType::f32;      // of the scale grid: F32, BF16 or F8_E8M0
  int zero_point = 0;            // Decode::offset only
  Decode decode = Decode::f32;

  bool scaled() const { return group_cols != 0; }
  bool operator==(const WeightFormat&) const = default;
};

namespace formats {
inline constexpr WeightFormat f32{.bits = 32, .decode = Decode::f32};
inline constexpr WeightFormat f16{.bits = 16, .decode = Decode::f16};
inline constexpr WeightFormat bf16{.bits = 16, .decode = Decode::bf16};
inline constexpr WeightFormat fp8_f32{
    .bits = 8, .group_rows = 128, .group_cols = 128, .scale = DType::f32, .decode = Decode::e4m3};
inline constexpr WeightFormat fp8_e8m0{
    .bits = 8, .group_rows = 128, .group_cols = 128, .scale = DType::f8_e8m0, .decode = Decode::e4m3};
inline constexpr WeightFormat int4_bf16{
    .bits = 4, .group_rows = 1, .group_cols = 32, .scale = DType::bf16, .zero_point = 8, .decode = Decode::offset};
inline constexpr WeightFormat mxfp4{
    .bits = 4, .group_rows = 1, .group_cols = 32, .scale = DType::f8_e8m0, .decode = Decode::e2m1};
}  // namespace formats

// y = W x with W (rows = out_features, cols = in_features), row-major where it lies, at any byte alignment.
// A slice keeps the whole tensor's scale grid and says where it begins in it, so that it need not fall on a multiple
// of the group: the scale of element (r, c) is scale[(row0 + r) / group_rows][(col0 + c) / group_cols].
struct Linear {
  const std::byte* data = nullptr;    // element (0, 0) of this view
  std::int64_t rows = 0, cols = 0;    // of this view
  std::int64_t row_bytes = 0;         // from one row to the next in `data`
  const std::byte* scale = nullptr;   // grid of the whole tensor, row-major; null without scales
  std::int64_t scale_cols = 0;        // scales per grid row
  std::int64_t row0 = 0, col0 = 0;    // this view's origin in the whole tensor
  WeightFormat format;

  explicit operator bool() const { return data != nullptr; }
  // Rows or columns [begin, end) of this view. Precondition: in range; for 4-bit formats `begin` of columns is even.
  Linear rows_slice(std::int64_t begin, std::int64_t end) const;
  Linear cols_slice(std::int64_t begin, std::int64_t end) const;
  // Bytes of codes and of the scales they need: what one product with one vector reads.
  std::int64_t bytes() const;
  // Scale of the group that holds element (r, c) of this view; 1 without scales.
  float scale_at(std::int64_t r, std::int64_t c) const;
  // Element (r, c), exactly decoded and multiplied by its scale in FP32: the definition that every kernel is held to.
  float at(std::int64_t r, std::int64_t c) const;
};

// A view of a whole stored weight. Precondition: `weight` is 2-D of the format's code type, and `scale` (if the format
// has scales) is a grid of (ceil(rows / group_rows), ceil(cols / group_cols)); the binder has checked both.
Linear make_linear(const TensorView& weight, const TensorView* scale, const WeightFormat& format);

}  // namespace fathom
