// The tokenizer files: what loads encodes and decodes without loss; all else is refused with an Error. An input is the
// file and, behind its first NUL, tokenizer_config.json.
#include <memory>
#include <string>

#include "src/base/file.h"
#include "src/base/utf8.h"
#include "tests/fuzz/target.h"
#include "tests/support/tokenizer_json.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"

using namespace fathom;
using fuzz::require;

namespace {

std::string decoded(const Tokenizer& t, const std::vector<std::int32_t>& ids) {
  std::string out;
  for (const std::int32_t id : ids) {
    require(id >= 0 && id < t.vocab_size(), "ids are below vocab_size");
    out += t.token_bytes(id);
  }
  return out;
}

void use(const Tokenizer& t) {
  (void)decoded(t, t.encode("The 日本 \xff\n  1234 <|x|>", AddedTokens::plain));
  (void)decoded(t, t.encode("a<|x|></s> a", AddedTokens::match));
  StreamDecoder decoder(t);
  for (std::int32_t id = 0; id < std::min(t.vocab_size(), 600); ++id) {
    (void)t.is_control(id);
    const std::string text = decoder.feed(id);
    require(well_formed_prefix(text) == text.size(), "a decoder gives UTF-8");
  }
  (void)t.describe();
}

void load_as(const char* name, std::string_view input, std::string_view config) {
  std::vector<FileSet::MemoryFile> files = {{name, as_bytes_of(input)}};
  if (!config.empty()) files.push_back({"tokenizer_config.json", as_bytes_of(config)});
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported, Exit::not_found},
                     [&] { use(*Tokenizer::load(FileSet::memory("fuzz", std::move(files)))); });
}

void tokenizer_json(std::string_view input) {
  const auto [file, config] = fuzz::halves(input);
  load_as("tokenizer.json", file, config);
}
const fuzz::Target json_target("tokenizer_json", tokenizer_json);

void tiktoken(std::string_view input) {
  const auto [file, config] = fuzz::halves(input);
  load_as("tiktoken.model", file, config);
}
const fuzz::Target tiktoken_target("tiktoken", tiktoken);

void tokenizer_config(std::string_view input) {
  static const std::string file = test::TinyTokenizer{}.text();
  load_as("tokenizer.json", file, input);
}
const fuzz::Target config_target("tokenizer_config", tokenizer_config);

// Our own walk over the protobuf first; the library sees only what we write.
void sentencepiece(std::string_view input) {
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
    const SentencePieceModel model = SentencePieceModel::parse(input);
    const std::string written = model.serialize();
    const SentencePieceModel again = SentencePieceModel::parse(written);
    require(again.pieces.size() == model.pieces.size(), "a model is read as it was written");
    for (std::size_t i = 0; i < model.pieces.size(); ++i)
      require(again.pieces[i].text == model.pieces[i].text && again.pieces[i].type == model.pieces[i].type &&
                  again.pieces[i].score == model.pieces[i].score,
              "a piece is read as it was written");
    require(again.serialize() == written, "writing twice gives the same bytes");
    load_as("tokenizer.model", input, {});
  });
}
const fuzz::Target sentencepiece_target("sentencepiece", sentencepiece);

// Byte-level BPE keeps every byte, whatever pattern cuts the text.
void bpe(std::string_view input) {
  static const auto make = [](std::string pre_tokenizer) {
    test::TinyTokenizer t;
    t.merges = {{"a", "a"}, {"aa", "a"}, {"t", "h"}, {"th", "e"}, {"Ġ", "the"}, {"Ġ", "Ġ"}, {"Ã", "©"}};
    if (!pre_tokenizer.empty()) t.pre_tokenizer = std::move(pre_tokenizer);
    return test::load_tiny(t);
  };
  static const std::unique_ptr<Tokenizer> whole = make("");
  static const std::unique_ptr<Tokenizer> gpt2 =
      make(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})");
  static const std::unique_ptr<Tokenizer> deepseek = make(
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}"},"behavior":"Isolated","invert":false},)"
      R"({"type":"Split","pattern":{"Regex":"[一-龥぀-ゟ゠-ヿ]+"},"behavior":"Isolated","invert":false},)"
      R"({"type":"Split","pattern":{"Regex":"\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)"
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})");
  for (const Tokenizer* t : {whole.get(), gpt2.get(), deepseek.get()}) {
    const std::vector<std::int32_t> ids = t->encode(input, AddedTokens::plain);
    require(decoded(*t, ids) == input, "encoding keeps every byte");
    StreamDecoder decoder(*t);
    std::string text;
    for (const std::int32_t id : ids) text += decoder.feed(id);
    text += decoder.finish();
    require(well_formed_prefix(text) == text.size(), "a decoder gives UTF-8");
    if (well_formed_prefix(input) == input.size()) require(text == input, "decoding gives the text back");
  }
}
const fuzz::Target bpe_target("bpe", bpe);

// A pattern, NUL, a subject: pieces cover the subject in order, each not empty.
void pretokenizer(std::string_view input) {
  const std::string_view pattern = fuzz::halves(input).first, subject = fuzz::halves(input).second;
  if (well_formed_prefix(pattern) != pattern.size() || well_formed_prefix(subject) != subject.size()) return;
  for (const char* behavior : {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"})
    fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
      const std::string text = fmt::format(
          R"({{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"{}","invert":{}}}]}})",
          json::quote(pattern), behavior, pattern.size() % 2 == 0);
      const Pretokenizer p = Pretokenizer::from_json(json::parse(text, "fuzz"));
      Pretokenizer::State state;
      std::string joined;
      const auto take = [&](std::string_view piece) {
        require(!piece.empty(), "pieces are not empty");
        joined += piece;
      };
      p.split(subject, state, take);
      require(joined == subject, "the pieces are the subject");
    });
}
const fuzz::Target pretokenizer_target("pretokenizer", pretokenizer);

}  // namespace
