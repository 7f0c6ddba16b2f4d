#include "src/cpu/linear.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <new>

#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/tensor.h"

namespace fathom::cpu {
namespace {

constexpr std::size_t kCacheLine = 64;

// Formats that the kernels decode, with block scales (or none) applied to partial sums. Others are decoded
// element by element with their scale: exact for 4-bit codes, whose products with BF16 and E8M0 scales fit in
// FP32.
bool is_direct(const WeightFormat& f) {
  if (f.decode == Decode::e2m1 || f.decode == Decode::offset) return false;
  return !f.scaled() || f.group_cols == kBlock;
}

bool has_block_scales(const WeightFormat& f) { return is_direct(f) && f.scaled(); }

// Columns of the first block that belong to other slices.
std::int64_t lead_of(const Linear& w) { return has_block_scales(w.format) ? w.col0 % kBlock : 0; }

std::int64_t block_count(const Linear& w) { return (lead_of(w) + w.cols + kBlock - 1) / kBlock; }

// Reads rows of a weight as the kernels want them. Columns are counted from the first block's border.
class Reader {
 public:
  Reader(const Kernels& k, const Linear& w)
      : kernels_(k), w_(w), lead_(lead_of(w)), code_bytes_(w.format.bits / 8), direct_(is_direct(w.format)) {}

  bool direct() const { return direct_; }
  bool aligned() const { return direct_ && lead_ == 0; }
  const std::byte* codes(std::int64_t r, std::int64_t column) const {
    return w_.data + r * w_.row_bytes + column * code_bytes_;
  }

  // Columns [column, column + count) of row r as floats, zero outside the weight. count: a multiple of
  // kPiece, <= kChunk.
  void decode(std::int64_t r, std::int64_t column, std::int64_t count, float* out) const {
    const std::int64_t first = column - lead_;
    if (!direct_) return decode_elements(r, first, count, out);
    if (first >= 0 && first + count <= w_.cols)
      return kernels_.decode(w_.format.decode, codes(r, first), count, out);
    alignas(kCacheLine) std::array<std::byte, kChunk * 4> padded;
    pad(r, column, count, padded.data());
    kernels_.decode(w_.format.decode, padded.data(), count, out);
  }

  // The codes of those columns, zero outside the weight.
  void pad(std::int64_t r, std::int64_t column, std::int64_t count, std::byte* out) const {
    const std::int64_t first = column - lead_;
    const std::int64_t from = std::max<std::int64_t>(first, 0), to = std::min(first + count, w_.cols);
    std::memset(out, 0, static_cast<std::size_t>(count * code_bytes_));
    if (from < to)
      std::memcpy(out + (from - first) * code_bytes_, codes(r, from),
                  static_cast<std::size_t>((to - from) * code_bytes_));
  }

  // Block scales of row r, times the decoder's unit.
  void scales(std::int64_t r, std::span<float> out) const {
    const float unit = direct_ && w_.format.decode == Decode::e4m3 ? kernels_.e4m3_unit : 1.0f;
    for (std::size_t b = 0; b < out.size(); ++b) {
      const auto column = std::max<std::int64_t>(static_cast<std::int64_t>(b) * kBlock - lead_, 0);
      out[b] = has_block_scales(w_.format) ? w_.scale_at(r, column) * unit : unit;
    }
  }

  // Whether row r's scales are those of row r - 1.
  bool same_scales(std::int64_t r) const {
    if (!has_block_scales(w_.format)) return true;
    return (w_.row0 + r) % w_.format.group_rows != 0;
  }

 private:
  void decode_elements(std::int64_t r, std::int64_t first, std::int64_t count, float* out) const {
    for (std::int64_t i = 0; i < count; ++i) out[i] = first + i < w_.cols ? w_.at(r, first + i) : 0.0f;
  }

  const Kernels& kernels_;
  const Linear& w_;
  std::int64_t lead_, code_bytes_;
  bool direct_;
};

// Block scales of the rows of a panel; rows that share a grid row share the copy.
class PanelScales {
 public:
  PanelScales(const Reader& reader, std::int64_t blocks)
      : reader_(reader), blocks_(blocks), memory_(static_cast<std::size_t>(kPanelRows * blocks)) {
    for (std::size_t i = 0; i < buffers_.size(); ++i)
      buffers_[i] = memory_.data() + static_cast<std::int64_t>(i) * blocks;
  }
  // Pointers for rows [begin, begin + n); entries beyond n repeat the last. Valid until the next call.
  void load(std::int64_t begin, int n, std::span<const float*> out) {
    const bool keep = row_ >= 0 && begin == row_ + 1 && reader_.same_scales(begin);
    // The copy in use moves to the front, so that a panel never overwrites what its own rows point to.
    if (keep) std::swap(buffers_[0], buffers_[current_]);
    current_ = 0;
    if (!keep) reader_.scales(begin, buffer());
    for (int i = 0; i < n; ++i) {
      if (i > 0 && !reader_.same_scales(begin + i)) {
        ++current_;
        reader_.scales(begin + i, buffer());
      }
      out[static_cast<std::size_t>(i)] = buffers_[current_];
    }
    for (std::size_t i = static_cast<std::size_t>(n); i < out.size(); ++i) out[i] = out[i - 1];
    row_ = begin + n - 1;
  }

 private:
  std::span<float> buffer() const { return {buffers_[current_], static_cast<std::size_t>(blocks_)}; }

  const Reader& reader_;
  std::int64_t blocks_;
  std::vector<float> memory_;
  std::int64_t row_ = -1;  // last row loaded; buffers_[current_] holds its scales
  std::size_t current_ = 0;
  std::array<float*, kPanelRows> buffers_;
};

// How far ahead of the code in use a dot product asks for the next ones, in bytes.
constexpr std::ptrdiff_t kPrefetch = 2048;

// Rows are taken from four places at once, a quarter of the range apart: four long streams keep more of the
// memory busy than one does.
void dot_product(const Kernels& k, const Linear& w, const Reader& reader, std::int64_t begin,
                 std::int64_t end, const ProductRow& row) {
  const std::int64_t blocks = block_count(w), full = w.cols / kBlock, quarter = (end - begin + 3) / 4;
  std::vector<float> scales(static_cast<std::size_t>(4 * blocks));
  alignas(kCacheLine) std::array<std::array<std::byte, kBlock * 4>, 4> tails;
  float y[4];
  DotArgs a{.decode = w.format.decode,
            .row = {},
            .tail = {},
            .scale = {},
            .full_blocks = full,
            .blocks = blocks,
            .x = row.x,
            .x_scale = row.x_scale,
            .prefetch = kPrefetch,
            .y = y};
  for (std::int64_t step = 0; step < quarter; ++step) {
    std::int64_t at[4];
    for (int i = 0; i < 4; ++i) {
      const std::int64_t r = at[i] = std::min(begin + i * quarter + step, end - 1);
      const std::span<float> scale =
          std::span(scales).subspan(static_cast<std::size_t>(i * blocks), static_cast<std::size_t>(blocks));
      if (step == 0 || !reader.same_scales(r)) reader.scales(r, scale);
      a.scale[i] = scale.data();
      a.row[i] = reader.codes(r, 0);
      a.tail[i] = tails[static_cast<std::size_t>(i)].data();
      if (full < blocks) reader.pad(r, full * kBlock, kBlock, tails[static_cast<std::size_t>(i)].data());
    }
    k.dot(a);
    for (int i = 0; i < 4; ++i) row.y[at[i] - begin] = y[i];
  }
}

// Rows of x that stay in the second-level cache while all panels of a thread pass by: 128 x 1024 floats are
// 512 kB.
constexpr std::int64_t kTileRows = 128;

struct RowPointers {
  std::vector<const float*> x, x_scale;
  std::vector<float*> y;
};

void panel_product(const Kernels& k, const Linear& w, const Reader& reader, std::int64_t begin,
                   std::int64_t end, const RowPointers& rows, std::int64_t t0, std::int64_t T, float* panel) {
  const std::int64_t blocks = block_count(w);
  PanelScales scales(reader, blocks);
  for (std::int64_t r = begin; r < end; r += kPanelRows) {
    const int n = static_cast<int>(std::min<std::int64_t>(kPanelRows, end - r));
    std::array<const float*, kPanelRows> scale;
    scales.load(r, n, scale);
    for (std::int64_t b = 0; b < blocks; b += kChunkBlocks) {
      const std::int64_t count = std::min<std::int64_t>(kChunkBlocks, blocks - b);
      for (int i = 0; i < n; ++i) reader.decode(r + i, b * kBlock, count * kBlock, panel + i * kChunk);
      TileArgs a{.panel = panel,
                 .rows = n,
                 .blocks = count,
                 .scale = {},
                 .x = rows.x.data() + t0,
                 .x_scale = rows.x_scale.empty() ? nullptr : rows.x_scale.data() + t0,
                 .x_offset = b * kBlock,
                 .x_scale_offset = b,
                 .T = T,
                 .y = rows.y.data() + t0,
                 .y_offset = r - begin,
                 .add = b > 0};
      for (std::size_t i = 0; i < kPanelRows; ++i) a.scale[i] = scale[i] + b;
      k.tile(a);
    }
  }
}

float power_of_two_at_least(float s) {
  int exponent;
  const float fraction = std::frexp(s, &exponent);  // s = fraction * 2^exponent, fraction in [0.5, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

}  // namespace

void for_rows(Threads& threads, std::int64_t n, FunctionRef<void(std::int64_t, std::int64_t)> body) {
  if (n >= 8) return threads.for_range(n, 1, body);
  if (n > 0) body(0, n);
}

Floats::Floats(std::int64_t n) {
  const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
  void* p = faults::trip(faults::Site::memory)
                ? nullptr
                : ::operator new(bytes, std::align_val_t(kCacheLine), std::nothrow);
  if (p == nullptr) fail(Exit::out_of_memory, "cannot allocate {} bytes for activations", bytes);
  data_.reset(static_cast<float*>(p));
}

void Floats::Free::operator()(float* p) const { ::operator delete(p, std::align_val_t(kCacheLine)); }

Input::Input(const Linear& w, std::int64_t rows)
    : rows_(rows),
      cols_(w.cols),
      lead_(lead_of(w)),
      stride_(cpu::block_count(w) * kBlock),
      data_(rows * stride_) {
  for (std::int64_t t = 0; t < rows; ++t) {
    float* p = data_.data() + t * stride_;
    std::fill_n(p, lead_, 0.0f);
    std::fill(p + lead_ + cols_, p + stride_, 0.0f);
  }
}

Input::Input(const Machine& m, const Linear& w, std::span<const float> x, Rounding rounding)
    : Input(w, static_cast<std::int64_t>(x.size()) / w.cols) {
  assert(static_cast<std::int64_t>(x.size()) == rows_ * cols_);
  for (std::int64_t t = 0; t < rows_; ++t) std::copy_n(x.data() + t * cols_, cols_, row(t));
  finish(m, rounding);
}

void Input::prepare(Rounding rounding) {
  if (rounding.type == ActivationType::fp8) scales_.resize(static_cast<std::size_t>(rows_ * block_count()));
}

void Input::finish_rows(std::int64_t begin, std::int64_t end, Rounding rounding) {
  if (rounding.type == ActivationType::f32) return;
  for (std::int64_t t = begin; t < end; ++t) round_row(t, rounding);
}

void Input::finish(const Machine& m, Rounding rounding) {
  if (rounding.type == ActivationType::f32) return;
  prepare(rounding);
  for_rows(m.threads, rows_,
           [&](std::int64_t begin, std::int64_t end) { finish_rows(begin, end, rounding); });
}

void Input::round_row(std::int64_t t, Rounding rounding) {
  float* p = data_.data() + t * stride_;
  if (rounding.type == ActivationType::bf16) {
    for (std::int64_t i = 0; i < stride_; ++i) p[i] = round_to_bf16(p[i]);
    return;
  }
  for (std::int64_t b = 0; b < block_count(); ++b)
    scales_[static_cast<std::size_t>(t * block_count() + b)] =
        quantise_block({p + b * kBlock, static_cast<std::size_t>(kBlock)}, rounding.ue8m0);
}

float quantise_block(std::span<float> x, bool ue8m0) {
  float amax = 1e-4f;
  for (float v : x) amax = std::max(amax, std::abs(v));
  float scale = amax / 448.0f;
  if (ue8m0) scale = power_of_two_at_least(scale);
  for (float& v : x) v = e4m3_to_float(float_to_e4m3(v / scale));
  return scale;
}

void product(const Kernels& k, const Linear& w, std::int64_t begin, std::int64_t end,
             std::span<const ProductRow> rows) {
  if (begin >= end || rows.empty()) return;
  if (w.cols == 0)  // a rank without a share of this sum
    for (const ProductRow& row : rows) std::fill_n(row.y, end - begin, 0.0f);
  const Reader reader(k, w);
  if (rows.size() == 1 && reader.aligned()) return dot_product(k, w, reader, begin, end, rows[0]);
  RowPointers p;
  for (const ProductRow& row : rows) {
    p.x.push_back(row.x);
    p.y.push_back(row.y);
    if (row.x_scale != nullptr) p.x_scale.push_back(row.x_scale);
  }
  Floats panel(kPanelRows * kChunk);
  std::fill_n(panel.data(), kPanelRows * kChunk, 0.0f);
  const auto T = static_cast<std::int64_t>(rows.size());
  for (std::int64_t t = 0; t < T; t += kTileRows)
    panel_product(k, w, reader, begin, end, p, t, std::min(kTileRows, T - t), panel.data());
}

std::int64_t share_rows(const Linear& w, std::int64_t rows) {
  // Codes times rows of x: 2 to 3 us of a core, several times what handing a piece over costs.
  constexpr std::int64_t kWork = 32 << 10;
  const std::int64_t panel =
      kPanelRows * std::max<std::int64_t>(w.cols * w.format.bits / 8, 1) * std::max<std::int64_t>(rows, 1);
  return kPanelRows * std::max<std::int64_t>(1, kWork / panel);
}

void product(const Machine& m, const Linear& w, const Input& x, float* y) {
  assert(x.lead() == lead_of(w) && x.block_count() == block_count(w));
  m.threads.for_range(w.rows, share_rows(w, x.rows()), [&](std::int64_t begin, std::int64_t end) {
    std::vector<ProductRow> rows;
    for (std::int64_t t = 0; t < x.rows(); ++t)
      rows.push_back({x.blocks(t), x.scales(t), y + t * w.rows + begin});
    product(m.kernels, w, begin, end, rows);
  });
}

// Rows decoded at a time: 16 x 512 floats fill two thirds of a first-level cache.
constexpr std::int64_t kAbsorbRows = 16;

void transposed_product(const Kernels& k, const Linear& w, std::span<const float* const> x,
                        std::span<float* const> y) {
  assert(lead_of(w) == 0 && x.size() == y.size());
  const Reader reader(k, w);
  const auto T = static_cast<std::int64_t>(x.size());
  const std::int64_t columns = (w.cols + kPiece - 1) / kPiece * kPiece, padded = (w.cols + 15) / 16 * 16;
  const Floats panel(kAbsorbRows * columns), sum(T * columns);
  std::vector<float> scales(static_cast<std::size_t>(block_count(w)));
  for (float* out : y) std::fill_n(out, padded, 0.0f);
  for (std::int64_t r = 0; r < w.rows;) {
    std::int64_t end = r + 1;  // of the rows that share r's scales
    while (end < w.rows && reader.same_scales(end)) ++end;
    reader.scales(r, scales);
    std::fill_n(sum.data(), T * columns, 0.0f);
    while (r < end) {
      const std::int64_t n = std::min(kAbsorbRows, end - r);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t c = 0; c < columns; c += kChunk)
          reader.decode(r + i, c, std::min<std::int64_t>(kChunk, columns - c),
                        panel.data() + i * columns + c);
      k.absorb({.panel = panel.data(),
                .rows = n,
                .columns = columns,
                .x = x.data(),
                .x_offset = r,
                .sum = sum.data(),
                .T = T});
      r += n;
    }
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t c = 0; c < padded; c += kBlock)
        k.join(y[static_cast<std::size_t>(t)] + c, 1.0f, sum.data() + t * columns + c,
               scales[static_cast<std::size_t>(c / kBlock)], std::min<std::int64_t>(kBlock, padded - c));
  }
}

}  // namespace fathom::cpu
