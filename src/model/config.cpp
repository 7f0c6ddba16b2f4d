#include "src/model/config.h"

#include <array>
#include <initializer_list>
#include <limits>

#include "src/model/json_fields.h"

namespace fathom {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 4u << 20;

// -- which graphs -------------------------------------------------------------------------------------------

// A model type fathom runs. The router's rule is often left to the class's default in re-saved configs.
struct Family {
  std::string_view model_type, architecture;
  std::string_view scoring_func, topk_method;
};
constexpr std::array<Family, 3> kFamilies{{
    {"deepseek_v2", "DeepseekV2ForCausalLM", "softmax", "greedy"},
    {"deepseek_v3", "DeepseekV3ForCausalLM", "sigmoid", "noaux_tc"},
    {"kimi_k2", "DeepseekV3ForCausalLM", "sigmoid", "noaux_tc"},
}};

// Relatives and look-alikes that compute something else.
struct Refusal {
  std::string_view model_type, reason;
};
constexpr std::string_view kDistilled =
    "a dense graph with ordinary attention; if this is a DeepSeek-R1 distillation, it is a Llama or Qwen "
    "model "
    "trained on R1's answers, not an R1";
constexpr std::array<Refusal, 22> kRefusals{{
    {"llama", kDistilled},
    {"qwen2", kDistilled},
    {"qwen3", kDistilled},
    {"deepseek", "DeepSeek-MoE 16B: ordinary attention, no latent cache"},
    {"deepseek_v32", "DeepSeek sparse attention: an indexer chooses the keys of every layer"},
    {"glm_moe_dsa", "DeepSeek sparse attention: an indexer chooses the keys of every layer"},
    {"deepseek_v4", "compressed attention, hyper-connections and FP4 experts are another graph"},
    {"deepseek_v41", "compressed attention, hyper-connections and FP4 experts are another graph"},
    {"longcat_flash", "two attentions, two dense MLPs and a shortcut MoE with identity experts per layer"},
    {"minicpm3", "a dense graph with scaled residual branches, half-split rotary layout and longrope"},
    {"kimi_k25", "a multimodal checkpoint: the text model is nested and its experts are INT4"},
    {"kimi_vl", "a multimodal checkpoint"},
    {"deepseek_vl_v2", "a multimodal checkpoint"},
    {"deepseek_ocr", "a multimodal checkpoint"},
    {"kimi_linear", "linear attention layers are another graph"},
    {"glm4_moe", "ordinary grouped-query attention, no latent cache"},
    {"glm4_moe_lite",
     "heads of 192 + 64 and 256 values, its tokenizer and its chat format have not been checked against a "
     "reference"},
    {"mistral",
     "Mistral's graph; Mistral-Large-3 scales queries by position and routes by softmax without bias"},
    {"mistral3",
     "Mistral's graph; Mistral-Large-3 scales queries by position and routes by softmax without bias"},
    {"mistral4",
     "Mistral's graph; Mistral-Large-3 scales queries by position and routes by softmax without bias"},
    {"qwen2_moe", "ordinary grouped-query attention, no latent cache"},
    {"qwen3_moe", "ordinary grouped-query attention, no latent cache"},
}};

// Keys that only another graph has, whatever model_type says.
struct ForeignKey {
  std::string_view key, reason;
};
constexpr std::array<ForeignKey, 10> kForeignKeys{{
    {"index_topk", "DeepSeek sparse attention: an indexer chooses the keys of every layer"},
    {"index_n_heads", "DeepSeek sparse attention: an indexer chooses the keys of every layer"},
    {"hc_mult", "hyper-connections"},
    {"compress_ratios", "compressed attention"},
    {"zero_expert_num", "identity experts"},
    {"mla_scale_q_lora", "scaled latents"},
    {"llama_4_scaling", "queries scaled by position"},
    {"scale_emb", "scaled embeddings"},
    {"expert_dtype", "FP4 experts"},
    {"text_config", "a multimodal checkpoint whose text model is nested"},
}};

std::string accepted_model_types() {
  std::string list;
  for (const Family& f : kFamilies) list += (list.empty() ? "" : ", ") + std::string(f.model_type);
  return list;
}

[[noreturn]] void refuse_graph(const JsonFields& f, std::string_view what, std::string_view reason) {
  throw Error(Exit::unsupported,
              fmt::format("{}: {} is not a graph that fathom runs: {}", f.where(), what, reason),
              fmt::format("fathom runs model_type {}", accepted_model_types()))
      .at(f.where());
}

std::string architecture_of(const JsonFields& f) {
  const json::Value* list = f.get("architectures");
  if (list == nullptr) return {};
  const bool strings = list->is_array() && !list->as_array().empty() && list->as_array()[0].is_string();
  if (!strings) f.refuse("architectures", "a list of class names");
  return list->as_array()[0].as_string();
}

const Family& family_of(const JsonFields& f, std::string_view model_type, std::string_view architecture) {
  for (const Refusal& r : kRefusals)
    if (r.model_type == model_type)
      refuse_graph(f, fmt::format("model_type {}", json::quote(model_type)), r.reason);
  for (const ForeignKey& k : kForeignKeys)
    if (f.has(k.key)) refuse_graph(f, fmt::format("a config with {}", k.key), k.reason);
  if (model_type.empty() && architecture.empty()) f.refuse("model_type", accepted_model_types());
  for (const Family& family : kFamilies) {
    const bool type_fits = model_type.empty() || model_type == family.model_type;
    const bool class_fits = architecture.empty() || architecture == family.architecture;
    if (type_fits && class_fits) return family;
    if (!model_type.empty() && type_fits)
      refuse_graph(f,
                   fmt::format("architecture {} under model_type {}", json::quote(architecture), model_type),
                   fmt::format("expected {}", family.architecture));
  }
  refuse_graph(
      f,
      model_type.empty() ? json::quote(architecture) : fmt::format("model_type {}", json::quote(model_type)),
      "unknown");
}

// -- pieces -------------------------------------------------------------------------------------------------

// An int in [lo, hi].
int count(const JsonFields& f, std::string_view key, int lo, int hi) {
  return static_cast<int>(f.integer(key, lo, hi));
}

// One of `accepted` as its index. A value outside is well-formed but not run here.
std::size_t choice(const JsonFields& f, std::string_view key,
                   std::initializer_list<std::string_view> accepted, std::string_view absent) {
  const std::string value = f.text_if(key).value_or(std::string(absent));
  std::size_t i = 0;
  std::string list;
  for (const std::string_view a : accepted) {
    if (a == value) return i;
    list += (i++ == 0 ? "" : " or ") + json::quote(a);
  }
  f.refuse(key, list, Exit::unsupported);
}

void read_shapes(const JsonFields& f, Config& c) {
  c.hidden_size = count(f, "hidden_size", 1, 1 << 17);
  c.num_hidden_layers = count(f, "num_hidden_layers", 1, 1000);
  c.num_attention_heads = count(f, "num_attention_heads", 1, 4096);
  if (f.has("q_lora_rank")) c.q_lora_rank = count(f, "q_lora_rank", 1, 1 << 16);
  c.kv_lora_rank = count(f, "kv_lora_rank", 2, 1 << 16);
  c.qk_nope_head_dim = count(f, "qk_nope_head_dim", 1, 4096);
  c.qk_rope_head_dim = count(f, "qk_rope_head_dim", 2, 4096);
  c.v_head_dim = count(f, "v_head_dim", 1, 4096);
  c.intermediate_size = count(f, "intermediate_size", 1, 1 << 20);
  c.vocab_size = count(f, "vocab_size", 1, 1 << 24);
  c.max_position_embeddings =
      f.integer("max_position_embeddings", 1, std::numeric_limits<std::int32_t>::max());
  c.rms_norm_eps = static_cast<float>(f.number("rms_norm_eps", 1e-12, 1e-1));
  c.num_nextn_predict_layers = static_cast<int>(f.integer_or("num_nextn_predict_layers", 0, 16, 0));
  c.tie_word_embeddings = f.boolean_or("tie_word_embeddings", false);
  if (c.qk_rope_head_dim % 2 != 0)
    f.refuse("qk_rope_head_dim", "an even number: values are rotated in pairs");
  if (c.kv_lora_rank % 2 != 0) f.refuse("kv_lora_rank", "an even number");
}

// What the graph takes for granted; transformers would honour other values.
void check_graph(const JsonFields& f, const Config& c) {
  choice(f, "hidden_act", {"silu"}, "silu");
  if (f.boolean_or("attention_bias", false)) f.refuse("attention_bias", "false", Exit::unsupported);
  if (f.boolean_or("mlp_bias", false)) f.refuse("mlp_bias", "false", Exit::unsupported);
  if (!f.boolean_or("rope_interleave", true))
    f.refuse("rope_interleave", "true: adjacent values are rotated together", Exit::unsupported);
  if (f.integer_or("num_key_value_heads", 1, 4096, c.num_attention_heads) != c.num_attention_heads)
    f.refuse("num_key_value_heads",
             fmt::format("{} as num_attention_heads: one latent serves all heads", c.num_attention_heads));
  f.text_if("torch_dtype");
  f.text_if("dtype");
}

void read_groups(const JsonFields& f, RouterRule& r) {
  r.n_group = static_cast<int>(f.integer_or("n_group", 1, r.n_routed_experts, 1));
  r.topk_group = static_cast<int>(f.integer_or("topk_group", 1, r.n_group, 1));
  if (r.n_routed_experts % r.n_group != 0)
    f.refuse("n_group", fmt::format("a divisor of n_routed_experts = {}", r.n_routed_experts));
  if (r.topk_method == TopkMethod::greedy) r.n_group = r.topk_group = 1;  // plain top-k knows no groups
  const int group = r.n_routed_experts / r.n_group;
  if (r.topk_method == TopkMethod::noaux_tc && r.n_group > 1 && group < 2)
    f.refuse("n_group", "groups of at least two experts: a group is scored by its two best");
  if (r.num_experts_per_tok > r.topk_group * group)
    f.refuse("num_experts_per_tok",
             fmt::format("at most {}, the experts of {} groups", r.topk_group * group, r.topk_group));
}

RouterRule read_router(const JsonFields& f, const Family& family) {
  constexpr std::array scoring{ScoringFunc::softmax, ScoringFunc::sigmoid};
  constexpr std::array methods{TopkMethod::greedy, TopkMethod::group_limited_greedy, TopkMethod::noaux_tc};
  RouterRule r;
  r.n_routed_experts = count(f, "n_routed_experts", 1, 1 << 14);
  r.num_experts_per_tok = count(f, "num_experts_per_tok", 1, r.n_routed_experts);
  r.scoring_func = scoring[choice(f, "scoring_func", {"softmax", "sigmoid"}, family.scoring_func)];
  r.topk_method =
      methods[choice(f, "topk_method", {"greedy", "group_limited_greedy", "noaux_tc"}, family.topk_method)];
  r.norm_topk_prob = f.boolean("norm_topk_prob");
  r.routed_scaling_factor = static_cast<float>(f.number("routed_scaling_factor", 1e-6, 1e6));
  // The published combinations; the reference code of each family refuses the others too.
  const bool biased = r.topk_method == TopkMethod::noaux_tc;
  if (biased != (r.scoring_func == ScoringFunc::sigmoid))
    f.refuse("topk_method",
             biased ? "scoring_func \"sigmoid\" beside \"noaux_tc\"" : "\"noaux_tc\" beside \"sigmoid\"",
             Exit::unsupported);
  // DeepSeek's V2 code then skips the factor, transformers does not: no published model says which is meant.
  if (!biased && r.norm_topk_prob && r.routed_scaling_factor != 1.0f)
    f.refuse("norm_topk_prob", "false beside softmax scores and a routed_scaling_factor", Exit::unsupported);
  read_groups(f, r);
  return r;
}

void read_experts(const JsonFields& f, const Family& family, Config& c) {
  if (!f.has("n_routed_experts")) {  // null: every layer is dense
    c.first_k_dense_replace = c.num_hidden_layers;
    return;
  }
  c.router = read_router(f, family);
  c.moe_intermediate_size = count(f, "moe_intermediate_size", 1, 1 << 20);
  c.n_shared_experts = static_cast<int>(f.integer_or("n_shared_experts", 0, 64, 0));
  c.first_k_dense_replace = count(f, "first_k_dense_replace", 0, c.num_hidden_layers);
  c.moe_layer_freq = static_cast<int>(f.integer_or("moe_layer_freq", 1, 1000, 1));
}

// -- rotary embedding ---------------------------------------------------------------------------------------

Yarn read_yarn(const JsonFields& f) {
  Yarn y;
  y.factor = f.number("factor", 1, 65536);
  y.original_max_position_embeddings =
      f.integer("original_max_position_embeddings", 1, std::numeric_limits<std::int32_t>::max());
  y.beta_fast = f.number_if("beta_fast", 1e-3, 1e6).value_or(y.beta_fast);
  y.beta_slow = f.number_if("beta_slow", 1e-3, 1e6).value_or(y.beta_slow);
  y.mscale = f.number_if("mscale", 0, 100);
  y.mscale_all_dim = f.number_if("mscale_all_dim", 0, 100);
  if (y.beta_fast < y.beta_slow) f.refuse("beta_fast", fmt::format("at least beta_slow = {}", y.beta_slow));
  if (f.has("attention_factor")) f.refuse("attention_factor", "nothing: mscale says it", Exit::unsupported);
  if (!f.boolean_or("truncate", true)) f.refuse("truncate", "true", Exit::unsupported);
  return y;
}

// rope_scaling (type or rope_type), or transformers v5's rope_parameters.
std::optional<Yarn> read_scaling(const JsonFields& f) {
  const char* key = f.has("rope_type") ? "rope_type" : "type";
  if (f.has("type") && f.has("rope_type") && f.text_if("type") != f.text_if("rope_type"))
    f.refuse("rope_type", "the same as type");
  return choice(f, key, {"default", "yarn"}, "default") == 1 ? std::optional(read_yarn(f)) : std::nullopt;
}

bool same(const std::optional<Yarn>& a, const std::optional<Yarn>& b) {
  if (!a || !b) return a.has_value() == b.has_value();
  return a->factor == b->factor && a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
         a->original_max_position_embeddings == b->original_max_position_embeddings &&
         a->mscale == b->mscale && a->mscale_all_dim == b->mscale_all_dim;
}

void read_rope(const JsonFields& f, Config& c) {
  const auto scaling = f.object_if("rope_scaling"), parameters = f.object_if("rope_parameters");
  if (!f.mentions("rope_scaling") && !f.mentions("rope_parameters"))
    f.refuse("rope_scaling", "an object, or null for plain rotary embedding");
  // An empty or untyped rope_scaling would silently mean plain RoPE.
  if (scaling && !scaling->has("type") && !scaling->has("rope_type"))
    scaling->refuse("type", "\"yarn\" or \"default\"");
  if (parameters) c.yarn = read_scaling(*parameters);
  if (scaling) {
    const auto yarn = read_scaling(*scaling);
    if (parameters && !same(yarn, c.yarn)) f.refuse("rope_scaling", "the same as rope_parameters");
    c.yarn = yarn;
  }
  const JsonFields& theta = parameters && parameters->has("rope_theta") ? *parameters
                            : scaling && scaling->has("rope_theta")     ? *scaling
                                                                        : f;
  c.rope_theta = theta.number("rope_theta", 1.000001, 1e12);
  if (f.has("rope_theta") && f.number("rope_theta", 1.000001, 1e12) != c.rope_theta)
    f.refuse("rope_theta", fmt::format("{} as in {}", c.rope_theta, theta.where()));
}

// -- quantization_config ------------------------------------------------------------------------------------

void read_block_size(const JsonFields& q) {
  const json::Value* v = q.get("weight_block_size");
  if (v == nullptr)
    q.refuse("weight_block_size", "[128, 128]: scales per tensor are not run", Exit::unsupported);
  const bool pair = v->is_array() && v->as_array().size() == 2;
  if (!pair) q.refuse("weight_block_size", "two integers");
  for (const json::Value& n : v->as_array())
    if (!n.integer_in(1, 1 << 20)) q.refuse("weight_block_size", "two integers from 1 to 1048576");
  for (const json::Value& n : v->as_array())
    if (n.integer_in(128, 128) != 128)
      throw Error(Exit::unsupported, fmt::format("{}: weight_block_size: expected [128, 128], found {}",
                                                 q.where(), json::dump(*v)))
          .at("config.json");
}

std::string_view quantisation_reason(std::string_view method) {
  if (method == "compressed-tensors") return "packed INT4 experts (or another packed format)";
  if (method == "awq" || method == "gptq") return "4-bit weights made by a third party";
  if (method == "modelopt") return "NVFP4 or per-tensor FP8 weights";
  return "an unknown weight format";
}

void read_quantisation(const JsonFields& f, Config& c) {
  const auto q = f.object_if("quantization_config");
  if (!q) return;
  const std::string method = q->text_if("quant_method").value_or("");
  if (method.empty()) q->refuse("quant_method", "\"fp8\"");
  if (method != "fp8")
    throw Error(Exit::unsupported,
                fmt::format("{}: quant_method: expected \"fp8\" or no quantization_config, found {}: {}",
                            q->where(), json::quote(method), quantisation_reason(method)),
                "use the checkpoint as its makers published it in FP8 or BF16")
        .at(f.where());
  choice(*q, "fmt", {"e4m3"}, "e4m3");
  choice(*q, "activation_scheme", {"dynamic"}, "dynamic");
  read_block_size(*q);
  c.ue8m0_activations = choice(*q, "scale_fmt", {"float", "ue8m0"}, "float") == 1;
  c.fp8 = true;
}

// -- special tokens -----------------------------------------------------------------------------------------

void read_token_ids(const JsonFields& f, Config& c) {
  const int last = c.vocab_size - 1;
  if (f.has("bos_token_id")) c.bos_token_id = count(f, "bos_token_id", 0, last);
  const json::Value* eos = f.get("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) {
    c.eos_token_ids = {count(f, "eos_token_id", 0, last)};
    return;
  }
  for (const json::Value& v : eos->as_array()) {
    const auto id = v.integer_in(0, last);
    if (!id) f.refuse("eos_token_id", fmt::format("integers from 0 to {}", last));
    c.eos_token_ids.push_back(static_cast<std::int32_t>(*id));
  }
}

}  // namespace

Config parse_config(std::string_view text, std::string_view where) {
  const json::Value root =
      json::parse(text, where, Exit::bad_checkpoint, {.nodes = 100'000, .bytes = kMaxConfigBytes});
  const JsonFields f(root, std::string(where));
  Config c;
  c.model_type = f.text_if("model_type").value_or("");
  c.architecture = architecture_of(f);
  const Family& family = family_of(f, c.model_type, c.architecture);
  c.model_type = family.model_type;
  c.architecture = family.architecture;
  read_quantisation(f, c);
  read_shapes(f, c);
  check_graph(f, c);
  read_experts(f, family, c);
  read_rope(f, c);
  read_token_ids(f, c);
  return c;
}

Config read_config(const FileSet& files) {
  if (!files.has("config.json")) {
    if (files.has("params.json"))
      throw Error(Exit::unsupported,
                  fmt::format("{}: params.json in place of config.json: a checkpoint in Mistral's own layout",
                              files.label()));
    throw Error(Exit::not_found, fmt::format("{}: no config.json", files.label()),
                "give the directory of a Hugging Face checkpoint, or download config.json into it")
        .at("config.json");
  }
  const Blob text = files.read("config.json", kMaxConfigBytes);
  return parse_config(text.text(), "config.json");
}

}  // namespace fathom
