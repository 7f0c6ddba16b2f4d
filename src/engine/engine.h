// A loaded model: everything that is read once and then only used. Immutable after load; no globals, so two engines
// may live in one process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/device.h"
#include "src/base/file.h"
#include "src/base/numerics.h"
#include "src/base/threads.h"
#include "src/engine/forward.h"
#include "src/engine/generation_config.h"
#include "src/engine/gpu_placement.h"
#include "src/engine/placement.h"
#include "src/model/checkpoint.h"
#include "src/model/config.h"
#include "src/model/weights.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

class Exchange;
namespace cuda {
struct DeviceInfo;
}

enum class BackendChoice { automatic, cuda, cpu };
// What of the weights is looked at before they are used (cli.md --check).
enum class WeightCheck { none, quick, values };

struct EngineOptions {
  BackendChoice backend = BackendChoice::automatic;
  CacheType cache = CacheType::bf16;
  std::optional<ActivationType> activations;  // nothing: what the backend does best
  std::optional<int> threads;                 // nothing: physical cores
  std::optional<int> gpu;                     // ordinal; nothing: the one with most free memory
  std::optional<std::uint64_t> gpu_memory;    // bytes of it to use at most; nothing: what is free, less 2 %
  ExpertPlace experts = ExpertPlace::automatic;
  std::optional<std::int32_t> context;        // nothing: usual_context, or less where that is too much
  std::int32_t usual_context = kUsualContext;
  std::optional<bool> mmap;                   // nothing: yes, unless on a network file system
  WeightCheck check = WeightCheck::quick;
  bool tokenizer_required = true;  // false: a directory without tokenizer files is accepted
  // NAME of a built-in template or the text of a Jinja file; nothing: the checkpoint's own.
  std::optional<std::string> chat_template;
  std::function<void(std::string_view)> progress;  // "checking 163 shards"
  // The GPUs to choose from; unset: those of the driver (cuda::devices).
  std::function<std::vector<cuda::DeviceInfo>(cuda::NoDevice* none)> devices;
  // Told which GPU will be used, before its memory is planned.
  std::function<void(const cuda::DeviceInfo&)> gpu_chosen;
  // Told why a GPU that is there cannot be used, when the CPU is taken instead (BackendChoice::automatic alone).
  std::function<void(std::string_view why)> gpu_unusable;
  // How far a phase is that reads the weights: "reading" without mmap, "scanning" for WeightCheck::values. In bytes.
  std::function<void(std::string_view phase, std::uint64_t done, std::uint64_t total)> bytes;
};

// The GPU to run on; nothing: the CPU, and then `none` says why, for the caller to pass on where a GPU is there all the
// same. Errors: unsupported, when one was asked for that is not there or cannot be used.
std::optional<cuda::DeviceInfo> choose_gpu(const EngineOptions& options, cuda::NoDevice* none = nullptr);
// The rounding of a run, by design.md's defaults where the options are silent.
Numerics gpu_numerics(const EngineOptions& options, const Config& config, const cuda::DeviceInfo& device);
Numerics cpu_numerics(const EngineOptions& options);

// For a run on the CPU. Errors: unsupported when `options` put experts on a GPU.
void require_no_gpu_wanted(const EngineOptions& options);
// The plan of a GPU run of `weights`, of a checkpoint or of random ones. Errors: those of choose_placement.
Placement plan_on_gpu(const EngineOptions& options, const Config& config, const Weights& weights,
                      const cuda::DeviceInfo& device);
// Tokens per second that a plan with experts in host memory can reach: bytes per token over the bandwidths of the GPU
// (what its clock and bus give, less 8 %) and of the host's memory (measured here, about a tenth of a second).
double predict_decode(const Config& config, const Weights& weights, const cuda::DeviceInfo& device, Threads& threads);

class Engine {
 public:
  // Reads and checks a checkpoint and plans where it goes. Errors: those of its parts; bad_checkpoint when tokenizer
  // and config belong to different models.
  static std::unique_ptr<Engine> load(FileSet files, const EngineOptions& options);
  ~Engine();

  const std::string& label() const { return checkpoint_.files().label(); }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  // Null when there are no tokenizer files and they were not required.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  // Errors: why there is none.
  const ChatTemplate& chat_template() const;
  const GenerationConfig& generation_config() const { return generation_; }
  const std::vector<std::int32_t>& stop_ids() const { return stop_ids_; }
  // Ids below this may be sampled: rows of the head without a token are padding.
  std::int32_t valid_ids() const { return valid_ids_; }
  const Numerics& numerics() const { return numerics_; }
  std::int32_t context() const { return plan_.context; }
  const CpuPlan& plan() const { return plan_; }
  // On a GPU: whether the routed experts stay in host memory.
  bool experts_on_host() const { return host_experts_; }
  // With experts in host memory: tokens per second that the plan can reach at most (predict_decode).
  const std::optional<double>& predicted_decode() const { return predicted_decode_; }
  // "cpu" or "cuda": where it runs.
  std::string_view backend() const { return gpu_ ? "cuda" : "cpu"; }
  // On a GPU, what of its memory goes where: "NVIDIA H100 80GB HBM3: weights 15.73 GiB + ..."; empty on the CPU.
  const std::string& gpu_plan() const { return gpu_plan_; }
  // Remarks of the loader: acceptable oddities of the files.
  const std::vector<std::string>& notes() const { return notes_; }
  double load_seconds() const { return load_seconds_; }

  // A forward pass with a cache of its own for `timelines` sequences. It uses this engine and must not outlive it;
  // passes of one engine share its threads and run one at a time. On a GPU the weights are uploaded here, once per pass;
  // `uploaded` is told how far that is.
  std::unique_ptr<Forward> make_forward(
      std::uint32_t timelines = 1,
      std::function<void(std::uint64_t done, std::uint64_t total)> uploaded = {}) const;

 private:
  explicit Engine(Checkpoint checkpoint);
  void load_text(const EngineOptions& options);
  void plan(const EngineOptions& options, const std::optional<cuda::DeviceInfo>& device);
  void plan_gpu(const EngineOptions& options, const cuda::DeviceInfo& device);
  void check_same_model() const;

  Checkpoint checkpoint_;
  Config config_;
  Weights weights_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  std::optional<Error> no_template_;
  GenerationConfig generation_;
  std::vector<std::int32_t> stop_ids_;
  std::int32_t valid_ids_ = 0;
  Numerics numerics_;
  CpuPlan plan_;
  std::optional<int> gpu_;  // ordinal
  bool host_experts_ = false;
  std::optional<double> predicted_decode_;
  std::string gpu_plan_;
  std::vector<std::string> notes_;
  double load_seconds_ = 0;
  std::unique_ptr<Threads> threads_;
  std::unique_ptr<Exchange> exchange_;
};

}  // namespace fathom
