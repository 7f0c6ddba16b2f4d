#include "src/app/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "src/app/commands.h"
#include "src/app/completions.h"
#include "src/app/config_file.h"
#include "src/app/pager.h"
#include "src/app/wrap.h"
#include "src/base/error.h"

namespace fathom {
namespace {

constexpr std::string_view kExamples =
    "Examples:\n"
    "  fathom chat -m deepseek-ai/DeepSeek-R1\n"
    "  fathom run  -m ~/models/V3 \"Name three uses of borax\"\n"
    "  git diff | fathom run -m V3 \"Write a commit message\" > msg.txt\n"
    "  fathom run -m V3 --no-think --json \"2+2?\" | jq -r '.choices[0].message.content'\n"
    "  fathom run -m V3 --batch questions.jsonl -o answers.jsonl\n"
    "  fathom verify ~/models/V3 && fathom bench -m ~/models/V3 --json\n";

std::string command_list() {
  std::string out = "Commands:\n";
  for (const CommandRow& c : command_table()) out += fmt::format("  {:<12} {}\n", c.name, c.summary);
  return out;
}

std::string option_line(const OptionRow& row) {
  std::string name = row.short_name != 0 ? fmt::format("  -{}, --{}", row.short_name, row.long_name)
                                         : fmt::format("      --{}", row.long_name);
  if (!row.argument.empty()) name += fmt::format(" {}", row.argument);
  constexpr std::size_t kColumn = 36;
  std::string help(row.help);
  if (!row.fallback.empty()) help += fmt::format(" [{}]", row.fallback);
  const std::string gap = name.size() + 2 <= kColumn ? std::string(kColumn - name.size(), ' ')
                                                     : "\n" + std::string(kColumn, ' ');
  return name + gap + help + "\n";
}

std::string option_list(std::string_view title, CommandSet commands, bool global) {
  std::string out = fmt::format("{}:\n", title);
  bool any = false;
  for (const OptionRow& row : option_table()) {
    if ((row.commands == kGlobal) != global || (row.commands & commands) == 0) continue;
    out += option_line(row);
    any = true;
  }
  return any ? out : std::string();
}

constexpr auto kExits = std::to_array<ExitRow>({
    {Exit::ok, "answered, including finish_reason \"length\""},
    {Exit::failure, "anything not below: please report it"},
    {Exit::usage, "flags, configuration, environment, missing prompt"},
    {Exit::not_found, "the path or a required file is absent or unreadable"},
    {Exit::bad_checkpoint, "present, but contradicts its format or itself"},
    {Exit::unsupported, "well-formed, but outside what fathom runs"},
    {Exit::out_of_memory, "host or device memory; the plan is printed"},
    {Exit::context, "the prompt is longer than the context; or --fail-on-length"},
    {Exit::compute, "CUDA fault, NaN or all -inf logits"},
    {Exit::io, "standard input, output file, disk full, a shard lost while in use"},
    {Exit::partial, "--batch: some lines were answered with errors"},
    {Exit::timeout, "--timeout"},
    {Exit::hangup, "SIGHUP"},
    {Exit::interrupted, "SIGINT (Ctrl-C)"},
    {Exit::broken_pipe, "the reader of the output is gone"},
    {Exit::terminated, "SIGTERM"},
});

std::string exit_codes_help() {
  std::string out = "Exit codes:\n";
  for (const ExitRow& l : kExits) out += fmt::format("  {:>3}  {:<15} {}\n", static_cast<int>(l.code), exit_name(l.code), l.when);
  return out;
}

constexpr auto kVariables = std::to_array<VariableRow>({
    {"FATHOM_MODEL", "the model when -m is not given"},
    {"FATHOM_CONFIG", "configuration file"},
    {"FATHOM_NO_COLOR", "no colour (as NO_COLOR)"},
    {"FATHOM_NO_HISTORY", "neither history nor conversations are read or saved"},
    {"FATHOM_LOG", "file that receives notices, warnings and errors, with the time"},
    {"NO_COLOR, CLICOLOR_FORCE, TERM, COLUMNS", "how the terminal is used"},
    {"VISUAL, EDITOR", "what /edit runs"},
    {"PAGER", "what shows a help text that is longer than the terminal"},
    {"TMPDIR", "where /edit puts its file"},
    {"HOME, XDG_*", "where configuration and state are"},
    {"HF_HUB_CACHE, HF_HOME", "where ORG/NAME is looked up"},
    {"CUDA_VISIBLE_DEVICES", "the GPUs there are"},
});

std::string environment_help() {
  std::string out = "Environment:\n";
  for (const VariableRow& v : kVariables)
    out += v.names.size() <= 19 ? fmt::format("  {:<20} {}\n", v.names, v.meaning) : fmt::format("  {}\n{:23}{}\n", v.names, "", v.meaning);
  return out + "Nothing else is read. Text is UTF-8 whatever LC_* says, and numbers are written with a point.\n";
}

constexpr std::string_view kFilesHelp =
    "Files:\n"
    "  $XDG_CONFIG_HOME/fathom/config.toml       defaults and [aliases]\n"
    "  $XDG_STATE_HOME/fathom/history            lines typed in chat, the newest 1,000\n"
    "  $XDG_STATE_HOME/fathom/sessions/*.jsonl   conversations, one message per line; *.latents only save time\n"
    "  $XDG_CACHE_HOME/fathom/verified           what `verify --hash` has hashed, by device, inode, size and times\n"
    "  $XDG_RUNTIME_DIR/fathom/gpu-*.lock        who uses a GPU; without XDG_RUNTIME_DIR there is no lock\n"
    "Without XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_CACHE_HOME: ~/.config, ~/.local/state and ~/.cache.\n"
    "A model is a directory as Hugging Face publishes it (config.json, *.safetensors, tokenizer files), or ORG/NAME[@REV] "
    "in the Hugging Face cache. fathom never uses the network.\n";

constexpr std::string_view kFormattingHelp =
    "What goes where:\n"
    "  stdout, redirected   the answer and one newline; no thinking, colour, progress or control byte of fathom's own\n"
    "  stdout, terminal     the answer as it is made, thinking dim, control characters made visible\n"
    "  stderr               notices on a terminal; warnings and errors always\n"
    "  --json               one object: choices[0].message.content, usage, and a fathom block (seed, numerics, timings)\n"
    "  --jsonl              one object per flush; the last carries finish_reason and usage\n"
    "  --show-thinking=full sends thinking to stderr when stdout is no terminal\n"
    "finish_reason: stop, length, stop_string, interrupted, timeout, error.\n"
    "Sizes: 64MiB, 70GB, 4096. Durations: 10s, 500ms, 2m, 1h. Numbers are written with a point.\n";

}  // namespace

std::span<const ExitRow> exit_table() { return kExits; }
std::span<const VariableRow> variable_table() { return kVariables; }

std::string short_help() {
  return "fathom: runs DeepSeek-class models in the terminal\n\n"
         "  fathom run \"What is 37 * 24?\"                      ask the built-in model\n"
         "  fathom run -m ~/models/DeepSeek-V3 \"Say hello\"     ask a checkpoint\n\n" +
         command_list() + "\n`fathom --help` lists the options, `fathom help COMMAND` those of one command.\n";
}

std::string full_help(std::size_t width) {
  return "usage: fathom COMMAND [options]\n\n" + std::string(kExamples) + "\n" +
         wrap(command_list() + "\n" + option_list("Options of every command", kGlobal, true) +
                  "\n`fathom help COMMAND` lists the options of one command.\n"
                  "Topics: `fathom help environment`, `exit-codes`, `files`, `formatting`.\n",
              width);
}

std::string command_help(Command c, std::size_t width) {
  const CommandRow* row = find_command(c);
  if (row == nullptr) return full_help(width);
  std::string out = fmt::format("usage: fathom {} {}\n{}\n\n", row->name, row->synopsis, row->summary);
  if (const std::string own = option_list("Options", only(c), false); !own.empty()) out += own + "\n";
  return wrap(out + option_list("Options of every command", kGlobal, true), width);
}

std::string topic_help(std::string_view topic, std::size_t width) {
  if (topic == "environment") return wrap(environment_help(), width);
  if (topic == "exit-codes") return wrap(exit_codes_help(), width);
  if (topic == "files") return wrap(kFilesHelp, width);
  if (topic == "formatting") return wrap(kFormattingHelp, width);
  return {};
}

std::size_t help_width(const Screen& out) {
  if (!out.is_terminal()) return kHelpWidth;
  return std::min(static_cast<std::size_t>(out.width()), kHelpWidth);
}

Exit help_command(App& app) {
  const auto& words = app.options.positionals;
  const std::size_t width = help_width(app.terminal.out());
  if (words.empty()) {
    show_text(app.terminal, app.environment, full_help(width));
    return Exit::ok;
  }
  if (const CommandRow* row = find_command(words[0])) {
    show_text(app.terminal, app.environment, command_help(row->command, width));
    return Exit::ok;
  }
  const std::string text = topic_help(words[0], width);
  if (text.empty()) {
    std::vector<std::string_view> names{"environment", "exit-codes", "files", "formatting"};
    for (const CommandRow& c : command_table()) names.push_back(c.name);
    const std::string near = nearest_word(words[0], names);
    throw Error(Exit::usage, fmt::format("there is no help on '{}'", words[0].substr(0, 80)),
                near.empty() ? "topics: a command, environment, exit-codes, files, formatting"
                             : fmt::format("did you mean `fathom help {}`?", near));
  }
  show_text(app.terminal, app.environment, text);
  return Exit::ok;
}

Exit completions_command(App& app) {
  const auto& words = app.options.positionals;
  if (words.empty()) throw Error(Exit::usage, "which shell?", "usage: fathom completions bash|zsh|fish|man");
  app.terminal.out().raw(completions_for(words[0]));
  return Exit::ok;
}

}  // namespace fathom
