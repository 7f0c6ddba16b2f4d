#include "cuda/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "src/base/error.h"

namespace fathom::cuda {
namespace {

// A call of fewer prompt rows is over soon.
constexpr int kPacedRows = 512;
constexpr std::uint64_t kStagingBytes = std::uint64_t{4} << 20;

Round round_for(ActivationType t, bool ue8m0) {
  switch (t) {
    case ActivationType::f32:
      return Round::none;
    case ActivationType::bf16:
      return Round::bf16;
    case ActivationType::fp8:
      break;
  }
  return ue8m0 ? Round::fp8_ue8m0 : Round::fp8;
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Exit::unsupported, what, "use --backend cpu");
}

DeviceInfo find_device(int ordinal) {
  NoDevice none;
  for (const DeviceInfo& d : devices(&none))
    if (d.ordinal == ordinal) return d;
  if (none.why.empty()) none.why = fmt::format("there is no usable GPU {}", ordinal);
  refuse("CUDA: " + none.why);
}

}  // namespace

// -- construction -------------------------------------------------------------------------------------------

CudaForward::CudaForward(const Config& config, const Weights& weights, const ForwardOptions& options)
    : config_(config),
      options_(options),
      rope_(make_rope(config)),
      softmax_scale_(softmax_scale(config)),
      heads_(weights.heads) {
  check_shapes();
  device_ = find_device(options.device);
  FATHOM_CUDA(cudaSetDevice(options.device));
  const bool hopper = runs_hopper_code();
  placement_ = place(config, weights,
                     {options.numerics, options.capacity, options.timelines, options.mtp, options.rank, hopper,
                      options.host_experts != nullptr});
  std::size_t free_bytes = 0, total = 0;
  FATHOM_CUDA(cudaMemGetInfo(&free_bytes, &total));
  require_fit(placement_, free_bytes, device_.name);

  stream_ = make_stream();
  on_ = {stream_.get(), device_.multiprocessors, hopper};
  for (Event& e : layer_done_) e = make_event(false);
  weights_ =
      load_weights(weights, rope_.frequency,
                   {placement_.weights, options.progress, options.random_weights, device_.multiprocessors,
                    options.host_experts, options.copier});
  cache_ = Arena(placement_.cache);
  cache_layer_bytes_ = static_cast<std::uint64_t>(options.timelines) *
                       static_cast<std::uint64_t>(options.capacity) *
                       static_cast<std::uint64_t>(device_row_values(config)) *
                       (options.numerics.cache == CacheType::f32 ? 4u : 2u);
  const std::uint64_t apart = placement_.work[static_cast<std::size_t>(Work::layers_at_once)];
  workspace_ = Arena(placement_.workspace - apart);
  for (std::size_t i = 0; i < work_.size(); ++i)
    if (placement_.work[i] > 0 && i != static_cast<std::size_t>(Work::layers_at_once))
      work_[i] = workspace_.take(placement_.work[i]);
  staging_ =
      Pinned(std::max<std::uint64_t>(kStagingBytes, placement_.work[static_cast<std::size_t>(Work::logits)]));
  // Whatever a kernel reads was written by one: zeroed memory only makes a mistake repeatable.
  FATHOM_CUDA(cudaMemsetAsync(cache_.data(), 0, cache_.size(), stream_.get()));
  FATHOM_CUDA(cudaMemsetAsync(workspace_.data(), 0, workspace_.size(), stream_.get()));
  drawn_ = Pinned(sizeof(SampleResult));
  if (options.host_experts != nullptr)
    host_experts_ = std::make_unique<HostExperts>(config, placement_.prompt_rows, *options.host_experts,
                                                  work<std::byte>(Work::hand_off));
  synchronize();
  // Rows of several sequences at a time belong together, so that weights are read once: layer by layer.
  if (options.persistent && options.timelines == 1 && !host_experts_) plan_persistent_layers();
}

CudaForward::~CudaForward() {
  if (!lost()) (void)cudaStreamSynchronize(stream_.get());
}

void CudaForward::check_shapes() const {
  const Config& c = config_;
  if (options_.rank.count != 1) refuse("tensor parallelism over several GPUs is not available yet");
  if (options_.numerics.cache == CacheType::fp8) refuse("--cache fp8 is not available yet");
  if (c.kv_lora_rank % 16 != 0 || c.kv_lora_rank > 512)
    refuse(fmt::format("kv_lora_rank {}: the CUDA kernels take multiples of 16 up to 512", c.kv_lora_rank));
  if (c.qk_rope_head_dim % 2 != 0 || c.qk_nope_head_dim % 2 != 0)
    refuse(fmt::format("qk_nope_head_dim {} and qk_rope_head_dim {}: the CUDA kernels take even numbers",
                       c.qk_nope_head_dim, c.qk_rope_head_dim));
  if (options_.numerics.cache == CacheType::bf16 && device_row_values(c) > 576)
    refuse(fmt::format("kv_lora_rank + qk_rope_head_dim {}: the CUDA kernels take up to 576", c.kv_row()));
  if (c.hidden_size > 16384 || c.q_lora_rank > 16384)
    refuse(fmt::format("hidden_size {}, q_lora_rank {}: the CUDA kernels take up to 16384", c.hidden_size,
                       c.q_lora_rank));
  for (int n :
       {c.hidden_size, c.q_lora_rank, c.intermediate_size, c.moe_intermediate_size, heads_ * c.v_head_dim})
    if (n % 4 != 0) refuse(fmt::format("a row of {} values: the CUDA kernels take multiples of 4", n));
  if (c.router.n_routed_experts > 1024 || c.router.num_experts_per_tok > 32 || c.router.n_group > 64)
    refuse(fmt::format("{} experts in {} groups, {} per token: the CUDA kernels take up to 1024, 64 and 32",
                       c.router.n_routed_experts, c.router.n_group, c.router.num_experts_per_tok));
}

std::string CudaForward::describe() const { return device_.name; }

// -- parameters that several stages share -------------------------------------------------------------------

CudaForward::Pass CudaForward::pass_for(Role role, int rows) const {
  Pass p;
  p.rows = rows;
  const bool prompt = role == Role::prompt;
  const Numerics& n = options_.numerics;
  p.round = round_for(prompt ? n.prompt_activations : n.generated_activations, config_.ue8m0_activations);
  p.tensor_cores = prompt && p.round != Round::none && weights_.tensor_cores;
  // Both factors in one type, where the chip and the weights' layout allow.
  p.hopper = p.tensor_cores && on_.dependent &&
             weights_.hopper == (p.round == Round::bf16 ? Code::bf16 : Code::e4m3);
  p.expanded = prompt && placement_.expanded_heads > 0;
  if (!prompt) {
    p.splits = max_splits(heads_);
    p.keys_per_round = least_split_keys(heads_) * p.splits;
  }
  return p;
}

const DeviceLayer& CudaForward::layer(int index) const {
  const int main = config_.num_hidden_layers;
  return index < main ? weights_.layers[static_cast<std::size_t>(index)]
                      : weights_.mtp[static_cast<std::size_t>(index - main)].layer;
}

void* CudaForward::cache_of(int index) const {
  return cache_.data() + static_cast<std::uint64_t>(index) * cache_layer_bytes_;
}

AttentionShape CudaForward::attention_shape() const {
  const Config& c = config_;
  return {heads_,         c.qk_nope_head_dim,         c.qk_rope_head_dim, c.v_head_dim,
          c.kv_lora_rank, device_row_values(config_), softmax_scale_};
}

Rotation CudaForward::rotation(int head_dim) const {
  return {work<std::int32_t>(Work::rows) + kPromptChunk, weights_.rope_frequency, rope_.magnitude, head_dim,
          config_.qk_rope_head_dim};
}

Input CudaForward::normed(const float* weight, Round round) const {
  return {work<float>(Work::x),
          config_.hidden_size,
          config_.hidden_size,
          weight,
          config_.rms_norm_eps,
          round,
          nullptr};
}

RouterParams CudaForward::router_params(const DeviceLayer& l) const {
  const RouterRule& r = config_.router;
  RouterParams p;
  p.logits = work<float>(Work::router_logits);
  p.bias = l.e_score_correction_bias;
  p.experts = r.n_routed_experts;
  p.chosen = r.num_experts_per_tok;
  if (r.topk_method != TopkMethod::greedy) p.groups = r.n_group, p.groups_kept = r.topk_group;
  p.sigmoid = r.scoring_func == ScoringFunc::sigmoid;
  p.group_sum = r.topk_method == TopkMethod::noaux_tc;
  p.normalise = r.norm_topk_prob;
  p.factor = r.routed_scaling_factor;
  p.ids = work<std::int32_t>(Work::expert_ids);
  p.weights = work<float>(Work::expert_weights);
  return p;
}

// -- stages -------------------------------------------------------------------------------------------------

void CudaForward::embed_rows(const Pass& pass, Stack stack) {
  // The first kernel of a step waits for everything before it, so that no kernel of this step overlaps the
  // last one.
  Launch whole = on_;
  whole.dependent = false;
  embed(whole, {stack == Stack::main ? weights_.embed_tokens : weights_.mtp[0].embed_tokens,
                work<std::int32_t>(Work::rows), work<float>(Work::x), config_.hidden_size, pass.rows});
}

// Reads hidden_in from `delta`.
void CudaForward::mtp_input(const Pass& pass) {
  embed_rows(pass, Stack::mtp);
  const DeviceMtp& m = weights_.mtp[0];
  const int hidden = config_.hidden_size;
  float* both = work<float>(Work::mtp_input);
  rms_norm(on_, {normed(m.enorm, Round::none), both, 2 * std::int64_t{hidden}, pass.rows});
  Input in = normed(m.hnorm, Round::none);
  in.x = work<float>(Work::delta);
  rms_norm(on_, {in, both + hidden, 2 * std::int64_t{hidden}, pass.rows});
  GemvParams p;
  p.segment[0] = {m.eh_proj, work<float>(Work::x), hidden, {}};
  p.input = {both, 2 * std::int64_t{hidden}, 2 * hidden, nullptr, 0, Round::none, nullptr};
  p.rows = pass.rows;
  gemv(on_, p);
}

// AttnNorm, Latents up to the norm of the latent, Query.
void CudaForward::project(const Pass& pass, const DeviceLayer& l) {
  const Config& c = config_;
  const std::int64_t q_stride = std::int64_t{heads_} * c.qk_head_dim();
  Segment q{l.q_proj, work<float>(Work::q), q_stride, rotation(c.qk_head_dim())};
  // The rotated key is the end of the one "head" that the whole latent row is.
  const Segment kv{l.kv_a_proj, work<float>(Work::kv_row), c.kv_row(), rotation(c.kv_row())};
  GemvParams p;
  p.rows = pass.rows;
  p.segments = 2;
  p.input = normed(l.input_layernorm, pass.round);
  p.segment[1] = kv;
  p.segment[0] = c.q_lora_rank > 0 ? Segment{l.q_a_proj, work<float>(Work::q_latent), c.q_lora_rank, {}} : q;
  gemv(on_, p);
  if (c.q_lora_rank == 0) return;
  p.segments = 1;
  p.segment[0] = q;
  p.input = {work<float>(Work::q_latent),
             c.q_lora_rank,
             c.q_lora_rank,
             l.q_a_layernorm,
             c.rms_norm_eps,
             pass.round,
             nullptr};
  gemv(on_, p);
}

void CudaForward::attend(const Pass& pass, int index) {
  const DeviceLayer& l = layer(index);
  if (pass.tensor_cores)
    project_gemm(pass, l);
  else
    project(pass, l);
  if (pass.expanded) return attend_expanded_form(pass, index);
  for (int first = 0; first < pass.rows; first += kAbsorbedRows)
    attend_absorbed(pass, index, first, std::min(kAbsorbedRows, pass.rows - first));
}

// Rows [first, first + count) of the pass.
void CudaForward::attend_absorbed(const Pass& pass, int index, int first, int count) {
  const DeviceLayer& l = layer(index);
  const std::int32_t* position = work<std::int32_t>(Work::rows) + kPromptChunk + first;
  const bool f32 = options_.numerics.cache == CacheType::f32;
  const AttentionShape shape = attention_shape();
  absorb_query(on_, {.shape = shape,
                     .kv_b = l.kv_b_proj,
                     .q = work<float>(Work::q) + std::int64_t{first} * heads_ * config_.qk_head_dim(),
                     .kv_row = work<float>(Work::kv_row) + std::int64_t{first} * config_.kv_row(),
                     .norm_weight = l.kv_a_layernorm,
                     .eps = config_.rms_norm_eps,
                     .position = position,
                     .timeline = position + kPromptChunk,
                     .cache = cache_of(index),
                     .capacity = options_.capacity,
                     .cache_f32 = f32,
                     .q_absorbed = work<void>(Work::q_absorbed),
                     .rows = count});
  attend_split_kv(on_, {.shape = shape,
                        .kv_b = l.kv_b_proj,
                        .q_absorbed = work<void>(Work::q_absorbed),
                        .cache = cache_of(index),
                        .capacity = options_.capacity,
                        .cache_rows = std::int64_t{options_.capacity} * options_.timelines,
                        .cache_f32 = f32,
                        .position = position,
                        .timeline = position + kPromptChunk,
                        .max_splits = pass.splits,
                        .keys_per_round = pass.keys_per_round,
                        .partial_sum = work<float>(Work::partial_sum),
                        .partial_out = work<float>(Work::partial_out),
                        .rows = count});
  combine_project_value(on_,
                        {.shape = shape,
                         .kv_b = l.kv_b_proj,
                         .position = position,
                         .max_splits = pass.splits,
                         .keys_per_round = pass.keys_per_round,
                         .partial_sum = work<float>(Work::partial_sum),
                         .partial_out = work<float>(Work::partial_out),
                         .attn = work<float>(Work::attn) + std::int64_t{first} * heads_ * config_.v_head_dim,
                         .rows = count});
}

// x += delta, over all ranks.
void CudaForward::reduce_into_x(const Pass& pass) {
  const std::int64_t n = std::int64_t{pass.rows} * config_.hidden_size;
  exchange_->reduce(stream_.get(), options_.rank, work<float>(Work::delta), n);
  add(on_, work<float>(Work::x), work<float>(Work::delta), n);
}

void CudaForward::attn_out(const Pass& pass, const DeviceLayer& l) {
  const int cols = heads_ * config_.v_head_dim;
  const bool direct = exchange_ == nullptr;
  float* out = work<float>(direct ? Work::x : Work::delta);
  const Input in{work<float>(Work::attn), cols, cols, nullptr, 0, pass.round, nullptr};
  if (pass.tensor_cores) {
    if (!pass.fused) operand(pass, in, true);
    GemmParams p = gemm_params(pass, l.o_proj, true);
    p.out = out;
    p.out_stride = config_.hidden_size;
    p.add = direct;
    multiply(pass, p);
  } else {
    GemvParams p;
    p.segment[0] = {l.o_proj, out, config_.hidden_size, {}};
    p.input = in;
    p.rows = pass.rows;
    p.add = direct;
    gemv(on_, p);
  }
  if (!direct) reduce_into_x(pass);
}

void CudaForward::route(const Pass& pass, const DeviceLayer& l) {
  float* logits = work<float>(Work::router_logits);
  const std::int64_t experts = config_.router.n_routed_experts;
  if (pass.tensor_cores && l.router.code != Code::e4m3) {
    // Many rows: normed once, into delta, which nothing holds between two stages of a layer.
    const std::int64_t hidden = config_.hidden_size;
    rms_norm(on_,
             {normed(l.post_attention_layernorm, Round::none), work<float>(Work::delta), hidden, pass.rows});
    gemm_f32(on_, {l.router, work<float>(Work::delta), hidden, logits, experts, pass.rows});
  } else {
    GemvParams p;
    p.segment[0] = {l.router, logits, experts, {}};
    p.input = normed(l.post_attention_layernorm, Round::none);
    p.rows = pass.rows;
    gemv(on_, p);
  }
  if (!pass.choose_inside) choose_experts(on_, router_params(l), pass.rows);
}

void CudaForward::experts(const Pass& pass, const DeviceLayer& l) {
  const int slots = config_.router.num_experts_per_tok, inner = l.expert.gate.rows;
  const bool direct = exchange_ == nullptr;
  const std::int64_t stride = std::int64_t{slots} * inner + l.shared.gate.rows;
  GateUpParams g;
  g.gate = l.expert.gate;
  g.up = l.expert.up;
  g.experts = l.experts;
  g.expert_count = l.expert_count;
  g.ids = work<std::int32_t>(Work::expert_ids);
  g.slots = slots;
  if (pass.choose_inside) g.router = router_params(l);
  g.shared_gate = l.shared.gate;
  g.shared_up = l.shared.up;
  g.input = normed(l.post_attention_layernorm, pass.round);
  g.hidden = work<float>(Work::hidden);
  g.hidden_stride = stride;
  g.rows = pass.rows;
  gate_up(on_, g);
  DownParams d;
  d.down = l.expert.down;
  d.experts = l.experts;
  d.expert_count = l.expert_count;
  d.ids = g.ids;
  d.weights = work<float>(Work::expert_weights);
  d.slots = slots;
  d.shared_down = l.shared.down;
  d.hidden = g.hidden;
  d.hidden_stride = stride;
  d.round = pass.round;
  d.out = work<float>(direct ? Work::x : Work::delta);
  d.out_stride = config_.hidden_size;
  d.add = direct;
  d.rows = pass.rows;
  down_combine(on_, d);
  if (!direct) reduce_into_x(pass);
}

// A dense or shared MLP: added to x, or written to delta.
void CudaForward::mlp(const Pass& pass, const DeviceLayer& l, const DeviceMlp& m, bool to_x) {
  if (pass.tensor_cores) return mlp_gemm(pass, m, to_x);
  float* hidden = work<float>(Work::hidden);
  GateUpParams g;
  g.shared_gate = m.gate;
  g.shared_up = m.up;
  g.input = normed(l.post_attention_layernorm, pass.round);
  g.hidden = hidden;
  g.hidden_stride = m.gate.rows;
  g.rows = pass.rows;
  gate_up(on_, g);
  GemvParams p;
  p.segment[0] = {m.down, work<float>(to_x ? Work::x : Work::delta), config_.hidden_size, {}};
  p.input = {hidden, m.gate.rows, m.gate.rows, nullptr, 0, pass.round, nullptr};
  p.rows = pass.rows;
  p.add = to_x;
  gemv(on_, p);
}

// The stream of one layer's hand-off; shared experts run while the host computes. In a graph the answer comes from
// serve_graph, otherwise from here.
void CudaForward::experts_on_host(const Pass& pass, const DeviceLayer& l) {
  const bool direct = exchange_ == nullptr, shared = l.shared.gate.rows > 0;
  host_experts_->hand_over(on_, normed(l.post_attention_layernorm, Round::none),
                           work<std::int32_t>(Work::expert_ids), pass.rows);
  if (shared) {
    if (pass.tensor_cores) operand(pass, normed(l.post_attention_layernorm, pass.round), false);
    mlp(pass, l, l.shared, false);  // into delta
  }
  if (!capturing_) serve_experts(pass, l);
  host_experts_->await_answer(on_);
  float* delta = work<float>(Work::delta);
  host_experts_->combine_answer(on_, work<float>(Work::expert_weights), shared ? delta : nullptr,
                                direct ? work<float>(Work::x) : delta, direct, pass.rows);
  if (!direct) reduce_into_x(pass);
}

void CudaForward::serve_experts(const Pass& pass, const DeviceLayer& l) {
  cpu::Rounding rounding{ActivationType::f32, pass.round == Round::fp8_ue8m0};
  if (pass.round == Round::bf16) rounding.type = ActivationType::bf16;
  if (pass.round == Round::fp8 || pass.round == Round::fp8_ue8m0) rounding.type = ActivationType::fp8;
  try {
    host_experts_->serve(stream_.get(), *l.host_experts, pass.rows, rounding, [&] {
      const auto now = std::chrono::steady_clock::now();
      if (!stop_requested || now - last_poll_ < std::chrono::milliseconds(100)) return;
      last_poll_ = now;
      if (stop_requested()) throw Error(Exit::interrupted, "stopped");
    });
  } catch (...) {
    host_experts_->abandon(stream_.get());
    throw;
  }
}

// Answers every hand-over of a graph that has just been launched.
void CudaForward::serve_graph(const Pass& pass, Stack stack) {
  for (const Step& s : stage_list(config_, stack))
    if (s.stage == Stage::Routed) serve_experts(pass, layer(s.layer));
}

// Logits of the first `rows` rows, or of the rows whose indices were set.
void CudaForward::logits(const Pass&, Stack stack, int rows, bool indexed) {
  const bool main = stack == Stack::main;
  GemvParams p;
  p.segment[0] = {
      main ? weights_.lm_head : weights_.mtp[0].head, work<float>(Work::logits), config_.vocab_size, {}};
  p.input = normed(main ? weights_.norm : weights_.mtp[0].norm, Round::none);
  if (indexed) p.input.row_index = work<std::int32_t>(Work::rows) + 3 * kPromptChunk;
  p.rows = rows;
  gemv(on_, p);
}

bool CudaForward::run(Stack stack, Step step, Role role) {
  const Pass pass = pass_for(role, rows_);
  switch (step.stage) {
    case Stage::Embed:
      embed_rows(pass, stack);
      return true;
    case Stage::MtpInput:
      mtp_input(pass);
      return true;
    case Stage::Attend:
      attend(pass, step.layer);
      return true;
    case Stage::AttnReduce:
      attn_out(pass, layer(step.layer));
      return true;
    case Stage::Route:
      route(pass, layer(step.layer));
      return true;
    case Stage::FfnReduce: {
      const DeviceLayer& l = layer(step.layer);
      if (l.expert_count == 0) {
        if (pass.tensor_cores) operand(pass, normed(l.post_attention_layernorm, pass.round), false);
        mlp(pass, l, l.dense, exchange_ == nullptr);
        if (exchange_ != nullptr) reduce_into_x(pass);
      } else if (l.host_experts != nullptr) {
        experts_on_host(pass, l);
      } else if (pass.tensor_cores) {
        experts_gemm(pass, l);
      } else {
        experts(pass, l);
      }
      return true;
    }
    case Stage::Logits:
      logits(pass, stack, std::min(pass.rows, kLogitRows), false);
      return true;
    default:
      return false;
  }
}

// -- whole steps --------------------------------------------------------------------------------------------

// A prompt's layers are enqueued two at most ahead of the GPU, so that a request to stop is seen within two
// layers.
void CudaForward::pace(int layer) {
  if (!stop_requested || role_ != Role::prompt || rows_ < kPacedRows) return;
  const auto at = static_cast<std::size_t>(layer) % layer_done_.size();
  FATHOM_CUDA(
      cudaEventSynchronize(layer_done_[at].get()));  // of two layers ago; returns at once if never recorded
  if (stop_requested()) {
    synchronize();
    throw Error(Exit::interrupted, "stopped");
  }
  FATHOM_CUDA(cudaEventRecord(layer_done_[at].get(), stream_.get()));
}

void CudaForward::plan_persistent_layers() {
  if (options_.numerics.cache != CacheType::bf16 || weights_.layers.empty()) return;
  if (kGeneratedRows * max_splits(heads_) < kPersistentSplits) return;  // the partial buffers are too small
  const Pass pass = pass_for(Role::generated, 1);
  const std::int32_t* rows = work<std::int32_t>(Work::rows);
  PersistentParams p;
  p.attention = attention_shape();
  p.choice = router_params(weights_.layers.back());
  p.position = rows + kPromptChunk, p.timeline = rows + 2 * kPromptChunk;
  p.capacity = options_.capacity;
  p.frequency = weights_.rope_frequency, p.magnitude = rope_.magnitude;
  p.eps = config_.rms_norm_eps;
  p.round = pass.round;
  p.x = work<float>(Work::x), p.q_out = work<float>(Work::q), p.kv_row = work<float>(Work::kv_row);
  p.router_logits = work<float>(Work::router_logits);
  p.partial_sum = work<float>(Work::partial_sum), p.partial_out = work<float>(Work::partial_out);
  persistent_ = plan_persistent(on_, weights_.layers, p, [this](int i) { return cache_of(i); });
  // What the placement counted is all that may be taken.
  if (persistent_ && persistent_->memory.size() > placement_.work[static_cast<std::size_t>(Work::layers_at_once)])
    persistent_.reset();
}

void CudaForward::all_layers(const Pass& pass, Stack stack) {
  if (persistent_ != nullptr && stack == Stack::main && pass.rows == 1 && role_ == Role::generated) {
    embed_rows(pass, stack);
    return run_persistent(on_, persistent_->params);
  }
  if (pass.fused)
    rotation_table(on_, rotation(config_.qk_head_dim()), work<float2>(Work::prompt_query), pass.rows);
  for (const Step& s : stage_list(config_, stack)) {
    if (s.stage == Stage::Attend) pace(s.layer);
    if (s.stage == Stage::Logits) continue;
    if (s.stage == Stage::Attend) {
      attend(pass, s.layer);
    } else if (s.stage == Stage::AttnReduce) {
      attn_out(pass, layer(s.layer));
    } else if (s.stage == Stage::Route) {
      route(pass, layer(s.layer));
    } else if (s.stage == Stage::FfnReduce && pass.choose_inside && layer(s.layer).expert_count > 0) {
      experts(pass, layer(s.layer));
    } else {
      run(stack, s, role_);
    }
  }
}

GraphExec CudaForward::capture(const std::function<void()>& enqueue) {
  FATHOM_CUDA(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t captured = nullptr;
  capturing_ = true;
  try {
    enqueue();
    capturing_ = false;
  } catch (...) {
    capturing_ = false;
    if (!lost()) (void)cudaStreamEndCapture(stream_.get(), &captured);
    const Graph dropped(captured);
    throw;
  }
  FATHOM_CUDA(cudaStreamEndCapture(stream_.get(), &captured));
  const Graph graph(captured);
  cudaGraphExec_t exec = nullptr;
  FATHOM_CUDA(cudaGraphInstantiate(&exec, graph.get(), 0));
  return GraphExec(exec);
}

void CudaForward::run_layers(const Pass& pass, const ForwardCall& call, bool all_logits) {
  const bool graphed = options_.graph && call.rows.front().role == Role::generated;
  if (!graphed) {
    all_layers(pass, call.stack);
    if (all_logits) logits(pass, call.stack, pass.rows, false);
    return;
  }
  GraphExec& exec = graphs_[{call.stack, pass.rows, all_logits}];
  if (!exec)
    exec = capture([&] {
      all_layers(pass, call.stack);
      if (all_logits) logits(pass, call.stack, pass.rows, false);
    });
  FATHOM_CUDA(cudaGraphLaunch(exec.get(), stream_.get()));
  if (host_experts_) serve_graph(pass, call.stack);
}

ForwardResult CudaForward::forward(const ForwardCall& call) {
  if (call.stack == Stack::mtp && weights_.mtp.empty())
    fail(Exit::failure, "the MTP stack was asked for, but its weights were not loaded");
  FATHOM_CUDA(cudaSetDevice(options_.device));
  ForwardResult result;
  if (!call.take_logits)
    result.logits.reserve(call.logit_rows.size() * static_cast<std::size_t>(config_.vocab_size));
  std::size_t logit = 0, hidden = 0;
  const int total = static_cast<int>(call.rows.size());
  for (int begin = 0; begin < total;) {
    if (begin > 0 && stop_requested && stop_requested()) throw Error(Exit::interrupted, "stopped");
    const Role role = call.rows[static_cast<std::size_t>(begin)].role;
    // A row's bits must not depend on how many rows a call has.
    const bool at_once = persistent_ != nullptr && call.stack == Stack::main;
    const int most = role == Role::prompt ? placement_.prompt_rows : at_once ? 1 : kGeneratedRows;
    int end = begin;
    while (end < total && end - begin < most && call.rows[static_cast<std::size_t>(end)].role == role) ++end;
    chunk(call, begin, end, result, logit, hidden);
    begin = end;
  }
  return result;
}

// Rows [begin, end) of a call. `logit`, `hidden`: how many of the wanted rows lie before.
void CudaForward::chunk(const ForwardCall& call, int begin, int end, ForwardResult& result,
                        std::size_t& logit, std::size_t& hidden) {
  const auto count = static_cast<std::size_t>(end - begin);
  const auto rows = call.rows.subspan(static_cast<std::size_t>(begin), count);
  const auto within = [&](std::span<const int> wanted, std::size_t& from) {
    std::vector<int> here;
    for (; from < wanted.size() && wanted[from] < end; ++from) here.push_back(wanted[from] - begin);
    return here;
  };
  set_rows(rows);
  if (call.stack == Stack::mtp)
    write(Work::delta, call.hidden_in.subspan(
                           static_cast<std::size_t>(begin) * static_cast<std::size_t>(config_.hidden_size),
                           count * static_cast<std::size_t>(config_.hidden_size)));
  const std::vector<int> logit_rows = within(call.logit_rows, logit),
                         hidden_rows = within(call.hidden_rows, hidden);
  Pass pass = pass_for(rows.front().role, static_cast<int>(count));
  pass.choose_inside = !pass.tensor_cores && rows.front().role == Role::generated && !host_experts_;
  // A tile of q holds rows of one timeline.
  pass.fused = pass.hopper && pass.expanded && runs_.size() == 1;
  const bool all = rows.front().role == Role::generated && logit_rows.size() == count;
  run_layers(pass, call, all);
  if (call.keep_logits && !logit_rows.empty()) {
    if (!all) {
      set_wanted(logit_rows);
      logits(pass, call.stack, 1, true);
    }
    // A generated row's time is draw()'s to wait for; a prompt's belongs to this call.
    pending_ = true;
    if (rows.front().role == Role::prompt) settle();
    return;
  }
  if (!logit_rows.empty()) collect_logits(pass, call, begin, logit_rows, all, result);
  if (!hidden_rows.empty()) collect_hidden(pass, call.stack, hidden_rows, result);
  settle();
}

void CudaForward::collect_logits(const Pass& pass, const ForwardCall& call, int begin,
                                 std::span<const int> wanted, bool computed, ForwardResult& result) {
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);
  for (std::size_t first = 0; first < wanted.size(); first += kLogitRows) {
    const std::size_t count = std::min<std::size_t>(kLogitRows, wanted.size() - first);
    if (!computed) {
      set_wanted(wanted.subspan(first, count));
      logits(pass, call.stack, static_cast<int>(count), true);
    }
    FATHOM_CUDA(cudaMemcpyAsync(staging_.data(), work<float>(Work::logits), count * vocab * sizeof(float),
                                cudaMemcpyDeviceToHost, stream_.get()));
    synchronize();
    const auto* values = reinterpret_cast<const float*>(staging_.data());
    if (!call.take_logits) {
      result.logits.insert(result.logits.end(), values, values + count * vocab);
      continue;
    }
    for (std::size_t i = 0; i < count; ++i)
      call.take_logits(begin + wanted[first + i], {values + i * vocab, vocab});
  }
}

void CudaForward::collect_hidden(const Pass& pass, Stack stack, std::span<const int> wanted,
                                 ForwardResult& result) {
  const auto hidden = static_cast<std::size_t>(config_.hidden_size);
  rms_norm(on_, {normed(stack == Stack::main ? weights_.norm : weights_.mtp[0].norm, Round::none),
                 work<float>(Work::delta), config_.hidden_size, pass.rows});
  std::vector<float> all(static_cast<std::size_t>(pass.rows) * hidden);
  read(Work::delta, std::span<float>(all));
  for (int row : wanted) {
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * hidden);
    result.hidden.insert(result.hidden.end(), from, from + static_cast<std::ptrdiff_t>(hidden));
  }
}

// -- copies -------------------------------------------------------------------------------------------------

void CudaForward::set_rows(std::span<const Row> rows) {
  if (pending_) settle();  // the last call's copies from the staging buffer may be on their way
  rows_ = static_cast<int>(rows.size());
  runs_.clear();
  if (rows.empty()) return;
  role_ = rows.front().role;
  auto* host = reinterpret_cast<std::int32_t*>(staging_.data());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    if (r.position < 0 || r.position >= options_.capacity)
      fail(Exit::context, "position {} is outside of the context of {} positions", r.position,
           options_.capacity);
    if (r.timeline >= options_.timelines)
      fail(Exit::failure, "timeline {} of {}", r.timeline, options_.timelines);
    if (r.token < 0 || r.token >= config_.vocab_size)
      fail(Exit::failure, "token {} is outside of the vocabulary of {}", r.token, config_.vocab_size);
    if (i == 0 || r.timeline != rows[i - 1].timeline || r.position != rows[i - 1].position + 1)
      runs_.push_back({static_cast<int>(i), 0, r.position, r.timeline});
    ++runs_.back().rows;
    host[i] = r.token;
    host[kPromptChunk + i] = r.position;
    host[2 * kPromptChunk + i] = static_cast<std::int32_t>(r.timeline);
  }
  constexpr std::size_t kPitch = kPromptChunk * sizeof(std::int32_t);
  FATHOM_CUDA(cudaMemcpy2DAsync(work<std::byte>(Work::rows), kPitch, host, kPitch,
                                rows.size() * sizeof(std::int32_t), 3, cudaMemcpyHostToDevice,
                                stream_.get()));
}

void CudaForward::set_wanted(std::span<const int> rows) {
  // Behind what set_rows copies from: that copy may still be on its way.
  auto* host = reinterpret_cast<std::int32_t*>(staging_.data()) + 3 * kPromptChunk;
  synchronize();
  std::copy(rows.begin(), rows.end(), host);
  FATHOM_CUDA(cudaMemcpyAsync(work<std::int32_t>(Work::rows) + 3 * kPromptChunk, host,
                              rows.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice, stream_.get()));
}

// Waits for the end of a call.
void CudaForward::settle() {
  synchronize();
  pending_ = false;
  if (host_experts_) host_experts_->require_answered();
}

void CudaForward::synchronize() { FATHOM_CUDA(cudaStreamSynchronize(stream_.get())); }

void CudaForward::read_bytes(const std::byte* from, void* to, std::size_t bytes) {
  synchronize();
  FATHOM_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

void CudaForward::write_bytes(std::byte* to, const void* from, std::size_t bytes) {
  synchronize();
  copy_to_device(to, from, bytes);
}

void CudaForward::read_cache(int index, std::uint32_t timeline, std::int32_t position, std::span<float> out) {
  const bool f32 = options_.numerics.cache == CacheType::f32;
  const std::size_t element = f32 ? 4 : 2;
  const std::uint64_t row = std::uint64_t{timeline} * static_cast<std::uint64_t>(options_.capacity) +
                            static_cast<std::uint64_t>(position);
  std::vector<std::byte> bytes(out.size() * element);
  read_bytes(static_cast<const std::byte*>(cache_of(index)) +
                 row * static_cast<std::uint64_t>(device_row_values(config_)) * element,
             bytes.data(), bytes.size());
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = element_as_float(f32 ? DType::f32 : DType::bf16, bytes.data(), i);
}

void CudaForward::write_cache(int index, std::uint32_t timeline, std::int32_t position,
                              std::span<const float> values) {
  const bool f32 = options_.numerics.cache == CacheType::f32;
  const std::size_t element = f32 ? 4 : 2;
  const auto stride = static_cast<std::size_t>(device_row_values(config_));
  const std::uint64_t row = std::uint64_t{timeline} * static_cast<std::uint64_t>(options_.capacity) +
                            static_cast<std::uint64_t>(position);
  std::vector<std::byte> bytes(stride * element);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = float_to_bf16(values[i]);
    if (f32)
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    else
      std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  write_bytes(static_cast<std::byte*>(cache_of(index)) + row * stride * element, bytes.data(), bytes.size());
}

// Rows of positions [0, count) as stored: kv_row values each, without the padding between them, as the CPU's cache has
// them.
void CudaForward::copy_rows(std::uint32_t timeline, std::int32_t count, std::byte* host, bool out) const {
  FATHOM_CUDA(cudaSetDevice(options_.device));
  FATHOM_CUDA(cudaStreamSynchronize(stream_.get()));
  const std::size_t element = options_.numerics.cache == CacheType::f32 ? 4 : 2;
  const std::size_t width = static_cast<std::size_t>(config_.kv_row()) * element;
  const std::size_t pitch = static_cast<std::size_t>(device_row_values(config_)) * element;
  const auto rows = static_cast<std::size_t>(count);
  for (int index = 0; index < config_.num_hidden_layers; ++index, host += rows * width) {
    std::byte* device = static_cast<std::byte*>(cache_of(index)) +
                        std::uint64_t{timeline} * static_cast<std::uint64_t>(options_.capacity) * pitch;
    if (out)
      FATHOM_CUDA(cudaMemcpy2D(host, width, device, pitch, width, rows, cudaMemcpyDeviceToHost));
    else
      FATHOM_CUDA(cudaMemcpy2D(device, pitch, host, width, width, rows, cudaMemcpyHostToDevice));
  }
  FATHOM_CUDA(cudaStreamSynchronize(cudaStreamLegacy));  // as copy_to_device does, and why
}

std::size_t CudaForward::position_bytes() const {
  return static_cast<std::size_t>(config_.num_hidden_layers) * static_cast<std::size_t>(config_.kv_row()) *
         (options_.numerics.cache == CacheType::f32 ? 4 : 2);
}

void CudaForward::export_rows(std::uint32_t timeline, std::int32_t count, std::span<std::byte> out) const {
  copy_rows(timeline, count, out.data(), true);
}

void CudaForward::import_rows(std::uint32_t timeline, std::int32_t count, std::span<const std::byte> rows) {
  copy_rows(timeline, count, const_cast<std::byte*>(rows.data()), false);
}

// -- from logits to a token ---------------------------------------------------------------------------------

std::optional<Drawn> CudaForward::draw(const DrawRequest& request) {
  static_assert(sizeof(SampleScratch) + sizeof(SampleResult) <= kSamplingBytes);
  FATHOM_CUDA(cudaSetDevice(options_.device));
  const SamplingParams& s = request.sampling;
  std::byte* scratch = work<std::byte>(Work::sampling);
  SampleParams p;
  p.logits = work<float>(Work::logits);
  p.valid = std::clamp(request.valid_ids, 0, config_.vocab_size);
  p.greedy = s.temperature == 0.0f || s.top_k == 1;
  p.temperature = p.greedy ? 1.0 : static_cast<double>(s.temperature);
  p.top_p = static_cast<double>(s.top_p);
  p.min_p = static_cast<double>(s.min_p);
  p.top_k = s.top_k;
  p.uniform = static_cast<double>(uniform(s.seed, static_cast<std::uint64_t>(request.position), 0));
  p.log_probability = request.logprobs.has_value();
  p.top = request.logprobs.value_or(0);
  p.scratch = reinterpret_cast<SampleScratch*>(scratch);
  p.result = reinterpret_cast<SampleResult*>(scratch + sizeof(SampleScratch));
  if (p.top > kSampleTop) return std::nullopt;
  sample_token(on_, p);
  FATHOM_CUDA(cudaMemcpyAsync(drawn_.data(), p.result, sizeof(SampleResult), cudaMemcpyDeviceToHost, stream_.get()));
  settle();
  const auto& r = *reinterpret_cast<const SampleResult*>(drawn_.data());
  if (r.status != SampleStatus::drawn) return std::nullopt;
  Drawn drawn{r.id, 0, {}};
  if (!p.log_probability) return drawn;
  const double norm = static_cast<double>(r.best) + std::log(r.plain_sum);
  drawn.logprob = static_cast<double>(r.logit) - norm;
  for (int i = 0; i < std::min(p.top, p.valid); ++i)
    drawn.top.push_back({r.top_id[i], static_cast<double>(r.top_logit[i]) - norm});
  return drawn;
}

std::vector<float> CudaForward::kept_logits() {
  settle();
  std::vector<float> all(static_cast<std::size_t>(config_.vocab_size));
  read(Work::logits, std::span<float>(all));
  return all;
}

// Whether what a step has just made visible is all finite; if not, `name` is the stage that wrote it.
bool CudaForward::wrote_finite(const Step& step, std::string* name) {
  const auto finite = [&](Work w, std::int64_t count, Stage stage) {
    std::vector<float> values(static_cast<std::size_t>(count));
    read(w, std::span<float>(values));
    if (std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) return true;
    *name = row_of(stage).name;
    return false;
  };
  const std::int64_t heads = heads_;
  switch (step.stage) {
    case Stage::Attend:
      return finite(Work::kv_row, config_.kv_row(), Stage::Latents) &&
             finite(Work::q, heads * config_.qk_head_dim(), Stage::Query) &&
             finite(Work::attn, heads * config_.v_head_dim, Stage::Attend);
    case Stage::Route:
      return finite(Work::expert_weights, config_.router.num_experts_per_tok, Stage::Route);
    case Stage::Logits:
      return finite(Work::logits, config_.vocab_size, Stage::Logits);
    default:
      return finite(Work::x, config_.hidden_size, step.stage);
  }
}

std::string CudaForward::first_bad_stage(const Row& row) {
  try {
    FATHOM_CUDA(cudaSetDevice(options_.device));
    set_rows({&row, 1});
    std::string name;
    for (const Step& step : stage_list(config_, Stack::main)) {
      if (!run(Stack::main, step, row.role) || wrote_finite(step, &name)) continue;
      return step.layer < 0 ? name : fmt::format("layer {}, {}", step.layer, name);
    }
  } catch (const Error&) {  // the device failed: there is nothing to look at
  }
  return {};
}

// -- benchmarks ---------------------------------------------------------------------------------------------

namespace {

float elapsed(const Event& from, const Event& to) {
  float ms = 0;
  FATHOM_CUDA(cudaEventSynchronize(to.get()));
  FATHOM_CUDA(cudaEventElapsedTime(&ms, from.get(), to.get()));
  return ms;
}

}  // namespace

std::vector<StageTime> CudaForward::stage_times(std::int32_t position, int repeats) {
  const Row row{1, position, 0, Role::generated};
  set_rows({&row, 1});
  Pass pass = pass_for(Role::generated, 1);
  pass.choose_inside = !host_experts_;
  fill_cache(on_, cache_.data(),
             static_cast<std::int64_t>(cache_.size() / (options_.numerics.cache == CacheType::f32 ? 4 : 2)),
             options_.numerics.cache == CacheType::f32, 7);
  const Event begin = make_event(), end = make_event();
  std::vector<StageTime> times;
  // `served`: the layers whose experts in host memory the body hands over to, in order.
  const auto measure = [&](const char* name, int launches, auto&& body, std::span<const DeviceLayer> served = {}) {
    embed_rows(pass, Stack::main);  // a residual stream of ordinary size
    body();
    synchronize();
    // As a graph, as in a step: launching from the host takes longer than the smaller kernels run.
    const GraphExec exec = capture([&] {
      embed_rows(pass, Stack::main);
      for (int i = 0; i < repeats; ++i) body();
    });
    FATHOM_CUDA(cudaEventRecord(begin.get(), stream_.get()));
    FATHOM_CUDA(cudaGraphLaunch(exec.get(), stream_.get()));
    FATHOM_CUDA(cudaEventRecord(end.get(), stream_.get()));
    for (int i = 0; i < repeats; ++i)
      for (const DeviceLayer& l : served)
        if (l.host_experts != nullptr) serve_experts(pass, l);
    times.push_back({name, static_cast<double>(elapsed(begin, end)) / repeats, launches});
  };
  const auto layers = [&](auto&& body) {
    return [this, body] {
      for (int i = 0; i < config_.num_hidden_layers; ++i) body(i, layer(i));
    };
  };
  const int n = config_.num_hidden_layers;
  measure("AttnNorm..Query", n * (config_.q_lora_rank > 0 ? 2 : 1),
          layers([&](int, const DeviceLayer& l) { project(pass, l); }));
  measure("AttnNorm..Attend", n * (config_.q_lora_rank > 0 ? 5 : 4),
          layers([&](int i, const DeviceLayer&) { attend(pass, i); }));
  measure("AttnOut..AttnReduce", n, layers([&](int, const DeviceLayer& l) { attn_out(pass, l); }));
  measure("FfnNorm..Route", n, layers([&](int, const DeviceLayer& l) {
            if (l.expert_count > 0) route(pass, l);
          }));
  measure("Shared..FfnReduce", 2 * n, layers([&](int, const DeviceLayer& l) {
            if (l.host_experts != nullptr) return experts_on_host(pass, l);
            if (l.expert_count > 0) experts(pass, l);
          }), weights_.layers);
  measure("Dense..FfnReduce", 2, layers([&](int, const DeviceLayer& l) {
            if (l.expert_count == 0) mlp(pass, l, l.dense, true);
          }));
  measure("FinalNorm..Logits", 1, [&] { logits(pass, Stack::main, 1, false); });
  return times;
}

double CudaForward::decode_time(std::int32_t position, int tokens) {
  if (position + tokens + 2 > options_.capacity)
    fail(Exit::context, "{} tokens from position {} exceed the context of {}", tokens, position,
         options_.capacity);
  fill_cache(on_, cache_.data(),
             static_cast<std::int64_t>(cache_.size() / (options_.numerics.cache == CacheType::f32 ? 4 : 2)),
             options_.numerics.cache == CacheType::f32, 7);
  const Row row{1, position, 0, Role::generated};
  set_rows({&row, 1});
  Pass pass = pass_for(Role::generated, 1);
  pass.choose_inside = !host_experts_;
  ForwardCall call;
  call.rows = {&row, 1};
  std::int32_t* rows = work<std::int32_t>(Work::rows);
  const auto step = [&] {
    run_layers(pass, call, true);
    next_row(on_, rows, rows + kPromptChunk, config_.vocab_size);
  };
  step();
  const Event begin = make_event(), end = make_event();
  FATHOM_CUDA(cudaEventRecord(begin.get(), stream_.get()));
  for (int i = 0; i < tokens; ++i) step();
  FATHOM_CUDA(cudaEventRecord(end.get(), stream_.get()));
  return static_cast<double>(elapsed(begin, end)) / tokens;
}

void CudaForward::run_layers_at_once(int begin, int end) {
  PersistentParams p = persistent_->params;
  p.begin = begin, p.end = end;
  run_persistent(on_, p);
}

std::vector<std::uint64_t> CudaForward::persistent_stamps() {
  PersistentParams p = persistent_->params;
  p.stamps_per_block = kHandoffsPerLayer * (p.end - p.begin);
  const std::size_t count = std::size_t{2} * static_cast<std::size_t>(on_.multiprocessors * p.stamps_per_block);
  Arena memory(count * sizeof(std::uint64_t));
  p.stamps = reinterpret_cast<std::uint64_t*>(memory.data());
  std::vector<std::uint64_t> stamps(count);
  for (int i = 0; i < 2; ++i) {  // the first run warms up
    embed_rows(pass_for(Role::generated, 1), Stack::main);
    run_persistent(on_, p);
  }
  read_bytes(memory.data(), stamps.data(), count * sizeof(std::uint64_t));
  return stamps;
}

// -- cuda/device.h ------------------------------------------------------------------------------------------

double CudaForward::host_expert_rate(int repeats) {
  if (!host_experts_) fail(Exit::failure, "no experts are in host memory");
  std::vector<const ExpertTable*> tables;
  for (const DeviceLayer& l : weights_.layers)
    if (l.host_experts != nullptr) tables.push_back(l.host_experts);
  const ActivationType a = options_.numerics.generated_activations;
  return host_experts_->rate(tables, {a, config_.ue8m0_activations}, repeats);
}

std::unique_ptr<Forward> make_forward(const Config& config, const Weights& weights,
                                      const ForwardOptions& options) {
  return std::make_unique<CudaForward>(config, weights, options);
}

std::vector<StageTime> stage_times(Forward& forward, std::int32_t position, int repeats) {
  return dynamic_cast<CudaForward&>(forward).stage_times(position, repeats);
}

double decode_time(Forward& forward, std::int32_t position, int tokens) {
  return dynamic_cast<CudaForward&>(forward).decode_time(position, tokens);
}

ExpertUse CudaForward::expert_use(std::int32_t position, int tokens) {
  const auto slots = static_cast<std::size_t>(config_.router.num_experts_per_tok);
  ExpertUse use;
  use.choices.assign(static_cast<std::size_t>(config_.router.n_routed_experts), 0);
  std::vector<std::int32_t> ids(slots);
  for (int i = 0; i < tokens; ++i) {
    const auto token = static_cast<std::int32_t>((std::int64_t{i} * 7919 + 13) % config_.vocab_size);
    const Row row{token, position, 0, Role::generated};
    set_rows({&row, 1});
    for (const Step& s : stage_list(config_, Stack::main)) {
      if (s.stage == Stage::FinalNorm) break;
      run(Stack::main, s, Role::generated);
      if (s.stage != Stage::Route) continue;
      read(Work::expert_ids, std::span<std::int32_t>(ids));
      for (std::int32_t id : ids) ++use.choices[static_cast<std::size_t>(id)];
    }
  }
  return use;
}

ExpertUse expert_use(Forward& forward, std::int32_t position, int tokens) {
  return dynamic_cast<CudaForward&>(forward).expert_use(position, tokens);
}

HostTimes CudaForward::take_host_times() {
  if (!host_experts_) fail(Exit::failure, "no experts are in host memory");
  const HostExperts::Times t = host_experts_->take_times();
  return {t.waiting_s, t.computing_s};
}

HostTimes take_host_times(Forward& forward) { return dynamic_cast<CudaForward&>(forward).take_host_times(); }

double host_expert_rate(Forward& forward, int repeats) {
  return dynamic_cast<CudaForward&>(forward).host_expert_rate(repeats);
}

double read_bandwidth(int device, std::uint64_t bytes) {
  const DeviceInfo info = find_device(device);
  FATHOM_CUDA(cudaSetDevice(device));
  Arena memory(bytes + 256);
  const Stream stream = make_stream();
  const Launch on{stream.get(), info.multiprocessors, false};
  // Random contents: constant data can run faster than real data does.
  fill_cache(on, memory.data(), static_cast<std::int64_t>(bytes / 4), true, 3);
  const Event begin = make_event(), end = make_event();
  std::vector<float> times;
  for (int i = 0; i < 8; ++i) {
    FATHOM_CUDA(cudaEventRecord(begin.get(), stream.get()));
    read_all(on, memory.data(), bytes, reinterpret_cast<float*>(memory.data() + bytes));
    FATHOM_CUDA(cudaEventRecord(end.get(), stream.get()));
    times.push_back(elapsed(begin, end));
  }
  std::sort(times.begin() + 1, times.end());  // the first run warms up
  return static_cast<double>(bytes) / (static_cast<double>(times[4]) * 1e-3);
}

}  // namespace fathom::cuda
