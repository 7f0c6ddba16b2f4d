// tokenizer_config.json: the special tokens by name and, where the vocabulary file has none, the added
// tokens.
#pragma once

#include <string>
#include <vector>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

// One entry of `added_tokens` (tokenizer.json) or `added_tokens_decoder` (tokenizer_config.json).
// `where` names it in messages. Errors: bad_checkpoint for a wrong type; unsupported when lstrip, rstrip or
// single_word is set.
AddedToken read_added_token(const json::Value& entry, std::int32_t id, std::string_view where);

struct TokenizerConfig {
  Tokenizer::Special special;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder, in file order

  // Reads tokenizer_config.json if it is there; `tokenizer_class` is ignored. Errors: bad_checkpoint,
  // unsupported.
  static TokenizerConfig load(const FileSet& files);
};

}  // namespace fathom
