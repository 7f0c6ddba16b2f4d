#include <doctest/doctest.h>

#include <vector>

#include "src/model/linear.h"

using namespace fathom;

TEST_CASE("a linear slice keeps the whole tensor's scale grid") {
  // 160 x 192 FP8: 2 x 2 scale blocks, both ragged. Codes chosen so that every element is distinct per block.
  const std::int64_t rows = 160, cols = 192;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 37 % 0x7f);
  const std::vector<float> scales{1.0f, 2.0f, 3.0f, 4.0f};
  const TensorView w{DType::f8_e4m3, {rows, cols}, reinterpret_cast<const std::byte*>(codes.data()), codes.size()};
  const TensorView s{DType::f32, {2, 2}, reinterpret_cast<const std::byte*>(scales.data()), 16};
  const Linear whole = make_linear(w, &s, formats::fp8_f32);
  CHECK(whole.at(0, 1) == e4m3_to_float(37));
  CHECK(whole.scale_at(127, 127) == 1.0f);
  CHECK(whole.scale_at(127, 128) == 2.0f);
  CHECK(whole.scale_at(128, 0) == 3.0f);
  CHECK(whole.bytes() == rows * cols + 16);
  const Linear part = whole.rows_slice(100, 150).cols_slice(70, 190);
  CHECK(part.rows == 50);
  CHECK(part.cols == 120);
  for (std::int64_t r : {0, 27, 28, 49})
    for (std::int64_t c : {0, 57, 58, 119}) CHECK(part.at(r, c) == whole.at(r + 100, c + 70));
}

TEST_CASE("a 4-bit format is only another value of WeightFormat") {
  // models.md section 11: word 0x76543210 holds nibbles 0..7, values -8..-1; byte 0x2A is -1 then +1 in MXFP4.
  std::vector<std::uint8_t> packed(32, 0);
  packed[0] = 0x10, packed[1] = 0x32, packed[2] = 0x54, packed[3] = 0x76;
  const std::vector<std::uint16_t> scales{0x4000, 0x3f80};  // BF16 2, 1
  const TensorView w{DType::u8, {1, 32}, reinterpret_cast<const std::byte*>(packed.data()), 32};
  const TensorView s{DType::bf16, {1, 2}, reinterpret_cast<const std::byte*>(scales.data()), 4};
  const Linear l = make_linear(w, &s, formats::int4_bf16);
  CHECK(l.cols == 64);
  for (int c = 0; c < 8; ++c) CHECK(l.at(0, c) == 2.0f * static_cast<float>(c - 8));
  CHECK(l.at(0, 32) == -8.0f);
  packed[0] = 0x2A;
  const std::vector<std::uint8_t> exponents{128, 126};
  const TensorView e{DType::f8_e8m0, {1, 2}, reinterpret_cast<const std::byte*>(exponents.data()), 2};
  const Linear m = make_linear(w, &e, formats::mxfp4);
  CHECK(m.at(0, 0) == -2.0f);
  CHECK(m.at(0, 1) == 2.0f);
  CHECK(m.cols_slice(32, 64).scale_at(0, 0) == 0.5f);
}
