#include "src/engine/engine.h"

#include <algorithm>
#include <chrono>

#include "cuda/device.h"
#include "src/base/error.h"
#include "src/cpu/forward.h"

namespace fathom {
namespace {

// The backend that is to run. Never falls back silently: `cuda` without a usable GPU is an error.
void check_backend(const EngineOptions& options) {
  if (options.backend != BackendChoice::cuda) return;
  std::string why;
  const auto devices = cuda::devices(&why);
  if (devices.empty()) throw Error(Exit::unsupported, fmt::format("--backend cuda: {}", why), "use --backend cpu");
  throw Error(Exit::unsupported, "--backend cuda: generation on a GPU is not part of this build", "use --backend cpu");
}

Numerics numerics_of(const EngineOptions& options) {
  const ActivationType a = options.activations.value_or(ActivationType::f32);
  return {options.cache, a, a};
}

}  // namespace

Engine::Engine(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
Engine::~Engine() = default;

std::unique_ptr<Engine> Engine::load(FileSet files, const EngineOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const auto say = [&](std::string_view what) {
    if (options.progress) options.progress(what);
  };
  check_backend(options);
  // The config first: a model of another family is refused by name, not by its tensors.
  Config config = read_config(files);
  const bool mmap = options.mmap.value_or(!files.on_disk() || !on_network_file_system(files.label()));
  say("checking shards");
  std::unique_ptr<Engine> engine(new Engine(Checkpoint::open(std::move(files), {.mmap = mmap})));
  engine->config_ = std::move(config);
  engine->generation_ = read_generation_config(engine->checkpoint_.files(), engine->config_.vocab_size);
  say("binding weights");
  std::vector<std::string> unknown;
  engine->weights_ = bind_weights(engine->checkpoint_, engine->config_, {}, &unknown);
  engine->notes_ = engine->checkpoint_.notes();
  if (!unknown.empty())
    engine->notes_.push_back(fmt::format("{} tensors are not used, the first is {}", unknown.size(), unknown.front()));
  say("reading the tokenizer");
  engine->load_text(options);
  engine->numerics_ = numerics_of(options);
  engine->plan_ = plan_cpu(engine->config_, options.cache, options.context, available_memory());
  engine->threads_ = std::make_unique<Threads>(options.threads.value_or(usable_cores()));
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

std::unique_ptr<Forward> Engine::make_forward(std::uint32_t timelines) const {
  CpuForwardOptions options;
  options.numerics = numerics_;
  options.capacity = plan_.context;
  options.timelines = timelines;
  return std::make_unique<CpuForward>(config_, weights_, options, *threads_, *exchange_);
}

}  // namespace fathom
