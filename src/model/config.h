// config.json as values. Differences between models are values here, never a model's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"

namespace fathom {

enum class ScoringFunc { softmax, sigmoid };
enum class TopkMethod { greedy, group_limited_greedy, noaux_tc };

// The router rule, complete: what turns W_g x into expert ids and weights (models.md section 2.5).
struct RouterRule {
  ScoringFunc scoring_func = ScoringFunc::softmax;
  TopkMethod topk_method = TopkMethod::greedy;
  int n_routed_experts = 0;
  int num_experts_per_tok = 0;
  int n_group = 1;       // contiguous groups of n_routed_experts / n_group experts
  int topk_group = 1;    // groups kept; group score: max (group_limited_greedy), sum of the two largest (noaux_tc)
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1.0f;
};

// YaRN (models.md section 2.4); absent: plain RoPE.
struct Yarn {
  double factor = 1, beta_fast = 32, beta_slow = 1;
  std::int64_t original_max_position_embeddings = 4096;
  std::optional<double> mscale, mscale_all_dim;
};

// Names are config.json's own. Counts are positive unless said otherwise.
struct Config {
  std::string model_type, architecture;
  int hidden_size = 0;
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int q_lora_rank = 0;  // 0: null in the file, a plain q_proj
  int kv_lora_rank = 0;
  int qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  int intermediate_size = 0;      // of the dense MLP
  int moe_intermediate_size = 0;  // of one routed expert
  int n_shared_experts = 0;       // 0: none; their MLP is n_shared_experts * moe_intermediate_size wide
  int first_k_dense_replace = 0, moe_layer_freq = 1;
  RouterRule router;
  int num_nextn_predict_layers = 0;  // MTP layers, stored behind the main ones
  int vocab_size = 0;                // rows of embedding and head; may exceed the tokenizer's ids
  std::int64_t max_position_embeddings = 0;
  double rope_theta = 10000;
  std::optional<Yarn> yarn;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool fp8 = false;                    // quantization_config says quant_method fp8
  bool ue8m0_activations = false;      // quantization_config.scale_fmt is "ue8m0"
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;

  int qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  // Values of one row of the latent cache: normed latent, then rotated key.
  int kv_row() const { return kv_lora_rank + qk_rope_head_dim; }
  int shared_intermediate_size() const { return n_shared_experts * moe_intermediate_size; }
  // MTP layers (layer >= num_hidden_layers) are MoE layers.
  bool is_moe(int layer) const {
    return router.n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
};

// Reads config.json (old and transformers-v5 spellings). Errors: not_found (absent); bad_checkpoint (malformed,
// out of range, contradicting itself); unsupported (another graph, named with the reason).
Config read_config(const FileSet& files);
// The same from the text; `where` names it in messages.
Config parse_config(std::string_view text, std::string_view where);

}  // namespace fathom
