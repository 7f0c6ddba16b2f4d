// AVX-512 with byte permutes (Ice Lake and later): e4m3 is looked up. Every e4m3 value is a bfloat16, so two
// tables of 128 bytes hold the upper and lower byte of each magnitude, NaN included; the sign is ORed in.
#include "src/cpu/linear_avx512.h"

namespace fathom::cpu {
namespace {

struct Tables {
  alignas(64) unsigned char high[128];
  alignas(64) unsigned char low[128];
  // Which code each byte takes, so that interleaving and splitting leave the floats in order.
  alignas(64) unsigned char order[64];
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
  // Byte 2 d (+ 8, + 1) of a 16-byte quarter q becomes float 4 q + d of vector 0 (2, 1).
  for (unsigned q = 0; q < 4; ++q)
    for (unsigned d = 0; d < 4; ++d)
      for (unsigned v = 0; v < 4; ++v)
        t.order[16 * q + 2 * d + v % 2 + v / 2 * 8] = static_cast<unsigned char>(16 * v + 4 * q + d);
  return t;
}

constexpr Tables kTables = make_tables();

struct Avx512Vbmi : Lanes16<Avx512Vbmi> {
  static constexpr float kE4m3Unit = 1.0f;

  static FATHOM_INLINE void decode_e4m3(const std::byte* codes, F* w) {
    const __m512i c = _mm512_permutexvar_epi8(_mm512_load_si512(kTables.order), _mm512_loadu_si512(codes));
    const __m512i magnitude =
        _mm512_permutex2var_epi8(_mm512_load_si512(kTables.high), c, _mm512_load_si512(kTables.high + 64));
    // magnitude | (code & 0x80)
    const __m512i high =
        _mm512_ternarylogic_epi32(magnitude, c, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(kTables.low), c, _mm512_load_si512(kTables.low + 64));
    // Pairs of bfloat16: the lower one moves up, the upper one stands where a float has it.
    const __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(first, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(first, upper));
    w[2] = _mm512_castsi512_ps(_mm512_slli_epi32(second, 16));
    w[3] = _mm512_castsi512_ps(_mm512_and_si512(second, upper));
  }
};

}  // namespace

const Kernels& avx512vbmi_kernels() {
  static constexpr Kernels k = kernels_of<Avx512Vbmi>(Isa::avx512vbmi);
  return k;
}

}  // namespace fathom::cpu
