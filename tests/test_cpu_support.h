// Small models for the tests of the CPU pass.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "src/cpu/forward.h"
#include "src/cpu/random_weights.h"

namespace fathom::test {

// The instruction sets that can be tested here.
inline std::vector<cpu::Isa> isas() {
  std::vector<cpu::Isa> out;
  for (cpu::Isa isa : {cpu::Isa::scalar, cpu::Isa::avx2, cpu::Isa::avx512, cpu::Isa::avx512vbmi})
    if (cpu::has_isa(isa)) out.push_back(isa);
  return out;
}

// ||a - b|| / ||b||; NaN anywhere gives NaN, which fails every comparison.
template <typename A, typename B>
double relative(const A& a, const B& b) {
  if (a.size() != b.size()) return std::nan("");
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// No dimension is a multiple of a block; heads, latent and ropes are odd sizes.
inline Config ragged_config() {
  Config c;
  c.hidden_size = 200;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 3;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 84;
  c.qk_nope_head_dim = 24;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 20;
  c.intermediate_size = 330;
  c.moe_intermediate_size = 136;
  c.n_shared_experts = 2;
  c.first_k_dense_replace = 1;
  c.router = {ScoringFunc::sigmoid, TopkMethod::noaux_tc, 16, 4, 4, 2, true, 2.5f};
  c.num_nextn_predict_layers = 1;
  c.vocab_size = 150;
  c.max_position_embeddings = 4096;
  c.yarn = Yarn{.factor = 40, .mscale = 1.0, .mscale_all_dim = 1.0};
  return c;
}

// Plain q_proj, softmax router, dense layers between MoE ones, no shared experts.
inline Config plain_config() {
  Config c = ragged_config();
  c.hidden_size = 256;
  c.q_lora_rank = 0;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  c.n_shared_experts = 0;
  c.moe_layer_freq = 2;
  c.router = {ScoringFunc::softmax, TopkMethod::greedy, 8, 3, 1, 1, false, 1.0f};
  c.num_nextn_predict_layers = 0;
  c.yarn.reset();
  return c;
}

inline std::vector<Row> make_rows(int first, int count, const Config& c, Role role = Role::prompt) {
  std::vector<Row> rows;
  for (int p = first; p < first + count; ++p) rows.push_back({(p * 37 + 11) % c.vocab_size, p, 0, role});
  return rows;
}

// A model with its weights, ready to run.
struct Model {
  explicit Model(const Config& c, const cpu::RandomWeightsOptions& options = {}) : config(c) {
    Threads threads(1);
    cpu::RandomWeights random = cpu::random_weights(config, threads, options);
    weights = std::move(random.weights);
    memory = std::move(random.memory);
  }
  Config config;
  Weights weights;
  std::shared_ptr<const void> memory;
  Exchange alone;
};

// Logits of every row, computed in calls of `step` rows.
inline std::vector<float> all_logits(CpuForward& f, std::span<const Row> rows, std::size_t step) {
  std::vector<float> out;
  for (std::size_t begin = 0; begin < rows.size(); begin += step) {
    const std::size_t n = std::min(step, rows.size() - begin);
    std::vector<int> wanted;
    for (std::size_t i = 0; i < n; ++i) wanted.push_back(static_cast<int>(i));
    ForwardCall call;
    call.rows = rows.subspan(begin, n);
    call.logit_rows = wanted;
    const ForwardResult r = f.forward(call);
    out.insert(out.end(), r.logits.begin(), r.logits.end());
  }
  return out;
}

}  // namespace fathom::test
