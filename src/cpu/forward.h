// The CPU forward pass: the executable specification of the stage list, and the fast path where there is no GPU.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/threads.h"
#include "src/engine/forward.h"
#include "src/engine/kv_cache.h"
#include "src/model/rope.h"
#include "src/model/weights.h"

namespace fathom {

// The values at the stage boundaries for T rows, FP32, row-major; names and shapes are those of the stage table.
// A test may write what a stage reads, run that one step and compare what it writes.
struct Activations {
  std::vector<Row> rows;
  std::vector<float> hidden_in;  // MTP: (T, hidden_size)
  std::vector<float> x, normed, q_latent, kv_row, q, attn, delta, shared, expert_out;
  std::vector<std::int32_t> expert_ids;  // (T, num_experts_per_tok), ascending in each row
  std::vector<float> expert_weights;
  std::vector<int> wanted;    // rows that FinalNorm and Logits are computed for
  std::vector<float> logits;  // (wanted, vocab_size), or this rank's slice
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
};

class CpuForward : public Forward {
 public:
  // All references must outlive the pass. `weights` are this rank's slice.
  CpuForward(const Config& config, const Weights& weights, const CpuForwardOptions& options, Threads& threads,
             Exchange& exchange);

  ForwardResult forward(const ForwardCall& call) override;
  std::int32_t capacity() const override { return options_.capacity; }
  const Config& config() const override { return config_; }
  Numerics numerics() const override { return options_.numerics; }
  std::string describe() const override;

  // One step of the stage list on the values in `a`, all rows of one role.
  void run(Step step, Activations& a);
  KvCache& cache() { return cache_; }

  // Called after every step with the activations, when set: tests, bisects, first-bad-layer search.
  std::function<void(Step, const Activations&)> observer;

 private:
  const Config& config_;
  const Weights& weights_;
  CpuForwardOptions options_;
  Threads& threads_;
  Exchange& exchange_;
  Rope rope_;
  float softmax_scale_;
  KvCache cache_;
};

}  // namespace fathom
