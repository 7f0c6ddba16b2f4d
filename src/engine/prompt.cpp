#include "src/engine/prompt.h"

#include "src/base/error.h"
#include "src/engine/engine.h"

namespace fathom {
namespace {

std::string tail_of(std::string_view text) { return std::string(text.substr(text.size() - std::min<std::size_t>(text.size(), 64))); }

// --think and --no-think ask the model. A template that answers otherwise is not run against the user's word.
void check_thinking(bool thinking, const ThinkMarkers& markers, PromptThinking rendered) {
  if (!thinking && rendered == PromptThinking::open)
    throw Error(Exit::unsupported, "--no-think: this model's template opens a thinking block all the same",
                "leave --no-think out; --hide-thinking only hides it");
  if (thinking && !markers.known)
    throw Error(Exit::unsupported, fmt::format("--think: neither template nor vocabulary knows {}", markers.open),
                "leave --think out");
  if (thinking && rendered == PromptThinking::closed)
    throw Error(Exit::unsupported, "--think: this model's template closes the thinking block at once",
                "leave --think out, or give another --template");
}

}  // namespace

Prompt chat_prompt(const Engine& engine, std::span<const Message> messages, std::optional<bool> thinking) {
  RenderOptions options;
  options.thinking = thinking;
  options.continue_final_message = !messages.empty() && messages.back().role == "assistant";
  options.add_generation_prompt = !options.continue_final_message;
  const std::vector<RenderedPiece> pieces = engine.chat_template().render(messages, options);
  Prompt prompt;
  prompt.chat = true;
  for (const RenderedPiece& p : pieces) prompt.tail = tail_of(prompt.tail + p.text);
  prompt.markers = find_think_markers(*engine.tokenizer(), engine.chat_template().source());
  // In the beginning of an answer the block may have been closed by hand.
  if (thinking && !options.continue_final_message)
    check_thinking(*thinking, prompt.markers, prompt_thinking(prompt.tail, prompt.markers));
  prompt.ids = encode(*engine.tokenizer(), pieces);
  return prompt;
}

Prompt plain_prompt(const Engine& engine, std::string_view text) {
  const Tokenizer& tokenizer = *engine.tokenizer();
  Prompt prompt;
  const Tokenizer::Special& special = tokenizer.special();
  if (special.add_bos_token)
    if (const auto bos = tokenizer.find_added(special.bos_token)) prompt.ids.push_back(*bos);
  const auto ids = tokenizer.encode(text, AddedTokens::plain);
  prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  return prompt;
}

void check_ids(const Engine& engine, std::span<const std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= engine.config().vocab_size)
      throw Error(Exit::usage, fmt::format("token id {} at number {}: the model's vocab_size is {}", ids[i], i + 1,
                                           engine.config().vocab_size));
}

}  // namespace fathom
