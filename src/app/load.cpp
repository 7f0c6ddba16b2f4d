#include "src/app/load.h"

#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <chrono>

#include "src/app/gpu_lock.h"
#include "src/app/input.h"
#include "src/app/progress.h"
#include "src/base/descriptor.h"
#include "src/base/text.h"
#include "src/model/shards.h"
#include "tokenizer/templates.h"

namespace fathom {
namespace {

constexpr double kLongLoad = 2;  // seconds

BackendChoice backend_of(const Options& o) {
  return o.backend == "cuda" ? BackendChoice::cuda : o.backend == "cpu" ? BackendChoice::cpu : BackendChoice::automatic;
}

// --template: a built-in name for the engine to know, or the text of a file.
std::optional<std::string> template_of(App& app) {
  const auto& wanted = app.options.chat_template;
  if (!wanted) return std::nullopt;
  const std::vector<std::string_view> names = builtin_template_names();
  if (std::find(names.begin(), names.end(), *wanted) != names.end()) return wanted;
  const bool path = wanted->find('/') != wanted->npos || wanted->find('.') != wanted->npos;
  if (path) return read_prompt_file(*wanted, 1u << 20, app.terminal);
  throw Error(Exit::usage, fmt::format("--template: there is no template '{}'", wanted->substr(0, 80)),
              fmt::format("give one of {}, or a Jinja file", fmt::join(names, ", ")));
}

// 53 bits, so that every reader of JSON keeps the number exact.
std::uint64_t random_seed() {
  std::uint64_t v = 0;
  if (::getrandom(&v, sizeof v, 0) != sizeof v) throw Error(Exit::io, "cannot read random bytes", "give --seed");
  return v >> 11;
}

// The GPU of --gpus. Tensor parallelism over several is not there yet.
std::optional<int> gpu_of(const Options& o) {
  if (o.backend == "cpu" || !o.gpus) return std::nullopt;
  int ordinal = 0;
  const char* end = o.gpus->data() + o.gpus->size();
  const auto [stop, error] = std::from_chars(o.gpus->data(), end, ordinal);
  if (error == std::errc() && stop != end && *stop == ',')
    throw Error(Exit::unsupported, fmt::format("--gpus {}: one GPU at a time for now", *o.gpus), "name one ordinal");
  if (error != std::errc() || stop != end || ordinal < 0)
    throw Error(Exit::usage, fmt::format("--gpus {}: expected the ordinal of a GPU", *o.gpus));
  return ordinal;
}

std::string plan_line(const Engine& engine, const std::string& model) {
  if (!engine.gpu_plan().empty())
    return fmt::format("{}: {}; {}", model, engine.gpu_plan(), describe(engine.numerics()));
  return fmt::format("{}: {:.1f} MiB of weights, {:.1f} MiB read per token; context {} ({:.1f} MiB of cache when full); {}",
                     model, static_cast<double>(engine.weights().bytes_total) / (1 << 20),
                     static_cast<double>(engine.weights().bytes_per_token) / (1 << 20), engine.context(),
                     static_cast<double>(engine.plan().cache_bytes) / (1 << 20), describe(engine.numerics()));
}

}  // namespace

std::string describe(const Numerics& n) {
  return fmt::format("cache {}, prompt {}, generated {}", name(n.cache), name(n.prompt_activations),
                     name(n.generated_activations));
}

ResolvedModel model_of(App& app) {
  const auto wanted = app.options.model ? app.options.model : app.environment.model;
  ResolvedModel m = resolve_model(wanted, app.environment, app.config);
  if (m.builtin)
    app.terminal.warning("no model given with -m: the built-in Minnow answers");
  return m;
}

FileSet files_of(App& app) { return model_of(app).files; }

EngineOptions engine_options_of(App& app) {
  const Options& o = app.options;
  EngineOptions options;
  options.backend = backend_of(o);
  options.cache = o.cache;
  options.activations = o.activations;
  options.threads = o.threads;
  options.gpu = gpu_of(o);
  options.gpu_memory = o.gpu_memory;
  options.experts = o.experts == "host"  ? ExpertPlace::host
                    : o.experts == "gpu" ? ExpertPlace::gpu
                                         : ExpertPlace::automatic;
  if (options.experts == ExpertPlace::gpu && options.backend == BackendChoice::cpu)
    throw Error(Exit::usage, "--experts gpu and --backend cpu exclude each other", "leave --experts at auto");
  options.context = o.ctx;
  options.mmap = o.mmap;
  options.check = o.check == CheckLevel::none     ? WeightCheck::none
                  : o.check == CheckLevel::values ? WeightCheck::values
                                                  : WeightCheck::quick;
  options.chat_template = template_of(app);
  options.progress = [&](std::string_view what) { app.terminal.progress(what); };
  options.devices = app.hooks.devices;
  options.gpu_chosen = [&](const cuda::DeviceInfo& device) { lock_gpu(app, device); };
  options.gpu_unusable = [&](std::string_view why) {
    app.terminal.warning(fmt::format("{}: running on the CPU (--backend cpu says so without this warning)", why));
  };
  options.bytes = [&, phase = std::string(), shown = std::shared_ptr<Progress>()](std::string_view what, std::uint64_t done, std::uint64_t total) mutable {
    if (phase != what) shown = std::make_shared<Progress>(app.terminal, phase = std::string(what));
    shown->bytes(done, total);
  };
  return options;
}

LoadedModel load_model(App& app, bool tokenizer_required) {
  EngineOptions options = engine_options_of(app);
  options.tokenizer_required = tokenizer_required;
  return load_model(app, options);
}

LoadedModel load_model(App& app, const EngineOptions& options) {
  const ResolvedModel model = model_of(app);
  LoadedModel loaded{model.name, repairable(model.files, [&] { return Engine::load(model.files, options); })};
  app.terminal.progress("");
  warn_of_shared_gpu(app);
  const std::int64_t usual = std::min<std::int64_t>(options.usual_context, loaded.engine->config().max_position_embeddings);
  if (!options.context && loaded.engine->context() < usual)
    app.terminal.notice(fmt::format("context {}: as much as the memory holds", grouped(static_cast<std::uint64_t>(loaded.engine->context()))));
  app.terminal.detail(plan_line(*loaded.engine, loaded.name));
  if (app.terminal.verbose() > 1)
    for (const std::string& note : loaded.engine->notes()) app.terminal.detail(note);
  return loaded;
}

std::unique_ptr<Forward> forward_of(App& app, const Engine& engine) {
  if (app.hooks.make_forward) return app.hooks.make_forward(engine);
  const auto begin = std::chrono::steady_clock::now();
  std::optional<Progress> uploading(std::in_place, app.terminal, "uploading");
  auto forward = engine.make_forward(1, [&](std::uint64_t done, std::uint64_t total) { uploading->bytes(done, total); });
  uploading.reset();
  // Who has waited wants to know for what; a model that is there at once has nothing to explain. -v has said it before.
  const double waited = engine.load_seconds() + std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (waited > kLongLoad && app.terminal.verbose() == 0)
    app.terminal.notice(fmt::format("{} ({})", plan_line(engine, engine.label()), duration_text(waited)));
  return forward;
}

SamplingParams sampling_of(const Options& o, const GenerationConfig& generation) {
  SamplingParams p = default_sampling(generation);
  p.temperature = o.temp.value_or(p.temperature);
  p.top_p = o.top_p.value_or(p.top_p);
  p.top_k = o.top_k.value_or(p.top_k);
  p.min_p = o.min_p.value_or(p.min_p);
  p.repeat_penalty = o.repeat_penalty.value_or(p.repeat_penalty);
  p.presence_penalty = o.presence_penalty.value_or(p.presence_penalty);
  p.frequency_penalty = o.frequency_penalty.value_or(p.frequency_penalty);
  p.seed = o.seed ? *o.seed : random_seed();
  return p;
}

}  // namespace fathom
