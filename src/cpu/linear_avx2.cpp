// AVX2 with FMA and F16C: e4m3 through half precision.
#include <immintrin.h>

#include "src/cpu/kernels_impl.h"

namespace fathom::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  // 16 registers: 4 x 2 partial sums, four weights and one x; the sums by chunk are spilled.
  static constexpr int kLanes = 8, kTileX = 2, kHeads = 2;
  static constexpr float kE4m3Unit = 256.0f;  // as in linear_avx512.cpp
  static FATHOM_INLINE F zero() { return _mm256_setzero_ps(); }
  static FATHOM_INLINE F set1(float v) { return _mm256_set1_ps(v); }
  static FATHOM_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static FATHOM_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static FATHOM_INLINE void keep(F& v) { asm("" : "+x"(v)); }
  static FATHOM_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static FATHOM_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static FATHOM_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static FATHOM_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static FATHOM_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static FATHOM_INLINE float max_of(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }

  static FATHOM_INLINE void sum4(F a, F b, F c, F d, float* out) {
    const F ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const F cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const F s =
        _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd))),
                      _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd))));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
  }

  // As in linear_avx512.h; below -87 the result is 0, above 88.3 it is clamped there: 2^n is built from
  // exponent bits.
  static FATHOM_INLINE F exp(F x) {
    const F tiny = _mm256_cmp_ps(x, set1(-87.0f), _CMP_LT_OQ);
    x = _mm256_min_ps(set1(88.3f), _mm256_max_ps(set1(-87.0f), x));
    const F n = _mm256_round_ps(mul(x, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    F r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.0f / 720);
    p = fma(p, r, set1(1.0f / 120));
    p = fma(p, r, set1(1.0f / 24));
    p = fma(p, r, set1(1.0f / 6));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r, set1(1.0f));
    p = fma(p, r, set1(1.0f));
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(tiny, mul(p, _mm256_castsi256_ps(power)));
  }

  template <Decode D>
  static FATHOM_INLINE void decode(const std::byte* codes, F* w) {
    if constexpr (D == Decode::e4m3) {
      decode_e4m3(codes, w);
      decode_e4m3(codes + 32, w + 4);
      return;
    }
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      if constexpr (D == Decode::bf16)
        w[v] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(codes + 16 * v)), 16));
      if constexpr (D == Decode::f16) w[v] = _mm256_cvtph_ps(load128(codes + 16 * v));
      if constexpr (D == Decode::f32) w[v] = _mm256_loadu_ps(reinterpret_cast<const float*>(codes + 32 * v));
    }
  }

  static FATHOM_INLINE __m128i load128(const std::byte* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }

  static FATHOM_INLINE void decode_e4m3(const std::byte* codes, F* w) {
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i magnitude = _mm256_set1_epi8(0x7f);
    const __m256i nan = _mm256_cmpeq_epi8(_mm256_and_si256(all, magnitude), magnitude);
    halves(_mm256_castsi256_si128(all), w);
    halves(_mm256_extracti128_si256(all, 1), w + 2);
    if (__builtin_expect(!_mm256_testz_si256(nan, nan), 0)) {
      const F value = set1(__builtin_nanf(""));
      w[0] = _mm256_blendv_ps(w[0], value, wide(_mm256_castsi256_si128(nan)));
      w[1] = _mm256_blendv_ps(w[1], value, wide(_mm_srli_si128(_mm256_castsi256_si128(nan), 8)));
      w[2] = _mm256_blendv_ps(w[2], value, wide(_mm256_extracti128_si256(nan, 1)));
      w[3] = _mm256_blendv_ps(w[3], value, wide(_mm_srli_si128(_mm256_extracti128_si256(nan, 1), 8)));
    }
  }

  static FATHOM_INLINE F wide(__m128i bytes) { return _mm256_castsi256_ps(_mm256_cvtepi8_epi32(bytes)); }

  static FATHOM_INLINE void halves(__m128i codes, F* w) {
    const __m256i h = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7),
                                       _mm256_set1_epi16(static_cast<short>(0xbf80)));
    w[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    w[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
  }
};

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels k = kernels_of<Avx2>(Isa::avx2);
  return k;
}

}  // namespace fathom::cpu
