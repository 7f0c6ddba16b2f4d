#include "src/app/sanitiser.h"

#include <fmt/format.h>

#include "src/base/utf8.h"

namespace fathom {
namespace {

// ZWJ, ZWNJ, LRM, RLM and variation selectors stay: they carry meaning in Indic scripts, emoji and mixed text.
bool hidden(char32_t c) {
  return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) ||  // bidirectional overrides and isolates
         (c >= 0xE0000 && c <= 0xE007F) ||                               // tags
         c == 0x2028 || c == 0x2029;                                     // line and paragraph separators
}

void append_character(std::string& out, std::string_view character) {
  const char32_t c = utf8_decode(character);
  if (c < 0x20 && c != '\n' && c != '\t') {
    utf8_append(out, 0x2400 + c);  // the pictures of the controls: U+241B is ESC's
  } else if (c == 0x7F) {
    utf8_append(out, 0x2421);
  } else if (c >= 0x80 && c <= 0x9F) {
    out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
  } else if (hidden(c)) {
    out += fmt::format("\\u{{{:04X}}}", static_cast<unsigned>(c));
  } else {
    out += character;
  }
}

// Converts `s` and returns how many bytes at its end were left: an incomplete character, or a carriage return that may
// yet end a line. With `whole` nothing is left.
std::size_t convert(std::string_view s, bool whole, std::string& out) {
  while (!s.empty()) {
    const Utf8Sequence next = utf8_sequence(s);
    const auto byte = static_cast<unsigned char>(s.front());
    if (!whole && (next.kind == Utf8Sequence::incomplete || s == "\r")) return s.size();
    if (s.starts_with("\r\n")) {
      // the end of a line, as other systems write it: the newline alone is kept
    } else if (next.kind == Utf8Sequence::character) {
      append_character(out, s.substr(0, next.size));
    } else if (byte >= 0x80 && byte <= 0x9F) {
      out += fmt::format("\\x{:02x}", byte);  // a raw C1 byte is a control to some terminals
    } else {
      utf8_append(out, 0xFFFD);
    }
    s.remove_prefix(next.size);
  }
  return 0;
}

}  // namespace

std::string Sanitiser::feed(std::string_view text) {
  const std::string joined = std::move(pending_) + std::string(text);
  std::string out;
  pending_ = joined.substr(joined.size() - convert(joined, false, out));
  return out;
}

std::string Sanitiser::finish() {
  std::string out;
  convert(pending_, true, out);
  pending_.clear();
  return out;
}

std::string sanitise(std::string_view text, bool newlines) {
  std::string out;
  convert(text, true, out);
  if (newlines) return out;
  for (std::size_t i = 0; (i = out.find('\n', i)) != out.npos; i += 3) out.replace(i, 1, "\xE2\x90\x8A");
  return out;
}

}  // namespace fathom
