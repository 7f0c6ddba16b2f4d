// Shell completions and the manual page, generated from the option and command tables: a flag that the parser knows
// cannot be missing here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/app/options.h"

namespace fathom {

// The completion script for `shell`: bash, zsh or fish; for "man" the manual page. Errors: usage for another word.
std::string completions_for(std::string_view shell);

// The manual page fathom(1) in man(7) macros; `version` for its footer, such as "1.0.0".
std::string manual_page(std::string_view version);

// Flags that `command` accepts, global ones first, in table order.
std::vector<const OptionRow*> flags_of(Command command);

}  // namespace fathom
