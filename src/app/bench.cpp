// fathom bench: prefill and decode speed at several depths of the context, beside the bandwidth they could have.
#include <algorithm>
#include <chrono>

#include "src/app/bench_report.h"
#include "src/app/commands.h"
#include "src/app/gpu_lock.h"
#include "src/app/load.h"
#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/cpu/bandwidth.h"
#include "src/cpu/forward.h"
#include "src/cpu/random_weights.h"
#include "src/engine/gpu_placement.h"
#include "src/engine/sampler.h"
#include "src/engine/timeline.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

constexpr std::int32_t kCpuDepths[] = {128, 512, 2048}, kGpuDepths[] = {512, 4096, 32768, 131072};
// The deepest of these and what is decoded behind it.
constexpr std::int32_t kGpuContext = 131072 + 1024;
// Decoding is timed for half a second, but for at least 32 tokens and at most 256; the first two fault pages in and
// record graphs.
constexpr double kDecodeSeconds = 0.5;
constexpr int kLeastTokens = 32, kMostTokens = 256, kWarmup = 2, kCountedTokens = 32;

// Ids spread over the vocabulary, the same in every run: equal ids would use equal experts.
std::int32_t id_at(std::int64_t i, int vocab_size) { return static_cast<std::int32_t>((i * 7919 + 13) % vocab_size); }

void stop_if_asked() {
  if (signals::stop_requested()) throw Error(Exit::interrupted, "interrupted");
}

// What is measured and what a token of it reads.
struct Subject {
  Forward& forward;
  const Weights& weights;
  bool gpu = false, host_experts = false;
};

std::int64_t bytes_at(const Subject& s, std::int32_t context) {
  const Config& c = s.forward.config();
  const std::int64_t element = s.forward.numerics().cache == CacheType::f32 ? 4 : 2;
  return bytes_read_per_token(s.weights, c) + std::int64_t{context} * c.num_hidden_layers * c.kv_row() * element;
}

// Decodes behind what the timeline holds. Tokens are drawn as run draws them, but what follows is prescribed, so that
// ids vary.
void decode(Timeline& timeline, const Subject& s, BenchDepth& d) {
  const int vocab = s.forward.config().vocab_size;
  const int most = std::min(kMostTokens, s.forward.capacity() - d.context - kWarmup);
  auto begin = Clock::now();
  for (int i = 0;; ++i) {
    stop_if_asked();
    if (i == kWarmup) {
      begin = Clock::now();
      if (s.host_experts) (void)cuda::take_host_times(s.forward);
    }
    const int timed = i - kWarmup;
    if (timed >= most || (timed >= kLeastTokens && seconds_since(begin) > kDecodeSeconds)) {
      d.decode_s = seconds_since(begin) / timed;
      if (s.host_experts) d.host_s = cuda::take_host_times(s.forward).computing_s / timed;
      return;
    }
    timeline.append_to_draw(id_at(d.context + i, vocab));
    (void)timeline.draw({.temperature = 0}, vocab, timeline.ids(), std::nullopt);
  }
}

// One timeline goes from depth to depth: the prompt of each holds those before.
std::vector<BenchDepth> measure_depths(App& app, const Subject& s) {
  Timeline timeline(s.forward);
  const int vocab = s.forward.config().vocab_size;
  std::vector<BenchDepth> depths;
  std::vector<std::int32_t> ids;
  double prefill_s = 0, prefilled = 0;
  for (std::int32_t context : s.gpu ? std::span<const std::int32_t>(kGpuDepths) : std::span<const std::int32_t>(kCpuDepths)) {
    if (context + kLeastTokens + kWarmup > s.forward.capacity()) break;
    app.terminal.progress(fmt::format("prefill and decode at {} tokens", context));
    while (static_cast<std::int32_t>(ids.size()) < context) ids.push_back(id_at(static_cast<std::int64_t>(ids.size()), vocab));
    if (depths.empty() && s.gpu) timeline.sync(ids, [](std::size_t) { stop_if_asked(); });  // first launches load kernels
    if (depths.empty()) timeline = Timeline(s.forward);
    // What was decoded at the depth before is part of this prompt and does not run again.
    prefilled += static_cast<double>(ids.size() - timeline.common_prefix(ids));
    const auto begin = Clock::now();
    timeline.sync(ids, [](std::size_t) { stop_if_asked(); });
    prefill_s += seconds_since(begin);
    BenchDepth d{.context = context, .bytes = bytes_at(s, context)};
    d.prefill_s = prefill_s * context / prefilled;
    decode(timeline, s, d);
    depths.push_back(d);
  }
  app.terminal.progress("");
  if (depths.empty())
    throw Error(Exit::context, fmt::format("a context of {} is too small to measure in", s.forward.capacity()),
                s.gpu ? "give --ctx 1024 or more" : "give --ctx 256 or more");
  return depths;
}

// What a token costs beyond its logits. The last of the settings is left to the host where the distribution is flat, as
// that of random weights is.
std::vector<BenchDraw> measure_draws(const Subject& s, std::int32_t position) {
  constexpr int kDraws = 100;
  const int vocab = s.forward.config().vocab_size;
  const Row row{id_at(position, vocab), position, 0, Role::generated};
  const int wanted = 0;
  ForwardCall call;
  call.rows = {&row, 1};
  call.logit_rows = {&wanted, 1};
  call.keep_logits = s.forward.can_draw();
  std::vector<float> logits = s.forward.forward(call).logits;
  std::vector<BenchDraw> draws;
  for (const auto& [how, params] : {std::pair<const char*, SamplingParams>{"greedy", {.temperature = 0}},
                                    {"top-k 50, top-p 0.95, temperature 0.6", {.temperature = 0.6f, .top_k = 50, .top_p = 0.95f}},
                                    {"top-p 0.95, temperature 0.6", {.temperature = 0.6f, .top_p = 0.95f}}}) {
    BenchDraw d{how, 0, !call.keep_logits};
    const auto begin = Clock::now();
    for (int i = 0; i < kDraws; ++i) {
      if (call.keep_logits) {
        if (s.forward.draw({params, vocab, i, std::nullopt})) continue;
        d.on_host = true;
        logits = s.forward.kept_logits();
      }
      (void)sample(logits, vocab, {}, params, i);
    }
    d.microseconds = seconds_since(begin) * 1e6 / kDraws;
    draws.push_back(d);
  }
  return draws;
}

double cpu_bandwidth(App& app, Threads& threads) {
  // Beyond every cache, within what is free.
  const std::uint64_t most = available_memory().value_or(std::uint64_t{8} << 30) / 2;
  const auto bytes = static_cast<std::int64_t>(std::min<std::uint64_t>(std::uint64_t{4} << 30, most));
  app.terminal.progress("measuring read bandwidth");
  return cpu::measure_read_bandwidth(threads, bytes);
}

BenchReport measure(App& app, const Subject& s, const std::string& name, const cuda::DeviceInfo* device, Threads& threads) {
  BenchReport r;
  r.model = name;
  r.placement = s.forward.describe();
  r.numerics = describe(s.forward.numerics());
  r.bytes_total = s.weights.bytes_total;
  r.depths = measure_depths(app, s);
  r.draws = measure_draws(s, r.depths.back().context);
  const Config& c = s.forward.config();
  if (s.host_experts)
    r.host = BenchHost{expert_bytes_per_token(s.weights, c), cuda::host_expert_rate(s.forward, 8), cpu_bandwidth(app, threads)};
  if (device != nullptr) {
    app.terminal.progress("measuring stages");
    const std::int32_t at = r.depths.back().context;
    const cuda::ExpertUse use = cuda::expert_use(s.forward, at, kCountedTokens);
    r.experts = use.choices;
    r.expert_tokens = kCountedTokens;
    for (const cuda::StageTime& t : cuda::stage_times(s.forward, at, s.host_experts ? 2 : 20))
      r.stages.push_back({t.stages, t.milliseconds, t.launches});
    r.read_rate = cuda::read_bandwidth(device->ordinal, std::uint64_t{1} << 30);
  } else {
    r.read_rate = cpu_bandwidth(app, threads);
  }
  app.terminal.progress("");
  return r;
}

// The config of --random-weights, a file or a directory, cut to --layers.
Config config_of(const Options& o) {
  std::string file = *o.random_weights;
  if (!file.ends_with(".json")) file += "/config.json";
  Config config = parse_config(read_input(file, 1u << 20), file);
  if (o.layers) config.num_hidden_layers = std::min(config.num_hidden_layers, *o.layers);
  config.first_k_dense_replace = std::min(config.first_k_dense_replace, config.num_hidden_layers);
  // Random weights are FP8 whatever the checkpoint of this config is stored as, so that inputs are rounded as for one.
  config.fp8 = true;
  return config;
}

std::string title(const Options& o, const Config& config) {
  return fmt::format("random FP8 weights of {}, {} layers", *o.random_weights, config.num_hidden_layers);
}

BenchReport bench_random_cpu(App& app, const Config& config, const EngineOptions& engine, Threads& threads) {
  require_no_gpu_wanted(engine);
  app.terminal.progress("filling random weights");
  const cpu::RandomWeights random = cpu::random_weights(config, threads);
  CpuForwardOptions options;
  options.numerics = cpu_numerics(engine);
  options.capacity = plan_cpu(config, engine.cache, engine.context, available_memory()).context;
  Exchange alone;
  CpuForward forward(config, random.weights, options, threads, alone);
  return measure(app, {forward, random.weights}, title(app.options, config), nullptr, threads);
}

BenchReport bench_random_gpu(App& app, const Config& config, const EngineOptions& engine, const cuda::DeviceInfo& device,
                             Threads& threads) {
  Weights weights = weights_of_shape(config, true);
  const Placement placement = plan_on_gpu(engine, config, weights, device);
  weights.bytes_total = static_cast<std::int64_t>(placement.weights + placement.host_experts);
  cuda::ForwardOptions options;
  options.numerics = gpu_numerics(engine, config, device);
  options.capacity = placement.capacity;
  options.device = device.ordinal;
  options.random_weights = 1;
  if (placement.host_experts > 0) options.host_experts = &threads;
  warn_of_shared_gpu(app);
  app.terminal.detail(fmt::format("{}: {}", device.name, placement.text()));
  app.terminal.progress("filling random weights");
  const std::unique_ptr<Forward> forward = cuda::make_forward(config, weights, options);
  return measure(app, {*forward, weights, true, placement.host_experts > 0}, title(app.options, config), &device, threads);
}

BenchReport bench_checkpoint(App& app, const EngineOptions& options, const cuda::DeviceInfo* device, Threads& threads) {
  const LoadedModel model = load_model(app, options);
  const std::unique_ptr<Forward> forward = forward_of(app, *model.engine);
  return measure(app, {*forward, model.engine->weights(), device != nullptr, model.engine->experts_on_host()}, model.name,
                 device, threads);
}

}  // namespace

Exit bench_command(App& app) {
  EngineOptions options = engine_options_of(app);
  options.tokenizer_required = false;
  cuda::NoDevice none;
  const std::optional<cuda::DeviceInfo> gpu = choose_gpu(options, &none);
  // Of a checkpoint its load says it.
  if (!gpu && none.present && app.options.random_weights) options.gpu_unusable(none.why);
  if (gpu) options.usual_context = kGpuContext;
  if (gpu) options.gpu = gpu->ordinal, lock_gpu(app, *gpu);
  Threads threads(options.threads.value_or(usable_cores()));
  BenchReport report;
  if (app.options.random_weights) {
    const Config config = config_of(app.options);
    report = gpu ? bench_random_gpu(app, config, options, *gpu, threads) : bench_random_cpu(app, config, options, threads);
  } else {
    report = bench_checkpoint(app, options, gpu ? &*gpu : nullptr, threads);
  }
  app.terminal.out().text(app.options.json  ? bench_json(report)
                          : app.options.csv ? bench_csv(report)
                                            : bench_text(report));
  app.terminal.out().end_text();
  return Exit::ok;
}

}  // namespace fathom
