// The sanitiser on any bytes, whole and in two pieces: the same printable UTF-8, and nothing that a terminal obeys.
#include <cstdlib>
#include <string>

#include "src/app/sanitiser.h"

using namespace fathom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string whole = sanitise(text);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const auto c = static_cast<unsigned char>(whole[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) std::abort();
    if (c == 0xc2 && i + 1 < whole.size() && static_cast<unsigned char>(whole[i + 1]) < 0xa0) std::abort();
  }
  const std::size_t cut = text.empty() ? 0 : data[0] % (text.size() + 1);
  Sanitiser pieces;
  std::string joined = pieces.feed(text.substr(0, cut));
  joined += pieces.feed(text.substr(cut));
  joined += pieces.finish();
  if (joined != whole) std::abort();
  return 0;
}
