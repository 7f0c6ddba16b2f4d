// Routed and shared experts of a few rows: gate and up with SwiGLU closed in registers, then down with the
// weighted sum over experts, both gathered by expert id; memory-bound.
//
//   V2-Lite: gate_up reads 2 (6 * 1408 + 2816) 2048 = 46 MB (14.9 us at 3.1 TB/s), down half of it;
//            measured: 41 us for both, so latency, not bandwidth, decides (cuda/NOTES.md).
//   V3:      2 (8 + 1) 2048 * 7168 = 264 MB (85 us), down 132 MB (43 us).
//
// gate_up: a warp owns one column j of one slot: row j of gate and of up, so silu(gate) * up needs no memory.
// Units are the shared (or dense) MLP's columns first, whose weights need no choice of experts and are
// requested before the wait, then slot by slot. down_combine: a warp owns one output row n of all slots: it
// runs through (slot, step) as one list, multiplies each expert's partial sum by the expert's weight, and
// sums lanes once at the end: slots in order, no atomics.
#include <algorithm>

#include "cuda/router.cuh"

namespace fathom::cuda {
namespace {

constexpr int kSteps = 4;
constexpr std::size_t kMaxShared = 160 * 1024;

__global__ void __launch_bounds__(kThreads) choose_kernel(const __grid_constant__ RouterParams p) {
  __shared__ RouterScratch scratch;
  let_next_start();
  wait_for_previous();
  const std::int64_t row = blockIdx.x;
  choose_experts_of_row(p, p.logits + row * p.experts, scratch);
  if (threadIdx.x < p.chosen) {
    p.ids[row * p.chosen + threadIdx.x] = scratch.id[threadIdx.x];
    p.weights[row * p.chosen + threadIdx.x] = scratch.weight[threadIdx.x];
  }
}

// -- gate and up --------------------------------------------------------------------------------------------

struct PairBatch {
  uint4 gate[kSteps], up[kSteps];
  float gate_scale[kSteps], up_scale[kSteps];
};

// One column of one MLP: where its two rows are.
struct Column {
  const std::byte *gate, *up;
  const float *gate_scale, *up_scale;  // null without scales
  int gate_col_shift, up_col_shift;
  int vectors;
};

__device__ __forceinline__ Column column_of(const Matrix& gate, const Matrix& up, const std::byte* gate_codes,
                                            const std::byte* up_codes, const float* gate_scale,
                                            const float* up_scale, int j) {
  const auto scale_row = [&](const Matrix& m, const float* s) {
    return s == nullptr ? nullptr : s + static_cast<std::int64_t>((j + m.row_shift) / 128) * m.scale_cols;
  };
  return {gate_codes + static_cast<std::int64_t>(j) * gate.row_bytes,
          up_codes + static_cast<std::int64_t>(j) * up.row_bytes,
          scale_row(gate, gate_scale),
          scale_row(up, up_scale),
          gate.col_shift,
          up.col_shift,
          gate.row_bytes / 16};
}

template <Code C>
__device__ __forceinline__ void load_pair(PairBatch& b, const Column& c, int step) {
  constexpr int V = Vec<C>::kValues;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int vector = (step + s) * 32 + lane;
    const bool inside = vector < c.vectors;
    const int safe =
        inside ? vector : 0;  // beyond the end the row's first bytes are read again and count nothing
    const std::int64_t offset = static_cast<std::int64_t>(safe) * 16;
    b.gate[s] = load_weights(c.gate + offset);
    b.up[s] = load_weights(c.up + offset);
    const float gate =
        c.gate_scale == nullptr ? 1.0f : __ldg(c.gate_scale + (safe * V + c.gate_col_shift) / 128);
    const float up = c.up_scale == nullptr ? 1.0f : __ldg(c.up_scale + (safe * V + c.up_col_shift) / 128);
    b.gate_scale[s] = inside ? gate : 0.0f;
    b.up_scale[s] = inside ? up : 0.0f;
  }
}

template <Code C, int TT>
__global__ void __launch_bounds__(kThreads) gate_up_kernel(const __grid_constant__ GateUpParams p) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float staged[];
  __shared__ float sums[TT * kMostGroups];
  __shared__ RouterScratch router;
  let_next_start();

  const int inner = p.gate.rows, shared_inner = p.shared_gate.rows;
  const int total = p.slots * inner + shared_inner;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int columns = staged_columns<V>(p.input.cols), steps = columns / (32 * V);
  const int first_row = static_cast<int>(blockIdx.y) * TT;

  // Units are dealt to blocks round by round of kWarps, so that every block has a part of the shared MLP to
  // begin with. The experts' pointers, read before the wait: behind it they would be one more trip to memory.
  ExpertPointers* table = reinterpret_cast<ExpertPointers*>(staged + TT * columns);
  const int stride = static_cast<int>(gridDim.x) * kWarps;
  int unit = static_cast<int>(blockIdx.x) * kWarps + warp;
  const auto column_at = [&](int u) {
    if (u < shared_inner)
      return column_of(p.shared_gate, p.shared_up, p.shared_gate.codes, p.shared_up.codes,
                       p.shared_gate.scale, p.shared_up.scale, u);
    const int slot = (u - shared_inner) / inner, j = (u - shared_inner) % inner;
    const ExpertPointers& e = table[router.id[slot]];
    return column_of(p.gate, p.up, e.gate, e.up, e.gate_scale, e.up_scale, j);
  };
  PairBatch next;
  const bool early = unit < shared_inner;
  if (early) load_pair<C>(next, column_at(unit), 0);
  for (int e = threadIdx.x; p.slots > 0 && e < p.expert_count; e += kThreads) table[e] = p.experts[e];
  prefetch_norm(p.input);
  wait_for_previous();
  stage_rows<V, TT>(staged, p.input, first_row, p.rows - 1, sums);
  if (p.slots > 0) {  // TT is 1 then
    if (p.router.logits != nullptr) {
      choose_experts_of_row(
          p.router, p.router.logits + static_cast<std::int64_t>(first_row) * p.router.experts, router);
      if (blockIdx.x == 0 && threadIdx.x < p.slots) {
        p.router.ids[first_row * p.slots + threadIdx.x] = router.id[threadIdx.x];
        p.router.weights[first_row * p.slots + threadIdx.x] = router.weight[threadIdx.x];
      }
    } else if (threadIdx.x < p.slots) {
      router.id[threadIdx.x] = min(max(p.ids[first_row * p.slots + threadIdx.x], 0), p.expert_count - 1);
    }
  }
  __syncthreads();  // staged rows and expert ids are visible to every warp
  if (!early && unit < total) load_pair<C>(next, column_at(unit), 0);

  float gate[TT] = {}, up[TT] = {};
  int step = 0;
  while (unit < total) {
    const PairBatch batch = next;
    int next_unit = unit, next_step = step + kSteps;
    const bool last = next_step >= steps;
    if (last) next_unit = unit + stride, next_step = 0;
    if (next_unit < total) load_pair<C>(next, column_at(next_unit), next_step);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float g[V], u[V];
      Vec<C>::decode(batch.gate[s], g);
      Vec<C>::decode(batch.up[s], u);
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        // Beyond the last step the scale is zero.
        const float* x = staged + t * columns + min(step + s, steps - 1) * 32 * V;
        gate[t] = __fmaf_rn(dot_step<V>(g, x, lane), batch.gate_scale[s], gate[t]);
        up[t] = __fmaf_rn(dot_step<V>(u, x, lane), batch.up_scale[s], up[t]);
      }
    }
    if (last) {
      // Routed slots come first in `hidden`, the shared MLP behind them.
      const int place = unit < shared_inner ? p.slots * inner + unit : unit - shared_inner;
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        const float g = warp_sum(gate[t]), u = warp_sum(up[t]);
        if (lane == 0 && first_row + t < p.rows)
          p.hidden[(first_row + t) * p.hidden_stride + place] = __fmul_rn(silu(g), u);
        gate[t] = up[t] = 0;
      }
    }
    unit = next_unit, step = next_step;
  }
}

template <Code C, int TT>
void launch_gate_up(const Launch& on, const GateUpParams& p) {
  const int units = p.slots * p.gate.rows + p.shared_gate.rows;
  const std::size_t shared = sizeof(float) * TT * staged_columns<Vec<C>::kValues>(p.input.cols) +
                             (p.slots > 0 ? sizeof(ExpertPointers) * p.expert_count : 0);
  const int blocks = std::min((units + kWarps - 1) / kWarps, on.multiprocessors * 2);
  launch_kernel(on, gate_up_kernel<C, TT>, dim3(blocks, (p.rows + TT - 1) / TT), kThreads, shared, p);
}

template <Code C>
void choose_gate_up_rows(const Launch& on, const GateUpParams& p) {
  const std::size_t row = sizeof(float) * staged_columns<Vec<C>::kValues>(p.input.cols);
  if (p.slots == 0 && p.rows > 2 && 4 * row <= kMaxShared) return launch_gate_up<C, 4>(on, p);
  if (p.slots == 0 && p.rows > 1 && 2 * row <= kMaxShared) return launch_gate_up<C, 2>(on, p);
  launch_gate_up<C, 1>(on, p);
}

// -- down ---------------------------------------------------------------------------------------------------

// One step of one slot in the list a warp runs through: 32 bytes, two shared-memory reads.
struct alignas(16) DownStep {
  const std::byte* codes;  // of row 0 at the step's first column
  const float* scale;      // of grid row 0 at the step's first block; null without scales
  int staged;              // offset of the step in shared memory
  float weight;            // of the slot's expert; 1 for the shared MLP
  int vectors;             // of 16 bytes left in the row at this step
  int shift;  // columns from the beginning of the step's first scale block; plus kShared for the shared MLP
};
constexpr int kShared = 1 << 16;

// What a row n means for the two kinds of matrices: routed, shared.
struct DownRow {
  std::int64_t bytes[2];  // to the row
  int scales[2];          // to the row's scales
};
__device__ __forceinline__ DownRow down_row(const DownParams& p, int n) {
  return {{static_cast<std::int64_t>(n) * p.down.row_bytes,
           static_cast<std::int64_t>(n) * p.shared_down.row_bytes},
          {static_cast<int>(static_cast<unsigned>(n + p.down.row_shift) / 128u) * p.down.scale_cols,
           static_cast<int>(static_cast<unsigned>(n + p.shared_down.row_shift) / 128u) *
               p.shared_down.scale_cols}};
}

struct DownPointers {
  const std::byte* down;
  const float* scale;
};

struct DownPlan {
  DownParams p;
  int slot_steps, shared_steps;      // steps of one slot and of the shared MLP
  int slot_columns, shared_columns;  // staged columns of each
};

template <Code C>
struct DownBatch {
  uint4 v[kSteps];
  float scale[kSteps];
};

template <Code C>
__device__ __forceinline__ void load_down(DownBatch<C>& b, const DownStep* list, int count, int first,
                                          const DownRow& row) {
  constexpr int V = Vec<C>::kValues;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const DownStep step = list[min(first + s, count - 1)];
    const bool inside = first + s < count && lane < step.vectors, shared = step.shift >= kShared;
    const int safe = inside ? lane : 0;  // beyond the end bytes of the step are read again and count nothing
    b.v[s] = load_weights(step.codes + (shared ? row.bytes[1] : row.bytes[0]) + safe * 16);
    const float scale = step.scale == nullptr
                            ? 1.0f
                            : __ldg(step.scale + (shared ? row.scales[1] : row.scales[0]) +
                                    static_cast<unsigned>((step.shift & (kShared - 1)) + safe * V) / 128u);
    b.scale[s] = inside ? __fmul_rn(scale, step.weight) : 0.0f;
  }
}

template <Code C>
__global__ void __launch_bounds__(kThreads) down_combine_kernel(const __grid_constant__ DownPlan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float staged[];
  const DownParams& p = plan.p;
  const int count = p.slots * plan.slot_steps + plan.shared_steps;
  DownStep* list = reinterpret_cast<DownStep*>(staged + p.slots * plan.slot_columns + plan.shared_columns);
  DownPointers* table = reinterpret_cast<DownPointers*>(list + count);
  let_next_start();
  for (int e = threadIdx.x; p.slots > 0 && e < p.expert_count; e += kThreads)
    table[e] = {p.experts[e].down, p.experts[e].down_scale};
  __syncthreads();  // the experts' pointers are visible; they were read before the wait
  wait_for_previous();

  const std::int64_t row = blockIdx.y;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const bool routed = i < p.slots * plan.slot_steps;
    const int slot = routed ? i / plan.slot_steps : p.slots;
    const int step = routed ? i % plan.slot_steps : i - p.slots * plan.slot_steps;
    const Matrix& m = routed ? p.down : p.shared_down;
    const std::byte* codes = m.codes;
    const float* scale = m.scale;
    float weight = 1.0f;
    if (routed) {
      const int id = min(max(p.ids[row * p.slots + slot], 0), p.expert_count - 1);
      codes = table[id].down;
      scale = table[id].scale;
      weight = p.weights[row * p.slots + slot];
    }
    const int column = step * 32 * V + m.col_shift;
    list[i] = {codes + static_cast<std::int64_t>(step) * 512,
               scale == nullptr ? nullptr : scale + column / 128,
               slot * plan.slot_columns + step * 32 * V,
               weight,
               m.row_bytes / 16 - step * 32,
               column % 128 + (routed ? 0 : kShared)};
  }
  __syncthreads();  // the list is visible to every warp
  const std::int64_t rows = p.slots > 0 ? p.down.rows : p.shared_down.rows;
  int n = static_cast<int>(rows * blockIdx.x / gridDim.x) + warp;
  const int end = static_cast<int>(rows * (blockIdx.x + 1) / gridDim.x);
  DownBatch<C> next;
  DownRow at = down_row(p, n);
  if (n < end) load_down<C>(next, list, count, 0, at);

  // Rows of `hidden` are staged while the first weights are on their way.
  const float* hidden = p.hidden + row * p.hidden_stride;
  const int slot_groups = plan.slot_columns / 128, routed_groups = p.slots * slot_groups;
  stage_plain<V>(routed_groups + plan.shared_columns / 128, p.round, [&](int item) {
    const int slot = item < routed_groups ? item / slot_groups : p.slots;
    return GroupAt{hidden + static_cast<std::int64_t>(slot) * p.down.cols, (item - slot * slot_groups) * 128,
                   slot < p.slots ? p.down.cols : p.shared_down.cols, staged + slot * plan.slot_columns};
  });
  __syncthreads();  // the staged rows are visible to every warp

  float sum = 0;
  int first = 0;
  while (n < end) {
    const DownBatch<C> batch = next;
    int next_n = n, next_first = first + kSteps;
    const bool last = next_first >= count;
    if (last) next_n = n + kWarps, next_first = 0, at = down_row(p, next_n);
    if (next_n < end) load_down<C>(next, list, count, next_first, at);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      float w[V];
      Vec<C>::decode(batch.v[s], w);
      const float* x =
          staged + list[min(first + s, count - 1)].staged;  // beyond the last step the scale is zero
      sum = __fmaf_rn(dot_step<V>(w, x, lane), batch.scale[s], sum);
    }
    if (last) {
      sum = warp_sum(sum);
      if (lane == 0) {
        float* out = p.out + row * p.out_stride + n;
        *out = p.add ? __fadd_rn(*out, sum) : sum;
      }
      sum = 0;
    }
    n = next_n, first = next_first;
  }
}

template <Code C>
void launch_down(const Launch& on, const DownParams& p) {
  constexpr int V = Vec<C>::kValues;
  DownPlan plan{p, 0, 0, 0, 0};
  if (p.slots > 0) {
    plan.slot_columns = staged_columns<V>(p.down.cols);
    plan.slot_steps = plan.slot_columns / (32 * V);
  }
  if (p.shared_down.rows > 0) {
    plan.shared_columns = staged_columns<V>(p.shared_down.cols);
    plan.shared_steps = plan.shared_columns / (32 * V);
  }
  const int count = p.slots * plan.slot_steps + plan.shared_steps;
  const std::size_t shared =
      sizeof(float) * (static_cast<std::size_t>(p.slots) * plan.slot_columns + plan.shared_columns) +
      sizeof(DownStep) * count + (p.slots > 0 ? sizeof(DownPointers) * p.expert_count : 0);
  const int rows = p.slots > 0 ? p.down.rows : p.shared_down.rows;
  const int fit = shared > 96 * 1024 ? 1 : 2;
  const int blocks = std::min((rows + kWarps - 1) / kWarps, on.multiprocessors * fit);
  launch_kernel(on, down_combine_kernel<C>, dim3(blocks, p.rows), kThreads, shared, plan);
}

}  // namespace

void choose_experts(const Launch& on, const RouterParams& p, int rows) {
  if (rows > 0) launch_kernel(on, choose_kernel, dim3(rows), kThreads, 0, p);
}

void gate_up(const Launch& on, const GateUpParams& p) {
  if (p.rows == 0) return;
  switch (p.slots > 0 ? p.gate.code : p.shared_gate.code) {
    case Code::e4m3:
      return choose_gate_up_rows<Code::e4m3>(on, p);
    case Code::bf16:
      return choose_gate_up_rows<Code::bf16>(on, p);
    case Code::f32:
      return choose_gate_up_rows<Code::f32>(on, p);
  }
}

void down_combine(const Launch& on, const DownParams& p) {
  if (p.rows == 0) return;
  switch (p.slots > 0 ? p.down.code : p.shared_down.code) {
    case Code::e4m3:
      return launch_down<Code::e4m3>(on, p);
    case Code::bf16:
      return launch_down<Code::bf16>(on, p);
    case Code::f32:
      return launch_down<Code::f32>(on, p);
  }
}

}  // namespace fathom::cuda
