// One lane: the plain reading of kernels_impl.h, and the twin that the vector code is tested beside.
#include <cmath>

#include "src/base/tensor.h"
#include "src/cpu/kernels_impl.h"

namespace fathom::cpu {
namespace {

struct Scalar {
  using F = float;
  static constexpr int kLanes = 1, kTileX = 3, kHeads = 4;
  static constexpr float kE4m3Unit = 1.0f;
  static F zero() { return 0; }
  static F set1(float v) { return v; }
  static F load(const float* p) { return *p; }
  static void store(float* p, F v) { *p = v; }
  // Without an FMA instruction std::fma is a slow library call, and any order of rounding is within the
  // contract.
  static F fma(F a, F b, F c) { return a * b + c; }
  static void keep(F&) {}
  static F add(F a, F b) { return a + b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F max(F a, F b) { return a > b || a != a ? a : b; }
  static float max_of(F a) { return a; }
  static F exp(F a) { return std::exp(a); }
  static void sum4(F a, F b, F c, F d, float* out) { out[0] = a, out[1] = b, out[2] = c, out[3] = d; }
  template <Decode D>
  static void decode(const std::byte* codes, F* w) {
    for (int i = 0; i < kPiece; ++i) {
      if constexpr (D == Decode::e4m3) w[i] = e4m3_to_float(fathom::load<std::uint8_t>(codes + i));
      if constexpr (D == Decode::bf16) w[i] = bf16_to_float(fathom::load<std::uint16_t>(codes + 2 * i));
      if constexpr (D == Decode::f16) w[i] = f16_to_float(fathom::load<std::uint16_t>(codes + 2 * i));
      if constexpr (D == Decode::f32) w[i] = fathom::load<float>(codes + 4 * i);
    }
  }
};

}  // namespace

const Kernels& scalar_kernels() {
  static constexpr Kernels k = kernels_of<Scalar>(Isa::scalar);
  return k;
}

}  // namespace fathom::cpu
