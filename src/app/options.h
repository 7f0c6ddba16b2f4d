// The command line: one table from which the parser, the help, the completions and the man page are made.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/numerics.h"

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

// Rows by name; nullptr when there is none.
const CommandRow* find_command(std::string_view name);
const CommandRow* find_command(Command command);
const OptionRow* find_option(std::string_view long_name);
// True for rows that are followed by a value.
bool takes_value(const OptionRow& row);

// What the command line says, as text. Values from a configuration file are merged into it before it is typed.
struct ParsedArgs {
  Command command = Command::none;
  std::vector<std::string> positionals;
  // By long name, in the order given; a flag holds one "" per occurrence.
  std::map<std::string, std::vector<std::string>, std::less<>> given;

  bool has(std::string_view long_name) const { return given.find(long_name) != given.end(); }
};

struct ConfigFile;
// Puts the file's defaults where the command line is silent and the command takes the flag.
void merge_defaults(ParsedArgs& args, const ConfigFile& file);

// args: without the program's name. Errors: usage, naming the flag, the accepted values and near misses.
ParsedArgs parse_args(std::span<const std::string> args);

enum class ThinkingDisplay { automatic, full, summary, hidden };
enum class CheckLevel { quick, values, none };
enum class VerifyMode { standard, quick, values, hash };

// The command line as values. Absent optionals: not given, the documented fallback applies.
struct Options {
  Command command = Command::none;
  std::vector<std::string> positionals;

  std::optional<std::string> model;
  std::string backend = "auto", experts = "auto", color = "auto", format = "ids";
  std::optional<std::string> gpus;
  std::optional<std::uint64_t> gpu_memory;  // bytes
  std::optional<int> threads;
  CacheType cache = CacheType::bf16;
  std::optional<ActivationType> activations;  // nothing: auto
  bool quiet = false;
  int verbose = 0;
  bool help = false, version = false;
  std::optional<std::string> config_file;
  bool no_config = false;

  std::optional<std::string> system, system_file, messages, batch, ids, chat_template;
  std::vector<std::string> files;
  bool raw = false;
  std::uint64_t max_input = 64u << 20;  // bytes

  std::optional<std::int64_t> max_tokens;
  std::optional<std::int32_t> ctx;
  std::optional<float> temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
  std::optional<int> top_k;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false, fail_on_length = false;
  std::optional<int> logprobs;
  std::optional<std::int64_t> timeout_ms;

  std::optional<bool> think;
  std::optional<std::int64_t> think_budget;
  ThinkingDisplay show_thinking = ThinkingDisplay::automatic;

  bool json = false, jsonl = false, no_stream = false, stats = false, unsafe_output = false, strict = false;
  bool no_input = false;
  std::optional<std::string> output, session;
  bool resume = false, no_history = false;  // resume: --continue

  std::optional<bool> mmap;
  CheckLevel check = CheckLevel::quick;

  std::optional<std::string> input, random_weights, questions;
  bool special = false, tensors = false, plan = false, self_test = false, csv = false;
  std::optional<int> layers;
  VerifyMode verify = VerifyMode::standard;
};

// Errors: usage for a value out of range, a contradiction, or a wrong number of arguments.
Options make_options(const ParsedArgs& args);

// Exact readers for values: the whole text must be one number. Errors: usage naming `what`.
std::int64_t read_integer(std::string_view text, std::string_view what, std::int64_t lo, std::int64_t hi);
double read_number(std::string_view text, std::string_view what, double lo, double hi);
std::uint64_t read_size(std::string_view text, std::string_view what);         // "64MiB", "70GB", "4096"; bytes
std::int64_t read_duration_ms(std::string_view text, std::string_view what);  // "10s", "500ms", "2m", "1h", "10"

}  // namespace fathom
