// fathom bench: prefill and decode speed at several depths of the context, and the bandwidth they could have.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "src/app/commands.h"
#include "src/app/load.h"
#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/cpu/bandwidth.h"
#include "src/cpu/forward.h"
#include "src/cpu/random_weights.h"
#include "src/engine/gpu_placement.h"
#include "src/engine/timeline.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Depth {
  std::int32_t context = 0;  // tokens in the cache when decoding begins
  double prefill_tps = 0, decode_tps = 0, decode_s = 0;
};

// Ids spread over the vocabulary, the same in every run: equal ids would use equal experts.
std::int32_t id_at(std::int64_t i, int vocab_size) { return static_cast<std::int32_t>((i * 7919 + 13) % vocab_size); }

void stop_if_asked() {
  if (signals::stop_requested()) throw Error(Exit::interrupted, "interrupted");
}

// Prefills to `context` tokens in 512-row chunks and decodes `tokens` more. The first two are not timed: they fault
// pages in.
Depth measure(Forward& forward, std::int32_t context, int tokens) {
  Timeline timeline(forward);
  const int vocab = forward.config().vocab_size;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(context));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = id_at(static_cast<std::int64_t>(i), vocab);
  Depth depth{.context = context};
  auto begin = Clock::now();
  timeline.sync(ids, [](std::size_t) { stop_if_asked(); });
  depth.prefill_tps = context / seconds_since(begin);
  constexpr int kWarmup = 2;
  for (int i = 0; i < kWarmup + tokens; ++i) {
    stop_if_asked();
    if (i == kWarmup) begin = Clock::now();
    timeline.append(id_at(context + i, vocab));
  }
  depth.decode_s = seconds_since(begin);
  depth.decode_tps = tokens / depth.decode_s;
  return depth;
}

struct Subject {
  std::string name, where;
  std::int64_t bytes_per_token = 0, bytes_total = 0;
  std::vector<Depth> depths;
};

Subject run_depths(App& app, Forward& forward, const std::string& name, const Weights& weights) {
  Subject s{name, forward.describe(), weights.bytes_per_token, weights.bytes_total, {}};
  for (std::int32_t context : {128, 512, 2048}) {
    if (context + 40 > forward.capacity()) break;
    app.terminal.progress(fmt::format("prefill and decode at {} tokens", context));
    s.depths.push_back(measure(forward, context, 32));
  }
  app.terminal.progress("");
  if (s.depths.empty())
    throw Error(Exit::context, fmt::format("a context of {} is too small to measure in", forward.capacity()),
                "give --ctx 256 or more");
  return s;
}

// The config of --random-weights, a file or a directory, cut to --layers.
Config config_of(const Options& o) {
  std::string file = *o.random_weights;
  if (!file.ends_with(".json")) file += "/config.json";
  Config config = parse_config(read_input(file, 1u << 20), file);
  if (o.layers) config.num_hidden_layers = std::min(config.num_hidden_layers, *o.layers);
  config.first_k_dense_replace = std::min(config.first_k_dense_replace, config.num_hidden_layers);
  return config;
}

std::string title(const Options& o, const Config& config) {
  return fmt::format("random weights of {}, {} layers", *o.random_weights, config.num_hidden_layers);
}

Subject bench_random_cpu(App& app, const Config& config, const EngineOptions& engine, Threads& threads) {
  app.terminal.progress("filling random weights");
  const cpu::RandomWeights random = cpu::random_weights(config, threads);
  CpuForwardOptions options;
  options.numerics = cpu_numerics(engine);
  options.capacity = plan_cpu(config, engine.cache, engine.context, available_memory()).context;
  Exchange alone;
  CpuForward forward(config, random.weights, options, threads, alone);
  return run_depths(app, forward, title(app.options, config), random.weights);
}

Subject bench_random_gpu(App& app, const Config& config, const EngineOptions& engine, const cuda::DeviceInfo& device) {
  const Weights weights = weights_of_shape(config, true);
  cuda::ForwardOptions options;
  options.numerics = gpu_numerics(engine, config, device);
  options.capacity = static_cast<std::int32_t>(
      std::min<std::int64_t>(config.max_position_embeddings, engine.context.value_or(4096)));
  options.device = device.ordinal;
  options.random_weights = 1;
  app.terminal.progress("filling random weights");
  const std::unique_ptr<Forward> forward = cuda::make_forward(config, weights, options);
  return run_depths(app, *forward, title(app.options, config), weights);
}

double cpu_bandwidth(App& app, Threads& threads) {
  // Beyond every cache, within what is free.
  const std::uint64_t most = available_memory().value_or(std::uint64_t{8} << 30) / 2;
  const auto bytes = static_cast<std::int64_t>(std::min<std::uint64_t>(std::uint64_t{4} << 30, most));
  app.terminal.progress("measuring read bandwidth");
  return cpu::measure_read_bandwidth(threads, bytes);
}

json::Value number(double v) { return json::Value(std::round(v * 100) / 100); }
json::Value text(std::string_view s) { return json::Value(std::string(s)); }

std::string as_json(const Subject& s, double bandwidth) {
  json::Array depths;
  for (const Depth& d : s.depths) {
    const double rate = d.decode_tps * static_cast<double>(s.bytes_per_token);
    depths.emplace_back(json::Object{{"context", json::Value(std::int64_t{d.context})},
                                     {"prefill_tps", number(d.prefill_tps)},
                                     {"decode_tps", number(d.decode_tps)},
                                     {"decode_gb_per_s", number(rate / 1e9)},
                                     {"bandwidth_share", number(rate / bandwidth)}});
  }
  return json::dump(json::Value(json::Object{{"schema", text("fathom.bench/1")},
                                             {"model", text(s.name)},
                                             {"placement", text(s.where)},
                                             {"bytes_total", json::Value(std::int64_t{s.bytes_total})},
                                             {"bytes_per_token", json::Value(std::int64_t{s.bytes_per_token})},
                                             {"read_gb_per_s", number(bandwidth / 1e9)},
                                             {"depths", json::Value(std::move(depths))}})) +
         "\n";
}

std::string as_text(const Subject& s, double bandwidth) {
  std::string out = fmt::format("{}\n{}; {:.1f} MB read per token; memory reads at {:.2f} GB/s\n", s.name, s.where,
                                static_cast<double>(s.bytes_per_token) / 1e6, bandwidth / 1e9);
  out += fmt::format("{:>8} {:>14} {:>14} {:>10} {:>12}\n", "context", "prefill tok/s", "decode tok/s", "GB/s", "of reading");
  for (const Depth& d : s.depths) {
    const double rate = d.decode_tps * static_cast<double>(s.bytes_per_token);
    out += fmt::format("{:>8} {:>14.1f} {:>14.2f} {:>10.2f} {:>10.1f} %\n", d.context, d.prefill_tps, d.decode_tps,
                       rate / 1e9, 100 * rate / bandwidth);
  }
  return out;
}

}  // namespace

Exit bench_command(App& app) {
  const EngineOptions options = engine_options_of(app);
  const std::optional<cuda::DeviceInfo> gpu = choose_gpu(options);
  Threads threads(options.threads.value_or(usable_cores()));
  Subject subject;
  if (app.options.random_weights) {
    const Config config = config_of(app.options);
    subject = gpu ? bench_random_gpu(app, config, options, *gpu) : bench_random_cpu(app, config, options, threads);
  } else {
    const LoadedModel model = load_model(app, false);
    const std::unique_ptr<Forward> forward = forward_of(app, *model.engine);
    subject = run_depths(app, *forward, model.name, model.engine->weights());
  }
  const double bandwidth = gpu ? cuda::read_bandwidth(gpu->ordinal) : cpu_bandwidth(app, threads);
  app.terminal.progress("");
  app.terminal.out().text(app.options.json ? as_json(subject, bandwidth) : as_text(subject, bandwidth));
  app.terminal.out().end_text();
  return Exit::ok;
}

}  // namespace fathom
