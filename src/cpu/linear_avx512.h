// Sixteen lanes, for linear_avx512.cpp and linear_avx512vbmi.cpp (see kernels_impl.h for why all is unnamed).
#pragma once

// GCC 12 takes the deliberately undefined operand inside its own intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include "src/cpu/kernels_impl.h"

namespace fathom::cpu {
namespace {

// `Codes::decode_e4m3(codes, w)` makes 64 codes four vectors, times 1 / Codes::kE4m3Unit.
template <typename Codes>
struct Lanes16 {
  using F = __m512;
  static constexpr int kLanes = 16, kTileX = 3, kHeads = 4;
  static FATHOM_INLINE F zero() { return _mm512_setzero_ps(); }
  static FATHOM_INLINE F set1(float v) { return _mm512_set1_ps(v); }
  static FATHOM_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static FATHOM_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static FATHOM_INLINE void keep(F& v) { asm("" : "+v"(v)); }
  static FATHOM_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static FATHOM_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static FATHOM_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static FATHOM_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static FATHOM_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static FATHOM_INLINE float max_of(F a) { return _mm512_reduce_max_ps(a); }

  // Within each 128-bit quarter (0 + 2) + (1 + 3), then quarters (0 + 2) + (1 + 3), for all four at once.
  static FATHOM_INLINE void sum4(F a, F b, F c, F d, float* out) {
    const F ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const F cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const F s =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                      _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
  }

  // 2^n e^r with |r| <= ln 2 / 2: a polynomial of degree 6, within 2 ulp. NaN stays NaN (min and max return
  // their second operand then); arguments below -104 give 0 and above 89 infinity, through scalef.
  static FATHOM_INLINE F exp(F x) {
    x = _mm512_min_ps(set1(90.0f), _mm512_max_ps(set1(-110.0f), x));
    const F n =
        _mm512_roundscale_ps(mul(x, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    F r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.0f / 720);
    p = fma(p, r, set1(1.0f / 120));
    p = fma(p, r, set1(1.0f / 24));
    p = fma(p, r, set1(1.0f / 6));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r, set1(1.0f));
    p = fma(p, r, set1(1.0f));
    return _mm512_scalef_ps(p, n);
  }

  template <Decode D>
  static FATHOM_INLINE void decode(const std::byte* codes, F* w) {
    if constexpr (D == Decode::e4m3) {
      Codes::decode_e4m3(codes, w);
      return;
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      if constexpr (D == Decode::bf16)
        w[v] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(codes + 32 * v)), 16));
      if constexpr (D == Decode::f16) w[v] = _mm512_cvtph_ps(load256(codes + 32 * v));
      if constexpr (D == Decode::f32) w[v] = _mm512_loadu_ps(reinterpret_cast<const float*>(codes + 64 * v));
    }
  }

  static FATHOM_INLINE __m256i load256(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};

}  // namespace
}  // namespace fathom::cpu
