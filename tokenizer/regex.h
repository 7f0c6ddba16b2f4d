// Patterns of a tokenizer.json, matched by PCRE2 with the meaning they have in Oniguruma, the engine they are
// written for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

// Unicode's White_Space as the inside of a PCRE2 class. PCRE2's own \s under UCP takes U+180E besides.
inline constexpr std::string_view unicode_white_space =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"
    "3000}";

// What one encode call needs to match: not shared between threads. Reusable for any number of patterns.
class MatchState {
 public:
  MatchState();
  ~MatchState();
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A compiled pattern; immutable and shared between threads.
class Regex {
 public:
  struct Match {
    std::size_t begin, end;  // bytes
  };

  // A pattern in Oniguruma's (Ruby) syntax. Accepted: literals, classes without set operations, \s \d \p{..}
  // of general categories and Han, groups, lookaround, alternation, quantifiers, ^ $ . and (?i:..). \s is
  // Unicode's White_Space, ^ and $ are the borders of lines, as in Oniguruma. Errors: unsupported naming the
  // construct.
  static Regex oniguruma(std::string_view pattern);
  // A pattern in PCRE2's own syntax, of ours. Multi-line, UTF, UCP.
  static Regex pcre2(std::string_view pattern);
  // The text itself.
  static Regex literal(std::string_view text);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // The first match that starts at or after byte `from` of `subject`, well-formed UTF-8. Errors: unsupported
  // when the pattern runs into the match limit (a multiple of the subject's length) or the matcher's stack.
  std::optional<Match> find(std::string_view subject, std::size_t from, MatchState& state) const;
  const std::string& source() const { return source_; }

 private:
  struct Code;
  Regex(std::string source, std::string_view translated, std::uint32_t options);
  std::string source_;
  std::unique_ptr<Code> code_;
};

// The translation alone, for tests.
std::string translate_oniguruma(std::string_view pattern);

}  // namespace fathom
