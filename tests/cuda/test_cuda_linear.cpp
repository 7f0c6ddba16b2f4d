// Products of weights with a few rows at the lengths of published models, which the tiny checkpoints do not
// have: rows cut into parts, all codes, slices that begin inside a scale block; against float64, and against
// themselves with other numbers of rows.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "src/base/tensor.h"
#include "tests/cuda/device_memory.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using namespace fathom::cuda;
using Memory = test::DeviceMemory;

namespace {

std::vector<float> normals(std::size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

// A matrix on the device and what it stands for. FP8: a slice that begins inside a scale block.
struct RandomMatrix {
  RandomMatrix(Memory& m, int rows, int cols, Code code, unsigned seed) {
    matrix.rows = rows, matrix.cols = cols, matrix.code = code;
    matrix.row_bytes = (cols * code_bytes(code) + 15) / 16 * 16;
    const bool fp8 = code == Code::e4m3;
    if (fp8) matrix.row_shift = 109, matrix.col_shift = 48;
    matrix.scale_cols = (matrix.col_shift + cols + 127) / 128;
    std::vector<float> scale(
        static_cast<std::size_t>((matrix.row_shift + rows + 127) / 128 * matrix.scale_cols));
    std::mt19937 random(seed);
    for (float& s : scale) s = 0.01f + static_cast<float>(random() % 1000) * 1e-5f;
    std::vector<std::uint8_t> bytes(
        static_cast<std::size_t>(rows) * static_cast<std::size_t>(matrix.row_bytes), 0);
    value.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) {
        std::uint8_t* at = bytes.data() +
                           static_cast<std::size_t>(r) * static_cast<std::size_t>(matrix.row_bytes) +
                           static_cast<std::size_t>(c * code_bytes(code));
        double& v =
            value[static_cast<std::size_t>(r) * static_cast<std::size_t>(cols) + static_cast<std::size_t>(c)];
        const auto bits = static_cast<std::uint32_t>(random());
        const float plain = (static_cast<float>(bits % 2001) - 1000) * 1e-3f;
        if (fp8) {
          *at = static_cast<std::uint8_t>(bits % 128 == 127 ? 0 : bits % 256);
          const int block = (r + matrix.row_shift) / 128 * matrix.scale_cols + (c + matrix.col_shift) / 128;
          v = static_cast<double>(e4m3_to_float(*at)) *
              static_cast<double>(scale[static_cast<std::size_t>(block)]);
        } else if (code == Code::bf16) {
          const std::uint16_t half = float_to_bf16(plain);
          std::memcpy(at, &half, 2);
          v = static_cast<double>(bf16_to_float(half));
        } else {
          std::memcpy(at, &plain, 4);
          v = static_cast<double>(plain);
        }
      }
    matrix.codes = reinterpret_cast<const std::byte*>(m.put(bytes));
    if (fp8) matrix.scale = m.put(scale);
  }
  double dot(int row, const std::vector<double>& x) const {
    double sum = 0;
    const double* w = value.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(matrix.cols);
    for (std::size_t c = 0; c < static_cast<std::size_t>(matrix.cols); ++c) sum += w[c] * x[c];
    return sum;
  }
  Matrix matrix;
  std::vector<double> value;
};

// An input row as the product takes it.
std::vector<double> taken(const float* x, const std::vector<float>& norm, int cols, float eps, Round round) {
  double square = 0;
  for (int c = 0; c < cols; ++c) square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  const double inverse = norm.empty() ? 1 : 1 / std::sqrt(square / cols + static_cast<double>(eps));
  std::vector<double> out;
  for (int c = 0; c < cols; ++c) {
    double v = static_cast<double>(x[c]) * inverse;
    if (!norm.empty()) v *= static_cast<double>(norm[static_cast<std::size_t>(c)]);
    if (round == Round::bf16) v = static_cast<double>(bf16_to_float(float_to_bf16(static_cast<float>(v))));
    out.push_back(v);
  }
  return out;
}

double distance(const std::vector<float>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// FP32 sums of up to 18,432 terms in some fifty chains per lane and row; a rounded input that differs because
// the norm was taken in FP32 is off by 2^-9 of itself, and few of thousands are.
constexpr double kExactInput = 2e-6, kRoundedNorm = 5e-4;

void check_gemv(int rows, int cols, Code code, bool norm, Round round, bool add) {
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(static_cast<int>(code));
  constexpr int kRows = 8;
  Memory m;
  const RandomMatrix w(m, rows, cols, code, 3);
  const auto n = static_cast<std::size_t>(rows), k = static_cast<std::size_t>(cols);
  const std::vector<float> x = normals(k * kRows, 4), weight = norm ? normals(k, 5) : std::vector<float>();
  const std::vector<float> before = normals(n * kRows, 6);
  const float* x_device = m.put(x);
  const float* weight_device = norm ? m.put(weight) : nullptr;
  std::vector<double> expected;
  for (std::size_t t = 0; t < kRows; ++t) {
    const std::vector<double> row = taken(x.data() + t * k, weight, cols, 1e-6f, round);
    for (int r = 0; r < rows; ++r)
      expected.push_back(w.dot(r, row) +
                         (add ? static_cast<double>(before[t * n + static_cast<std::size_t>(r)]) : 0));
  }
  std::vector<float> first;
  for (int count = 8; count >= 1; --count) {
    CAPTURE(count);
    float* out = m.put(before);
    GemvParams p;
    p.segment[0] = {w.matrix, out, rows, {}};
    p.input = {x_device, cols, cols, weight_device, 1e-6f, round, nullptr};
    p.rows = count;
    p.add = add;
    gemv(m.on, p);
    std::vector<float> got = m.get(out, n * kRows);
    if (count == 8) {
      first = got;
      CHECK(distance(got, expected) < (norm && round != Round::none ? kRoundedNorm : kExactInput));
    }
    // Rows of the call have the bits that they have beside others; rows behind it are untouched.
    for (std::size_t i = 0; i < got.size(); ++i) {
      const float want = i < n * static_cast<std::size_t>(count) ? first[i] : before[i];
      if (got[i] != want) {
        CHECK(got[i] == want);
        return;
      }
    }
  }
}

}  // namespace

TEST_CASE(
    "cuda: products with few rows agree with float64 at every length, and do not depend on other rows") {
  if (!test::gpu_present()) return;
  for (const Code code : {Code::e4m3, Code::bf16, Code::f32}) {
    for (const int cols : {48, 512, 1536, 2048, 7168, 10944}) {
      check_gemv(33, cols, code, false, Round::bf16, true);
      check_gemv(6, cols, code, true, Round::none, false);
    }
    check_gemv(19, 7168, code, true, Round::bf16, false);
  }
  check_gemv(23, 16384, Code::e4m3, false, Round::bf16, true);
  check_gemv(23, 18432, Code::e4m3, false, Round::none, true);
  check_gemv(5, 14336, Code::bf16, false, Round::none, false);
  // Two rows to a warp.
  check_gemv(9001, 96, Code::e4m3, false, Round::bf16, true);
}

TEST_CASE("cuda: two matrices of one product are each alone, and pairs are rotated by their row's position") {
  if (!test::gpu_present()) return;
  constexpr int kCols = 7168, kFirst = 46, kSecond = 80, kDims = 16, kRows = 3;
  Memory m;
  const RandomMatrix a(m, kFirst, kCols, Code::e4m3, 7), b(m, kSecond, kCols, Code::e4m3, 8);
  const std::vector<float> x = normals(std::size_t{kCols} * kRows, 9);
  const std::vector<std::int32_t> position{0, 17, 131071};
  std::vector<float> frequency;
  for (int i = 0; i < kDims / 2; ++i) frequency.push_back(std::exp2(-static_cast<float>(i)));
  float *first = m.room<float>(kFirst * kRows), *second = m.room<float>(kSecond * kRows);
  GemvParams p;
  p.segments = 2;
  p.segment[0] = {a.matrix, first, kFirst, {}};
  p.segment[1] = {b.matrix, second, kSecond, {m.put(position), m.put(frequency), 1.25f, kSecond / 2, kDims}};
  p.input = {m.put(x), kCols, kCols, nullptr, 0, Round::bf16, nullptr};
  p.rows = kRows;
  gemv(m.on, p);
  std::vector<double> want_first, want_second;
  for (int t = 0; t < kRows; ++t) {
    const std::vector<double> row =
        taken(x.data() + std::size_t{kCols} * static_cast<std::size_t>(t), {}, kCols, 0, Round::bf16);
    for (int r = 0; r < kFirst; ++r) want_first.push_back(a.dot(r, row));
    for (int r = 0; r < kSecond; r += 2) {
      double u = b.dot(r, row), v = b.dot(r + 1, row);
      if (const int pair = (r % (kSecond / 2) - (kSecond / 2 - kDims)) / 2;
          r % (kSecond / 2) >= kSecond / 2 - kDims) {
        const auto angle = static_cast<double>(static_cast<float>(position[static_cast<std::size_t>(t)]) *
                                               frequency[static_cast<std::size_t>(pair)]);
        const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle), turned = u * c - v * s;
        v = u * s + v * c, u = turned;
      }
      want_second.push_back(u), want_second.push_back(v);
    }
  }
  CHECK(distance(m.get(first, kFirst * kRows), want_first) < kExactInput);
  CHECK(distance(m.get(second, kSecond * kRows), want_second) < kExactInput);
}

namespace {

struct Experts {
  Experts(Memory& m, int count, int inner, int hidden, Code code, bool down_only) {
    for (int e = 0; e < count; ++e) {
      const auto seed = static_cast<unsigned>(100 + 3 * e);
      if (!down_only) {
        gate.emplace_back(m, inner, hidden, code, seed);
        up.emplace_back(m, inner, hidden, code, seed + 1);
      } else {
        down.emplace_back(m, hidden, inner, code, seed + 2);
      }
    }
    std::vector<ExpertPointers> list;
    for (std::size_t e = 0; e < static_cast<std::size_t>(count); ++e) {
      ExpertPointers p{};
      if (!down_only)
        p = {gate[e].matrix.codes, up[e].matrix.codes, nullptr,
             gate[e].matrix.scale, up[e].matrix.scale, nullptr};
      else
        p.down = down[e].matrix.codes, p.down_scale = down[e].matrix.scale;
      list.push_back(p);
    }
    pointers = m.put(list);
  }
  std::vector<RandomMatrix> gate, up, down;
  const ExpertPointers* pointers = nullptr;
};

Matrix without_pointers(Matrix m) {
  m.codes = nullptr, m.scale = nullptr;
  return m;
}

}  // namespace

TEST_CASE("cuda: gate and up of chosen and shared experts agree with float64, whoever chose") {
  if (!test::gpu_present()) return;
  constexpr int kExperts = 16, kSlots = 3, kInner = 12, kShared = 20, kRows = 2;
  for (const Code code : {Code::e4m3, Code::bf16, Code::f32}) {
    const int cols = code == Code::f32 ? 2048 : 7168;
    CAPTURE(static_cast<int>(code));
    Memory m;
    const Experts e(m, kExperts, kInner, cols, code, false);
    const RandomMatrix shared_gate(m, kShared, cols, code, 1), shared_up(m, kShared, cols, code, 2);
    const auto k = static_cast<std::size_t>(cols);
    // Small enough that SwiGLU is not linear.
    const std::vector<float> x = normals(k * kRows, 11, code == Code::e4m3 ? 2e-3f : 0.05f);
    const std::vector<float> logits = normals(kExperts * kRows, 12), bias = normals(kExperts, 13, 0.1f);
    RouterParams r;
    r.logits = m.put(logits), r.bias = m.put(bias);
    r.experts = kExperts, r.chosen = kSlots, r.groups = 4, r.groups_kept = 2;
    r.sigmoid = r.group_sum = r.normalise = true, r.factor = 2.5f;
    r.ids = m.put(std::vector<std::int32_t>(kSlots * kRows, -1));
    r.weights = m.put(std::vector<float>(kSlots * kRows, NAN));
    choose_experts(m.on, r, kRows);
    const std::vector<std::int32_t> ids = m.get(r.ids, kSlots * kRows);
    const std::vector<float> chosen_weights = m.get(r.weights, kSlots * kRows);
    constexpr int kWidth = kSlots * kInner + kShared;
    float* hidden = m.room<float>(kWidth * kRows);
    GateUpParams p;
    p.gate = without_pointers(e.gate[0].matrix), p.up = without_pointers(e.up[0].matrix);
    p.experts = e.pointers, p.expert_count = kExperts, p.ids = r.ids, p.slots = kSlots;
    p.shared_gate = shared_gate.matrix, p.shared_up = shared_up.matrix;
    p.input = {m.put(x), cols, cols, nullptr, 0, Round::bf16, nullptr};
    p.hidden = hidden, p.hidden_stride = kWidth, p.rows = kRows;
    gate_up(m.on, p);
    const std::vector<float> given = m.get(hidden, kWidth * kRows);
    std::vector<double> expected;
    for (std::size_t t = 0; t < kRows; ++t) {
      const std::vector<double> row = taken(x.data() + t * k, {}, cols, 0, Round::bf16);
      const auto unit = [&](const RandomMatrix& gate, const RandomMatrix& up, int j) {
        const double g = gate.dot(j, row);
        expected.push_back(g / (1 + std::exp(-g)) * up.dot(j, row));
      };
      for (std::size_t s = 0; s < kSlots; ++s) {
        const auto id = static_cast<std::size_t>(ids[t * kSlots + s]);
        for (int j = 0; j < kInner; ++j) unit(e.gate[id], e.up[id], j);
      }
      for (int j = 0; j < kShared; ++j) unit(shared_gate, shared_up, j);
    }
    CHECK(distance(given, expected) < 1e-5);
    // The same with the choice made inside.
    RouterParams inside = r;
    inside.ids = m.put(std::vector<std::int32_t>(kSlots * kRows, -1));
    inside.weights = m.put(std::vector<float>(kSlots * kRows, NAN));
    p.router = inside, p.ids = inside.ids;
    p.hidden = m.room<float>(kWidth * kRows);
    gate_up(m.on, p);
    CHECK(m.get(p.hidden, kWidth * kRows) == given);
    CHECK(m.get(inside.ids, kSlots * kRows) == ids);
    CHECK(m.get(inside.weights, kSlots * kRows) == chosen_weights);
  }
}

TEST_CASE("cuda: down of chosen and shared experts agrees with float64") {
  if (!test::gpu_present()) return;
  constexpr int kExperts = 5, kSlots = 3, kHidden = 21, kRows = 2;
  for (const Code code : {Code::e4m3, Code::bf16, Code::f32})
    for (const int inner : {48, 1408, 2048, 2304}) {
      CAPTURE(static_cast<int>(code));
      CAPTURE(inner);
      Memory m;
      const int shared_inner = 2 * inner, width = kSlots * inner + shared_inner;
      const Experts e(m, kExperts, inner, kHidden, code, true);
      const RandomMatrix shared(m, kHidden, shared_inner, code, 1);
      const std::vector<float> hidden = normals(static_cast<std::size_t>(width) * kRows, 14);
      const std::vector<std::int32_t> ids{0, 2, 4, 1, 2, 3};
      const std::vector<float> weights = normals(kSlots * kRows, 15), before = normals(kHidden * kRows, 16);
      DownParams p;
      p.down = without_pointers(e.down[0].matrix);
      p.experts = e.pointers, p.expert_count = kExperts, p.slots = kSlots;
      p.ids = m.put(ids), p.weights = m.put(weights);
      p.shared_down = shared.matrix;
      p.hidden = m.put(hidden), p.hidden_stride = width, p.round = Round::bf16;
      float* out = m.put(before);
      p.out = out, p.out_stride = kHidden, p.add = true, p.rows = kRows;
      down_combine(m.on, p);
      std::vector<double> expected;
      for (std::size_t t = 0; t < kRows; ++t)
        for (int n = 0; n < kHidden; ++n) {
          const float* from = hidden.data() + t * static_cast<std::size_t>(width);
          double sum = static_cast<double>(before[t * kHidden + static_cast<std::size_t>(n)]);
          for (std::size_t s = 0; s < kSlots; ++s) {
            const auto id = static_cast<std::size_t>(ids[t * kSlots + s]);
            sum += static_cast<double>(weights[t * kSlots + s]) *
                   e.down[id].dot(
                       n, taken(from + s * static_cast<std::size_t>(inner), {}, inner, 0, Round::bf16));
          }
          expected.push_back(sum +
                             shared.dot(n, taken(from + std::size_t{kSlots} * static_cast<std::size_t>(inner),
                                                 {}, shared_inner, 0, Round::bf16)));
        }
      CHECK(distance(m.get(out, kHidden * kRows), expected) < kExactInput);
    }
}
