#include <doctest/doctest.h>

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "src/model/rope.h"
#include "tests/support/config_text.h"

using namespace fathom;

namespace {

constexpr std::array<std::size_t, 12> kPairs{0, 1, 9, 10, 11, 12, 16, 20, 22, 23, 24, 31};

void check_frequencies(const test::ConfigText& text, const std::array<double, 12>& expected) {
  const Rope rope = make_rope(parse_config(text.text(), "config.json"));
  REQUIRE(rope.frequency.size() == 32);
  CHECK(rope.magnitude == 1.0f);
  for (std::size_t i = 0; i < kPairs.size(); ++i) {
    CAPTURE(kPairs[i]);
    CHECK(rope.frequency[kPairs[i]] ==
          doctest::Approx(expected[i]).epsilon(1e-8 + 6e-8));  // digits given + float
  }
}

float scale_of(const test::ConfigText& text) {
  return softmax_scale(parse_config(text.text(), "config.json"));
}

}  // namespace

TEST_CASE("YaRN frequencies equal the golden values") {
  const std::array<double, 12> v3{1,           .749894209,    .0749894209,   .0562341325,   .0390069266,
                                  .0268793601, .0055,         .000790569415, .000177827941, 3.33380358e-05,
                                  2.5e-05,     3.33380358e-06};
  check_frequencies(test::v3_config(), v3);
  check_frequencies(test::v2_lite_config(), v3);
  check_frequencies(test::kimi_k2_config(),
                    {1, .713111085, .0476886124, .0340072782, .024250967, .0172936334, .00447213595,
                     3.61404677e-05, 1.83784188e-05, 1.31058542e-05, 9.34592988e-06, 8.76441291e-07});
}

TEST_CASE("YaRN ramps between the published borders") {
  // {theta, factor, original, low, high}: unchanged up to pair `low`, divided by the factor from pair `high`
  // on.
  struct Case {
    double theta, factor, original, fast;
    std::size_t low, high;
  };
  for (const Case& k : {Case{10000, 40, 4096, 32, 10, 23}, Case{50000, 64, 4096, 32, 8, 20},
                        Case{160000, 16, 65536, 32, 15, 25}, Case{10000, 36, 8192, 32, 12, 25}}) {
    test::ConfigText text = test::v3_config();
    text.set("rope_theta", fmt::format("{}", k.theta));
    text.set("rope_scaling",
             fmt::format(R"({{"type":"yarn","factor":{},"original_max_position_embeddings":{},)"
                         R"("beta_fast":{},"beta_slow":1,"mscale":1,"mscale_all_dim":1}})",
                         k.factor, k.original, k.fast));
    const Rope rope = make_rope(parse_config(text.text(), "config.json"));
    for (std::size_t i = 0; i < 32; ++i) {
      const double plain = std::pow(k.theta, -static_cast<double>(i) / 32);
      const double ratio = rope.frequency[i] / plain;
      CAPTURE(i);
      if (i <= k.low) CHECK(ratio == doctest::Approx(1).epsilon(1e-6));
      if (i > k.low) CHECK(ratio < 0.999);
      if (i < k.high) CHECK(ratio > 1.001 / k.factor);
      if (i >= k.high) CHECK(ratio == doctest::Approx(1 / k.factor).epsilon(1e-6));
    }
  }
}

TEST_CASE("softmax scales equal the golden values") {
  CHECK(scale_of(test::v3_config()) == doctest::Approx(0.135233779).epsilon(1e-8));
  CHECK(scale_of(test::v2_lite_config()) == doctest::Approx(0.114721387).epsilon(1e-8));
  CHECK(scale_of(test::kimi_k2_config()) == doctest::Approx(0.1308608).epsilon(1e-6));
  CHECK(scale_of(test::v3_config().set("rope_scaling", "null")) ==
        doctest::Approx(0.0721687836).epsilon(1e-8));
  test::ConfigText thinking = test::kimi_k2_config();
  thinking.set("rope_scaling",
               R"({"type":"yarn","factor":64,"original_max_position_embeddings":4096,"mscale":1,)"
               R"("mscale_all_dim":1})");
  CHECK(scale_of(thinking) == doctest::Approx(0.144679626).epsilon(1e-8));
  test::ConfigText wide = test::v3_config();
  wide.set("rope_scaling", "null").set("qk_nope_head_dim", "192");
  CHECK(scale_of(wide) == 0.0625f);
}

TEST_CASE("without mscale_all_dim YaRN scales cos and sin, not the softmax") {
  test::ConfigText text = test::v3_config();
  text.set("rope_scaling", R"({"rope_type":"yarn","factor":40,"original_max_position_embeddings":4096})");
  const Config config = parse_config(text.text(), "config.json");
  CHECK(softmax_scale(config) == doctest::Approx(0.0721687836).epsilon(1e-7));
  CHECK(make_rope(config).magnitude == doctest::Approx(1.36888795).epsilon(1e-7));
}

TEST_CASE("plain rotary embedding is a power of theta") {
  const Rope rope =
      make_rope(parse_config(test::v3_config().set("rope_scaling", "null").text(), "config.json"));
  for (std::size_t i = 0; i < 32; ++i)
    CHECK(rope.frequency[i] == static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / 32)));
  CHECK(rope.magnitude == 1.0f);
}
