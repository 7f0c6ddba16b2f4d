// A model's weights in device memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "cuda/device.h"
#include "src/base/threads.h"
#include "src/model/weights.h"

namespace fathom::cuda {

struct DeviceMlp {
  Matrix gate, up, down;  // rows 0: absent
};

struct DeviceLayer {
  const float *input_layernorm = nullptr, *post_attention_layernorm = nullptr;
  const float *q_a_layernorm = nullptr, *kv_a_layernorm = nullptr, *e_score_correction_bias = nullptr;
  Matrix q_a_proj, q_proj, kv_a_proj, kv_b_proj, o_proj, router;
  DeviceMlp dense, shared;
  DeviceMlp expert;  // shape and format of every routed expert; its pointers are in `experts`
  const ExpertPointers* experts = nullptr;
  int expert_count = 0;
  ExpertPointers first_expert{};  // a copy for the host
  std::int64_t expert_bytes = 0;  // between neighbouring experts' matrices of a kind; 0: unevenly spaced
  const ExpertTable* host_experts = nullptr;  // set: the routed experts are there, and `experts` is null
};

struct DeviceMtp {
  const float *enorm = nullptr, *hnorm = nullptr, *norm = nullptr;
  Matrix eh_proj, embed_tokens, head;
  DeviceLayer layer;
};

struct DeviceWeights {
  Matrix embed_tokens, lm_head;
  const float* norm = nullptr;
  const float* rope_frequency = nullptr;
  std::vector<DeviceLayer> layers;
  std::vector<DeviceMtp> mtp;
  // Every matrix can serve as a GEMM operand: codes e4m3 or BF16, scale blocks on tile borders.
  bool tensor_cores = true;
  // The code of every matrix that gemm_fp8 or gemm_bf16 multiplies prompt rows by; none: they differ, or a
  // shape has no such kernel.
  std::optional<Code> hopper;
  Arena memory;
  // Random experts in host memory: their tables by layer, and the bytes that these name.
  std::vector<std::unique_ptr<ExpertTable>> host_tables;
  std::vector<std::unique_ptr<std::byte[]>> host_memory;
};

struct LoadOptions {
  std::uint64_t bytes = 0;  // of the arena, from the placement
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  std::optional<std::uint64_t> random_weights;
  int multiprocessors = 1;
  Threads* host_experts = nullptr;  // see ForwardOptions
  std::function<ForwardOptions::CopyBytes()> copier;
};

// Copies the weights to the current device: several threads pack pieces of the mapped shards into pinned
// buffers, each overlapped with the copy of its piece before. Errors: unsupported (a format or shape without
// kernels, naming it), out_of_memory, compute, io (a shard that cannot be read).
DeviceWeights load_weights(const Weights& weights, const std::vector<float>& rope_frequency,
                           const LoadOptions& options);

}  // namespace fathom::cuda
