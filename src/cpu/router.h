// Which experts a token goes to, and with what weights (models.md section 2.5).
#pragma once

#include <cstdint>
#include <span>

#include "src/model/config.h"

namespace fathom::cpu {

// Chooses rule.num_experts_per_tok experts from `logits` (n_routed_experts) = W_g x, in FP32. `bias`:
// e_score_correction_bias, empty unless noaux_tc; it chooses and never weighs. Ties, of experts and of
// groups, go to the lower id; a NaN score is never larger than another. ids come out ascending, weights with
// them.
void route(const RouterRule& rule, std::span<const float> logits, std::span<const float> bias,
           std::span<std::int32_t> ids, std::span<float> weights);

}  // namespace fathom::cpu
