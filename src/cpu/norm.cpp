#include "src/cpu/norm.h"

#include <cassert>
#include <cmath>

#include "src/cpu/linear.h"

namespace fathom::cpu {

void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out) {
  assert(x.size() == weight.size() && out.size() == x.size());
  double sums[4] = {};  // four chains: one would wait for each addition
  std::size_t i = 0;
  for (; i + 4 <= x.size(); i += 4)
    for (std::size_t k = 0; k < 4; ++k)
      sums[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  for (; i < x.size(); ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const double mean = (sums[0] + sums[1] + (sums[2] + sums[3])) / static_cast<double>(x.size());
  const auto factor = static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(eps)));
  for (i = 0; i < x.size(); ++i) out[i] = x[i] * factor * weight[i];
}

void rms_norm_rows(Threads& threads, std::span<const float> x, std::span<const float> weight, float eps,
                   std::span<float> out) {
  const std::size_t n = weight.size();
  for_rows(threads, static_cast<std::int64_t>(x.size() / n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::size_t at = static_cast<std::size_t>(t) * n;
      rms_norm(x.subspan(at, n), weight, eps, out.subspan(at, n));
    }
  });
}

Rotation::Rotation(const Rope& rope, std::int32_t position) {
  for (float f : rope.frequency) {
    const double angle = static_cast<double>(position) * static_cast<double>(f);
    cos_.push_back(static_cast<float>(std::cos(angle)) * rope.magnitude);
    sin_.push_back(static_cast<float>(std::sin(angle)) * rope.magnitude);
  }
}

void Rotation::apply(std::span<float> x) const {
  assert(x.size() == 2 * cos_.size());
  for (std::size_t i = 0; i < cos_.size(); ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos_[i] - b * sin_[i];
    x[2 * i + 1] = a * sin_[i] + b * cos_[i];
  }
}

}  // namespace fathom::cpu
