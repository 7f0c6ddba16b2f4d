// Routed and shared experts of a few rows: gate and up with SwiGLU closed in registers, then down with the
// weighted sum over experts, both gathered by expert id; memory-bound.
//
//   V2-Lite: gate_up reads 2 (6 * 1408 + 2816) 2048 = 46 MB (14.9 us at 3.1 TB/s), down half of it;
//            measured: 41 us for both, so latency, not bandwidth, decides (cuda/NOTES.md).
//   V3:      2 (8 + 1) 2048 * 7168 = 264 MB (85 us), down 132 MB (43 us).
//
// gate_up: a warp owns one column j of one slot: row j of gate and of up, so silu(gate) * up needs no memory.
// Units are the shared (or dense) MLP's columns first, whose weights need no choice of experts and are
// requested before the wait, then slot by slot. down_combine: a warp owns pairs of rows of one slot; what
// they sum to is multiplied by the expert's weight and added at the end of the block: slots in order, no
// atomics.
#include <algorithm>

#include "cuda/in_flight.cuh"
#include "cuda/router.cuh"

namespace fathom::cuda {
namespace {

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

struct GateUpPlan {
  GateUpParams p;
  int parts;       // of a unit's columns
  int reciprocal;  // ceil(2^16 / parts)
};

// Rows j of gate and of up of one MLP, which one follows from the unit.
struct Pair {
  const Matrix *gate, *up;
  ExpertPointers at;
  int j;
};

template <Code C, int TT>
__global__ void __launch_bounds__(kThreads, 2) gate_up_kernel(const __grid_constant__ GateUpPlan plan) {
  constexpr int V = Vec<C>::kValues;
  extern __shared__ __align__(16) float memory[];
  __shared__ float sums[TT * kWarps];
  __shared__ RouterScratch router;
  const GateUpParams& p = plan.p;
  let_next_start();

  const int inner = p.gate.rows, shared_inner = p.shared_gate.rows;
  const int total = p.slots * inner + shared_inner;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int columns = staged_columns<V>(p.input.cols), steps = columns / (32 * V);
  const int first_row = static_cast<int>(blockIdx.y) * TT;

  // Units are dealt to blocks in turn, so that every block has a part of the shared MLP to begin with. The
  // experts' pointers are read before the wait: behind it they would be one more trip to memory.
  ExpertPointers* table = reinterpret_cast<ExpertPointers*>(memory + staging_floats<V>(p.input, TT));
  float* partial = reinterpret_cast<float*>(table + (p.slots > 0 ? p.expert_count : 0));  // (items, 2, TT)
  const int blocks = static_cast<int>(gridDim.x);
  const int units = (total - static_cast<int>(blockIdx.x) + blocks - 1) / blocks, items = units * plan.parts;
  const auto unit_at = [&](int local) { return static_cast<int>(blockIdx.x) + local * blocks; };
  const auto pair_of = [&](int unit) {
    if (unit < shared_inner)
      return Pair{
          &p.shared_gate,
          &p.shared_up,
          {p.shared_gate.codes, p.shared_up.codes, nullptr, p.shared_gate.scale, p.shared_up.scale, nullptr},
          unit};
    const int slot = (unit - shared_inner) / inner;
    return Pair{&p.gate, &p.up, table[router.id[slot]], unit - shared_inner - slot * inner};
  };
  const auto locate = [&](Item<2>& at, int item) {
    at.steps = at.left = 0;
    if (item >= items) return;
    const int local = item * plan.reciprocal >> 16;
    const int part = item - local * plan.parts;
    const Pair pair = pair_of(unit_at(local));
    cut(at, steps * part * plan.reciprocal >> 16, steps * (part + 1) * plan.reciprocal >> 16,
        pair.gate->row_bytes);
    point_at<C>(at, 0, *pair.gate, pair.at.gate, pair.at.gate_scale, pair.j);
    point_at<C>(at, 1, *pair.up, pair.at.up, pair.at.up_scale, pair.j);
  };
  const auto early = [&](int local) { return local < units && unit_at(local) < shared_inner; };

  int item = warp;
  Item<2> at;
  Vector vector[kItemVectors];
  const bool first_early = early(item * plan.reciprocal >> 16);
  if (first_early) {
    locate(at, item);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }
  for (int e = threadIdx.x; p.slots > 0 && e < p.expert_count; e += kThreads) table[e] = p.experts[e];
  const Staging<V, TT> staging(memory, p.input, first_row, p.rows - 1);
  wait_for_previous();
  staging.finish(p.input, sums);
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
  if (!first_early) {
    locate(at, item);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }

#pragma unroll 1
  while (item < items) {
    const float* x = memory + at.step * 32 * V;
    const int now = at.steps, next = item + kWarps;
    locate(at, next);
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
  }
  __syncthreads();  // sums of all items are visible
  for (int i = static_cast<int>(threadIdx.x); i < units * TT; i += kThreads) {
    const int local = i / TT, t = i % TT, unit = unit_at(local);
    if (first_row + t >= p.rows) continue;
    float gate = 0, up = 0;
    for (int k = local * plan.parts; k < (local + 1) * plan.parts; ++k) {
      gate = __fadd_rn(gate, partial[k * 2 * TT + t]);
      up = __fadd_rn(up, partial[(k * 2 + 1) * TT + t]);
    }
    // Routed slots come first in `hidden`, the shared MLP behind them.
    const int place = unit < shared_inner ? p.slots * inner + unit : unit - shared_inner;
    p.hidden[(first_row + t) * p.hidden_stride + place] = __fmul_rn(silu(gate), up);
  }
}

template <Code C, int TT>
void launch_gate_up(const Launch& on, const GateUpParams& p) {
  constexpr int V = Vec<C>::kValues;
  GateUpPlan plan{p, 0, 0};
  plan.parts = (staged_columns<V>(p.input.cols) / (32 * V) + kItemSteps<2> - 1) / kItemSteps<2>;
  plan.reciprocal = (65536 + plan.parts - 1) / plan.parts;
  const int units = p.slots * p.gate.rows + p.shared_gate.rows;
  const int blocks = std::max(std::min((units * plan.parts + kWarps - 1) / kWarps, on.multiprocessors * 2),
                              (units * plan.parts + 1023) / 1024);
  const int most = (units + blocks - 1) / blocks * plan.parts;
  const std::size_t shared = sizeof(float) * (static_cast<std::size_t>(staging_floats<V>(p.input, TT)) +
                                              static_cast<std::size_t>(most * 2 * TT)) +
                             (p.slots > 0 ? sizeof(ExpertPointers) * p.expert_count : 0);
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

// A piece is one of `parts` parts of the columns of the shared MLP or of one slot.
struct DownKind {
  int steps, parts, reciprocal;  // ceil(2^16 / parts)
  int columns;                   // staged
};
struct DownPlan {
  DownParams p;
  DownKind routed, shared;
};

// An item is one piece of a pair of rows. Items of a block are ordered by piece, the shared MLP's first,
// whose weights need no choice of experts; then by pair.
struct DownCursor {
  int piece, pair;
  __device__ __forceinline__ void advance(int pairs) {
    pair += kWarps;
    while (pair >= pairs) pair -= pairs, ++piece;
  }
};

template <Code C>
__global__ void __launch_bounds__(kThreads, 2) down_combine_kernel(const __grid_constant__ DownPlan plan) {
  constexpr int V = Vec<C>::kValues;
  struct Pointers {
    const std::byte* down;
    const float* scale;
  };
  extern __shared__ __align__(16) float staged[];  // the slots, then the shared MLP
  __shared__ int id[kMaxChosen];
  __shared__ float weight[kMaxChosen];
  const DownParams& p = plan.p;
  let_next_start();

  const int pieces = plan.shared.parts + p.slots * plan.routed.parts;
  const int rows = p.slots > 0 ? p.down.rows : p.shared_down.rows, all_pairs = (rows + 1) / 2;
  const int begin = static_cast<int>(static_cast<std::int64_t>(all_pairs) * blockIdx.x / gridDim.x);
  const int pairs =
      static_cast<int>(static_cast<std::int64_t>(all_pairs) * (blockIdx.x + 1) / gridDim.x) - begin;
  Pointers* table = reinterpret_cast<Pointers*>(staged + p.slots * plan.routed.columns + plan.shared.columns);
  float* partial =
      reinterpret_cast<float*>(table + (p.slots > 0 ? p.expert_count : 0));  // (pieces, pairs, 2)
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t row = blockIdx.y;

  struct Place {
    const Matrix* m;
    const std::byte* codes;
    const float* scale;
    int slot, step, end;
  };
  const auto place_of = [&](int piece) {
    if (piece < plan.shared.parts) {
      const DownKind& k = plan.shared;
      return Place{&p.shared_down,
                   p.shared_down.codes,
                   p.shared_down.scale,
                   p.slots,
                   k.steps * piece * k.reciprocal >> 16,
                   k.steps * (piece + 1) * k.reciprocal >> 16};
    }
    const DownKind& k = plan.routed;
    const int i = piece - plan.shared.parts, slot = i * k.reciprocal >> 16, part = i - slot * k.parts;
    return Place{&p.down,
                 table[id[slot]].down,
                 table[id[slot]].scale,
                 slot,
                 k.steps * part * k.reciprocal >> 16,
                 k.steps * (part + 1) * k.reciprocal >> 16};
  };
  const float* x = staged;  // of the item last located
  const auto locate = [&](Item<2>& at, const DownCursor& c) {
    at.steps = at.left = 0;
    if (c.piece >= pieces) return;
    const Place place = place_of(c.piece);
    const int n = (begin + c.pair) * 2;
    cut(at, place.step, place.end, place.m->row_bytes);
#pragma unroll
    for (int r = 0; r < 2; ++r) point_at<C>(at, r, *place.m, place.codes, place.scale, min(n + r, rows - 1));
    x = staged + place.slot * plan.routed.columns + place.step * 32 * V;
  };
  DownCursor now{0, warp};
  while (now.pair >= pairs) now.pair -= pairs, ++now.piece;
  Item<2> at;
  Vector vector[kItemVectors];
  const bool early = now.piece < plan.shared.parts;
  if (early) {
    locate(at, now);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }
  for (int e = threadIdx.x; p.slots > 0 && e < p.expert_count; e += kThreads)
    table[e] = {p.experts[e].down, p.experts[e].down_scale};
  if (lane == 0) warm(p.hidden + row * p.hidden_stride + threadIdx.x * 16);
  wait_for_previous();
  if (threadIdx.x < p.slots) {
    id[threadIdx.x] = min(max(p.ids[row * p.slots + threadIdx.x], 0), p.expert_count - 1);
    weight[threadIdx.x] = p.weights[row * p.slots + threadIdx.x];
  }

  const float* hidden = p.hidden + row * p.hidden_stride;
  const int slot_groups = plan.routed.columns / 128, routed_groups = p.slots * slot_groups;
  stage_plain<V>(routed_groups + plan.shared.columns / 128, p.round, [&](int item) {
    const int slot = item < routed_groups ? item / slot_groups : p.slots;
    return GroupAt{hidden + static_cast<std::int64_t>(slot) * p.down.cols, (item - slot * slot_groups) * 128,
                   slot < p.slots ? p.down.cols : p.shared_down.cols, staged + slot * plan.routed.columns};
  });
  __syncthreads();  // the staged rows and the choice are visible to every warp
  if (!early) {
    locate(at, now);
#pragma unroll
    for (int i = 0; i < kItemVectors; ++i) load_vector<C>(vector[i], at, i);
  }

#pragma unroll 1
  while (now.piece < pieces) {
    const float* from = x;
    const int steps = at.steps;
    float* to = partial + (now.piece * pairs + now.pair) * 2;
    now.advance(pairs);
    locate(at, now);
    float sum[2][1] = {};
    add_item<C>(sum, vector, steps, from, 0, at);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float whole = warp_sum(sum[r][0]);
      if (lane == 0) to[r] = whole;
    }
  }
  __syncthreads();  // sums of all items are visible
  for (int i = static_cast<int>(threadIdx.x); i < 2 * pairs; i += kThreads) {
    const int n = begin * 2 + i;
    if (n >= rows) continue;
    const auto whole = [&](int piece, int parts) {
      float v = 0;
      for (int part = 0; part < parts; ++part) v = __fadd_rn(v, partial[(piece + part) * pairs * 2 + i]);
      return v;
    };
    float sum = 0;
    for (int slot = 0; slot < p.slots; ++slot)
      sum = __fmaf_rn(weight[slot], whole(plan.shared.parts + slot * plan.routed.parts, plan.routed.parts),
                      sum);
    sum = __fadd_rn(sum, whole(0, plan.shared.parts));
    float* out = p.out + row * p.out_stride + n;
    *out = p.add ? __fadd_rn(*out, sum) : sum;
  }
}

template <Code C>
DownKind down_kind(const Matrix& m) {
  constexpr int V = Vec<C>::kValues;
  if (m.rows == 0) return {};
  DownKind k{staged_columns<V>(m.cols) / (32 * V), 0, 0, staged_columns<V>(m.cols)};
  k.parts = (k.steps + kItemSteps<2> - 1) / kItemSteps<2>;
  k.reciprocal = (65536 + k.parts - 1) / k.parts;
  return k;
}

template <Code C>
void launch_down(const Launch& on, const DownParams& p) {
  const DownPlan plan{p, p.slots > 0 ? down_kind<C>(p.down) : DownKind{}, down_kind<C>(p.shared_down)};
  const int pieces = plan.shared.parts + p.slots * plan.routed.parts;
  const int pairs = ((p.slots > 0 ? p.down.rows : p.shared_down.rows) + 1) / 2;
  const int columns = p.slots * plan.routed.columns + plan.shared.columns;
  const int full = on.multiprocessors * (columns > 24 * 1024 ? 1 : 2);
  const int blocks = std::clamp((pairs * pieces + kWarps - 1) / kWarps, 1, std::min(full, pairs));
  const std::size_t shared =
      sizeof(float) * static_cast<std::size_t>(columns + (pairs + blocks - 1) / blocks * pieces * 2) +
      (p.slots > 0 ? 16 * static_cast<std::size_t>(p.expert_count) : 0);
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
