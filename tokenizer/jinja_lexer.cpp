#include "tokenizer/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>

#include "src/base/error.h"
#include "tokenizer/jinja_text.h"

namespace fathom::jinja {

void syntax_error(bool unsupported, std::string_view where, int line, const std::string& message) {
  Error error(unsupported ? Exit::unsupported : Exit::bad_checkpoint,
              fmt::format("{}, line {}: {}", where, line, message),
              "choose another template with --template NAME|FILE");
  throw error.at(std::string(where));
}

namespace {

constexpr std::array<std::string_view, 23> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-",
                                                         "/",  "*",  "%",  "~",  "[",  "]",  "(", ")",
                                                         "{",  "}",  ">",  "<",  "=",  ".",  ":"};
constexpr std::string_view kSingles = "|,;";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c) ||
         static_cast<unsigned char>(c) >= 0x80;
}
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view where) : where_(where), source_(normalise(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_until_tag();
    emit(Token::Kind::end, {});
    return std::move(tokens_);
  }

 private:
  // Line ends become '\n'; one at the very end is dropped.
  static std::string normalise(std::string_view s) {
    std::string out;
    out.reserve(s.size());
    for (std::size_t i = 0; i < s.size(); ++i) {
      if (s[i] == '\r' && i + 1 < s.size() && s[i + 1] == '\n') continue;
      out += s[i] == '\r' ? '\n' : s[i];
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
  }

  [[noreturn]] void fail(const std::string& message, int line) const {
    syntax_error(false, where_, line, message);
  }

  void emit(Token::Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  bool looking_at(std::string_view s) const { return std::string_view(source_).substr(at_).starts_with(s); }

  void advance(std::size_t n) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_ + n), '\n'));
    at_ += n;
  }

  void skip_white() {
    while (at_ < source_.size() && is_space(code_point(source_, at_))) advance(char_length(source_, at_));
  }

  // Emits the text before a tag that starts at `tag` and carries `sign`; a variable tag keeps its line's
  // indentation.
  void emit_text(std::size_t tag, char sign, bool variable) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const bool line_starting = at_ == 0 || source_[at_ - 1] == '\n';
    if (sign == '-') {
      text = stripped_right(text);
    } else if (sign != '+' && !variable) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t start = newline == text.npos ? 0 : newline + 1;
      if ((start > 0 || line_starting) && all_space(text.substr(start))) text = text.substr(0, start);
    }
    if (!text.empty()) emit(Token::Kind::data, std::string(text));
    advance(tag - at_);
  }

  static bool all_space(std::string_view s) {
    for (std::size_t i = 0; i < s.size(); i += char_length(s, i))
      if (!is_space(code_point(s, i))) return false;
    return true;
  }

  static std::string_view stripped_right(std::string_view s) {
    std::size_t end = 0;
    for (std::size_t i = 0; i < s.size();) {
      const bool space = is_space(code_point(s, i));
      i += char_length(s, i);
      if (!space) end = i;
    }
    return s.substr(0, end);
  }

  void text_until_tag() {
    std::size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        emit(Token::Kind::data, source_.substr(at_));
        advance(source_.size() - at_);
        return;
      }
      const char c = source_[tag + 1];
      if (c == '{' || c == '%' || c == '#') break;
    }
    const char type = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    emit_text(tag, sign, type == '{');
    const int line = line_;
    if (type == '%' && raw_block()) return;
    advance(sign == '-' || sign == '+' ? 3 : 2);
    if (type == '#') {
      comment(line);
    } else {
      emit(type == '{' ? Token::Kind::variable_begin : Token::Kind::block_begin, {});
      tag_tokens(type == '%', line);
    }
  }

  // After the end of a block or comment: "-" eats white space, "+" nothing, else one newline goes.
  void after_tag(char sign) {
    if (sign == '-') {
      skip_white();
    } else if (sign != '+' && looking_at("\n")) {
      advance(1);
    }
  }

  void comment(int line) {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment without its end '#}'", line);
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2 - at_);
    after_tag(sign);
  }

  // Matches "{%[-+]? raw [-]?%}" at the cursor; on success emits the raw text and moves behind endraw.
  bool raw_block() {
    const std::size_t body = match_word_tag(at_, "raw");
    if (body == 0) return false;
    const int line = line_;
    const bool strip = source_[body - 3] == '-';
    advance(body - at_);
    if (strip) skip_white();
    for (std::size_t tag = at_;; ++tag) {
      tag = source_.find("{%", tag);
      if (tag == std::string::npos) fail("raw without endraw", line);
      const std::size_t end = match_word_tag(tag, "endraw");
      if (end == 0) continue;
      emit_text(tag, source_[tag + 2], false);
      const char sign = source_[end - 3];
      advance(end - at_);
      after_tag(sign);
      return true;
    }
  }

  // Offset behind "{%[-+]?\s*WORD\s*[-+]?%}" at `tag`, 0 when it does not match.
  std::size_t match_word_tag(std::size_t tag, std::string_view word) const {
    std::size_t i = tag + 2;
    const auto spaces = [&] {
      while (i < source_.size() && is_space(code_point(source_, i))) i += char_length(source_, i);
    };
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    spaces();
    if (!std::string_view(source_).substr(i).starts_with(word)) return 0;
    i += word.size();
    spaces();
    if (i < source_.size() && (source_[i] == '-' || (source_[i] == '+' && word == "endraw"))) ++i;
    return std::string_view(source_).substr(i).starts_with("%}") ? i + 2 : 0;
  }

  // Tokens up to the end of a block or variable tag.
  void tag_tokens(bool block, int line) {
    const std::string_view end = block ? "%}" : "}}";
    std::vector<char> open;
    for (;;) {
      skip_white();
      if (at_ >= source_.size()) fail(fmt::format("a tag without its end '{}'", end), line);
      if (open.empty()) {
        const char sign = source_[at_];
        const bool signed_end = (sign == '-' || (sign == '+' && block)) &&
                                std::string_view(source_).substr(at_ + 1).starts_with(end);
        if (signed_end || looking_at(end)) {
          emit(block ? Token::Kind::block_end : Token::Kind::variable_end, {});
          advance(signed_end ? 3 : 2);
          if (block || signed_end) after_tag(signed_end ? sign : '\0');
          return;
        }
      }
      one_token(open);
    }
  }

  void one_token(std::vector<char>& open) {
    const char c = source_[at_];
    if (is_digit(c)) return number();
    if (is_word(c)) {
      std::size_t end = at_;
      while (end < source_.size() && is_word(source_[end])) ++end;
      emit(Token::Kind::name, source_.substr(at_, end - at_));
      return advance(end - at_);
    }
    if (c == '\'' || c == '"') return string(c);
    for (const std::string_view op : kOperators) {
      if (!looking_at(op)) continue;
      balance(op, open);
      emit(Token::Kind::op, std::string(op));
      return advance(op.size());
    }
    if (kSingles.find(c) != kSingles.npos) {
      emit(Token::Kind::op, std::string(1, c));
      return advance(1);
    }
    fail(fmt::format("unexpected character {:?}",
                     std::string_view(source_).substr(at_, char_length(source_, at_))),
         line_);
  }

  void balance(std::string_view op, std::vector<char>& open) const {
    if (op == "(") open.push_back(')');
    if (op == "[") open.push_back(']');
    if (op == "{") open.push_back('}');
    if (op != ")" && op != "]" && op != "}") return;
    if (open.empty()) fail(fmt::format("unexpected '{}'", op), line_);
    if (open.back() != op[0]) fail(fmt::format("unexpected '{}', expected '{}'", op, open.back()), line_);
    open.pop_back();
  }

  // Digits with single underscores between them, from i on; the offset behind them.
  std::size_t digits(std::size_t i) const {
    while (i < source_.size() && (is_digit(source_[i]) ||
                                  (source_[i] == '_' && i + 1 < source_.size() && is_digit(source_[i + 1]))))
      ++i;
    return i;
  }

  // 0x1F, 0o17, 0b101, with single underscores before digits; false when there is none here.
  bool based_number() {
    const std::string_view s = std::string_view(source_).substr(at_);
    if (s.size() < 3 || s[0] != '0') return false;
    const char mark = static_cast<char>(s[1] | 0x20);
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (base == 0) return false;
    const auto is_place = [&](std::size_t i) {
      return i < s.size() && hex_value(s[i]) >= 0 && hex_value(s[i]) < base;
    };
    std::string text;
    std::size_t end = 2;
    for (; is_place(end) || (end < s.size() && s[end] == '_' && is_place(end + 1)); ++end)
      if (s[end] != '_') text += s[end];
    if (text.empty() || (end < s.size() && is_word(s[end]))) return false;
    std::uint64_t v = 0;
    // One that does not fit stays so, and the parser says it.
    if (std::from_chars(text.data(), text.data() + text.size(), v, base).ec != std::errc()) v = UINT64_MAX;
    emit(Token::Kind::integer, std::to_string(v));
    advance(end);
    return true;
  }

  void number() {
    if (based_number()) return;
    std::size_t end = digits(at_);
    bool real = false;
    const auto digit_at = [&](std::size_t i) { return i < source_.size() && is_digit(source_[i]); };
    const bool attribute = at_ > 0 && source_[at_ - 1] == '.';  // "a.0.1" is two subscripts
    if (!attribute && end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      real = true;
      end = digits(end + 1);
    }
    if (!attribute && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      std::size_t i = end + 1;
      if (i < source_.size() && (source_[i] == '+' || source_[i] == '-')) ++i;
      if (digit_at(i)) {
        real = true;
        end = digits(i);
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    if (!real && text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != text.npos)
      fail("an integer with a leading zero", line_);
    if (end < source_.size() && is_word(source_[end])) fail("a number followed by a letter", line_);
    emit(real ? Token::Kind::real : Token::Kind::integer, std::move(text));
    advance(end - at_);
  }

  void string(char quote) {
    const int line = line_;
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string without its closing quote", line);
    emit(Token::Kind::string, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1 - at_);
  }

  // Python's string escapes; an unknown one keeps its backslash.
  std::string unescape(std::string_view s) const {
    std::string out;
    for (std::size_t i = 0; i < s.size(); ++i) {
      if (s[i] != '\\') {
        out += s[i];
        continue;
      }
      const char c = s[++i];
      switch (c) {
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'a':
          out += '\a';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'v':
          out += '\v';
          break;
        case 'x':
          i = code(s, i, 2, out);
          break;
        case 'u':
          i = code(s, i, 4, out);
          break;
        case 'U':
          i = code(s, i, 8, out);
          break;
        case 'N':
          syntax_error(true, where_, line_, "the string escape \\N is not supported");
        default:
          if (c >= '0' && c <= '7') {
            i = octal(s, i, out);
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  // The `count` hexadecimal digits behind s[i]; the offset of the last.
  std::size_t code(std::string_view s, std::size_t i, std::size_t count, std::string& out) const {
    std::uint32_t c = 0;
    for (std::size_t k = 1; k <= count; ++k) {
      const int v = i + k < s.size() ? hex_value(s[i + k]) : -1;
      if (v < 0) fail("a truncated string escape", line_);
      c = c << 4 | static_cast<std::uint32_t>(v);
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) fail("a string escape that is no character", line_);
    append_utf8(out, c);
    return i + count;
  }

  static std::size_t octal(std::string_view s, std::size_t i, std::string& out) {
    std::uint32_t c = 0;
    std::size_t k = i;
    for (; k < s.size() && k < i + 3 && s[k] >= '0' && s[k] <= '7'; ++k)
      c = c * 8 + static_cast<std::uint32_t>(s[k] - '0');
    append_utf8(out, c);
    return k - 1;
  }

  std::string_view where_;
  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, std::string_view where) {
  return Lexer(source, where).run();
}

}  // namespace fathom::jinja
