// From generated ids to two streams of text: the thinking and the content.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/engine/generate.h"
#include "src/engine/loop_detect.h"
#include "tokenizer/think_markers.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

// Decodes ids to whole characters, parts thinking from content and ends the content at a stop string. Writes into
// `result` and tells `events`.
class Channels {
 public:
  // References must outlive this. tokenizer may be null: there is no text then.
  Channels(const Tokenizer* tokenizer, const GenerationRequest& request, const GenerationEvents& events,
           GenerationResult& result);

  void feed(std::int32_t id);
  // Emits what was held back: no more ids follow.
  void finish();
  bool in_thinking() const { return splitter_ && splitter_->in_thinking(); }
  bool stop_string_found() const { return stops_.found(); }
  // The id that the thinking budget prescribes next; nothing while sampling is free.
  std::optional<std::int32_t> forced_id();

 private:
  void text(std::string_view decoded);
  void emit(const ThinkSplitter::Delta& delta);
  void content(std::string_view text);
  void emit_content(std::string_view text);

  const GenerationRequest& request_;
  const GenerationEvents& events_;
  GenerationResult& result_;
  const Tokenizer* tokenizer_;
  std::optional<StreamDecoder> decoder_;
  std::optional<ThinkSplitter> splitter_;
  StopFilter stops_;
  LoopDetector loop_;  // over the thinking
  std::size_t forced_ = 0;  // of the closing ids; all of them: the block was closed by the budget
};

}  // namespace fathom
