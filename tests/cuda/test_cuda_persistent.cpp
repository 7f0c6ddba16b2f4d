// The launch that runs all layers of a row at once: its hand-off between blocks, and its layers against the
// layered kernels, on random weights of V2-Lite's shapes.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>

#include "cuda/forward.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using namespace fathom::cuda;

namespace {

// One dense layer and one of experts.
Config v2_lite_of_two_layers() {
  return parse_config(
      R"({"rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,
        "beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0},"max_position_embeddings":163840,
        "rms_norm_eps":1e-6,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
        "hidden_act":"silu","moe_layer_freq":1,"attention_bias":false,"tie_word_embeddings":false,
        "architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","hidden_size":2048,
        "num_hidden_layers":2,"num_attention_heads":16,"num_key_value_heads":16,"q_lora_rank":null,
        "intermediate_size":10944,"moe_intermediate_size":1408,"n_routed_experts":64,"n_shared_experts":2,
        "num_experts_per_tok":6,"first_k_dense_replace":1,"n_group":1,"topk_group":1,"topk_method":"greedy",
        "scoring_func":"softmax","norm_topk_prob":false,"routed_scaling_factor":1.0,"vocab_size":1024,
        "bos_token_id":0,"eos_token_id":1})",
      "test");
}

std::vector<float> read(CudaForward& f, Work w, std::size_t n) {
  std::vector<float> v(n);
  f.read(w, std::span<float>(v));
  return v;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    square += e * e, norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(square) / std::max(std::sqrt(norm), 1e-30);
}

}  // namespace

TEST_CASE("cuda: a grid hand-off shows every block what every block wrote") {
  if (!test::hopper_present()) return;
  const Stream stream = make_stream();
  const Launch on{stream.get(), devices().front().multiprocessors, true};
  const std::uint64_t words = std::uint64_t{2} * static_cast<std::uint64_t>(on.multiprocessors) * 512 * 4;
  Arena memory(words + 4096);
  FATHOM_CUDA(cudaMemset(memory.data(), 0, memory.size()));
  auto* counters = reinterpret_cast<GridCounters*>(memory.take(grid_counters_bytes()));
  auto* errors = reinterpret_cast<unsigned*>(memory.take(4));
  auto* data = reinterpret_cast<unsigned*>(memory.take(words));
  const auto wrong_words = [&](bool skip_wait) {
    FATHOM_CUDA(cudaMemsetAsync(errors, 0, 4, on.stream));
    run_handoffs(on, counters, data, errors, 2000, skip_wait);
    unsigned wrong = 0;
    FATHOM_CUDA(cudaStreamSynchronize(on.stream));
    FATHOM_CUDA(cudaMemcpy(&wrong, errors, 4, cudaMemcpyDeviceToHost));
    return wrong;
  };
  CHECK(wrong_words(false) == 0);
  CHECK(wrong_words(true) > 0);    // the check notices a missing wait
  CHECK(wrong_words(false) == 0);  // the counters were left as they were found
}

TEST_CASE("cuda: layers run at once agree with the layered kernels") {
  if (!test::hopper_present()) return;
  const Config c = v2_lite_of_two_layers();
  bool fp8 = true;
  SUBCASE("FP8 weights") {}
  SUBCASE("BF16 weights") { fp8 = false; }
  const Weights w = weights_of_shape(c, fp8);
  ForwardOptions o;
  o.numerics = {CacheType::bf16, ActivationType::bf16, ActivationType::bf16};
  o.capacity = 9000;
  o.random_weights = 1;
  CudaForward f(c, w, o);
  REQUIRE(f.persistent());
  f.stage_times(0, 1);  // fills the cache with random keys
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(2048);
  for (const std::int32_t position : {0, 1, 31, 32, 95, 700, 4095, 4096, 4300, 8500}) {
    const Row row{7, position, 0, Role::generated};
    for (int layer = 0; layer < 2; ++layer) {
      CAPTURE(position);
      CAPTURE(layer);
      for (float& v : x) v = normal(random);
      f.set_rows({&row, 1});
      f.write(Work::x, x);
      for (const Stage stage : {Stage::Attend, Stage::AttnReduce, Stage::Route, Stage::FfnReduce})
        if (stage != Stage::Route || layer > 0) f.run(Stack::main, {stage, layer}, Role::generated);
      const auto q = read(f, Work::q, 3072), kv_row = read(f, Work::kv_row, 576),
                 out = read(f, Work::x, 2048);
      std::vector<float> key(576);
      f.read_cache(layer, 0, position, key);
      std::vector<std::int32_t> ids(6), ids_at_once(6);
      f.read(Work::expert_ids, std::span<std::int32_t>(ids));

      std::vector<float> first;
      for (int run = 0; run < 5; ++run) {
        f.write(Work::x, x);
        f.run_layers_at_once(layer, layer + 1);
        const auto again = read(f, Work::x, 2048);
        if (run == 0) first = again;
        CHECK(again == first);
      }
      // FP32 sums in another order.
      CHECK(relative_error(read(f, Work::q, 3072), q) < 1e-6);
      CHECK(relative_error(read(f, Work::kv_row, 576), kv_row) < 1e-6);
      std::vector<float> key_at_once(576);
      f.read_cache(layer, 0, position, key_at_once);
      CHECK(relative_error(key_at_once, key) < 5e-4);  // a BF16 value at a tie: 2^-8 of one in a hundred
      if (layer > 0) {
        f.read(Work::expert_ids, std::span<std::int32_t>(ids_at_once));
        CHECK(ids_at_once == ids);
      }
      // Absorbed q, attn, normed and hidden are rounded to BF16: values at ties fall to either side, 2^-8 of
      // one. What a flipped absorbed q does to the softmax of random keys is the most of it.
      CHECK(relative_error(first, out) < 4e-3);
    }
  }
}
