// Routed and shared experts of a few rows: gate and up with SwiGLU closed in registers, then down with the
// weighted sum over experts, both gathered by expert id; memory-bound.
//
//   V2-Lite: gate_up reads 2 (6 * 1408 + 2816) 2048 = 46 MB (14.9 us at 3.1 TB/s), down half of it.
//   V3:      2 (8 + 1) 2048 * 7168 = 264 MB (85 us), down 132 MB (43 us); measured 154 for both.
//
// gate_up: a unit is row j of gate and of up, an item one part of their columns (in_flight.cuh); SwiGLU is
// closed at the end of the block. Units of the shared (or dense) MLP come first: they need no choice of
// experts, and are requested before the wait; one warp chooses while the others work on them. down_combine:
// an item is one part of a pair of rows of one slot; what they sum to is multiplied by the expert's weight
// and added at the end of the block: slots in order, no atomics.
#include <algorithm>

#include "cuda/in_flight.cuh"
#include "cuda/router.cuh"

namespace fathom::cuda {
namespace {

constexpr std::size_t kMaxShared = 160 * 1024;

constexpr int kChoosing = 4;  // warps of a block, a row each

struct ChooseParams {
  RouterParams router;
  int rows;
};
__global__ void __launch_bounds__(32 * kChoosing) choose_kernel(const __grid_constant__ ChooseParams p) {
  __shared__ RouterScratch scratch[kChoosing];
  let_next_start();
  wait_for_previous();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kChoosing + warp;
  if (row >= p.rows) return;
  const RouterParams& r = p.router;
  choose_experts_of_row(r, r.logits + row * r.experts, scratch[warp]);
  if (lane < r.chosen) {
    r.ids[row * r.chosen + lane] = scratch[warp].id[lane];
    r.weights[row * r.chosen + lane] = scratch[warp].weight[lane];
  }
}

// -- gate and up --------------------------------------------------------------------------------------------

struct GateUpPlan {
  GateUpParams p;
  int parts_log2;  // of a unit's columns
};

// A unit is row j of gate and of up: of the shared MLP (slot 0) or of a chosen expert (slot 1 and up).
struct Unit {
  int slot, j;
};

// Copies the experts' pointers into shared memory, asynchronously: before the wait they cost nothing, behind
// it they would be one more trip to memory. Visible behind wait_for_copies and a barrier.
__device__ __forceinline__ void copy_table(ExpertPointers* table, const ExpertPointers* experts, int count) {
  constexpr int kPieces = sizeof(ExpertPointers) / 16;
  for (int i = threadIdx.x; i < count * kPieces; i += kThreads)
    copy_async(reinterpret_cast<std::byte*>(table) + i * 16,
               reinterpret_cast<const std::byte*>(experts) + i * 16, true);
  commit_copies();
}

template <Code C, int TT>
__global__ void __launch_bounds__(kThreads, 2) gate_up_kernel(const __grid_constant__ GateUpPlan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float memory[];
  __shared__ float sums[TT * kWarps];
  __shared__ RouterScratch router;
  __shared__ int entry[kMaxChosen + 1];  // of each slot in the table
  __shared__ int taken;                  // items that warps have taken
  const GateUpParams& p = plan.p;
  let_next_start();

  const int inner = p.gate.rows, shared_inner = p.shared_gate.rows;
  const int total = p.slots * inner + shared_inner;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int columns = staged_columns<V>(p.input.cols), steps = columns / (32 * V);
  const int first_row = static_cast<int>(blockIdx.y) * TT;
  const int log2 = plan.parts_log2, mask = (1 << log2) - 1;

  // Units are dealt to blocks in turn, so that every block has a part of the shared MLP to begin with.
  ExpertPointers* table = reinterpret_cast<ExpertPointers*>(memory + staging_floats<V>(p.input, TT));
  float* partial = reinterpret_cast<float*>(table + p.expert_count + 1);  // (items, 2, TT)
  const int blocks = static_cast<int>(gridDim.x);
  const int units = (total - static_cast<int>(blockIdx.x) + blocks - 1) / blocks, items = units << log2;
  const auto advance = [&](Unit& u, int by) {
    u.j += by * blocks;
    while (u.slot <= p.slots && u.j >= (u.slot == 0 ? shared_inner : inner))
      u.j -= u.slot == 0 ? shared_inner : inner, ++u.slot;
  };
  const bool choose = p.router.logits != nullptr;  // TT is 1 then
  bool ready = !choose;                            // this warp knows the choice
  // gate and up, and their scales, are cut alike.
  const auto locate = [&](Item<2>& at, const Unit& u, int part) {
    at.steps = at.left = 0;
    if (u.slot > p.slots) return;
    if (u.slot > 0 && !ready) {
      __syncthreads();  // once for each warp: the first one's choice is visible
      ready = true;
    }
    const Matrix& m = u.slot == 0 ? p.shared_gate : p.gate;
    const ExpertPointers& from = table[entry[u.slot]];
    cut(at, steps * part >> log2, steps * (part + 1) >> log2, m.row_bytes);
    point_at<C>(at, 0, m, from.gate, from.gate_scale, u.j);
    point_at<C>(at, 1, m, from.up, from.up_scale, u.j);
  };
  if (threadIdx.x == 0) {
    table[p.expert_count] = {p.shared_gate.codes, p.shared_up.codes, nullptr,
                             p.shared_gate.scale, p.shared_up.scale, nullptr};
    entry[0] = p.expert_count;
    taken = 2 * kWarps;
  }
  __syncthreads();  // the shared MLP's entry is visible
  int item = warp;
  Unit unit{0, static_cast<int>(blockIdx.x)};
  advance(unit, item >> log2);
  Item<2> at;
  Vector vector[kItemVectors];
  const bool early = unit.slot == 0;
  if (early) {
    locate(at, unit, item & mask);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }
  if (p.slots > 0) copy_table(table, p.experts, p.expert_count);
  const Staging<V, TT> staging(memory, p.input, first_row, p.rows - 1);
  wait_for_previous();
  staging.finish(p.input, sums);
  if (!choose && threadIdx.x < p.slots)
    entry[1 + threadIdx.x] = min(max(p.ids[first_row * p.slots + threadIdx.x], 0), p.expert_count - 1);
  wait_for_copies<0>();
  __syncthreads();  // staged rows, the table and ids that were given are visible to every warp
  // One warp chooses while the others work on the shared MLP.
  if (choose && warp == 0) {
    choose_experts_of_row(p.router, p.router.logits + static_cast<std::int64_t>(first_row) * p.router.experts,
                          router);
    if (lane < p.slots) {
      entry[1 + lane] = router.id[lane];
      if (blockIdx.x == 0) {
        p.router.ids[first_row * p.slots + lane] = router.id[lane];
        p.router.weights[first_row * p.slots + lane] = router.weight[lane];
      }
    }
  }
  if (!early) {
    locate(at, unit, item & mask);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }

  // Warps take items as they come free: one of them begins late.
  int next = item + kWarps;
#pragma unroll 1
  while (item < items) {
    const float* x = memory + at.step * 32 * V;
    const int now = at.steps;
    advance(unit, (next >> log2) - (item >> log2));
    locate(at, unit, next & mask);
    int then = 0;
    if (lane == 0) then = atomicAdd(&taken, 1);
    float sum[2][TT] = {};
    add_item<C>(sum, vector, now, x, columns, at);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int t = 0; t < TT; ++t) {
        const float whole = warp_sum(sum[r][t]);
        if (lane == 0) partial[(item * 2 + r) * TT + t] = whole;
      }
    item = next;
    next = __shfl_sync(~0u, then, 0);
  }
  if (!ready) __syncthreads();  // that of the choice
  __syncthreads();              // sums of all items are visible
  for (int i = static_cast<int>(threadIdx.x); i < units * TT; i += kThreads) {
    const int local = i / TT, t = i % TT, u = static_cast<int>(blockIdx.x) + local * blocks;
    if (first_row + t >= p.rows) continue;
    float gate = 0, up = 0;
    for (int k = local << log2; k < (local + 1) << log2; ++k) {
      gate = __fadd_rn(gate, partial[k * 2 * TT + t]);
      up = __fadd_rn(up, partial[(k * 2 + 1) * TT + t]);
    }
    // Routed slots come first in `hidden`, the shared MLP behind them.
    const int place = u < shared_inner ? p.slots * inner + u : u - shared_inner;
    p.hidden[(first_row + t) * p.hidden_stride + place] = __fmul_rn(silu(gate), up);
  }
}

template <Code C, int TT>
void launch_gate_up(const Launch& on, const GateUpParams& p) {
  constexpr int V = Vec<C>::kValues;
  const GateUpPlan plan{p, parts_log2(staged_columns<V>(p.input.cols) / (32 * V), kItemSteps<2>)};
  const int units = p.slots * p.gate.rows + p.shared_gate.rows;
  const int blocks = blocks_of(on, units << plan.parts_log2, TT * staged_columns<V>(p.input.cols));
  const int most = (units + blocks - 1) / blocks << plan.parts_log2;
  const std::size_t shared = sizeof(float) * (static_cast<std::size_t>(staging_floats<V>(p.input, TT)) +
                                              static_cast<std::size_t>(most * 2 * TT)) +
                             sizeof(ExpertPointers) * ((p.slots > 0 ? p.expert_count : 0) + std::size_t{1});
  launch_kernel(on, gate_up_kernel<C, TT>, dim3(blocks, (p.rows + TT - 1) / TT), kThreads, shared, plan);
}

template <Code C>
void choose_gate_up_rows(const Launch& on, const GateUpParams& p) {
  const std::size_t row = sizeof(float) * staged_columns<Vec<C>::kValues>(p.input.cols);
  if (p.slots == 0 && p.rows > 2 && 4 * row <= kMaxShared) return launch_gate_up<C, 4>(on, p);
  if (p.slots == 0 && p.rows > 1 && 2 * row <= kMaxShared) return launch_gate_up<C, 2>(on, p);
  launch_gate_up<C, 1>(on, p);
}

// -- down ---------------------------------------------------------------------------------------------------

struct DownPlan {
  DownParams p;
  int parts_log2[2];  // of the columns: of the shared MLP's row, of an expert's
  int steps[2];       // of a row
  int columns[2];     // staged
};

// An item is one part of a pair of rows. Items of a block are ordered by slot, the shared MLP's (slot 0)
// first, since its weights need no choice of experts; then by part, then by pair.
struct DownCursor {
  int slot, part, pair;
};

template <Code C>
__global__ void __launch_bounds__(kThreads, 2) down_combine_kernel(const __grid_constant__ DownPlan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float staged[];  // the shared MLP, then the slots
  __shared__ int entry[kMaxChosen + 1];            // of each slot in the table
  __shared__ float weight[kMaxChosen];
  const DownParams& p = plan.p;
  let_next_start();

  const int rows = p.slots > 0 ? p.down.rows : p.shared_down.rows, all_pairs = (rows + 1) / 2;
  const int begin = static_cast<int>(static_cast<std::int64_t>(all_pairs) * blockIdx.x / gridDim.x);
  const int pairs =
      static_cast<int>(static_cast<std::int64_t>(all_pairs) * (blockIdx.x + 1) / gridDim.x) - begin;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int shared_parts = plan.steps[0] == 0 ? 0 : 1 << plan.parts_log2[0];
  ExpertPointers* table =
      reinterpret_cast<ExpertPointers*>(staged + plan.columns[0] + p.slots * plan.columns[1]);
  float* partial = reinterpret_cast<float*>(table + p.expert_count + 1);  // (slot, part, pair, 2)
  const std::int64_t row = blockIdx.y;

  const auto advance = [&](DownCursor& c, int by) {
    c.pair += by;
    while (c.pair >= pairs) {
      c.pair -= pairs;
      if (++c.part == 1 << plan.parts_log2[c.slot > 0]) c.part = 0, ++c.slot;
    }
  };
  const float* x = staged;  // of the item last located
  const auto locate = [&](Item<2>& at, const DownCursor& c) {
    at.steps = at.left = 0;
    if (c.slot > p.slots) return;
    const int kind = c.slot > 0, log2 = plan.parts_log2[kind], n = (begin + c.pair) * 2;
    const Matrix& m = kind == 0 ? p.shared_down : p.down;
    const ExpertPointers& from = table[entry[c.slot]];
    cut(at, plan.steps[kind] * c.part >> log2, plan.steps[kind] * (c.part + 1) >> log2, m.row_bytes);
    point_at<C>(at, 0, m, from.down, from.down_scale, n);
    point_at<C>(at, 1, m, from.down, from.down_scale, min(n + 1, rows - 1));
    x = staged + (kind == 0 ? 0 : plan.columns[0] + (c.slot - 1) * plan.columns[1]) + at.step * 32 * V;
  };
  if (threadIdx.x == 0) {
    table[p.expert_count] = {nullptr, nullptr, p.shared_down.codes, nullptr, nullptr, p.shared_down.scale};
    entry[0] = p.expert_count;
  }
  if (lane == 0) warm(p.hidden + row * p.hidden_stride + threadIdx.x * 16);
  __syncthreads();  // the shared MLP's entry is visible
  DownCursor now{shared_parts == 0 ? 1 : 0, 0, 0};
  advance(now, warp);
  Item<2> at;
  Vector vector[kItemVectors];
  const bool early = now.slot == 0;
  if (early) {
    locate(at, now);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }
  if (p.slots > 0) copy_table(table, p.experts, p.expert_count);
  wait_for_previous();
  if (threadIdx.x < p.slots) {
    entry[1 + threadIdx.x] = min(max(p.ids[row * p.slots + threadIdx.x], 0), p.expert_count - 1);
    weight[threadIdx.x] = p.weights[row * p.slots + threadIdx.x];
  }

  const float* hidden = p.hidden + row * p.hidden_stride;
  const int shared_groups = plan.columns[0] / 128, slot_groups = plan.columns[1] / 128;
  stage_plain<V>(shared_groups + p.slots * slot_groups, p.round, [&](int group) {
    if (group < shared_groups)
      return GroupAt{hidden + static_cast<std::int64_t>(p.slots) * p.down.cols, group * 128,
                     p.shared_down.cols, staged};
    const int slot = (group - shared_groups) / slot_groups;
    return GroupAt{hidden + static_cast<std::int64_t>(slot) * p.down.cols,
                   (group - shared_groups - slot * slot_groups) * 128, p.down.cols,
                   staged + plan.columns[0] + slot * plan.columns[1]};
  });
  wait_for_copies<0>();
  __syncthreads();  // the staged rows, the choice and the table are visible to every warp
  if (!early) {
    locate(at, now);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }
  int item = warp;
#pragma unroll 1
  while (now.slot <= p.slots) {
    const float* from = x;
    const int steps = at.steps;
    advance(now, kWarps);
    locate(at, now);
    float sum[2][1] = {};
    add_item<C>(sum, vector, steps, from, 0, at);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float whole = warp_sum(sum[r][0]);
      if (lane == 0) partial[item * 2 + r] = whole;
    }
    item += kWarps;
  }
  __syncthreads();  // sums of all items are visible
  for (int i = static_cast<int>(threadIdx.x); i < 2 * pairs; i += kThreads) {
    const int n = begin * 2 + i;
    if (n >= rows) continue;
    const auto whole = [&](int first, int parts) {
      float v = 0;
      for (int part = 0; part < parts; ++part) v = __fadd_rn(v, partial[(first + part) * pairs * 2 + i]);
      return v;
    };
    float sum = 0;
    for (int slot = 0; slot < p.slots; ++slot)
      sum = __fmaf_rn(weight[slot],
                      whole(shared_parts + (slot << plan.parts_log2[1]), 1 << plan.parts_log2[1]), sum);
    if (shared_parts > 0) sum = __fadd_rn(sum, whole(0, shared_parts));
    float* out = p.out + row * p.out_stride + n;
    *out = p.add ? __fadd_rn(*out, sum) : sum;
  }
}

template <Code C>
void launch_down(const Launch& on, const DownParams& p) {
  constexpr int V = Vec<C>::kValues;
  DownPlan plan{p, {0, 0}, {0, 0}, {0, 0}};
  const auto set = [&](int kind, const Matrix& m) {
    plan.columns[kind] = staged_columns<V>(m.cols);
    plan.steps[kind] = plan.columns[kind] / (32 * V);
    plan.parts_log2[kind] = parts_log2(plan.steps[kind], kItemSteps<2>);
  };
  if (p.shared_down.rows > 0) set(0, p.shared_down);
  if (p.slots > 0) set(1, p.down);
  const int pieces = (p.shared_down.rows > 0 ? 1 << plan.parts_log2[0] : 0) + (p.slots << plan.parts_log2[1]);
  const int pairs = ((p.slots > 0 ? p.down.rows : p.shared_down.rows) + 1) / 2;
  const int columns = plan.columns[0] + p.slots * plan.columns[1];
  const int blocks = std::min(pairs, blocks_of(on, pairs * pieces, columns));
  const std::size_t shared =
      sizeof(float) * static_cast<std::size_t>(columns + (pairs + blocks - 1) / blocks * pieces * 2) +
      sizeof(ExpertPointers) * ((p.slots > 0 ? p.expert_count : 0) + std::size_t{1});
  launch_kernel(on, down_combine_kernel<C>, dim3(blocks, p.rows), kThreads, shared, plan);
}

}  // namespace

void choose_experts(const Launch& on, const RouterParams& p, int rows) {
  if (rows > 0)
    launch_kernel(on, choose_kernel, dim3((rows + kChoosing - 1) / kChoosing), 32 * kChoosing, 0,
                  ChooseParams{p, rows});
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
