// UTF-8, one sequence at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

// What stands at the start of a byte string.
struct Utf8Sequence {
  enum Kind {
    character,   // a well-formed character of `size` bytes (1 to 4)
    invalid,     // `size` bytes that can never become one: the maximal subpart, shown as one U+FFFD
    incomplete,  // `size` bytes (1 to 3) that reach the end of the string and that more bytes may complete
  };
  Kind kind;
  std::size_t size;
};

// The sequence at the start of `s`. Well-formed as in the Unicode standard's table 3-7: no overlong form, no
// surrogate, at most U+10FFFF. Precondition: s is not empty.
constexpr Utf8Sequence utf8_sequence(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8Sequence::character, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Sequence::invalid, 1};
  const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < size; ++i) {
    if (i == s.size()) return {Utf8Sequence::incomplete, i};
    const bool fits = i == 1 ? byte(1) >= low && byte(1) <= high : (byte(i) & 0xC0u) == 0x80u;
    if (!fits) return {Utf8Sequence::invalid, i};
  }
  return {Utf8Sequence::character, size};
}

// Length of the well-formed UTF-8 that `text` begins with, in bytes.
constexpr std::size_t well_formed_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Sequence s = utf8_sequence(text.substr(i));
    if (s.kind != Utf8Sequence::character) break;
    i += s.size;
  }
  return i;
}

// Length of the bytes that belong to no character, up to the next one.
constexpr std::size_t malformed_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const Utf8Sequence s = utf8_sequence(text.substr(i));
    if (s.kind == Utf8Sequence::character) break;
    i += s.size;
  }
  return i;
}

// The code point of a well-formed sequence. Precondition: s holds exactly one character.
constexpr char32_t utf8_decode(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(s[i])); };
  switch (s.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
    case 3:
      return (byte(0) & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    default:
      return (byte(0) & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
  }
}

// Appends a scalar value to any string-like object. Precondition: c is a scalar value.
template <typename String>
constexpr void utf8_append(String& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    out += static_cast<char>(0xC0u | c >> 6);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0u | c >> 12);
    out += static_cast<char>(0x80u | (c >> 6 & 0x3Fu));
  } else {
    out += static_cast<char>(0xF0u | c >> 18);
    out += static_cast<char>(0x80u | (c >> 12 & 0x3Fu));
    out += static_cast<char>(0x80u | (c >> 6 & 0x3Fu));
  }
  out += static_cast<char>(0x80u | (c & 0x3Fu));
}

// Every maximal sequence of bytes that is no character becomes U+FFFD; `replaced`, if given, counts them.
inline std::string to_utf8(std::string_view s, std::size_t* replaced = nullptr) {
  std::string out;
  out.reserve(s.size());
  while (!s.empty()) {
    const Utf8Sequence next = utf8_sequence(s);
    if (next.kind == Utf8Sequence::character) {
      out += s.substr(0, next.size);
    } else {
      utf8_append(out, 0xFFFD);
      if (replaced != nullptr) ++*replaced;
    }
    s.remove_prefix(next.size);
  }
  return out;
}

constexpr bool is_utf8(std::string_view s) {
  while (!s.empty()) {
    const Utf8Sequence next = utf8_sequence(s);
    if (next.kind != Utf8Sequence::character) return false;
    s.remove_prefix(next.size);
  }
  return true;
}

}  // namespace fathom
