#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

#include "src/model/quantize.h"
#include "src/model/save.h"
#include "src/model/verify.h"
#include "src/model/weights.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_checkpoint.h"

using namespace fathom;
using test::outcome_of;
using test::TempDir;
using test::TinyCheckpoint;

namespace {

// Every element of b is a's, rounded to e4m3 with a scale of amax / 448.
void check_close(const Linear& a, const Linear& b) {
  REQUIRE(b.format == formats::fp8_f32);
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  std::int64_t wrong = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) {
      const float x = a.at(r, c), error = std::fabs(b.at(r, c) - x);
      // Half a unit of the 3-bit mantissa, or of the smallest step.
      if (error > std::fabs(x) / 16 * 1.0001f && error > b.scale_at(r, c) * 0x1p-10f * 1.0001f) ++wrong;
    }
  CHECK(wrong == 0);
}

bool same_bytes(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape && as_text({a.data, a.bytes}) == as_text({b.data, b.bytes});
}

}  // namespace

TEST_CASE("save: a shard is laid out as Hugging Face's library does") {
  TempDir dir;
  const std::string path = dir.file("model.safetensors");
  {
    ShardWriter w(path, {{"b", DType::bf16, {2}},
                         {"z", DType::f32, {1}},
                         {"a", DType::bf16, {1}},
                         {"q", DType::f8_e4m3, {3}}});
    const auto& order = w.tensors();
    REQUIRE(order.size() == 4);
    CHECK(order[0].name == "z");
    CHECK(order[1].name == "a");
    CHECK(order[2].name == "b");
    CHECK(order[3].name == "q");
    CHECK(w.data_bytes() == 13);
    w.write(3, 0, as_bytes_of("qqq"));
    w.write(0, 0, as_bytes_of("zzzz"));
    w.write(2, 2, as_bytes_of("b2"));
    w.write(2, 0, as_bytes_of("b1"));
    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(outcome_of([&] { w.commit(); }).code == Exit::failure);  // "a" is missing
    CHECK(outcome_of([&] { w.write(1, 1, as_bytes_of("xx")); }).code == Exit::failure);
    w.write(1, 0, as_bytes_of("aa"));
    w.commit();
  }
  const Checkpoint c = Checkpoint::open(FileSet::directory(dir.path()));
  CHECK(as_text({c.find("b")->data, 4}) == "b1b2");
  CHECK(as_text({c.find("q")->data, 3}) == "qqq");
  CHECK(c.shards()[0].header_bytes % 8 == 0);
  CHECK(c.notes().empty());
}

TEST_CASE("quantize: which tensors") {
  for (const char* yes :
       {"model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.3.self_attn.kv_a_proj_with_mqa.weight", "model.layers.3.mlp.experts.7.down_proj.weight",
        "model.layers.3.mlp.shared_experts.up_proj.weight", "model.layers.61.self_attn.o_proj.weight"})
    CHECK_MESSAGE(is_quantised_weight(yes), std::string(yes));
  for (const char* no :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias", "model.layers.61.eh_proj.weight",
        "model.layers.61.shared_head.head.weight", "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.input_layernorm.weight", "vision.q_proj.weight"})
    CHECK_FALSE_MESSAGE(is_quantised_weight(no), std::string(no));
}

TEST_CASE("quantize: a band of blocks") {
  const std::int64_t rows = 100, cols = 300;
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  std::mt19937 random(1);
  for (float& v : values) v = std::normal_distribution<float>(0, 0.02f)(random);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 128; c < 256; ++c) values[static_cast<std::size_t>(r * cols + c)] = 0;
  values[5 * 300 + 7] = -3.5f;  // the first block's amax
  std::vector<std::uint8_t> codes(values.size());
  std::vector<float> scales(3);
  Threads threads(2);
  CHECK(quantize_band(values.data(), rows, cols, codes.data(), scales.data(), threads));
  CHECK(scales[0] == 3.5f / 448.0f);
  CHECK(scales[1] == 1.0f);
  CHECK(codes[5 * 300 + 7] == 0xfe);  // -448
  CHECK(codes[130] == 0);
  for (const std::size_t i : {0u, 40u, 299u, 3000u, 29'999u})
    CHECK(codes[i] == float_to_e4m3(values[i] / scales[i % 300 / 128]));
  // Denormal blocks become zeros with a normal scale; NaN and infinity are refused.
  values[0] = std::numeric_limits<float>::infinity();
  CHECK_FALSE(quantize_band(values.data(), rows, cols, codes.data(), scales.data(), threads));
  values[0] = std::nanf("");
  CHECK_FALSE(quantize_band(values.data(), rows, cols, codes.data(), scales.data(), threads));
  const std::vector<float> tiny(4, 1e-42f);
  CHECK(quantize_band(tiny.data(), 1, 4, codes.data(), scales.data(), threads));
  CHECK(std::isnormal(scales[0]));
  CHECK(codes[0] == 0);
}

TEST_CASE("quantize: float to e4m3 is the nearest code for every float") {
  // Every 997th float and all neighbours of ties, against a search over the codes.
  const auto nearest = [](float f) {
    std::uint8_t best = 0;
    double error = 1e300;
    for (int c = 0; c < 0x7f; ++c) {
      const double e = std::fabs(double{e4m3_to_float(static_cast<std::uint8_t>(c))} - double{std::fabs(f)});
      if (e < error || (e == error && c % 2 == 0)) error = e, best = static_cast<std::uint8_t>(c);
    }
    return static_cast<std::uint8_t>(best | (std::signbit(f) ? 0x80 : 0));
  };
  std::int64_t wrong = 0;
  for (std::uint64_t u = 0x3a000000; u < 0x44000000; u += 997) {  // 2^-11 .. 512
    const auto f = std::bit_cast<float>(static_cast<std::uint32_t>(u));
    wrong += float_to_e4m3(f) != nearest(f);
    wrong += float_to_e4m3(-f) != nearest(-f);
  }
  CHECK(wrong == 0);
  CHECK(float_to_e4m3(0.0f) == 0);
  CHECK(float_to_e4m3(-0.0f) == 0x80);
  CHECK(float_to_e4m3(1e-30f) == 0);
}

TEST_CASE("quantize: BF16 directory to FP8 directory") {
  for (const char* name : {"v2-lite", "v2", "moonlight"}) {
    CAPTURE(std::string(name));
    const FileSet source = FileSet::directory(std::string("tests/goldens/") + name);
    TempDir dir;
    const std::string out = dir.file("fp8");
    Threads threads(2);
    std::uint64_t last = 0;
    const QuantizeReport report = quantize_checkpoint(source, out, threads, [&](const QuantizeProgress& p) {
      CHECK(p.done >= last);
      last = p.done;
    });
    CHECK(last == report.bytes_before);
    CHECK(report.bytes_after < report.bytes_before);
    const FileSet made = FileSet::directory(out);
    CHECK(made.has("generation_config.json"));
    CHECK_FALSE(made.has("goldens.safetensors"));
    CHECK(made.has("model.safetensors.index.json") == source.has("model.safetensors.index.json"));
    const Config before = read_config(source), after = read_config(made);
    CHECK(after.fp8);
    CHECK(after.rms_norm_eps == before.rms_norm_eps);
    CHECK(after.rope_theta == before.rope_theta);
    CHECK(after.router.routed_scaling_factor == before.router.routed_scaling_factor);
    const Checkpoint a = Checkpoint::open(source), b = Checkpoint::open(made);
    const Weights wa = bind_weights(a, before), wb = bind_weights(b, after);
    CHECK(scan_values(b, threads).ok());
    const LayerWeights &la = wa.layers[1], &lb = wb.layers[1];
    check_close(la.q_proj, lb.q_proj);
    check_close(la.kv_a_proj, lb.kv_a_proj);
    check_close(la.kv_b_proj, lb.kv_b_proj);
    check_close(la.o_proj, lb.o_proj);
    check_close(la.shared->down, lb.shared->down);
    for (std::size_t e = 0; e < la.experts.experts.size(); ++e)
      check_close(la.experts.experts[e].up, lb.experts.experts[e].up);
    check_close(wa.layers[0].dense->gate, wb.layers[0].dense->gate);
    for (const char* kept :
         {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.gate.weight"})
      CHECK(same_bytes(*a.find(kept), *b.find(kept)));
    // The same again gives the same bytes, and never onto something.
    const std::string again = dir.file("again");
    Threads one(1);
    quantize_checkpoint(source, again, one);
    const Checkpoint c = Checkpoint::open(FileSet::directory(again));
    CHECK(c.fingerprint() == b.fingerprint());
    for (const auto& [tensor, view] : b.tensors()) CHECK(same_bytes(view, *c.find(tensor)));
    const test::Outcome o = outcome_of([&] { quantize_checkpoint(source, out, threads); });
    CHECK(o.code == Exit::usage);
    CHECK(o.says("expected an empty or new directory"));
    CHECK(outcome_of([&] {
            quantize_checkpoint(made, dir.file("third"), threads);
          }).says("already an FP8 checkpoint"));
  }
}

TEST_CASE("quantize: a bad source leaves no checkpoint behind") {
  test::ConfigText text = test::tiny_v3_config();
  TinyCheckpoint tiny(text.erase("quantization_config"));
  const std::uint16_t nan = 0x7fff;
  std::memcpy(tiny.at("model.layers.2.self_attn.o_proj.weight").data.data() + 100, &nan, 2);
  TempDir dir;
  Threads threads(2);
  const test::Outcome o = outcome_of([&] { quantize_checkpoint(tiny.files(), dir.file("out"), threads); });
  CHECK(o.code == Exit::bad_checkpoint);
  CHECK(o.says("model.layers.2.self_attn.o_proj.weight: rows 0 to 63 hold a value that is NaN or infinite"));
  CHECK(FileSet::directory(dir.file("out")).list().empty());
  tiny.erase("lm_head.weight");
  CHECK(outcome_of([&] {
          quantize_checkpoint(tiny.files(), dir.file("out2"), threads);
        }).says("lm_head.weight: missing"));
  CHECK_FALSE(std::filesystem::exists(dir.file("out2")));
}
