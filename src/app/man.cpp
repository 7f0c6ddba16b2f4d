#include <algorithm>
#include <string>
#include <string_view>

#include "src/app/completions.h"
#include "src/app/help.h"
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

// Of the last change of what the page says.
constexpr std::string_view kDate = "2026-11-22";

// Source lines of at most 78 bytes, broken at spaces: the form that mandoc's lint asks for.
std::string short_lines(std::string_view text) {
  std::string out;
  std::size_t column = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (column != 0) {
      const bool fits = column + 1 + end <= 78;
      out += fits ? ' ' : '\n';
      column = fits ? column + 1 : 0;
    }
    out += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
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
  std::string text = fmt::format("{}.", row.help);
  if (row.kind == ValueKind::list || row.kind == ValueKind::count) text += " May be repeated.";
  if (!row.fallback.empty()) text += fmt::format(" Default: {}.", row.fallback);
  std::string out = fmt::format(".TP\n{}\n{}", heading(row), short_lines(roff(text)));
  if (row.commands != kGlobal) {
    std::string names;
    for (const CommandRow& c : command_table())
      if ((row.commands & only(c.command)) != 0) names += (names.empty() ? "" : ", ") + std::string(c.name);
    out += fmt::format("\n(\\fI{}\\fR)", names);
  }
  return out + "\n";
}

constexpr std::string_view kFiles =
    ".TP\n$XDG_CONFIG_HOME/fathom/config.toml\nDefaults of flags by their long names, and a table [aliases] of models.\n"
    ".TP\n$XDG_STATE_HOME/fathom/history\nLines typed in chat, the newest 1,000;\na line that begins with a space is not kept.\n"
    ".TP\n$XDG_STATE_HOME/fathom/sessions/\nConversations, one message per line (JSON);\n"
    "the .latents files beside them only save time and may be deleted.\n"
    ".TP\n$XDG_CACHE_HOME/fathom/verified\nWhat verify \\-\\-hash has hashed, by device, inode, size and times.\n"
    ".TP\n$XDG_RUNTIME_DIR/fathom/gpu\\-*.lock\nAn advisory lock with the process that uses a GPU, by PCI address;\n"
    "without XDG_RUNTIME_DIR there is none.\n";

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
  std::string out = fmt::format(".TH FATHOM 1 \"{}\" \"fathom {}\" \"User Commands\"\n", kDate, version);
  out += ".SH NAME\nfathom \\- run DeepSeek\\-class models in the terminal\n.SH SYNOPSIS\n";
  for (const CommandRow& c : command_table())
    out += fmt::format("{}.B fathom {}\n{}\n", &c == command_table().data() ? "" : ".br\n", c.name, short_lines(roff(c.synopsis)));
  out +=
      ".SH DESCRIPTION\n"
      "fathom memory\\-maps a checkpoint directory exactly as Hugging Face publishes it\n"
      "and streams the answer to the terminal.\n"
      "Standard output holds the answer and nothing else;\n"
      "thinking is shown only on a terminal.\n"
      "Without a model the built\\-in one answers. It never uses the network.\n"
      ".SH COMMANDS\n";
  for (const CommandRow& c : command_table()) out += fmt::format(".TP\n.B {}\n{}.\n", c.name, roff(c.summary));
  out += ".SH OPTIONS\nFlags of every command stand before or after its name;\n\\-\\-flag=value and \\-\\-flag value are the same.\n"
         "The commands that take a flag are named in parentheses.\n";
  for (const OptionRow& row : option_table()) out += flag(row);
  out += ".SH EXIT STATUS\n";
  for (const ExitRow& e : exit_table())
    out += fmt::format(".TP\n.B {}\n{} ({}).\n", static_cast<int>(e.code), roff(e.when), roff(exit_name(e.code)));
  out += ".SH ENVIRONMENT\n";
  for (const VariableRow& v : variable_table()) out += fmt::format(".TP\n.B {}\n{}.\n", v.names, roff(v.meaning));
  out += fmt::format(".SH FILES\n{}.SH EXAMPLES\n{}", kFiles, kExamples);
  return out;
}

}  // namespace fathom
