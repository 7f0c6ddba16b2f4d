// What the user asks: prompt text, files, standard input, messages, ids. Read and checked before any model is loaded.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/app/options.h"
#include "src/app/terminal.h"
#include "tokenizer/chat_template.h"

namespace fathom {

struct Input {
  enum class Kind { chat, plain, ids };
  Kind kind = Kind::chat;
  std::vector<Message> messages;   // chat
  std::string text;                // plain (--raw)
  std::vector<std::int32_t> ids;   // ids
};

// The stdin / stdout / tty matrix of cli.md. Errors: usage (nothing to answer, malformed messages or ids), not_found,
// io beyond --max-input.
Input read_run_input(const Options& options, Terminal& terminal);

// Refuses to write the answer over what the run reads: --output naming a prompt file, the messages, the
// batch, the system prompt, the ids, the template, the configuration or the conversation, under any name, or
// standard input's file. Errors: usage.
void check_output_is_no_input(const Options& options);

// Text of a prompt file or of standard input ("-"): a UTF-8 byte order mark is dropped, what is no UTF-8 becomes U+FFFD
// with a warning. Errors: usage for UTF-16; not_found, io.
std::string read_prompt_file(const std::string& path, std::uint64_t max_bytes, Terminal& terminal);

// --system, or the file of --system-file without the newlines at its end; nothing when neither is given.
std::optional<std::string> system_text(const Options& options, Terminal& terminal);

// [{"role": ..., "content": ...}, ...]; reasoning_content and tool_calls are optional. Errors: usage naming `where` and
// the message.
std::vector<Message> parse_messages(std::string_view json, std::string_view where);

// "1,2,3" or white space between, or "@FILE" with the same. Errors: usage.
std::vector<std::int32_t> parse_ids(std::string_view text, std::uint64_t max_bytes);

}  // namespace fathom
