// Cuts a Jinja template into tokens, with the white space control of trim_blocks and lstrip_blocks applied.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom::jinja {

struct Token {
  enum class Kind {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Kind kind = Kind::end;
  int line = 0;
  std::string text;  // data: the text; string: its decoded value; the rest: as written
};

// The last token is `end`. Errors: bad_checkpoint naming the line.
std::vector<Token> tokenize(std::string_view source, std::string_view where);

// Throws Error{code} "where, line N: message" with the --template hint.
[[noreturn]] void syntax_error(bool unsupported, std::string_view where, int line,
                               const std::string& message);

}  // namespace fathom::jinja
