#include "src/engine/loop_detect.h"

#include <algorithm>

namespace fathom {

LoopDetector::LoopDetector(const LoopLimits& limits)
    : limits_(limits), recent_(limits.longest_block), run_(limits.longest_block) {}

void LoopDetector::reset() {
  std::fill(run_.begin(), run_.end(), 0u);
  seen_ = 0;
}

std::size_t LoopDetector::push(std::int32_t token) {
  const std::size_t n = recent_.size();
  std::size_t found = 0;
  for (std::size_t p = 1; p <= std::min(n, seen_); ++p) {
    std::uint32_t& run = run_[p - 1];
    run = recent_[(seen_ - p) % n] == token ? run + 1 : 0;
    // The first block of a repetition matches nothing before it: `run` covers the repeats after it.
    const std::size_t need = std::max((limits_.repeats - 1) * p, limits_.span - std::min(limits_.span, p));
    if (found == 0 && run >= need) found = p;
  }
  recent_[seen_ % n] = token;
  ++seen_;
  return found;
}

}  // namespace fathom
