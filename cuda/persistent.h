// All layers of one generated row in one cooperative launch. Private to cuda/.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "cuda/weights.h"

namespace fathom::cuda {

// Matrices of one role have one shape in every layer; see Matrix.
struct RoleShape {
  int rows = 0, cols = 0, row_bytes = 0, scale_cols = 0;
  int per_transfer = 1;  // rows (of one matrix, or of gate and up each)
};
struct RolePointers {
  const std::byte* codes = nullptr;
  const float* scale = nullptr;  // null without block scales
};

// What differs from layer to layer; copied to shared memory in 16-byte pieces.
struct alignas(16) PersistentLayer {
  const float *input_layernorm = nullptr, *kv_a_layernorm = nullptr, *post_attention_layernorm = nullptr;
  const float* e_score_correction_bias = nullptr;
  RolePointers q, kv_a, kv_b, o, router;
  RolePointers gate, up, down;  // of the dense or the shared MLP
  const ExpertPointers* experts = nullptr;
  void* cache = nullptr;
};

struct GridCounters;
struct TaggedWord;

struct PersistentParams {
  const PersistentLayer* layers = nullptr;  // all of the model's
  int begin = 0, end = 0;                   // to run
  RoleShape q, kv_a, kv_b, o, router, dense_up, dense_down, shared_up, shared_down, expert_up, expert_down;
  AttentionShape attention;
  RouterParams choice;  // logits, ids and weights of the one row
  const std::int32_t *position = nullptr, *timeline = nullptr;
  std::int64_t capacity = 0;
  int keys_per_round = 1;            // a split has kTile * (position / keys_per_round + 1) keys
  const float* frequency = nullptr;  // (rope / 2)
  float magnitude = 1, eps = 0;
  Round round = Round::none;
  float *x = nullptr, *q_out = nullptr, *kv_row = nullptr, *router_logits = nullptr;  // as Work's
  // What blocks hand to each other in words that carry the layer's epoch (cuda/handoff.cuh): pairs of q and
  // kv_row; six values of q', in the order of the blocks that write them, and of the row's key as one more
  // head; pairs of x behind attention and behind the MLP; logits.
  TaggedWord *q_words = nullptr, *absorbed_words = nullptr, *x_words[2] = {}, *logit_words = nullptr;
  float *partial_sum = nullptr, *partial_out = nullptr;
  float* value = nullptr;           // (kValueParts, heads v): partial sums of W_UV over columns
  __nv_bfloat16* hidden = nullptr;  // routed slots, then the shared MLP; rounded
  GridCounters* counters = nullptr;
  int activation_bytes = 0, ring_bytes = 0;
  int in_flight = 2;  // transfers under way, at most
  // Times of block b at hand-off h: when it arrived and when it was through; (blocks, hand-offs, 2) ns. Null:
  // none.
  std::uint64_t* stamps = nullptr;
  int stamps_per_block = 0;
};
inline constexpr int kHandoffsPerLayer = 7;
inline constexpr int kTaggedWordBytes = 16;
inline constexpr int kAbsorbedWords = 96;  // of a head
// Splits of a row's keys that the partial buffers must hold.
inline constexpr int kPersistentSplits = 128;

// Bytes of dynamic shared memory of the launch.
std::size_t persistent_shared_bytes(const PersistentParams& p);
// The largest ring beside what else a block keeps in `shared_per_block` bytes.
int most_ring_bytes(const PersistentParams& p, int shared_per_block);
// Layers [begin, end) of the row. Reads x, position, timeline and the cache; leaves x and the row in the
// cache.
void run_persistent(const Launch& on, const PersistentParams& p);

// The hand-off alone, `epochs` times: every thread of every block writes a word, hands off, and checks
// everybody's. `words`: 2 * blocks * 512; `errors`: one, to which wrong words are added. skip_wait: without
// the wait, for a test that the check can fail.
void run_handoffs(const Launch& on, GridCounters* counters, unsigned* words, unsigned* errors, int epochs,
                  bool skip_wait);
std::size_t grid_counters_bytes();

// A plan for a model's layers: parameters, and the memory they point to.
struct PersistentPlan {
  PersistentParams params;
  Arena memory;
};
// `base`: buffers, attention, choice and numerics, as for the layered kernels. Null if the model does not
// suit: see the conditions in persistent.cpp.
std::unique_ptr<PersistentPlan> plan_persistent(const Launch& on, const std::vector<DeviceLayer>& layers,
                                                const PersistentParams& base,
                                                const std::function<void*(int)>& cache_of);

}  // namespace fathom::cuda
