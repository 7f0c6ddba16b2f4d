#include "src/engine/channels.h"

#include <utility>

namespace fathom {

Channels::Channels(const Tokenizer* tokenizer, const GenerationRequest& request, const GenerationEvents& events,
                   GenerationResult& result)
    : request_(request), events_(events), result_(result), tokenizer_(tokenizer), stops_(request.stop) {
  if (tokenizer == nullptr) return;
  decoder_.emplace(*tokenizer);
  const Prompt& prompt = request.prompt;
  if (prompt.chat) splitter_.emplace(prompt.markers, prompt_thinking(prompt.tail, prompt.markers));
}

void Channels::feed(std::int32_t id) {
  const bool thought = in_thinking();
  if (decoder_) {
    if (splitter_ && splitter_->is_marker(id)) {
      text(decoder_->finish());  // a character cut short by a marker
      emit(splitter_->feed_marker(id));
    } else if (!tokenizer_->is_control(id)) {
      text(decoder_->feed(id));
    }
  }
  // The markers belong to the thinking, as they are paid for like it.
  if (thought || in_thinking()) ++result_.reasoning_tokens;
  if (!splitter_) return;
  if (!in_thinking())
    loop_.reset();
  else if (const std::size_t block = loop_.push(id); block != 0)
    result_.loop_tokens = block;
}

void Channels::finish() {
  if (!decoder_) return;
  text(decoder_->finish());
  if (splitter_) emit(splitter_->finish());
  emit_content(stops_.finish());
}

std::optional<std::int32_t> Channels::forced_id() {
  const auto& ids = request_.prompt.markers.close_ids;
  if (forced_ == 0) {
    const bool spent = request_.think_budget &&
                       std::cmp_greater_equal(result_.reasoning_tokens, *request_.think_budget);
    // A model that repeats itself in its thinking does so without end.
    if (!in_thinking() || !(spent || result_.loop_tokens != 0) || ids.empty()) return std::nullopt;
  }
  // All of them have been given once; a block that the model opens again is closed again.
  if (forced_ >= ids.size()) {
    forced_ = 0;
    return std::nullopt;
  }
  return ids[forced_++];
}

void Channels::text(std::string_view decoded) {
  if (decoded.empty()) return;
  if (splitter_) {
    emit(splitter_->feed(decoded));
  } else {
    content(decoded);
  }
}

void Channels::emit(const ThinkSplitter::Delta& delta) {
  if (!delta.reasoning.empty()) {
    result_.reasoning += delta.reasoning;
    if (events_.reasoning) events_.reasoning(delta.reasoning);
  }
  content(delta.content);
}

void Channels::content(std::string_view text) {
  if (!text.empty()) emit_content(stops_.feed(text));
}

void Channels::emit_content(std::string_view text) {
  if (text.empty()) return;
  result_.content += text;
  if (events_.content) events_.content(text);
}

}  // namespace fathom
