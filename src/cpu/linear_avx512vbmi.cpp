// AVX-512 with byte permutes (Ice Lake and later): e4m3 is looked up. Every e4m3 value is a bfloat16, so two
// tables of 128 bytes hold the upper and lower byte of each magnitude, NaN included; the sign is ORed in.
#include "src/cpu/linear_avx512.h"

namespace fathom::cpu {
namespace {

struct Tables {
  alignas(64) unsigned char high[128];
  alignas(64) unsigned char low[128];
  // Byte of the pair (low, high) that lands in each byte of float lane i of vector v: bytes 2 and 3.
  alignas(64) unsigned char spread[4][64];
};

// e4m3 magnitude as the bits of a bfloat16.
constexpr unsigned bf16_of(unsigned code) {
  const unsigned exponent = code >> 3, mantissa = code & 7;
  if (code == 0x7f) return 0x7fc0;
  if (exponent != 0) return (exponent - 7 + 127) << 7 | mantissa << 4;
  if (mantissa == 0) return 0;
  unsigned shift = 0;  // mantissa * 2^-9 = 1.f * 2^(-7 - shift)
  while ((mantissa << shift & 4) == 0) ++shift;
  return (127 - 7 - shift) << 7 | (mantissa << shift & 3) << 5;
}

constexpr Tables make_tables() {
  Tables t{};
  for (unsigned c = 0; c < 128; ++c) {
    t.high[c] = static_cast<unsigned char>(bf16_of(c) >> 8);
    t.low[c] = static_cast<unsigned char>(bf16_of(c));
  }
  for (unsigned v = 0; v < 4; ++v)
    for (unsigned i = 0; i < 16; ++i) {
      t.spread[v][4 * i + 2] = static_cast<unsigned char>(16 * v + i);
      t.spread[v][4 * i + 3] = static_cast<unsigned char>(64 + 16 * v + i);
    }
  return t;
}

constexpr Tables kTables = make_tables();

struct Avx512Vbmi : Lanes16 {
  static constexpr float kE4m3Unit = 1.0f;

  template <Decode D>
  static FATHOM_INLINE void decode(const std::byte* codes, F* w) {
    if constexpr (D == Decode::e4m3) decode_e4m3(codes, w);
    if constexpr (D == Decode::bf16) decode_bf16(codes, w);
    if constexpr (D == Decode::f16) decode_f16(codes, w);
    if constexpr (D == Decode::f32) decode_f32(codes, w);
  }

  static FATHOM_INLINE void decode_e4m3(const std::byte* codes, F* w) {
    const __m512i c = _mm512_loadu_si512(codes);
    const __m512i magnitude =
        _mm512_permutex2var_epi8(_mm512_load_si512(kTables.high), c, _mm512_load_si512(kTables.high + 64));
    // magnitude | (code & 0x80)
    const __m512i high =
        _mm512_ternarylogic_epi32(magnitude, c, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(kTables.low), c, _mm512_load_si512(kTables.low + 64));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      w[v] = _mm512_castsi512_ps(_mm512_maskz_permutex2var_epi8(0xccccccccccccccccull, low,
                                                                _mm512_load_si512(kTables.spread[v]), high));
  }
};

}  // namespace

const Kernels& avx512vbmi_kernels() {
  static constexpr Kernels k = kernels_of<Avx512Vbmi>(Isa::avx512vbmi);
  return k;
}

}  // namespace fathom::cpu
