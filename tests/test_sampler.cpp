#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "src/base/error.h"
#include "src/engine/sampler.h"

using namespace fathom;

namespace {

using Words = std::array<std::uint32_t, 4>;

// Draws n tokens at positions 0..n-1 and counts them.
std::map<std::int32_t, int> draw(const std::vector<float>& logits, const SamplingParams& params, int n) {
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sample(logits, static_cast<std::int32_t>(logits.size()), {}, params, i)];
  return counts;
}

// Counts lie within five standard deviations of n * p.
void check_counts(std::map<std::int32_t, int>& counts, const std::vector<double>& p, int n) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = n * p[i], sigma = std::sqrt(n * p[i] * (1 - p[i]));
    CHECK_MESSAGE(std::abs(counts[static_cast<std::int32_t>(i)] - expected) <= 5 * sigma + 1e-9, "id ", i);
  }
}

}  // namespace

TEST_CASE("sampler: Philox4x32-10 gives the published vectors") {
  CHECK(philox(0, 0, 0) == Words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox(~0ull, ~0ull, ~0ull) == Words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull) ==
        Words{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("sampler: uniform numbers are the top 24 bits, below one, and even") {
  CHECK(uniform(0, 0, 0) == static_cast<float>(0x6627e8d5u >> 8) * 0x1p-24f);
  double sum = 0;
  std::array<int, 16> bins{};
  const int n = 160000;
  for (int i = 0; i < n; ++i) {
    const float u = uniform(42, static_cast<std::uint64_t>(i), 0);
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    sum += static_cast<double>(u);
    ++bins[static_cast<std::size_t>(u * 16)];
  }
  CHECK(std::abs(sum / n - 0.5) < 5 * 0.2887 / std::sqrt(n));
  for (int b : bins) CHECK(std::abs(b - n / 16) < 5 * std::sqrt(n / 16.0));
  CHECK(uniform(42, 7, 0) != uniform(42, 7, 1));
  CHECK(uniform(42, 7, 0) != uniform(42 + (1ull << 32), 7, 0));
}

TEST_CASE("sampler: greedy takes the best, ties go to the lower id, masked ids never win") {
  SamplingParams greedy{.temperature = 0};
  const std::vector<float> logits{1, 3, 3, 2, 9};
  CHECK(sample(logits, 4, {}, greedy, 0) == 1);
  CHECK(sample(logits, 5, {}, greedy, 0) == 4);
  const std::vector<float> minus{-std::numeric_limits<float>::infinity(), -5};
  CHECK(sample(minus, 2, {}, greedy, 0) == 1);
  SamplingParams one{.top_k = 1};
  CHECK(sample(logits, 4, {}, one, 12) == 1);
}

TEST_CASE("sampler: draws follow the softmax at a temperature") {
  const std::vector<double> p{0.5, 0.25, 0.15, 0.1};
  std::vector<float> logits;
  for (double v : p) logits.push_back(static_cast<float>(std::log(v)));
  const int n = 40000;
  auto counts = draw(logits, {.temperature = 1, .seed = 3}, n);
  check_counts(counts, p, n);
  // At temperature 0.5 probabilities are squared and normalised.
  std::vector<double> squared;
  double norm = 0;
  for (double v : p) norm += v * v;
  for (double v : p) squared.push_back(v * v / norm);
  counts = draw(logits, {.temperature = 0.5f, .seed = 3}, n);
  check_counts(counts, squared, n);
}

TEST_CASE("sampler: top-k, top-p and min-p keep what they say, renormalised") {
  const std::vector<double> p{0.1, 0.4, 0.2, 0.3};
  std::vector<float> logits;
  for (double v : p) logits.push_back(static_cast<float>(std::log(v)));
  const int n = 20000;
  auto counts = draw(logits, {.top_k = 2}, n);
  check_counts(counts, {0, 4.0 / 7, 0, 3.0 / 7}, n);
  // 0.4 + 0.3 = 0.7 < 0.75: the third is needed to reach it.
  counts = draw(logits, {.top_p = 0.75f}, n);
  check_counts(counts, {0, 4.0 / 9, 2.0 / 9, 3.0 / 9}, n);
  counts = draw(logits, {.top_p = 0.0f}, 100);
  check_counts(counts, {0, 1, 0, 0}, 100);
  // 0.6 of the best is 0.24.
  counts = draw(logits, {.min_p = 0.6f}, n);
  check_counts(counts, {0, 4.0 / 7, 0, 3.0 / 7}, n);
  // top-p after top-k looks at the renormalised probabilities: 4/7 < 0.6.
  counts = draw(logits, {.top_k = 2, .top_p = 0.6f}, n);
  check_counts(counts, {0, 4.0 / 7, 0, 3.0 / 7}, n);
  counts = draw(logits, {.top_k = 2, .top_p = 0.55f}, 100);
  check_counts(counts, {0, 1, 0, 0}, 100);
}

TEST_CASE("sampler: the draw is the inverse of the ordered distribution") {
  // Equal logits: the candidates are in id order, so the id is floor(4 u).
  const std::vector<float> equal(4, 0.5f);
  for (int position = 0; position < 200; ++position) {
    const auto expected = static_cast<std::int32_t>(4 * uniform(9, static_cast<std::uint64_t>(position), 0));
    CHECK(sample(equal, 4, {}, {.seed = 9}, position) == expected);
    CHECK(sample(equal, 4, {}, {.top_p = 0.999f, .seed = 9}, position) == expected);
    CHECK(sample(equal, 4, {}, {.min_p = 0.5f, .seed = 9}, position) == expected);
  }
}

TEST_CASE("sampler: penalties move tokens that were seen") {
  SamplingParams p{.temperature = 0};
  const std::vector<float> logits{2.0f, 1.9f, -1.0f};
  const std::vector<std::int32_t> history{0, 0, 7, -1};
  CHECK(sample(logits, 3, history, p, 0) == 0);
  p.repeat_penalty = 1.1f;  // 2.0 / 1.1 = 1.82
  CHECK(sample(logits, 3, history, p, 0) == 1);
  p = {.temperature = 0, .presence_penalty = 0.05f};  // 1.95
  CHECK(sample(logits, 3, history, p, 0) == 0);
  p = {.temperature = 0, .frequency_penalty = 0.06f};  // 2 - 2 * 0.06 = 1.88
  CHECK(sample(logits, 3, history, p, 0) == 1);
  // A negative logit is multiplied: it falls as well.
  p = {.temperature = 0, .repeat_penalty = 2.0f};
  CHECK(sample(std::vector<float>{-1.0f, -1.5f}, 2, std::vector<std::int32_t>{0}, p, 0) == 1);
}

TEST_CASE("sampler: nothing is drawn from NaN, +inf or all -inf") {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  for (float temperature : {0.0f, 1.0f})
    for (const std::vector<float>& bad :
         {std::vector<float>{1, nan, 2}, std::vector<float>{1, inf}, std::vector<float>{-inf, -inf}}) {
      try {
        sample(bad, static_cast<std::int32_t>(bad.size()), {}, {.temperature = temperature}, 17);
        FAIL("sampled");
      } catch (const Error& e) {
        CHECK(e.code() == Exit::compute);
        CHECK(std::string(e.what()).find("position 17") != std::string::npos);
      }
    }
  // A NaN in a padding row is masked, like its token.
  CHECK(sample(std::vector<float>{1, 2, nan}, 2, {}, {.temperature = 0}, 0) == 1);
}

TEST_CASE("sampler: log-probabilities are the log-softmax of the valid rows") {
  const std::vector<float> logits{0, std::log(2.0f), std::log(5.0f), 100};
  CHECK(log_probability(logits, 3, 0) == doctest::Approx(std::log(1.0 / 8)).epsilon(1e-7));
  CHECK(log_probability(logits, 3, 3) == -std::numeric_limits<double>::infinity());
  const auto top = top_logprobs(logits, 3, 2);
  REQUIRE(top.size() == 2);
  CHECK(top[0].id == 2);
  CHECK(top[0].logprob == doctest::Approx(std::log(5.0 / 8)).epsilon(1e-7));
  CHECK(top[1].id == 1);
  CHECK(top_logprobs(logits, 3, 99).size() == 3);
  CHECK(top_logprobs(logits, 3, 0).empty());
  const std::vector<float> ties{1, 1, 1};
  CHECK(top_logprobs(ties, 3, 2)[1].id == 1);
}
