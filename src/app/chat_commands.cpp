#include "src/app/chat_commands.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "src/app/config_file.h"
#include "src/base/error.h"

namespace fathom {
namespace {

constexpr std::array kSlash = std::to_array<SlashRow>({
    {Slash::help, "/help", "", false, "this list"},
    {Slash::exit, "/exit", "", false, "leave (also /quit, /bye, Ctrl-D)"},
    {Slash::new_conversation, "/new", "", false, "begin a new conversation; the system prompt stays"},
    {Slash::system, "/system", "TEXT", false, "set the system prompt; alone shows it, - removes it"},
    {Slash::file, "/file", "PATH", true, "put a file's text before the next message"},
    {Slash::edit, "/edit", "", false, "write the message in $VISUAL or $EDITOR"},
    {Slash::retry, "/retry", "", false, "answer the last message again, differently"},
    {Slash::undo, "/undo", "", false, "drop the attached text, or else the last exchange"},
    {Slash::think, "/think", "on|off", true, "ask the model to think, or not to"},
    {Slash::show_thinking, "/show-thinking", "auto|full|summary|hidden", true, "how thinking is shown"},
    {Slash::set, "/set", "KEY VALUE", false, "temp, top-p, seed, max-tokens ...; alone shows all"},
    {Slash::stats, "/stats", "", false, "speed of the last answer"},
    {Slash::tokens, "/tokens", "", false, "how much of the context is used"},
    {Slash::save, "/save", "FILE", true, "write the conversation to a file"},
    {Slash::load, "/load", "FILE", true, "go on with a conversation from a file"},
});

constexpr std::array<std::pair<std::string_view, Slash>, 2> kAlso = {{{"/quit", Slash::exit}, {"/bye", Slash::exit}}};

constexpr auto kSetKeys = std::to_array<std::string_view>({"temp", "top-p", "top-k", "min-p", "repeat-penalty", "presence-penalty",
                                      "frequency-penalty", "seed", "max-tokens", "think-budget", "stop"});

std::string_view trim(std::string_view s) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  while (!s.empty() && blank(s.front())) s.remove_prefix(1);
  while (!s.empty() && blank(s.back())) s.remove_suffix(1);
  return s;
}

bool is_choice(std::string_view argument) { return argument.find('|') != argument.npos; }

std::vector<std::string_view> choices(std::string_view argument) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at <= argument.size();) {
    const std::size_t bar = std::min(argument.find('|', at), argument.size());
    out.push_back(argument.substr(at, bar - at));
    at = bar + 1;
  }
  return out;
}

Typed wrong(std::string text) { return {Typed::Kind::wrong, Slash::help, std::move(text)}; }

Typed with_argument(const SlashRow& row, std::string_view argument) {
  if (argument.empty() && row.required) return wrong(fmt::format("{} takes {}: {}", row.name, row.argument, row.help));
  if (!argument.empty() && row.argument.empty()) return wrong(fmt::format("{} takes nothing after it", row.name));
  if (is_choice(row.argument)) {
    const auto words = choices(row.argument);
    if (std::find(words.begin(), words.end(), argument) == words.end())
      return wrong(fmt::format("{}: expected {}, found {:?}", row.name, row.argument, argument));
  }
  return {Typed::Kind::command, row.command, std::string(argument)};
}

const SlashRow* find_slash(std::string_view name) {
  for (const auto& [other, command] : kAlso)
    if (name == other) name = kSlash[static_cast<std::size_t>(command)].name;
  for (const SlashRow& row : kSlash)
    if (row.name == name) return &row;
  return nullptr;
}

// Words of `all` that begin with `typed`.
Completion among(std::size_t begin, std::string_view typed, std::span<const std::string_view> all) {
  Completion c{.begin = begin, .words = {}, .finished = true};
  for (const std::string_view word : all)
    if (word.starts_with(typed)) c.words.emplace_back(word);
  std::sort(c.words.begin(), c.words.end());
  return c;
}

Completion paths(std::size_t begin, std::string_view typed, const std::string& home) {
  Completion c{.begin = begin, .words = {}, .finished = true};
  const std::size_t slash = typed.rfind('/');
  const std::string folder(slash == typed.npos ? "" : typed.substr(0, slash + 1));
  const std::string_view name = slash == typed.npos ? typed : typed.substr(slash + 1);
  std::string real = folder.empty() ? "./" : folder;
  if (real.starts_with("~/") && !home.empty()) real = home + real.substr(1);
  DIR* dir = ::opendir(real.c_str());
  if (dir == nullptr) return c;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view other = entry->d_name;
    if (!other.starts_with(name) || other == "." || other == ".." || (name.empty() && other.starts_with('.'))) continue;
    struct stat s {};
    const bool is_folder = ::stat((real + std::string(other)).c_str(), &s) == 0 && S_ISDIR(s.st_mode);
    c.words.push_back(folder + std::string(other) + (is_folder ? "/" : ""));
  }
  ::closedir(dir);
  std::sort(c.words.begin(), c.words.end());
  c.finished = c.words.size() == 1 && !c.words[0].ends_with('/');
  return c;
}

}  // namespace

std::span<const SlashRow> slash_table() { return kSlash; }
std::span<const std::string_view> set_keys() { return kSetKeys; }

Typed parse_typed(std::string_view message) {
  if (trim(message).empty()) return {};
  if (message.starts_with("//")) return {Typed::Kind::text, Slash::help, std::string(message.substr(1))};
  if (!message.starts_with('/')) return {Typed::Kind::text, Slash::help, std::string(message)};
  const std::size_t blank = std::min(message.find_first_of(" \t\n"), message.size());
  const std::string_view name = message.substr(0, blank);
  const SlashRow* row = find_slash(name);
  if (row != nullptr) return with_argument(*row, trim(message.substr(blank)));
  std::vector<std::string_view> known;
  for (const SlashRow& r : kSlash) known.push_back(r.name);
  for (const auto& [other, command] : kAlso) known.push_back(other);
  std::string near = nearest_word(name, known);
  const auto begun = among(0, name, known).words;
  if (near.empty() && begun.size() == 1) near = begun[0];
  return wrong(fmt::format("unknown command {}{}\n/help lists them; a message that begins with a slash is typed with two", name.substr(0, 60),
                           near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
}

std::string slash_help() {
  std::string out;
  for (const SlashRow& row : kSlash) {
    const std::string_view shown = is_choice(row.argument) && row.argument.size() > 8 ? "MODE" : row.argument;
    out += fmt::format("  {:<22}{}\n", fmt::format("{} {}", row.name, shown), row.help);
  }
  return out +
         "  Several lines: paste them, type Alt-Enter or Ctrl-J between them, or put \"\"\"\n"
         "  before and after them. Ctrl-C stops an answer.\n"
         "  A message that begins with a slash is typed with two: //etc/hosts.\n";
}

Completion complete_chat(std::string_view line, const std::string& home) {
  if (!line.starts_with('/') || line.find('\n') != line.npos) return {};
  const std::size_t blank = line.find(' ');
  if (blank == line.npos) {
    std::vector<std::string_view> names;
    for (const SlashRow& row : kSlash) names.push_back(row.name);
    return among(0, line, names);
  }
  const SlashRow* row = find_slash(line.substr(0, blank));
  if (row == nullptr) return {};
  const std::size_t begin = blank + 1;
  const std::string_view typed = line.substr(begin);
  if (is_choice(row->argument)) return among(begin, typed, choices(row->argument));
  if (row->command == Slash::set) return among(begin, typed, kSetKeys);
  if (row->argument == "PATH" || row->argument == "FILE") return paths(begin, typed, home);
  return {};
}

}  // namespace fathom
