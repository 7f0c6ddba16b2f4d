#include <doctest/doctest.h>

#include <string>

#include "src/app/sanitiser.h"

using fathom::sanitise;
using fathom::Sanitiser;

TEST_CASE("sanitiser: printable text, newline and tab pass unchanged") {
  const std::string text = "Grüße,\t日本 👍🏽 e\u0301 क्\u200dष \u200f\n";
  CHECK(sanitise(text) == text);
  CHECK(sanitise("a\r\nb") == "a\nb");
}

TEST_CASE("sanitiser: controls become visible") {
  CHECK(sanitise("\x1b[31mred\x1b[0m") == "␛[31mred␛[0m");
  CHECK(sanitise("\x07\b\x7f") == "␇␈␡");
  CHECK(sanitise(std::string_view("\0", 1)) == "␀");
  CHECK(sanitise("a\rb\r") == "a␍b␍");
  CHECK(sanitise("\xC2\x9B" "31m") == "\\x9b31m");
  CHECK(sanitise("\x9b" "31m") == "\\x9b31m");
  CHECK(sanitise("\u202Eevil\u2066") == "\\u{202E}evil\\u{2066}");
  CHECK(sanitise("\U000E0041") == "\\u{E0041}");
  CHECK(sanitise("\xff|\xc3|\xe2\x82") == "\uFFFD|\uFFFD|\uFFFD");
  CHECK(sanitise("a\nb", false) == "a␊b");
}

TEST_CASE("sanitiser: no split of the stream changes the result or lets a control byte through") {
  const std::string text = "x\x1b]52;c;aGk=\x07\xC2\x9Bq\r\n\r\xF0\x9F\x91\x8D\x9d\u202E\xE2\x82z\x1bP";
  const std::string whole = sanitise(text);
  for (std::size_t a = 0; a <= text.size(); ++a)
    for (std::size_t b = a; b <= text.size(); ++b) {
      Sanitiser s;
      std::string out = s.feed(text.substr(0, a));
      out += s.feed(text.substr(a, b - a));
      out += s.feed(text.substr(b));
      out += s.finish();
      CHECK(out == whole);
    }
  for (char c : whole) CHECK((static_cast<unsigned char>(c) >= 0x20 || c == '\n'));
  // Every single byte and every two bytes leave nothing a terminal acts on.
  for (int i = 0; i < 256; ++i)
    for (int j = 0; j < 256; ++j) {
      const std::string out = sanitise(std::string{static_cast<char>(i), static_cast<char>(j)});
      for (std::size_t k = 0; k < out.size(); ++k) {
        const auto c = static_cast<unsigned char>(out[k]);
        REQUIRE((c >= 0x20 || c == '\n' || c == '\t'));
        REQUIRE(c != 0x7f);
        REQUIRE_FALSE((c == 0xC2 && k + 1 < out.size() && static_cast<unsigned char>(out[k + 1]) < 0xA0));
      }
    }
}
