// Help texts, made from the option table.
#pragma once

#include <string>
#include <string_view>

#include "src/app/options.h"

namespace fathom {

std::string short_help();             // `fathom` alone
std::string full_help();              // `fathom --help`
std::string command_help(Command c);  // `fathom help run`
// environment, exit-codes, files, formatting; empty for an unknown topic.
std::string topic_help(std::string_view topic);

}  // namespace fathom
