#include "src/app/completions.h"

#include "src/app/version.h"
#include "src/base/error.h"

namespace fathom {
namespace {

bool global(const OptionRow& row) { return row.commands == kGlobal; }
bool of(const OptionRow& row, Command c) { return global(row) || (row.commands & only(c)) != 0; }

// "auto|cuda|cpu" as words.
std::vector<std::string> words(std::string_view choices) {
  std::vector<std::string> out(1);
  for (const char c : choices)
    if (c == '|')
      out.emplace_back();
    else
      out.back() += c;
  return out;
}

std::string joined(const std::vector<std::string>& list, std::string_view between) {
  std::string out;
  for (const std::string& s : list) {
    if (!out.empty()) out += between;
    out += s;
  }
  return out;
}

// What a flag's value is completed with: words, files, or nothing.
bool completes_files(const OptionRow& row) {
  return row.argument.find("FILE") != row.argument.npos || row.long_name == "model" || row.long_name == "random-weights";
}

// Words that a command takes as its argument besides files.
std::vector<std::string> arguments_of(Command c) {
  if (c == Command::completions) return {"bash", "zsh", "fish", "man"};
  std::vector<std::string> out;
  if (c == Command::help) {
    for (const CommandRow& row : command_table()) out.emplace_back(row.name);
    for (const char* topic : {"environment", "exit-codes", "files", "formatting"}) out.emplace_back(topic);
  }
  return out;
}

std::vector<std::string> flag_words(Command c) {
  std::vector<std::string> out;
  for (const OptionRow* row : flags_of(c)) {
    if (row->short_name != 0) out.push_back(fmt::format("-{}", row->short_name));
    out.push_back(fmt::format("--{}", row->long_name));
  }
  return out;
}

std::vector<std::string> command_names() {
  std::vector<std::string> out;
  for (const CommandRow& row : command_table()) out.emplace_back(row.name);
  return out;
}

// -- bash ---------------------------------------------------------------------------------------------------------

std::string bash_pattern(const OptionRow& row) {
  std::string s = fmt::format("--{}", row.long_name);
  if (row.short_name != 0) s += fmt::format("|-{}", row.short_name);
  return s;
}

std::string bash() {
  std::string out =
      "# bash completion for fathom: source it, or put it into bash-completion's folder as `fathom`.\n"
      "_fathom() {\n"
      "  local current=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\" command=\"\" flags i\n"
      "  COMPREPLY=()\n"
      "  # readline splits words at `=`: --flag=value arrives as three.\n"
      "  if [[ $current == = ]]; then current=\"\"; elif [[ $previous == = ]]; then previous=\"${COMP_WORDS[COMP_CWORD-2]}\"; fi\n";
  out += fmt::format("  for ((i = 1; i < COMP_CWORD; i++)); do\n    case \"${{COMP_WORDS[i]}}\" in\n"
                     "      {}) command=\"${{COMP_WORDS[i]}}\"; break ;;\n    esac\n  done\n", joined(command_names(), "|"));
  out += "  case \"$previous\" in\n";
  for (const OptionRow& row : option_table()) {
    if (!takes_value(row)) continue;
    if (row.kind == ValueKind::choice)
      out += fmt::format("    {}) COMPREPLY=($(compgen -W '{}' -- \"$current\")); return ;;\n", bash_pattern(row),
                         joined(words(row.argument), " "));
    else if (completes_files(row))
      out += fmt::format("    {}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n",
                         bash_pattern(row));
    else
      out += fmt::format("    {}) return ;;\n", bash_pattern(row));
  }
  out += "  esac\n  case \"$command\" in\n";
  for (const CommandRow& c : command_table())
    out += fmt::format("    {}) flags='{}' ;;\n", c.name, joined(flag_words(c.command), " "));
  out += fmt::format("    *) flags='{}' ;;\n  esac\n", joined(flag_words(Command::none), " "));
  out += "  if [[ $current == -* ]]; then\n    COMPREPLY=($(compgen -W \"$flags\" -- \"$current\"))\n    return\n  fi\n"
         "  case \"$command\" in\n";
  out += fmt::format("    '') COMPREPLY=($(compgen -W '{}' -- \"$current\")) ;;\n", joined(command_names(), " "));
  for (const CommandRow& c : command_table()) {
    const auto arguments = arguments_of(c.command);
    if (!arguments.empty())
      out += fmt::format("    {}) COMPREPLY=($(compgen -W '{}' -- \"$current\")) ;;\n", c.name, joined(arguments, " "));
  }
  out += "    *) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$current\")) ;;\n  esac\n}\n"
         "complete -F _fathom fathom\n";
  return out;
}

// -- zsh ----------------------------------------------------------------------------------------------------------

// Text inside '...' of an _arguments specification.
std::string zsh_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out;
}

std::string zsh_value(const OptionRow& row) {
  if (!takes_value(row)) return {};
  std::string action;
  if (row.kind == ValueKind::choice)
    action = fmt::format("({})", joined(words(row.argument), " "));
  else if (completes_files(row))
    action = "_files";
  return fmt::format(":{}:{}", zsh_escape(row.argument), action);
}

std::string zsh_flags(Command c, std::string_view indent) {
  std::string out;
  for (const OptionRow* row : flags_of(c)) {
    const std::string_view repeat = row->kind == ValueKind::list || row->kind == ValueKind::count ? "*" : "";
    const std::string_view equals = takes_value(*row) ? "=" : "";
    const std::string tail = fmt::format("[{}]{}", zsh_escape(row->help), zsh_value(*row));
    if (row->short_name != 0) out += fmt::format("{}'{}-{}{}' \\\n", indent, repeat, row->short_name, tail);
    out += fmt::format("{}'{}--{}{}{}' \\\n", indent, repeat, row->long_name, equals, tail);
  }
  return out;
}

std::string zsh() {
  std::string out = "#compdef fathom\n# zsh completion for fathom: put it into a folder of $fpath as `_fathom`.\n_fathom() {\n"
                    "  local context state state_descr line\n  typeset -A opt_args\n  local -a commands\n  commands=(\n";
  for (const CommandRow& c : command_table()) out += fmt::format("    '{}:{}'\n", c.name, zsh_escape(c.summary));
  out += "  )\n  _arguments -C \\\n" + zsh_flags(Command::none, "    ") +
         "    '1:command:->command' '*::argument:->argument'\n"
         "  case $state in\n    command) _describe command commands ;;\n    argument)\n      case $line[1] in\n";
  for (const CommandRow& c : command_table()) {
    const auto arguments = arguments_of(c.command);
    out += fmt::format("        {})\n          _arguments \\\n{}            '*:argument:{}' ;;\n", c.name,
                       zsh_flags(c.command, "            "),
                       arguments.empty() ? "_files" : "(" + joined(arguments, " ") + ")");
  }
  out += "      esac ;;\n  esac\n}\nif [ \"$funcstack[1]\" = _fathom ]; then _fathom \"$@\"; else compdef _fathom fathom; fi\n";
  return out;
}

// -- fish ---------------------------------------------------------------------------------------------------------

std::string fish_quote(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_flag(const OptionRow& row) {
  std::string out = "complete -c fathom";
  if (!global(row)) {
    std::vector<std::string> names;
    for (const CommandRow& c : command_table())
      if (of(row, c.command)) names.emplace_back(c.name);
    out += fmt::format(" -n '__fish_seen_subcommand_from {}'", joined(names, " "));
  }
  if (row.short_name != 0) out += fmt::format(" -s {}", row.short_name);
  out += fmt::format(" -l {}", row.long_name);
  if (row.kind == ValueKind::choice)
    out += fmt::format(" -x -a {}", fish_quote(joined(words(row.argument), " ")));
  else if (takes_value(row))
    out += completes_files(row) ? " -r -F" : " -x";
  return fmt::format("{} -d {}\n", out, fish_quote(row.help));
}

std::string fish() {
  const std::string names = joined(command_names(), " ");
  std::string out = "# fish completion for fathom: put it into ~/.config/fish/completions as `fathom.fish`.\n";
  out += fmt::format("complete -c fathom -n 'not __fish_seen_subcommand_from {}' -f\n", names);
  for (const CommandRow& c : command_table())
    out += fmt::format("complete -c fathom -n 'not __fish_seen_subcommand_from {}' -a {} -d {}\n", names, c.name,
                       fish_quote(c.summary));
  for (const CommandRow& c : command_table())
    if (const auto arguments = arguments_of(c.command); !arguments.empty())
      out += fmt::format("complete -c fathom -n '__fish_seen_subcommand_from {}' -f -a {}\n", c.name,
                         fish_quote(joined(arguments, " ")));
  for (const OptionRow& row : option_table()) out += fish_flag(row);
  return out;
}

}  // namespace

std::vector<const OptionRow*> flags_of(Command command) {
  std::vector<const OptionRow*> out;
  for (const OptionRow& row : option_table())
    if (global(row)) out.push_back(&row);
  for (const OptionRow& row : option_table())
    if (!global(row) && of(row, command)) out.push_back(&row);
  return out;
}

std::string completions_for(std::string_view shell) {
  if (shell == "bash") return bash();
  if (shell == "zsh") return zsh();
  if (shell == "fish") return fish();
  if (shell == "man") return manual_page(version_number());
  throw Error(Exit::usage, fmt::format("completions: expected bash, zsh, fish or man, found {:?}", shell),
              "for example: fathom completions bash > ~/.local/share/bash-completion/completions/fathom");
}

}  // namespace fathom
