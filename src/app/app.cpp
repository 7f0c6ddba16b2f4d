#include "src/app/app.h"

#include <fmt/core.h>

#include <cstdio>

#include "src/app/options.h"

namespace fathom {

int app_main(int, char**) {
  fmt::print("fathom: runs DeepSeek-class models in the terminal\n\n");
  for (const CommandRow& c : command_table()) fmt::print("  fathom {:<12} {}\n", c.name, c.summary);
  return 0;
}

}  // namespace fathom
