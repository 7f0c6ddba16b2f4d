// fathom inspect and fathom models: what is in a checkpoint, and which there are. Headers only.
#include <algorithm>

#include "src/app/commands.h"
#include "src/app/load.h"
#include "src/app/plan.h"
#include "src/app/wrap.h"
#include "src/base/text.h"
#include "src/model/shards.h"
#include "src/model/rope.h"

namespace fathom {
namespace {

json::Value text(std::string_view s) { return json::Value(std::string(s)); }
json::Value integer(std::int64_t n) { return json::Value(std::int64_t{n}); }

std::string_view name(ScoringFunc f) { return f == ScoringFunc::softmax ? "softmax" : "sigmoid"; }
std::string_view name(TopkMethod m) {
  return m == TopkMethod::greedy ? "greedy" : m == TopkMethod::noaux_tc ? "noaux_tc" : "group_limited_greedy";
}

// Parameters by stored type: "F8_E4M3" -> elements.
std::map<std::string, std::uint64_t> elements_by_type(const Checkpoint& checkpoint) {
  std::map<std::string, std::uint64_t> counts;
  for (const auto& [tensor, view] : checkpoint.tensors())
    counts[std::string(dtype_name(view.dtype))] += view.bytes / dtype_size(view.dtype);
  return counts;
}

json::Value config_value(const Config& c) {
  json::Object o{{"model_type", text(c.model_type)},
                 {"architecture", text(c.architecture)},
                 {"hidden_size", integer(c.hidden_size)},
                 {"num_hidden_layers", integer(c.num_hidden_layers)},
                 {"num_attention_heads", integer(c.num_attention_heads)},
                 {"q_lora_rank", c.q_lora_rank == 0 ? json::Value() : integer(c.q_lora_rank)},
                 {"kv_lora_rank", integer(c.kv_lora_rank)},
                 {"qk_nope_head_dim", integer(c.qk_nope_head_dim)},
                 {"qk_rope_head_dim", integer(c.qk_rope_head_dim)},
                 {"v_head_dim", integer(c.v_head_dim)},
                 {"intermediate_size", integer(c.intermediate_size)},
                 {"moe_intermediate_size", integer(c.moe_intermediate_size)},
                 {"n_shared_experts", integer(c.n_shared_experts)},
                 {"first_k_dense_replace", integer(c.first_k_dense_replace)},
                 {"n_routed_experts", integer(c.router.n_routed_experts)},
                 {"num_experts_per_tok", integer(c.router.num_experts_per_tok)},
                 {"n_group", integer(c.router.n_group)},
                 {"topk_group", integer(c.router.topk_group)},
                 {"scoring_func", text(name(c.router.scoring_func))},
                 {"topk_method", text(name(c.router.topk_method))},
                 {"num_nextn_predict_layers", integer(c.num_nextn_predict_layers)},
                 {"vocab_size", integer(c.vocab_size)},
                 {"max_position_embeddings", integer(c.max_position_embeddings)},
                 {"yarn_factor", c.yarn ? json::Value(c.yarn->factor) : json::Value()},
                 {"fp8", json::Value(bool{c.fp8})}};
  return json::Value(std::move(o));
}

struct Facts {
  ResolvedModel model;
  Config config;
  Checkpoint checkpoint;
  Weights weights;
  std::vector<std::string> unknown;
  std::string tokenizer;  // or why there is none
  std::uint64_t bytes = 0;
};

Facts read_facts(App& app) {
  ResolvedModel model = app.options.positionals.empty()
                            ? model_of(app)
                            : resolve_model(app.options.positionals[0], app.environment, app.config);
  Config config = repairable(model.files, [&] { return read_config(model.files); });
  Checkpoint checkpoint = repairable(model.files, [&] { return Checkpoint::open(model.files); });
  Facts f{std::move(model), std::move(config), std::move(checkpoint), {}, {}, {}, 0};
  f.weights = bind_weights(f.checkpoint, f.config, {}, &f.unknown);
  for (const Checkpoint::Shard& s : f.checkpoint.shards()) f.bytes += s.size;
  try {
    f.tokenizer = Tokenizer::load(f.checkpoint.files())->describe();
  } catch (const Error& e) {
    f.tokenizer = fmt::format("none: {}", e.what());
  }
  return f;
}

std::string inspect_json(const Facts& f, bool tensors, const std::optional<PlanReport>& plan) {
  json::Object elements;
  for (const auto& [type, n] : elements_by_type(f.checkpoint))
    elements.emplace_back(type, integer(static_cast<std::int64_t>(n)));
  json::Array notes;
  for (const std::string& n : f.checkpoint.notes()) notes.push_back(text(n));
  for (const std::string& n : f.unknown) notes.push_back(text("not used: " + n));
  json::Object o{{"schema", text("fathom.inspect/1")},
                 {"model", text(f.model.name)},
                 {"fingerprint", text(f.checkpoint.fingerprint())},
                 {"config", config_value(f.config)},
                 {"shards", integer(static_cast<std::int64_t>(f.checkpoint.shards().size()))},
                 {"bytes", json::Value(std::uint64_t{f.bytes})},
                 {"bytes_per_token", integer(f.weights.bytes_per_token)},
                 {"elements", json::Value(std::move(elements))},
                 {"tokenizer", text(f.tokenizer)},
                 {"notes", json::Value(std::move(notes))}};
  if (plan) o.emplace_back("plan", plan_value(*plan));
  if (tensors) {
    json::Array list;
    for (const auto& [tensor, view] : f.checkpoint.tensors()) {
      json::Array shape;
      for (std::int64_t d : view.shape) shape.push_back(integer(d));
      list.emplace_back(json::Object{{"name", text(tensor)},
                                     {"dtype", text(dtype_name(view.dtype))},
                                     {"shape", json::Value(std::move(shape))},
                                     {"shard", text(f.checkpoint.shards()[f.checkpoint.shard_of(tensor)].name)}});
    }
    o.emplace_back("tensors", json::Value(std::move(list)));
  }
  return json::dump(json::Value(std::move(o))) + "\n";
}

std::string inspect_text(const Facts& f, bool tensors, const std::optional<PlanReport>& plan) {
  const Config& c = f.config;
  std::string out = fmt::format("{}  ({}, {})\n", f.model.name, c.model_type, c.architecture);
  const auto line = [&](std::string_view key, const std::string& value) { out += fmt::format("  {:<12} {}\n", key, value); };
  line("layers", fmt::format("{} ({} dense), hidden {}", c.num_hidden_layers, c.first_k_dense_replace, c.hidden_size));
  line("attention", fmt::format("{} heads; q_lora_rank {}, kv_lora_rank {}, nope {} + rope {}, v {}",
                                c.num_attention_heads, c.q_lora_rank == 0 ? "none" : std::to_string(c.q_lora_rank), c.kv_lora_rank, c.qk_nope_head_dim,
                                c.qk_rope_head_dim, c.v_head_dim));
  line("experts", fmt::format("{} of {} routed (groups {} of {}), {} shared; {}, {}", c.router.num_experts_per_tok,
                              c.router.n_routed_experts, c.router.topk_group, c.router.n_group, c.n_shared_experts,
                              name(c.router.scoring_func), name(c.router.topk_method)));
  line("context", fmt::format("{}{}", c.max_position_embeddings,
                              c.yarn ? fmt::format(" (YaRN {} x {})", c.yarn->factor,
                                                   c.yarn->original_max_position_embeddings)
                                     : std::string()));
  line("MTP", c.num_nextn_predict_layers == 0 ? "none" : counted(static_cast<std::size_t>(c.num_nextn_predict_layers), "layer"));
  line("vocabulary", fmt::format("{}; {}", c.vocab_size, f.tokenizer));
  std::string types;
  for (const auto& [type, n] : elements_by_type(f.checkpoint))
    types += fmt::format("{}{} {}", types.empty() ? "" : ", ", grouped(n), type);
  line("stored", types);
  line("size", fmt::format("{} bytes in {}; {} bytes read per token", grouped(f.bytes),
                           counted(f.checkpoint.shards().size(), "shard"), grouped(static_cast<std::uint64_t>(f.weights.bytes_per_token))));
  line("fingerprint", f.checkpoint.fingerprint());
  for (const std::string& note : f.checkpoint.notes()) line("note", note);
  if (!f.unknown.empty())
    line("note", fmt::format("{} tensors are not used, the first is {}", f.unknown.size(), printable(f.unknown[0])));
  if (plan) out += plan_text(*plan);
  if (tensors)
    for (const auto& [tensor, view] : f.checkpoint.tensors())
      out += fmt::format("{}  {}  {}\n", printable(tensor), describe(view),
                         f.checkpoint.shards()[f.checkpoint.shard_of(tensor)].name);
  return out;
}

// "689.1 GB", "20.4 MB"; "-" for a model of which nothing could be read.
std::string size_text(std::uint64_t bytes) {
  if (bytes == 0) return "-";
  const auto b = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", b * 1e-6) : fmt::format("{:.1f} GB", b * 1e-9);
}

// The first line of what is wrong with a model, without the long path that its name stands for.
std::string why_not(const Error& e, const CachedModel& m) {
  std::string text(e.what());
  text.resize(std::min(text.find('\n'), text.size()));
  for (const std::string& lead : {m.directory + ": ", m.directory + "/", "cannot use " + m.name + ": "})
    if (text.starts_with(lead)) text.erase(0, lead.size());
  return fmt::format("{}: {}", exit_name(e.code()), text);
}

struct Fit {
  bool fits = false;
  std::string text;
};

// Whether a run with these flags would have the memory it wants.
Fit fit_here(const EngineOptions& options, const Config& config, const Weights& weights,
             const std::optional<cuda::DeviceInfo>& gpu) {
  try {
    if (gpu) {
      const Placement p = plan_on_gpu(options, config, weights, *gpu);
      if (p.host_experts == 0) return {true, "fits on the GPU"};
      const auto memory = available_memory();
      const bool fits = !memory || p.host_experts <= *memory;
      return {fits, fits ? "fits with its experts in host memory" : "larger than the GPU's and the host's free memory"};
    }
    const CpuPlan p = plan_cpu(config, options.cache, options.context, available_memory());
    // The CPU maps the weights: what does not fit is read from disk again for every token.
    const bool fits = !p.available || static_cast<std::uint64_t>(weights.bytes_total) + p.cache_bytes <= *p.available;
    return {fits, fits ? "fits" : "larger than the free memory"};
  } catch (const Error& e) {
    if (e.code() != Exit::out_of_memory) throw;
    return {false, "larger than the free memory"};
  }
}

// The longest lines hold sizes and placements: broken to suit a terminal, whole elsewhere.
void show_facts(Screen& out, const std::string& text) {
  out.text(out.is_terminal() ? wrap(text, static_cast<std::size_t>(out.width())) : text);
  out.end_text();
}

}  // namespace

Exit inspect_command(App& app) {
  const Facts facts = read_facts(app);
  std::optional<PlanReport> plan;
  if (app.options.plan) plan = plan_here(app, facts.model);
  if (app.options.json) {
    app.terminal.out().raw(inspect_json(facts, app.options.tensors, plan));
  } else {
    show_facts(app.terminal.out(), inspect_text(facts, app.options.tensors, plan));
  }
  return Exit::ok;
}

Exit models_command(App& app) {
  json::Array list;
  std::string out;
  const EngineOptions options = engine_options_of(app);
  const std::optional<cuda::DeviceInfo> gpu = choose_gpu(options);
  const std::vector<CachedModel> models = cached_models(app.environment);
  std::size_t width = 0;
  for (const CachedModel& m : models) width = std::max(width, m.argument().size());
  for (const CachedModel& m : models) {
    json::Object o{{"name", text(m.name)}, {"revision", text(m.revision)}, {"directory", text(m.directory)}};
    std::string status, family;
    Fit fit;
    std::uint64_t bytes = 0;
    try {
      const FileSet files = FileSet::directory(m.directory);
      const Config config = read_config(files);
      family = config.model_type;
      const Checkpoint checkpoint = Checkpoint::open(files);
      for (const Checkpoint::Shard& s : checkpoint.shards()) bytes += s.size;
      fit = fit_here(options, config, bind_weights(checkpoint, config), gpu);
      status = "complete, " + fit.text;
    } catch (const Error& e) {
      status = why_not(e, m);
    }
    o.emplace_back("family", text(family));
    o.emplace_back("bytes", json::Value(std::uint64_t{bytes}));
    o.emplace_back("complete", json::Value(status.starts_with("complete")));
    o.emplace_back("fits", json::Value(bool{fit.fits}));
    o.emplace_back("status", text(status));
    out += fmt::format("{:<{}}  {:<11} {:>9}  {}\n", m.argument(), width, family.empty() ? "-" : family, size_text(bytes), status);
    list.emplace_back(std::move(o));
  }
  if (app.options.json) {
    app.terminal.out().raw(json::dump(json::Value(json::Object{{"schema", text("fathom.models/1")},
                                                               {"models", json::Value(std::move(list))}})) +
                           "\n");
    return Exit::ok;
  }
  if (out.empty())
    app.terminal.notice(fmt::format("no models in {}", app.environment.hf_cache.value_or("the Hugging Face cache (no HOME)")));
  show_facts(app.terminal.out(), out);
  return Exit::ok;
}

}  // namespace fathom
