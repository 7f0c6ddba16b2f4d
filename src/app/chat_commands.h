// The slash commands of chat as a table: what is parsed, completed and shown by /help.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "src/app/line_editor.h"

namespace fathom {

enum class Slash {
  help, exit, new_conversation, system, file, edit, retry, undo, think, show_thinking, set, stats, tokens, save, load,
};

struct SlashRow {
  Slash command;
  std::string_view name;      // with its slash
  std::string_view argument;  // "PATH", "on|off"; empty: none
  bool required;              // the argument
  std::string_view help;
};
std::span<const SlashRow> slash_table();

// What a typed message is.
struct Typed {
  enum class Kind {
    text,     // for the model, in `text`; a leading `//` has lost one slash
    command,  // `command` with `text` as its argument
    wrong,    // an unknown command or a wrong argument: `text` says what
    nothing,  // blank
  };
  Kind kind = Kind::nothing;
  Slash command = Slash::help;
  std::string text;
};
Typed parse_typed(std::string_view message);

// For /help: one line per command.
std::string slash_help();

// Keys of /set: long flags that mean something within a chat.
std::span<const std::string_view> set_keys();

// Tab: commands at the start of the line, then what the command takes (paths, on|off, modes, keys).
// `home`: for `~`; may be empty.
Completion complete_chat(std::string_view line, const std::string& home);

}  // namespace fathom
