// Text as lines: JSONL files.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

namespace fathom {

// Calls visit(line, number) for each line of `text` that is not blank, counting from 1; CRLF ends a line too.
void for_each_line(std::string_view text, const std::function<void(std::string_view, std::size_t)>& visit);

}  // namespace fathom
