// What the memory of this machine can deliver: the yardstick for decode.
#pragma once

#include <cstdint>

#include "src/base/threads.h"

namespace fathom::cpu {

// Bytes per second at which `threads` read `bytes` of anonymous memory once, in order, each thread its own
// part; the best of three passes after one that touches every page. Meant for sizes far beyond the last-level
// cache: 4 GB. Errors: out_of_memory.
double measure_read_bandwidth(Threads& threads, std::int64_t bytes);

}  // namespace fathom::cpu
