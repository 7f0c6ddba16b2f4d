// The router's choice for one row, by one warp: scores, groups, top-k, weights.
#pragma once

#include "cuda/kernel.cuh"

namespace fathom::cuda {

inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxChosen = 32;
inline constexpr int kMaxGroups = 64;

struct RouterScratch {
  float score[kMaxExperts];   // softmax or sigmoid; before, the logits
  unsigned key[kMaxExperts];  // what is ranked: score plus bias
  float group[kMaxGroups];
  int id[kMaxChosen];  // ascending
  float weight[kMaxChosen];
};

// Orders as the numbers do, NaN lowest; 0 is left for experts that are out of the question.
__device__ __forceinline__ unsigned order_key(float x) {
  if (isnan(x)) x = -INFINITY;
  if (x == 0) x = 0;  // both zeros are equal
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

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

// The same by one warp, of keys.
__device__ __forceinline__ float group_score_of_keys(const RouterParams& p, const unsigned* key, int g) {
  const int size = p.experts / p.groups, lane = threadIdx.x % 32;
  unsigned first = 0, second = 0;
  for (int i = lane; i < size; i += 32) {
    const unsigned k = key[g * size + i];
    second = max(second, min(first, k)), first = max(first, k);
  }
  const unsigned best = __reduce_max_sync(~0u, first);
  if (!p.group_sum || size == 1) return key_value(best);
  const bool owner = __ffs(__ballot_sync(~0u, first == best)) - 1 == lane;
  return __fadd_rn(key_value(best), key_value(__reduce_max_sync(~0u, owner ? second : first)));
}

// The `chosen` largest keys, of equals the lowest id, by one warp: ids ascending.
__device__ __forceinline__ void take_largest(const RouterParams& p, RouterScratch& s) {
  const int lane = threadIdx.x % 32;
  unsigned mine = 0;  // bit i: expert i * 32 + lane is chosen; its key is only read and written by this lane
#pragma unroll 1
  for (int k = 0; k < p.chosen; ++k) {
    unsigned best = 0, where = 0;
#pragma unroll 8
    for (int e = lane; e < p.experts; e += 32)
      if (s.key[e] > best) best = s.key[e], where = static_cast<unsigned>(e);
    const unsigned top = __reduce_max_sync(~0u, best);
    const unsigned id = __reduce_min_sync(~0u, best == top ? where : ~0u);
    if (id % 32 == lane) s.key[id] = 0, mine |= 1u << id / 32;
  }
  int taken = 0;
  for (int i = 0; i * 32 < p.experts; ++i) {
    const unsigned mask = __ballot_sync(~0u, mine >> i & 1);
    const int slot = taken + __popc(mask & ((1u << lane) - 1));
    if (mine >> i & 1) s.id[slot] = i * 32 + lane;
    taken += __popc(mask);
  }
}

// The router's choice for a row, by one warp; the result is in scratch.id and scratch.weight, visible to its
// lanes. `logits`: (experts).
__device__ inline void choose_experts_of_row(const RouterParams& p, const float* logits, RouterScratch& s) {
  const int lane = threadIdx.x % 32;
  float maximum = -INFINITY, sum = 0;
#pragma unroll 8
  for (int e = lane; e < p.experts; e += 32) {
    s.score[e] = logits[e];
    maximum = fmaxf(maximum, s.score[e]);
  }
  if (!p.sigmoid) {
    maximum = warp_max(maximum);
    for (int e = lane; e < p.experts; e += 32) sum = __fadd_rn(sum, expf(__fsub_rn(s.score[e], maximum)));
    sum = warp_sum(sum);
  }
#pragma unroll 4
  for (int e = lane; e < p.experts; e += 32) {
    const float z = s.score[e];
    const float score =
        p.sigmoid ? __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-z))) : __fdiv_rn(expf(__fsub_rn(z, maximum)), sum);
    s.score[e] = score;
    s.key[e] = order_key(p.bias == nullptr ? score : __fadd_rn(score, p.bias[e]));
  }
  __syncwarp();  // scores and keys are complete
  if (p.groups > 1) {
    for (int g = 0; g < p.groups; ++g) {
      const float score = group_score_of_keys(p, s.key, g);
      if (lane == 0) s.group[g] = score;
    }
    __syncwarp();  // group scores are complete, keys have been read
    for (int e = lane; e < p.experts; e += 32) {
      const int g = e / (p.experts / p.groups);
      int better = 0;
      for (int other = 0; other < p.groups; ++other)
        better += s.group[other] > s.group[g] || (s.group[other] == s.group[g] && other < g);
      if (better >= p.groups_kept) s.key[e] = order_key(-INFINITY);
    }
  }
  take_largest(p, s);
  __syncwarp();  // ids are visible
  if (lane < p.chosen) {
    float weight = s.score[s.id[lane]];
    if (p.normalise) {
      float total = 0;
      for (int i = 0; i < p.chosen; ++i) total = __fadd_rn(total, s.score[s.id[i]]);
      weight = __fdiv_rn(weight, __fadd_rn(total, 1e-20f));
    }
    s.weight[lane] = __fmul_rn(weight, p.factor);
  }
  __syncwarp();  // weights are visible
}

}  // namespace fathom::cuda
