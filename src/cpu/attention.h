// Multi-head latent attention in the absorbed form, reading every key from the cache as stored (models.md
// section 2.2).
#pragma once

#include <cstdint>
#include <span>

#include "src/cpu/linear.h"
#include "src/engine/forward.h"
#include "src/engine/kv_cache.h"
#include "src/model/config.h"

namespace fathom::cpu {

struct AttendCall {
  const Config& config;
  const KvCache& cache;
  StreamId stream;
  const Linear& kv_b_proj;    // of this rank's heads
  std::span<const Row> rows;  // T
  std::span<const float> q;   // (T, heads, qk_nope_head_dim + qk_rope_head_dim), rotated
  float softmax_scale;
  float* attn;  // (T, heads, v_head_dim)
};

// Per row and head: softmax over all keys at positions <= the row's, in FP32. Keys are taken in tiles of
// kKeyTile from position 0 and joined in ascending order, so a row's bits depend on its own position only.
// `poll` is asked between blocks of rows, a few tenths of a second of work apart, and may throw.
void attend(const Machine& m, const AttendCall& call, FunctionRef<void()> poll);

}  // namespace fathom::cpu
