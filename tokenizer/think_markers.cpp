#include "tokenizer/think_markers.h"

#include <algorithm>

namespace fathom {

namespace {

constexpr std::string_view kSpace = " \t\r\n";
// White space before an opening marker; an answer that begins with more has none.
constexpr std::size_t kMaxLeadingSpace = 64;

std::size_t leading(std::string_view s, std::string_view characters) {
  return std::min(s.find_first_not_of(characters), s.size());
}

}  // namespace

ThinkMarkers find_think_markers(const Tokenizer& tokenizer, std::string_view template_source) {
  ThinkMarkers m;
  m.open_id = tokenizer.find_added(m.open);
  m.close_id = tokenizer.find_added(m.close);
  m.known = (m.open_id && m.close_id) || template_source.find(m.close) != template_source.npos ||
            template_source.find(m.open) != template_source.npos;
  if (m.close_id) {
    m.close_ids = {*m.close_id};
  } else {
    m.close_ids = tokenizer.encode(m.close, AddedTokens::plain);
  }
  return m;
}

PromptThinking prompt_thinking(std::string_view prompt_tail, const ThinkMarkers& markers) {
  const std::string_view text =
      prompt_tail.substr(0, prompt_tail.find_last_not_of(kSpace) + 1);  // npos + 1 is 0
  if (text.ends_with(markers.open)) return PromptThinking::open;
  if (text.ends_with(markers.close)) return PromptThinking::closed;
  return PromptThinking::none;
}

ThinkSplitter::ThinkSplitter(ThinkMarkers markers, PromptThinking prompt) : markers_(std::move(markers)) {
  if (prompt == PromptThinking::open) state_ = State::thinking;
}

void ThinkSplitter::enter(State state) {
  state_ = state;
  fresh_ = true;
  held_newlines_.clear();
}

ThinkSplitter::Delta ThinkSplitter::feed_marker(std::int32_t id) {
  Delta out = finish();  // an id ends any text before it
  if (id == markers_.open_id) {
    if (state_ != State::thinking) enter(State::thinking);
  } else if (state_ != State::content) {
    enter(State::content);
  }
  return out;
}

ThinkSplitter::Delta ThinkSplitter::feed(std::string_view text) {
  pending_ += text;
  Delta out;
  while (step(out)) {
  }
  return out;
}

ThinkSplitter::Delta ThinkSplitter::finish() {
  Delta out;
  if (state_ == State::thinking) {
    give_reasoning(pending_, out);
  } else if (state_ == State::content || pending_.find_first_not_of(kSpace) != pending_.npos) {
    give_content(pending_, out);
  }
  pending_.clear();
  return out;
}

// True when pending_ is the beginning of `marker`, and all of it has not come yet.
bool ThinkSplitter::may_become(std::string_view marker) const {
  return pending_.size() < marker.size() && marker.starts_with(pending_);
}

// Decides about some of pending_; false when more text is needed.
bool ThinkSplitter::step(Delta& out) {
  if (pending_.empty()) return false;
  if (state_ == State::start) return step_start();
  if (state_ == State::thinking) return step_thinking(out);
  if (fresh_) {
    pending_.erase(0, leading(pending_, "\n"));
    if (pending_.empty()) return false;
    if (close_is_text() && may_become(markers_.close)) return false;
    if (close_is_text() && pending_.starts_with(markers_.close)) {
      pending_.erase(0, markers_.close.size());
      return true;
    }
  }
  give_content(pending_, out);
  pending_.clear();
  return false;
}

bool ThinkSplitter::step_start() {
  pending_.erase(0, leading(pending_, "\n"));
  const std::size_t space = leading(pending_, kSpace);
  const std::string_view rest = std::string_view(pending_).substr(space);
  if (space >= kMaxLeadingSpace) return enter(State::content), true;
  if (rest.empty()) return false;
  if (open_is_text() && rest.starts_with(markers_.open)) {
    pending_.erase(0, space + markers_.open.size());
    enter(State::thinking);
    return true;
  }
  if (open_is_text() && markers_.open.starts_with(rest)) return false;
  enter(State::content);
  return true;
}

bool ThinkSplitter::step_thinking(Delta& out) {
  if (fresh_) {
    pending_.erase(0, leading(pending_, "\n"));
    if (pending_.empty()) return false;
    if (open_is_text() && may_become(markers_.open)) return false;
    if (open_is_text() && pending_.starts_with(markers_.open)) {
      pending_.erase(0, markers_.open.size());
      return true;
    }
  }
  if (!close_is_text()) {
    give_reasoning(pending_, out);
    pending_.clear();
    return false;
  }
  const std::size_t at = pending_.find(markers_.close);
  if (at != pending_.npos) {
    give_reasoning(std::string_view(pending_).substr(0, at), out);
    pending_.erase(0, at + markers_.close.size());
    enter(State::content);
    return true;
  }
  std::size_t keep = std::min(pending_.size(), markers_.close.size() - 1);
  while (keep > 0 && !std::string_view(markers_.close)
                          .starts_with(std::string_view(pending_).substr(pending_.size() - keep)))
    --keep;
  give_reasoning(std::string_view(pending_).substr(0, pending_.size() - keep), out);
  pending_.erase(0, pending_.size() - keep);
  return false;
}

void ThinkSplitter::give_reasoning(std::string_view text, Delta& out) {
  if (fresh_) text.remove_prefix(leading(text, "\n"));
  if (text.empty()) return;
  fresh_ = false;
  const std::size_t end = text.find_last_not_of('\n') + 1;  // npos + 1 is 0
  if (end > 0) {
    out.reasoning += held_newlines_;
    out.reasoning += text.substr(0, end);
    held_newlines_.clear();
  }
  held_newlines_ += text.substr(end);
}

void ThinkSplitter::give_content(std::string_view text, Delta& out) {
  if (fresh_) text.remove_prefix(leading(text, "\n"));
  if (text.empty()) return;
  fresh_ = false;
  out.content += text;
}

}  // namespace fathom
