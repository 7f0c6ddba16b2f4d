// Rotary position embedding with YaRN, computed once on the host and handed to every forward pass.
#pragma once

#include <vector>

#include "src/model/config.h"

namespace fathom {

struct Rope {
  // qk_rope_head_dim / 2 angles per position, in radians: pair i of a row at position p turns by p * frequency[i].
  std::vector<float> frequency;
  // Multiplies cos and sin: m(factor, mscale) / m(factor, mscale_all_dim); 1 for all DeepSeek models.
  float magnitude = 1.0f;
};

// models.md section 2.4; applies YaRN at every length once the config has it.
Rope make_rope(const Config& config);

// (nope + rope)^(-1/2), times m(factor, mscale_all_dim)^2 when the config has YaRN with mscale_all_dim.
float softmax_scale(const Config& config);

}  // namespace fathom
