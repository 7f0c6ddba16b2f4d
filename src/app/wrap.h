// Text for a screen: lines broken at spaces, so that tables stay tables on a narrow terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fathom {

// `text` with every line of more than `width` bytes broken at spaces. What follows a break stands under the
// value of a "  key   value" line: behind the last gap of two spaces or more in the first 48 columns, if a
// third of the line is left for it, else under the line's first word. Words longer than a line are kept
// whole, and so is everything when `width` is under 50.
std::string wrap(std::string_view text, std::size_t width);

// "1 request", "2,000 requests"
std::string counted(std::size_t n, std::string_view noun);

}  // namespace fathom
