// From ids to thinking and content. Any ids: whole UTF-8, no control token's text, the events add up to the result. Any
// text: the split does not depend on how the text is cut into tokens.
#include <array>
#include <string>
#include <vector>

#include "src/base/utf8.h"
#include "src/engine/channels.h"
#include "tests/fuzz/target.h"
#include "tests/support/scripted_model.h"
#include "tokenizer/think_markers.h"

using namespace fathom;
using fuzz::require;

namespace {

// Parts of the markers and of the stop strings are tokens, so that inputs reach them quickly.
const std::vector<std::string>& pieces() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> p;
    for (int b = 0; b < 224; ++b) p.emplace_back(1, static_cast<char>(b));
    for (const char* text : {"<think>", "</think>", "<thi", "nk>", "</", "think", "\n\n", "STOP", "ST", "OPS", "é", "\xe2\x82",
                             "\xac", "<｜end｜>", " ", "\n", "</think>\n", "\n<think>", "日本", "\xf0\x9f\x98", "\x80", "</thin",
                             "k", "k>k", "the same again ", "TOPS", "P", "</think></think>", "<think><think>", "\r\n", "\t", "x"})
      p.emplace_back(text);
    return p;
  }();
  return all;
}
constexpr std::int32_t kOpen = 224, kClose = 225, kEnd = 237;

struct Text {
  std::string reasoning, content;
  bool operator==(const Text&) const = default;
};

void channels(std::string_view input) {
  if (input.size() < 2) return;
  const auto mode = static_cast<unsigned char>(input[0]);
  const bool by_id = mode & 1;
  const test::TableTokenizer tokenizer(pieces(), by_id ? std::vector<std::int32_t>{kOpen, kClose, kEnd}
                                                       : std::vector<std::int32_t>{kEnd});
  GenerationRequest request;
  request.prompt.chat = (mode & 2) == 0;
  if (mode & 4) request.stop = {"STOP", "TOPS"};
  if (mode & 8) request.think_budget = mode >> 4;
  request.prompt.markers = find_think_markers(tokenizer, "<think>");
  request.prompt.tail = mode & 16 ? "<think>\n" : mode & 32 ? "</think>" : "";
  Text told;
  GenerationEvents events;
  events.reasoning = [&](std::string_view s) { told.reasoning += s; };
  events.content = [&](std::string_view s) { told.content += s; };
  GenerationResult result;
  Channels channels(&tokenizer, request, events, result);
  for (const char c : input.substr(1)) {
    const std::optional<std::int32_t> forced = channels.forced_id();
    require(!forced || (*forced >= 0 && *forced < tokenizer.vocab_size()), "a prescribed id exists");
    channels.feed(forced.value_or(static_cast<unsigned char>(c)));
    if (channels.stop_string_found()) break;
  }
  channels.finish();
  require(told == Text{result.reasoning, result.content}, "events add up to the result");
  for (const std::string& text : {result.reasoning, result.content}) {
    require(well_formed_prefix(text) == text.size(), "text is UTF-8");
    require(text.find("<｜end｜>") == text.npos, "a control token is never text");
  }
  for (const std::string& stop : request.stop)
    require(result.content.find(stop) == std::string::npos, "the content ends before a stop string");
  if (!request.prompt.chat) require(result.reasoning.empty(), "without a chat there is no thinking");
}
const fuzz::Target channels_target("channels", channels);

// The text in pieces of `step` bytes (0: whole).
Text split(std::string_view text, const ThinkMarkers& markers, PromptThinking prompt, std::size_t step) {
  ThinkSplitter splitter(markers, prompt);
  Text out;
  const auto take = [&](const ThinkSplitter::Delta& d) { out.reasoning += d.reasoning, out.content += d.content; };
  for (std::size_t at = 0; at < text.size(); at += step == 0 ? text.size() : step)
    take(splitter.feed(text.substr(at, step == 0 ? text.npos : step)));
  take(splitter.finish());
  return out;
}
std::string stopped(std::string_view text, std::size_t step) {
  StopFilter filter({"STOP", "TOPS", "ab", "aabc"});
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += step == 0 ? text.size() : step)
    out += filter.feed(text.substr(at, step == 0 ? text.npos : step));
  return out + filter.finish();
}

void thinking(std::string_view input) {
  if (input.empty()) return;
  const auto mode = static_cast<unsigned char>(input[0]);
  const std::string_view text = input.substr(1);
  constexpr std::array kPrompts{PromptThinking::none, PromptThinking::open, PromptThinking::closed};
  ThinkMarkers markers;
  markers.known = mode % 7 != 0;
  const PromptThinking prompt = kPrompts[mode % 3];
  const Text whole = split(text, markers, prompt, 0);
  const std::string unstopped = stopped(text, 0);
  for (const std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{mode} / 3 + 1}) {
    require(split(text, markers, prompt, step) == whole, "the split does not depend on the pieces");
    require(stopped(text, step) == unstopped, "the end does not depend on the pieces");
  }
  require(whole.reasoning.size() + whole.content.size() <= text.size(), "nothing is invented");
  require(text.starts_with(unstopped), "stopped text is a beginning of the text");
}
const fuzz::Target thinking_target("thinking", thinking);

}  // namespace
