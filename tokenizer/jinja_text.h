// Strings of the Jinja interpreter: UTF-8 bytes that remember which of them came from messages, and the meter
// that bounds the interpreter's work and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"

namespace fathom::jinja {

// What one rendering may spend. Every operation on a template's behalf is paid for here, so that a hostile
// template ends in an error (Exit::unsupported naming the line) and never in a hang or a full memory.
class Meter {
 public:
  std::uint64_t max_steps = 10'000'000;  // one per node evaluated, and one per 64 bytes handled
  std::size_t max_live = 256u << 20;     // bytes of strings and containers alive at once
  std::size_t max_text = 64u << 20;      // bytes of one string, the output included
  std::string where;                     // what is rendered: for messages
  int line = 0;                          // of the node being evaluated

  void step(std::uint64_t n = 1) {
    steps_ += n;
    if (steps_ > max_steps) fail("more than {} steps", max_steps);
  }
  // Pays for handling n bytes.
  void handle(std::size_t n) { step(n / 64); }
  void take(std::size_t bytes) {
    live_ += bytes;
    if (live_ > max_live) {
      live_ -= bytes;
      fail("more than {} bytes of memory", max_live);
    }
  }
  void give(std::size_t bytes) noexcept { live_ -= bytes; }
  // Refuses a string of n bytes before it is built.
  void check_text(std::uint64_t n) {
    if (n > max_text) fail("a string of more than {} bytes", max_text);
  }
  std::size_t live() const { return live_; }

  // Throws Error(unsupported) that names place and line and suggests --template.
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_text(Exit::unsupported, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void fail_text(Exit code, const std::string& message) const;

 private:
  std::uint64_t steps_ = 0;
  std::size_t live_ = 0;
};

// Bytes up to `end` (from the previous run's end) of one origin.
struct Run {
  std::size_t end = 0;
  bool message = false;
  bool operator==(const Run&) const = default;
};

// An immutable, shared string with its origins as runs. Copying is cheap.
class Text {
 public:
  Text() = default;
  // A constant of the template, outside any meter.
  explicit Text(std::string bytes, bool message = false);

  std::string_view view() const { return rep_ ? std::string_view(rep_->bytes) : std::string_view(); }
  std::size_t size() const { return view().size(); }
  bool empty() const { return size() == 0; }
  // Neighbouring runs differ in origin; the last ends at size().
  std::span<const Run> runs() const {
    return rep_ ? std::span<const Run>(rep_->runs) : std::span<const Run>();
  }
  // Origin of the byte at i.
  bool message_at(std::size_t i) const;

 private:
  friend class TextBuilder;
  struct Rep {
    std::string bytes;
    std::vector<Run> runs;
    Meter* meter = nullptr;  // pays for paid bytes; outlives the text
    std::size_t paid = 0;
    Rep() = default;
    Rep(const Rep&) = delete;
    Rep& operator=(const Rep&) = delete;
    ~Rep() {
      if (meter) meter->give(paid);
    }
  };
  std::shared_ptr<const Rep> rep_;
};

// Appends pieces and pays for them as they come.
class TextBuilder {
 public:
  explicit TextBuilder(Meter& meter);
  void add(std::string_view bytes, bool message);
  void add(const Text& text) { add(text, 0, text.size()); }
  // Bytes [begin, end) of text.
  void add(const Text& text, std::size_t begin, std::size_t end);
  std::size_t size() const { return rep_->bytes.size(); }
  // The text; the builder is spent.
  Text finish();

 private:
  void pay(std::size_t bytes);
  std::shared_ptr<Text::Rep> rep_;
  Meter& meter_;
};

// -- characters ---------------------------------------------------------------------------------------------

// Length of the character at s[i]; 1 for a byte that begins no valid one.
std::size_t char_length(std::string_view s, std::size_t i);
// The code point at s[i]; 0xDC00 + byte for a byte that begins no valid character.
std::uint32_t code_point(std::string_view s, std::size_t i);
std::size_t count_chars(std::string_view s);
// Byte offset of character n, s.size() beyond the end.
std::size_t char_offset(std::string_view s, std::size_t n);
// Appends the UTF-8 of c.
void append_utf8(std::string& out, std::uint32_t c);
// White space as Python's str.isspace sees it.
bool is_space(std::uint32_t c);
// Printable as Python's str.isprintable sees it.
bool is_printable(std::uint32_t c);

// -- string operations with Python's meaning; all keep origins and pay the meter ----------------------------

// Position of `needle` in `s` at or after `from`, npos if absent. Linear.
std::size_t find(std::string_view s, std::string_view needle, std::size_t from = 0);
Text slice(Meter& m, const Text& s, std::size_t begin, std::size_t end);
Text concat(Meter& m, const Text& a, const Text& b);
enum class Side { left, right, both };
// Strips characters in `chars`, or white space when chars is null.
Text strip(Meter& m, const Text& s, Side side, const std::string_view* chars);
// sep null: at runs of white space. limit < 0: no limit.
std::vector<Text> split(Meter& m, const Text& s, const std::string_view* sep, std::int64_t limit);
std::vector<Text> rsplit(Meter& m, const Text& s, const std::string_view* sep, std::int64_t limit);
std::vector<Text> split_lines(Meter& m, const Text& s);
Text replace(Meter& m, const Text& s, std::string_view old, const Text& replacement, std::int64_t limit);
enum class Case { upper, lower, capitalize, title, title_words };
// title is Python's str.title, title_words Jinja's filter.
Text change_case(Meter& m, const Text& s, Case to);
Text repeat(Meter& m, const Text& s, std::int64_t count);
Text html_escape(Meter& m, const Text& s);

}  // namespace fathom::jinja
