#include "tests/support/fake_model.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "cuda/device.h"
#include "src/app/app.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "src/engine/engine.h"
#include "tests/support/config_text.h"
#include "tests/support/safetensors_text.h"

namespace fathom::test {
namespace {

constexpr std::int32_t kFirstByte = 8, kVocabulary = 272;
constexpr const char* kControl[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
                                    "<think>", "</think>", "<｜pad｜>", "<unk>"};
// <think> and </think> are added tokens without the mark `special`, as in published checkpoints.
bool is_special(int id) { return id != 4 && id != 5; }

constexpr std::string_view kThinkingTemplate =
    "{% if thinking is not defined %}{% set thinking = true %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% if thinking %}{{ '<think>\\n' }}{% else %}{{ '</think>' }}"
    "{% endif %}{% endif %}";
constexpr std::string_view kPlainTemplate =
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

void put(const std::string& path, std::string_view text) {
  AtomicFile f(path);
  f.write(text);
  f.commit();
}

// The printable stand-in of a byte in byte-level vocabularies: itself where printable in Latin-1, else from U+0100 on.
char32_t stand_in(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); };
  if (printable(byte)) return static_cast<char32_t>(byte);
  char32_t c = 256;
  for (int b = 0; b < byte; ++b) c += printable(b) ? 0 : 1;
  return c;
}

std::string tokenizer_json() {
  std::string added, vocab;
  for (int id = 0; id < 8; ++id)
    added += fmt::format("{}{{\"id\":{},\"content\":{},\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                         "\"normalized\":false,\"special\":{}}}", id == 0 ? "" : ",", id, json::quote(kControl[id]), is_special(id));
  for (int b = 0; b < 256; ++b) {
    std::string text;
    utf8_append(text, stand_in(b));
    vocab += fmt::format("{}{}:{}", b == 0 ? "" : ",", json::quote(text), kFirstByte + b);
  }
  return fmt::format(
      "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{}],\"normalizer\":null,"
      "\"pre_tokenizer\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}},"
      "\"post_processor\":null,\"decoder\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}},"
      "\"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
      "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{{{}}},\"merges\":[]}}}}",
      added, vocab);
}

ConfigText config_json() {
  ConfigText c = v2_lite_config();
  c.set("bos_token_id", "0").set("eos_token_id", "1").set("vocab_size", std::to_string(kVocabulary));
  c.set("hidden_size", "32").set("intermediate_size", "32").set("kv_lora_rank", "16").set("num_attention_heads", "2");
  c.set("num_key_value_heads", "2").set("num_hidden_layers", "1").set("qk_nope_head_dim", "16").set("qk_rope_head_dim", "16");
  c.set("rope_scaling", "null").set("v_head_dim", "16").set("q_lora_rank", "null").set("max_position_embeddings", "262144");
  for (const char* key : {"n_routed_experts", "n_shared_experts", "num_experts_per_tok", "quantization_config",
                          "num_nextn_predict_layers", "first_k_dense_replace", "moe_intermediate_size"})
    c.erase(key);
  return c;
}

std::string weights() {
  std::vector<TestTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    std::int64_t n = 2;
    for (const std::int64_t d : shape) n *= d;
    tensors.push_back({name, DType::bf16, std::move(shape), std::string(static_cast<std::size_t>(n), '\0')});
  };
  const std::string layer = "model.layers.0.";
  add("model.embed_tokens.weight", {kVocabulary, 32});
  add(layer + "input_layernorm.weight", {32});
  add(layer + "self_attn.q_proj.weight", {64, 32});
  add(layer + "self_attn.kv_a_proj_with_mqa.weight", {32, 32});
  add(layer + "self_attn.kv_a_layernorm.weight", {16});
  add(layer + "self_attn.kv_b_proj.weight", {64, 16});
  add(layer + "self_attn.o_proj.weight", {32, 32});
  add(layer + "post_attention_layernorm.weight", {32});
  add(layer + "mlp.gate_proj.weight", {32, 32});
  add(layer + "mlp.up_proj.weight", {32, 32});
  add(layer + "mlp.down_proj.weight", {32, 32});
  add("model.norm.weight", {32});
  add("lm_head.weight", {kVocabulary, 32});
  return safetensors_file(tensors);
}

std::vector<std::int32_t> ids_of(const Tokenizer& tokenizer, std::string_view answer) {
  std::vector<std::int32_t> ids;
  for (std::size_t at = 0; at < answer.size();) {
    if (answer[at] == '\x1f') {
      ++at;
      continue;
    }
    bool control = false;
    for (const char* text : kControl)
      if (answer.substr(at).starts_with(text)) {
        ids.push_back(tokenizer.find_added(text).value());
        at += std::strlen(text);
        control = true;
        break;
      }
    if (!control) ids.push_back(kFirstByte + static_cast<unsigned char>(answer[at++]));
  }
  return ids;
}

long number_from(const char* variable) {
  const char* text = std::getenv(variable);
  long v = 0;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), v);
  return v;
}

}  // namespace

void write_fake_checkpoint(const std::string& folder, bool thinks) {
  ::mkdir(folder.c_str(), 0755);
  put(folder + "/config.json", config_json().text());
  put(folder + "/model.safetensors", weights());
  put(folder + "/tokenizer.json", tokenizer_json());
  put(folder + "/tokenizer_config.json",
      fmt::format("{{\"add_bos_token\":true,\"bos_token\":{},\"eos_token\":{},\"tokenizer_class\":\"LlamaTokenizerFast\","
                  "\"chat_template\":{}}}",
                  json::quote(kControl[0]), json::quote(kControl[1]), json::quote(thinks ? kThinkingTemplate : kPlainTemplate)));
}

FakeForward::FakeForward(const Config& config, const Tokenizer& tokenizer, Script script, std::int32_t capacity)
    : config_(config), script_(std::move(script)), capacity_(capacity) {
  for (const std::string& answer : script_.answers) answers_.push_back(ids_of(tokenizer, answer));
  if (answers_.empty()) answers_.emplace_back();
}

void FakeForward::wait(std::chrono::microseconds time) const {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    if (stop_requested && stop_requested()) throw Error(Exit::interrupted, "stopped");
    std::this_thread::sleep_for(std::min<std::chrono::microseconds>(time, std::chrono::milliseconds(20)));
  }
}

std::int32_t FakeForward::next_token(Role role) {
  // Logits after the last prompt row begin an answer; a generated row goes on with it.
  if (role == Role::prompt) {
    if (begun_) answer_ = (answer_ + 1) % answers_.size();
    begun_ = true;
    at_ = 0;
  }
  const auto& ids = answers_[answer_];
  if (at_ < ids.size()) return ids[at_++];
  return script_.endless && !ids.empty() ? ids.back() : 1;
}

ForwardResult FakeForward::forward(const ForwardCall& call) {
  ForwardResult result;
  const auto vocabulary = static_cast<std::size_t>(config_.vocab_size);
  const bool prompt = !call.rows.empty() && call.rows.back().role == Role::prompt;
  if (prompt)
    wait(script_.per_prompt_token * static_cast<long>(call.rows.size()));
  else if (script_.per_token.count() > 0)
    std::this_thread::sleep_for(script_.per_token);
  result.logits.assign(call.logit_rows.size() * vocabulary, 0.0f);
  for (std::size_t i = 0; i < call.logit_rows.size(); ++i) {
    const Row& row = call.rows[static_cast<std::size_t>(call.logit_rows[i])];
    result.logits[i * vocabulary + static_cast<std::size_t>(next_token(row.role))] = 1000.0f;
  }
  return result;
}

void write_script(const std::string& path, const std::vector<std::string>& answers) {
  std::string text;
  for (const std::string& a : answers) text += (text.empty() ? "" : "\x1e") + a;
  put(path, text);
}

Script script_from_environment() {
  Script s;
  if (const char* path = std::getenv("FATHOM_FAKE_SCRIPT")) {
    const std::string text = read_file(path, 1u << 30);
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find('\x1e', at), text.size());
      s.answers.push_back(text.substr(at, end - at));
      at = end + 1;
    }
  }
  s.endless = number_from("FATHOM_FAKE_ENDLESS") != 0;
  s.per_token = std::chrono::microseconds(number_from("FATHOM_FAKE_DELAY_US"));
  s.per_prompt_token = std::chrono::microseconds(number_from("FATHOM_FAKE_PREFILL_US"));
  return s;
}

int fake_main(int argc, char** argv) {
  AppHooks hooks;
  hooks.make_forward = [](const Engine& engine) -> std::unique_ptr<Forward> {
    if (number_from("FATHOM_FAKE_THROW") != 0) throw std::runtime_error("planted");
    return std::make_unique<FakeForward>(engine.config(), *engine.tokenizer(), script_from_environment(), engine.context());
  };
  if (std::getenv("FATHOM_FAKE_GPU_FREE") != nullptr) {
    hooks.devices = [](cuda::NoDevice*) {
      const auto free_bytes = static_cast<std::uint64_t>(number_from("FATHOM_FAKE_GPU_FREE"));
      return std::vector{cuda::DeviceInfo{0, "Scripted GPU", 9, 0, 132, free_bytes, free_bytes, 0, "0000:1B:00.0"}};
    };
  }
  if (const char* why = std::getenv("FATHOM_FAKE_GPU_BROKEN"); why != nullptr) {
    hooks.devices = [why](cuda::NoDevice* none) {
      *none = {why, true};
      return std::vector<cuda::DeviceInfo>{};
    };
  }
  return app_main(argc, argv, hooks);
}

std::string self_path() {
  std::string path(4096, '\0');
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size());
  path.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return path;
}

}  // namespace fathom::test
