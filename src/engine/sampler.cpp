#include "src/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "src/base/error.h"

namespace fathom {
namespace {

// The ids that may be chosen: those below valid_ids that have a logit.
std::size_t valid_count(std::span<const float> logits, std::int32_t valid_ids) {
  return std::min(logits.size(), static_cast<std::size_t>(std::max(valid_ids, 0)));
}

// Refuses logits that no token may be drawn from. -inf marks an impossible token and is allowed, +inf is a fault.
void check_logits(std::span<const float> logits, std::int64_t position) {
  bool any = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float v = logits[i];
    if (std::isnan(v) || v == std::numeric_limits<float>::infinity())
      throw Error(Exit::compute,
                  fmt::format("position {}: the logit of token {} is {}: nothing was sampled from it", position, i,
                              std::isnan(v) ? "NaN" : "+inf"),
                  "run `fathom verify MODEL --values` to look for damaged weights");
    any = any || v != -std::numeric_limits<float>::infinity();
  }
  if (!any)
    throw Error(Exit::compute, fmt::format("position {}: all {} logits are -inf", position, logits.size()),
                "run `fathom verify MODEL --values` to look for damaged weights");
}

void apply_penalties(std::vector<float>& logits, std::span<const std::int32_t> history, const SamplingParams& params) {
  std::unordered_map<std::int32_t, int> seen;
  for (std::int32_t id : history)
    if (id >= 0 && static_cast<std::size_t>(id) < logits.size()) ++seen[id];
  for (const auto& [id, times] : seen) {
    float& l = logits[static_cast<std::size_t>(id)];
    l = l > 0 ? l / params.repeat_penalty : l * params.repeat_penalty;
    l -= params.presence_penalty + params.frequency_penalty * static_cast<float>(times);
  }
}

// First of the largest: ties go to the lower id.
std::int32_t argmax(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct Candidate {
  float logit;
  std::int32_t id;
};

// True when `a` comes later than `b` in the order (probability descending, id ascending): a max-heap's comparison.
bool later(const Candidate& a, const Candidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

// Candidates in order of probability, sorted only as far as they are asked for: a nucleus is a few tokens of 129,280.
class Ranked {
 public:
  Ranked(std::span<const float> logits, float temperature) : temperature_(temperature) {
    heap_.reserve(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (logits[i] != -std::numeric_limits<float>::infinity())
        heap_.push_back({logits[i], static_cast<std::int32_t>(i)});
    best_ = std::max_element(heap_.begin(), heap_.end(), later)->logit;
  }

  // Keeps the k first.
  void limit(std::size_t k) {
    if (k >= heap_.size()) return;
    std::nth_element(heap_.begin(), heap_.begin() + static_cast<std::ptrdiff_t>(k), heap_.end(),
                     [](const Candidate& a, const Candidate& b) { return later(b, a); });
    heap_.resize(k);
  }

  // exp((l - l_max) / temperature), 1 for the best.
  double weight(const Candidate& c) const {
    return std::exp((static_cast<double>(c.logit) - static_cast<double>(best_)) / static_cast<double>(temperature_));
  }

  double total_weight() const {
    double sum = 0;
    for (const Candidate& c : heap_) sum += weight(c);
    return sum;
  }

  // Call once, after limit() and total_weight().
  void begin() { std::make_heap(heap_.begin(), heap_.end(), later); }
  bool empty() const { return heap_.empty(); }
  Candidate next() {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate c = heap_.back();
    heap_.pop_back();
    return c;
  }

 private:
  float temperature_;
  float best_ = 0;
  std::vector<Candidate> heap_;
};

}  // namespace

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
  // Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): ten rounds, the multipliers and Weyl
  // constants of the 4x32 member.
  std::array<std::uint32_t, 4> c{static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
                                 static_cast<std::uint32_t>(counter_high),
                                 static_cast<std::uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

float uniform(std::uint64_t seed, std::uint64_t position, std::uint64_t draw) {
  return static_cast<float>(philox(seed, position, draw)[0] >> 8) * 0x1p-24f;
}

std::int32_t sample(std::span<const float> logits, std::int32_t valid_ids, std::span<const std::int32_t> history,
                    const SamplingParams& params, std::int64_t position) {
  logits = logits.first(valid_count(logits, valid_ids));
  check_logits(logits, position);

  std::vector<float> adjusted;
  if (has_penalties(params)) {
    adjusted.assign(logits.begin(), logits.end());
    apply_penalties(adjusted, history, params);
    check_logits(adjusted, position);
    logits = adjusted;
  }
  if (params.temperature == 0.0f || params.top_k == 1) return argmax(logits);

  Ranked ranked(logits, params.temperature);
  if (params.top_k > 0) ranked.limit(static_cast<std::size_t>(params.top_k));
  const double total = ranked.total_weight();
  const double nucleus = params.top_p < 1.0f ? static_cast<double>(params.top_p) * total : total;
  const double floor = static_cast<double>(params.min_p);  // the best candidate's weight is 1
  const double u = static_cast<double>(uniform(params.seed, static_cast<std::uint64_t>(position), 0));

  // With every candidate kept the sum is known and the walk may stop at the one drawn; otherwise the kept ones are
  // collected first, because the draw is scaled by their sum.
  ranked.begin();
  const bool all_kept = params.top_p >= 1.0f && floor == 0.0;
  std::vector<std::pair<std::int32_t, double>> kept;
  double sum = 0;
  while (!ranked.empty()) {
    const Candidate c = ranked.next();
    const double w = ranked.weight(c);
    if (!kept.empty() && w < floor) break;
    sum += w;
    if (all_kept && sum > u * total) return c.id;
    kept.emplace_back(c.id, sum);
    if (!all_kept && sum >= nucleus) break;
  }
  for (const auto& [id, up_to] : kept)
    if (up_to > u * sum) return id;
  return kept.back().first;  // the sums rounded differently: the last candidate holds what is left
}

namespace {

// log(sum(exp(logits))) in float64.
double log_sum_exp(std::span<const float> logits) {
  const double best = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l) - best);
  return best + std::log(sum);
}

}  // namespace

double log_probability(std::span<const float> logits, std::int32_t valid_ids, std::int32_t id) {
  logits = logits.first(valid_count(logits, valid_ids));
  if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) return -std::numeric_limits<double>::infinity();
  return static_cast<double>(logits[static_cast<std::size_t>(id)]) - log_sum_exp(logits);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::int32_t valid_ids, int n) {
  logits = logits.first(valid_count(logits, valid_ids));
  std::vector<Candidate> order(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) order[i] = {logits[i], static_cast<std::int32_t>(i)};
  const auto keep = std::min(order.size(), static_cast<std::size_t>(std::max(n, 0)));
  if (keep == 0) return {};
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(keep), order.end(),
                    [](const Candidate& a, const Candidate& b) { return later(b, a); });
  const double norm = log_sum_exp(logits);
  std::vector<TokenLogprob> top(keep);
  for (std::size_t i = 0; i < keep; ++i) top[i] = {order[i].id, static_cast<double>(order[i].logit) - norm};
  return top;
}

}  // namespace fathom
