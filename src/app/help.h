// Help texts, made from the option table.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "src/app/options.h"
#include "src/app/terminal.h"
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

// Lines of at most `width` columns, except examples.
inline constexpr std::size_t kHelpWidth = 100;
std::string short_help();                                            // `fathom` alone
std::string full_help(std::size_t width = kHelpWidth);               // `fathom --help`
std::string command_help(Command c, std::size_t width = kHelpWidth);  // `fathom help run`
// environment, exit-codes, files, formatting; empty for an unknown topic.
std::string topic_help(std::string_view topic, std::size_t width = kHelpWidth);
// What suits the terminal that the help goes to.
std::size_t help_width(const Screen& out);

}  // namespace fathom
