// What kernels share: launching, exact decoding of weights, staging of input rows, warp sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/check.h"
#include "cuda/kernels.h"

namespace fathom::cuda {

inline constexpr int kThreads = 256;  // of every kernel that stages input rows: fixes the order of their sums
inline constexpr int kWarps = kThreads / 32;

// -- launching ----------------------------------------------------------------------------------------------

// `cluster`: blocks of a thread block cluster along x; 1: none.
template <typename Params>
void launch_kernel(const Launch& on, void (*kernel)(Params), dim3 grid, int threads, std::size_t shared,
                   const Params& params, int cluster = 1) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (on.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  // Beside a kernel's static shared memory (below 16 KB) more than 48 KB must be asked for.
  if (shared > 32 * 1024)
    FATHOM_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  // One division of L1 and shared memory for all kernels: a change would drain the multiprocessor between two
  // kernels.
  FATHOM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
  FATHOM_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

// Lets the next kernel's blocks take up free multiprocessor slots and fetch weights.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Before the wait, of an address that is read or written behind it: brings the page's translation to this
// multiprocessor (the first touch of a page costs most of a microsecond) and the line into L2.
__device__ __forceinline__ void warm(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory");
}
// All memory written by earlier kernels of the stream is visible behind this.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// -- decoding -----------------------------------------------------------------------------------------------

// Two e4m3 codes (low byte first) as exact halves, times 2^-8 where kBias is 2^8: the e4m3 bits fit into a
// half's fields, subnormals included. (NaN codes become +-480 * 2^-8; the loader's weights hold none that
// matter.)
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
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

// The same, or zeros where `valid` is false; nothing is read then. Stays where it is written: the compiler would delay
// loads until they are needed.
__device__ __forceinline__ uint4 load_weights(const std::byte* p, bool valid) {
  uint4 v;
  asm volatile("{\n .reg .pred q;\n setp.ne.b32 q, %5, 0;\n mov.b32 %0, 0;\n mov.b32 %1, 0;\n mov.b32 %2, 0;\n"
      " mov.b32 %3, 0;\n @q ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "l"(p), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}
__device__ __forceinline__ float load_scale(const float* p, bool valid) {
  float v;
  asm volatile("{\n .reg .pred q;\n setp.ne.b32 q, %2, 0;\n mov.b32 %0, 0;\n @q ld.global.f32 %0, [%1];\n}"
      : "=&f"(v)
      : "l"(p), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}

// -- sums ---------------------------------------------------------------------------------------------------

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

// -- rounding of activations --------------------------------------------------------------------------------

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

// A pair turned by (cosine, sine).
__device__ __forceinline__ float2 rotated(float2 x, float2 by) {
  return make_float2(__fsub_rn(__fmul_rn(x.x, by.x), __fmul_rn(x.y, by.y)),
                     __fadd_rn(__fmul_rn(x.x, by.y), __fmul_rn(x.y, by.x)));
}

// Two F16 values; what exceeds the largest is clamped, NaN stays NaN.
__device__ __forceinline__ std::uint32_t pack_f16(float a, float b) {
  constexpr float kMost = 65504.0f;
  a = a > kMost ? kMost : a < -kMost ? -kMost : a;
  b = b > kMost ? kMost : b < -kMost ? -kMost : b;
  const __half2 h = __floats2half2_rn(a, b);
  return *reinterpret_cast<const std::uint32_t*>(&h);
}

// Four neighbouring columns of a row, zero beyond its end. Rows are 16-byte aligned and a multiple of four
// long (CudaForward::check_shapes). Small code matters here: what a kernel runs once per launch costs
// instruction fetches.
__device__ __forceinline__ float4 load_four(const float* x, int column, int cols) {
  return column < cols ? *reinterpret_cast<const float4*>(x + column) : make_float4(0, 0, 0, 0);
}

__device__ __forceinline__ float4 apply_norm(const float4& v, float inverse, const float4& weight) {
  return make_float4(
      __fmul_rn(__fmul_rn(v.x, inverse), weight.x), __fmul_rn(__fmul_rn(v.y, inverse), weight.y),
      __fmul_rn(__fmul_rn(v.z, inverse), weight.z), __fmul_rn(__fmul_rn(v.w, inverse), weight.w));
}

// 1 / sqrt(mean(x^2) + eps) of a row, by the whole block.
__device__ __forceinline__ float inverse_rms(const float* x, int cols, float eps, float* scratch) {
  float sum = 0;
  for (int c = threadIdx.x; c < cols; c += kThreads) sum = __fmaf_rn(x[c], x[c], sum);
  sum = block_sum(sum, scratch);
  return __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(cols)), eps));
}

// The e4m3 values of v / s.
__device__ __forceinline__ float4 quantise(float4 v, float s) {
  return make_float4(to_e4m3(__fdiv_rn(v.x, s)), to_e4m3(__fdiv_rn(v.y, s)), to_e4m3(__fdiv_rn(v.z, s)),
                     to_e4m3(__fdiv_rn(v.w, s)));
}

// Rounds four neighbouring columns; the warp holds the 128 columns of one group, four per lane. For fp8 the
// values are codes (unscaled) and the group's scale is returned; otherwise 1.
__device__ __forceinline__ float round_group(float4& v, Round round) {
  if (round == Round::none) return 1.0f;
  if (round == Round::bf16) {
    v = make_float4(to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w));
    return 1.0f;
  }
  const float amax = warp_max(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  const float s = activation_scale(amax, round == Round::fp8_ue8m0);
  v = quantise(v, s);
  return s;
}

// Shared-memory order of an input row for weights of V values per 16 bytes: a warp reads 32 V columns a step,
// lane l columns [l V, (l + 1) V), four at a time, so chunk j of all lanes lies together: [step][j][lane][4].
// Free of bank conflicts. Index of `column` (a multiple of four):
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

// Rounds a group and puts it into shared memory. For fp8 the dequantised values (code times scale) are
// staged.
template <int V>
__device__ __forceinline__ void stage_group(float* staged, float4 v, int column, Round round) {
  const float s = round_group(v, round);
  if (s != 1.0f) v = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
  *reinterpret_cast<float4*>(staged + lane_order<V>(column)) = v;
}

// Stages rows without norm. Item i of `items` is one group of 128 columns: locate(i) says of which row. By
// the whole block; the caller synchronises. Eight loads of a warp are in flight together, hence no branch around one.
struct GroupAt {
  const float* x;  // the row
  int column, cols;
  float* staged;  // where the row is staged
};
template <int V, typename Locate>
__device__ __forceinline__ void stage_plain(int items, Round round, Locate&& locate) {
  constexpr int kHeld = 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int first = warp; first < items; first += kWarps * kHeld) {
    float4 held[kHeld];
    float* to[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const GroupAt at = locate(min(first + i * kWarps, items - 1));
      held[i] = load_four(at.x, at.column + lane * 4, at.cols);
      to[i] = at.staged + lane_order<V>(at.column + lane * 4);
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      float4& v = held[i];
      if (round == Round::bf16) v = make_float4(to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w));
      if (first + i * kWarps < items) *reinterpret_cast<float4*>(to[i]) = v;
    }
  }
  if (round < Round::fp8) return;
#pragma unroll 1
  for (int item = warp; item < items; item += kWarps) {
    const GroupAt at = locate(item);
    auto* own = reinterpret_cast<float4*>(at.staged + lane_order<V>(at.column + lane * 4));
    stage_group<V>(at.staged, *own, at.column + lane * 4, round);
  }
}

// Floats of shared memory behind which TT rows of an input are staged: the rows, and a norm's weights.
template <int V>
__host__ __device__ constexpr int staging_floats(const Input& in, int rows) {
  return staged_columns<V>(in.cols) * (rows + (in.norm_weight == nullptr ? 0 : 1));
}

// Before the wait: a norm's weights, so that they cost no trip to memory behind it, and the rows' addresses.
// Positions and row indices are uploaded before the step's first kernel.
template <int V, int TT>
struct Staging {
  float* staged;           // (TT, columns)
  const float* row[TT];    // in global memory
  int columns, groups;
  __device__ __forceinline__ Staging(float* memory, const Input& in, int first_row, int last_row) {
    staged = memory;
    columns = staged_columns<V>(in.cols), groups = columns / 128;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int t = 0; t < TT; ++t) {
      const int r = min(first_row + t, last_row);
      row[t] = in.x + (in.row_index == nullptr ? r : in.row_index[r]) * in.stride;
    }
    // One line for each warp is enough for the page.
    if (lane == 0) warm(row[0] + min(warp * 128, in.cols - 1));
    if (in.norm_weight == nullptr) return;
#pragma unroll 4
    for (int g = warp; g < groups; g += kWarps) {
      const int column = g * 128 + lane * 4;
      *reinterpret_cast<float4*>(staged + TT * columns + lane_order<V>(column)) =
          load_four(in.norm_weight, column, in.cols);
    }
  }
  // Behind the wait: the rows, normed if asked for, and rounded. Warp w stages groups w, w + kWarps, ... of 128 columns
  // of every row; a row's sum of squares is taken per lane over its groups, then over lanes, then over warps, whatever
  // the number of rows. Eight groups of a warp are in flight: what a long row costs is the number of trips to L2.
  // `sums`: TT * kWarps floats. By the whole block; the caller synchronises.
  __device__ __forceinline__ void finish(const Input& in, float* sums) const {
    constexpr int kHeld = 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool normed = in.norm_weight != nullptr, later = normed || in.round >= Round::fp8;
    float square[TT] = {};
#pragma unroll 1
    for (int first = 0; warp + first / TT * kWarps < groups; first += kHeld) {
      float4 held[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        held[i] = load_four(row[i % TT], (warp + (first + i) / TT * kWarps) * 128 + lane * 4, in.cols);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        float4 v = held[i];
        const int group = warp + (first + i) / TT * kWarps;
        float& sum = square[i % TT];
        sum = __fmaf_rn(v.w, v.w, __fmaf_rn(v.z, v.z, __fmaf_rn(v.y, v.y, __fmaf_rn(v.x, v.x, sum))));
        if (!later && in.round == Round::bf16) v = make_float4(to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w));
        if (group < groups)
          *reinterpret_cast<float4*>(staged + i % TT * columns + lane_order<V>(group * 128 + lane * 4)) = v;
      }
    }
    if (!later) return;
    float inverse[TT];
    if (normed) {
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        const float sum = warp_sum(square[t]);
        if (lane == 0) sums[t * kWarps + warp] = sum;
      }
      __syncthreads();  // sums of all warps are visible
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum = __fadd_rn(sum, sums[t * kWarps + w]);
        inverse[t] = __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(in.cols)), in.eps));
      }
    }
#pragma unroll
    for (int t = 0; t < TT; ++t)
#pragma unroll 2
      for (int g = warp; g < groups; g += kWarps) {
        float* at = staged + t * columns + lane_order<V>(g * 128 + lane * 4);
        float4 v = *reinterpret_cast<const float4*>(at);  // as this thread wrote it
        if (normed)
          v = apply_norm(v, inverse[t], *reinterpret_cast<const float4*>(at + (TT - t) * columns));
        const float s = round_group(v, in.round);
        if (s != 1.0f) v = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
        *reinterpret_cast<float4*>(at) = v;
      }
  }
};

// One lane's part of a step: V weights times V staged inputs, even and odd columns apart. `staged` points at
// the step.
template <int V>
__device__ __forceinline__ float dot_step(const float (&w)[V], const float* staged, int lane) {
  float even = 0, odd = 0;  // two chains
#pragma unroll
  for (int j = 0; j < V / 4; ++j) {
    const float4 x = *reinterpret_cast<const float4*>(staged + (j * 32 + lane) * 4);
    even = __fmaf_rn(w[4 * j], x.x, even);
    odd = __fmaf_rn(w[4 * j + 1], x.y, odd);
    even = __fmaf_rn(w[4 * j + 2], x.z, even);
    odd = __fmaf_rn(w[4 * j + 3], x.w, odd);
  }
  return __fadd_rn(even, odd);
}

// Scale of the block that holds (row, column) of `m`; 1 without scales.
__device__ __forceinline__ float block_scale(const float* scale, int scale_cols, int row, int column) {
  if (scale == nullptr) return 1.0f;
  return __ldg(scale + (static_cast<unsigned>(row) / 128u * static_cast<unsigned>(scale_cols) +
                        static_cast<unsigned>(column) / 128u));
}

// -- tensor cores and copies into shared memory (sm_80 on) --------------------------------------------------

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
// Four 8 x 8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
// c += a b, 16 x 8 x 16, BF16 with FP32 sums.
__device__ __forceinline__ void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// 16 bytes from global to shared memory; zeros when `valid` is false. Copies between two commits are a group.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the N youngest groups of this thread are under way.
template <int N>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace fathom::cuda
