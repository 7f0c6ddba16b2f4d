#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

constexpr std::size_t max_pattern = 65'536;  // bytes

constexpr std::string_view not_white_space =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-"
    "\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

// Properties whose meaning is the same on both sides.
constexpr std::array<std::string_view, 37> general_categories = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
    "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
    "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

// Rewrites a pattern from Oniguruma's Ruby syntax into PCRE2's. What is not known to mean the same is
// refused.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    // The same matches in linear time: were there none from the start of a run of white space, there would be
    // none from inside it. (The last space pattern of the DeepSeek-V2 file; quadratic as it stands, in any
    // engine.)
    if (pattern_ == "\\s+$") return fmt::format("(?:(?<![{0}])|\\G)[{0}]+$", unicode_white_space);
    while (!at_end()) item();
    return std::move(out_);
  }

 private:
  bool at_end() const { return at_ == pattern_.size(); }
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool take(std::string_view s) {
    if (!pattern_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }
  [[noreturn]] void refuse(std::string_view what) const {
    throw Error(
        Exit::unsupported,
        fmt::format(
            "pre-tokenizer pattern {}: {} at byte {} is outside the subset that fathom matches exactly "
            "as Hugging Face's tokenizers do",
            json::quote(pattern_.substr(0, 400)), what, at_));
  }

  void item() {
    switch (peek()) {
      case '\\':
        escape();
        break;
      case '[':
        character_class();
        break;
      case '(':
        group();
        return;
      case '{':
        refuse("a brace that is no quantifier");
      case '*':
      case '+':
      case '?':
        refuse("a quantifier with nothing to repeat");
      case ')':
      case '|':
      case '^':
        out_ += pattern_[at_++];
        if (out_.back() != ')') return;
        break;
      default:
        literal(next_character());
    }
    quantifier();
  }

  // The opening of a group; its items and the closing parenthesis follow as items.
  void group() {
    static constexpr std::array<std::string_view, 7> kinds = {"(?:",  "(?i:", "(?=", "(?!",
                                                              "(?<=", "(?<!", "(?>"};
    for (const std::string_view kind : kinds) {
      if (take(kind)) {
        out_ += kind;
        return;
      }
    }
    if (at_ == 0 && take("(?i)")) {
      out_ += "(?i)";
      return;
    }
    if (peek(1) == '?') refuse("a group of this kind");
    take("(");
    out_ += "(?:";  // nothing refers back to a capture
  }

  void quantifier() {
    if (peek() == '{') {
      const std::size_t close = pattern_.find('}', at_);
      if (close == pattern_.npos) refuse("a brace that is no quantifier");
      const std::string_view body = pattern_.substr(at_ + 1, close - at_ - 1);
      const std::size_t comma = body.find(',');
      const auto digits = [](std::string_view s) {
        return !s.empty() && s.size() <= 5 &&
               std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; });
      };
      const bool one = comma == body.npos && digits(body);
      const bool two = comma != body.npos && digits(body.substr(0, comma)) &&
                       (comma + 1 == body.size() || digits(body.substr(comma + 1)));
      if (!one && !two) refuse("a brace that is no quantifier {n}, {n,} or {n,m}");
      out_ += pattern_.substr(at_, close + 1 - at_);
      at_ = close + 1;
      // {n}? and {n,m}+ mean something else in Ruby's syntax.
      if (peek() == '+' || (one && peek() == '?')) refuse("a quantifier behind a quantifier");
      if (take("?")) out_ += '?';
    } else if (peek() == '*' || peek() == '+' || peek() == '?') {
      out_ += pattern_[at_++];
      if (peek() == '+' || peek() == '?') out_ += pattern_[at_++];
    } else {
      return;
    }
    if (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{')
      refuse("a quantifier behind a quantifier");
  }

  char32_t next_character() {
    const Utf8Sequence s = utf8_sequence(pattern_.substr(at_));
    if (s.kind != Utf8Sequence::character) refuse("invalid UTF-8");
    const char32_t c = utf8_decode(pattern_.substr(at_, s.size));
    at_ += s.size;
    return c;
  }

  void literal(char32_t c) {
    if (c == '.' || c == '$') {
      out_ += static_cast<char>(c);
    } else {
      out_ += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(c));
    }
  }

  // What a backslash introduces: one code point, or a piece of PCRE2 class text.
  struct Escape {
    std::optional<char32_t> character;
    std::string inside, outside;  // as written inside and outside of a class
  };
  Escape read_escape() {
    ++at_;
    if (at_end()) refuse("a backslash at the end");
    const auto both = [](std::string s) { return Escape{std::nullopt, s, s}; };
    switch (const char c = peek(); c) {
      case 's':
        ++at_;
        return {std::nullopt, std::string(unicode_white_space), fmt::format("[{}]", unicode_white_space)};
      case 'S':
        ++at_;
        return {std::nullopt, std::string(not_white_space), fmt::format("[^{}]", unicode_white_space)};
      case 'd':
        ++at_;
        return both("\\p{Nd}");
      case 'D':
        ++at_;
        return both("\\P{Nd}");
      case 'p':
      case 'P':
        return both(property());
      case 'n':
        ++at_;
        return {U'\n', {}, {}};
      case 'r':
        ++at_;
        return {U'\r', {}, {}};
      case 't':
        ++at_;
        return {U'\t', {}, {}};
      case 'f':
        ++at_;
        return {U'\f', {}, {}};
      case 'v':
        ++at_;
        return {U'\v', {}, {}};
      case 'x':
      case 'u':
        return {code_point(), {}, {}};
      default:
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
          refuse(fmt::format("\\{}", c));
        return {next_character(), {}, {}};
    }
  }

  // \xHH (ASCII only: beyond it Oniguruma means a byte), \x{H...}, \uHHHH.
  char32_t code_point() {
    const bool x = peek() == 'x';
    ++at_;
    const bool braces = x && take("{");
    const std::size_t most = braces ? 6 : x ? 2 : 4;
    std::uint32_t value = 0;
    std::size_t n = 0;
    for (; n < most; ++n, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) break;
      value = value * 16 + static_cast<std::uint32_t>(digit);
    }
    const bool complete = braces ? n > 0 && take("}") : n == most;
    const bool scalar = value < 0xD800 || (value > 0xDFFF && value <= 0x10FFFF);
    if (!complete || !scalar || (x && !braces && value > 0x7F)) refuse("a malformed code point");
    return value;
  }

  std::string property() {
    bool negated = peek() == 'P';
    ++at_;
    if (!take("{")) refuse("a property without braces");
    if (take("^")) negated = !negated;
    const std::size_t close = pattern_.find('}', at_);
    if (close == pattern_.npos) refuse("a property without its closing brace");
    const std::string_view name = pattern_.substr(at_, close - at_);
    const bool category = std::ranges::find(general_categories, name) != general_categories.end();
    if (!category && name != "Han") {
      refuse(fmt::format("the property {} (accepted are the one and two letter general categories and Han)",
                         json::quote(name.substr(0, 40))));
    }
    at_ = close + 1;
    // PCRE2's bare \p{Han} means Script_Extensions, which has common punctuation too.
    return fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', category ? "" : "sc:", name);
  }

  void escape() {
    const Escape e = read_escape();
    if (e.character) {
      out_ += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(*e.character));
    } else {
      out_ += e.outside;
    }
  }

  // One element of a class: a code point, or nothing when class text was written.
  std::optional<char32_t> class_element() {
    if (at_end()) refuse("a class without its closing bracket");
    if (peek() == '[') refuse("a class within a class");
    if (peek() == '&' && peek(1) == '&') refuse("a class intersection");
    if (peek() != '\\') return next_character();
    const Escape e = read_escape();
    if (!e.character) out_ += e.inside;
    return e.character;
  }

  void character_class() {
    ++at_;
    out_ += '[';
    if (take("^")) out_ += '^';
    if (peek() == ']') refuse("an empty class");
    while (!take("]")) {
      const std::optional<char32_t> first = class_element();
      if (!first) {
        if (peek() == '-' && peek(1) != ']') refuse("a range that starts with a class");
        continue;
      }
      out_ += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(*first));
      if (peek() != '-' || peek(1) == ']') continue;
      ++at_;
      const std::optional<char32_t> last = class_element();
      if (!last || *last < *first) refuse("a range that ends with a class or before it starts");
      out_ += fmt::format("-\\x{{{:x}}}", static_cast<std::uint32_t>(*last));
    }
    out_ += ']';
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
};

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 160> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

PCRE2_SPTR units(std::string_view s) { return reinterpret_cast<PCRE2_SPTR>(s.data()); }

}  // namespace

std::string translate_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

struct MatchState::Impl {
  std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>> context{
      pcre2_match_context_create(nullptr)};
  // Grows from 32 KiB as far as 8 MiB, of which only what is touched costs memory. Null without the JIT.
  std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(32u << 10, 8u << 20, nullptr)};
};

MatchState::MatchState() : impl_(std::make_unique<Impl>()) {
  if (!impl_->data || !impl_->context) fail(Exit::out_of_memory, "no memory for matching patterns");
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
MatchState::~MatchState() = default;

struct Regex::Code {
  std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>> code;
  bool jit = false;
};

Regex::Regex(std::string source, std::string_view translated, std::uint32_t options)
    : source_(std::move(source)), code_(std::make_unique<Code>()) {
  if (source_.size() > max_pattern) {
    fail(Exit::unsupported, "pre-tokenizer pattern of {} bytes; at most {} are accepted", source_.size(),
         max_pattern);
  }
  const std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) fail(Exit::out_of_memory, "no memory for compiling patterns");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  std::size_t offset = 0;
  code_->code.reset(pcre2_compile(units(translated), translated.size(), options | PCRE2_UTF, &error, &offset,
                                  context.get()));
  if (!code_->code) {
    fail(Exit::unsupported, "pre-tokenizer pattern {} does not compile: {}",
         json::quote(source_.substr(0, 400)), error_text(error));
  }
  // Where the system forbids memory that is writable and executable the interpreter matches the same, slower.
  code_->jit = pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}

Regex Regex::oniguruma(std::string_view pattern) {
  if (pattern.size() > max_pattern) return Regex(std::string(pattern), {}, 0);
  return Regex(std::string(pattern), translate_oniguruma(pattern), PCRE2_UCP | PCRE2_MULTILINE);
}
Regex Regex::pcre2(std::string_view pattern) {
  return Regex(std::string(pattern), pattern, PCRE2_UCP | PCRE2_MULTILINE);
}
Regex Regex::literal(std::string_view text) { return Regex(std::string(text), text, PCRE2_LITERAL); }

Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

std::optional<Regex::Match> Regex::find(std::string_view subject, std::size_t from, MatchState& state) const {
  MatchState::Impl& s = *state.impl_;
  // Patterns of the field back over each byte of a run a few times at most.
  const std::size_t limit = std::min<std::size_t>(10'000'000 + 8 * subject.size(), 0xFFFFFFFFu);
  pcre2_set_match_limit(s.context.get(), static_cast<std::uint32_t>(limit));
  const auto match = code_->jit ? pcre2_jit_match : pcre2_match;
  const int rc = match(code_->code.get(), units(subject), subject.size(), from, PCRE2_NO_UTF_CHECK,
                       s.data.get(), s.context.get());
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    throw Error(Exit::unsupported,
                fmt::format("pre-tokenizer pattern {} gives up on a text of {} bytes: {}",
                            json::quote(source_.substr(0, 400)), subject.size(), error_text(rc)),
                "split the text, or use a tokenizer whose patterns do not backtrack");
  }
  const std::size_t* vector = pcre2_get_ovector_pointer(s.data.get());
  return Match{vector[0], vector[1]};
}

}  // namespace fathom
