#include "src/cpu/router.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace fathom::cpu {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

std::vector<float> scores_of(ScoringFunc function, std::span<const float> logits) {
  std::vector<float> s(logits.begin(), logits.end());
  if (function == ScoringFunc::sigmoid) {
    for (float& v : s) v = 1.0f / (1.0f + std::exp(-v));
    return s;
  }
  const float top = *std::max_element(s.begin(), s.end());
  float sum = 0;
  for (float& v : s) sum += v = std::exp(v - top);
  for (float& v : s) v /= sum;
  return s;
}

// Indices of the `count` largest values, largest first; the lower index wins a tie. NaN counts as masked.
std::vector<int> largest(std::vector<float> values, int count) {
  for (float& v : values)
    if (std::isnan(v)) v = kMasked;
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int a, int b) {
    const float x = values[static_cast<std::size_t>(a)], y = values[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), before);
  order.resize(static_cast<std::size_t>(count));
  return order;
}

// The largest score of a group, or the sum of its two largest.
float group_score(TopkMethod method, std::span<const float> group) {
  float first = kMasked, second = kMasked;
  for (float v : group) {
    if (v > first) {
      second = first;
      first = v;
    } else if (v > second) {
      second = v;
    }
  }
  if (method == TopkMethod::group_limited_greedy) return first;
  return group.size() > 1 ? first + second : first;
}

// Masks every expert outside the topk_group best groups.
void mask_groups(const RouterRule& rule, std::vector<float>& choice) {
  const std::size_t size = choice.size() / static_cast<std::size_t>(rule.n_group);
  std::vector<float> groups;
  for (std::size_t g = 0; g < static_cast<std::size_t>(rule.n_group); ++g)
    groups.push_back(group_score(rule.topk_method, std::span(choice).subspan(g * size, size)));
  std::vector<bool> kept(groups.size(), false);
  for (int g : largest(groups, rule.topk_group)) kept[static_cast<std::size_t>(g)] = true;
  for (std::size_t e = 0; e < choice.size(); ++e)
    if (!kept[e / size]) choice[e] = kMasked;
}

}  // namespace

void route(const RouterRule& rule, std::span<const float> logits, std::span<const float> bias,
           std::span<std::int32_t> ids, std::span<float> weights) {
  assert(static_cast<int>(logits.size()) == rule.n_routed_experts);
  const std::vector<float> scores = scores_of(rule.scoring_func, logits);
  std::vector<float> choice = scores;
  for (std::size_t e = 0; e < bias.size(); ++e) choice[e] += bias[e];
  if (rule.topk_method != TopkMethod::greedy && rule.n_group > 1) mask_groups(rule, choice);
  std::vector<int> chosen = largest(std::move(choice), rule.num_experts_per_tok);
  std::sort(chosen.begin(), chosen.end());
  float sum = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    ids[i] = chosen[i];
    weights[i] = scores[static_cast<std::size_t>(chosen[i])];
    sum += weights[i];
  }
  for (float& w : weights) {
    if (rule.norm_topk_prob) w /= sum + 1e-20f;
    w *= rule.routed_scaling_factor;
  }
}

}  // namespace fathom::cpu
