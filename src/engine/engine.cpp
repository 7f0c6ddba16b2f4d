#include "src/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <future>

#include "cuda/device.h"
#include "src/base/error.h"
#include "src/cpu/bandwidth.h"
#include "src/cpu/forward.h"
#include "src/engine/gpu_placement.h"
#include "src/model/shard_reader.h"
#include "src/model/verify.h"

namespace fathom {

std::optional<cuda::DeviceInfo> choose_gpu(const EngineOptions& options, cuda::NoDevice* none) {
  cuda::NoDevice unused;
  if (none == nullptr) none = &unused;
  if (options.backend == BackendChoice::cpu) return std::nullopt;
  std::vector<cuda::DeviceInfo> devices = options.devices ? options.devices(none) : cuda::devices(none);
  if (options.gpu) {
    std::erase_if(devices, [&](const cuda::DeviceInfo& d) { return d.ordinal != *options.gpu; });
    if (devices.empty() && none->why.empty()) none->why = "there is no such GPU";
    if (devices.empty())
      throw Error(Exit::unsupported, fmt::format("--gpus {}: {}", *options.gpu, none->why), "run `fathom doctor`");
  }
  if (devices.empty()) {
    if (options.backend == BackendChoice::automatic) return std::nullopt;
    throw Error(Exit::unsupported, fmt::format("--backend cuda: {}", none->why), "use --backend cpu");
  }
  return *std::max_element(devices.begin(), devices.end(),
                           [](const auto& a, const auto& b) { return a.memory_free < b.memory_free; });
}

// FP8 tensor cores came with compute capability 8.9. The published models were trained with FP8 inputs, so prompt rows
// of an FP8 checkpoint are rounded as their authors do; generated rows cost nothing more in BF16.
Numerics gpu_numerics(const EngineOptions& options, const Config& config, const cuda::DeviceInfo& device) {
  const bool fp8 = config.fp8 && device.major * 10 + device.minor >= 89;
  return {options.cache, options.activations.value_or(fp8 ? ActivationType::fp8 : ActivationType::bf16),
          options.activations.value_or(ActivationType::bf16)};
}

Numerics cpu_numerics(const EngineOptions& options) {
  const ActivationType a = options.activations.value_or(ActivationType::f32);
  return {options.cache, a, a};
}

namespace {

std::uint64_t gpu_bytes_available(const EngineOptions& options, const cuda::DeviceInfo& device) {
  return options.gpu_memory.value_or(device.memory_free - device.memory_free / 50);
}

}  // namespace

void require_no_gpu_wanted(const EngineOptions& options) {
  if (options.experts == ExpertPlace::gpu)
    throw Error(Exit::unsupported, "--experts gpu: this run has no GPU to hold them", "leave --experts at auto");
}

Placement plan_on_gpu(const EngineOptions& options, const Config& config, const Weights& weights,
                      const cuda::DeviceInfo& device) {
  PlacementRequest request{.numerics = gpu_numerics(options, config, device),
                           .capacity = wanted_context(config, options.context, options.usual_context)};
  request.hopper = device.major == 9 && device.minor == 0;
  return choose_placement(config, weights, request, options.experts, options.context.has_value(),
                          gpu_bytes_available(options, device), device.name);
}

double predict_decode(const Config& config, const Weights& weights, const cuda::DeviceInfo& device, Threads& threads) {
  const double experts = static_cast<double>(expert_bytes_per_token(weights, config));
  const double rest = static_cast<double>(bytes_read_per_token(weights, config)) - experts;
  const double host = cpu::measure_read_bandwidth(threads, std::int64_t{256} << 20);
  return 1 / (rest / (0.92 * device.memory_bandwidth) + experts / host);
}

namespace {

std::string checking(const FileSet& files) {
  const std::vector<std::string> names = files.list();
  const auto n = std::count_if(names.begin(), names.end(), [](const std::string& f) { return f.ends_with(".safetensors"); });
  return fmt::format("checking {} {}", n, n == 1 ? "shard" : "shards");
}

}  // namespace

Engine::Engine(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
Engine::~Engine() = default;

std::unique_ptr<Engine> Engine::load(FileSet files, const EngineOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const auto say = [&](std::string_view what) {
    if (options.progress) options.progress(what);
  };
  // The config first: a model of another family is refused by name, not by its tensors.
  Config config = read_config(files);
  // A driver takes a third of a second to wake up; meanwhile the files are read.
  cuda::NoDevice none;
  std::future<std::optional<cuda::DeviceInfo>> device = std::async([&] { return choose_gpu(options, &none); });
  const bool mmap = options.mmap.value_or(!files.on_disk() || !on_network_file_system(files.label()));
  const auto counted = [&](std::string_view phase) {
    return [&, phase](std::uint64_t done, std::uint64_t total) {
      if (options.bytes) options.bytes(phase, done, total);
    };
  };
  say(checking(files));
  CheckpointOptions how{.mmap = mmap, .progress = {}};
  if (!mmap) how.progress = counted("reading");
  std::unique_ptr<Engine> engine(new Engine(Checkpoint::open(std::move(files), how)));
  engine->config_ = std::move(config);
  engine->generation_ = read_generation_config(engine->checkpoint_.files(), engine->config_.vocab_size);
  say("binding weights");
  std::vector<std::string> unknown;
  engine->weights_ = bind_weights(engine->checkpoint_, engine->config_, {}, &unknown);
  engine->threads_ = std::make_unique<Threads>(options.threads.value_or(usable_cores()));
  if (options.check == WeightCheck::values)
    require_sound(scan_values(engine->checkpoint_, *engine->threads_, counted("scanning")), engine->checkpoint_);
  engine->notes_ = engine->checkpoint_.notes();
  if (!unknown.empty())
    engine->notes_.push_back(fmt::format("{} tensors are not used, the first is {}", unknown.size(), unknown.front()));
  say("reading the tokenizer");
  engine->load_text(options);
  if (device.wait_for(std::chrono::seconds(0)) == std::future_status::timeout) say("waiting for the GPU");
  const std::optional<cuda::DeviceInfo> gpu = device.get();
  if (gpu && options.gpu_chosen) options.gpu_chosen(*gpu);
  if (!gpu && none.present && options.gpu_unusable) options.gpu_unusable(none.why);
  engine->plan(options, gpu);
  engine->exchange_ = std::make_unique<Exchange>();
  engine->load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return engine;
}

void Engine::load_text(const EngineOptions& options) {
  const FileSet& files = checkpoint_.files();
  try {
    tokenizer_ = Tokenizer::load(files);
  } catch (const Error& e) {
    if (options.tokenizer_required || e.code() != Exit::not_found) throw;
  }
  valid_ids_ = config_.vocab_size;
  if (tokenizer_) {
    if (tokenizer_->vocab_size() > config_.vocab_size)
      throw Error(Exit::bad_checkpoint,
                  fmt::format("{}: the tokenizer has {} ids, the model's vocab_size is {}: they belong to different models",
                              files.label(), tokenizer_->vocab_size(), config_.vocab_size));
    valid_ids_ = tokenizer_->vocab_size();
    check_same_model();
  }
  stop_ids_ = fathom::stop_ids(generation_, config_, tokenizer_.get());
  const Tokenizer::Special special = tokenizer_ ? tokenizer_->special() : Tokenizer::Special{};
  try {
    if (!options.chat_template) {
      template_ = ChatTemplate::from_checkpoint(files, special);
    } else if (auto builtin = ChatTemplate::builtin(*options.chat_template, special)) {
      template_ = std::move(builtin);
    } else {
      template_ = ChatTemplate::from_text(*options.chat_template, "--template", special);
    }
  } catch (const Error& e) {
    no_template_ = e;  // plain continuation and --ids do without; chat_template() says why
  }
}

void Engine::check_same_model() const {
  const auto bos = tokenizer_->find_added(tokenizer_->special().bos_token);
  const auto eos = tokenizer_->find_added(tokenizer_->special().eos_token);
  if (!bos || !eos || !config_.bos_token_id || config_.eos_token_ids.empty()) return;
  const bool same_bos = *bos == *config_.bos_token_id;
  const bool same_eos = std::find(config_.eos_token_ids.begin(), config_.eos_token_ids.end(), *eos) !=
                        config_.eos_token_ids.end();
  if (same_bos || same_eos) return;
  throw Error(Exit::bad_checkpoint,
              fmt::format("{}: the tokenizer's bos and eos are {} and {}, the config's are {} and {}: they belong to "
                          "different models",
                          label(), *bos, *eos, *config_.bos_token_id, fmt::join(config_.eos_token_ids, ", ")),
              "use the tokenizer files that were published with these weights");
}

const ChatTemplate& Engine::chat_template() const {
  if (template_) return *template_;
  throw *no_template_;
}

void Engine::plan(const EngineOptions& options, const std::optional<cuda::DeviceInfo>& device) {
  if (device) return plan_gpu(options, *device);
  require_no_gpu_wanted(options);
  numerics_ = cpu_numerics(options);
  plan_ = plan_cpu(config_, options.cache, options.context, available_memory());
}

void Engine::plan_gpu(const EngineOptions& options, const cuda::DeviceInfo& device) {
  numerics_ = gpu_numerics(options, config_, device);
  const Placement placement = plan_on_gpu(options, config_, weights_, device);
  gpu_ = device.ordinal;
  host_experts_ = placement.host_experts > 0;
  gpu_plan_ = fmt::format("{}: {}", device.name, placement.text());
  if (host_experts_) {
    predicted_decode_ = predict_decode(config_, weights_, device, *threads_);
    gpu_plan_ += fmt::format(", at most {:.1f} tok/s", *predicted_decode_);
    const auto memory = available_memory();
    if (memory && *memory < placement.host_experts)
      gpu_plan_ += fmt::format(" once in memory, which has {:.1f} GiB for them: the rest is read from disk",
                               static_cast<double>(*memory) / (1 << 30));
  }
  plan_ = {placement.capacity, placement.cache, gpu_bytes_available(options, device)};
}

std::unique_ptr<Forward> Engine::make_forward(
    std::uint32_t timelines, std::function<void(std::uint64_t done, std::uint64_t total)> uploaded) const {
  if (gpu_) {
    cuda::ForwardOptions options;
    options.numerics = numerics_;
    options.capacity = plan_.context;
    options.timelines = timelines;
    options.device = *gpu_;
    if (host_experts_) options.host_experts = threads_.get();
    options.progress = std::move(uploaded);
    options.copier = [&checkpoint = checkpoint_] {
      return [reader = std::make_shared<ShardReader>(checkpoint)](const std::byte* from, std::span<std::byte> to) {
        reader->read(from, to);
      };
    };
    return cuda::make_forward(config_, weights_, options);
  }
  CpuForwardOptions options;
  options.numerics = numerics_;
  options.capacity = plan_.context;
  options.timelines = timelines;
  return std::make_unique<CpuForward>(config_, weights_, options, *threads_, *exchange_);
}

}  // namespace fathom
