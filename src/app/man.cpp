#include <string>
#include <string_view>

#include "src/app/completions.h"
#include "src/base/error.h"

namespace fathom {
namespace {

// Text as roff: backslashes and dashes are escaped, and no line starts with a control character.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
      (out += "\\&") += c;
    else
      out += c;
  }
  return out;
}

// The name in bold, the argument in italics: "-m, --model MODEL".
std::string heading(const OptionRow& row) {
  std::string out;
  if (row.short_name != 0) out += fmt::format("\\fB\\-{}\\fR, ", row.short_name);
  out += fmt::format("\\fB\\-\\-{}\\fR", roff(row.long_name));
  if (row.argument.empty()) return out;
  return out + fmt::format("{}\\fI{}\\fR", row.kind == ValueKind::choice ? "=" : " ", roff(row.argument));
}

std::string flag(const OptionRow& row) {
  std::string out = fmt::format(".TP\n{}\n{}.", heading(row), roff(row.help));
  if (row.kind == ValueKind::list || row.kind == ValueKind::count) out += " May be repeated.";
  if (!row.fallback.empty()) out += fmt::format(" Default: {}.", roff(row.fallback));
  if (row.commands != kGlobal) {
    std::string names;
    for (const CommandRow& c : command_table())
      if ((row.commands & only(c.command)) != 0) names += (names.empty() ? "" : ", ") + std::string(c.name);
    out += fmt::format("\n(\\fI{}\\fR)", names);
  }
  return out + "\n";
}

struct ExitRow {
  Exit code;
  std::string_view when;
};
constexpr ExitRow kExits[] = {
    {Exit::ok, "answered, including finish_reason \"length\""},
    {Exit::failure, "anything not below: a bug report is welcome"},
    {Exit::usage, "flags, configuration, environment, missing prompt"},
    {Exit::not_found, "the path or a required file is absent or unreadable"},
    {Exit::bad_checkpoint, "present, but contradicts its format or itself"},
    {Exit::unsupported, "well-formed, but outside what fathom runs"},
    {Exit::out_of_memory, "host or device; the plan is printed"},
    {Exit::context, "the prompt is longer than the context"},
    {Exit::compute, "CUDA fault, NaN or all -inf logits"},
    {Exit::io, "standard input, output file, disk full"},
    {Exit::partial, "--batch: some lines were answered with errors"},
    {Exit::timeout, "--timeout"},
    {Exit::hangup, "SIGHUP"},
    {Exit::interrupted, "Ctrl-C"},
    {Exit::broken_pipe, "the reader of standard output went away"},
    {Exit::terminated, "SIGTERM"},
};

constexpr std::string_view kFiles =
    ".TP\n$XDG_CONFIG_HOME/fathom/config.toml\nDefaults of flags by their long names, and a table [aliases] of models.\n"
    ".TP\n$XDG_STATE_HOME/fathom/history\nLines typed in chat, the newest 1,000; a line that begins with a space is not kept.\n"
    ".TP\n$XDG_STATE_HOME/fathom/sessions/\nConversations, one message per line (JSON).\n"
    ".TP\n$XDG_CACHE_HOME/fathom/verified\nResults of verify \\-\\-hash.\n";

constexpr std::string_view kExamples =
    ".nf\n"
    "fathom chat \\-m deepseek\\-ai/DeepSeek\\-R1\n"
    "fathom run \\-m ~/models/V3 \"Name three uses of borax\"\n"
    "git diff | fathom run \\-m V3 \"Write a commit message\" > msg.txt\n"
    "fathom run \\-m V3 \\-\\-no\\-think \\-\\-json \"2+2?\" | jq \\-r '.choices[0].message.content'\n"
    "fathom run \\-m V3 \\-\\-batch questions.jsonl \\-o answers.jsonl\n"
    ".fi\n";

}  // namespace

std::string manual_page(std::string_view version) {
  std::string out = fmt::format(".TH FATHOM 1 \"\" \"fathom {}\" \"User Commands\"\n", version);
  out += ".SH NAME\nfathom \\- run DeepSeek\\-class models in the terminal\n.SH SYNOPSIS\n";
  for (const CommandRow& c : command_table())
    out += fmt::format(".B fathom {}\n{}\n.br\n", c.name, roff(c.synopsis));
  out +=
      ".SH DESCRIPTION\n"
      "fathom memory\\-maps a checkpoint directory exactly as Hugging Face publishes it and streams the answer to the\n"
      "terminal. Standard output holds the answer and nothing else; thinking is shown only on a terminal. Without a\n"
      "model the built\\-in one answers. It never uses the network.\n"
      ".SH COMMANDS\n";
  for (const CommandRow& c : command_table()) out += fmt::format(".TP\n.B {}\n{}.\n", c.name, roff(c.summary));
  out += ".SH OPTIONS\nFlags of every command stand before or after its name; \\-\\-flag=value and \\-\\-flag value are the same.\n"
         "The commands that take a flag are named in parentheses.\n";
  for (const OptionRow& row : option_table()) out += flag(row);
  out += ".SH EXIT STATUS\n";
  for (const ExitRow& e : kExits)
    out += fmt::format(".TP\n.B {}\n{} ({}).\n", static_cast<int>(e.code), roff(e.when), roff(exit_name(e.code)));
  out += fmt::format(".SH FILES\n{}.SH EXAMPLES\n{}", kFiles, kExamples);
  return out;
}

}  // namespace fathom
