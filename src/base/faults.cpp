#include "src/base/faults.h"

#include <array>
#include <atomic>

namespace fathom::faults {
namespace {

struct State {
  std::atomic<long> left{0};  // calls until failure; 0: this site never fails
  std::atomic<bool> persistent{false};
  std::atomic<long> seen{0};
};

std::atomic<bool> armed{false};
std::array<State, 3> states;

State& at(Site site) { return states[static_cast<unsigned>(site)]; }

}  // namespace

void arm(Site site, long nth, bool persistent) {
  disarm();
  at(site).left = nth;
  at(site).persistent = persistent;
  armed = true;
}

void disarm() {
  armed = false;
  for (State& s : states) {
    s.left = 0;
    s.persistent = false;
    s.seen = 0;
  }
}

bool trip(Site site) noexcept {
  if (!armed.load(std::memory_order_relaxed)) return false;
  State& s = at(site);
  s.seen.fetch_add(1, std::memory_order_relaxed);
  long left = s.left.load();
  while (left > 0) {
    // The last step to failure stays at 1 when the fault is persistent, so that every later call fails too.
    const long next = left == 1 && s.persistent.load() ? 1 : left - 1;
    if (s.left.compare_exchange_weak(left, next)) return left == 1;
  }
  return false;
}

long seen(Site site) noexcept { return at(site).seen.load(); }

}  // namespace fathom::faults
