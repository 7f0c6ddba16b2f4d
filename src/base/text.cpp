#include "src/base/text.h"

#include <algorithm>

#include "src/base/json.h"

namespace fathom {

std::string grouped(std::uint64_t n) {
  const std::string digits = fmt::format("{}", n);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string printable(std::string_view name, std::size_t max_bytes) {
  const bool cut = name.size() > max_bytes;
  const std::string_view shown = name.substr(0, max_bytes);
  const bool plain =
      !shown.empty() && std::all_of(shown.begin(), shown.end(), [](char c) { return c > ' ' && c < 0x7f; });
  return (plain ? std::string(shown) : json::quote(shown)) + (cut ? "..." : "");
}

}  // namespace fathom
