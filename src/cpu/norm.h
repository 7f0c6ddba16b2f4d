// RMS norm and rotary embedding of rows, FP32 at the boundary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/threads.h"
#include "src/model/rope.h"

namespace fathom::cpu {

// out = x / sqrt(mean(x^2) + eps) * weight, of one row; the mean is summed in double. `out` may be `x`.
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out);

// The same for every row of x (rows, weight.size()).
void rms_norm_rows(Threads& threads, std::span<const float> x, std::span<const float> weight, float eps,
                   std::span<float> out);

// cos and sin of a position's angles, times the rope's magnitude. Angles are position * frequency in double.
class Rotation {
 public:
  Rotation(const Rope& rope, std::int32_t position);
  // Turns adjacent pairs (0, 1), (2, 3), ... of x (qk_rope_head_dim) in place.
  void apply(std::span<float> x) const;

 private:
  std::vector<float> cos_, sin_;
};

}  // namespace fathom::cpu
