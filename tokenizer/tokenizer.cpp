#include "tokenizer/tokenizer.h"

#include "src/base/error.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/tokenizer_config.h"

namespace fathom {
namespace {

constexpr std::uint64_t max_bytes = 256u << 20;

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const FileSet& files) {
  if (files.has("tokenizer.json")) {
    TokenizerConfig config = TokenizerConfig::load(files);
    return load_tokenizer_json(files.read("tokenizer.json", max_bytes).text(), std::move(config.special));
  }
  throw Error(Exit::not_found,
              fmt::format("{}: no tokenizer: expected tokenizer.json, tiktoken.model or tokenizer.model",
                          files.label()),
              "download the tokenizer files of the checkpoint into the same directory");
}

}  // namespace fathom
