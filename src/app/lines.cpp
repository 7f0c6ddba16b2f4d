#include "src/app/lines.h"

#include <algorithm>

namespace fathom {

void for_each_line(std::string_view text, const std::function<void(std::string_view, std::size_t)>& visit) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != line.npos) visit(line, number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace fathom
