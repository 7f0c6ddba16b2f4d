// The whole program behind main().
#pragma once

namespace fathom {

// Runs the command line and returns the exit code. Prints any Error as cli.md says.
int app_main(int argc, char** argv);

}  // namespace fathom
