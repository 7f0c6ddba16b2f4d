#include "src/app/config_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "src/app/options.h"
#include "src/base/error.h"
#include "src/base/file.h"

namespace fathom {
namespace {

// Flags that ask for one thing now; as a standing default they would surprise.
constexpr std::array<std::string_view, 22> kRequests = {
    "help",   "version", "config", "no-config", "file",  "messages",       "batch",  "ids",     "output", "session", "continue",
    "format", "input",   "plan",   "tensors",   "quick", "random-weights", "layers", "questions", "self-test", "hash",   "csv"};

const OptionRow* find_flag(std::string_view name) {
  for (const OptionRow& row : option_table())
    if (row.long_name == name) return &row;
  return nullptr;
}

// Distance of optimal string alignment.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> two(b.size() + 1), one(b.size() + 1), now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) one[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = one[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({one[j] + 1, now[j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], two[j - 2] + 1);
    }
    std::swap(two, one);
    std::swap(one, now);
  }
  return one[b.size()];
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6)), put(0x80 | (c & 63));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12)), put(0x80 | ((c >> 6) & 63)), put(0x80 | (c & 63));
  } else {
    put(0xF0 | (c >> 18)), put(0x80 | ((c >> 12) & 63)), put(0x80 | ((c >> 6) & 63)), put(0x80 | (c & 63));
  }
}

// One pass over the text, line by line.
class Parser {
 public:
  Parser(std::string_view text, std::string_view where) : text_(text), where_(where) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  ConfigFile parse() {
    config_.path = where_;
    while (skip_to_item()) {
      if (peek() == '[')
        table();
      else
        entry();
      end_of_line();
    }
    return std::move(config_);
  }

 private:
  enum class Table { defaults, aliases };

  [[noreturn]] void bad(const std::string& what, const std::string& remedy = {}) const {
    throw Error(Exit::usage, fmt::format("{}:{}: {}", where_, line_, what), remedy).at(std::string(where_));
  }
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }

  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t') ++at_;
  }
  // A line break, `\n` or `\r\n`; false if there is none here.
  bool line_break() {
    if (text_.substr(at_).starts_with("\r\n")) ++at_;
    if (peek() != '\n') return false;
    ++at_, ++line_;
    return true;
  }
  void skip_comment() {
    if (peek() != '#') return;
    while (!done() && peek() != '\n') ++at_;
  }
  bool skip_to_item() {
    do {
      skip_blanks();
      skip_comment();
    } while (line_break());
    return !done();
  }
  void end_of_line() {
    skip_blanks();
    skip_comment();
    if (!done() && !line_break()) bad("expected the end of the line after the value");
  }

  static bool bare(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_'; }

  std::string key() {
    if (peek() == '"' || peek() == '\'') return string();
    const std::size_t begin = at_;
    while (bare(peek())) ++at_;
    if (at_ == begin) bad("expected a key: a flag's long name, such as `temp = 0.6`");
    return std::string(text_.substr(begin, at_ - begin));
  }

  void table() {
    ++at_;
    skip_blanks();
    const std::string name = key();
    skip_blanks();
    if (peek() != ']') bad("expected `]`");
    ++at_;
    if (name != "aliases") bad(fmt::format("unknown table [{}]; the only one is [aliases]", name));
    if (table_ == Table::aliases) bad("[aliases] stands twice");
    table_ = Table::aliases;
  }

  void entry() {
    const std::string name = key();
    skip_blanks();
    if (peek() == '.') bad("dotted keys are not part of the format; use the [aliases] table");
    if (peek() != '=') bad(fmt::format("expected `=` after {:?}", name));
    ++at_;
    skip_blanks();
    if (table_ == Table::aliases)
      alias(name);
    else
      default_of(name);
  }

  void alias(const std::string& name) {
    if (peek() != '"' && peek() != '\'') bad(fmt::format("alias {:?}: expected a quoted model", name));
    if (config_.alias(name)) bad(fmt::format("alias {:?} stands twice", name));
    std::string model = string();
    if (name.empty() || model.empty()) bad("an alias and its model must not be empty");
    config_.aliases.emplace_back(name, std::move(model));
  }

  void default_of(const std::string& name) {
    const OptionRow* flag = find_flag(name);
    if (flag == nullptr) unknown(name);
    if (!may_be_configured(name)) bad(fmt::format("{:?} is for the command line only", name));
    for (const auto& d : config_.defaults)
      if (d.flag == name) bad(fmt::format("key {:?} stands twice (first on line {})", name, d.line));
    const int line = line_;
    std::vector<std::string> values = value(*flag);
    config_.defaults.push_back({name, std::move(values), line});
  }

  [[noreturn]] void unknown(const std::string& name) const {
    std::vector<std::string_view> known;
    for (const OptionRow& row : option_table())
      if (may_be_configured(row.long_name)) known.push_back(row.long_name);
    const std::string near = nearest_word(name, known);
    bad(fmt::format("unknown key {:?}", name), near.empty() ? "" : fmt::format("did you mean `{}`?", near));
  }

  std::vector<std::string> value(const OptionRow& flag) {
    if (peek() == '[') {
      if (flag.kind != ValueKind::list) bad(fmt::format("{:?} takes one value, not a list", flag.long_name));
      return list();
    }
    const bool quoted = peek() == '"' || peek() == '\'';
    std::string text = quoted ? string() : word();
    const bool boolean = !quoted && (text == "true" || text == "false");
    if (flag.kind == ValueKind::flag && !boolean) bad(fmt::format("{:?}: expected true or false", flag.long_name));
    if (flag.kind != ValueKind::flag && boolean) bad(fmt::format("{:?} takes a value, not {}", flag.long_name, text));
    if (!quoted && !boolean && !number(text)) bad(fmt::format("expected a value, found {:?}: quote text", text));
    return {std::move(text)};
  }

  std::vector<std::string> list() {
    std::vector<std::string> out;
    ++at_;
    while (skip_to_item() && peek() != ']') {
      if (peek() != '"' && peek() != '\'') bad("expected a quoted string in the list");
      out.push_back(string());
      skip_to_item();
      if (peek() == ',')
        ++at_;
      else if (peek() != ']')
        bad("expected `,` or `]` in the list");
    }
    if (done()) bad("the list has no `]`");
    ++at_;
    return out;
  }

  std::string word() {
    const std::size_t begin = at_;
    while (bare(peek()) || peek() == '.' || peek() == '+') ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }
  // Whether the value parses is the flag's to say; here only that it looks like a number.
  static bool number(std::string_view s) {
    if (s.starts_with('-') || s.starts_with('+')) s.remove_prefix(1);
    return !s.empty() && std::isdigit(static_cast<unsigned char>(s[0])) != 0;
  }

  std::string string() {
    const char quote = peek();
    if (text_.substr(at_).starts_with("\"\"\"") || text_.substr(at_).starts_with("'''"))
      bad("strings over several lines are not part of the format", "write \\n in a \"string\", or use system-file");
    ++at_;
    std::string out;
    while (peek() != quote || done()) {
      const char c = peek();
      if (done() || c == '\n') bad(fmt::format("the string has no closing {}", quote));
      if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) bad("a control byte in a string");
      ++at_;
      if (c == '\\' && quote == '"')
        escape(out);
      else
        out += c;
    }
    ++at_;
    return out;
  }

  void escape(std::string& out) {
    const char c = peek();
    ++at_;
    static constexpr std::string_view kLetters = "btnfr\"\\", kBytes = "\b\t\n\f\r\"\\";
    const auto simple = kLetters.find(c);
    if (simple != kLetters.npos && c != '\0') {
      out += kBytes[simple];
    } else if (c == 'u' || c == 'U') {
      append_utf8(out, hex(c == 'u' ? 4 : 8));
    } else {
      bad(fmt::format("unknown escape \\{} in a string", std::isprint(static_cast<unsigned char>(c)) ? c : '?'));
    }
  }

  std::uint32_t hex(int digits) {
    std::uint32_t v = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = peek();
      if (std::isxdigit(static_cast<unsigned char>(c)) == 0) bad(fmt::format("expected {} hex digits after the escape", digits));
      v = v * 16 + static_cast<std::uint32_t>(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    if (v == 0 || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000)) bad("the escape is no character");
    return v;
  }

  std::string_view text_, where_;
  std::size_t at_ = 0;
  int line_ = 1;
  Table table_ = Table::defaults;
  ConfigFile config_;
};

}  // namespace

std::string nearest_word(std::string_view word, std::span<const std::string_view> known) {
  if (word.empty() || word.size() > 64) return {};
  std::size_t best = std::max<std::size_t>(1, word.size() / 3) + 1;
  std::string_view found;
  for (const std::string_view k : known) {
    const std::size_t d = edit_distance(word, k);
    if (d < best) best = d, found = k;
  }
  return std::string(found);
}

bool may_be_configured(std::string_view flag) {
  return find_flag(flag) != nullptr && std::find(kRequests.begin(), kRequests.end(), flag) == kRequests.end();
}

std::optional<std::string> ConfigFile::alias(std::string_view name) const {
  for (const auto& [key, model] : aliases)
    if (key == name) return model;
  return std::nullopt;
}

ConfigFile parse_config_text(std::string_view text, std::string_view where) { return Parser(text, where).parse(); }

ConfigFile read_config_file(const std::string& path) {
  try {
    return parse_config_text(read_file(path, kMaxConfigBytes), path);
  } catch (const Error& e) {
    // What is a bad checkpoint elsewhere (too large, not a regular file) is a bad configuration here.
    if (e.code() != Exit::bad_checkpoint) throw;
    throw Error(Exit::usage, fmt::format("configuration file {}", e.what()), "name another with --config, or use --no-config")
        .at(path);
  }
}

std::optional<ConfigFile> load_config_file(const std::string& explicit_path, const std::string& default_path) {
  if (!explicit_path.empty()) return read_config_file(explicit_path);
  struct stat s {};
  if (default_path.empty() || ::stat(default_path.c_str(), &s) != 0) return std::nullopt;
  return read_config_file(default_path);
}

}  // namespace fathom
