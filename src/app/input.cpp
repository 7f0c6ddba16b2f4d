#include "src/app/input.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

[[noreturn]] void usage(std::string message, std::string remedy = {}) {
  throw Error(Exit::usage, std::move(message), std::move(remedy));
}

std::string read_stdin(std::uint64_t max_bytes, Terminal& terminal) {
  // Somebody who forgot that this reads standard input sees nothing happen: say what is awaited.
  if (!wait_readable(STDIN_FILENO, 2000))
    terminal.warning("waiting for text on standard input; its end is needed to go on");
  return read_input(STDIN_FILENO, max_bytes, "standard input", signals::stop_requested);
}

// Prompt text as the model gets it.
std::string decode_text(std::string text, std::string_view where, Terminal& terminal) {
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    usage(fmt::format("{}: the text is UTF-16, expected UTF-8", where), "convert it: iconv -f UTF-16 -t UTF-8");
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (is_utf8(text)) return text;
  std::size_t replaced = 0;
  text = to_utf8(text, &replaced);
  terminal.warning(fmt::format("{}: {} invalid UTF-8 sequences were replaced by U+FFFD", where, replaced));
  return text;
}

std::string_view without_trailing_newlines(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

bool blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == text.npos; }

// Files in order, standard input, PROMPT, with a blank line between.
std::string join_parts(const std::vector<std::string>& parts) {
  if (parts.size() == 1) return parts[0];
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) text += "\n\n";
    text += i + 1 == parts.size() ? std::string_view(parts[i]) : without_trailing_newlines(parts[i]);
  }
  return text;
}

// All that is to be answered, as one text.
std::string read_prompt(const Options& options, Terminal& terminal) {
  const bool has_prompt = !options.positionals.empty();
  const bool stdin_named = std::find(options.files.begin(), options.files.end(), "-") != options.files.end();
  if (!has_prompt && options.files.empty() && terminal.stdin_is_terminal())
    usage("no prompt: give one, pipe text in, or use `fathom chat`", "for example: fathom run \"What is 37 * 24?\"");
  std::vector<std::string> parts;
  for (const std::string& file : options.files)
    parts.push_back(read_prompt_file(file, options.max_input, terminal));
  if (!terminal.stdin_is_terminal() && !stdin_named) {
    std::string text = decode_text(read_stdin(options.max_input, terminal), "standard input", terminal);
    if (!text.empty()) {
      parts.push_back(std::move(text));
    } else if (!has_prompt && parts.empty()) {
      usage("standard input was empty", "give a prompt, or pipe text in");
    } else {
      terminal.detail("standard input was empty");
    }
  }
  if (has_prompt) parts.push_back(options.positionals[0]);
  std::string text = join_parts(parts);
  if (blank(text) && !options.raw) usage("the prompt is empty", "give a prompt, or pipe text in");
  if (text.empty()) usage("the prompt is empty", "give a prompt, or pipe text in");
  return text;
}

Message message(std::string role, std::string content) {
  Message m;
  m.role = std::move(role);
  m.content = std::move(content);
  return m;
}

std::string text_member(const json::Value& object, std::string_view key, const std::string& where, bool required) {
  const json::Value* v = object.find(key);
  if (v == nullptr || v->is_null()) {
    if (required) usage(fmt::format("{}: expected a string `{}`, found none", where, key));
    return {};
  }
  if (!v->is_string()) usage(fmt::format("{}: {}: expected a string, found {}", where, key, v->describe()));
  return v->as_string();
}

// Under --no-input nobody is asked to type a prompt.
void check_no_input(const Options& o, const Terminal& terminal) {
  if (!o.no_input || !terminal.stdin_is_terminal()) return;
  const bool typed = o.messages == "-" || o.system_file == "-" || std::find(o.files.begin(), o.files.end(), "-") != o.files.end();
  if (typed) usage("--no-input: standard input is a terminal, where the text would have to be typed", "give a file or pipe the text in");
}

}  // namespace

void check_output_is_no_input(const Options& o) {
  if (!o.output) return;
  const auto refuse = [&](std::string_view what) {
    usage(fmt::format("--output {}: this is the file of {}; it would be overwritten", *o.output, what),
          "name another file with --output");
  };
  const auto check = [&](const std::optional<std::string>& path, std::string_view flag) {
    if (path && *path != "-" && same_file(*o.output, *path)) refuse(flag);
  };
  for (const std::string& file : o.files) check(file, "--file");
  check(o.messages, "--messages");
  check(o.batch, "--batch");
  check(o.system_file, "--system-file");
  check(o.chat_template, "--template");
  check(o.config_file, "--config");
  check(o.session, "--session");
  if (o.session == o.output) refuse("--session");  // not there yet
  if (o.ids && o.ids->starts_with('@')) check(o.ids->substr(1), "--ids");
  if (same_file(*o.output, STDIN_FILENO)) refuse("standard input");
}

std::string read_prompt_file(const std::string& path, std::uint64_t max_bytes, Terminal& terminal) {
  if (path == "-") return decode_text(read_stdin(max_bytes, terminal), "standard input", terminal);
  return decode_text(read_input(path, max_bytes, signals::stop_requested), path, terminal);
}

std::optional<std::string> system_text(const Options& options, Terminal& terminal) {
  if (options.system) return options.system;
  if (!options.system_file) return std::nullopt;
  const std::string text = read_prompt_file(*options.system_file, options.max_input, terminal);
  return std::string(without_trailing_newlines(text));
}

std::vector<Message> parse_messages(std::string_view text, std::string_view where) {
  const json::Value root = json::parse(text, where, Exit::usage);
  if (!root.is_array()) usage(fmt::format("{}: expected an array of messages, found {}", where, root.describe()));
  std::vector<Message> messages;
  for (const json::Value& v : root.as_array()) {
    const std::string at = fmt::format("{}: message {}", where, messages.size() + 1);
    if (!v.is_object()) usage(fmt::format("{}: expected an object, found {}", at, v.describe()));
    Message m;
    m.role = text_member(v, "role", at, true);
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool")
      usage(fmt::format("{}: role: expected system, user, assistant or tool, found {}", at,
                        json::quote(m.role.substr(0, 80))));
    if (const json::Value* calls = v.find("tool_calls")) m.tool_calls = *calls;
    m.content = text_member(v, "content", at, m.tool_calls.is_null());
    m.reasoning_content = text_member(v, "reasoning_content", at, false);
    m.name = text_member(v, "name", at, false);
    m.tool_call_id = text_member(v, "tool_call_id", at, false);
    messages.push_back(std::move(m));
  }
  if (messages.empty()) usage(fmt::format("{}: no messages", where));
  return messages;
}

std::vector<std::int32_t> parse_ids(std::string_view list, std::uint64_t max_bytes) {
  std::string from_file;
  std::string where = "--ids";
  if (list.starts_with('@')) {
    where = std::string(list.substr(1));
    from_file = read_input(where, max_bytes, signals::stop_requested);
    list = from_file;
  }
  std::vector<std::int32_t> ids;
  constexpr std::string_view kSpace = " \t\r\n";
  const auto skip_space = [&] { list.remove_prefix(std::min(list.find_first_not_of(kSpace), list.size())); };
  for (skip_space(); !list.empty(); skip_space()) {
    std::int32_t id = 0;
    const auto [end, error] = std::from_chars(list.data(), list.data() + list.size(), id);
    const auto used = static_cast<std::size_t>(end - list.data());
    const bool separated = used == list.size() || kSpace.find(list[used]) != kSpace.npos || list[used] == ',';
    if (error != std::errc() || id < 0 || !separated)
      usage(fmt::format("{}: expected token ids separated by commas, found '{}' at number {}", where,
                        list.substr(0, 40), ids.size() + 1));
    ids.push_back(id);
    list.remove_prefix(used);
    skip_space();
    if (list.starts_with(',')) {
      list.remove_prefix(1);
      skip_space();
      if (list.empty()) usage(fmt::format("{}: ends with a comma", where));
    }
  }
  if (ids.empty()) usage(fmt::format("{}: no token ids", where));
  return ids;
}

Input read_run_input(const Options& options, Terminal& terminal) {
  check_no_input(options, terminal);
  Input input;
  if (options.ids) {
    input.kind = Input::Kind::ids;
    input.ids = parse_ids(*options.ids, options.max_input);
    return input;
  }
  if (options.raw) {
    input.kind = Input::Kind::plain;
    input.text = read_prompt(options, terminal);
    return input;
  }
  if (const auto system = system_text(options, terminal)) input.messages.push_back(message("system", *system));
  if (options.messages) {
    const std::string& file = *options.messages;
    const std::string text = file == "-" ? read_stdin(options.max_input, terminal)
                                         : read_input(file, options.max_input, signals::stop_requested);
    for (Message& m : parse_messages(text, file == "-" ? "standard input" : file)) input.messages.push_back(std::move(m));
    return input;
  }
  const std::string prompt = read_prompt(options, terminal);
  input.messages.push_back(message("user", std::string(without_trailing_newlines(prompt))));
  return input;
}

}  // namespace fathom
