// Weights of any shape filled with random codes: for speed measurements without a checkpoint, and for tests.
#pragma once

#include <cstdint>
#include <memory>

#include "src/base/threads.h"
#include "src/model/weights.h"

namespace fathom::cpu {

struct RandomWeightsOptions {
  WeightFormat linear =
      formats::fp8_f32;  // of attention and MLP projections; embedding, head, router, eh_proj are BF16
  bool mtp = false;      // also config.num_nextn_predict_layers MTP modules
  std::uint64_t seed = 1;
};

struct RandomWeights {
  Weights weights;
  std::shared_ptr<const void> memory;  // the views point into it
};

// Every projection has entries of mean 0 and variance about 1 / cols, so activations stay O(1); FP8 codes are
// quantiles of a normal distribution, all finite. bytes_total and bytes_per_token are those of a checkpoint
// of this shape. The same for every number of threads. Errors: out_of_memory naming the bytes.
RandomWeights random_weights(const Config& config, Threads& threads,
                             const RandomWeightsOptions& options = {});

}  // namespace fathom::cpu
