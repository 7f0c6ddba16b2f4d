// What kernels share: launching, exact decoding of weights, staging of input rows, warp sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/check.h"
#include "cuda/kernels.h"

namespace fathom::cuda {

inline constexpr int kThreads = 256;  // of every kernel that stages input rows: fixes the order of their sums
inline constexpr int kWarps = kThreads / 32;

// -- launching ------------------------------------------------------------------------------------------------------

template <typename Params>
void launch_kernel(const Launch& on, void (*kernel)(Params), dim3 grid, int threads, std::size_t shared,
                   const Params& params) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  config.attrs = &attribute;
  config.numAttrs = on.dependent ? 1 : 0;
  if (shared > 48 * 1024)
    FATHOM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  FATHOM_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

// Lets the next kernel's blocks take up free multiprocessor slots and fetch weights.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// All memory written by earlier kernels of the stream is visible behind this.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// -- decoding -------------------------------------------------------------------------------------------------------

// Two e4m3 codes (low byte first) as exact halves, times 2^-8 where kBias is 2^8: the e4m3 bits fit into a half's
// fields, subnormals included. (NaN codes become +-480 * 2^-8; the loader's weights hold none that matter.)
__device__ __forceinline__ float2 decode_e4m3x2(std::uint32_t two) {
#if __CUDA_ARCH__ >= 890
  std::uint32_t h;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"(static_cast<std::uint16_t>(two)));
  return __half22float2(*reinterpret_cast<const __half2*>(&h));
#else
  const std::uint32_t spread = (two & 0xffu) | ((two & 0xff00u) << 8);
  const std::uint32_t h = ((spread & 0x007f007fu) << 7) | ((spread & 0x00800080u) << 8);
  const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&h));
  return make_float2(f.x * 256.0f, f.y * 256.0f);
#endif
}

// Sixteen bytes of codes: how many values, and what they are.
template <Code C>
struct Vec;
template <>
struct Vec<Code::e4m3> {
  static constexpr int kValues = 16;
  static __device__ __forceinline__ void decode(const uint4& v, float (&w)[16]) {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = decode_e4m3x2(words[i] & 0xffffu), b = decode_e4m3x2(words[i] >> 16);
      w[4 * i] = a.x, w[4 * i + 1] = a.y, w[4 * i + 2] = b.x, w[4 * i + 3] = b.y;
    }
  }
};
template <>
struct Vec<Code::bf16> {
  static constexpr int kValues = 8;
  static __device__ __forceinline__ void decode(const uint4& v, float (&w)[8]) {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = __uint_as_float(words[i] << 16);
      w[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};
template <>
struct Vec<Code::f32> {
  static constexpr int kValues = 4;
  static __device__ __forceinline__ void decode(const uint4& v, float (&w)[4]) {
    w[0] = __uint_as_float(v.x), w[1] = __uint_as_float(v.y);
    w[2] = __uint_as_float(v.z), w[3] = __uint_as_float(v.w);
  }
};

// Weights are read once per token: they bypass L1.
__device__ __forceinline__ uint4 load_weights(const std::byte* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// -- sums -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, offset));
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, offset));
  return v;
}
// Sum over the block's kThreads threads; every thread receives it. `scratch`: kWarps floats. Two barriers.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  __syncthreads();  // scratch may still be read from an earlier sum
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum = __fadd_rn(sum, scratch[i]);
  return sum;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// -- rounding of activations ------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// Nearest e4m3 value, ties to even, saturating at 448.
__device__ __forceinline__ float to_e4m3(float x) {
  const float a = fminf(fabsf(x), 448.0f);
  // Quantum: 2^(exponent - 3), exponent at least -6.
  const int exponent = max(static_cast<int>(__float_as_uint(a) >> 23) - 127, -6);
  const float quantum = __uint_as_float(static_cast<std::uint32_t>(exponent - 3 + 127) << 23);
  const float inverse = __uint_as_float(static_cast<std::uint32_t>(127 + 3 - exponent) << 23);
  return copysignf(fminf(rintf(a * inverse) * quantum, 448.0f), x);
}

// Scale of a group of 128 activations whose largest magnitude is `amax`.
__device__ __forceinline__ float activation_scale(float amax, bool ue8m0) {
  const float s = __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
  if (!ue8m0) return s;
  // Up to a power of two: any mantissa bit set carries into the exponent.
  return __uint_as_float((__float_as_uint(s) + 0x7fffffu) & 0x7f800000u);
}

// Four neighbouring columns of one input row, normed: 0 beyond the row. `inverse`: 1 / rms, or 1 without norm.
__device__ __forceinline__ float4 load_input(const float* x, const float* weight, float inverse, int column, int cols) {
  float4 v = make_float4(0, 0, 0, 0);
  float* f = &v.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i >= cols) continue;
    const float a = x[column + i];
    f[i] = weight == nullptr ? a : __fmul_rn(__fmul_rn(a, inverse), weight[column + i]);
  }
  return v;
}

// 1 / sqrt(mean(x^2) + eps) of a row, by the whole block.
__device__ __forceinline__ float inverse_rms(const float* x, int cols, float eps, float* scratch) {
  float sum = 0;
  for (int c = threadIdx.x; c < cols; c += kThreads) sum = __fmaf_rn(x[c], x[c], sum);
  sum = block_sum(sum, scratch);
  return __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(cols)), eps));
}

// Rounds four neighbouring columns; the warp holds the 128 columns of one group, four per lane. For fp8 the values
// are codes (unscaled) and the group's scale is returned; otherwise 1.
__device__ __forceinline__ float round_group(float4& v, Round round) {
  if (round == Round::none) return 1.0f;
  if (round == Round::bf16) {
    v = make_float4(to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w));
    return 1.0f;
  }
  const float amax = warp_max(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  const float s = activation_scale(amax, round == Round::fp8_ue8m0);
  v = make_float4(to_e4m3(__fdiv_rn(v.x, s)), to_e4m3(__fdiv_rn(v.y, s)), to_e4m3(__fdiv_rn(v.z, s)),
                  to_e4m3(__fdiv_rn(v.w, s)));
  return s;
}

// Shared-memory order of an input row for weights of V values per 16 bytes: a warp reads 32 V columns a step, lane l
// columns [l V, (l + 1) V), four at a time, so chunk j of all lanes lies together: [step][j][lane][4]. Free of bank
// conflicts. Index of `column` (a multiple of four):
template <int V>
__device__ __forceinline__ int lane_order(int column) {
  const int step = column / (32 * V), in_step = column % (32 * V);
  return step * 32 * V + ((in_step % V / 4) * 32 + in_step / V) * 4;
}
// Columns of a staged row: whole steps and whole scale groups.
template <int V>
__host__ __device__ constexpr int staged_columns(int cols) {
  return (cols + 32 * V - 1) / (32 * V) * (32 * V);
}

// Stages one row into shared memory in lane_order, normed and rounded; columns beyond the row are zero. For fp8 the
// dequantised values (code times scale) are staged. By the whole block; the caller synchronises.
template <int V>
__device__ __forceinline__ void stage_row(float* staged, const Input& in, std::int64_t row, float* scratch) {
  const float* x = in.x + row * in.stride;
  const float inverse = in.norm_weight == nullptr ? 1.0f : inverse_rms(x, in.cols, in.eps, scratch);
  const int lane = threadIdx.x % 32;
  for (int group = threadIdx.x / 32; group < staged_columns<V>(in.cols) / 128; group += kWarps) {
    const int column = group * 128 + lane * 4;
    float4 v = load_input(x, in.norm_weight, inverse, column, in.cols);
    const float s = round_group(v, in.round);
    if (s != 1.0f) v = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
    *reinterpret_cast<float4*>(staged + lane_order<V>(column)) = v;
  }
}

// One lane's part of a step: V weights times V staged inputs, in column order. `staged` points at the step.
template <int V>
__device__ __forceinline__ float dot_step(const float (&w)[V], const float* staged, int lane) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < V / 4; ++j) {
    const float4 x = *reinterpret_cast<const float4*>(staged + (j * 32 + lane) * 4);
    sum = __fmaf_rn(w[4 * j], x.x, sum);
    sum = __fmaf_rn(w[4 * j + 1], x.y, sum);
    sum = __fmaf_rn(w[4 * j + 2], x.z, sum);
    sum = __fmaf_rn(w[4 * j + 3], x.w, sum);
  }
  return sum;
}

// Scale of the block that holds (row, column) of `m`; 1 without scales.
__device__ __forceinline__ float block_scale(const float* scale, int scale_cols, int row, int column) {
  return scale == nullptr ? 1.0f : __ldg(scale + static_cast<std::int64_t>(row / 128) * scale_cols + column / 128);
}

}  // namespace fathom::cuda
