// The sanitiser over short byte strings, all of them or an even slice; scripts/pty/sanitiser.py shows all to a terminal.
#include <doctest/doctest.h>

#include <string>

#include "src/app/sanitiser.h"
#include "src/base/utf8.h"

using namespace fathom;

namespace {

// Text a terminal can only draw: well-formed, no control character but newline and tab, nothing that reorders or hides.
bool harmless(const std::string& shown) {
  for (std::size_t at = 0; at < shown.size();) {
    const Utf8Sequence next = utf8_sequence(std::string_view(shown).substr(at));
    if (next.kind != Utf8Sequence::character) return false;
    const char32_t c = utf8_decode(std::string_view(shown).substr(at, next.size));
    if ((c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0)) return false;
    if ((c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || (c >= 0xE0000 && c <= 0xE007F)) return false;
    at += next.size;
  }
  return true;
}

// Counts strings that come out harmful, or differently when given byte by byte.
struct Tally {
  long tried = 0, harmful = 0, split = 0;
  void operator()(const std::string& s) {
    const std::string whole = sanitise(s);
    ++tried;
    harmful += harmless(whole) ? 0 : 1;
    Sanitiser stream;
    std::string pieces;
    for (const char c : s) pieces += stream.feed(std::string_view(&c, 1));
    split += pieces + stream.finish() == whole ? 0 : 1;
  }
};

}  // namespace

TEST_CASE("sanitiser: all byte strings of length 1 and 2, and a slice of those of length 3 and 4") {
  Tally tally;
  const auto byte = [](int v) { return static_cast<char>(v & 255); };
  for (int a = 0; a < 256; ++a) {
    tally({byte(a)});
    for (int b = 0; b < 256; ++b) tally({byte(a), byte(b)});
  }
  // 61 and 65,521 share no factor with 256: every byte meets every place.
  for (int i = 0; i < 1 << 24; i += 61) tally({byte(i >> 16), byte(i >> 8), byte(i)});
  for (long i = 0; i < 1L << 32; i += 65521) tally({byte(static_cast<int>(i >> 24)), byte(static_cast<int>(i >> 16)), byte(static_cast<int>(i >> 8)), byte(static_cast<int>(i))});
  CHECK(tally.tried > 400'000);
  CHECK(tally.harmful == 0);
  CHECK(tally.split == 0);
}
