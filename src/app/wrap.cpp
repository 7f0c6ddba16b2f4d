#include "src/app/wrap.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/text.h"

namespace fathom {
namespace {

constexpr std::size_t kNarrow = 50, kKeys = 48;

std::size_t value_column(std::string_view line) {
  std::size_t column = std::min(line.find_first_not_of(' '), line.size());
  for (std::size_t gap = line.find("  ", column); gap < kKeys; gap = line.find("  ", column)) {
    const std::size_t next = line.find_first_not_of(' ', gap);
    if (next == line.npos || next > kKeys) break;
    column = next;
  }
  return column;
}

void append_wrapped(std::string& out, std::string_view line, std::size_t width) {
  // Values need room of their own.
  const std::size_t value = value_column(line);
  const std::size_t indent =
      value <= width * 2 / 3 ? value : std::min(line.find_first_not_of(' '), line.size());
  out += line.substr(0, indent);
  std::size_t column = indent;
  for (std::size_t at = indent; at < line.size();) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    const std::size_t next = std::min(line.find_first_not_of(' ', end), line.size());
    if (column + (end - at) > width && column > indent) {
      while (out.back() == ' ') out.pop_back();
      out += "\n" + std::string(indent, ' ');
      column = indent;
    }
    out += line.substr(at, next - at);
    column += next - at;
    at = next;
  }
}

}  // namespace

std::string wrap(std::string_view text, std::size_t width) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.size() > width && width >= kNarrow)
      append_wrapped(out, line, width);
    else
      out += line;
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

std::string counted(std::size_t n, std::string_view noun) {
  return fmt::format("{} {}{}", grouped(n), noun, n == 1 ? "" : "s");
}

}  // namespace fathom
