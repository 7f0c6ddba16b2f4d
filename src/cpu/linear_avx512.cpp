// AVX-512 without byte permutes (Skylake, Cascade Lake): e4m3 through half precision.
#include "src/cpu/linear_avx512.h"

namespace fathom::cpu {
namespace {

struct Avx512 : Lanes16<Avx512> {
  // An e4m3 code moved into a half's exponent and mantissa is the value times 2^-8, exactly, subnormals too.
  static constexpr float kE4m3Unit = 256.0f;

  static FATHOM_INLINE void decode_e4m3(const std::byte* codes, F* w) {
    const __m512i all = _mm512_loadu_si512(codes);
    const __m512i magnitude = _mm512_set1_epi8(0x7f);
    const __mmask64 nan = _mm512_cmpeq_epi8_mask(_mm512_and_si512(all, magnitude), magnitude);
    halves(_mm512_castsi512_si256(all), w);
    halves(_mm512_extracti64x4_epi64(all, 1), w + 2);
    if (__builtin_expect(nan != 0, 0)) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v)
        w[v] = _mm512_mask_mov_ps(w[v], static_cast<__mmask16>(nan >> (16 * v)), set1(__builtin_nanf("")));
    }
  }

  // Sign-extended and shifted by 7 the sign fills bits 15 and 14; bit 14, the exponent's top, is then
  // cleared.
  static FATHOM_INLINE void halves(__m256i codes, F* w) {
    const __m512i h = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7),
                                       _mm512_set1_epi16(static_cast<short>(0xbf80)));
    w[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
    w[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
  }
};

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels k = kernels_of<Avx512>(Isa::avx512);
  return k;
}

}  // namespace fathom::cpu
