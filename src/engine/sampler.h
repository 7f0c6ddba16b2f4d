// From logits to one token: greedy, temperature, top-k, top-p, min-p, three penalties, counter-based randomness.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fathom {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int top_k = 0;             // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repeat_penalty = 1.0f;
  float presence_penalty = 0.0f, frequency_penalty = 0.0f;
  std::uint64_t seed = 0;
};

// Whether the choice depends on the ids so far.
inline bool has_penalties(const SamplingParams& p) {
  return p.repeat_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

// Philox4x32-10: key = seed, counter = (position, draw). Four 32-bit words.
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high);

// Uniform in [0, 1) from the top 24 bits of the first word.
float uniform(std::uint64_t seed, std::uint64_t position, std::uint64_t draw);

// Chooses the token that follows position `position`. Order: penalties, temperature, top-k, top-p, min-p; inverse CDF
// over candidates ordered by (probability descending, id ascending). `history`: ids of this sequence so far, for the
// penalties. Ids >= valid_ids are never chosen. Greedy ties go to the lower id.
// Errors: compute naming the position when any logit is NaN or all are -inf.
std::int32_t sample(std::span<const float> logits, std::int32_t valid_ids, std::span<const std::int32_t> history,
                    const SamplingParams& params, std::int64_t position);

// Natural log-softmax of the raw logits at `id`, ids >= valid_ids masked, computed in float64.
double log_probability(std::span<const float> logits, std::int32_t valid_ids, std::int32_t id);
struct TokenLogprob {
  std::int32_t id = 0;
  double logprob = 0;
};
// The n most probable, ordered by (probability descending, id ascending).
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::int32_t valid_ids, int n);

}  // namespace fathom
