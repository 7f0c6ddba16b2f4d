#include "src/model/weights.h"

#include "src/base/error.h"
#include "src/model/binder.h"

namespace fathom {
namespace {

std::string layer_prefix(int layer) { return fmt::format("model.layers.{}.", layer); }

// -- one layer ----------------------------------------------------------------------------------------------

Mlp bind_mlp(Binder& b, const std::string& prefix, int hidden, int width) {
  return {.gate = b.matrix(prefix + "gate_proj.weight", width, hidden, Quantisable::yes),
          .up = b.matrix(prefix + "up_proj.weight", width, hidden, Quantisable::yes),
          .down = b.matrix(prefix + "down_proj.weight", hidden, width, Quantisable::yes)};
}

void bind_attention(Binder& b, const Config& c, const std::string& prefix, LayerWeights& w) {
  const int heads = c.num_attention_heads, query = heads * c.qk_head_dim();
  if (c.q_lora_rank > 0) {
    w.q_a_proj = b.matrix(prefix + "q_a_proj.weight", c.q_lora_rank, c.hidden_size, Quantisable::yes);
    w.q_a_layernorm = b.vector(prefix + "q_a_layernorm.weight", c.q_lora_rank);
    w.q_proj = b.matrix(prefix + "q_b_proj.weight", query, c.q_lora_rank, Quantisable::yes);
  } else {
    w.q_proj = b.matrix(prefix + "q_proj.weight", query, c.hidden_size, Quantisable::yes);
  }
  w.kv_a_proj = b.matrix(prefix + "kv_a_proj_with_mqa.weight", c.kv_row(), c.hidden_size, Quantisable::yes);
  w.kv_a_layernorm = b.vector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank);
  w.kv_b_proj = b.matrix(prefix + "kv_b_proj.weight", heads * (c.qk_nope_head_dim + c.v_head_dim),
                         c.kv_lora_rank, Quantisable::yes);
  w.o_proj = b.matrix(prefix + "o_proj.weight", c.hidden_size, heads * c.v_head_dim, Quantisable::yes);
}

void bind_experts(Binder& b, const Config& c, const std::string& prefix, LayerWeights& w) {
  const int count = c.router.n_routed_experts;
  w.router = b.matrix(prefix + "gate.weight", count, c.hidden_size, Quantisable::no);
  if (c.router.topk_method == TopkMethod::noaux_tc)
    w.e_score_correction_bias = b.vector(prefix + "gate.e_score_correction_bias", count);
  w.experts.experts.reserve(static_cast<std::size_t>(count));
  for (int e = 0; e < count; ++e) {
    const Mlp m =
        bind_mlp(b, fmt::format("{}experts.{}.", prefix, e), c.hidden_size, c.moe_intermediate_size);
    w.experts.experts.push_back({.gate = m.gate, .up = m.up, .down = m.down});
  }
  if (c.n_shared_experts > 0)
    w.shared = bind_mlp(b, prefix + "shared_experts.", c.hidden_size, c.shared_intermediate_size());
}

LayerWeights bind_layer(Binder& b, const Config& c, int layer) {
  const std::string prefix = layer_prefix(layer);
  LayerWeights w;
  w.input_layernorm = b.vector(prefix + "input_layernorm.weight", c.hidden_size);
  w.post_attention_layernorm = b.vector(prefix + "post_attention_layernorm.weight", c.hidden_size);
  bind_attention(b, c, prefix + "self_attn.", w);
  if (c.is_moe(layer)) {
    bind_experts(b, c, prefix + "mlp.", w);
  } else {
    w.dense = bind_mlp(b, prefix + "mlp.", c.hidden_size, c.intermediate_size);
  }
  return w;
}

// -- MTP ----------------------------------------------------------------------------------------------------

bool any_tensor_of(const Checkpoint& checkpoint, const std::string& prefix) {
  const auto at = checkpoint.tensors().lower_bound(prefix);
  return at != checkpoint.tensors().end() && at->first.starts_with(prefix);
}

Linear bind_copy(Binder& b, const std::string& name, const Linear& main) {
  return b.has(name) ? b.matrix(name, main.rows, main.cols, Quantisable::no) : main;
}

MtpWeights bind_mtp(Binder& b, const Config& c, int layer, const Weights& main) {
  const std::string prefix = layer_prefix(layer);
  MtpWeights m;
  m.enorm = b.vector(prefix + "enorm.weight", c.hidden_size);
  m.hnorm = b.vector(prefix + "hnorm.weight", c.hidden_size);
  m.norm = b.vector(prefix + "shared_head.norm.weight", c.hidden_size);
  m.eh_proj = b.matrix(prefix + "eh_proj.weight", c.hidden_size, 2 * c.hidden_size, Quantisable::no);
  m.embed_tokens = bind_copy(b, prefix + "embed_tokens.weight", main.embed_tokens);
  m.head = bind_copy(b, prefix + "shared_head.head.weight", main.lm_head);
  m.layer = bind_layer(b, c, layer);
  return m;
}

// -- bytes --------------------------------------------------------------------------------------------------

std::int64_t bytes_of(const Mlp& m) { return m.gate.bytes() + m.up.bytes() + m.down.bytes(); }

// What one generated token reads of a layer's routed experts: the average of those it chooses.
std::int64_t chosen_bytes(const ExpertTable& table, int num_experts_per_tok) {
  std::int64_t bytes = 0;
  for (const Expert& e : table.experts) bytes += e.gate.bytes() + e.up.bytes() + e.down.bytes();
  const auto count = static_cast<std::int64_t>(table.experts.size());
  return count == 0 ? 0 : bytes * num_experts_per_tok / count;
}

// What one generated token reads of a layer's matrices.
std::int64_t bytes_per_token(const LayerWeights& w, int num_experts_per_tok) {
  std::int64_t bytes = w.q_a_proj.bytes() + w.q_proj.bytes() + w.kv_a_proj.bytes() + w.kv_b_proj.bytes() +
                       w.o_proj.bytes() + w.router.bytes();
  if (w.dense) bytes += bytes_of(*w.dense);
  if (w.shared) bytes += bytes_of(*w.shared);
  return bytes + chosen_bytes(w.experts, num_experts_per_tok);
}

}  // namespace

std::int64_t bytes_read_per_token(const Weights& w, const Config& config) {
  std::int64_t bytes = w.lm_head.bytes() + w.embed_tokens.cols * w.embed_tokens.format.bits / 8;
  for (const LayerWeights& layer : w.layers)
    bytes += bytes_per_token(layer, config.router.num_experts_per_tok);
  return bytes;
}

std::int64_t expert_bytes_per_token(const Weights& w, const Config& config) {
  std::int64_t bytes = 0;
  for (const LayerWeights& layer : w.layers) bytes += chosen_bytes(layer.experts, config.router.num_experts_per_tok);
  return bytes;
}

Weights bind_weights(const Checkpoint& checkpoint, const Config& config, const BindOptions& options,
                     std::vector<std::string>* unknown) {
  check_naming(checkpoint);
  Binder b(checkpoint, config);
  Weights w;
  w.heads = config.num_attention_heads;
  w.embed_tokens =
      b.matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size, Quantisable::no);
  w.norm = b.vector("model.norm.weight", config.hidden_size);
  if (config.tie_word_embeddings) {
    w.lm_head = w.embed_tokens;
    b.know("lm_head.weight");  // transformers ties after loading: a stored copy is not used
  } else {
    w.lm_head = b.matrix("lm_head.weight", config.vocab_size, config.hidden_size, Quantisable::no);
  }
  for (int layer = 0; layer < config.num_hidden_layers; ++layer)
    w.layers.push_back(bind_layer(b, config, layer));
  w.bytes_total = b.bytes();
  for (int i = 0; i < config.num_nextn_predict_layers; ++i) {
    const int layer = config.num_hidden_layers + i;
    if (!any_tensor_of(checkpoint, layer_prefix(layer))) break;
    // Bound even when not asked for: a module that is half there is a damaged checkpoint.
    MtpWeights m = bind_mtp(b, config, layer, w);
    if (options.mtp) w.mtp.push_back(std::move(m));
  }
  b.check();
  if (!w.mtp.empty()) w.bytes_total = b.bytes();
  w.bytes_per_token = bytes_read_per_token(w, config);
  if (unknown != nullptr) *unknown = b.unknown();
  return w;
}

}  // namespace fathom
