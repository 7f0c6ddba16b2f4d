#include "tokenizer/tokenizer_config.h"

#include <charconv>

#include "src/base/error.h"
#include "src/base/json.h"

namespace fathom {
namespace {

constexpr std::string_view file_name = "tokenizer_config.json";
constexpr std::uint64_t max_bytes = 64u << 20;

bool flag(const json::Value& object, std::string_view key, std::string_view where) {
  const json::Value* v = object.find(key);
  if (v == nullptr || v->is_null()) return false;
  if (!v->is_bool()) {
    fail(Exit::bad_checkpoint, "{}: expected {} true or false, found {}", where, key, v->describe());
  }
  return v->as_bool();
}

// A string, or an object with a string `content`; empty for null or absent.
std::string token_named(const json::Value& config, std::string_view key) {
  const json::Value* v = config.find(key);
  if (v == nullptr || v->is_null()) return {};
  const json::Value* text = v->is_object() ? v->find("content") : v;
  if (text == nullptr || !text->is_string()) {
    fail(Exit::bad_checkpoint, "expected {} to be a string or an object with a string content, found {}", key,
         v->describe());
  }
  return text->as_string();
}

TokenizerConfig read(const json::Value& config) {
  if (!config.is_object()) fail(Exit::bad_checkpoint, "expected an object, found {}", config.describe());
  TokenizerConfig result;
  result.special.bos_token = token_named(config, "bos_token");
  result.special.eos_token = token_named(config, "eos_token");
  result.special.pad_token = token_named(config, "pad_token");
  result.special.unk_token = token_named(config, "unk_token");
  result.special.add_bos_token = flag(config, "add_bos_token", "tokenizer_config.json");
  const json::Value* added = config.find("added_tokens_decoder");
  if (added == nullptr || added->is_null()) return result;
  if (!added->is_object())
    fail(Exit::bad_checkpoint, "expected added_tokens_decoder to be an object, found {}", added->describe());
  for (const auto& [key, entry] : added->as_object()) {
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      fail(Exit::bad_checkpoint, "added_tokens_decoder: expected token ids as keys, found {}",
           json::quote(key.substr(0, 40)));
    }
    result.added_tokens.push_back(read_added_token(entry, id, fmt::format("added_tokens_decoder {}", id)));
  }
  return result;
}

}  // namespace

AddedToken read_added_token(const json::Value& entry, std::int32_t id, std::string_view where) {
  const json::Value* content = entry.find("content");
  if (content == nullptr || !content->is_string()) {
    fail(Exit::bad_checkpoint, "{}: expected an object with a string content, found {}", where,
         entry.describe());
  }
  for (const std::string_view key : {"lstrip", "rstrip", "single_word"}) {
    if (!flag(entry, key, where)) continue;
    fail(Exit::unsupported, "{}: {} with {} true; only tokens matched exactly as written are supported",
         where, json::quote(content->as_string().substr(0, 80)), key);
  }
  const json::Value* normalized = entry.find("normalized");
  const json::Value* special = entry.find("special");
  AddedToken token{id, content->as_string(), flag(entry, "special", where), flag(entry, "normalized", where)};
  // Hugging Face's default: what is not special is matched on the normalised text.
  if ((normalized == nullptr || normalized->is_null()) && (special == nullptr || !token.special))
    token.normalized = true;
  return token;
}

TokenizerConfig TokenizerConfig::load(const FileSet& files) {
  if (!files.has(file_name)) return {};
  try {
    const Blob blob = files.read(file_name, max_bytes);
    return read(json::parse(blob.text(), file_name));
  } catch (Error& e) {
    if (e.file().empty()) e.at(std::string(file_name));
    throw;
  }
}

}  // namespace fathom
