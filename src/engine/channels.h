// From generated ids to two streams of text: the thinking and the content.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/engine/generate.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

// Decodes ids to whole characters, parts thinking from content, drops the newlines around both, and ends the content
// at a stop string. Writes into `result` and tells `events`.
class Channels {
 public:
  // References must outlive this. tokenizer may be null: there is no text then.
  Channels(const Tokenizer* tokenizer, const GenerationRequest& request, const GenerationEvents& events,
           GenerationResult& result);

  void feed(std::int32_t id);
  // Emits what was held back: no more ids follow.
  void finish();
  bool in_thinking() const { return in_thinking_; }
  bool stop_string_found() const { return stops_.found(); }
  // The id that the thinking budget prescribes next; nothing while sampling is free.
  std::optional<std::int32_t> forced_id();

 private:
  void reasoning(std::string_view text);
  void content(std::string_view text);
  void emit_content(std::string_view text);

  const GenerationRequest& request_;
  const GenerationEvents& events_;
  GenerationResult& result_;
  const Tokenizer* tokenizer_;
  std::optional<StreamDecoder> decoder_;
  StopFilter stops_;
  bool in_thinking_ = false;
  std::string held_newlines_;  // of the thinking: dropped when nothing follows
};

}  // namespace fathom
