// The loaders behind Tokenizer::load, one per file format. Each takes the file's bytes and what
// tokenizer_config.json says; errors name the file.
#pragma once

#include <memory>
#include <string_view>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_config.h"

namespace fathom {

std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view file, TokenizerConfig config);
std::unique_ptr<Tokenizer> load_tiktoken_model(std::string_view file, TokenizerConfig config);
std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view file, TokenizerConfig config);

}  // namespace fathom
