// Two layers with the heads of the published models and little else, on both passes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cuda/forward.h"
#include "src/base/threads.h"
#include "src/cpu/forward.h"
#include "src/cpu/random_weights.h"

namespace fathom::test {

struct SmallModel {
  bool fp8 = true;      // weights: e4m3 in blocks of 128 x 128, or BF16
  bool ue8m0 = false;   // activation scales are powers of two
  int q_lora_rank = 0;  // 0: q straight from the hidden state
};

// A dense layer, then one of eight experts, two per token, and a shared one.
inline Config small_config(const SmallModel& m) {
  const std::string quantised =
      m.fp8 ? fmt::format(
                  R"("quantization_config":{{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",
      "weight_block_size":[128,128]{}}},)",
                  m.ue8m0 ? R"(,"scale_fmt":"ue8m0")" : "")
            : "";
  const std::string lora = m.q_lora_rank == 0 ? "null" : std::to_string(m.q_lora_rank);
  return parse_config(
      R"({"rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,
      "beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0},"max_position_embeddings":163840,
      "rms_norm_eps":1e-6,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
      "hidden_act":"silu","moe_layer_freq":1,"attention_bias":false,"tie_word_embeddings":false,
      "architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","hidden_size":256,
      "num_hidden_layers":2,"num_attention_heads":3,"num_key_value_heads":3,"q_lora_rank":)" +
          lora + "," + quantised +
          R"("intermediate_size":328,"moe_intermediate_size":200,"n_routed_experts":8,"n_shared_experts":1,
      "num_experts_per_tok":2,"first_k_dense_replace":1,"n_group":1,"topk_group":1,"topk_method":"greedy",
      "scoring_func":"softmax","norm_topk_prob":false,"routed_scaling_factor":1.0,"vocab_size":1000,
      "bos_token_id":998,"eos_token_id":999})",
      "small");
}

inline std::vector<Row> prompt_rows(int count, std::int32_t first, std::uint32_t timeline) {
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i) rows.push_back({(first + i) * 37 % 990, first + i, timeline, Role::prompt});
  return rows;
}

// A CPU pass and a CUDA pass over the same random weights.
struct Both {
  Both(const Numerics& numerics, const SmallModel& model, std::int32_t capacity)
      : config(small_config(model)),
        random(cpu::random_weights(config, threads,
                                   {.linear = model.fp8 ? formats::fp8_f32 : formats::bf16, .seed = 9})),
        cpu_pass(config, random.weights, cpu_options(numerics, capacity), threads, exchange),
        gpu_pass(config, random.weights, gpu_options(numerics, capacity)) {}
  static CpuForwardOptions cpu_options(const Numerics& numerics, std::int32_t capacity) {
    CpuForwardOptions o;
    o.numerics = numerics, o.capacity = capacity, o.timelines = 2;
    return o;
  }
  static cuda::ForwardOptions gpu_options(const Numerics& numerics, std::int32_t capacity) {
    cuda::ForwardOptions o;
    o.numerics = numerics, o.capacity = capacity, o.timelines = 2;
    return o;
  }
  const LayerWeights& layer(int index) const {
    return random.weights.layers[static_cast<std::size_t>(index)];
  }
  Config config;
  Threads threads{usable_cores()};
  Exchange exchange;
  cpu::RandomWeights random;
  CpuForward cpu_pass;
  cuda::CudaForward gpu_pass;
};

inline std::vector<float> last_logits(Forward& f, const std::vector<Row>& rows) {
  const int last = static_cast<int>(rows.size()) - 1;
  ForwardCall call;
  call.rows = rows;
  call.logit_rows = {&last, 1};
  return f.forward(call).logits;
}

}  // namespace fathom::test
