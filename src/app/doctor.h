// `fathom doctor`: what this machine offers fathom and what stands in the way.
#pragma once

#include <string>
#include <vector>

#include "src/app/app.h"

namespace fathom {

struct Finding {
  enum class Level { good, remark, problem };
  std::string topic;  // "GPU", "memory"
  std::string text;
  Level level = Level::good;
  std::string remedy;  // what to do; empty if nothing
};

// Looks at GPU, driver, memory, disks, terminal, and the files of this user. Reads only; no CUDA context is kept.
std::vector<Finding> examine(App& app);

// "580.82.07" of /proc/driver/nvidia/version's text; empty when there is no such number.
std::string driver_version(std::string_view text);

// Prints the findings (--json: one object). Exit 0, also with problems: they are findings, not failures.
Exit doctor_command(App& app);

}  // namespace fathom
