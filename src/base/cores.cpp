#include "src/base/cores.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <thread>

#include "src/base/descriptor.h"
#include "src/base/error.h"

namespace fathom {
namespace {

// What cannot be read says nothing.
std::optional<std::string> small_text(const std::string& path) {
  try {
    return read_input(path, 1u << 16);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::optional<double> number(std::string_view s) {
  double v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc()) return std::nullopt;
  return v;
}

// Cuts the first part, up to `at` or to the end, off `s`.
std::string_view cut(std::string_view& s, char at) {
  const std::size_t n = std::min(s.find(at), s.size());
  const std::string_view part = s.substr(0, n);
  s.remove_prefix(std::min(n + 1, s.size()));
  return part;
}

void tighten(double& least, std::optional<double> quota, std::optional<double> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return;  // "max" is no number; version 1 writes -1
  const double n = *quota / *period;
  least = least == 0 ? n : std::min(least, n);
}

// The quota of every group from `path` up to the root of its hierarchy, which begins at `mount`.
void quotas_up(double& least, const std::string& mount, std::string path, bool unified) {
  for (;;) {
    const std::string folder = mount + path;
    if (unified) {
      const std::string text = small_text(folder + "/cpu.max").value_or("");
      std::string_view rest = text;
      const auto quota = number(cut(rest, ' '));
      tighten(least, quota, number(rest));
    } else if (const auto quota = small_text(folder + "/cpu.cfs_quota_us")) {
      tighten(least, number(*quota), number(small_text(folder + "/cpu.cfs_period_us").value_or("")));
    }
    if (path.empty()) return;
    path.resize(path.find_last_of('/'));
  }
}

struct Affinity {
  cpu_set_t set;
  bool known = false;
  Affinity() {
    CPU_ZERO(&set);
    known = ::sched_getaffinity(0, sizeof set, &set) == 0;
  }
};

}  // namespace

int usable_processors() {
  const Affinity a;
  return std::max(1, a.known ? CPU_COUNT(&a.set) : static_cast<int>(std::thread::hardware_concurrency()));
}

double processor_quota(std::string_view membership, const std::string& root) {
  double least = 0;
  while (!membership.empty()) {
    std::string_view line = cut(membership, '\n');
    cut(line, ':');  // the hierarchy's number
    const std::string_view controllers = cut(line, ':');
    // Inside a container the path may be the host's, of which only the root is visible.
    const std::string path(line == "/" || line.empty() || line.front() != '/' ? "" : line);
    if (controllers.empty()) {
      quotas_up(least, root, path, true);
      continue;
    }
    std::string_view rest = controllers;
    while (!rest.empty())
      if (cut(rest, ',') == "cpu") quotas_up(least, root + "/" + std::string(controllers), path, false);
  }
  return least;
}

int usable_cores() {
  const Affinity a;
  int n = usable_processors();
  if (a.known) {
    // One thread per physical core: hyper-threads share the bandwidth and the FMA units that a forward pass
    // lives on.
    std::set<std::string> cores;
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &a.set))
        cores.insert(
            small_text("/sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/thread_siblings_list")
                .value_or(std::to_string(i)));
    n = static_cast<int>(cores.size());
  }
  const double quota = processor_quota(small_text("/proc/self/cgroup").value_or("0::/\n"), "/sys/fs/cgroup");
  if (quota > 0) n = std::min(n, static_cast<int>(std::ceil(quota)));
  return std::max(1, n);
}

}  // namespace fathom
