// The CPU forward pass: the executable specification of the stage list, and the fast path where there is no
// GPU.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/threads.h"
#include "src/cpu/linear.h"
#include "src/engine/forward.h"
#include "src/engine/kv_cache.h"
#include "src/model/rope.h"
#include "src/model/weights.h"

namespace fathom {

// The values at the stage boundaries for T rows, FP32, row-major; names and shapes are those of the stage
// table. A test may write what a stage reads, run that one step and compare what it writes.
struct Activations {
  Stack stack = Stack::main;     // whose FinalNorm and Logits: the steps of both stacks are spelt alike
  std::vector<Row> rows;         // all of one role
  std::vector<float> hidden_in;  // MTP: (T, hidden_size)
  std::vector<float> x, normed, q_latent, kv_row, q, attn, delta, shared, expert_out;
  std::vector<std::int32_t> expert_ids;  // (T, num_experts_per_tok), ascending in each row
  std::vector<float> expert_weights;
  std::vector<int>
      wanted;  // rows that FinalNorm and Logits are computed for; normed is then (wanted, hidden_size)
  std::optional<std::vector<int>> logit_rows;  // indices into `wanted` for Logits; absent: all of them
  std::vector<float> logits;                   // (logit_rows, vocab_size), gathered from all ranks
};

// How partners of a tensor-parallel run meet. The default is a run of one.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // Replaces `values` on every rank by the sum over ranks in ascending order.
  virtual void reduce(Rank, std::span<float>) {}
  // Concatenates every rank's slice, row by row, in rank order: (rows, slice) -> (rows, sum of slices).
  virtual void gather(Rank, std::span<const float> slice, std::int64_t rows, std::vector<float>& whole) {
    (void)rows;
    whole.assign(slice.begin(), slice.end());
  }
};

struct CpuForwardOptions {
  Numerics numerics;
  std::int32_t capacity = 4096;  // positions per timeline
  std::uint32_t timelines = 1;
  bool mtp = false;
  Rank rank;
  std::optional<cpu::Isa> isa;  // absent: the best that this processor has
  int chunk_rows = 0;           // rows per pass through the layers; 0: as many as a bounded workspace holds
};

class CpuForward : public Forward {
 public:
  // All references must outlive the pass. `weights` are this rank's slice. Errors: out_of_memory; usage for
  // an instruction set that this processor lacks.
  CpuForward(const Config& config, const Weights& weights, const CpuForwardOptions& options, Threads& threads,
             Exchange& exchange);

  // Besides Forward's errors: context for a position at or above capacity().
  ForwardResult forward(const ForwardCall& call) override;
  std::int32_t capacity() const override { return options_.capacity; }
  const Config& config() const override { return config_; }
  Numerics numerics() const override { return options_.numerics; }
  std::string describe() const override;

  std::size_t position_bytes() const override;
  void export_rows(std::uint32_t timeline, std::int32_t count, std::span<std::byte> out) const override;
  void import_rows(std::uint32_t timeline, std::int32_t count, std::span<const std::byte> rows) override;

  std::string first_bad_stage(const Row& row) override;

  // One step of the stage list on the values in `a`, all rows of one role. Sizes what it writes.
  void run(Step step, Activations& a);
  KvCache& cache() { return cache_; }

  // Called after every step with the activations, when set: tests, bisects, first-bad-layer search.
  std::function<void(Step, const Activations&)> observer;

 private:
  const LayerWeights& layer(Step step) const;
  cpu::Rounding rounding(const Activations& a) const;
  void embed(const Linear& table, std::span<const Row> rows, std::vector<float>& x);
  void mtp_input(Activations& a);
  void latents(const LayerWeights& w, int layer, Activations& a);
  void query(const LayerWeights& w, Activations& a);
  void route_rows(const LayerWeights& w, Activations& a);
  void combine(Activations& a);
  void reduce(Activations& a);
  void final_norm(Activations& a);
  void logits(Activations& a);
  void mlp(const Mlp& w, const Activations& a, std::vector<float>& y);
  void multiply(const Linear& w, std::span<const float> x, cpu::Rounding rounding, std::vector<float>& y);

  void run_chunk(const ForwardCall& call, std::size_t begin, std::size_t end, ForwardResult& result);
  void check(const ForwardCall& call) const;
  std::size_t chunk_rows() const;
  void poll();

  const Config& config_;
  const Weights& weights_;
  CpuForwardOptions options_;
  cpu::Machine machine_;
  Exchange& exchange_;
  Rope rope_;
  float softmax_scale_;
  KvCache cache_;
  Activations activations_;  // kept between calls for its memory
  std::chrono::steady_clock::time_point last_poll_;
};

}  // namespace fathom
