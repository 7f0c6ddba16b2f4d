// tiktoken.model: Kimi's pattern, merges by rank, and what is refused.
#include <doctest/doctest.h>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/errors.h"
#include "tokenizer/tokenizer.h"

using namespace fathom;
using namespace fathom::test;
using Ids = std::vector<std::int32_t>;

namespace {

const std::string directory = "tests/data/tiktoken";

std::unique_ptr<Tokenizer> load(const std::string& model, const std::string& config = "{}") {
  return Tokenizer::load(FileSet::memory(
      "test", {{"tiktoken.model", as_bytes_of(model)}, {"tokenizer_config.json", as_bytes_of(config)}}));
}

}  // namespace

TEST_CASE("tiktoken: ids equal the tiktoken package's") {
  const auto t = Tokenizer::load(FileSet::directory(directory));
  const std::string lines = read_file(directory + "/sample.jsonl", 1u << 20);
  int texts = 0;
  for (std::size_t at = 0; at < lines.size(); ++texts) {
    const std::size_t end = lines.find('\n', at);
    const json::Value sample = json::parse(lines.substr(at, end - at), "sample.jsonl");
    at = end + 1;
    const std::string& text = sample.find("text")->as_string();
    Ids ids;
    for (const json::Value& id : sample.find("ids")->as_array())
      ids.push_back(static_cast<std::int32_t>(id.as_number()));
    CAPTURE(sample.find("text")->describe());
    CHECK(t->encode(text, AddedTokens::match) == ids);
    std::string bytes;
    for (const std::int32_t id : t->encode(text, AddedTokens::plain)) {
      CHECK(!t->is_control(id));
      bytes += t->token_bytes(id);
    }
    CHECK(bytes == text);
  }
  CHECK(texts == 200);
}

TEST_CASE("tiktoken: control tokens come from tokenizer_config.json, gaps are reserved") {
  const auto t = Tokenizer::load(FileSet::directory(directory));
  CHECK(t->describe() == "tiktoken.model (BPE, 900 + 23)");
  CHECK(t->vocab_size() == 923);
  CHECK(t->special().bos_token == "[BOS]");
  CHECK(t->find_added("<|im_middle|>") == 917);
  CHECK(t->token_bytes(904) == "<|reserved_token_904|>");
  CHECK(t->is_control(904));
  CHECK(t->is_control(922));  // <think>, not special
  CHECK(t->encode("[EOS]", AddedTokens::match) == Ids{901});
  CHECK(t->encode("[EOS]", AddedTokens::plain).size() > 1);
}

TEST_CASE("tiktoken: long texts take bounded time") {
  const auto t = Tokenizer::load(FileSet::directory(directory));
  for (const std::string_view unit : {" ", "a", "A", "!", "漢", "あ", "Aa", "\n", "'s"}) {
    std::string text, bytes;
    while (text.size() < 3'000'000) text += unit;
    for (const std::int32_t id : t->encode(text, AddedTokens::plain)) bytes += t->token_bytes(id);
    CHECK(bytes == text);
  }
}

TEST_CASE("tiktoken: files that are refused, and why") {
  std::string good;
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::uint32_t b = 0; b < 256; ++b) {
    good += fmt::format("{}{}== {}\n", digits[b >> 2], digits[(b & 3) << 4], b);
  }
  CHECK(load(good)->encode("az", AddedTokens::plain) == Ids{'a', 'z'});
  CHECK(load(good + "YXo= 256\n")->encode("az", AddedTokens::plain) == Ids{256});
  const auto refused = [&](std::string_view lines) {
    const Outcome o = outcome_of([&] { (void)load(good + std::string(lines)); });
    CHECK(o.file == (o.code == Exit::ok ? "" : "tiktoken.model"));
    return o;
  };
  CHECK(refused("YXo= 257\n").says("each rank"));
  CHECK(refused("YXo= 3\n").says("each rank"));
  CHECK(refused("YQ== 256\n").says("occurs twice"));
  for (const std::string_view line : {"YXo=", "YXo= ", "YXo= -1", "YXo= 256 ", "YXo= 0x1", "Y=o= 256",
                                      "YXo 256", " 256", "==== 256", "Y!o= 256", "YXo= 99999999999"}) {
    CAPTURE(line);
    CHECK(refused(std::string(line) + "\n").code == Exit::bad_checkpoint);
  }
  std::string longest;
  for (int i = 0; i < 200; ++i) longest += "YWFh";
  CHECK(refused(longest + " 256\n").says("512 bytes"));
  CHECK(outcome_of([] { (void)load(""); }).code == Exit::bad_checkpoint);
  CHECK(outcome_of([] { (void)load("YQ== 0\n"); }).says("no token for the byte"));
  CHECK(outcome_of([] { (void)load("version https://git-lfs.github.com/spec/v1\n"); }).code ==
        Exit::bad_checkpoint);
  CHECK(outcome_of([&] {
          (void)load(good, R"({"added_tokens_decoder": {"9": {"content": "<x>"}}})");
        }).says("from 256 on"));
  CHECK(outcome_of([&] {
          (void)load(good, R"({"added_tokens_decoder": {"2000000000": {"content": "<x>"}}})");
        }).code == Exit::bad_checkpoint);
}
