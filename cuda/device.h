// The only header of cuda/ that src/ includes: plain C++, usable in a build without CUDA (cuda/none.cpp then
// answers).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/threads.h"
#include "src/engine/forward.h"
#include "src/model/weights.h"

namespace fathom::cuda {

struct DeviceInfo {
  int ordinal = 0;
  std::string name;          // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::uint64_t memory_total = 0, memory_free = 0;  // bytes
  double memory_bandwidth = 0;                      // bytes per second that memory clock and bus width give
  std::string pci_address;                          // "0000:1B:00.0": the same whatever CUDA_VISIBLE_DEVICES hides
};

// True when fathom was built with CUDA.
bool built_with_cuda();
// Why there is no GPU to run on.
struct NoDevice {
  std::string why;       // one line
  bool present = false;  // there is a GPU, though not one that can be used: too old, taken, its driver too old, broken
};

// GPUs that fathom can run on, after CUDA_VISIBLE_DEVICES; empty without driver or device. Never throws;
// `none` is filled in when the list is empty.
std::vector<DeviceInfo> devices(NoDevice* none = nullptr);

struct ForwardOptions {
  Numerics numerics;
  std::int32_t capacity = 4096;  // positions per timeline
  std::uint32_t timelines = 1;
  bool mtp = false;  // the weights hold MTP modules: keep a cache for them and run Stack::mtp
  Rank rank{};
  int device = 0;  // ordinal
  // Called while weights are uploaded, from the calling thread, about ten times a second and once at the end.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  // Makes, on each uploading thread, what copies bytes behind `weights`; absent: a plain copy. Errors of what it makes
  // end the upload.
  using CopyBytes = std::function<void(const std::byte* from, std::span<std::byte> to)>;
  std::function<CopyBytes()> copier;
  // Set: every matrix is filled on the device with random valid codes from this seed, and the weights' views
  // need only shapes and formats (see weights_of_shape in src/engine/gpu_placement.h).
  std::optional<std::uint64_t> random_weights;
  // Set: routed experts stay in host memory, where these threads compute them inside forward(), everything else is on
  // the GPU. The mapped bytes behind `weights` must then outlive the pass.
  Threads* host_experts = nullptr;
  // Replay a CUDA graph for generated rows instead of launching kernel by kernel. Same bits either way.
  bool graph = true;
  // Run all layers of a generated row as one launch, where the model and the GPU suit and there is one timeline.
  // Sums are then taken in another order than layer by layer, and rows are run one at a time, so that a row's bits
  // still do not depend on the number of rows.
  bool persistent = true;
};

// A forward pass on one GPU. Weights, cache and workspace are placed (src/engine/gpu_placement.h) and
// allocated here, before the first token; `config` and `weights` must outlive the pass, the mapped bytes
// behind `weights` need not. Errors: unsupported (no usable GPU, a storage format or shape without kernels),
// out_of_memory with needed and available bytes and the largest context that fits, compute.
std::unique_ptr<Forward> make_forward(const Config& config, const Weights& weights,
                                      const ForwardOptions& options);

// Bytes per second that a plain read kernel (16-byte loads) reaches over `bytes` of the device's memory,
// median of seven runs. Errors: out_of_memory, compute, unsupported.
double read_bandwidth(int device, std::uint64_t bytes = std::uint64_t{1} << 32);

// Milliseconds that each stage of one decode step takes, in the order of the stage list summed over layers:
// every group of fused stages is run `repeats` times at `position` and timed by itself, so the sum exceeds a
// step's time. Precondition: `forward` came from make_forward. Errors: compute.
struct StageTime {
  std::string stages;  // "AttnNorm..Attend"
  double milliseconds = 0;
  int launches = 0;
};
std::vector<StageTime> stage_times(Forward& forward, std::int32_t position, int repeats);

// Milliseconds per token of `tokens` decode steps at positions from `position` on, token ids varying, without
// reading logits back: the forward pass alone, cached keys random. Errors: compute; context if the cache is
// too small.
double decode_time(Forward& forward, std::int32_t position, int tokens);

// How often each expert was chosen, all layers together, in `tokens` generated rows at `position` with varying ids,
// run stage by stage. Precondition: positions below hold rows. Errors: compute, context.
struct ExpertUse {
  std::vector<std::int64_t> choices;  // by expert id
};
ExpertUse expert_use(Forward& forward, std::int32_t position, int tokens);

// Bytes of weights per second at which the experts in host memory are computed for one row, without a GPU in the way:
// the mean over `repeats` rounds of all layers, experts varying. Precondition: options.host_experts was set.
double host_expert_rate(Forward& forward, int repeats);
// Seconds since the last call of this that forward() spent waiting for the GPU to hand rows over and computing experts
// in host memory. Precondition: as above.
struct HostTimes {
  double waiting_s = 0, computing_s = 0;
};
HostTimes take_host_times(Forward& forward);

}  // namespace fathom::cuda
