// Thinking blocks: their markers, where the prompt leaves them, and the split of an answer into thinking and
// content.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace fathom {

struct ThinkMarkers {
  std::string open = "<think>", close = "</think>";
  // Set when the marker is one added token; it is then recognised by its id and never by text.
  std::optional<std::int32_t> open_id, close_id;
  // The vocabulary or the chat template knows the markers; otherwise an answer has no thinking.
  bool known = false;
  // What ends a block when a budget forces its end: close_id, or the ids of its text.
  std::vector<std::int32_t> close_ids;
};

// `template_source`: the chat template's Jinja text, empty if there is none.
ThinkMarkers find_think_markers(const Tokenizer& tokenizer, std::string_view template_source);

// What the end of a rendered prompt says: nothing, that a block is open, or that it has just been closed.
// White space behind the marker does not matter.
enum class PromptThinking { none, open, closed };
PromptThinking prompt_thinking(std::string_view prompt_tail, const ThinkMarkers& markers);

// Splits a streamed answer. A block opens in the prompt, or in the answer: by text before anything but white
// space, by id anywhere. The first closing marker ends it; blocks do not nest. An opening marker at the start
// of an open block and a closing one at the start of the content are dropped, elsewhere marker text stays
// text; marker ids never become text. Newlines around the thinking and before the content are dropped.
class ThinkSplitter {
 public:
  struct Delta {
    std::string reasoning, content;
  };

  ThinkSplitter(ThinkMarkers markers, PromptThinking prompt);

  // True when `id` is a marker, which feed_marker takes.
  bool is_marker(std::int32_t id) const { return id == markers_.open_id || id == markers_.close_id; }
  Delta feed_marker(std::int32_t id);
  // Decoded text of ordinary tokens. Holds back what may be the beginning of a marker's text.
  Delta feed(std::string_view text);
  // The answer has ended: gives what was held back.
  Delta finish();
  // The next text is thinking, as far as is known.
  bool in_thinking() const { return state_ == State::thinking; }

 private:
  enum class State { start, thinking, content };

  bool open_is_text() const { return markers_.known && !markers_.open_id; }
  bool close_is_text() const { return markers_.known && !markers_.close_id; }
  void enter(State state);
  bool step(Delta& out);
  bool step_start();
  bool step_thinking(Delta& out);
  void give_reasoning(std::string_view text, Delta& out);
  void give_content(std::string_view text, Delta& out);
  bool may_become(std::string_view marker) const;

  ThinkMarkers markers_;
  State state_ = State::start;
  bool fresh_ = true;          // nothing but white space since the state began
  std::string pending_;        // not yet decided
  std::string held_newlines_;  // of the thinking: dropped when it ends
};

}  // namespace fathom
