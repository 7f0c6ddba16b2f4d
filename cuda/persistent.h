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

// One step of the warp that copies weights. The steps of a block are the same in every layer of a kind.
enum class TransferKind : std::int32_t {
  rows,      // `pieces` matrices' rows from code_offset on
  chunk,     // part of `pieces` long rows of the dense MLP's down, code_bytes of each
  keys,      // the block's keys, as many transfers as they take
  choose,    // waits for the router and chooses the experts
  weigh,     // computes their weights
  prefetch,  // what other warps read straight from memory, into L2
  end        // of the layer
};
struct alignas(16) Transfer {
  TransferKind kind = TransferKind::rows;
  int source = 0, pieces = 1;                             // the first matrix, see sources in persistent.cpp
  int code_offset = 0, code_bytes = 0;                    // of each piece, in its matrix
  int scale_offset = 0, scale_skip = 0, scale_bytes = 0;  // copied of its scales; to the first one needed
  int ring_bytes = 0;
};
// Matrices by number: q, kv_a, kv_b, o, router, gate, up, down; then gate, up, down of every chosen expert.
enum Source {
  kSourceQ,
  kSourceKvA,
  kSourceKvB,
  kSourceO,
  kSourceRouter,
  kSourceGate,
  kSourceUp,
  kSourceDown
};
inline constexpr int kLayerSources = 8;
inline constexpr int kMostTransfers = 60;  // of a layer, the end among them
inline constexpr int kLayerKinds = 2;      // dense; of experts

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
  std::uint64_t* hidden_words =
      nullptr;  // half words, a pair of BF16 each: routed slots, then the shared MLP
  float *partial_sum = nullptr, *partial_out = nullptr;
  float* value = nullptr;  // (kValueParts, heads v): partial sums of W_UV over columns
  GridCounters* counters = nullptr;
  const Transfer* transfers = nullptr;  // (blocks, kLayerKinds, kMostTransfers)
  Code code = Code::e4m3;               // of all matrices but the router; or bf16
  int chunk_bytes = 0;                  // of each row in a transfer of kind `chunk`
  int activation_bytes = 0, ring_bytes = 0;
  int in_flight = 2;  // transfers under way, at most
  // Times of block b at hand-off h: when it arrived and when it was through; (blocks, hand-offs, 2) ns. Null:
  // none.
  std::uint64_t* stamps = nullptr;
  int stamps_per_block = 0;
};
inline constexpr int kHandoffsPerLayer = 7;
inline constexpr int kKeyTransferBytes = 32 * (576 + 8) * 2;
inline constexpr int kTaggedWordBytes = 16;
inline constexpr int kAbsorbedWords = 96;  // of a head
inline constexpr int kValueParts = 8;      // of a head's latent columns
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
