#include "src/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom {
namespace {

// The factor by which YaRN sharpens attention for a context stretched `factor` times.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The pair index whose angle makes `turns` full turns over the original context.
double correction_dim(double turns, double dim, double base, double original) {
  return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
}

// Pairs below `low` keep their frequency, those above `high` are slowed by the factor, between them a ramp.
void stretch(std::vector<double>& frequency, const Yarn& yarn, double dim, double base) {
  const auto original = static_cast<double>(yarn.original_max_position_embeddings);
  const double low = std::max(std::floor(correction_dim(yarn.beta_fast, dim, base, original)), 0.0);
  double high = std::min(std::ceil(correction_dim(yarn.beta_slow, dim, base, original)), dim - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] * (1 - ramp) + frequency[i] / yarn.factor * ramp;
  }
}

}  // namespace

Rope make_rope(const Config& config) {
  const auto dim = static_cast<double>(config.qk_rope_head_dim);
  std::vector<double> frequency(static_cast<std::size_t>(config.qk_rope_head_dim / 2));
  for (std::size_t i = 0; i < frequency.size(); ++i)
    frequency[i] = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / dim);
  Rope rope;
  if (config.yarn) {
    const Yarn& y = *config.yarn;
    stretch(frequency, y, dim, config.rope_theta);
    // The defaults of DeepSeek's own code: mscale 1, mscale_all_dim 0.
    rope.magnitude = static_cast<float>(yarn_mscale(y.factor, y.mscale.value_or(1)) /
                                        yarn_mscale(y.factor, y.mscale_all_dim.value_or(0)));
  }
  for (const double f : frequency) rope.frequency.push_back(static_cast<float>(f));
  return rope;
}

float softmax_scale(const Config& config) {
  const double plain = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (!config.yarn || config.yarn->mscale_all_dim.value_or(0) == 0) return static_cast<float>(plain);
  const double m = yarn_mscale(config.yarn->factor, *config.yarn->mscale_all_dim);
  return static_cast<float>(plain * m * m);
}

}  // namespace fathom
