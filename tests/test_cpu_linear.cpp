#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "src/cpu/experts.h"
#include "src/cpu/linear.h"
#include "tests/test_cpu_support.h"

using namespace fathom;
using namespace fathom::test;

namespace {

// A stored weight of any format with random codes, at an odd address.
struct Stored {
  Stored(std::int64_t rows, std::int64_t cols, const WeightFormat& f, unsigned seed) {
    std::mt19937 rng(seed);
    codes.resize(static_cast<std::size_t>(rows * cols * f.bits / 8) + 1);
    for (auto& b : codes) b = static_cast<std::byte>(rng());
    std::normal_distribution<float> normal(0, 0.1f);
    for (std::int64_t i = 0; i < rows * cols; ++i) fix(f, i, normal(rng));
    linear.data = codes.data() + 1;
    linear.rows = rows;
    linear.cols = cols;
    linear.row_bytes = cols * f.bits / 8;
    linear.format = f;
    if (!f.scaled()) return;
    linear.scale_cols = (cols + f.group_cols - 1) / f.group_cols;
    const auto n = static_cast<std::size_t>((rows + f.group_rows - 1) / f.group_rows * linear.scale_cols);
    scales.resize(n * dtype_size(f.scale));
    for (std::size_t i = 0; i < n; ++i) put_scale(f, i, 0.001f * static_cast<float>(1 + rng() % 64));
    linear.scale = scales.data();
  }

  // Random bits are replaced where they would be NaN (e4m3) or absurd (floating types).
  void fix(const WeightFormat& f, std::int64_t i, float value) {
    std::byte* p = codes.data() + 1 + i * f.bits / 8;
    const std::uint16_t h = float_to_bf16(value);
    if (f.decode == Decode::f32) std::memcpy(p, &value, 4);
    if (f.decode == Decode::bf16) std::memcpy(p, &h, 2);
    if (f.decode == Decode::f16) p[1] &= std::byte{0xbf};  // magnitude below 2
    if (f.decode == Decode::e4m3 && (*p & std::byte{0x7f}) == std::byte{0x7f}) *p = std::byte{1};
  }

  void put_scale(const WeightFormat& f, std::size_t i, float s) {
    const std::uint16_t h = float_to_bf16(s);
    const auto e = static_cast<std::uint8_t>(127 + std::lround(std::log2(s)));
    if (f.scale == DType::f32) std::memcpy(&scales[4 * i], &s, 4);
    if (f.scale == DType::bf16) std::memcpy(&scales[2 * i], &h, 2);
    if (f.scale == DType::f8_e8m0) std::memcpy(&scales[i], &e, 1);
  }

  std::vector<std::byte> codes, scales;
  Linear linear;
};

std::vector<float> random_rows(std::int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = normal(rng);
  return x;
}

// act_quant as models.md section 2.6 states it, in double; groups lie on the weight's global grid of 128
// columns.
std::vector<double> rounded(const Linear& w, std::span<const float> x, cpu::Rounding r) {
  std::vector<double> out(x.begin(), x.end());
  if (r.type == ActivationType::f32) return out;
  const std::int64_t lead = w.format.scaled() && w.format.group_cols == 128 ? w.col0 % 128 : 0;
  for (std::int64_t at = 0; at < w.cols;) {
    const std::int64_t end = std::min(w.cols, (at + lead) / 128 * 128 + 128 - lead);
    float amax = 1e-4f;
    for (std::int64_t i = at; i < end; ++i) amax = std::max(amax, std::abs(x[static_cast<std::size_t>(i)]));
    float scale = amax / 448.0f;
    if (r.ue8m0) scale = std::exp2(std::ceil(std::log2(scale)));
    for (std::int64_t i = at; i < end; ++i) {
      const float v = x[static_cast<std::size_t>(i)];
      out[static_cast<std::size_t>(i)] =
          r.type == ActivationType::bf16
              ? static_cast<double>(round_to_bf16(v))
              : static_cast<double>(e4m3_to_float(float_to_e4m3(v / scale))) * static_cast<double>(scale);
    }
    at = end;
  }
  return out;
}

// The definition: sum over columns in double.
std::vector<double> product_in_double(const Linear& w, std::span<const float> x, cpu::Rounding r) {
  std::vector<double> y;
  for (std::size_t t = 0; t < x.size() / static_cast<std::size_t>(w.cols); ++t) {
    const auto row =
        rounded(w, x.subspan(t * static_cast<std::size_t>(w.cols), static_cast<std::size_t>(w.cols)), r);
    for (std::int64_t i = 0; i < w.rows; ++i) {
      double sum = 0;
      for (std::int64_t k = 0; k < w.cols; ++k)
        sum += static_cast<double>(w.at(i, k)) * row[static_cast<std::size_t>(k)];
      y.push_back(sum);
    }
  }
  return y;
}

std::vector<float> multiply(const cpu::Machine& m, const Linear& w, std::span<const float> x,
                            cpu::Rounding r) {
  const cpu::Input in(m, w, x, r);
  std::vector<float> y(static_cast<std::size_t>(in.rows() * w.rows));
  cpu::product(m, w, in, y.data());
  return y;
}

const std::vector<WeightFormat> kFormats{formats::fp8_f32, formats::fp8_e8m0,  formats::bf16, formats::f16,
                                         formats::f32,     formats::int4_bf16, formats::mxfp4};

}  // namespace

TEST_CASE(
    "cpu: a product equals its definition in double, for every format, shape, rounding and instruction set") {
  struct Shape {
    std::int64_t rows, cols;
  };
  Threads threads(2);
  for (cpu::Isa isa : isas()) {
    const cpu::Machine m{threads, cpu::kernels_for(isa)};
    for (const WeightFormat& f : kFormats)
      for (Shape s : {Shape{5, 64}, Shape{130, 192}, Shape{33, 1088}, Shape{9, 2304}, Shape{1, 2}}) {
        const Stored w(s.rows, s.cols, f, 7);
        for (std::int64_t T : {1, 2, 5}) {
          const auto x = random_rows(T * s.cols, 3);
          for (cpu::Rounding r :
               {cpu::Rounding{}, cpu::Rounding{ActivationType::bf16}, cpu::Rounding{ActivationType::fp8},
                cpu::Rounding{ActivationType::fp8, true}}) {
            const double error = relative(multiply(m, w.linear, x, r), product_in_double(w.linear, x, r));
            CHECK_MESSAGE(error < 1e-6, cpu::name(isa), " decode ", static_cast<int>(f.decode), " ", s.rows,
                          "x", s.cols, " T ", T, " error ", error);
          }
        }
      }
  }
}

TEST_CASE("cpu: a slice of the columns keeps its place in the scale grid") {
  Threads threads(2);
  const Stored w(200, 700, formats::fp8_f32, 11);
  for (cpu::Isa isa : isas()) {
    const cpu::Machine m{threads, cpu::kernels_for(isa)};
    for (std::int64_t begin : {0, 60, 128, 200}) {
      const Linear part = w.linear.rows_slice(70, 190).cols_slice(begin, 630);
      for (std::int64_t T : {1, 4}) {
        const auto x = random_rows(T * part.cols, 5);
        for (ActivationType type : {ActivationType::f32, ActivationType::fp8})
          CHECK(relative(multiply(m, part, x, {type}), product_in_double(part, x, {type})) < 1e-6);
      }
    }
  }
}

TEST_CASE("cpu: a row's bits depend neither on its neighbours nor on the number of threads") {
  for (cpu::Isa isa : isas())
    for (const WeightFormat& f : {formats::fp8_f32, formats::bf16, formats::f32, formats::int4_bf16})
      for (ActivationType type : {ActivationType::f32, ActivationType::fp8}) {
        const std::int64_t cols = 1344, T = 131;
        const Stored w(27, cols, f, 13);
        const auto x = random_rows(T * cols, 17);
        Threads one(1), two(2), many(16);
        const cpu::Kernels& k = cpu::kernels_for(isa);
        const auto whole = multiply({one, k}, w.linear, x, {type});
        CHECK(whole == multiply({two, k}, w.linear, x, {type}));
        CHECK(whole == multiply({many, k}, w.linear, x, {type}));
        std::vector<float> rows;
        for (std::int64_t t = 0; t < T; ++t) {
          const auto y = multiply(
              {two, k}, w.linear,
              std::span(x).subspan(static_cast<std::size_t>(t * cols), static_cast<std::size_t>(cols)),
              {type});
          rows.insert(rows.end(), y.begin(), y.end());
        }
        CHECK(whole == rows);
      }
}

TEST_CASE("cpu: every e4m3 code is decoded exactly, NaN codes give NaN") {
  Threads threads(1);
  for (cpu::Isa isa : isas()) {
    const cpu::Machine m{threads, cpu::kernels_for(isa)};
    const float one = 1.0f;
    for (int c = 0; c < 256; ++c) {
      // Column `at` of an otherwise zero row; every position within a decoded piece is visited.
      const std::int64_t at = c % 128;
      std::vector<std::uint8_t> codes(256, 0);
      codes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(c);
      const TensorView data{DType::f8_e4m3, {2, 128}, reinterpret_cast<const std::byte*>(codes.data()), 256};
      const TensorView scale{DType::f32, {1, 1}, reinterpret_cast<const std::byte*>(&one), 4};
      const Linear w = make_linear(data, &scale, formats::fp8_f32);
      for (std::int64_t T : {1, 2}) {
        const std::vector<float> x(static_cast<std::size_t>(128 * T), 1.0f);
        const auto y = multiply(m, w, x, {});
        const float expected = e4m3_to_float(static_cast<std::uint8_t>(c));
        CHECK((std::isnan(expected) ? std::isnan(y[0]) : y[0] == expected));
        CHECK(y[1] == 0.0f);
      }
    }
  }
}

TEST_CASE(
    "cpu: a transposed product equals its definition in double and does not depend on the number of rows") {
  for (cpu::Isa isa : isas())
    for (const WeightFormat& f : kFormats) {
      const Stored w(150, 192, f, 19);
      const Linear part = w.linear.rows_slice(20, 150);
      const std::int64_t T = 7;
      const auto x = random_rows(T * part.rows, 23);
      std::vector<float> y(static_cast<std::size_t>(T * part.cols)), single(y.size());
      std::vector<const float*> in;
      std::vector<float*> out;
      std::vector<double> expected;
      for (std::int64_t t = 0; t < T; ++t) {
        in.push_back(x.data() + t * part.rows);
        out.push_back(y.data() + t * part.cols);
        for (std::int64_t c = 0; c < part.cols; ++c) {
          double sum = 0;
          for (std::int64_t r = 0; r < part.rows; ++r)
            sum += static_cast<double>(part.at(r, c)) *
                   static_cast<double>(x[static_cast<std::size_t>(t * part.rows + r)]);
          expected.push_back(sum);
        }
      }
      cpu::transposed_product(cpu::kernels_for(isa), part, in, out);
      CHECK(relative(y, expected) < 1e-6);
      for (std::size_t t = 0; t < in.size(); ++t) {
        float* at = single.data() + static_cast<std::int64_t>(t) * part.cols;
        cpu::transposed_product(cpu::kernels_for(isa), part, std::span(in).subspan(t, 1),
                                std::span<float* const>(&at, 1));
      }
      CHECK(y == single);
    }
}

TEST_CASE("cpu: act_quant gives the worked values of models.md") {
  std::vector<float> x(128, 0.0f);
  x[0] = 448, x[1] = 1;
  CHECK(cpu::quantise_block(x, false) == 1.0f);
  CHECK((x[0] == 448.0f && x[1] == 1.0f));
  std::fill(x.begin(), x.end(), 0.0f);
  x[5] = 1;
  CHECK(cpu::quantise_block(x, false) == doctest::Approx(0.00223214).epsilon(1e-6));
  std::fill(x.begin(), x.end(), 0.0f);
  x[5] = 1;
  CHECK(cpu::quantise_block(x, true) == 0.00390625f);
  CHECK(x[5] == 256.0f);
  std::fill(x.begin(), x.end(), 0.0f);
  CHECK(cpu::quantise_block(x, false) == doctest::Approx(2.2321e-7).epsilon(1e-4));
  // A maximum of 448 times a power of two needs no rounding up.
  x[0] = 896;
  CHECK(cpu::quantise_block(x, true) == 2.0f);
}

TEST_CASE("cpu: silu, exponentials and the joining of tiles are close to their definitions") {
  for (cpu::Isa isa : isas()) {
    const cpu::Kernels& k = cpu::kernels_for(isa);
    std::vector<float> gate, up;
    for (float g = -120; g < 120; g += 0.37f) gate.push_back(g);
    up.assign(gate.size(), 1.5f);
    k.silu_times(gate.data(), up.data(), static_cast<std::int64_t>(gate.size()));
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double g = static_cast<double>(gate[i]), expected = g / (1 + std::exp(-g)) * 1.5;
      CHECK(std::abs(static_cast<double>(up[i]) - expected) <= 4e-7 * std::abs(expected) + 1e-30);
    }
    float nan = std::nanf(""), y = 1;
    k.silu_times(&nan, &y, 1);
    CHECK(std::isnan(y));
    std::vector<float> o(32, 2.0f), add(32, 3.0f);
    k.join(o.data(), 0.5f, add.data(), 2.0f, 32);
    for (float v : o) CHECK(v == 7.0f);
  }
}

TEST_CASE("cpu: an expert's result depends neither on the batch nor on the other experts") {
  const Config c = ragged_config();
  const Model model(c);
  const LayerWeights& w = model.weights.layers[1];
  const std::int64_t T = 21, k = 4, n = c.hidden_size;
  const auto x = random_rows(T * n, 29);
  std::mt19937 rng(31);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < T * k; ++i) ids.push_back(static_cast<std::int32_t>(rng() % 16));
  ids[3] = -1;
  Threads threads(2);
  for (cpu::Isa isa : isas())
    for (ActivationType type : {ActivationType::f32, ActivationType::fp8}) {
      const cpu::Machine m{threads, cpu::kernels_for(isa)};
      std::vector<float> out(static_cast<std::size_t>(T * k * n), -1.0f), alone(static_cast<std::size_t>(n));
      int polls = 0;
      cpu::routed_experts(m, {w.experts, x, ids, static_cast<int>(k), {type}, out.data()}, [&] { ++polls; });
      CHECK(polls > 0);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::span<const float> got =
            std::span(out).subspan(i * static_cast<std::size_t>(n), static_cast<std::size_t>(n));
        if (ids[i] < 0) {
          CHECK(got[0] == -1.0f);
          continue;
        }
        const Expert& e = w.experts.experts[static_cast<std::size_t>(ids[i])];
        const auto row = std::span(x).subspan(i / static_cast<std::size_t>(k) * static_cast<std::size_t>(n),
                                              static_cast<std::size_t>(n));
        cpu::mlp(m, {e.gate, e.up, e.down}, row, {type}, alone.data());
        CHECK(std::equal(got.begin(), got.end(), alone.begin()));
      }
    }
}
