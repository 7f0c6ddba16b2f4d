// The checkpoint's chat template, rendered by a bounded Jinja interpreter. Text that comes from messages is tracked
// through the rendering, so that control tokens typed by a user stay text.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

struct Message {
  std::string role;     // system, user, assistant, tool
  std::string content;
  std::string reasoning_content;  // empty: none
  json::Value tool_calls;         // null: none; handed to the template as given
};

// A run of rendered text from one origin.
struct RenderedPiece {
  std::string text;
  bool from_message = false;  // tokenised with AddedTokens::plain
};

struct RenderOptions {
  bool add_generation_prompt = true;
  std::optional<bool> thinking;  // sets `thinking` and `enable_thinking` when given
  json::Value tools;             // null: none
};

class ChatTemplate {
 public:
  // The `chat_template` of tokenizer_config.json or chat_template.jinja beside it. `override_name`: empty, a built-in
  // NAME (deepseek-v2, deepseek-v3, deepseek-r1, deepseek-v3.1, kimi-k2), or the text of a Jinja file.
  // Errors: unsupported naming construct and line, bad_checkpoint.
  static ChatTemplate from_checkpoint(const FileSet& files, const Tokenizer::Special& special);
  static ChatTemplate from_text(std::string_view jinja, std::string_view where, const Tokenizer::Special& special);
  // Nothing for an unknown name.
  static std::optional<ChatTemplate> builtin(std::string_view name, const Tokenizer::Special& special);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Errors: unsupported (construct, step or output limit), usage (raise_exception called by the template).
  std::vector<RenderedPiece> render(std::span<const Message> messages, const RenderOptions& options) const;
  // The template's source, for inspect.
  const std::string& source() const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Ids of rendered pieces: template text with added tokens, message text plain; pieces of one origin that touch are
// tokenised together. BOS exactly as the template writes it.
std::vector<std::int32_t> encode(const Tokenizer& tokenizer, std::span<const RenderedPiece> pieces);

}  // namespace fathom
