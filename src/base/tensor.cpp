#include "src/base/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <limits>
#include <utility>

namespace fathom {
namespace {

struct DTypeRow {
  DType type;
  std::size_t size;
  std::string_view name;
};

constexpr std::array<DTypeRow, 13> kDTypes{{{DType::f64, 8, "F64"},
                                            {DType::f32, 4, "F32"},
                                            {DType::f16, 2, "F16"},
                                            {DType::bf16, 2, "BF16"},
                                            {DType::f8_e4m3, 1, "F8_E4M3"},
                                            {DType::f8_e5m2, 1, "F8_E5M2"},
                                            {DType::f8_e8m0, 1, "F8_E8M0"},
                                            {DType::i64, 8, "I64"},
                                            {DType::i32, 4, "I32"},
                                            {DType::i16, 2, "I16"},
                                            {DType::i8, 1, "I8"},
                                            {DType::u8, 1, "U8"},
                                            {DType::boolean, 1, "BOOL"}}};

const DTypeRow& row(DType t) { return kDTypes[static_cast<unsigned>(t)]; }

}  // namespace

std::size_t dtype_size(DType t) { return row(t).size; }
std::string_view dtype_name(DType t) { return row(t).name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeRow& r : kDTypes)
    if (r.name == name) return r.type;
  return std::nullopt;
}

std::string describe(const TensorView& t) {
  return fmt::format("({}) {}", fmt::join(t.shape, ", "), dtype_name(t.dtype));
}

float f16_to_float(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t{h & 0x8000u} << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

float e4m3_to_float(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

float e8m0_to_float(std::uint8_t code) {
  if (code == 0xff) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, int{code} - 127);
}

float e2m1_to_float(std::uint8_t code) {
  constexpr std::array<float, 8> magnitude{0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float v = magnitude[code & 7u];
  return (code & 8u) != 0 ? -v : v;
}

float element_as_float(DType t, const std::byte* data, std::size_t i) {
  const std::byte* p = data + i * dtype_size(t);
  switch (t) {
    case DType::f64: return static_cast<float>(load<double>(p));
    case DType::f32: return load<float>(p);
    case DType::f16: return f16_to_float(load<std::uint16_t>(p));
    case DType::bf16: return bf16_to_float(load<std::uint16_t>(p));
    case DType::f8_e4m3: return e4m3_to_float(load<std::uint8_t>(p));
    case DType::f8_e8m0: return e8m0_to_float(load<std::uint8_t>(p));
    default: return std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace fathom
