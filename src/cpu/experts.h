// Feed-forward networks on the CPU: dense, shared and routed. The one header of src/cpu that cuda/ includes,
// for experts whose weights stay in host memory.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/threads.h"
#include "src/cpu/linear.h"
#include "src/model/expert_table.h"
#include "src/model/weights.h"

namespace fathom::cpu {

// y (rows, down.rows) = down(silu(gate x) * up x) for x (rows, gate.cols). The inputs of gate and up, and of
// down, are rounded as asked. Under tensor parallelism: this rank's partial sum.
void mlp(const Machine& m, const Mlp& w, std::span<const float> x, Rounding rounding, float* y);

// The experts of a batch of tokens that live in host memory.
struct RoutedCall {
  const ExpertTable& table;
  std::span<const float> x;           // (T, hidden_size)
  std::span<const std::int32_t> ids;  // (T, num_experts_per_tok); an id < 0 is skipped
  int num_experts_per_tok = 0;
  Rounding rounding;
  float* expert_out = nullptr;  // (T, num_experts_per_tok, hidden_size): each expert's own output, unweighted
};

// Fills the slots of expert_out whose expert is on the host and leaves the others as they are. Tokens are
// grouped by expert, so each expert's weights are read once. `poll` (may be empty) is asked between groups of
// experts, at most a few tenths of a second of work apart, and may throw.
void routed_experts(const Machine& m, const RoutedCall& call, FunctionRef<void()> poll);

}  // namespace fathom::cpu
