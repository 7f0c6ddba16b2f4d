// A complete little checkpoint in memory, made from its config: to be damaged in one place, bound, sliced,
// quantised.
#pragma once

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "src/model/checkpoint.h"
#include "src/model/config.h"
#include "tests/support/config_text.h"
#include "tests/support/files.h"
#include "tests/support/safetensors_text.h"

namespace fathom::test {

// The name, shape and kind of every tensor that a config calls for, MTP layers included.
struct TensorPlan {
  enum class Kind { linear, plain, vector, bias };  // linear: FP8 in an FP8 checkpoint
  std::string name;
  std::vector<std::int64_t> shape;
  Kind kind;
};
inline std::vector<TensorPlan> plan_tensors(const Config& c) {
  using Kind = TensorPlan::Kind;
  std::vector<TensorPlan> plan;
  const auto add = [&](std::string name, std::vector<std::int64_t> shape, Kind kind) {
    plan.push_back({std::move(name), std::move(shape), kind});
  };
  const auto mlp = [&](const std::string& p, std::int64_t width) {
    for (const char* n : {"gate_proj.weight", "up_proj.weight"})
      add(p + n, {width, c.hidden_size}, Kind::linear);
    add(p + "down_proj.weight", {c.hidden_size, width}, Kind::linear);
  };
  const auto layer = [&](int l) {
    const std::string p = fmt::format("model.layers.{}.", l), a = p + "self_attn.", m = p + "mlp.";
    const std::int64_t heads = c.num_attention_heads, query = heads * c.qk_head_dim();
    add(p + "input_layernorm.weight", {c.hidden_size}, Kind::vector);
    if (c.q_lora_rank > 0) {
      add(a + "q_a_proj.weight", {c.q_lora_rank, c.hidden_size}, Kind::linear);
      add(a + "q_a_layernorm.weight", {c.q_lora_rank}, Kind::vector);
      add(a + "q_b_proj.weight", {query, c.q_lora_rank}, Kind::linear);
    } else {
      add(a + "q_proj.weight", {query, c.hidden_size}, Kind::linear);
    }
    add(a + "kv_a_proj_with_mqa.weight", {c.kv_row(), c.hidden_size}, Kind::linear);
    add(a + "kv_a_layernorm.weight", {c.kv_lora_rank}, Kind::vector);
    add(a + "kv_b_proj.weight", {heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank}, Kind::linear);
    add(a + "o_proj.weight", {c.hidden_size, heads * c.v_head_dim}, Kind::linear);
    add(p + "post_attention_layernorm.weight", {c.hidden_size}, Kind::vector);
    if (!c.is_moe(l)) return mlp(m, c.intermediate_size);
    add(m + "gate.weight", {c.router.n_routed_experts, c.hidden_size}, Kind::plain);
    if (c.router.topk_method == TopkMethod::noaux_tc)
      add(m + "gate.e_score_correction_bias", {c.router.n_routed_experts}, Kind::bias);
    for (int e = 0; e < c.router.n_routed_experts; ++e)
      mlp(fmt::format("{}experts.{}.", m, e), c.moe_intermediate_size);
    if (c.n_shared_experts > 0) mlp(m + "shared_experts.", c.shared_intermediate_size());
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, Kind::plain);
  for (int l = 0; l < c.num_hidden_layers; ++l) layer(l);
  add("model.norm.weight", {c.hidden_size}, Kind::vector);
  if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, c.hidden_size}, Kind::plain);
  for (int i = 0; i < c.num_nextn_predict_layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", c.num_hidden_layers + i);
    add(p + "embed_tokens.weight", {c.vocab_size, c.hidden_size}, Kind::plain);
    for (const char* n : {"enorm.weight", "hnorm.weight", "shared_head.norm.weight"})
      add(p + n, {c.hidden_size}, Kind::vector);
    add(p + "eh_proj.weight", {c.hidden_size, 2 * c.hidden_size}, Kind::plain);
    layer(c.num_hidden_layers + i);
    add(p + "shared_head.head.weight", {c.vocab_size, c.hidden_size}, Kind::plain);
  }
  return plan;
}

// `count` small values of a type, the same for the same seed. FP8 codes avoid NaN; scales are powers of two.
inline std::string random_data(DType type, std::int64_t count, std::uint64_t seed) {
  std::string out;
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto bits = static_cast<std::uint32_t>(state >> 33);
    const float v = (static_cast<float>(bits % 2001) - 1000.0f) / 4000.0f;
    const std::uint16_t half = float_to_bf16(v);
    const auto code = static_cast<char>(bits % 255 == 127 ? 0 : bits % 255);
    const auto exponent = static_cast<char>(118 + bits % 4);
    switch (type) {
      case DType::f32:
        out.append(reinterpret_cast<const char*>(&v), 4);
        break;
      case DType::bf16:
        out.append(reinterpret_cast<const char*>(&half), 2);
        break;
      case DType::f8_e4m3:
        out += code;
        break;
      case DType::f8_e8m0:
        out += exponent;
        break;
      default:
        out.append(dtype_size(type), '\0');
    }
  }
  return out;
}

struct TinyCheckpoint {
  ConfigText config;
  std::vector<TestTensor> tensors;
  std::string packed, config_text;  // what files() points into

  // All tensors of the config; FP8 where its quantization_config says so, with scales of `scale`.
  explicit TinyCheckpoint(ConfigText text, DType scale = DType::f32) : config(std::move(text)) {
    const Config c = parse_config(config.text(), "config.json");
    std::uint64_t seed = 0;
    for (const TensorPlan& p : plan_tensors(c)) {
      const bool fp8 = c.fp8 && p.kind == TensorPlan::Kind::linear;
      const DType type = fp8 ? DType::f8_e4m3 : p.kind == TensorPlan::Kind::bias ? DType::f32 : DType::bf16;
      add(p.name, type, p.shape, ++seed);
      if (fp8)
        add(p.name + "_scale_inv", scale, {(p.shape[0] + 127) / 128, (p.shape[1] + 127) / 128}, ++seed);
    }
  }

  void add(const std::string& name, DType type, std::vector<std::int64_t> shape, std::uint64_t seed = 7) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) count *= d;
    tensors.push_back({name, type, std::move(shape), random_data(type, count, seed)});
  }
  bool has(const std::string& name) const {
    return std::any_of(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  }
  TestTensor& at(const std::string& name) {
    for (TestTensor& t : tensors)
      if (t.name == name) return t;
    throw std::runtime_error("no tensor " + name);
  }
  void erase(const std::string& name) {
    if (std::erase_if(tensors, [&](const auto& t) { return t.name == name; }) != 1)
      throw std::runtime_error("no tensor " + name);
  }
  // Replaces a tensor by one of another type or shape.
  void replace(const std::string& name, DType type, std::vector<std::int64_t> shape) {
    erase(name);
    add(name, type, std::move(shape));
  }
  // The files in memory; valid while this object lives and until the next call.
  FileSet files() {
    packed = safetensors_file(tensors);
    config_text = config.text();
    return FileSet::memory(
        "tiny", {{"config.json", as_bytes_of(config_text)}, {"model.safetensors", as_bytes_of(packed)}});
  }
  void write(const TempDir& dir) const {
    dir.write("config.json", config.text());
    dir.write("model.safetensors", safetensors_file(tensors));
  }
};

}  // namespace fathom::test
