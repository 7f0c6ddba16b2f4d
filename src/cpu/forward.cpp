#include "src/cpu/forward.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "src/base/error.h"
#include "src/cpu/attention.h"
#include "src/cpu/experts.h"
#include "src/cpu/norm.h"
#include "src/cpu/router.h"

namespace fathom {

// -- the specification: one call per stage ------------------------------------------------------------------

void CpuForward::run(Step step, Activations& a) {
  const float eps = config_.rms_norm_eps;
  const bool in_layer = step.layer >= 0;
  const LayerWeights* w = in_layer ? &layer(step) : nullptr;
  switch (step.stage) {
    case Stage::Embed:
      return embed(weights_.embed_tokens, a.rows, a.x);
    case Stage::MtpInput:
      return mtp_input(a);
    case Stage::AttnNorm:
      a.normed.resize(a.x.size());
      return cpu::rms_norm_rows(machine_.threads, a.x, w->input_layernorm, eps, a.normed);
    case Stage::Latents:
      return latents(*w, step.layer, a);
    case Stage::Query:
      return query(*w, a);
    case Stage::Attend:
      a.attn.resize(a.rows.size() * static_cast<std::size_t>(w->o_proj.cols));
      return cpu::attend(machine_,
                         {.config = config_,
                          .cache = cache_,
                          .stream = {RowKind::latent, step.layer},
                          .kv_b_proj = w->kv_b_proj,
                          .rows = a.rows,
                          .q = a.q,
                          .softmax_scale = softmax_scale_,
                          .attn = a.attn.data()},
                         [&] { poll(); });
    case Stage::AttnOut:
      return multiply(w->o_proj, a.attn, rounding(a), a.delta);
    case Stage::AttnReduce:
      return reduce(a);
    case Stage::FfnNorm:
      a.normed.resize(a.x.size());
      return cpu::rms_norm_rows(machine_.threads, a.x, w->post_attention_layernorm, eps, a.normed);
    case Stage::Dense:
      return mlp(*w->dense, a, a.delta);
    case Stage::Route:
      return route_rows(*w, a);
    case Stage::Shared:
      return mlp(*w->shared, a, a.shared);
    case Stage::Routed:
      a.expert_out.resize(a.expert_ids.size() * static_cast<std::size_t>(config_.hidden_size));
      return cpu::routed_experts(machine_,
                                 {.table = w->experts,
                                  .x = a.normed,
                                  .ids = a.expert_ids,
                                  .num_experts_per_tok = config_.router.num_experts_per_tok,
                                  .rounding = rounding(a),
                                  .expert_out = a.expert_out.data()},
                                 [&] { poll(); });
    case Stage::Combine:
      return combine(a);
    case Stage::FfnReduce:
      return reduce(a);
    case Stage::FinalNorm:
      return final_norm(a);
    case Stage::Logits:
      return logits(a);
  }
}

// -- the stages that are no more than a few lines -----------------------------------------------------------

void CpuForward::embed(const Linear& table, std::span<const Row> rows, std::vector<float>& x) {
  const auto n = static_cast<std::size_t>(table.cols);
  x.resize(rows.size() * n);
  for (std::size_t t = 0; t < rows.size(); ++t)
    for (std::size_t c = 0; c < n; ++c) x[t * n + c] = table.at(rows[t].token, static_cast<std::int64_t>(c));
}

// x = eh_proj [enorm(embed(token)); hnorm(hidden_in)]
void CpuForward::mtp_input(Activations& a) {
  const MtpWeights& w = weights_.mtp.front();
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  std::vector<float> embedded, joined(a.rows.size() * 2 * n);
  embed(w.embed_tokens, a.rows, embedded);
  for (std::size_t t = 0; t < a.rows.size(); ++t) {
    const std::span<float> row = std::span(joined).subspan(t * 2 * n, 2 * n);
    cpu::rms_norm(std::span(embedded).subspan(t * n, n), w.enorm, config_.rms_norm_eps, row.first(n));
    cpu::rms_norm(std::span(a.hidden_in).subspan(t * n, n), w.hnorm, config_.rms_norm_eps, row.last(n));
  }
  multiply(w.eh_proj, joined, {}, a.x);
}

// q_latent = norm(q_a x); kv_row = [norm(latent), rotated key] of kv_a x, appended to the cache.
void CpuForward::latents(const LayerWeights& w, int layer, Activations& a) {
  a.q_latent.clear();
  if (w.q_a_proj) {
    multiply(w.q_a_proj, a.normed, rounding(a), a.q_latent);
    cpu::rms_norm_rows(machine_.threads, a.q_latent, w.q_a_layernorm, config_.rms_norm_eps, a.q_latent);
  }
  multiply(w.kv_a_proj, a.normed, rounding(a), a.kv_row);
  const auto n = static_cast<std::size_t>(config_.kv_row()),
             latent = static_cast<std::size_t>(config_.kv_lora_rank);
  cpu::for_rows(
      machine_.threads, static_cast<std::int64_t>(a.rows.size()), [&](std::int64_t begin, std::int64_t end) {
        for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t) {
          const std::span<float> row = std::span(a.kv_row).subspan(t * n, n);
          cpu::rms_norm(row.first(latent), w.kv_a_layernorm, config_.rms_norm_eps, row.first(latent));
          cpu::Rotation(rope_, a.rows[t].position).apply(row.subspan(latent));
          cache_.store({RowKind::latent, layer}, {a.rows[t].timeline, a.rows[t].position}, row);
        }
      });
}

void CpuForward::query(const LayerWeights& w, Activations& a) {
  multiply(w.q_proj, w.q_a_proj ? a.q_latent : a.normed, rounding(a), a.q);
  const auto head = static_cast<std::size_t>(config_.qk_head_dim()),
             nope = static_cast<std::size_t>(config_.qk_nope_head_dim);
  const auto heads = static_cast<std::size_t>(w.q_proj.rows) / head;
  cpu::for_rows(machine_.threads, static_cast<std::int64_t>(a.rows.size()),
                [&](std::int64_t begin, std::int64_t end) {
                  for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t) {
                    const cpu::Rotation rotation(rope_, a.rows[t].position);
                    for (std::size_t h = 0; h < heads; ++h)
                      rotation.apply(std::span(a.q).subspan((t * heads + h) * head + nope, head - nope));
                  }
                });
}

void CpuForward::route_rows(const LayerWeights& w, Activations& a) {
  const RouterRule& rule = config_.router;
  const auto experts = static_cast<std::size_t>(rule.n_routed_experts),
             k = static_cast<std::size_t>(rule.num_experts_per_tok);
  std::vector<float> scores;
  multiply(w.router, a.normed, {}, scores);
  a.expert_ids.resize(a.rows.size() * k);
  a.expert_weights.resize(a.rows.size() * k);
  for (std::size_t t = 0; t < a.rows.size(); ++t)
    cpu::route(rule, std::span(scores).subspan(t * experts, experts), w.e_score_correction_bias,
               std::span(a.expert_ids).subspan(t * k, k), std::span(a.expert_weights).subspan(t * k, k));
}

// delta = sum over slots, in order, of weight times expert output, then shared.
void CpuForward::combine(Activations& a) {
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  const auto k = static_cast<std::size_t>(config_.router.num_experts_per_tok);
  const bool shared = config_.n_shared_experts > 0;
  a.delta.resize(a.rows.size() * n);
  cpu::for_rows(machine_.threads, static_cast<std::int64_t>(a.rows.size()),
                [&](std::int64_t begin, std::int64_t end) {
                  for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t) {
                    float* delta = a.delta.data() + t * n;
                    std::fill_n(delta, n, 0.0f);
                    for (std::size_t slot = t * k; slot < (t + 1) * k; ++slot)
                      for (std::size_t c = 0; c < n; ++c)
                        delta[c] += a.expert_weights[slot] * a.expert_out[slot * n + c];
                    if (shared)
                      for (std::size_t c = 0; c < n; ++c) delta[c] += a.shared[t * n + c];
                  }
                });
}

void CpuForward::reduce(Activations& a) {
  exchange_.reduce(options_.rank, a.delta);
  for (std::size_t i = 0; i < a.x.size(); ++i) a.x[i] += a.delta[i];
}

void CpuForward::final_norm(Activations& a) {
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  const std::vector<float>& weight = a.stack == Stack::main ? weights_.norm : weights_.mtp.front().norm;
  a.normed.resize(a.wanted.size() * n);
  for (std::size_t i = 0; i < a.wanted.size(); ++i)
    cpu::rms_norm(std::span(a.x).subspan(static_cast<std::size_t>(a.wanted[i]) * n, n), weight,
                  config_.rms_norm_eps, std::span(a.normed).subspan(i * n, n));
}

void CpuForward::logits(Activations& a) {
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  const std::size_t rows = a.logit_rows ? a.logit_rows->size() : a.wanted.size();
  std::vector<float> picked, slice;
  for (std::size_t i = 0; a.logit_rows && i < rows; ++i) {
    const float* row = a.normed.data() + static_cast<std::size_t>((*a.logit_rows)[i]) * n;
    picked.insert(picked.end(), row, row + n);
  }
  const Linear& head = a.stack == Stack::main ? weights_.lm_head : weights_.mtp.front().head;
  multiply(head, a.logit_rows ? picked : a.normed, {}, slice);
  exchange_.gather(options_.rank, slice, static_cast<std::int64_t>(rows), a.logits);
}

// Products walk through long prompts in blocks of rows, as they do inside, so that poll() is asked often
// enough.
constexpr std::size_t kPollRows = 128;

void CpuForward::multiply(const Linear& w, std::span<const float> x, cpu::Rounding rounding,
                          std::vector<float>& y) {
  const auto rows = static_cast<std::size_t>(w.rows), cols = static_cast<std::size_t>(w.cols);
  y.resize(x.size() / cols * rows);
  for (std::size_t t = 0; t * cols < x.size(); t += kPollRows) {
    const cpu::Input in(machine_, w, x.subspan(t * cols, std::min(kPollRows * cols, x.size() - t * cols)),
                        rounding);
    cpu::product(machine_, w, in, y.data() + t * rows);
    poll();
  }
}

void CpuForward::mlp(const Mlp& w, const Activations& a, std::vector<float>& y) {
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  y.resize(a.normed.size());
  for (std::size_t t = 0; t * n < a.normed.size(); t += kPollRows) {
    const auto x = std::span(a.normed).subspan(t * n, std::min(kPollRows * n, a.normed.size() - t * n));
    cpu::mlp(machine_, w, x, rounding(a), y.data() + t * n);
    poll();
  }
}

const LayerWeights& CpuForward::layer(Step step) const {
  const int main = config_.num_hidden_layers;
  return step.layer < main ? weights_.layers[static_cast<std::size_t>(step.layer)]
                           : weights_.mtp[static_cast<std::size_t>(step.layer - main)].layer;
}

// What Numerics asks of the inputs of q_a, q, q_b, kv_a, o, gate, up and down.
cpu::Rounding CpuForward::rounding(const Activations& a) const {
  const bool prompt = !a.rows.empty() && a.rows.front().role == Role::prompt;
  return {prompt ? options_.numerics.prompt_activations : options_.numerics.generated_activations,
          config_.ue8m0_activations};
}

// -- a call: split by role, then into chunks ----------------------------------------------------------------

CpuForward::CpuForward(const Config& config, const Weights& weights, const CpuForwardOptions& options,
                       Threads& threads, Exchange& exchange)
    : config_(config),
      weights_(weights),
      options_(options),
      machine_{threads, cpu::kernels_for(options.isa.value_or(cpu::best_isa()))},
      exchange_(exchange),
      rope_(make_rope(config)),
      softmax_scale_(softmax_scale(config)),
      cache_(config, options.numerics.cache, options.capacity, options.timelines, options.mtp) {}

std::string CpuForward::describe() const {
  return fmt::format("cpu {}, {} thread{}", cpu::name(machine_.kernels.isa), machine_.threads.count(),
                     machine_.threads.count() == 1 ? "" : "s");
}

namespace {

bool finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

// Whether what a step has just written is all finite.
bool wrote_finite(Step step, const Activations& a) {
  switch (step.stage) {
    case Stage::Embed:
    case Stage::MtpInput:
    case Stage::AttnReduce:
    case Stage::FfnReduce:
      return finite(a.x);
    case Stage::AttnNorm:
    case Stage::FfnNorm:
    case Stage::FinalNorm:
      return finite(a.normed);
    case Stage::Latents:
      return finite(a.q_latent) && finite(a.kv_row);
    case Stage::Query:
      return finite(a.q);
    case Stage::Attend:
      return finite(a.attn);
    case Stage::AttnOut:
    case Stage::Dense:
    case Stage::Combine:
      return finite(a.delta);
    case Stage::Route:
      return finite(a.expert_weights);
    case Stage::Shared:
      return finite(a.shared);
    case Stage::Routed:
      return finite(a.expert_out);
    case Stage::Logits:
      return finite(a.logits);
  }
  return true;
}

}  // namespace

std::string CpuForward::first_bad_stage(const Row& row) {
  std::string found;
  const int wanted[] = {0};
  const auto before = std::exchange(observer, [&](Step step, const Activations& a) {
    if (!found.empty() || wrote_finite(step, a)) return;
    const std::string_view name = row_of(step.stage).name;
    found = step.layer < 0 ? std::string(name) : fmt::format("layer {}, {}", step.layer, name);
  });
  try {
    ForwardCall call;
    call.rows = std::span(&row, 1);
    call.logit_rows = wanted;
    forward(call);
  } catch (const Error&) {  // stopped, or worse: what was seen until then is all there is
  }
  observer = before;
  return found;
}

ForwardResult CpuForward::forward(const ForwardCall& call) {
  check(call);
  last_poll_ = std::chrono::steady_clock::now();
  ForwardResult result;
  for (std::size_t begin = 0; begin < call.rows.size();) {
    // At most 64 MiB of logits at a time.
    const std::size_t vocab = static_cast<std::size_t>(config_.vocab_size),
                      fit = std::max<std::size_t>((64u << 20) / sizeof(float) / vocab, 1),
                      most = call.take_logits ? std::min(chunk_rows(), fit) : chunk_rows();
    std::size_t end = begin + 1;
    while (end < call.rows.size() && end - begin < most &&
           call.rows[end].role == call.rows[begin].role)
      ++end;
    run_chunk(call, begin, end, result);
    begin = end;
  }
  return result;
}

namespace {

// The entries of `rows` (ascending) that lie in [begin, end), counted from begin.
std::vector<int> within(std::span<const int> rows, std::size_t begin, std::size_t end) {
  std::vector<int> out;
  for (int r : rows)
    if (static_cast<std::size_t>(r) >= begin && static_cast<std::size_t>(r) < end)
      out.push_back(r - static_cast<int>(begin));
  return out;
}

// Where each entry of `some` stands in `all`; both ascending.
std::vector<int> places(const std::vector<int>& all, const std::vector<int>& some) {
  std::vector<int> out;
  for (int r : some)
    out.push_back(static_cast<int>(std::lower_bound(all.begin(), all.end(), r) - all.begin()));
  return out;
}

}  // namespace

void CpuForward::run_chunk(const ForwardCall& call, std::size_t begin, std::size_t end,
                           ForwardResult& result) {
  const auto n = static_cast<std::size_t>(config_.hidden_size);
  const std::vector<int> logit_rows = within(call.logit_rows, begin, end),
                         hidden_rows = within(call.hidden_rows, begin, end);
  Activations& a = activations_;
  a.stack = call.stack;
  a.rows.assign(call.rows.begin() + static_cast<std::ptrdiff_t>(begin),
                call.rows.begin() + static_cast<std::ptrdiff_t>(end));
  a.hidden_in.clear();
  if (call.stack == Stack::mtp) {
    const auto hidden = call.hidden_in.subspan(begin * n, (end - begin) * n);
    a.hidden_in.assign(hidden.begin(), hidden.end());
  }
  a.wanted.clear();
  std::set_union(logit_rows.begin(), logit_rows.end(), hidden_rows.begin(), hidden_rows.end(),
                 std::back_inserter(a.wanted));
  a.logit_rows = places(a.wanted, logit_rows);

  for (Step step : stage_list(config_, call.stack)) {
    run(step, a);
    if (observer) observer(step, a);
    poll();
  }
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);
  if (call.take_logits)
    for (std::size_t i = 0; i < logit_rows.size(); ++i)
      call.take_logits(static_cast<int>(begin) + logit_rows[i], std::span(a.logits).subspan(i * vocab, vocab));
  else
    result.logits.insert(result.logits.end(), a.logits.begin(), a.logits.end());
  for (int i : places(a.wanted, hidden_rows)) {
    const float* row = a.normed.data() + static_cast<std::size_t>(i) * n;
    result.hidden.insert(result.hidden.end(), row, row + n);
  }
}

void CpuForward::check(const ForwardCall& call) const {
  if (call.stack == Stack::mtp && (weights_.mtp.empty() || !options_.mtp))
    fail(Exit::unsupported, "this checkpoint was opened without its multi-token prediction layer");
  assert(call.stack == Stack::main ||
         call.hidden_in.size() == call.rows.size() * static_cast<std::size_t>(config_.hidden_size));
  for (const Row& row : call.rows) {
    if (row.position < 0 || row.position >= options_.capacity)
      throw Error(
          Exit::context,
          fmt::format("position {} is outside the context of {} tokens", row.position, options_.capacity),
          "use a larger --ctx");
    if (row.token < 0 || row.token >= config_.vocab_size)
      fail(Exit::usage, "token id {} is outside the vocabulary of {} ids", row.token, config_.vocab_size);
    if (row.timeline >= options_.timelines)
      fail(Exit::usage, "timeline {} is not among the {} of this run", row.timeline, options_.timelines);
  }
}

// expert_out is the largest value: at most 128 MB of it, and at most 512 rows, where the products are at full
// speed.
std::size_t CpuForward::chunk_rows() const {
  if (options_.chunk_rows > 0) return static_cast<std::size_t>(options_.chunk_rows);
  const std::int64_t row_bytes = 4LL * config_.hidden_size * std::max(1, config_.router.num_experts_per_tok);
  return static_cast<std::size_t>(std::clamp<std::int64_t>((128 << 20) / row_bytes, 16, 512));
}

void CpuForward::poll() {
  if (!stop_requested) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll_ < std::chrono::milliseconds(100)) return;
  last_poll_ = now;
  if (stop_requested()) throw Error(Exit::interrupted, "interrupted");
}

std::size_t CpuForward::position_bytes() const {
  return cache_.row_bytes() * static_cast<std::size_t>(config_.num_hidden_layers);
}

void CpuForward::export_rows(std::uint32_t timeline, std::int32_t count, std::span<std::byte> out) const {
  const std::size_t layer_bytes = cache_.row_bytes() * static_cast<std::size_t>(count);
  for (int layer = 0; layer < config_.num_hidden_layers; ++layer)
    std::memcpy(out.data() + static_cast<std::size_t>(layer) * layer_bytes, cache_.rows({RowKind::latent, layer}, timeline),
                layer_bytes);
}

void CpuForward::import_rows(std::uint32_t timeline, std::int32_t count, std::span<const std::byte> rows) {
  const std::size_t layer_bytes = cache_.row_bytes() * static_cast<std::size_t>(count);
  for (int layer = 0; layer < config_.num_hidden_layers; ++layer)
    cache_.restore({RowKind::latent, layer}, timeline, rows.subspan(static_cast<std::size_t>(layer) * layer_bytes, layer_bytes));
}

}  // namespace fathom
