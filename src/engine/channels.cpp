#include "src/engine/channels.h"

namespace fathom {

Channels::Channels(const Tokenizer* tokenizer, const GenerationRequest& request, const GenerationEvents& events,
                   GenerationResult& result)
    : request_(request), events_(events), result_(result), tokenizer_(tokenizer), stops_(request.stop) {
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
}

void Channels::feed(std::int32_t id) {
  if (!decoder_) return;
  if (tokenizer_->is_control(id)) return;
  content(decoder_->feed(id));
}

void Channels::finish() {
  if (!decoder_) return;
  content(decoder_->finish());
  emit_content(stops_.finish());
}

std::optional<std::int32_t> Channels::forced_id() { return std::nullopt; }

void Channels::reasoning(std::string_view text) {
  if (text.empty()) return;
  // Newlines around the thinking belong to its markers.
  std::string joined = held_newlines_ + std::string(text);
  if (result_.reasoning.empty()) joined.erase(0, std::min(joined.find_first_not_of('\n'), joined.size()));
  const std::size_t end = joined.find_last_not_of('\n') + 1;  // npos + 1 is 0
  held_newlines_ = joined.substr(end);
  joined.resize(end);
  if (joined.empty()) return;
  result_.reasoning += joined;
  if (events_.reasoning) events_.reasoning(joined);
}

void Channels::content(std::string_view text) {
  if (request_.chat && result_.content.empty())
    text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  emit_content(stops_.feed(text));
}

void Channels::emit_content(std::string_view text) {
  if (text.empty()) return;
  result_.content += text;
  if (events_.content) events_.content(text);
}

}  // namespace fathom
