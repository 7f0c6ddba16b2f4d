#include <doctest/doctest.h>

#include <map>

#include "tokenizer/think_markers.h"

using namespace fathom;

namespace {

// Byte tokens 0..255 and, from 256 on, the added tokens given.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(std::vector<std::string> added) : added_(std::move(added)) {
    for (int i = 0; i < 256; ++i) bytes_ += static_cast<char>(i);
  }
  std::vector<std::int32_t> encode(std::string_view text, AddedTokens) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string_view token_bytes(std::int32_t id) const override {
    if (id < 256) return std::string_view(bytes_).substr(static_cast<std::size_t>(id), 1);
    return added_[static_cast<std::size_t>(id) - 256];
  }
  bool is_control(std::int32_t id) const override { return id >= 256; }
  std::optional<std::int32_t> find_added(std::string_view content) const override {
    for (std::size_t i = 0; i < added_.size(); ++i)
      if (added_[i] == content) return static_cast<std::int32_t>(256 + i);
    return std::nullopt;
  }
  std::int32_t vocab_size() const override { return static_cast<std::int32_t>(256 + added_.size()); }
  std::string describe() const override { return "bytes"; }

 private:
  std::string bytes_;
  std::vector<std::string> added_;
};

const ByteTokenizer with_ids({"<think>", "</think>"});
const ByteTokenizer without_ids({});
constexpr std::string_view kTemplate = "{{ '<think>' }}";

struct Split {
  std::string reasoning, content;
  bool operator==(const Split&) const = default;
};

doctest::String toString(const Split& s) {
  return ("reasoning {" + s.reasoning + "} content {" + s.content + "}").c_str();
}

// Feeds `answer` in parts of `size` bytes; with ids, a marker in it is one id.
Split split(const ByteTokenizer& tokenizer, std::string_view prompt, std::string_view answer,
            std::size_t size) {
  const ThinkMarkers markers = find_think_markers(tokenizer, kTemplate);
  ThinkSplitter splitter(markers, prompt_thinking(prompt, markers));
  Split out;
  const auto take = [&](const ThinkSplitter::Delta& d) {
    out.reasoning += d.reasoning;
    out.content += d.content;
  };
  for (std::size_t i = 0; i < answer.size();) {
    const auto marker = [&](const std::string& text, std::optional<std::int32_t> id) {
      if (!id || !answer.substr(i).starts_with(text)) return false;
      CHECK(splitter.is_marker(*id));
      take(splitter.feed_marker(*id));
      i += text.size();
      return true;
    };
    if (marker(markers.open, markers.open_id) || marker(markers.close, markers.close_id)) continue;
    std::size_t n = std::min(size, answer.size() - i);
    if (markers.open_id) n = std::min(n, std::max<std::size_t>(1, answer.substr(i + 1).find('<') + 1));
    take(splitter.feed(answer.substr(i, n)));
    i += n;
  }
  take(splitter.finish());
  return out;
}

// The split must not depend on how the answer is cut into tokens, nor on whether markers are ids.
void check(std::string_view prompt, std::string_view answer, const Split& expected) {
  CAPTURE(prompt);
  CAPTURE(answer);
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{7}, std::size_t{1000}}) {
    CAPTURE(size);
    CHECK(split(without_ids, prompt, answer, size) == expected);
    CHECK(split(with_ids, prompt, answer, size) == expected);
  }
}

}  // namespace

TEST_CASE("think markers: ids where they are added tokens, text otherwise") {
  const ThinkMarkers ids = find_think_markers(with_ids, "");
  CHECK(ids.known);
  CHECK(ids.open_id == 256);
  CHECK(ids.close_ids == std::vector<std::int32_t>{257});
  const ThinkMarkers text = find_think_markers(without_ids, kTemplate);
  CHECK(text.known);
  CHECK_FALSE(text.open_id);
  CHECK(text.close_ids.size() == 8);
  CHECK_FALSE(find_think_markers(without_ids, "{{ messages }}").known);
}

TEST_CASE("think markers: the prompt's tail says whether a block is open") {
  const ThinkMarkers m;
  CHECK(prompt_thinking("…<｜Assistant｜><think>\n", m) == PromptThinking::open);
  CHECK(prompt_thinking("<think>", m) == PromptThinking::open);
  CHECK(prompt_thinking("<think> \n\n", m) == PromptThinking::open);
  CHECK(prompt_thinking("<｜Assistant｜></think>", m) == PromptThinking::closed);
  CHECK(prompt_thinking("<think>\n\n</think>\n\n", m) == PromptThinking::closed);
  CHECK(prompt_thinking("<think> about it", m) == PromptThinking::none);
  CHECK(prompt_thinking("<｜Assistant｜>", m) == PromptThinking::none);
  CHECK(prompt_thinking("", m) == PromptThinking::none);
  CHECK(prompt_thinking(" \n", m) == PromptThinking::none);
}

TEST_CASE("think splitter: a block the prompt opened") {
  check("<think>\n", "R\n</think>\n\nA", {"R", "A"});
  check("<think>", "a\n\nb</think>A\n", {"a\n\nb", "A\n"});
  check("<think>", "\n\nR</think>A", {"R", "A"});
  check("<think>", "no end", {"no end", ""});  // missing
  check("<think>", "no end\n", {"no end", ""});
  check("<think>", "</think>A", {"", "A"});  // first token, empty block
  check("<think>", "\n\n</think>\n\nA", {"", "A"});
  check("<think>", "R</think></think>\n\nA", {"R", "A"});  // doubled
  check("<think>", "R</think>\n</think>\nA", {"R", "A"});
  check("<think>\n", "<think>\nR</think>A", {"R", "A"});  // opened twice
  check("<think>", "", {"", ""});
  check("<think>", "a < b </ c </thin </think", {"a < b </ c </thin </think", ""});
  check("<think>", "a</think><", {"a", "<"});
}

// Found by fuzzing: white space beyond the limit ended the wait for a marker only when it came in small pieces.
TEST_CASE("think splitter: a marker behind much white space is content, however it is cut") {
  const std::string space(80, ' ');
  for (const std::size_t size : {std::size_t{1}, std::size_t{7}, std::size_t{1000}})
    CHECK(split(without_ids, "A:", space + "<think>R</think>A", size) == Split{"", space + "<think>R</think>A"});
}

TEST_CASE("think splitter: a block the answer opens") {
  check("A:", "<think>R</think>\n\nA", {"R", "A"});
  check("A:", "\n<think>\nR\n</think>A", {"R", "A"});
  check("A:", " \n <think>R</think>A", {"R", "A"});
  check("A:", "<think></think>A", {"", "A"});
  check("A:", "<think>no end", {"no end", ""});
  check("</think>", "A", {"", "A"});
}

TEST_CASE("think splitter: no block") {
  check("A:", "just text", {"", "just text"});
  check("A:", "\n\n  indented", {"", "  indented"});
  check("A:", "<thinker>", {"", "<thinker>"});
  check("A:", "<think", {"", "<think"});
  check("A:", "\n\n", {"", ""});
  check("A:", "x" + std::string(200, '\n') + "y", {"", "x" + std::string(200, '\n') + "y"});
  check("A:", std::string(500, ' ') + "y", {"", std::string(500, ' ') + "y"});
}

TEST_CASE("think splitter: markers in the wrong place") {
  // As text they are the answer's own words; as ids they are control tokens and never text.
  const auto both = [](std::string_view prompt, std::string_view answer, const Split& text,
                       const Split& ids) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{5}, std::size_t{1000}}) {
      CHECK(split(without_ids, prompt, answer, size) == text);
      CHECK(split(with_ids, prompt, answer, size) == ids);
    }
  };
  both("<think>", "a<think>b</think>c</think>d", {"a<think>b", "c</think>d"}, {"ab", "cd"});  // nested
  both("A:", "R</think>A", {"", "R</think>A"}, {"", "RA"});                                   // never opened
  both("A:", "a <think>b</think>c", {"", "a <think>b</think>c"}, {"b", "a c"});               // opened late
}

TEST_CASE("think splitter: text is given at once unless it may begin a marker") {
  const ThinkMarkers m = find_think_markers(without_ids, kTemplate);
  ThinkSplitter s(m, PromptThinking::open);
  CHECK(s.in_thinking());
  CHECK(s.feed("abc").reasoning == "abc");
  CHECK(s.feed(" <").reasoning == " ");
  CHECK(s.feed("/x").reasoning == "</x");
  CHECK(s.feed("\n").reasoning.empty());
  CHECK(s.feed("y").reasoning == "\ny");
  CHECK(s.feed("</think>ok").content == "ok");
  CHECK_FALSE(s.in_thinking());
  CHECK(s.feed("</think>").content == "</think>");
}

TEST_CASE("think splitter: without known markers everything is content") {
  ThinkSplitter s(find_think_markers(without_ids, ""), PromptThinking::none);
  CHECK(s.feed("<think>a</think>b").content == "<think>a</think>b");
}
