// NaN in the weights: found in the step that meets it, named by position and stage, and nothing is printed from it.
#include <doctest/doctest.h>

#include <limits>

#include "tests/support/subprocess.h"
#include "tests/support/tiny_checkpoint.h"

using namespace fathom;
using test::TinyCheckpoint;

namespace {

constexpr char kNanCode = 0x7f;  // e4m3

// Damages one tensor and runs three ids through the real binary.
test::Outcome run_damaged(const std::string& tensor, const std::string& bytes, std::size_t at) {
  TinyCheckpoint tiny(test::tiny_v3_config().erase("num_nextn_predict_layers"));
  for (auto& t : tiny.tensors)
    if (t.name.ends_with("_scale_inv"))
      for (std::size_t i = 0; i < t.data.size(); i += 4) {
        const float scale = 0.002f;
        std::memcpy(t.data.data() + i, &scale, 4);
      }
  if (!tensor.empty()) tiny.at(tensor).data.replace(at, bytes.size(), bytes);
  const test::TempDir dir;
  tiny.config.set("bos_token_id", "0").set("eos_token_id", "1");
  tiny.write(dir);
  return test::run({"run", "-m", dir.path(), "--ids", "5,6,7", "--greedy", "-n", "4", "--ignore-eos", "--backend", "cpu"});
}

}  // namespace

TEST_CASE("hostile: NaN in a weight ends with exit 8, names position and stage, prints nothing") {
  const test::Outcome sound = run_damaged("", "", 0);
  REQUIRE_MESSAGE(sound.code == 0, sound.err);
  const std::string nan_bf16 = "\xc0\x7f", inf_bf16 = std::string("\x80\x7f", 2);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const std::string nan_f32(reinterpret_cast<const char*>(&nan), 4), inf_f32(reinterpret_cast<const char*>(&inf), 4);
  const std::string fp8(1, kNanCode), l0 = "model.layers.0.", l1 = "model.layers.1.", l2 = "model.layers.2.";
  struct Case {
    std::string tensor, bytes, stage;
    std::size_t at = 0;
  };
  const Case cases[] = {
      {"model.embed_tokens.weight", nan_bf16, "Embed", 7 * 64 * 2},
      {l0 + "input_layernorm.weight", nan_bf16, "layer 0, AttnNorm"},
      {l0 + "self_attn.q_a_proj.weight", fp8, "layer 0, Latents"},
      {l0 + "self_attn.q_a_layernorm.weight", nan_bf16, "layer 0, Latents"},
      {l1 + "self_attn.q_b_proj.weight", fp8, "layer 1, Query"},
      {l1 + "self_attn.kv_a_proj_with_mqa.weight", fp8, "layer 1, Latents"},
      {l1 + "self_attn.kv_a_layernorm.weight", nan_bf16, "layer 1, Latents"},
      {l1 + "self_attn.kv_b_proj.weight", fp8, "layer 1, Attend"},
      {l1 + "self_attn.kv_b_proj.weight_scale_inv", nan_f32, "layer 1, Attend"},
      {l1 + "self_attn.o_proj.weight", fp8, "layer 1, AttnOut"},
      {l0 + "mlp.gate_proj.weight", fp8, "layer 0, Dense"},
      {l0 + "mlp.down_proj.weight_scale_inv", nan_f32, "layer 0, Dense"},
      {l0 + "mlp.down_proj.weight_scale_inv", inf_f32, "layer 0, Dense"},
      {l2 + "post_attention_layernorm.weight", nan_bf16, "layer 2, FfnNorm"},
      {l2 + "mlp.shared_experts.up_proj.weight", fp8, "layer 2, Shared"},
      {"model.norm.weight", nan_bf16, "FinalNorm"},
      {"model.norm.weight", inf_bf16, "FinalNorm"},
      {"lm_head.weight", nan_bf16, "Logits"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.tensor);
    const test::Outcome r = run_damaged(c.tensor, c.bytes, c.at);
    CHECK(r.code == 8);
    CHECK(r.out.empty());
    CHECK_MESSAGE(r.err.find("position 2: ") != std::string::npos, r.err);
    CHECK_MESSAGE(r.err.find("written by " + c.stage) != std::string::npos, r.err);
    CHECK(r.err.find("verify") != std::string::npos);
  }
}

TEST_CASE("hostile: a router that knows no scores does not choose silently") {
  const std::string nan_bf16 = "\xc0\x7f";
  std::string all;
  for (int i = 0; i < 8 * 64; ++i) all += nan_bf16;
  const test::Outcome r = run_damaged("model.layers.1.mlp.gate.weight", all, 0);
  CHECK(r.code == 8);
  CHECK(r.out.empty());
  CHECK_MESSAGE(r.err.find("layer 1, Route") != std::string::npos, r.err);
}
