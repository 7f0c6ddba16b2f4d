// Help texts, made from the option table.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "src/app/options.h"
#include "src/base/error.h"

namespace fathom {

// What each exit code means, and each variable of the environment that is read: also for the manual page.
struct ExitRow {
  Exit code;
  std::string_view when;
};
std::span<const ExitRow> exit_table();
struct VariableRow {
  std::string_view names, meaning;
};
std::span<const VariableRow> variable_table();

std::string short_help();             // `fathom` alone
std::string full_help();              // `fathom --help`
std::string command_help(Command c);  // `fathom help run`
// environment, exit-codes, files, formatting; empty for an unknown topic.
std::string topic_help(std::string_view topic);

}  // namespace fathom
