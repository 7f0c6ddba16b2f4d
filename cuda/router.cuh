// The router's choice for one row, by one block: scores, groups, top-k, weights.
#pragma once

#include "cuda/kernel.cuh"

namespace fathom::cuda {

inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxChosen = 32;
inline constexpr int kMaxGroups = 64;

struct RouterScratch {
  float score[kMaxExperts];   // softmax or sigmoid
  float choice[kMaxExperts];  // what is ranked: score plus bias, -inf outside the groups kept
  float group[kMaxGroups];
  int before[kWarps + 1];  // chosen experts in the warps before
  int id[kMaxChosen];      // ascending
  float weight[kMaxChosen];
};

// Score of group g: the largest choice in it, or the sum of the two largest.
__device__ __forceinline__ float group_score(const RouterParams& p, const float* choice, int g) {
  const int size = p.experts / p.groups;
  float first = -INFINITY, second = -INFINITY;
  for (int i = g * size; i < (g + 1) * size; ++i) {
    const float c = choice[i];
    if (c > first)
      second = first, first = c;
    else if (c > second)
      second = c;
  }
  return p.group_sum && size > 1 ? __fadd_rn(first, second) : first;
}

// Ranks are counted rather than sorted: expert e is chosen when fewer than `chosen` experts come before it (a
// larger choice, or an equal one with a lower id). Every thread of the block takes part; the result is in
// scratch.id and scratch.weight, visible to all on return. `logits`: (experts).
__device__ inline void choose_experts_of_row(const RouterParams& p, const float* logits, RouterScratch& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float maximum = 0, sum = 1;
  if (!p.sigmoid) {
    // Every warp computes the same two numbers: cheaper than a barrier.
    maximum = -INFINITY;
    for (int e = lane; e < p.experts; e += 32) maximum = fmaxf(maximum, logits[e]);
    maximum = warp_max(maximum);
    sum = 0;
    for (int e = lane; e < p.experts; e += 32) sum = __fadd_rn(sum, expf(__fsub_rn(logits[e], maximum)));
    sum = warp_sum(sum);
  }
  for (int e = threadIdx.x; e < p.experts; e += kThreads) {
    const float z = logits[e];
    const float score =
        p.sigmoid ? __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-z))) : __fdiv_rn(expf(__fsub_rn(z, maximum)), sum);
    s.score[e] = score;
    const float choice = p.bias == nullptr ? score : __fadd_rn(score, p.bias[e]);
    s.choice[e] =
        isnan(choice) ? -INFINITY : choice;  // NaN is masked, so that there are `chosen` experts at all
  }
  if (threadIdx.x < kMaxChosen) s.id[threadIdx.x] = 0;  // defined even when every score is NaN
  __syncthreads();                                      // scores are complete
  if (p.groups > 1) {
    if (threadIdx.x < p.groups) s.group[threadIdx.x] = group_score(p, s.choice, threadIdx.x);
    __syncthreads();  // group scores are complete, choices have been read
    for (int e = threadIdx.x; e < p.experts; e += kThreads) {
      const int g = e / (p.experts / p.groups);
      int better = 0;
      for (int other = 0; other < p.groups; ++other)
        better += s.group[other] > s.group[g] || (s.group[other] == s.group[g] && other < g);
      if (better >= p.groups_kept) s.choice[e] = -INFINITY;
    }
    __syncthreads();  // masks are complete
  }
  int taken = 0;  // chosen experts in earlier rounds of kThreads experts
  for (int base = 0; base < p.experts; base += kThreads) {
    const int e = base + threadIdx.x;
    bool chosen = false;
    if (e < p.experts) {
      const float mine = s.choice[e];
      int before = 0;
#pragma unroll 4
      for (int other = 0; other < p.experts; ++other)
        before += s.choice[other] > mine || (s.choice[other] == mine && other < e);
      chosen = before < p.chosen;
    }
    const unsigned mask = __ballot_sync(~0u, chosen);
    if (lane == 0) s.before[warp] = __popc(mask);
    __syncthreads();  // counts of all warps are visible
    int slot = taken + __popc(mask & ((1u << lane) - 1));
    for (int w = 0; w < warp; ++w) slot += s.before[w];
    for (int w = 0; w < kWarps; ++w) taken += s.before[w];
    if (chosen && slot < p.chosen) s.id[slot] = e, s.weight[slot] = s.score[e];
    __syncthreads();  // counts are read before the next round overwrites them; ids are visible
  }
  float factor = p.factor;
  if (p.normalise) {
    float total = 0;
    for (int i = 0; i < p.chosen; ++i) total = __fadd_rn(total, s.weight[i]);
    factor = 0;
    if (threadIdx.x < p.chosen)
      factor = __fmul_rn(__fdiv_rn(s.weight[threadIdx.x], __fadd_rn(total, 1e-20f)), p.factor);
  } else if (threadIdx.x < p.chosen) {
    factor = __fmul_rn(s.weight[threadIdx.x], p.factor);
  }
  __syncthreads();  // every thread has read the weights
  if (threadIdx.x < p.chosen) s.weight[threadIdx.x] = factor;
  __syncthreads();  // ids and weights are visible
}

}  // namespace fathom::cuda
