// How many processors this process may use.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// Logical processors of the affinity mask, at least 1.
int usable_processors();

// Physical cores this process may run on, at least 1: those of the affinity mask, each counted once however
// many hyper-threads it has, and at most as many as the quota of its control groups pays for.
int usable_cores();

// Processors that the quotas of a control group and all groups above it pay for; 0: no quota. `membership` is
// the text of /proc/self/cgroup, `root` where the hierarchies are mounted (/sys/fs/cgroup). Versions 1 and 2.
double processor_quota(std::string_view membership, const std::string& root);

}  // namespace fathom
