#include "src/engine/generation_config.h"

#include <algorithm>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/model/json_fields.h"

namespace fathom {
namespace {

std::int32_t token_id(const JsonFields& f, std::string_view key, const json::Value& v, int vocab_size) {
  const auto id = v.integer_in(0, vocab_size - 1);
  if (!id) f.refuse(key, fmt::format("token ids below vocab_size {}", vocab_size));
  return static_cast<std::int32_t>(*id);
}

std::optional<float> number(const JsonFields& f, std::string_view key, double lo, double hi) {
  const auto v = f.number_if(key, lo, hi);
  if (!v) return std::nullopt;
  return static_cast<float>(*v);
}

}  // namespace

GenerationConfig parse_generation_config(std::string_view text, std::string_view where, int vocab_size) {
  const json::Value root = json::parse(text, where);
  const JsonFields f(root, std::string(where));
  GenerationConfig g;
  if (f.has("do_sample")) g.do_sample = f.boolean("do_sample");
  g.temperature = number(f, "temperature", 0, 100);
  g.top_p = number(f, "top_p", 0, 1);
  g.repetition_penalty = number(f, "repetition_penalty", 0.01, 100);
  if (f.has("top_k")) g.top_k = static_cast<int>(f.integer("top_k", 0, 1 << 30));
  if (const json::Value* v = f.get("bos_token_id")) g.bos_token_id = token_id(f, "bos_token_id", *v, vocab_size);
  if (const json::Value* v = f.get("eos_token_id")) {
    if (!v->is_array()) {
      g.eos_token_ids.push_back(token_id(f, "eos_token_id", *v, vocab_size));
    } else {
      for (const json::Value& e : v->as_array()) g.eos_token_ids.push_back(token_id(f, "eos_token_id", e, vocab_size));
    }
  }
  return g;
}

GenerationConfig read_generation_config(const FileSet& files, int vocab_size) {
  if (!files.has("generation_config.json")) return {};
  const Blob blob = files.read("generation_config.json", 1u << 20);
  return parse_generation_config(blob.text(), "generation_config.json", vocab_size);
}

SamplingParams default_sampling(const GenerationConfig& config) {
  SamplingParams p;
  const bool silent = !config.temperature && !config.top_p;
  p.temperature = config.do_sample == false ? 0.0f : config.temperature.value_or(silent ? 0.6f : 1.0f);
  p.top_p = config.top_p.value_or(silent ? 0.95f : 1.0f);
  p.top_k = config.top_k.value_or(0);
  p.repeat_penalty = config.repetition_penalty.value_or(1.0f);
  return p;
}

std::vector<std::int32_t> stop_ids(const GenerationConfig& generation, const Config& config,
                                   const Tokenizer* tokenizer) {
  std::vector<std::int32_t> ids = generation.eos_token_ids;
  ids.insert(ids.end(), config.eos_token_ids.begin(), config.eos_token_ids.end());
  if (tokenizer != nullptr) {
    const auto add = [&](std::string_view content) {
      if (content.empty()) return;
      if (const auto id = tokenizer->find_added(content)) ids.push_back(*id);
    };
    add(tokenizer->special().eos_token);
    // A model that begins the next turn itself has ended its own: so does the marker of a user's turn.
    for (std::string_view marker :
         {"<|EOT|>", "<|im_end|>", "<|user|>", "<|observation|>", "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"})
      add(marker);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace fathom
