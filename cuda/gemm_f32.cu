// FP32 rows by a few weight rows on CUDA cores: the router's logits of prompt rows.
//
//   4,096 rows by 64 experts, 2048 columns: 1.1 GFLOP; shared memory feeds three 32-lane reads per eight
//   multiply-adds, so about 28 us
//
// A block computes 32 rows by 64 weight rows; two groups of 256 threads take turns at 32 columns of K, a
// thread of each sums 2 by 4 results: over 32 columns in order, over its group's turns in order, then over
// the groups. A result depends on no other row.
//
//   shared memory, per group: a [32 columns][34 rows], w [32 columns][68 weight rows]; the paddings spread
//   the banks
#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kRows = 32, kWeightRows = 64, kDepth = 32, kRowPitch = kRows + 2,
              kWeightPitch = kWeightRows + 4, kGroups = 2;

template <Code C>
__global__ void __launch_bounds__(kThreads* kGroups)
    gemm_f32_kernel(const __grid_constant__ GemmF32Params p) {
  __shared__ __align__(16) float a_tiles[kGroups][kDepth * kRowPitch],
      w_tiles[kGroups][kDepth * kWeightPitch];
  let_next_start();
  wait_for_previous();
  const int first_row = static_cast<int>(blockIdx.y) * kRows,
            first_n = static_cast<int>(blockIdx.x) * kWeightRows;
  const int group = threadIdx.x / kThreads, thread = threadIdx.x % kThreads;
  float* const a_tile = a_tiles[group];
  float* const w_tile = w_tiles[group];
  const int load_row = thread / 8, load_column = thread % 8 * 4;
  const int load_n = thread / 4, load_k = thread % 4 * 8;
  const float* const a = p.x + min(first_row + load_row, p.rows - 1) * p.stride;
  const std::byte* const w =
      p.w.codes + static_cast<std::int64_t>(min(first_n + load_n, p.w.rows - 1)) * p.w.row_bytes;
  float4 next_a;
  uint4 next_w[C == Code::f32 ? 2 : 1];
  const auto load = [&](int k) {
    next_a = load_four(a, k + load_column, p.w.cols);
#pragma unroll
    for (int i = 0; i < (C == Code::f32 ? 2 : 1); ++i) {
      const int column = k + load_k + 4 * i, byte = column * code_bytes(C);
      next_w[i] = byte < p.w.row_bytes ? load_weights(w + byte) : make_uint4(0, 0, 0, 0);
    }
  };
  const int m = thread / 16 * 2, n = thread % 16 * 4;
  float total[2][4] = {};
  load(group * kDepth);
  for (int k0 = 0; k0 < p.w.cols; k0 += kGroups * kDepth) {
    __syncthreads();  // the last columns were read
    a_tile[(load_column + 0) * kRowPitch + load_row] = next_a.x;
    a_tile[(load_column + 1) * kRowPitch + load_row] = next_a.y;
    a_tile[(load_column + 2) * kRowPitch + load_row] = next_a.z;
    a_tile[(load_column + 3) * kRowPitch + load_row] = next_a.w;
    constexpr int V = Vec<C>::kValues;
#pragma unroll
    for (int i = 0; i < 8 / V; ++i) {
      float values[V];
      Vec<C>::decode(next_w[i], values);
#pragma unroll
      for (int j = 0; j < V; ++j) w_tile[(load_k + V * i + j) * kWeightPitch + load_n] = values[j];
    }
    __syncthreads();  // 32 columns are there
    if (k0 + kGroups * kDepth < p.w.cols) load(k0 + (kGroups + group) * kDepth);
    float part[2][4] = {};
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float2 x = *reinterpret_cast<const float2*>(&a_tile[k * kRowPitch + m]);
      const float4 y = *reinterpret_cast<const float4*>(&w_tile[k * kWeightPitch + n]);
      part[0][0] = __fmaf_rn(x.x, y.x, part[0][0]), part[0][1] = __fmaf_rn(x.x, y.y, part[0][1]);
      part[0][2] = __fmaf_rn(x.x, y.z, part[0][2]), part[0][3] = __fmaf_rn(x.x, y.w, part[0][3]);
      part[1][0] = __fmaf_rn(x.y, y.x, part[1][0]), part[1][1] = __fmaf_rn(x.y, y.y, part[1][1]);
      part[1][2] = __fmaf_rn(x.y, y.z, part[1][2]), part[1][3] = __fmaf_rn(x.y, y.w, part[1][3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) total[i][j] = __fadd_rn(total[i][j], part[i][j]);
  }
  __syncthreads();  // the last columns were read: the tiles hold the second group's sums now
  float* const other = w_tiles[0];
  if (group == 1)
#pragma unroll
    for (int i = 0; i < 8; ++i) other[i * kThreads + thread] = total[i / 4][i % 4];
  __syncthreads();  // they are there
  if (group == 1) return;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (first_row + m + i < p.rows && first_n + n + j < p.w.rows)
        p.out[(first_row + m + i) * p.out_stride + first_n + n + j] =
            __fadd_rn(total[i][j], other[(i * 4 + j) * kThreads + thread]);
}

}  // namespace

void gemm_f32(const Launch& on, const GemmF32Params& p) {
  if (p.rows == 0) return;
  const dim3 grid((p.w.rows + kWeightRows - 1) / kWeightRows, (p.rows + kRows - 1) / kRows);
  constexpr int kAll = kThreads * kGroups;
  if (p.w.code == Code::bf16) return launch_kernel(on, gemm_f32_kernel<Code::bf16>, grid, kAll, 0, p);
  launch_kernel(on, gemm_f32_kernel<Code::f32>, grid, kAll, 0, p);
}

}  // namespace fathom::cuda
