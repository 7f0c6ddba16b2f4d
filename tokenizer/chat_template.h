// The checkpoint's chat template, rendered by a bounded Jinja interpreter. Text that comes from messages is
// tracked through the rendering, so that control tokens typed by a user stay text.
#pragma once

#include <cstdint>
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
  std::string role{};  // system, user, assistant, tool
  std::string content{};
  std::string reasoning_content{};  // empty: none
  json::Value tool_calls{};    // null: none; handed to the template as given, `content` then none if empty
  std::string name{};          // empty: none
  std::string tool_call_id{};  // of a tool's answer; empty: none
};

// A run of rendered text from one origin.
struct RenderedPiece {
  std::string text{};
  bool from_message = false;  // never matched against added tokens
};

struct RenderOptions {
  bool add_generation_prompt = true;
  std::optional<bool> thinking{};  // sets `thinking` and `enable_thinking` when given
  json::Value tools{};             // null: none
  // The last message is the beginning of the answer: the rendering ends behind its content. Needs no
  // generation prompt.
  bool continue_final_message = false;
  std::optional<std::int64_t> now{};  // seconds since the epoch, for strftime_now; not given: the clock's
};

class ChatTemplate {
 public:
  // chat_template.jinja, else the `chat_template` of tokenizer_config.json: a string, or a list of {name,
  // template} of which "default" is taken. Errors: unsupported naming construct and line, or when there is
  // none; bad_checkpoint.
  static ChatTemplate from_checkpoint(const FileSet& files, const Tokenizer::Special& special);
  // The text of a Jinja file; `where` names it in messages. Errors: unsupported, bad_checkpoint.
  static ChatTemplate from_text(std::string_view jinja, std::string_view where,
                                const Tokenizer::Special& special);
  // deepseek-v2, deepseek-v3, deepseek-r1, deepseek-v3.1 or kimi-k2 (tokenizer/templates.h); nothing for
  // other names.
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

// Ids of rendered pieces. Added tokens are cut out of template text only; what lies between them is tokenised
// plain and as a whole, across the borders of pieces, so that ordinary messages get the ids the whole text
// would. BOS exactly as the template writes it.
std::vector<std::int32_t> encode(const Tokenizer& tokenizer, std::span<const RenderedPiece> pieces);

}  // namespace fathom
