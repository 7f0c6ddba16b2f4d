// Processor seconds of this process: what a time limit in a test is held against, since machines are shared.
#pragma once

#include <ctime>

namespace fathom::test {

inline double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace fathom::test
