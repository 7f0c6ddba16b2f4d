// The command line: one table from which the parser, the help, the completions and the man page are made.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

enum class Command : std::uint8_t {
  none, chat, run, tokenize, inspect, models, verify, bench, quantize, eval, doctor, completions, help, version,
};
inline constexpr int kCommands = static_cast<int>(Command::version) + 1;

struct CommandRow {
  Command command;
  std::string_view name;
  std::string_view synopsis;  // after the name: "[-m MODEL] [options] [--] [PROMPT]"
  std::string_view summary;   // one line
};
std::span<const CommandRow> command_table();

// A set of commands, as bits by Command.
using CommandSet = std::uint32_t;
constexpr CommandSet only(Command c) { return 1u << static_cast<unsigned>(c); }
constexpr CommandSet operator|(Command a, Command b) { return only(a) | only(b); }
constexpr CommandSet operator|(CommandSet a, Command b) { return a | only(b); }
// Accepted before and after every command.
inline constexpr CommandSet kGlobal = ~CommandSet{0};

enum class ValueKind : std::uint8_t { flag, text, integer, number, size, duration, choice, list, count };

// One flag. `help` is one line without a final point; `fallback` is what applies when it is not given.
struct OptionRow {
  std::string_view long_name;  // without dashes
  char short_name;             // 0: none
  ValueKind kind;
  std::string_view argument;   // "TEXT"; for choice: "auto|f32|bf16|fp8"
  std::string_view fallback;
  CommandSet commands;
  std::string_view help;
};
std::span<const OptionRow> option_table();

}  // namespace fathom
