// What lives where: bytes of weights, cache and workspace, computed before the first allocation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/numerics.h"
#include "src/model/weights.h"

namespace fathom {

// Most rows of a prompt that a GPU pass takes at a time (Placement::prompt_rows says how many); results do
// not depend on it. A step of so many rows is long enough for tensor cores and short enough for Ctrl-C.
inline constexpr int kPromptChunk = 4096;
// With experts in host memory, where every row's expert outputs lie in pinned memory and the processor is the slower
// side from a few hundred rows on.
inline constexpr int kHostPromptChunk = 512;
// Most rows of one generated step (drafted tokens); more are split.
inline constexpr int kGeneratedRows = 8;
// Keys of one tile of attention and the most splits of one row's keys.
inline constexpr int kKeyTile = 64;
inline constexpr int kMaxSplits = 128;

// Splits a row may have: fewer when its heads, 64 to a block, fill the GPU. Depends on the model alone.
int max_splits(int heads);
// The fewest keys of a split, and what splits grow by: two tiles where a block works on two at a time.
int least_split_keys(int heads);
// Keys of one split of a generated row at `position`: a multiple of least_split_keys, a function of position
// and heads alone.
int keys_per_split(std::int32_t position, int heads);

// The buffers of a GPU pass (chunk: Placement::prompt_rows) beside weights and cache. A pass allocates
// exactly these.
enum class Work : std::uint8_t {
  rows,            // i32 (4, kPromptChunk): token, position, timeline, wanted index
  x,               // f32 (chunk, hidden_size)
  delta,           // f32 (chunk, hidden_size)
  input,           // bf16: the normed rows, then the widest other operand of a prompt GEMM
  input_scale,     // f32: one per row and 128 columns of `input`
  q_latent,        // f32 (chunk, q_lora_rank)
  kv_row,          // f32 (chunk, kv_row)
  q,               // f32 (chunk, heads, qk_head_dim)
  q_absorbed,      // bf16 or f32 (absorbed rows, heads, cache row)
  partial_sum,     // f32 (absorbed rows * splits, heads, 2): maximum and sum of a split
  partial_out,     // f32 (absorbed rows * splits, heads, kv_lora_rank)
  expanded_keys,   // f16 tiles of keys and values (expanded_heads, key tiles); see cuda/prompt_attention.cu
  expanded_rope,   // f16 tiles of rotated keys (key tiles)
  prompt_query,    // f16 tiles of q (expanded_heads, row tiles)
  kv_b_tiles,      // bf16 tiles of kv_b (expanded_heads)
  counter,         // i32 (2 + expanded_heads * row tiles, 4): next piece of attention's work, and the pieces
  attn,            // f32 (chunk, heads, v_head_dim)
  router_logits,   // f32 (chunk, n_routed_experts)
  expert_ids,      // i32 (chunk, num_experts_per_tok)
  expert_weights,  // f32 (chunk, num_experts_per_tok)
  hidden,          // f32 (chunk, num_experts_per_tok * moe_intermediate_size + shared, or intermediate_size)
  expert_out,      // bf16 (chunk, num_experts_per_tok, hidden_size)
  tiles,           // i32: prompt rows sorted by expert
  mtp_input,       // f32 (chunk, 2 hidden_size)
  logits,          // f32 (logit rows at a time, vocab_size)
  hand_off,        // counters of the hand-off to experts in host memory
  sampling,        // scratch and result of drawing a token
  layers_at_once,  // tables of the launch that runs all layers of a row, which allocates them itself
};
inline constexpr int kWorkBuffers = static_cast<int>(Work::layers_at_once) + 1;
// At most, of Work::layers_at_once. A model whose tables are larger runs layer by layer.
inline constexpr std::int64_t kLayersAtOnceBytes = std::int64_t{16} << 20;
inline constexpr int kSamplingBytes = 8192;
// Rows whose logits are computed at a time.
inline constexpr int kLogitRows = 16;
// Prompt rows that the absorbed form of attention takes at a time.
inline constexpr int kAbsorbedRows = 512;
// Rows or keys of a tile of the expanded form.
inline constexpr int kExpandedTile = 128;
// Rows of a GEMM tile of the prompt path.
inline constexpr int kGemmRows = 64;

struct PlacementRequest {
  Numerics numerics;
  std::int32_t capacity = 4096;
  std::uint32_t timelines = 1;
  bool mtp = false;
  Rank rank{};
  bool hopper = false;  // the GPU runs Hopper's own kernels: compute capability 9.0
  bool host_experts = false;  // routed experts stay in host memory
};

struct Placement {
  std::uint64_t weights = 0, cache = 0, workspace = 0;  // bytes on the GPU
  std::uint64_t host_experts = 0;                       // bytes of routed experts that stay in host memory
  std::uint64_t bytes_per_position = 0;                 // of cache, all layers and timelines
  std::vector<std::uint64_t> work;                      // by Work, each a multiple of 256
  std::int32_t capacity = 0;
  // Heads whose keys and values are expanded at a time for prompt rows; 0: prompt rows take the absorbed
  // form. Depends on the model, the GPU, the cache's type and the capacity, never on a call.
  int expanded_heads = 0;
  int prompt_rows = 0;  // rows of a prompt taken at a time: a multiple of 64, kGeneratedRows at least
  std::uint64_t total() const { return weights + cache + workspace; }
  // The largest capacity for which total() fits into `available` bytes; 0 if none does.
  std::int32_t largest_capacity(std::uint64_t available) const;
  // "weights 15.73 GiB + cache 0.12 GiB (4096 positions) + workspace 0.30 GiB = 16.15 GiB", and where they are in
  // host memory: "; routed experts 13.94 GiB in host memory"
  std::string text() const;
};

// Bytes of a matrix on a GPU: rows padded to 16 bytes, scales as F32, 256-byte aligned.
std::uint64_t device_bytes(const Linear& linear);
// Values of a cache row on a GPU: kv_row rounded up to 8 values.
int device_row_values(const Config& config);

// Computes the plan. Errors: none; the caller compares total() with what is free.
Placement place(const Config& config, const Weights& weights, const PlacementRequest& request);
// Where routed experts live: on the GPU as long as they fit, or as asked.
enum class ExpertPlace : std::uint8_t { automatic, gpu, host };

// The plan for `available` bytes: the context as requested or, where it was not asked for, as much of it as fits but
// not under 1,024; experts in host memory when `experts` says so, or when it is automatic and they do not fit.
// Errors: those of require_fit; unsupported for ExpertPlace::host and a model without routed experts.
Placement choose_placement(const Config& config, const Weights& weights, PlacementRequest request, ExpertPlace experts,
                           bool context_asked_for, std::uint64_t available, const std::string& device);

// Throws Error(out_of_memory) naming needed and available bytes and the largest context that fits, unless it
// fits.
void require_fit(const Placement& placement, std::uint64_t available, const std::string& device);

// Weights that have every shape and format of `config` (FP8 128x128 where `fp8`, else BF16) and no data: for
// plans and for weights filled on a device. Norm weights are 1, the router's bias 0.
Weights weights_of_shape(const Config& config, bool fp8, bool mtp = false);

}  // namespace fathom
