// From messages or text to the ids of a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template.h"
#include "tokenizer/think_markers.h"

namespace fathom {

class Engine;

struct Prompt {
  std::vector<std::int32_t> ids;
  ThinkMarkers markers;  // unknown for a plain prompt
  std::string tail;      // end of the rendered text, at most 64 bytes: shows whether a thinking block is open
  // The answer has two channels: thinking goes its own way, and newlines around it and before the content are dropped.
  // Otherwise its text is exact.
  bool chat = false;
};

// Messages rendered by the model's template, with the generation prompt. A last message of role assistant is a prefix
// that the answer continues. Errors: unsupported when the model has no template, or when `thinking` asks for what its
// template cannot do; usage from the template itself.
Prompt chat_prompt(const Engine& engine, std::span<const Message> messages, std::optional<bool> thinking);

// Plain continuation: BOS as the tokenizer's config says, then the text, control tokens in it as plain text.
Prompt plain_prompt(const Engine& engine, std::string_view text);

// Refuses ids that the model has no row for. Errors: usage.
void check_ids(const Engine& engine, std::span<const std::int32_t> ids);

}  // namespace fathom
