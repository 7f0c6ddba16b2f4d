// `fathom doctor --self-test`: the GPU's forward pass against the CPU's, on this machine and the user's own checkpoint.
#pragma once

#include <cstdint>

#include "src/app/app.h"
#include "src/engine/forward.h"

namespace fathom {

struct Comparison {
  int positions = 0;     // compared: the end of a prompt and each generated token
  int same_best = 0;     // of them: both passes prefer the same token
  double worst = 0;      // largest relative difference of a position's logits, |a - b| / |b| in the 2-norm
  int worst_position = 0;
};

// Feeds both passes the same prompt of `prompt` ids (a fixed sequence below `valid_ids`) and then the same `steps` tokens,
// those that `reference` prefers, and compares the logits. Errors: those of the passes.
Comparison compare_passes(Forward& tested, Forward& reference, std::int32_t valid_ids, int prompt, int steps);

// Errors: unsupported without a usable GPU; compute when the passes differ by more than their numerics explain.
Exit self_test_command(App& app);

}  // namespace fathom
