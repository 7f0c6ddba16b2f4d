// Element types, their exact decoding to float, and an untyped view of a stored tensor.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

enum class DType : std::uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u8, boolean };

// Bytes of one element.
std::size_t dtype_size(DType t);
// The safetensors spelling: "F32", "BF16", "F8_E4M3" ...
std::string_view dtype_name(DType t);
// Inverse of dtype_name; nothing for a type fathom does not know (U16, F4, ...).
std::optional<DType> dtype_from_name(std::string_view name);

// A tensor where it lies: row-major, little-endian, at any byte alignment (read elements with load<T>).
struct TensorView {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

// "(256, 7168) BF16"
std::string describe(const TensorView& t);

// Unaligned load of a trivially copyable T.
template <typename T>
inline T load(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// -- exact decodings ------------------------------------------------------------------------------------------

inline float bf16_to_float(std::uint16_t h) { return std::bit_cast<float>(std::uint32_t{h} << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline std::uint16_t float_to_bf16(float f) {
  const auto u = std::bit_cast<std::uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float round_to_bf16(float f) { return bf16_to_float(float_to_bf16(f)); }

float f16_to_float(std::uint16_t h);

// e4m3fn: sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinity, NaN = 0x7f and 0xff, max 448, min 2^-9.
float e4m3_to_float(std::uint8_t code);
// Round to nearest even, saturating at +-448; NaN gives 0x7f.
inline std::uint8_t float_to_e4m3(float f) {
  const auto u = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  // Normal: the mantissa rounded to 3 bits, a carry going into the exponent; bias from 127 to 7.
  const std::uint32_t normal = ((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - (120u << 3);
  // Below 2^-6 codes count multiples of 2^-9: the last bit of a float between 2^14 and 2^15.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + 0x1p14f) - 0x46800000u;
  const std::uint32_t code = a < 0x3c800000u ? small : normal < 0x7eu ? normal : 0x7eu;
  return a > 0x7f800000u ? std::uint8_t{0x7f} : static_cast<std::uint8_t>(sign | code);
}

// e8m0: 2^(code - 127); 0xff is NaN.
float e8m0_to_float(std::uint8_t code);

// e2m1 (FP4): sign, 2 exponent bits, 1 mantissa bit: 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives. code < 16.
float e2m1_to_float(std::uint8_t code);

// Element i of a tensor of a floating type (F64 is narrowed), exactly decoded. Precondition: i is in range.
float element_as_float(DType t, const std::byte* data, std::size_t i);

}  // namespace fathom
