// The sanitiser on any bytes, whole and in two pieces: the same printable UTF-8, and nothing that a terminal obeys.
#include <string>

#include "src/app/sanitiser.h"
#include "src/base/utf8.h"
#include "tests/fuzz/target.h"

using namespace fathom;
using fuzz::require;

namespace {

void sanitiser(std::string_view input) {
  if (input.empty()) return;
  const std::string_view text = input.substr(1);
  const std::string whole = sanitise(text);
  require(well_formed_prefix(whole) == whole.size(), "what is shown is UTF-8");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const auto c = static_cast<unsigned char>(whole[i]);
    require((c >= 0x20 || c == '\n' || c == '\t') && c != 0x7f, "no C0 and no DEL");
    require(c != 0xc2 || i + 1 == whole.size() || static_cast<unsigned char>(whole[i + 1]) >= 0xa0, "no C1");
  }
  for (const char* forbidden : {"\u202a", "\u202b", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2028", "\u2029"})
    require(whole.find(forbidden) == whole.npos, "no bidirectional override, no line separator");
  require(whole.find("\xf3\xa0\x80") == whole.npos && whole.find("\xf3\xa0\x81") == whole.npos, "no tags");
  const std::size_t cut = static_cast<unsigned char>(input[0]) % (text.size() + 1);
  Sanitiser pieces;
  std::string joined = pieces.feed(text.substr(0, cut));
  joined += pieces.feed(text.substr(cut));
  joined += pieces.finish();
  require(joined == whole, "pieces give what the whole gives");
  require(sanitise(text, false).find('\n') == std::string::npos, "a name has no newline");
}
const fuzz::Target target("sanitiser", sanitiser);

}  // namespace
