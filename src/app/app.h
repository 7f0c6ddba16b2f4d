// The whole program behind main(), and what every command is given.
#pragma once

#include "src/app/config_file.h"
#include "src/app/environment.h"
#include "src/app/options.h"
#include "src/app/terminal.h"
#include "src/base/error.h"

namespace fathom {

// Runs the command line and returns the exit code. Prints any Error as cli.md says.
int app_main(int argc, char** argv);

// What a command works with. Commands return the exit code of a run that went well, and throw Error otherwise.
struct App {
  const Options& options;
  const Environment& environment;
  const ConfigFile& config;  // empty when there is none
  Terminal& terminal;
};

// {"schema":"fathom.error/1","error":{...}} on one line, without the newline.
std::string error_json(const Error& error);

}  // namespace fathom
