// Products of weights with many rows on tensor cores, for prompt rows: portable from sm_80 on.
//
//   V2-Lite: 4.48 GFLOP a row of linears; at the 300 TFLOP/s that mma.sync reaches here 15 us a row.
//
// A block computes 64 rows by 128 weight rows (or 64 gate and 64 up rows, closed by SwiGLU), 64 columns of K
// a stage. FP8 codes become BF16 exactly on their way to shared memory; every 128 columns the sums are
// multiplied by the block scale (and by the activations' scale) and added to a second set of FP32 registers.
// A row's result depends on neither its tile nor its place in it.
//
//   shared memory, two stages: a [64][72], b [128][72] BF16; 72: ldmatrix without bank conflicts
//   warp w: rows [32 (w / 4), + 32), weight rows [16 (w % 4), + 16) and the same plus 64
#include <algorithm>

#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kRows = 64;  // kGemmRows of src/engine/gpu_placement.h
constexpr int kWeightRows = 128;
constexpr int kDepth = 64;  // columns of K per stage
constexpr int kLd = kDepth + 8;
constexpr std::size_t kShared = sizeof(__nv_bfloat16) * 2 * (kRows + kWeightRows) * kLd;

// Sixteen bytes of codes as BF16 in shared memory (16 values of e4m3, 8 of BF16).
template <Code C>
__device__ __forceinline__ void store_codes(__nv_bfloat16* to, const uint4& v) {
  if constexpr (C == Code::bf16) {
    *reinterpret_cast<uint4*>(to) = v;
  } else {
    float w[16];
    Vec<Code::e4m3>::decode(v, w);
    std::uint32_t packed[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(w[2 * i], w[2 * i + 1]);
      packed[i] = *reinterpret_cast<const std::uint32_t*>(&two);
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    *reinterpret_cast<uint4*>(to + 8) = make_uint4(packed[4], packed[5], packed[6], packed[7]);
  }
}

template <Code C>
__global__ void __launch_bounds__(kThreads) gemm_kernel(const __grid_constant__ GemmParams p) {
  constexpr int V = Vec<C>::kValues;
  constexpr int kLoads = kWeightRows * kDepth / V / kThreads;  // 16-byte loads of codes per thread and stage
  extern __shared__ __align__(16) __nv_bfloat16 memory[];
  __shared__ int operand_row[kRows], output_row[kRows];
  __nv_bfloat16* const a_stage = memory;
  __nv_bfloat16* const b_stage = memory + 2 * kRows * kLd;
  let_next_start();
  wait_for_previous();

  const bool pair = p.up.rows > 0;
  const int first_n = static_cast<int>(blockIdx.x) * (pair ? kWeightRows / 2 : kWeightRows);
  const std::byte *codes = p.w.codes, *up_codes = p.up.codes;
  const float *scale = p.w.scale, *up_scale = p.up.scale;
  int begin = static_cast<int>(blockIdx.y) * kRows, count = min(kRows, p.rows - begin);
  if (p.experts != nullptr) {
    count = p.tile_count[blockIdx.y];
    if (count == 0) return;
    begin = p.tile_begin[blockIdx.y];
    const ExpertPointers& e = p.experts[p.tile_expert[blockIdx.y]];
    codes = p.which == 2 ? e.down : e.gate, scale = p.which == 2 ? e.down_scale : e.gate_scale;
    up_codes = e.up, up_scale = e.up_scale;
  }
  if (threadIdx.x < kRows) {
    const int m = threadIdx.x;
    int row = -1, out = -1;
    if (m < count) {
      out = p.sorted == nullptr ? begin + m : p.sorted[begin + m];
      row = out / p.input_divisor;
    }
    operand_row[m] = row, output_row[m] = out;
  }
  __syncthreads();  // rows of the tile are visible

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int depth = p.w.cols, stages = (depth + kDepth - 1) / kDepth;
  const int padded = (depth + 15) / 16 * 16;  // columns the operand has
  const int vectors = p.w.row_bytes / 16;

  const auto load_a = [&](int stage) {
#pragma unroll
    for (int i = 0; i < kRows * kDepth / 8 / kThreads; ++i) {
      const int index = threadIdx.x + i * kThreads, m = index / (kDepth / 8), k = index % (kDepth / 8) * 8;
      const int row = operand_row[m], column = stage * kDepth + k;
      const bool valid = row >= 0 && column < padded;
      copy_async(a_stage + ((stage & 1) * kRows + m) * kLd + k,
                 p.a + (valid ? static_cast<std::int64_t>(row) * p.a_stride + column : 0), valid);
    }
    commit_copies();
  };
  uint4 raw[kLoads];
  const auto load_b = [&](int stage) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int index = threadIdx.x + i * kThreads, n = index / (kDepth / V),
                vector = stage * (kDepth / V) + index % (kDepth / V);
      const bool up = pair && n >= kWeightRows / 2;
      const int row = first_n + (up ? n - kWeightRows / 2 : n);
      const std::byte* from = (up ? up_codes : codes) + static_cast<std::int64_t>(row) * p.w.row_bytes;
      raw[i] = row < p.w.rows && vector < vectors
                   ? load_weights(from + static_cast<std::int64_t>(vector) * 16)
                   : make_uint4(0, 0, 0, 0);
    }
  };
  const auto store_b = [&](int stage) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int index = threadIdx.x + i * kThreads, n = index / (kDepth / V), k = index % (kDepth / V) * V;
      store_codes<C>(b_stage + ((stage & 1) * kWeightRows + n) * kLd + k, raw[i]);
    }
  };

  const int warp_m = warp / 4 * 32, warp_n = warp % 4 * 16;
  float part[2][4][4] = {}, total[2][4][4] = {};
  load_a(0);
  load_b(0);
  store_b(0);
  for (int stage = 0; stage < stages; ++stage) {
    wait_for_copies<0>();
    __syncthreads();  // this stage is visible; the other one is no longer read
    if (stage + 1 < stages) load_a(stage + 1), load_b(stage + 1);
    const __nv_bfloat16* a = a_stage + ((stage & 1) * kRows + warp_m + lane % 16) * kLd + lane / 16 * 8;
    const __nv_bfloat16* b =
        b_stage + ((stage & 1) * kWeightRows + warp_n + lane / 16 * 8 + lane % 8) * kLd + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      std::uint32_t x[2][4], w[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ldmatrix(x[i], a + i * 16 * kLd + k);
        ldmatrix(w[i], b + i * 64 * kLd + k);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma(part[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
    }
    if (stage % 2 == 1 || stage + 1 == stages) {  // a whole block of 128 columns, or the rest
      const int block = stage / 2;
      float by_row[2][2] = {{1, 1}, {1, 1}};
      if (p.a_scale != nullptr)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            if (const int row = operand_row[warp_m + i * 16 + lane / 4 + h * 8]; row >= 0)
              by_row[i][h] = p.a_scale[static_cast<std::int64_t>(row) * p.scale_stride + block];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool up = pair && j >= 2;
        const int n = first_n + (pair ? 0 : j / 2 * 64) + warp_n + j % 2 * 8;
        const float* grid = up ? up_scale : scale;
        const float by_block =
            grid == nullptr
                ? 1.0f
                : __ldg(grid +
                        static_cast<std::int64_t>(
                            (min(n, p.w.rows - 1) + (up ? p.up.row_shift : p.w.row_shift)) / 128) *
                            p.w.scale_cols +
                        block);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            total[i][j][c] = __fmaf_rn(__fmul_rn(part[i][j][c], by_row[i][c / 2]), by_block, total[i][j][c]);
            part[i][j][c] = 0;
          }
      }
    }
    if (stage + 1 < stages) store_b(stage + 1);
  }

#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = output_row[warp_m + i * 16 + lane / 4 + c / 2 * 8];
      if (row < 0) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (pair && j >= 2) continue;
        const int n = first_n + (pair ? 0 : j / 2 * 64) + warp_n + j % 2 * 8 + lane % 4 * 2 + c % 2;
        if (n >= p.w.rows) continue;
        const float v = pair ? __fmul_rn(silu(total[i][j][c]), total[i][(j + 2) % 4][c]) : total[i][j][c];
        const std::int64_t at = row * p.out_stride + n;
        if (p.out_bf16 != nullptr)
          p.out_bf16[at] = __float2bfloat16_rn(v);
        else
          p.out[at] = p.add ? __fadd_rn(p.out[at], v) : v;
      }
    }
}

constexpr int kMaxSorted = 1024;  // experts

__global__ void __launch_bounds__(1024) sort_kernel(const __grid_constant__ TilesParams p) {
  __shared__ int count[kMaxSorted], rows_of[kMaxSorted], begin[kMaxSorted];
  let_next_start();
  wait_for_previous();
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) count[e] = 0;
  __syncthreads();  // counts are zero
  // Eight experts of this thread at a time, all on their way together; -1 beyond the end.
  constexpr int kAhead = 8;
  const auto each = [&](auto&& body) {
    for (int first = threadIdx.x; first < p.pairs; first += kAhead * blockDim.x) {
      int expert[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = first + j * blockDim.x;
        expert[j] = i < p.pairs ? min(max(p.ids[i], 0), p.experts - 1) : -1;
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (expert[j] >= 0) body(first + j * static_cast<int>(blockDim.x), expert[j]);
    }
  };
  each([&](int, int e) { atomicAdd(&count[e], 1); });
  __syncthreads();  // counts are complete
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
    int rows = 0, tiles = 0;
    for (int before = 0; before < e; ++before)
      rows += count[before], tiles += (count[before] + p.tile_rows - 1) / p.tile_rows;
    const int mine = count[e], my_tiles = (mine + p.tile_rows - 1) / p.tile_rows;
    begin[e] = rows;
    rows_of[e] = mine;
    for (int i = 0; i < my_tiles; ++i) {
      p.tile_expert[tiles + i] = e;
      p.tile_begin[tiles + i] = rows + i * p.tile_rows;
      p.tile_count[tiles + i] = min(p.tile_rows, mine - i * p.tile_rows);
    }
    if (e != p.experts - 1) continue;
    if (p.tile_total != nullptr) *p.tile_total = tiles + my_tiles;
    for (int i = tiles + my_tiles; i < p.tiles; ++i) p.tile_count[i] = 0;
  }
  __syncthreads();  // beginnings are visible, and every count was read
  // The order within an expert is arbitrary: no result depends on a row's place in its tile.
  each([&](int i, int e) { p.sorted[begin[e] + atomicSub(&rows_of[e], 1) - 1] = i; });
}

}  // namespace

void gemm(const Launch& on, const GemmParams& p) {
  if (p.rows == 0) return;
  const int width = p.up.rows > 0 ? kWeightRows / 2 : kWeightRows;
  const int row_tiles = p.experts != nullptr ? p.tiles : (p.rows + kRows - 1) / kRows;
  const dim3 grid((p.w.rows + width - 1) / width, row_tiles);
  if (p.w.code == Code::e4m3) return launch_kernel(on, gemm_kernel<Code::e4m3>, grid, kThreads, kShared, p);
  launch_kernel(on, gemm_kernel<Code::bf16>, grid, kThreads, kShared, p);
}

void sort_by_expert(const Launch& on, const TilesParams& p) {
  launch_kernel(on, sort_kernel, dim3(1), 1024, 0, p);
}

}  // namespace fathom::cuda
