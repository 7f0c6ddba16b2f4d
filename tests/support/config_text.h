// config.json texts for tests: members as raw JSON, to be replaced one at a time.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fathom::test {

struct ConfigText {
  std::vector<std::pair<std::string, std::string>> members;

  // Sets a member to raw JSON text, in place or at the end.
  ConfigText& set(const std::string& key, const std::string& raw) {
    for (auto& m : members)
      if (m.first == key) return m.second = raw, *this;
    members.emplace_back(key, raw);
    return *this;
  }
  ConfigText& erase(const std::string& key) {
    std::erase_if(members, [&](const auto& m) { return m.first == key; });
    return *this;
  }
  std::string text() const {
    std::string out = "{";
    for (const auto& [key, raw] : members) out += (out.size() == 1 ? "\"" : ",\n\"") + key + "\": " + raw;
    return out + "}\n";
  }
};

inline const char* const kYarnV3 =
    R"({"type":"yarn","factor":40,"original_max_position_embeddings":4096,"beta_fast":32,"beta_slow":1,)"
    R"("mscale":1.0,"mscale_all_dim":1.0})";
inline const char* const kFp8 =
    R"({"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[128,128]})";

// DeepSeek-V3 as published (models.md 1.1).
inline ConfigText v3_config() {
  return {{{"architectures", R"(["DeepseekV3ForCausalLM"])"},
           {"attention_bias", "false"},
           {"auto_map", R"({"AutoConfig":"configuration_deepseek.DeepseekV3Config"})"},
           {"bos_token_id", "0"},
           {"eos_token_id", "1"},
           {"first_k_dense_replace", "3"},
           {"hidden_act", R"("silu")"},
           {"hidden_size", "7168"},
           {"intermediate_size", "18432"},
           {"kv_lora_rank", "512"},
           {"max_position_embeddings", "163840"},
           {"model_type", R"("deepseek_v3")"},
           {"moe_intermediate_size", "2048"},
           {"moe_layer_freq", "1"},
           {"n_group", "8"},
           {"n_routed_experts", "256"},
           {"n_shared_experts", "1"},
           {"norm_topk_prob", "true"},
           {"num_attention_heads", "128"},
           {"num_experts_per_tok", "8"},
           {"num_hidden_layers", "61"},
           {"num_key_value_heads", "128"},
           {"num_nextn_predict_layers", "1"},
           {"q_lora_rank", "1536"},
           {"qk_nope_head_dim", "128"},
           {"qk_rope_head_dim", "64"},
           {"quantization_config", kFp8},
           {"rms_norm_eps", "1e-06"},
           {"rope_scaling", kYarnV3},
           {"rope_theta", "10000"},
           {"routed_scaling_factor", "2.5"},
           {"scoring_func", R"("sigmoid")"},
           {"tie_word_embeddings", "false"},
           {"topk_group", "4"},
           {"topk_method", R"("noaux_tc")"},
           {"torch_dtype", R"("bfloat16")"},
           {"v_head_dim", "128"},
           {"vocab_size", "129280"}}};
}

// DeepSeek-V2-Lite as published.
inline ConfigText v2_lite_config() {
  ConfigText c = v3_config();
  c.set("architectures", R"(["DeepseekV2ForCausalLM"])").set("model_type", R"("deepseek_v2")");
  c.set("bos_token_id", "100000").set("eos_token_id", "100001").set("vocab_size", "102400");
  c.set("first_k_dense_replace", "1").set("hidden_size", "2048").set("intermediate_size", "10944");
  c.set("moe_intermediate_size", "1408").set("n_group", "1").set("n_routed_experts", "64");
  c.set("n_shared_experts", "2").set("norm_topk_prob", "false").set("num_attention_heads", "16");
  c.set("num_key_value_heads", "16").set("num_experts_per_tok", "6").set("num_hidden_layers", "27");
  c.set("q_lora_rank", "null").set("routed_scaling_factor", "1.0").set("scoring_func", R"("softmax")");
  c.set("topk_group", "1").set("topk_method", R"("greedy")");
  c.set("rope_scaling",
        R"({"type":"yarn","factor":40,"original_max_position_embeddings":4096,"beta_fast":32,)"
        R"("beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707})");
  return c.erase("quantization_config").erase("num_nextn_predict_layers");
}

// Kimi-K2-Instruct as published.
inline ConfigText kimi_k2_config() {
  ConfigText c = v3_config();
  c.set("model_type", R"("kimi_k2")").set("num_attention_heads", "64").set("num_key_value_heads", "64");
  c.set("n_routed_experts", "384")
      .set("n_group", "1")
      .set("topk_group", "1")
      .set("first_k_dense_replace", "1");
  c.set("routed_scaling_factor", "2.827")
      .set("rope_theta", "50000.0")
      .set("max_position_embeddings", "131072");
  c.set("vocab_size", "163840").set("bos_token_id", "163584").set("eos_token_id", "163585");
  c.set("num_nextn_predict_layers", "0");
  c.set("rope_scaling",
        R"({"type":"yarn","factor":32.0,"original_max_position_embeddings":4096,"beta_fast":1.0,)"
        R"("beta_slow":1.0,"mscale":1.0,"mscale_all_dim":1.0})");
  return c;
}

// A V3-shaped model of a few hundred kB: ragged dimensions, groups, an MTP layer.
inline ConfigText tiny_v3_config() {
  ConfigText c = v3_config();
  c.set("hidden_size", "64")
      .set("intermediate_size", "160")
      .set("kv_lora_rank", "32")
      .set("vocab_size", "96");
  c.set("moe_intermediate_size", "48")
      .set("n_routed_experts", "8")
      .set("n_group", "4")
      .set("topk_group", "2");
  c.set("num_experts_per_tok", "3").set("num_attention_heads", "4").set("num_key_value_heads", "4");
  c.set("num_hidden_layers", "3").set("first_k_dense_replace", "1").set("q_lora_rank", "24");
  c.set("qk_nope_head_dim", "16").set("qk_rope_head_dim", "8").set("v_head_dim", "16");
  return c.set("max_position_embeddings", "4096");
}

}  // namespace fathom::test
