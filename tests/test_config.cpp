#include <doctest/doctest.h>

#include "src/model/config.h"
#include "tests/support/config_text.h"
#include "tests/support/errors.h"

using namespace fathom;
using test::ConfigText;
using test::Outcome;
using test::outcome_of;

namespace {

Config parse(const ConfigText& text) { return parse_config(text.text(), "config.json"); }

// The outcome of V3's config with one member replaced.
Outcome v3_with(const std::string& key, const std::string& raw) {
  return outcome_of([&] { parse(test::v3_config().set(key, raw)); });
}

void check_refused(const std::string& key, const std::string& raw, Exit code, const std::string& fragment) {
  const Outcome o = v3_with(key, raw);
  INFO(key << " = " << raw << ": " << o.message);
  CHECK(o.code == code);
  CHECK(o.says(fragment));
  CHECK(o.file == "config.json");
}

std::string yarn_with(const std::string& key, const std::string& raw) {
  ConfigText yarn{{{"type", "\"yarn\""}, {"factor", "40"}, {"original_max_position_embeddings", "4096"}}};
  return yarn.set(key, raw).text();
}

}  // namespace

TEST_CASE("config: DeepSeek-V3 as published") {
  const Config c = parse(test::v3_config());
  CHECK(c.model_type == "deepseek_v3");
  CHECK(c.hidden_size == 7168);
  CHECK(c.num_hidden_layers == 61);
  CHECK(c.q_lora_rank == 1536);
  CHECK(c.qk_head_dim() == 192);
  CHECK(c.kv_row() == 576);
  CHECK(c.shared_intermediate_size() == 2048);
  CHECK(c.router.scoring_func == ScoringFunc::sigmoid);
  CHECK(c.router.topk_method == TopkMethod::noaux_tc);
  CHECK(c.router.n_group == 8);
  CHECK(c.router.topk_group == 4);
  CHECK(c.router.norm_topk_prob);
  CHECK(c.router.routed_scaling_factor == 2.5f);
  CHECK(c.num_nextn_predict_layers == 1);
  CHECK(c.rms_norm_eps == 1e-6f);
  CHECK(c.fp8);
  CHECK_FALSE(c.ue8m0_activations);
  CHECK(c.yarn->factor == 40);
  CHECK(c.yarn->mscale_all_dim == 1.0);
  CHECK(c.bos_token_id == 0);
  CHECK(c.eos_token_ids == std::vector<std::int32_t>{1});
  CHECK_FALSE(c.is_moe(2));
  CHECK(c.is_moe(3));
  CHECK(c.is_moe(61));
}

TEST_CASE("config: V2-Lite and Kimi-K2 as published") {
  const Config lite = parse(test::v2_lite_config());
  CHECK(lite.q_lora_rank == 0);
  CHECK(lite.router.topk_method == TopkMethod::greedy);
  CHECK(lite.router.scoring_func == ScoringFunc::softmax);
  CHECK(lite.shared_intermediate_size() == 2816);
  CHECK_FALSE(lite.fp8);
  CHECK(lite.num_nextn_predict_layers == 0);
  const Config k2 = parse(test::kimi_k2_config());
  CHECK(k2.model_type == "kimi_k2");
  CHECK(k2.router.n_routed_experts == 384);
  CHECK(k2.yarn->beta_fast == 1.0);
  CHECK(k2.rope_theta == 50000);
}

TEST_CASE("config: transformers v5 spellings mean the same") {
  ConfigText v5 = test::v3_config();
  v5.erase("torch_dtype")
      .erase("rope_theta")
      .erase("rope_scaling")
      .erase("scoring_func")
      .erase("topk_method");
  v5.set("dtype", "\"bfloat16\"").set("head_dim", "64").set("rope_interleave", "true");
  v5.set("rope_parameters",
         R"({"rope_theta":10000.0,"rope_type":"yarn","factor":40.0,"beta_fast":32.0,"beta_slow":1.0,)"
         R"("original_max_position_embeddings":4096,"mscale":1.0,"mscale_all_dim":1.0})");
  const Config c = parse(v5);
  CHECK(c.rope_theta == 10000);
  CHECK(c.yarn->factor == 40);
  CHECK(c.yarn->mscale == 1.0);
  CHECK(c.router.scoring_func == ScoringFunc::sigmoid);
  CHECK(c.router.topk_method == TopkMethod::noaux_tc);
  const Config plain = parse(v5.set("rope_parameters", R"({"rope_theta":50000.0,"rope_type":"default"})"));
  CHECK_FALSE(plain.yarn);
  CHECK(plain.rope_theta == 50000);
  // Both spellings at once must agree.
  CHECK(outcome_of([&] { parse(v5.set("rope_theta", "10000")); }).says("rope_theta: expected 50000"));
  CHECK(outcome_of([&] {
          parse(v5.set("rope_theta", "50000").set("rope_scaling", test::kYarnV3));
        }).says("rope_scaling: expected the same as rope_parameters"));
  CHECK(parse(test::v3_config().set("rope_scaling", yarn_with("rope_type", "\"yarn\""))).yarn);
}

TEST_CASE("config: integers are integers and lie in their range") {
  for (const char* bad :
       {"0", "-1", "1000000000", "61.0", "\"61\"", "null", "6.1e1", "[61]", "9223372036854775808"})
    check_refused("num_hidden_layers", bad, Exit::bad_checkpoint,
                  "num_hidden_layers: expected an integer from 1 to 1000");
  check_refused("num_hidden_layers", "61.0", Exit::bad_checkpoint, "found 61.0");
  check_refused("num_hidden_layers", "\"61\"", Exit::bad_checkpoint, "found the string \"61\"");
  CHECK(outcome_of([&] { parse(test::v3_config().erase("num_hidden_layers")); }).says("found nothing"));
  check_refused("hidden_size", "99999999999999999999", Exit::bad_checkpoint, "does not fit 64 bits");
  for (const char* bad : {"0", "-2", "511"})
    check_refused("kv_lora_rank", bad, Exit::bad_checkpoint, "kv_lora_rank");
  for (const char* bad : {"0", "63"})
    check_refused("qk_rope_head_dim", bad, Exit::bad_checkpoint, "qk_rope_head_dim");
  for (const char* bad : {"0", "9223372036854775808", "-1"})
    check_refused("max_position_embeddings", bad, Exit::bad_checkpoint,
                  bad[0] == '9' ? "max_position" : "expected an integer");
  check_refused("q_lora_rank", "0", Exit::bad_checkpoint, "q_lora_rank");
  check_refused("vocab_size", "-129280", Exit::bad_checkpoint, "vocab_size");
  check_refused("num_key_value_heads", "8", Exit::bad_checkpoint, "one latent serves all heads");
  check_refused("rms_norm_eps", "0", Exit::bad_checkpoint, "rms_norm_eps");
  check_refused("rms_norm_eps", "\"1e-6\"", Exit::bad_checkpoint, "rms_norm_eps");
}

TEST_CASE("config: the router's numbers agree with each other") {
  check_refused("n_routed_experts", "0", Exit::bad_checkpoint, "n_routed_experts");
  check_refused("n_routed_experts", "255", Exit::bad_checkpoint,
                "n_group: expected a divisor of n_routed_experts = 255");
  check_refused("num_experts_per_tok", "257", Exit::bad_checkpoint, "from 1 to 256");
  check_refused("num_experts_per_tok", "129", Exit::bad_checkpoint, "at most 128, the experts of 4 groups");
  check_refused("topk_group", "9", Exit::bad_checkpoint, "topk_group");
  check_refused("n_group", "256", Exit::bad_checkpoint, "groups of at least two experts");
  check_refused("first_k_dense_replace", "62", Exit::bad_checkpoint, "first_k_dense_replace");
  check_refused("moe_layer_freq", "0", Exit::bad_checkpoint, "moe_layer_freq");
  check_refused("norm_topk_prob", "1", Exit::bad_checkpoint, "true or false");
  check_refused("routed_scaling_factor", "-1", Exit::bad_checkpoint, "routed_scaling_factor");
  check_refused("scoring_func", "\"sqrtsoftplus\"", Exit::unsupported, R"(expected "softmax" or "sigmoid")");
  check_refused("scoring_func", "\"softmax\"", Exit::unsupported, "sigmoid");
  check_refused("topk_method", "\"best\"", Exit::unsupported,
                R"("greedy" or "group_limited_greedy" or "noaux_tc")");
  CHECK(parse(test::v3_config().set("n_routed_experts", "null")).is_moe(5) == false);
  CHECK(outcome_of([] {
          parse(test::v2_lite_config().set("norm_topk_prob", "true").set("routed_scaling_factor", "2"));
        }).code == Exit::unsupported);
}

TEST_CASE("config: rope_scaling says what it means") {
  CHECK(outcome_of([] {
          parse(test::v3_config().erase("rope_scaling"));
        }).says("null for plain rotary embedding"));
  for (const char* bad : {"0", "0.5", "1e30", "\"40\"", "null"})
    check_refused("rope_scaling", yarn_with("factor", bad), Exit::bad_checkpoint,
                  "factor: expected a number");
  check_refused("rope_scaling", yarn_with("factor", "NaN"), Exit::bad_checkpoint, "not valid JSON");
  check_refused("rope_scaling", yarn_with("factor", "1e999"), Exit::bad_checkpoint, "JSON");
  check_refused("rope_scaling", yarn_with("original_max_position_embeddings", "0"), Exit::bad_checkpoint,
                "original_max");
  check_refused("rope_scaling", yarn_with("beta_slow", "64"), Exit::bad_checkpoint,
                "beta_fast: expected at least");
  check_refused("rope_scaling", yarn_with("type", "\"longrope\""), Exit::unsupported,
                R"("default" or "yarn")");
  check_refused("rope_scaling", yarn_with("rope_type", "\"default\""), Exit::bad_checkpoint,
                "the same as type");
  check_refused("rope_scaling", "{}", Exit::bad_checkpoint, "type: expected");
  check_refused("rope_scaling", "[]", Exit::bad_checkpoint, "expected an object");
  check_refused("rope_theta", "0", Exit::bad_checkpoint, "rope_theta");
  check_refused("rope_interleave", "false", Exit::unsupported, "adjacent");
}

TEST_CASE("config: quantization_config") {
  const auto block = [](const std::string& raw) {
    return R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":)" + raw + "}";
  };
  for (const char* bad : {"[0,0]", "[128]", "[128,128,128]", "128", "[128.0,128]", "\"128\""})
    check_refused("quantization_config", block(bad), Exit::bad_checkpoint, "weight_block_size");
  check_refused("quantization_config", block("[64,64]"), Exit::unsupported,
                "expected [128, 128], found [64,64]");
  check_refused("quantization_config", block("null"), Exit::unsupported, "scales per tensor");
  check_refused("quantization_config", R"({"quant_method":"compressed-tensors","format":"pack-quantized"})",
                Exit::unsupported, "INT4");
  check_refused("quantization_config", R"({"quant_method":"awq","bits":4})", Exit::unsupported, "awq");
  check_refused("quantization_config", R"({"quant_method":"gptq"})", Exit::unsupported, "4-bit");
  check_refused("quantization_config", R"({"quant_method":"modelopt"})", Exit::unsupported, "NVFP4");
  check_refused("quantization_config", R"({"bits":4})", Exit::bad_checkpoint, "quant_method");
  check_refused("quantization_config", R"({"quant_method":"fp8","fmt":"e5m2","weight_block_size":[128,128]})",
                Exit::unsupported, "e4m3");
  const Config c = parse(test::v3_config().set(
      "quantization_config",
      R"({"quant_method":"fp8","fmt":"e4m3","scale_fmt":"ue8m0","weight_block_size":[128,128]})"));
  CHECK(c.fp8);
  CHECK(c.ue8m0_activations);
}

TEST_CASE("config: other graphs are refused by name and reason") {
  const std::vector<std::pair<std::string, std::string>> cases{{"llama", "distillation"},
                                                               {"qwen2", "distillation"},
                                                               {"deepseek_v32", "sparse attention"},
                                                               {"glm_moe_dsa", "sparse attention"},
                                                               {"deepseek_v4", "FP4"},
                                                               {"longcat_flash", "shortcut MoE"},
                                                               {"minicpm3", "longrope"},
                                                               {"kimi_k25", "multimodal"},
                                                               {"glm4_moe_lite", "not been checked"},
                                                               {"mistral3", "Mistral"},
                                                               {"gpt_oss", "unknown"}};
  for (const auto& [type, reason] : cases) {
    check_refused("model_type", "\"" + type + "\"", Exit::unsupported, reason);
    CHECK(v3_with("model_type", "\"" + type + "\"").remedy.find("deepseek_v2, deepseek_v3, kimi_k2") !=
          std::string::npos);
  }
  check_refused("index_topk", "2048", Exit::unsupported, "sparse attention");
  check_refused("text_config", "{}", Exit::unsupported, "multimodal");
  check_refused("architectures", R"(["LlamaForCausalLM"])", Exit::unsupported, "LlamaForCausalLM");
  check_refused("architectures", "[]", Exit::bad_checkpoint, "list of class names");
  check_refused("hidden_act", "\"gelu\"", Exit::unsupported, "silu");
  check_refused("attention_bias", "true", Exit::unsupported, "attention_bias");
  // A terminal never sees the bytes of a hostile name.
  check_refused("model_type", "\"\\u001b[2J\"", Exit::unsupported, "\\u001b");
  CHECK(parse(test::v3_config().erase("model_type")).model_type == "deepseek_v3");
  CHECK(parse(test::v3_config().erase("architectures")).model_type == "deepseek_v3");
  CHECK(outcome_of([] { parse(test::v3_config().erase("architectures").erase("model_type")); }).code ==
        Exit::bad_checkpoint);
}

TEST_CASE("config: special tokens are ids of the vocabulary") {
  CHECK(parse(test::v3_config().set("eos_token_id", "[1,2]")).eos_token_ids ==
        std::vector<std::int32_t>{1, 2});
  CHECK_FALSE(parse(test::v3_config().set("bos_token_id", "null")).bos_token_id);
  for (const char* bad : {"129280", "-1", "1.0", "\"1\"", "[1,129280]", "[[1]]"})
    check_refused("eos_token_id", bad, Exit::bad_checkpoint, "eos_token_id");
  check_refused("bos_token_id", "129280", Exit::bad_checkpoint, "from 0 to 129279");
}

TEST_CASE("config: what the graph does not have is refused by its key") {
  check_refused("mlp_bias", "true", Exit::unsupported, "mlp_bias: expected false");
  check_refused("architectures", "\"DeepseekV3ForCausalLM\"", Exit::bad_checkpoint, "a list of class names");
  check_refused("architectures", "[]", Exit::bad_checkpoint, "a list of class names");
  check_refused("architectures", "[1]", Exit::bad_checkpoint, "a list of class names");
  check_refused("scoring_func", "\"softmax\"", Exit::unsupported, "\"sigmoid\" beside \"noaux_tc\"");
  check_refused("topk_method", "\"greedy\"", Exit::unsupported, "\"noaux_tc\" beside \"sigmoid\"");
  check_refused("rope_scaling", yarn_with("attention_factor", "1"), Exit::unsupported, "attention_factor");
  check_refused("rope_scaling", yarn_with("truncate", "false"), Exit::unsupported, "truncate");
  for (const char* method : {"modelopt", "awq", "gptq", "compressed-tensors", "bitsandbytes"})
    check_refused("quantization_config", fmt::format("{{\"quant_method\":\"{}\"}}", method), Exit::unsupported, method);
  // Softmax scores normed and scaled: two published codes differ in what that means.
  ConfigText softmax = test::v3_config().set("scoring_func", "\"softmax\"").set("topk_method", "\"group_limited_greedy\"");
  CHECK(outcome_of([&] { parse(softmax); }).says("routed_scaling_factor"));
  CHECK(outcome_of([&] { parse(softmax.set("routed_scaling_factor", "1.0")); }).code == Exit::ok);
  CHECK(outcome_of([&] { parse(softmax.set("norm_topk_prob", "false").set("routed_scaling_factor", "16")); }).code == Exit::ok);
  // A class name alone, unknown.
  const Outcome foreign = outcome_of([&] { parse(test::v3_config().erase("model_type").set("architectures", "[\"LlamaForCausalLM\"]")); });
  CHECK(foreign.code == Exit::unsupported);
  CHECK(foreign.says("LlamaForCausalLM"));
}

TEST_CASE("config: rope_parameters and rope_scaling say the same, member for member") {
  const auto both = [](const std::string& scaling, const std::string& parameters) {
    return outcome_of([&] { parse(test::v3_config().set("rope_scaling", scaling).set("rope_parameters", parameters)); });
  };
  const std::string yarn = yarn_with("mscale", "1.0");
  CHECK(both(yarn, yarn).code == Exit::ok);
  CHECK(both(R"({"type":"default"})", R"({"rope_type":"default"})").code == Exit::ok);
  const std::vector<std::pair<std::string, std::string>> kOthers{
      {"factor", "41"}, {"beta_fast", "33"}, {"beta_slow", "2"}, {"original_max_position_embeddings", "4097"},
      {"mscale", "0.9"}, {"mscale_all_dim", "1.0"}};
  for (const auto& [name, raw] : kOthers) {
    const std::string key = name;
    ConfigText other{{{"type", "\"yarn\""}, {"factor", "40"}, {"original_max_position_embeddings", "4096"}, {"mscale", "1.0"}}};
    const Outcome o = both(yarn, other.set(key, raw).text());
    CAPTURE(key);
    CHECK(o.code == Exit::bad_checkpoint);
    CHECK(o.says("the same as rope_parameters"));
  }
  CHECK(both(yarn, R"({"rope_type":"default"})").says("the same as rope_parameters"));
  CHECK(both(R"({"type":"default"})", yarn).says("the same as rope_parameters"));
  // The base beside the scaling, in either place, and once only.
  const auto base = [](const std::string& text, const char* place, bool top) {
    ConfigText c = test::v3_config().set(place, text);
    if (std::string_view(place) == "rope_parameters") c.erase("rope_scaling");
    if (!top) c.erase("rope_theta");
    Config parsed;
    const Outcome o = outcome_of([&] { parsed = parse(c); });
    return o.code == Exit::ok ? parsed.rope_theta : -1.0;
  };
  const std::string with_base = yarn_with("rope_theta", "50000");
  CHECK(base(with_base, "rope_parameters", false) == 50000);
  CHECK(base(with_base, "rope_scaling", false) == 50000);
  CHECK(base(with_base, "rope_scaling", true) == -1);  // config.json itself says 10000
  CHECK(base(yarn, "rope_parameters", true) == 10000);
}

TEST_CASE("config: the file itself") {
  const auto read = [](std::string text) {
    return outcome_of([&] { read_config(FileSet::memory("test", {{"config.json", as_bytes_of(text)}})); });
  };
  CHECK(read("").code == Exit::bad_checkpoint);
  CHECK(read("not JSON").code == Exit::bad_checkpoint);
  CHECK(read("[]").code == Exit::bad_checkpoint);
  CHECK(read(std::string("\xFF\xFE{\0}\0", 6)).code == Exit::bad_checkpoint);  // UTF-16
  CHECK(read("\xEF\xBB\xBF{}").says("byte order mark"));
  CHECK(read(R"({"hidden_size":1,"hidden_size":1})").says("duplicate key"));
  CHECK(read(std::string(5u << 20, ' ')).code == Exit::bad_checkpoint);
  CHECK(read(test::v3_config().text()).code == Exit::ok);
  CHECK(outcome_of([] { read_config(FileSet::memory("m", {})); }).code == Exit::not_found);
  CHECK(outcome_of([] {
          read_config(FileSet::memory("m", {{"params.json", {}}}));
        }).code == Exit::unsupported);
}

TEST_CASE("config: the golden checkpoints") {
  for (const char* name : {"v3", "v3-e8m0", "v2", "v2-lite", "moonlight", "kimi"})
    CHECK_NOTHROW(read_config(FileSet::directory(std::string("tests/goldens/") + name)));
  CHECK_FALSE(read_config(FileSet::directory("tests/goldens/moonlight")).yarn);
  CHECK(read_config(FileSet::directory("tests/goldens/v3-e8m0")).ue8m0_activations);
}
