// Absorbed multi-head latent attention: q' = q W_UK, scores against cached latent rows, softmax, weighted sum
// of latents, W_UV.
//
//   Keys are (latent + rope) = 576 BF16 values, shared by all heads: 1,152 bytes a key. 4k / 32k / 128k keys
//   are 4.7 / 37.7 / 151 MB: 1.5 / 12.2 / 49 us at 3.08 TB/s. kv_b (V2-Lite: 2.1 MB) takes 0.7 us. Measured,
//   16 heads: absorb_query 2.4 us, combine_project_value 4.0, and between them, on Hopper, attend_hopper.cu.
//
// attend_split_kv elsewhere: a block takes one row, 16 heads (one m16 tile of mma.sync) and one split of the
// row's keys, in tiles of 32 keys, three tiles in flight by cp.async. A tile serves twice: as K for the
// scores and, its first `latent` columns, as V. The borders of splits depend on the row's position alone
// (keys_of_split), so a row's bits depend neither on its neighbours nor on chunks. Probabilities and q' are
// BF16, sums FP32.
//
//   shared memory   q [16][LD]   keys [3][32][LD]   scores [2][16][36]   p [16][40]     LD = row + 8: rows of
//                   an odd number of 16-byte units: ldmatrix has no conflicts
//   scores  warp w: keys [8 (w % 4), + 8), half w / 4 of the row's columns
//   out     warp w: columns [w latent / 8, (w + 1) latent / 8)
#include <algorithm>

#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kTile = 32;      // keys
constexpr int kHeadTile = 16;  // heads of a block
constexpr int kStages = 3;
constexpr int kMaxLatentTiles = 8;  // of 8 columns per warp: kv_lora_rank <= 512
constexpr int kMaxRow = 576;        // values of a row
constexpr int kMaxLatent = 512;
constexpr int kUnitRounds = (kMaxRow / 8 + 31) / 32;
constexpr int kHalfSteps = kMaxRow / 16 / 2;  // k-steps of a warp
constexpr int kChunk = 128;                   // latent columns of an absorbing block
constexpr float kLog2e = 1.4426950408889634f;

__device__ __forceinline__ void store_cache(void* cache, bool f32, std::int64_t i, float v) {
  if (f32)
    static_cast<float*>(cache)[i] = v;
  else
    static_cast<__nv_bfloat16*>(cache)[i] = __float2bfloat16_rn(v);
}

// -- q W_UK -------------------------------------------------------------------------------------------------

// The block behind the heads: norm of the latent, append to the cache.
constexpr int kRowValues = (kMaxLatent + kThreads - 1) / kThreads;  // of the latent, per thread
__device__ __forceinline__ void finish_rows(const AbsorbParams& p, int first, int end, float* scratch) {
  const AttentionShape& a = p.shape;
  const int values = a.latent + a.rope;
  float weight[kRowValues];
#pragma unroll
  for (int i = 0; i < kRowValues; ++i) {
    const int c = static_cast<int>(threadIdx.x) + i * kThreads;
    weight[i] = c < a.latent ? p.norm_weight[c] : 0.0f;
  }
  const auto cache_row = [&](int t) {
    return (static_cast<std::int64_t>(p.timeline[t]) * p.capacity + p.position[t]) * a.row;
  };
  if (threadIdx.x == 0) {
    warm(p.kv_row + static_cast<std::int64_t>(first) * values);
    warm(static_cast<const char*>(p.cache) + cache_row(first) * (p.cache_f32 ? 4 : 2));
  }
  wait_for_previous();
  for (int t = first; t < end; ++t) {
    float* row = p.kv_row + static_cast<std::int64_t>(t) * values;
    const std::int64_t at = cache_row(t);
    float v[kRowValues], sum = 0;
#pragma unroll
    for (int i = 0; i < kRowValues; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kThreads;
      v[i] = c < a.latent ? row[c] : 0.0f;
    }
    // The rotated key, and zeros that pad a row.
    for (int c = a.latent + static_cast<int>(threadIdx.x); c < a.row; c += kThreads)
      store_cache(p.cache, p.cache_f32, at + c, c < values ? row[c] : 0.0f);
#pragma unroll
    for (int i = 0; i < kRowValues; ++i) sum = __fmaf_rn(v[i], v[i], sum);
    sum = block_sum(sum, scratch);
    const float inverse = __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(a.latent)), p.eps));
#pragma unroll
    for (int i = 0; i < kRowValues; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kThreads;
      if (c >= a.latent) continue;
      v[i] = __fmul_rn(__fmul_rn(v[i], inverse), weight[i]);
      row[c] = v[i];
      store_cache(p.cache, p.cache_f32, at + c, v[i]);
    }
  }
}

template <Code C, int TT>
__global__ void __launch_bounds__(kThreads) absorb_kernel(const __grid_constant__ AbsorbParams p) {
  constexpr int V = Vec<C>::kValues;
  constexpr int kLanes = kChunk / V, kGroups = kThreads / kLanes;  // threads across columns, groups of rows
  constexpr int kBatch = V == 16 ? 4 : 8;                          // rows of kv_b a thread has in flight
  extern __shared__ __align__(16) float shared[];                  // q (TT, nope), then sums (kWarps, kChunk)
  __shared__ float scratch[kWarps];
  const AttentionShape& a = p.shape;
  float* sums = shared + TT * a.nope;
  let_next_start();

  const int head = blockIdx.x, first_row = static_cast<int>(blockIdx.z) * TT;
  if (head == a.heads) {
    if (blockIdx.y == 0) return finish_rows(p, first_row, min(first_row + TT, p.rows), scratch);
    wait_for_previous();
    return;
  }
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int column = static_cast<int>(blockIdx.y) * kChunk + lane * V;
  const int safe = min(column, (p.kv_b.row_bytes / 16 - 1) * V);  // beyond the end: computed, never stored
  uint4 codes[kBatch];
  float scale[kBatch];
  const auto load = [&](int first) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int r = head * (a.nope + a.v) + min(first + b * kGroups, a.nope - 1);
      codes[b] = load_weights(p.kv_b.codes + static_cast<std::int64_t>(r) * p.kv_b.row_bytes + safe / V * 16);
      scale[b] = block_scale(p.kv_b.scale, p.kv_b.scale_cols, r + p.kv_b.row_shift, safe + p.kv_b.col_shift);
    }
  };
  load(group);
  const int head_dim = a.nope + a.rope;
  const auto q_of = [&](int row) {
    return p.q + (static_cast<std::int64_t>(row) * a.heads + head) * head_dim;
  };
  const auto out_of = [&](int row) { return (static_cast<std::int64_t>(row) * a.heads + head) * a.row; };
  if (threadIdx.x == 0) {
    warm(q_of(first_row));
    warm(static_cast<const char*>(p.q_absorbed) + out_of(first_row) * (p.cache_f32 ? 4 : 2));
  }
  wait_for_previous();
#pragma unroll
  for (int t = 0; t < TT; ++t) {
    const int row = min(first_row + t, p.rows - 1);
    const float* q = q_of(row);
    for (int i = threadIdx.x; i < a.nope; i += kThreads) shared[t * a.nope + i] = q[i];
    // The rotated part passes through, and zeros that pad a row.
    if (blockIdx.y == 0 && first_row + t < p.rows)
      for (int i = threadIdx.x; i < a.row - a.latent; i += kThreads)
        store_cache(p.q_absorbed, p.cache_f32, out_of(row) + a.latent + i, i < a.rope ? q[a.nope + i] : 0.0f);
  }
  __syncthreads();  // q is visible
  float sum[TT][V] = {};
  for (int first = group; first < a.nope; first += kBatch * kGroups) {
    if (first > group) load(first);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kGroups;
      if (i >= a.nope) break;
      float w[V];
      Vec<C>::decode(codes[b], w);
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        const float q = __fmul_rn(shared[t * a.nope + i], scale[b]);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[t][k] = __fmaf_rn(q, w[k], sum[t][k]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < TT; ++t) {
    // Groups of one warp first (lanes kLanes apart hold the same columns), then warps in order.
#pragma unroll
    for (int k = 0; k < V; ++k)
#pragma unroll
      for (int offset = kLanes; offset < 32; offset *= 2)
        sum[t][k] = __fadd_rn(sum[t][k], __shfl_xor_sync(~0u, sum[t][k], offset));
    __syncthreads();  // sums of the row before have been read
    if (threadIdx.x % 32 < kLanes)
#pragma unroll
      for (int k = 0; k < V; ++k) sums[threadIdx.x / 32 * kChunk + lane * V + k] = sum[t][k];
    __syncthreads();  // partial sums of all warps are visible
    const int row = first_row + t;
    if (row >= p.rows) break;
    const int c = static_cast<int>(blockIdx.y) * kChunk + threadIdx.x;
    if (threadIdx.x < kChunk && c < a.latent) {
      float total = 0;
#pragma unroll
      for (int g = 0; g < kWarps; ++g) total = __fadd_rn(total, sums[g * kChunk + threadIdx.x]);
      store_cache(p.q_absorbed, p.cache_f32, out_of(row) + c, total);
    }
  }
}

template <Code C, int TT>
void launch_absorb(const Launch& on, const AbsorbParams& p) {
  const std::size_t shared = sizeof(float) * (TT * static_cast<std::size_t>(p.shape.nope) + kWarps * kChunk);
  const dim3 grid(p.shape.heads + 1, (p.shape.latent + kChunk - 1) / kChunk, (p.rows + TT - 1) / TT);
  launch_kernel(on, absorb_kernel<C, TT>, grid, kThreads, shared, p);
}

// -- scores, softmax, weighted sum --------------------------------------------------------------------------

// Keys [begin, end) of a split; empty when the row has fewer splits.
struct Span {
  int begin, end;
};
__device__ __forceinline__ Span split_span(const AttendParams& p, int position, int split) {
  const int keys = keys_of_split(position, p.max_splits, p.keys_per_round);
  const int begin = split * keys;
  return {begin, min(begin + keys, position + 1)};
}

struct AttendShared {
  int ld;  // values between rows of q and keys
  __nv_bfloat16 *q, *keys, *p;
  float *scores, *correction;
};
constexpr int kScoreRow = 36, kProbabilityRow = 40;

__host__ __device__ constexpr int attend_ld(int row) { return (row + 15) / 16 * 16 + 8; }
std::size_t attend_bytes(int row) {
  return sizeof(__nv_bfloat16) * ((kHeadTile + kStages * kTile) * static_cast<std::size_t>(attend_ld(row)) +
                                  kHeadTile * kProbabilityRow) +
         sizeof(float) * (2 * kHeadTile * kScoreRow + 2 * kHeadTile);
}

__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  const AttentionShape& a = p.shape;
  AttendShared s;
  s.ld = attend_ld(a.row);
  s.q = reinterpret_cast<__nv_bfloat16*>(memory);
  s.keys = s.q + kHeadTile * s.ld;
  s.p = s.keys + kStages * kTile * s.ld;
  s.scores = reinterpret_cast<float*>(s.p + kHeadTile * kProbabilityRow);
  s.correction = s.scores + 2 * kHeadTile * kScoreRow;
  let_next_start();

  const int split = blockIdx.x, group = blockIdx.y, t = blockIdx.z;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Positions are uploaded before the step's first kernel; cached keys older than this call's rows too.
  const int position = p.position[t];
  const Span span = split_span(p, position, split);
  if (span.begin >= span.end) {
    wait_for_previous();  // completion of this kernel must imply its predecessor's
    return;
  }
  const auto* cache = static_cast<const __nv_bfloat16*>(p.cache) +
                      static_cast<std::int64_t>(p.timeline[t]) * p.capacity * a.row;
  const int units = a.row / 8;  // of 16 bytes in a row
  // Warp w copies keys 4w .. 4w + 3 of a tile, its lanes neighbouring units.
  const auto load_tile = [&](int tile) {
    const int first = span.begin + tile * kTile;
    if (first < span.end) {
      __nv_bfloat16* to = s.keys + (tile % kStages * kTile + warp * 4) * s.ld + lane * 8;
      const __nv_bfloat16* from = cache + static_cast<std::int64_t>(first + warp * 4) * a.row + lane * 8;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool valid = first + warp * 4 + k < span.end;
#pragma unroll
        for (int u = 0; u < kUnitRounds; ++u)
          if (lane + u * 32 < units)
            copy_async(to + k * s.ld + u * 256,
                       valid ? from + static_cast<std::int64_t>(k) * a.row + u * 256 : cache, valid);
      }
    }
    commit_copies();
  };
  // Columns that pad a row to whole k-steps are zero in q and in every stage.
  const int padding = (a.row + 15) / 16 * 16 - a.row;
  for (int i = threadIdx.x; i < (kHeadTile + kStages * kTile) * padding; i += kThreads)
    s.q[i / padding * s.ld + a.row + i % padding] = __float2bfloat16_rn(0.0f);

  const int tiles = (span.end - span.begin + kTile - 1) / kTile;
  const int oldest_new = first_unwritten(p, position);  // no key before it is written by this call
  int loaded = 0;
  for (; loaded < kStages - 1 && span.begin + (loaded + 1) * kTile <= oldest_new; ++loaded) load_tile(loaded);
  wait_for_previous();
  const auto* q = static_cast<const __nv_bfloat16*>(p.q_absorbed) +
                  (static_cast<std::int64_t>(t) * a.heads + group * kHeadTile) * a.row;
  for (int i = threadIdx.x; i < kHeadTile * units; i += kThreads) {
    const int head = i / units, unit = i % units;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (group * kHeadTile + head < a.heads)
      v = *reinterpret_cast<const uint4*>(q + static_cast<std::int64_t>(head) * a.row + unit * 8);
    *reinterpret_cast<uint4*>(s.q + head * s.ld + unit * 8) = v;
  }
  for (; loaded < kStages - 1; ++loaded) load_tile(loaded);

  const int k_steps = (a.row + 15) / 16, half = (k_steps + 1) / 2;
  const int k_begin = warp / 4 == 0 ? 0 : half, k_count = warp / 4 == 0 ? half : k_steps - half;
  const int latent_tiles = a.latent / 8, per_warp = (latent_tiles + kWarps - 1) / kWarps;
  const int mine = min(max(latent_tiles - warp * per_warp, 0), per_warp);
  float out[kMaxLatentTiles][4] = {};
  // Softmax state of heads 2 warp and 2 warp + 1, the same in every lane; scores are in units of log 2.
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float scale = a.scale * kLog2e;

  __syncthreads();                     // q and the padding are visible
  std::uint32_t query[kHalfSteps][4];  // this warp's half of q's columns, for all tiles
#pragma unroll
  for (int k = 0; k < kHalfSteps; ++k)
    if (k < k_count) ldmatrix(query[k], s.q + (lane % 16) * s.ld + (k_begin + k) * 16 + lane / 16 * 8);

  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this tile's keys are visible; the stage freed by tile - 1 may be overwritten
    load_tile(tile + kStages - 1);
    const __nv_bfloat16* keys = s.keys + (tile % kStages) * kTile * s.ld;
    {
      float score[4][4] = {};  // four independent chains
      const __nv_bfloat16* b_row = keys + (warp % 4 * 8 + lane % 8) * s.ld + k_begin * 16 + lane / 8 * 8;
#pragma unroll
      for (int k = 0; k < kHalfSteps; k += 2) {
        if (k >= k_count) break;
        std::uint32_t b[4];
        ldmatrix(b, b_row + k * 16);
        mma(score[k % 4], query[k], b[0], b[1]);
        if (k + 1 < k_count) mma(score[k % 4 + 1], query[k + 1], b[2], b[3]);
      }
      float* to = s.scores + (warp / 4 * kHeadTile + lane / 4) * kScoreRow + warp % 4 * 8 + lane % 4 * 2;
      const auto sum_of = [&](int i) { return score[0][i] + score[1][i] + (score[2][i] + score[3][i]); };
      *reinterpret_cast<float2*>(to) = make_float2(sum_of(0), sum_of(1));
      *reinterpret_cast<float2*>(to + 8 * kScoreRow) = make_float2(sum_of(2), sum_of(3));
    }
    __syncthreads();  // scores of both halves are visible
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = warp * 2 + i;
      const bool valid = span.begin + tile * kTile + lane < span.end;
      const float score = s.scores[head * kScoreRow + lane] + s.scores[(kHeadTile + head) * kScoreRow + lane];
      const float z = valid ? score * scale : -INFINITY;
      const float highest = fmaxf(maximum[i], warp_max(z));
      const float probability = exp2f(z - highest);
      const float correction = exp2f(maximum[i] - highest);  // 0 at first: the maximum was -inf
      sum[i] = __fmaf_rn(sum[i], correction, warp_sum(probability));
      maximum[i] = highest;
      s.p[head * kProbabilityRow + lane] = __float2bfloat16_rn(probability);
      if (lane == 0) s.correction[head] = correction;
    }
    __syncthreads();  // probabilities and corrections are visible
    const float low = s.correction[lane / 4], high = s.correction[lane / 4 + 8];
    std::uint32_t x[2][4];
#pragma unroll
    for (int k = 0; k < 2; ++k) ldmatrix(x[k], s.p + (lane % 16) * kProbabilityRow + k * 16 + lane / 16 * 8);
#pragma unroll
    for (int i = 0; i < kMaxLatentTiles; ++i) {
      if (i >= mine) continue;
      std::uint32_t b[4];
      ldmatrix_transposed(b, keys + lane * s.ld + (warp * per_warp + i) * 8);
      out[i][0] *= low, out[i][1] *= low, out[i][2] *= high, out[i][3] *= high;
      mma(out[i], x[0], b[0], b[1]);
      mma(out[i], x[1], b[2], b[3]);
    }
  }
  wait_for_copies<0>();

  const std::int64_t slot = static_cast<std::int64_t>(t) * p.max_splits + split;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int head = group * kHeadTile + warp * 2 + i;
    if (lane == 0 && head < a.heads)
      *reinterpret_cast<float2*>(p.partial_sum + (slot * a.heads + head) * 2) =
          make_float2(maximum[i], sum[i]);
  }
#pragma unroll
  for (int i = 0; i < kMaxLatentTiles; ++i) {
    if (i >= mine) continue;
    const int column = (warp * per_warp + i) * 8 + lane % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = group * kHeadTile + lane / 4 + h * 8;
      if (head < a.heads)
        *reinterpret_cast<float2*>(p.partial_out + (slot * a.heads + head) * a.latent + column) =
            make_float2(out[i][2 * h], out[i][2 * h + 1]);
    }
  }
}

// The same for an FP32 cache, on CUDA cores: one block per row, split and head.
__global__ void __launch_bounds__(kThreads) attend_f32_kernel(const __grid_constant__ AttendParams p) {
  extern __shared__ __align__(16) float q[];  // (row)
  __shared__ float probability[kTile];
  const AttentionShape& a = p.shape;
  let_next_start();
  wait_for_previous();
  const int split = blockIdx.x, head = blockIdx.y, t = blockIdx.z;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Span span = split_span(p, p.position[t], split);
  if (span.begin >= span.end) return;
  const float* cache =
      static_cast<const float*>(p.cache) + static_cast<std::int64_t>(p.timeline[t]) * p.capacity * a.row;
  const float* from =
      static_cast<const float*>(p.q_absorbed) + (static_cast<std::int64_t>(t) * a.heads + head) * a.row;
  for (int c = threadIdx.x; c < a.row; c += kThreads) q[c] = from[c];
  float out[2] = {0, 0}, maximum = -INFINITY, sum = 0;  // columns threadIdx.x and threadIdx.x + kThreads
  for (int first = span.begin; first < span.end; first += kTile) {
    __syncthreads();  // q is visible; probabilities of the tile before have been read
    for (int k = warp; k < kTile; k += kWarps) {
      float dot = 0;
      if (first + k < span.end)
        for (int c = lane; c < a.row; c += 32)
          dot = __fmaf_rn(q[c], cache[static_cast<std::int64_t>(first + k) * a.row + c], dot);
      dot = warp_sum(dot);
      if (lane == 0) probability[k] = first + k < span.end ? dot * a.scale * kLog2e : -INFINITY;
    }
    __syncthreads();  // scores are visible
    const float z = probability[lane];
    const float highest = fmaxf(maximum, warp_max(z));
    const float mine = exp2f(z - highest), correction = exp2f(maximum - highest);
    sum = __fmaf_rn(sum, correction, warp_sum(mine));
    maximum = highest;
    __syncthreads();  // every warp has read the scores
    if (warp == 0) probability[lane] = mine;
    __syncthreads();  // probabilities are visible
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int c = threadIdx.x + i * kThreads;
      if (c >= a.latent) continue;
      float v = __fmul_rn(out[i], correction);
      for (int k = 0; k < min(kTile, span.end - first); ++k)
        v = __fmaf_rn(probability[k], cache[static_cast<std::int64_t>(first + k) * a.row + c], v);
      out[i] = v;
    }
  }
  const std::int64_t slot = (static_cast<std::int64_t>(t) * p.max_splits + split) * a.heads + head;
  if (threadIdx.x == 0) p.partial_sum[slot * 2] = maximum, p.partial_sum[slot * 2 + 1] = sum;
  for (int i = 0; i < 2; ++i)
    if (const int c = threadIdx.x + i * kThreads; c < a.latent) p.partial_out[slot * a.latent + c] = out[i];
}

// -- combine, W_UV ------------------------------------------------------------------------------------------

constexpr int kValueThreads = 1024, kValueWarps = kValueThreads / 32;
constexpr int kMaxSplitsOfRow = 128;
constexpr int kValueBatch = 4;  // weight vectors a lane has in flight once it holds no splits any more
constexpr int kHeldSplits = 8;  // splits a thread has in flight

// exp2(reference - highest) / total of every split of a head, by one warp.
__device__ __forceinline__ void split_factors(const float* sums, int stride, int splits, float* factor) {
  const int lane = threadIdx.x % 32;
  float2 v[kMaxSplitsOfRow / 32];
  float highest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < kMaxSplitsOfRow / 32; ++i) {
    v[i] = make_float2(-INFINITY, 0);
    if (lane + i * 32 < splits) v[i] = *reinterpret_cast<const float2*>(sums + (lane + i * 32) * stride);
  }
#pragma unroll
  for (int i = 0; i < kMaxSplitsOfRow / 32; ++i) highest = fmaxf(highest, v[i].x);
  highest = warp_max(highest);
#pragma unroll
  for (int i = 0; i < kMaxSplitsOfRow / 32; ++i) {
    v[i].x = exp2f(v[i].x - highest);
    total = __fmaf_rn(v[i].x, v[i].y, total);
  }
  const float inverse = __fdiv_rn(1.0f, warp_sum(total));
#pragma unroll
  for (int i = 0; i < kMaxSplitsOfRow / 32; ++i) factor[lane + i * 32] = __fmul_rn(v[i].x, inverse);
}

// A head's rows of W_UV are spread over gridDim.x / heads blocks, each of which combines the head's latent
// for itself: the order of a sum does not depend on their number.
template <Code C>
__global__ void __launch_bounds__(kValueThreads) value_kernel(const __grid_constant__ ValueParams p) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(
      16) float mixed[];  // the combined latent in lane order, then sums (groups, latent)
  __shared__ float factor[kMaxSplitsOfRow];
  const AttentionShape& a = p.shape;
  let_next_start();
  const int parts = static_cast<int>(gridDim.x) / a.heads;
  const int head = static_cast<int>(blockIdx.x) / parts, part = static_cast<int>(blockIdx.x) % parts;
  const std::int64_t t = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = head * (a.nope + a.v) + a.nope;
  const int vectors = p.kv_b.row_bytes / 16, steps = (vectors + 31) / 32;
  // Rows part, part + parts, ...: row r of this block is r * parts + part; a warp takes every kValueWarps-th.
  const int rows = (a.v - part + parts - 1) / parts;
  const int items = (rows - warp + kValueWarps - 1) / kValueWarps * steps;  // (row of this warp, step)

  const auto load = [&](int r, int step, uint4& codes, float& scale) {
    const int row = first_row + r * parts + part, vector = min(step * 32 + lane, vectors - 1);
    codes = load_weights(p.kv_b.codes + static_cast<std::int64_t>(row) * p.kv_b.row_bytes + vector * 16);
    scale =
        block_scale(p.kv_b.scale, p.kv_b.scale_cols, row + p.kv_b.row_shift, vector * V + p.kv_b.col_shift);
  };
  // One vector before the wait: the registers of the others hold splits first.
  uint4 first_codes = make_uint4(0, 0, 0, 0);
  float first_scale = 0;
  if (items > 0) load(warp, 0, first_codes, first_scale);
  // Positions are uploaded before the step's first kernel.
  const int position = p.position[t];
  const int splits = position / keys_of_split(position, p.max_splits, p.keys_per_round) + 1;
  const int quads = a.latent / 4, groups = kValueThreads / quads;
  const int group = static_cast<int>(threadIdx.x) / quads, quad = static_cast<int>(threadIdx.x) % quads;
  float* sums = mixed + staged_columns<V>(a.latent);
  const float* from = p.partial_out + (t * p.max_splits * a.heads + head) * a.latent + quad * 4;
  const int stride = a.heads * a.latent;  // kMaxSplitsOfRow times this fits
  const float* of_head = p.partial_sum + (t * p.max_splits * a.heads + head) * 2;
  float* out = p.attn + (t * a.heads + head) * a.v;
  const bool works = group < groups;
  if (lane == 0 && works && group < splits) warm(from + group * stride);
  if (threadIdx.x == 0) warm(of_head), warm(out);
  wait_for_previous();

  // The first splits do not depend on the factors: fetched along with them.
  float4 held[kHeldSplits];
#pragma unroll
  for (int i = 0; i < kHeldSplits; ++i)
    if (works && group + i * groups < splits)
      held[i] = *reinterpret_cast<const float4*>(from + (group + i * groups) * stride);
  if (warp == 0) split_factors(of_head, a.heads * 2, splits, factor);
  __syncthreads();  // factors are visible
  // Groups of threads take every groups-th split, then groups are added in order: the same order at every T.
  if (works) {
    float4 sum = make_float4(0, 0, 0, 0);
    const auto add = [&](const float4& v, float f) {
      sum.x = __fmaf_rn(f, v.x, sum.x), sum.y = __fmaf_rn(f, v.y, sum.y);
      sum.z = __fmaf_rn(f, v.z, sum.z), sum.w = __fmaf_rn(f, v.w, sum.w);
    };
#pragma unroll
    for (int i = 0; i < kHeldSplits; ++i)
      if (group + i * groups < splits) add(held[i], factor[group + i * groups]);
#pragma unroll 4
    for (int s = group + kHeldSplits * groups; s < splits; s += groups)
      add(*reinterpret_cast<const float4*>(from + s * stride), factor[s]);
    *reinterpret_cast<float4*>(sums + (group * quads + quad) * 4) = sum;
  }
  uint4 w[kValueBatch];
  float scale[kValueBatch];
  int next_row = steps == 1 ? warp + kValueWarps : warp, next_step = steps == 1 ? 0 : 1;  // of item 1
  const auto load_batch = [&](int first) {
#pragma unroll
    for (int i = 0; i < kValueBatch; ++i) {
      if (first + i >= items) break;
      load(next_row, next_step, w[i], scale[i]);
      if (++next_step == steps) next_step = 0, next_row += kValueWarps;
    }
  };
  load_batch(1);
  __syncthreads();  // sums of all groups are visible
  for (int c = threadIdx.x; c < staged_columns<V>(a.latent); c += kValueThreads) {
    float sum = 0;  // beyond the latent: weights are zero
    if (c < a.latent) {
      const int filled = min(groups, splits);
#pragma unroll 8
      for (int g = 0; g < filled; ++g) sum = __fadd_rn(sum, sums[g * a.latent + c]);
    }
    mixed[lane_order<V>(c / 4 * 4) + c % 4] = sum;
  }
  __syncthreads();  // the combined latent is visible

  float sum = 0;
  int step = 0, r = warp;
  const auto add_item = [&](const uint4& codes, float item_scale) {
    float decoded[V];
    Vec<C>::decode(codes, decoded);
    sum = __fmaf_rn(dot_step<V>(decoded, mixed + step * 32 * V, lane), item_scale, sum);
    if (++step < steps) return;
    sum = warp_sum(sum);
    if (lane == 0) out[r * parts + part] = sum;
    sum = 0, step = 0, r += kValueWarps;
  };
  if (items > 0) add_item(first_codes, first_scale);
  for (int first = 1; first < items; first += kValueBatch) {
    if (first > 1) load_batch(first);
#pragma unroll
    for (int i = 0; i < kValueBatch; ++i)
      if (first + i < items) add_item(w[i], scale[i]);
  }
}

template <Code C>
void launch_value(const Launch& on, const ValueParams& p) {
  // Every part reads all of the head's splits: no more parts than occupy half of the multiprocessors.
  const int parts = std::clamp(on.multiprocessors / (p.shape.heads * p.rows), 1, 4);
  const std::size_t floats =
      static_cast<std::size_t>(staged_columns<Vec<C>::kValues>(p.shape.latent)) + kValueThreads * 4;
  launch_kernel(on, value_kernel<C>, dim3(p.shape.heads * parts, p.rows), kValueThreads,
                sizeof(float) * floats, p);
}

}  // namespace

void absorb_query(const Launch& on, const AbsorbParams& p) {
  if (p.rows == 0) return;
  const bool many = p.rows > 8;
  switch (p.kv_b.code) {
    case Code::e4m3:
      return many ? launch_absorb<Code::e4m3, 4>(on, p) : launch_absorb<Code::e4m3, 1>(on, p);
    case Code::bf16:
      return many ? launch_absorb<Code::bf16, 4>(on, p) : launch_absorb<Code::bf16, 1>(on, p);
    case Code::f32:
      return many ? launch_absorb<Code::f32, 4>(on, p) : launch_absorb<Code::f32, 1>(on, p);
  }
}

void attend_split_kv(const Launch& on, const AttendParams& p) {
  if (p.rows == 0) return;
  if (p.cache_f32)
    return launch_kernel(on, attend_f32_kernel, dim3(p.max_splits, p.shape.heads, p.rows), kThreads,
                         sizeof(float) * p.shape.row, p);
  if (on.dependent && hopper_attends(p)) return attend_hopper(on, p);
  launch_kernel(on, attend_kernel, dim3(p.max_splits, (p.shape.heads + kHeadTile - 1) / kHeadTile, p.rows),
                kThreads, attend_bytes(p.shape.row), p);
}

void combine_project_value(const Launch& on, const ValueParams& p) {
  if (p.rows == 0) return;
  switch (p.kv_b.code) {
    case Code::e4m3:
      return launch_value<Code::e4m3>(on, p);
    case Code::bf16:
      return launch_value<Code::bf16>(on, p);
    case Code::f32:
      return launch_value<Code::f32>(on, p);
  }
}

}  // namespace fathom::cuda
