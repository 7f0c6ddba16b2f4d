// Products of a weight matrix with up to eight rows at a time (GEMV): decode's projections, router and head.
//
//   out(t, n) = sum_k decode(W(n, k)) scale(n / 128, k / 128) x(t, k), FP32
//
// Memory-bound: N K bytes (FP8) at 3.1 TB/s. What counts is that memory is never idle:
//   - a lane has eight 16-byte loads in flight (in_flight.cuh);
//   - the first of them are requested before the wait;
//   - the sum of a row is written at the end of the block, so that no warp waits for `out` in between.
//
// An item is R rows and one of `parts` pieces of their columns; a warp owns every kWarps-th item of its
// block. Parts follow from the shape alone. A row's sum is, per part, per lane, even and odd columns of a
// step apart, each step's partial sum multiplied by its block scale; then over lanes by a butterfly; then
// over parts in order. It does not depend on the rows' count. Inputs lie in shared memory as FP32, normed and
// rounded, in an order free of bank conflicts (lane_order).
#include <algorithm>

#include "cuda/in_flight.cuh"

namespace fathom::cuda {
namespace {

constexpr std::size_t kMaxShared = 160 * 1024;
constexpr int kPairedRows = 8448;  // two rows a warp halve the reads of shared memory; one spreads few rows

struct Plan {
  GemvParams p;
  int units[2];    // of R rows, per segment
  int parts;       // of a unit's columns
  int reciprocal;  // ceil(2^16 / parts)
};
// item / parts, for item < 2^13.
__device__ __forceinline__ int unit_of(const Plan& plan, int item) { return item * plan.reciprocal >> 16; }

template <Code C, int R>
__device__ __forceinline__ void locate(Item<R>& at, const Plan& plan, int begin, int steps, int item,
                                       int items) {
  at.steps = at.left = 0;
  if (item >= items) return;
  const int u = unit_of(plan, item), part = item - u * plan.parts, unit = begin + u;
  const bool second = unit >= plan.units[0];
  const Matrix& w = plan.p.segment[second ? 1 : 0].w;
  const int row = (second ? unit - plan.units[0] : unit) * R;
  cut(at, steps * part * plan.reciprocal >> 16, steps * (part + 1) * plan.reciprocal >> 16, w.row_bytes);
#pragma unroll
  for (int r = 0; r < R; ++r) point_at<C>(at, r, w, w.codes, w.scale, min(row + r, w.rows - 1));
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
__global__ void __launch_bounds__(kThreads, 2) gemv_kernel(const __grid_constant__ Plan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float memory[];
  __shared__ float sums[TT * kWarps];
  const GemvParams& p = plan.p;
  let_next_start();

  const int total = plan.units[0] + plan.units[1];
  const int begin = static_cast<int>(static_cast<std::int64_t>(total) * blockIdx.x / gridDim.x);
  const int units = static_cast<int>(static_cast<std::int64_t>(total) * (blockIdx.x + 1) / gridDim.x) - begin;
  const int lane = threadIdx.x % 32, items = units * plan.parts;
  const int columns = staged_columns<V>(p.input.cols), steps = columns / (32 * V);
  const int first_row = static_cast<int>(blockIdx.y) * TT;
  float* partial = memory + staging_floats<V>(p.input, TT);  // (items, R, TT)

  int item = static_cast<int>(threadIdx.x) / 32;
  Item<R> at;
  locate<C>(at, plan, begin, steps, item, items);
  Vector vector[kItemVectors];
#pragma unroll
  for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  const Staging<V, TT> staging(memory, p.input, first_row, p.rows - 1);
  wait_for_previous();
  staging.finish(p.input, sums);
  __syncthreads();  // the staged rows are visible to every warp

#pragma unroll 1
  while (item < items) {
    const float* x = memory + at.step * 32 * V;
    const int now = at.steps, next = item + kWarps;
    locate<C>(at, plan, begin, steps, next, items);
    float sum[R][TT] = {};
    add_item<C>(sum, vector, now, x, columns, at);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        const float whole = warp_sum(sum[r][t]);
        if (lane == 0) partial[(item * R + r) * TT + t] = whole;
      }
    item = next;
  }
  __syncthreads();  // sums of all items are visible
  for (int i = static_cast<int>(threadIdx.x); i < units * TT; i += kThreads) {
    const int u = i / TT, t = i % TT, row = first_row + t;
    if (row >= p.rows) continue;
    const bool second = begin + u >= plan.units[0];
    const Segment& segment = p.segment[second ? 1 : 0];
    const int n = (second ? begin + u - plan.units[0] : begin + u) * R;
    float v[R] = {};
    for (int part = 0; part < plan.parts; ++part)
#pragma unroll
      for (int r = 0; r < R; ++r) v[r] = __fadd_rn(v[r], partial[((u * plan.parts + part) * R + r) * TT + t]);
    if constexpr (R == 2)
      if (segment.rotation.position != nullptr) rotate_pair(v[0], v[1], segment.rotation, row, n);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (n + r >= segment.w.rows) continue;
      float* out = segment.out + row * segment.stride + n + r;
      *out = p.add ? __fadd_rn(*out, v[r]) : v[r];
    }
  }
}

template <Code C, int TT, int R>
void launch_gemv(const Launch& on, const GemvParams& p) {
  constexpr int V = Vec<C>::kValues;
  Plan plan{p, {0, 0}, 0, 0};
  for (int i = 0; i < p.segments; ++i) plan.units[i] = (p.segment[i].w.rows + R - 1) / R;
  const int units = plan.units[0] + plan.units[1], columns = staged_columns<V>(p.input.cols);
  plan.parts = (columns / (32 * V) + kItemSteps<R> - 1) / kItemSteps<R>;
  plan.reciprocal = (65536 + plan.parts - 1) / plan.parts;
  const int blocks = blocks_of(on, units * plan.parts, TT * columns);
  const int most = (units + blocks - 1) / blocks * plan.parts;
  const std::size_t shared = sizeof(float) * (static_cast<std::size_t>(staging_floats<V>(p.input, TT)) +
                                              static_cast<std::size_t>(most * R * TT));
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
  if (rotated || rows >= kPairedRows) return choose_rows<C, 2>(on, p);
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
