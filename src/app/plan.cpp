#include "src/app/plan.h"

#include <algorithm>
#include <cmath>

#include "cuda/device.h"
#include "src/app/load.h"
#include "src/base/text.h"
#include "src/base/threads.h"
#include "src/cpu/bandwidth.h"
#include "src/engine/engine.h"

namespace fathom {
namespace {

// Well beyond every cache, and read in a moment. A smaller model is measured at its own size: caches may hold it.
constexpr std::uint64_t kMeasured = std::uint64_t{1} << 30;

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1u << 30); }

double read_bandwidth(const EngineOptions& options, const PlanReport& r) {
  const std::uint64_t bytes = std::min(kMeasured, r.weights_bytes);
  if (r.backend == "cuda") return cuda::read_bandwidth(choose_gpu(options)->ordinal, bytes);
  Threads threads(options.threads.value_or(usable_cores()));
  return cpu::measure_read_bandwidth(threads, static_cast<std::int64_t>(std::min(bytes, r.available_bytes.value_or(bytes) / 2)));
}

json::Value text(std::string_view s) { return json::Value(std::string(s)); }
json::Value number(std::uint64_t n) { return json::Value(std::uint64_t{n}); }
json::Value rate(std::optional<double> v) { return v ? json::Value(std::round(*v * 10) / 10) : json::Value(); }

}  // namespace

std::optional<double> PlanReport::most_tokens_per_s(std::int32_t positions) const {
  if (!fits() || from_disk || context == 0) return std::nullopt;
  if (predicted_decode) return predicted_decode;
  const double cache = static_cast<double>(cache_bytes) / context * positions;
  return read_bytes_per_s / (static_cast<double>(bytes_per_token) + cache);
}

PlanReport plan_here(App& app, const ResolvedModel& model) {
  EngineOptions options = engine_options_of(app);
  options.tokenizer_required = false;
  options.gpu_chosen = {};  // nothing will run: no lock
  PlanReport r;
  try {
    const auto engine = Engine::load(model.files, options);
    r.backend = std::string(engine->backend());
    r.predicted_decode = engine->predicted_decode();
    r.context = engine->context();
    r.weights_bytes = static_cast<std::uint64_t>(engine->weights().bytes_total);
    r.bytes_per_token = static_cast<std::uint64_t>(engine->weights().bytes_per_token);
    r.cache_bytes = engine->plan().cache_bytes;
    r.available_bytes = engine->plan().available;
    r.from_disk = r.backend == "cpu" && r.available_bytes && r.weights_bytes + r.cache_bytes > *r.available_bytes;
    r.where = !engine->gpu_plan().empty() ? engine->gpu_plan()
                                          : fmt::format("weights {:.2f} GiB mapped + cache {:.2f} GiB ({} positions), committed as it fills",
                                                        gib(r.weights_bytes), gib(r.cache_bytes), r.context);
  } catch (const Error& e) {
    if (e.code() != Exit::out_of_memory && e.code() != Exit::unsupported) throw;
    r.why = e.what();
    r.remedy = e.remedy();
    return r;
  }
  app.terminal.progress("measuring read bandwidth");
  r.read_bytes_per_s = read_bandwidth(options, r);
  app.terminal.progress("");
  return r;
}

json::Value plan_value(const PlanReport& r) {
  json::Object o{{"fits", json::Value(r.fits())}};
  if (!r.fits()) {
    o.emplace_back("why", text(r.why));
    if (!r.remedy.empty()) o.emplace_back("remedy", text(r.remedy));
    return json::Value(std::move(o));
  }
  o.emplace_back("backend", text(r.backend));
  o.emplace_back("placement", text(r.where));
  o.emplace_back("context", json::Value(std::int64_t{r.context}));
  o.emplace_back("weights_bytes", number(r.weights_bytes));
  o.emplace_back("cache_bytes", number(r.cache_bytes));
  o.emplace_back("available_bytes", r.available_bytes ? number(*r.available_bytes) : json::Value());
  o.emplace_back("weights_exceed_memory", json::Value(r.from_disk));
  o.emplace_back("read_gb_per_s", json::Value(std::round(r.read_bytes_per_s / 1e7) / 100));
  o.emplace_back("decode_tps_at_most", rate(r.most_tokens_per_s(0)));
  o.emplace_back("decode_tps_at_most_full_context", rate(r.most_tokens_per_s(r.context)));
  return json::Value(std::move(o));
}

std::string plan_text(const PlanReport& r) {
  std::string out;
  const auto line = [&](std::string_view key, const std::string& value) { out += fmt::format("  {:<12} {}\n", key, value); };
  if (!r.fits()) {
    line("plan", fmt::format("does not run here: {}", r.why));
    if (!r.remedy.empty()) line("", r.remedy);
    return out;
  }
  line("plan", fmt::format("{}: {}{}", r.backend, r.where,
                           r.available_bytes ? fmt::format("; {:.2f} GiB available", gib(*r.available_bytes)) : ""));
  if (r.from_disk)
    line("prediction", "the weights exceed the memory: every token reads from disk, and its speed decides");
  else
    line("prediction", fmt::format("decode at most {:.1f} tok/s, {:.1f} with a full context: {} bytes of weights per token, memory reads at {:.1f} GB/s",
                                   *r.most_tokens_per_s(0), *r.most_tokens_per_s(r.context), grouped(r.bytes_per_token),
                                   r.read_bytes_per_s / 1e9));
  return out;
}

}  // namespace fathom
