// The weights of a model, bound by name: views into the mapped checkpoint, checked for shape and type.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "src/model/config.h"
#include "src/model/expert_table.h"
#include "src/model/linear.h"

namespace fathom {

class Checkpoint;

// Part `index` of `count` equal partners of a tensor-parallel run.
struct Rank {
  int index = 0, count = 1;
};

// down(silu(gate x) * up x), of a dense layer or of the shared experts.
struct Mlp {
  Linear gate, up, down;
};

// What one layer owns. Norm weights are F32 copies (a few kB), everything else a view.
struct LayerWeights {
  std::vector<float> input_layernorm, post_attention_layernorm;  // (hidden_size)
  Linear q_a_proj;                   // (q_lora_rank, hidden); absent without q_lora
  std::vector<float> q_a_layernorm;  // (q_lora_rank); empty without q_lora
  Linear q_proj;     // q_b_proj (heads (nope + rope), q_lora_rank), or q_proj (heads (nope + rope), hidden)
  Linear kv_a_proj;  // kv_a_proj_with_mqa (kv_lora_rank + rope, hidden)
  std::vector<float> kv_a_layernorm;  // (kv_lora_rank)
  Linear kv_b_proj;  // (heads (nope + v), kv_lora_rank): per head nope rows of W_UK, then v rows of W_UV
  Linear o_proj;     // (hidden, heads v)

  std::optional<Mlp> dense;                    // present exactly when the layer is not MoE
  Linear router;                               // mlp.gate (n_routed_experts, hidden)
  std::vector<float> e_score_correction_bias;  // (n_routed_experts); empty unless noaux_tc
  ExpertTable experts;
  std::optional<Mlp> shared;
};

// The MTP module: its own norms and projection around one ordinary layer (models.md section 4).
struct MtpWeights {
  std::vector<float> enorm, hnorm, norm;  // (hidden_size); norm = shared_head.norm
  Linear eh_proj;                         // (hidden, 2 hidden), embedding half first
  Linear embed_tokens, head;              // the main ones where the checkpoint has no copy
  LayerWeights layer;
};

struct Weights {
  Linear embed_tokens;      // (vocab_size, hidden)
  std::vector<float> norm;  // (hidden_size)
  Linear lm_head;           // (vocab_size, hidden); embed_tokens when tied
  std::vector<LayerWeights> layers;
  std::vector<MtpWeights> mtp;  // empty unless asked for
  // Bytes of all views, each counted once, and of those read for one generated token.
  std::int64_t bytes_total = 0, bytes_per_token = 0;
  // Heads [first_head, first_head + heads) and vocabulary rows [first_vocab_row, ...) belong to this rank.
  int first_head = 0, heads = 0;
  int first_vocab_row = 0;
};

struct BindOptions {
  bool mtp = false;
};

// Binds every tensor that the config calls for. Errors: bad_checkpoint listing all missing tensors and all
// wrong shapes
// ("model.layers.3.mlp.gate.weight: expected (256, 7168) BF16, found (160, 5120) BF16"); unsupported for a
// dtype or a naming scheme fathom does not run. Unknown tensors are returned in `unknown` if given.
Weights bind_weights(const Checkpoint& checkpoint, const Config& config, const BindOptions& options = {},
                     std::vector<std::string>* unknown = nullptr);

// Bytes of matrices that one generated token reads: attention, dense, shared, router and head, of the routed
// experts num_experts_per_tok of average size, of the embedding one row.
std::int64_t bytes_read_per_token(const Weights& weights, const Config& config);
// Of these, the bytes of routed experts.
std::int64_t expert_bytes_per_token(const Weights& weights, const Config& config);

// This rank's slice of whole weights: heads, MLP and expert rows (columns of down and o), vocabulary. Borders
// of FP8 slices fall on the global 128 grid, uneven if need be (unless a rank would be left without any).
// Views only; nothing is copied but norms and bias. Errors: unsupported for more ranks than heads.
Weights slice_weights(const Weights& whole, const Config& config, Rank rank);

}  // namespace fathom
