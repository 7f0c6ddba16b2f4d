// The tensor-core products of Hopper against float64 on random data, and against themselves in other tiles.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "src/base/error.h"
#include "src/base/tensor.h"
#include "tests/cuda/device_memory.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using namespace fathom::cuda;
using test::hopper_present;
using Memory = test::DeviceMemory;

namespace {

int blocks(int n) { return (n + 127) / 128; }
int round_up(int n, int to) { return (n + to - 1) / to * to; }

// A random matrix of e4m3 codes with a scale per `group_rows` x 128, or of BF16 values; and what it stands
// for.
struct Random {
  Random(int r, int c, int group_rows, bool fp8, unsigned seed) : rows(r), cols(c), pitch(round_up(c, 16)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    value.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
    const auto padded = static_cast<std::size_t>(rows) * static_cast<std::size_t>(pitch);
    if (fp8)
      codes.assign(padded, 0);
    else
      halves.assign(padded, 0);
    const int grid_rows = (rows + group_rows - 1) / group_rows;
    scale.resize(static_cast<std::size_t>(grid_rows * blocks(cols)));
    for (float& s : scale) s = std::exp2(normal(random)) * 0.01f;
    for (int i = 0; i < rows; ++i)
      for (int k = 0; k < cols; ++k) {
        const auto at =
            static_cast<std::size_t>(i) * static_cast<std::size_t>(pitch) + static_cast<std::size_t>(k);
        double& v =
            value[static_cast<std::size_t>(i) * static_cast<std::size_t>(cols) + static_cast<std::size_t>(k)];
        if (fp8) {
          codes[at] = float_to_e4m3(64 * normal(random));
          v = static_cast<double>(e4m3_to_float(codes[at])) *
              static_cast<double>(scale[static_cast<std::size_t>(i / group_rows * blocks(cols) + k / 128)]);
        } else {
          halves[at] = float_to_bf16(normal(random));
          v = static_cast<double>(bf16_to_float(halves[at]));
        }
      }
  }
  // Scales by block of columns, then row.
  std::vector<float> transposed(int stride) const {
    std::vector<float> t(static_cast<std::size_t>(stride * blocks(cols)), NAN);
    for (int i = 0; i < rows; ++i)
      for (int b = 0; b < blocks(cols); ++b)
        t[static_cast<std::size_t>(b * stride + i)] = scale[static_cast<std::size_t>(i * blocks(cols) + b)];
    return t;
  }
  Matrix matrix(Memory& m) const {
    Matrix w;
    w.rows = rows, w.cols = cols, w.scale_cols = blocks(cols);
    w.code = codes.empty() ? Code::bf16 : Code::e4m3;
    w.row_bytes = pitch * code_bytes(w.code);
    w.codes = codes.empty() ? reinterpret_cast<const std::byte*>(m.put(halves))
                            : reinterpret_cast<const std::byte*>(m.put(codes));
    if (!codes.empty()) w.scale = m.put(scale);
    return w;
  }
  void operand(Memory& m, GemmParams& p) const {
    p.rows = rows, p.a_stride = pitch;
    if (codes.empty()) {
      p.a = reinterpret_cast<const __nv_bfloat16*>(m.put(halves));
      return;
    }
    p.codes = m.put(codes);
    p.scale_stride = round_up(rows, 4);
    p.a_scale = m.put(transposed(static_cast<int>(p.scale_stride)));
  }
  int rows, cols, pitch;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> halves;
  std::vector<float> scale;
  std::vector<double> value;
};

std::vector<double> product(const Random& a, const Random& w) {
  std::vector<double> out;
  for (int i = 0; i < a.rows; ++i)
    for (int n = 0; n < w.rows; ++n) {
      const double* x = a.value.data() + static_cast<std::ptrdiff_t>(i) * a.cols;
      const double* y = w.value.data() + static_cast<std::ptrdiff_t>(n) * w.cols;
      out.push_back(std::inner_product(x, x + a.cols, y, 0.0));
    }
  return out;
}

template <typename T>
double relative(const std::vector<T>& got, const std::vector<double>& want) {
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - want[i];
    square += e * e, norm += want[i] * want[i];
  }
  const double r = std::sqrt(square / norm);
  return r == r ? r : 1e30;  // NaN exceeds every bound
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// e4m3: blocks of 128 products keep about 14 bits, 2^-13 each, which average out over a sum; exact otherwise.
constexpr double kBound = 1e-3;
// BF16: FP32 sums that the tensor cores truncate, 2^-23 of the sum at each of K / 16 steps.
constexpr double kBoundBf16 = 3e-5;

constexpr GemmTile kTiles[] = {
    GemmTile::rows128_columns256, GemmTile::rows128_columns256_alone, GemmTile::rows128_columns192,
    GemmTile::rows128_columns128, GemmTile::rows128_columns128_alone, GemmTile::rows128_columns64,
    GemmTile::rows64_columns256,  GemmTile::rows64_columns32,         GemmTile::automatic};
constexpr GemmTile kPairTiles[] = {GemmTile::rows128_columns256, GemmTile::rows128_columns256_alone,
                                   GemmTile::rows64_columns256, GemmTile::automatic};

void multiply(Memory& m, bool fp8, const GemmParams& p, GemmTile tile) {
  if (fp8)
    gemm_fp8(m.on, p, tile);
  else
    gemm_bf16(m.on, p, tile);
}

std::size_t product_size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

}  // namespace

TEST_CASE("cuda: Hopper products agree with float64 and do not depend on tiles or rows") {
  if (!hopper_present()) return;
  struct Shape {
    int m, n, k;
  };
  for (const bool fp8 : {true, false})
    for (const Shape& s : {Shape{1, 48, 40},
                           {2, 64, 128},
                           {7, 576, 640},
                           {8, 96, 2048},
                           {64, 192, 400},
                           {65, 328, 1088},
                           {200, 520, 336},
                           {300, 264, 1408},
                           {129, 40, 10944},
                           {200, 456, 7424}}) {
      Memory m;
      const Random a(s.m, s.k, 1, fp8, 1), w(s.n, s.k, 128, fp8, 2);
      const std::vector<double> want = product(a, w);
      const std::size_t size = product_size(s.m, s.n);
      GemmParams p;
      a.operand(m, p);
      p.w = w.matrix(m);
      p.out_stride = s.n;
      std::vector<float> first;
      for (GemmTile tile : kTiles) {
        const std::string where = fmt::format("{} {} x {} x {}, tile {}", fp8 ? "fp8" : "bf16", s.m, s.n, s.k,
                                              static_cast<int>(tile));
        p.out = m.room<float>(size);
        multiply(m, fp8, p, tile);
        const std::vector<float> got = m.get(p.out, size);
        const double error = relative(got, want);
        CHECK_MESSAGE(error < (fp8 ? kBound : kBoundBf16), where << ": relative error " << error);
        if (first.empty()) first = got;
        CHECK_MESSAGE(same_bits(first, got), where << ": the tile changes bits");
        // Added to what is there.
        GemmParams added = p;
        std::vector<float> sum(size, 3.0f);
        added.out = m.put(sum);
        added.add = true;
        multiply(m, fp8, added, tile);
        for (std::size_t i = 0; i < size; ++i) sum[i] = 3.0f + first[i];
        CHECK_MESSAGE(same_bits(sum, m.get(added.out, size)), where << ": sums differ");
        // As BF16.
        GemmParams rounded = p;
        rounded.out = nullptr;
        rounded.out_bf16 = m.room<__nv_bfloat16>(size);
        multiply(m, fp8, rounded, tile);
        std::vector<std::uint16_t> halves(size);
        for (std::size_t i = 0; i < size; ++i) halves[i] = float_to_bf16(first[i]);
        CHECK_MESSAGE(
            same_bits(halves, m.get(reinterpret_cast<const std::uint16_t*>(rounded.out_bf16), size)),
            where << ": BF16 values differ");
        // Fewer rows: the same bits.
        GemmParams fewer = p;
        fewer.rows = (s.m + 1) / 2;
        const std::size_t some = product_size(fewer.rows, s.n);
        fewer.out = m.room<float>(some);
        multiply(m, fp8, fewer, GemmTile::automatic);
        CHECK_MESSAGE(same_bits(m.get(fewer.out, some),
                                {first.begin(), first.begin() + static_cast<std::ptrdiff_t>(some)}),
                      where << ": the number of rows changes bits");
      }
    }
}

TEST_CASE("cuda: rounding activations to e4m3 costs a Hopper product no more than its rounding explains") {
  if (!hopper_present()) return;
  // A value in [2^k, 2^(k+1)) moves by at most half of 2^(k-3), evenly: a variance of 2^(2k-6) / 12, where
  // its square is 7/3 2^(2k) in the mean if values lie evenly there. The root of the ratio, 2.4e-2, is what a
  // sum of independent errors is off by. Values of a normal distribution lie lower in their binades: 2.57e-2
  // by counting, 2.65e-2 with scales rounded up to powers of two.
  constexpr double kRounding = 2.7e-2;
  for (const bool ue8m0 : {false, true}) {
    Memory m;
    const int rows = 130, n = 264, k = 1416;
    const Random w(n, k, 128, true, 2);
    Random a(rows, k, 1, true, 1);  // its values alone are used
    std::mt19937 random(4);
    std::normal_distribution<float> normal;
    std::vector<float> x;
    for (double& v : a.value) x.push_back(normal(random)), v = static_cast<double>(x.back());
    OperandParams o;
    o.input = {m.put(x), k, k, nullptr, 0, ue8m0 ? Round::fp8_ue8m0 : Round::fp8, nullptr};
    o.codes = m.room<std::uint8_t>(product_size(rows, round_up(k, 16)));
    o.scale_stride = round_up(rows, 4);
    o.scale = m.room<float>(product_size(blocks(k), static_cast<int>(o.scale_stride)));
    o.rows = rows;
    make_operand(m.on, o);
    GemmParams p;
    p.w = w.matrix(m);
    p.codes = o.codes, p.a_stride = round_up(k, 16), p.a_scale = o.scale, p.scale_stride = o.scale_stride;
    p.rows = rows;
    p.out = m.room<float>(product_size(rows, n)), p.out_stride = n;
    gemm_fp8(m.on, p, GemmTile::automatic);
    const double error = relative(m.get(p.out, product_size(rows, n)), product(a, w));
    CHECK_MESSAGE(error < kRounding, "relative error " << error);
    CHECK_MESSAGE(error > 1e-2, "relative error " << error << ": were the activations rounded at all?");
  }
}

TEST_CASE("cuda: two matrices in one Hopper product are each alone") {
  if (!hopper_present()) return;
  for (const bool fp8 : {true, false})
    for (const int k : {528, 8208}) {
      Memory m;
      const int rows = 150, n1 = 328, n2 = 72;
      const Random a(rows, k, 1, fp8, 1), w(n1, k, 128, fp8, 2), second(n2, k, 128, fp8, 3);
      GemmParams p;
      a.operand(m, p);
      const Matrix one = w.matrix(m), two = second.matrix(m);
      for (GemmTile tile : kTiles) {
        p.w = one, p.out = m.room<float>(product_size(rows, n1)), p.out_stride = n1;
        p.up = two, p.out2 = m.room<float>(product_size(rows, n2)), p.out2_stride = n2;
        multiply(m, fp8, p, tile);
        CHECK(relative(m.get(p.out, product_size(rows, n1)), product(a, w)) < (fp8 ? kBound : kBoundBf16));
        CHECK(relative(m.get(p.out2, product_size(rows, n2)), product(a, second)) <
              (fp8 ? kBound : kBoundBf16));
      }
    }
}

TEST_CASE("cuda: gate and up of a Hopper product round their result as the operand of down") {
  if (!hopper_present()) return;
  for (const bool fp8 : {true, false})
    for (const bool ue8m0 : {false, true}) {
      if (!fp8 && ue8m0) continue;
      Memory m;
      const int rows = 200, inner = 456, k = 272, stride = round_up(inner, 16);
      const Random a(rows, k, 1, fp8, 1), gate(inner, k, 128, fp8, 2), up(inner, k, 128, fp8, 3);
      GemmParams p;
      a.operand(m, p);
      p.w = gate.matrix(m);
      p.out = m.room<float>(product_size(rows, inner)), p.out_stride = inner;
      multiply(m, fp8, p, GemmTile::automatic);
      const std::vector<float> g = m.get(p.out, product_size(rows, inner));
      p.up = up.matrix(m);
      GemmParams q = p;
      q.w = p.up, q.up = {};
      multiply(m, fp8, q, GemmTile::automatic);
      const std::vector<float> u = m.get(p.out, product_size(rows, inner));
      std::vector<double> want;
      for (std::size_t i = 0; i < g.size(); ++i)
        want.push_back(static_cast<double>(g[i]) / (1 + std::exp(-static_cast<double>(g[i]))) *
                       static_cast<double>(u[i]));
      for (GemmTile tile : kPairTiles) {
        p.out = nullptr;
        p.ue8m0 = ue8m0;
        std::vector<double> got;
        if (fp8) {
          p.out_stride = stride, p.out_scale_stride = round_up(rows, 4);
          p.out_codes = m.room<std::uint8_t>(product_size(rows, stride));
          p.out_scale = m.room<float>(product_size(blocks(inner), static_cast<int>(p.out_scale_stride)));
          gemm_fp8(m.on, p, tile);
          const auto codes = m.get(p.out_codes, product_size(rows, stride));
          const auto scales =
              m.get(p.out_scale, product_size(blocks(inner), static_cast<int>(p.out_scale_stride)));
          int other = 0;
          for (int i = 0; i < rows; ++i)
            for (int n = 0; n < stride; ++n) {
              const auto code = codes[product_size(i, stride) + static_cast<std::size_t>(n)];
              if (n >= inner) {
                CHECK(code == 0);
                continue;
              }
              const float s = scales[static_cast<std::size_t>(n / 128 * p.out_scale_stride + i)];
              got.push_back(static_cast<double>(e4m3_to_float(code)) * static_cast<double>(s));
              // The group's largest value sets its scale; every value is the nearest code.
              double most = 0;
              for (int c = n / 128 * 128; c < std::min(inner, n / 128 * 128 + 128); ++c)
                most = std::max(most, std::abs(want[product_size(i, inner) + static_cast<std::size_t>(c)]));
              const double exact = std::max(most, 1e-4) / 448;
              const double expected = ue8m0 ? std::exp2(std::ceil(std::log2(exact))) : exact;
              if (n % 128 == 0) CHECK(static_cast<double>(s) == doctest::Approx(expected).epsilon(1e-5));
              const float value =
                  static_cast<float>(want[product_size(i, inner) + static_cast<std::size_t>(n)]) / s;
              other += e4m3_to_float(float_to_e4m3(value)) != e4m3_to_float(code);
            }
          CHECK(other <= rows * inner / 1000);  // values at a tie, by the error of expf
        } else {
          p.out_stride = inner;
          p.out_bf16 = m.room<__nv_bfloat16>(product_size(rows, inner));
          gemm_bf16(m.on, p, tile);
          for (std::uint16_t h :
               m.get(reinterpret_cast<const std::uint16_t*>(p.out_bf16), product_size(rows, inner)))
            got.push_back(static_cast<double>(bf16_to_float(h)));
        }
        // Rounding alone: 2^-4 at most and uniform below it, or 2^-9.
        const double error = relative(got, want);
        CHECK_MESSAGE(error < (fp8 ? 4e-2 : 3e-3), "relative error " << error);
      }
    }
}

TEST_CASE("cuda: products of sorted rows with their experts are those of each expert alone") {
  if (!hopper_present()) return;
  for (const bool fp8 : {true, false})
    for (const int tile_rows : {64, 128}) {
      Memory m;
      const int k = 336, n = 328;
      const std::vector<int> counts{70, 0, 1, 129, 64, 3};
      const int rows = std::accumulate(counts.begin(), counts.end(), 0);
      const Random a(rows, k, 1, fp8, 1);
      GemmParams p;
      a.operand(m, p);
      // Experts lie evenly spaced: codes, then scales.
      std::vector<Matrix> weights;
      std::vector<ExpertPointers> pointers;
      for (std::size_t e = 0; e < counts.size(); ++e) {
        weights.push_back(Random(n, k, 128, fp8, 10 + static_cast<unsigned>(e)).matrix(m));
        ExpertPointers one{};
        one.gate = one.down = weights.back().codes;
        one.gate_scale = one.down_scale = weights.back().scale;
        pointers.push_back(one);
      }
      std::vector<int> expert, begin, count, sorted(static_cast<std::size_t>(rows));
      std::iota(sorted.begin(), sorted.end(), 0);
      std::shuffle(sorted.begin(), sorted.end(), std::mt19937(3));
      for (std::size_t e = 0, at = 0; e < counts.size(); ++e)
        for (int left = counts[e]; left > 0; left -= tile_rows) {
          expert.push_back(static_cast<int>(e));
          begin.push_back(static_cast<int>(at));
          count.push_back(std::min(left, tile_rows));
          at += static_cast<std::size_t>(count.back());
        }
      const std::size_t size = product_size(rows, n);
      GemmParams g = p;
      g.w = weights.front();
      g.experts = m.put(pointers);
      g.expert_count = static_cast<int>(counts.size());
      g.expert_bytes = weights[1].codes - weights[0].codes;
      g.which = 2;
      g.tiles = static_cast<int>(expert.size()) + 3;
      g.tile_expert = m.put(expert), g.tile_begin = m.put(begin), g.tile_count = m.put(count);
      g.tile_total = m.put(std::vector<int>{static_cast<int>(expert.size())});
      g.sorted = m.put(sorted);
      g.out = m.room<float>(size);
      g.out_stride = n;
      multiply(m, fp8, g, tile_rows == 64 ? GemmTile::rows64_columns256 : GemmTile::rows128_columns256_alone);
      const std::vector<float> got = m.get(g.out, size);
      for (std::size_t e = 0, at = 0; e < counts.size(); at += static_cast<std::size_t>(counts[e]), ++e) {
        if (counts[e] == 0) continue;
        GemmParams one = p;
        one.w = weights[e];
        one.out = m.room<float>(size), one.out_stride = n;
        multiply(m, fp8, one, GemmTile::rows128_columns128);
        const std::vector<float> all = m.get(one.out, size);
        for (int i = 0; i < counts[e]; ++i) {
          const auto row = static_cast<std::ptrdiff_t>(at) + i;
          const auto to = static_cast<std::ptrdiff_t>(sorted[at + static_cast<std::size_t>(i)]);
          CHECK(std::equal(all.begin() + row * n, all.begin() + (row + 1) * n, got.begin() + to * n));
        }
      }
    }
}
