#include "tokenizer/tokenizer.h"

#include "src/base/error.h"
#include "tokenizer/loaders.h"

namespace fathom {
namespace {

constexpr std::uint64_t max_bytes = 256u << 20;

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const FileSet& files) {
  struct Format {
    std::string_view file;
    std::unique_ptr<Tokenizer> (*load)(std::string_view, TokenizerConfig);
  };
  static constexpr Format formats[] = {{"tokenizer.json", load_tokenizer_json},
                                       {"tiktoken.model", load_tiktoken_model},
                                       {"tokenizer.model", load_sentencepiece}};
  for (const Format& format : formats) {
    if (!files.has(format.file)) continue;
    return format.load(files.read(format.file, max_bytes).text(), TokenizerConfig::load(files));
  }
  throw Error(Exit::not_found,
              fmt::format("{}: no tokenizer: expected tokenizer.json, tiktoken.model or tokenizer.model",
                          files.label()),
              "download the tokenizer files of the checkpoint into the same directory");
}

}  // namespace fathom
