// tokenizer.model: the walk over its protobuf and the sentencepiece library behind it.
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/errors.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"

using namespace fathom;
using namespace fathom::test;
using Ids = std::vector<std::int32_t>;
using Type = SentencePieceModel::Type;

namespace {

const std::string directory = "tests/data/sentencepiece";

std::unique_ptr<Tokenizer> load_small() { return Tokenizer::load(FileSet::directory(directory)); }

std::string decode(const Tokenizer& t, const Ids& ids) {
  std::string bytes;
  for (const std::int32_t id : ids) bytes += t.token_bytes(id);
  return bytes;
}

Ids ids_of(const json::Value& list) {
  Ids ids;
  for (const json::Value& id : list.as_array()) ids.push_back(static_cast<std::int32_t>(id.as_number()));
  return ids;
}

// A valid model by hand: 256 bytes, <unk>, and `pieces`.
SentencePieceModel model_with(const std::vector<SentencePieceModel::Piece>& pieces) {
  SentencePieceModel model;
  model.pieces.push_back({"<unk>", 0, Type::unknown});
  for (int b = 0; b < 256; ++b) model.pieces.push_back({fmt::format("<0x{:02X}>", b), 0, Type::byte});
  model.pieces.insert(model.pieces.end(), pieces.begin(), pieces.end());
  return model;
}

std::unique_ptr<Tokenizer> load(const std::string& model, const std::string& config = "{}") {
  return Tokenizer::load(FileSet::memory(
      "test", {{"tokenizer.model", as_bytes_of(model)}, {"tokenizer_config.json", as_bytes_of(config)}}));
}

}  // namespace

TEST_CASE("sentencepiece: ids equal the sentencepiece package's") {
  const auto t = load_small();
  const std::string lines = read_file(directory + "/sample.jsonl", 1u << 20);
  int texts = 0, plain = 0;
  for (std::size_t at = 0; at < lines.size(); ++texts) {
    const std::size_t end = lines.find('\n', at);
    const json::Value sample = json::parse(lines.substr(at, end - at), "sample.jsonl");
    at = end + 1;
    const std::string& text = sample.find("text")->as_string();
    CAPTURE(sample.find("text")->describe());
    CHECK(t->encode(text, AddedTokens::match) == ids_of(*sample.find("match")));
    const Ids found = t->encode(text, AddedTokens::plain);
    if (!sample.find("plain")->is_null()) {
      ++plain;
      CHECK(found == ids_of(*sample.find("plain")));
    }
    for (const std::int32_t id : found) CHECK(!t->is_control(id));
  }
  CHECK(texts == 200);
  CHECK(plain > 100);
}

TEST_CASE("sentencepiece: properties and control tokens") {
  const auto t = load_small();
  CHECK(t->vocab_size() == 513);
  CHECK(t->describe() == "tokenizer.model (SentencePiece BPE, 512 + 1)");
  CHECK(t->special().bos_token == "<｜begin▁of▁sentence｜>");
  CHECK(t->find_added("<｜begin▁of▁sentence｜>") == 0);
  CHECK(t->find_added("<｜extra▁1｜>") == 512);
  CHECK(t->token_bytes(0) == "<｜begin▁of▁sentence｜>");  // its U+2581 is no space
  CHECK(t->is_control(0));
  CHECK(t->encode("<｜begin▁of▁sentence｜><think>", AddedTokens::match) == Ids{0, *t->find_added("<think>")});
  for (const std::string_view text : {"<think>x</think>", "<｜User｜>", "<unk>", "<s>", "<0x41>"}) {
    const Ids ids = t->encode(text, AddedTokens::plain);
    CHECK(decode(*t, ids) == text);
    CHECK(std::ranges::none_of(ids, [&](std::int32_t id) { return t->is_control(id); }));
  }
}

TEST_CASE("sentencepiece: any bytes come back") {
  const auto t = load_small();
  for (const std::string_view text : {"Hello, world!", "  two  spaces ", "naïve café 你好 🙂\t\n\n x",
                                      "\xff\xfe", "caf\xc3", " ", "\n", "a\u00a0b", "x  \xed\xa0\x80  y"})
    CHECK(decode(*t, t->encode(text, AddedTokens::plain)) == text);
  const std::string_view nul("a\0\0b\0", 5);
  CHECK(decode(*t, t->encode(nul, AddedTokens::plain)) == nul);
  for (int i = 0; i < 65536; ++i) {
    const std::string bytes = {static_cast<char>(i >> 8), static_cast<char>(i & 0xFF)};
    if (decode(*t, t->encode(bytes, AddedTokens::plain)) != bytes) FAIL_CHECK(i);
  }
  CHECK(t->encode("", AddedTokens::plain).empty());
}

TEST_CASE("sentencepiece: long texts take bounded time") {
  const auto t = load_small();
  for (const std::string_view unit : {" ", "a", "!", "the cat ", "漢"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    CHECK(decode(*t, t->encode(text, AddedTokens::plain)) == text);
  }
}

TEST_CASE("sentencepiece: words are cut only where no piece crosses them") {
  const std::vector<SentencePieceModel::Piece> letters = {
      {"a", -10}, {"b", -11}, {"\u2581", -12}, {"\u2581b", -2}, {"ab", -4}};
  const auto apart = load(model_with(letters).serialize());
  CHECK(apart->encode("a b ab", AddedTokens::plain) == Ids{257, 260, 259, 261});
  auto crossing = letters;
  crossing.push_back({"a\u2581", -1});
  crossing.push_back({"a\u2581b", -3});
  const auto across = load(model_with(crossing).serialize());
  CHECK(across->encode("a b ab", AddedTokens::plain) == Ids{263, 259, 261});
}

TEST_CASE("sentencepiece: the walk reads what serialize writes, and the real file") {
  const std::string file = read_file(directory + "/tokenizer.model", 1u << 20);
  const SentencePieceModel model = SentencePieceModel::parse(file);
  CHECK(model.pieces.size() == 512);
  const SentencePieceModel again = SentencePieceModel::parse(model.serialize());
  REQUIRE(again.pieces.size() == model.pieces.size());
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    CHECK(again.pieces[i].text == model.pieces[i].text);
    CHECK(again.pieces[i].score == model.pieces[i].score);
    CHECK(again.pieces[i].type == model.pieces[i].type);
  }
  CHECK(model.serialize() == again.serialize());
  // Every prefix and many single-byte changes: an error of the two documented kinds, or a model.
  for (std::size_t n = 0; n < file.size(); n += 7) {
    const Exit code = outcome_of([&] { (void)SentencePieceModel::parse(file.substr(0, n)); }).code;
    CHECK((code == Exit::bad_checkpoint || code == Exit::unsupported));
  }
  std::string changed = file;
  for (std::size_t n = 0; n < file.size(); n += 3) {
    changed[n] = static_cast<char>(changed[n] ^ (1 << n % 8));
    const Exit code = outcome_of([&] { (void)SentencePieceModel::parse(changed); }).code;
    CHECK((code == Exit::ok || code == Exit::bad_checkpoint || code == Exit::unsupported));
    changed[n] = file[n];
  }
}

TEST_CASE("sentencepiece: models that are refused, and why") {
  using Piece = SentencePieceModel::Piece;
  struct Case {
    std::string word;
    std::vector<Piece> pieces;
  };
  const std::vector<Case> cases = {
      {"occurs twice", {{"a"}, {"a"}}},
      {"1 to 256 bytes", {{""}}},
      {"1 to 256 bytes", {{std::string(257, 'a')}}},
      {"NUL", {{std::string("a\0b", 3)}}},
      {"UTF-8", {{"a\xff"}}},
      {"finite", {{"a", std::numeric_limits<float>::quiet_NaN()}}},
      {"finite", {{"a", std::numeric_limits<float>::infinity()}}},
      {"byte piece", {{"<0xZZ>", 0, Type::byte}}},
      {"one piece of the type unknown", {{"<unk2>", 0, Type::unknown}}},
      {"unknown type", {{"a", 0, static_cast<Type>(7)}}},
      {"single character", {{"x", 0, Type::control}}},
  };
  for (const Case& c : cases) {
    const Outcome o = outcome_of([&] { (void)load(model_with(c.pieces).serialize()); });
    CAPTURE(c.word);
    CAPTURE(o.message);
    CHECK(o.code == Exit::bad_checkpoint);
    CHECK(o.says(c.word));
    CHECK(o.file == "tokenizer.model");
  }
  const std::string good = model_with({{"a"}}).serialize();
  CHECK(outcome_of([&] { (void)load(good); }).code == Exit::ok);
  // Fields behind the good ones override them: TrainerSpec is field 2, NormalizerSpec 3.
  const auto with = [&](std::string_view bytes) {
    return outcome_of([&] { (void)load(good + std::string(bytes)); });
  };
  CHECK(with("\x12\x02\x18\x01").says("unigram"));
  CHECK(with("\x12\x02\x18\x01").code == Exit::unsupported);
  CHECK(with("\x12\x02\x18\x03").says("model type 3"));
  CHECK(with(std::string_view("\x12\x03\x98\x02\x00", 5)).says("byte_fallback"));
  CHECK(with("\x12\x03\xc0\x01\x01").says("treat_whitespace_as_suffix"));
  CHECK(with("\x1a\x03\x12\x01x").says("precompiled_charsmap"));
  CHECK(with("\x1a\x02\x18\x01").says("add_dummy_prefix"));
  CHECK(with("\x1a\x02\x20\x01").says("remove_extra_whitespaces"));
  CHECK(with(std::string_view("\x1a\x02\x28\x00", 4)).says("escape_whitespaces"));
  CHECK(with("\x0a\x7f").code == Exit::bad_checkpoint);  // longer than the file
  CHECK(with("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").code == Exit::bad_checkpoint);
  CHECK(with("\x0b").code == Exit::bad_checkpoint);      // a group
  CHECK(with("\x08\x01").code == Exit::bad_checkpoint);  // pieces as a number
  CHECK(with("\x00").code == Exit::ok);                  // the literal ends before its NUL
  CHECK(with(std::string_view("\x00", 1)).code == Exit::bad_checkpoint);
  CHECK(outcome_of([] { (void)load(""); }).code == Exit::bad_checkpoint);
  CHECK(outcome_of([] { (void)load("version https://git-lfs.github.com/spec/v1\n"); }).code ==
        Exit::bad_checkpoint);

  const auto config = [&](std::string_view added) {
    return outcome_of([&] { (void)load(good, fmt::format(R"({{"added_tokens_decoder": {}}})", added)); });
  };
  CHECK(config(R"({"257": {"content": "b", "special": true}})").says("257 is"));
  CHECK(config(R"({"257": {"content": "a", "special": true}})").says("ordinary piece"));
  CHECK(config(R"({"259": {"content": "<b>", "special": true}})").says("no token has the id 258"));
  CHECK(config(R"({"258": {"content": "<b>", "special": true}})").code == Exit::ok);
}
