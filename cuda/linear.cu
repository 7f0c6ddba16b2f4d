// Products of a weight matrix with up to eight rows at a time (GEMV): decode's projections, router and head.
//
//   out(t, n) = sum_k decode(W(n, k)) scale(n / 128, k / 128) x(t, k), FP32
//
// Memory-bound: N K bytes (FP8) at 3.1 TB/s. One warp owns R output rows; its lanes read 16 bytes each, so a
// step is 512 bytes of a row, and R * kSteps loads are in flight per lane, the next batch's while this one is
// consumed. The first batch is requested before the kernel waits for its predecessor. Inputs lie in shared
// memory as FP32, normed and rounded, in an order free of bank conflicts (lane_order). A row's sum: per lane
// even and odd columns of a step apart, each step's partial sum multiplied by its block scale; then over
// lanes by a butterfly. It depends on neither R nor the rows' count.
//
// Measured on an H100 (cuda/NOTES.md): 96 % of the read bandwidth for V2-Lite's BF16 head (419 MB), 87 % for
// V3's dense gate (132 MB FP8), 4.5 us for V2-Lite's q and kv_a (7.5 MB).
//
//   block: units [begin, end) of R rows     warp w: units begin + w, begin + w + 8, ...
//   lane l, step s: columns [s 32 V + l V, + V), V = 16 (FP8), 8 (BF16), 4 (F32)
#include <algorithm>

#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kSteps = 4;
constexpr std::size_t kMaxShared = 160 * 1024;

struct Plan {
  GemvParams p;
  int units[2];  // of R rows, per segment
};

template <int R>
struct Batch {
  uint4 v[R][kSteps];
  float scale[R][kSteps];
};

// Where a warp is: unit of R rows, first step of the batch.
struct Cursor {
  int unit, step;
};

template <Code C, int R>
__device__ __forceinline__ void load_batch(Batch<R>& b, const Plan& plan, const Cursor& at) {
  constexpr int V = Vec<C>::kValues;
  const int lane = threadIdx.x % 32;
  const bool second = at.unit >= plan.units[0];
  const Matrix& w = plan.p.segment[second ? 1 : 0].w;
  const int row = (second ? at.unit - plan.units[0] : at.unit) * R;
  const int vectors = w.row_bytes / 16;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int mine = min(row + r, w.rows - 1);
    const std::byte* codes = w.codes + static_cast<std::int64_t>(mine) * w.row_bytes;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      // Beyond the end the row's first bytes are read again and count nothing: cheaper than a branch.
      const int vector = (at.step + s) * 32 + lane;
      const bool inside = vector < vectors;
      const int safe = inside ? vector : 0;
      b.v[r][s] = load_weights(codes + static_cast<std::int64_t>(safe) * 16);
      const float scale = block_scale(w.scale, w.scale_cols, mine + w.row_shift, safe * V + w.col_shift);
      b.scale[r][s] = inside ? scale : 0.0f;
    }
  }
}

// Rotates a pair of outputs by the row's position; see Rotation.
__device__ __forceinline__ void rotate_pair(float& a, float& b, const Rotation& r, int t, int n) {
  const int in_head = n % r.head_dim, first = r.head_dim - r.dims;
  if (in_head < first) return;
  float sine, cosine;
  sincosf(__fmul_rn(static_cast<float>(r.position[t]), r.frequency[(in_head - first) / 2]), &sine, &cosine);
  sine = __fmul_rn(sine, r.magnitude), cosine = __fmul_rn(cosine, r.magnitude);
  const float x = a, y = b;
  a = __fsub_rn(__fmul_rn(x, cosine), __fmul_rn(y, sine));
  b = __fadd_rn(__fmul_rn(x, sine), __fmul_rn(y, cosine));
}

template <Code C, int TT, int R>
__global__ void __launch_bounds__(kThreads) gemv_kernel(const __grid_constant__ Plan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float staged[];
  __shared__ float sums[TT * kMostGroups];
  const GemvParams& p = plan.p;
  let_next_start();

  const int total = plan.units[0] + plan.units[1];
  const int begin = static_cast<int>(static_cast<std::int64_t>(total) * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(static_cast<std::int64_t>(total) * (blockIdx.x + 1) / gridDim.x);
  const int lane = threadIdx.x % 32;
  const int columns = staged_columns<V>(p.input.cols), steps = columns / (32 * V);
  const int first_row = static_cast<int>(blockIdx.y) * TT;

  Cursor at{begin + static_cast<int>(threadIdx.x / 32), 0};
  Batch<R> next;
  if (at.unit < end) load_batch<C, R>(next, plan, at);
  prefetch_norm(p.input);
  wait_for_previous();
  stage_rows<V, TT>(staged, p.input, first_row, p.rows - 1, sums);
  __syncthreads();  // the staged rows are visible to every warp

  float sum[R][TT] = {};
  while (at.unit < end) {
    const Batch<R> batch = next;
    Cursor then{at.unit, at.step + kSteps};
    const bool last = then.step >= steps;
    if (last) then = {at.unit + kWarps, 0};
    if (then.unit < end) load_batch<C, R>(next, plan, then);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const float* x =
          staged + min(at.step + s, steps - 1) * 32 * V;  // beyond the last step the scale is zero
#pragma unroll
      for (int r = 0; r < R; ++r) {
        float w[V];
        Vec<C>::decode(batch.v[r][s], w);
#pragma unroll
        for (int t = 0; t < TT; ++t)
          sum[r][t] = __fmaf_rn(dot_step<V>(w, x + t * columns, lane), batch.scale[r][s], sum[r][t]);
      }
    }
    if (last) {
      const bool second = at.unit >= plan.units[0];
      const Segment& segment = p.segment[second ? 1 : 0];
      const int n = (second ? at.unit - plan.units[0] : at.unit) * R;
#pragma unroll
      for (int t = 0; t < TT; ++t) {
#pragma unroll
        for (int r = 0; r < R; ++r) sum[r][t] = warp_sum(sum[r][t]);
        const int row = first_row + t;
        if (lane == 0 && row < p.rows) {
          if constexpr (R == 2)
            if (segment.rotation.position != nullptr)
              rotate_pair(sum[0][t], sum[1][t], segment.rotation, row, n);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            if (n + r >= segment.w.rows) continue;
            float* out = segment.out + row * segment.stride + n + r;
            *out = p.add ? __fadd_rn(*out, sum[r][t]) : sum[r][t];
          }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) sum[r][t] = 0;
      }
    }
    at = then;
  }
}

template <Code C, int TT, int R>
void launch_gemv(const Launch& on, const GemvParams& p) {
  Plan plan{p, {0, 0}};
  for (int i = 0; i < p.segments; ++i) plan.units[i] = (p.segment[i].w.rows + R - 1) / R;
  const int units = plan.units[0] + plan.units[1];
  const std::size_t shared = sizeof(float) * TT * staged_columns<Vec<C>::kValues>(p.input.cols);
  // Two or three blocks share a multiprocessor; a block has at least one unit per warp.
  const int blocks =
      std::min((units + kWarps - 1) / kWarps, on.multiprocessors * (shared > 96 * 1024 ? 1 : 2));
  launch_kernel(on, gemv_kernel<C, TT, R>, dim3(blocks, (p.rows + TT - 1) / TT), kThreads, shared, plan);
}

template <Code C, int R>
void choose_rows(const Launch& on, const GemvParams& p) {
  const std::size_t row = sizeof(float) * staged_columns<Vec<C>::kValues>(p.input.cols);
  if (p.rows > 4 && 8 * row <= kMaxShared) return launch_gemv<C, 8, R>(on, p);
  if (p.rows > 2 && 4 * row <= kMaxShared) return launch_gemv<C, 4, R>(on, p);
  if (p.rows > 1 && 2 * row <= kMaxShared) return launch_gemv<C, 2, R>(on, p);
  launch_gemv<C, 1, R>(on, p);
}

template <Code C>
void choose_width(const Launch& on, const GemvParams& p) {
  const bool rotated = p.segment[0].rotation.position != nullptr ||
                       (p.segments == 2 && p.segment[1].rotation.position != nullptr);
  const int rows = p.segment[0].w.rows + (p.segments == 2 ? p.segment[1].w.rows : 0);
  // Two rows a warp halve the reads of shared memory; one row a warp spreads a small matrix over more warps.
  if (rotated || rows >= on.multiprocessors * kWarps * 8) return choose_rows<C, 2>(on, p);
  choose_rows<C, 1>(on, p);
}

}  // namespace

void gemv(const Launch& on, const GemvParams& p) {
  if (p.rows == 0) return;
  if (p.segments == 2 && p.segment[0].w.code != p.segment[1].w.code) {
    GemvParams one = p;
    one.segments = 1;
    gemv(on, one);
    one.segment[0] = p.segment[1];
    return gemv(on, one);
  }
  switch (p.segment[0].w.code) {
    case Code::e4m3:
      return choose_width<Code::e4m3>(on, p);
    case Code::bf16:
      return choose_width<Code::bf16>(on, p);
    case Code::f32:
      return choose_width<Code::f32>(on, p);
  }
}

}  // namespace fathom::cuda
