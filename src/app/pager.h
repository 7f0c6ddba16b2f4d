// Long texts through the user's pager.
#pragma once

#include <string_view>

#include "src/app/environment.h"
#include "src/app/terminal.h"

namespace fathom {

// Writes fathom's own text to standard output; through $PAGER, if it is set, where the terminal has fewer
// lines than the text. A pager that cannot be run is done without.
void show_text(Terminal& terminal, const Environment& environment, std::string_view text);

}  // namespace fathom
