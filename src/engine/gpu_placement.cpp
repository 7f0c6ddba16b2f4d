#include "src/engine/gpu_placement.h"

#include <algorithm>
#include <bit>

#include "src/base/checked.h"
#include "src/base/error.h"

namespace fathom {
namespace {

constexpr std::int64_t kAlign = 256;

std::uint64_t align(Size bytes) { return (bytes.ceil_div(kAlign) * Size(kAlign)).value(); }

std::uint64_t vector_bytes(const std::vector<float>& v) {
  return v.empty() ? 0 : align(Size(v.size()) * Size(4));
}

std::uint64_t mlp_bytes(const Mlp& m) {
  return device_bytes(m.gate) + device_bytes(m.up) + device_bytes(m.down);
}

std::uint64_t expert_bytes(const LayerWeights& l) {
  std::uint64_t sum = 0;
  for (const Expert& e : l.experts.experts)
    sum += device_bytes(e.gate) + device_bytes(e.up) + device_bytes(e.down);
  return sum;
}

std::uint64_t layer_bytes(const LayerWeights& l, bool host_experts) {
  std::uint64_t sum = 0;
  for (const auto* v : {&l.input_layernorm, &l.post_attention_layernorm, &l.q_a_layernorm, &l.kv_a_layernorm,
                        &l.e_score_correction_bias})
    sum += vector_bytes(*v);
  for (const auto* m : {&l.q_a_proj, &l.q_proj, &l.kv_a_proj, &l.kv_b_proj, &l.o_proj, &l.router})
    sum += device_bytes(*m);
  if (l.dense) sum += mlp_bytes(*l.dense);
  if (l.shared) sum += mlp_bytes(*l.shared);
  if (host_experts) return sum;
  // The experts and the pointers to them.
  return sum + expert_bytes(l) + align(Size(l.experts.experts.size()) * Size(64));
}

std::uint64_t weight_bytes(const Weights& w, bool host_experts) {
  // The last term holds the rotary frequencies: at most 512 of them.
  std::uint64_t sum = device_bytes(w.embed_tokens) + vector_bytes(w.norm) + align(512 * 4);
  if (w.lm_head.data != w.embed_tokens.data || w.lm_head.data == nullptr) sum += device_bytes(w.lm_head);
  for (const LayerWeights& l : w.layers) sum += layer_bytes(l, host_experts);
  for (const MtpWeights& m : w.mtp) {
    sum += vector_bytes(m.enorm) + vector_bytes(m.hnorm) + vector_bytes(m.norm) + device_bytes(m.eh_proj);
    if (m.embed_tokens.data != w.embed_tokens.data) sum += device_bytes(m.embed_tokens);
    if (m.head.data != w.lm_head.data) sum += device_bytes(m.head);
    sum += layer_bytes(m.layer, host_experts);
  }
  return sum;
}

// True if cuda/prompt_attention.cu has the shape of the heads and the format of kv_b.
bool has_expanded_form(const Config& c, const Weights& w, const PlacementRequest& request) {
  const auto fits = [](const LayerWeights& l) {
    const Linear& m = l.kv_b_proj;
    const WeightFormat& f = m.format;
    const bool blocks = f.decode == Decode::e4m3 && f.group_rows == kExpandedTile && f.group_cols == 128 &&
                        m.row0 % kExpandedTile == 0 && m.col0 == 0;
    return blocks || f.decode == Decode::bf16;
  };
  return request.hopper && request.numerics.cache == CacheType::bf16 && c.qk_nope_head_dim == 128 &&
         c.qk_rope_head_dim == 64 && c.v_head_dim == 128 && c.kv_lora_rank == 512 &&
         std::all_of(w.layers.begin(), w.layers.end(), fits) &&
         std::all_of(w.mtp.begin(), w.mtp.end(), [&](const MtpWeights& m) { return fits(m.layer); });
}

constexpr std::int64_t kTile16 = kExpandedTile * 2;  // bytes of a column of a tile

// Bytes of one head's expanded keys and values.
Size expanded_bytes(const Config& c, std::int32_t capacity) {
  return Size(capacity).ceil_div(kExpandedTile) * Size(kTile16) * Size(c.qk_nope_head_dim + c.v_head_dim);
}

// As many heads as 256 MiB hold, four at least (2 KB a position): with 4,096 rows they fill a GPU. At most
// 32, which bounds what else is kept per head.
int heads_at_a_time(const Config& c, int heads, std::int32_t capacity) {
  const std::uint64_t fit =
      (std::uint64_t{256} << 20) / std::max<std::uint64_t>(expanded_bytes(c, capacity).value(), 1);
  return std::min(heads, static_cast<int>(std::clamp<std::uint64_t>(fit, 4, 32)));
}

std::vector<std::uint64_t> work_bytes(const Config& c, int heads, const PlacementRequest& request,
                                      int prompt_rows, int expanded_heads) {
  // Experts in host memory need neither hidden activations nor outputs here.
  const int slots = request.host_experts ? 0 : c.router.num_experts_per_tok;
  const Size chosen = c.router.num_experts_per_tok;
  const Size chunk = prompt_rows;
  const Size hidden = c.hidden_size;
  const Size attn = Size(heads) * Size(c.v_head_dim);
  const Size moe = Size(slots) * Size(c.moe_intermediate_size) + Size(c.shared_intermediate_size());
  const Size inner = std::max<Size>(moe, c.intermediate_size);
  // The normed row, and behind it the widest other operand of a prompt GEMM; each part padded to 16 values.
  const Size input = hidden + std::max({Size(c.q_lora_rank), attn, inner}) + Size(16 * (slots + 2));
  const Size absorbed = expanded_heads > 0 ? kGeneratedRows : std::min(prompt_rows, kAbsorbedRows);
  // A generated row has max_splits() splits, a prompt row one.
  const Size splits = std::max<Size>(absorbed, Size(kGeneratedRows) * Size(max_splits(heads)));
  const Size element = request.numerics.cache == CacheType::f32 ? 4 : 2;
  const Size tiles =
      chunk * Size(std::max(slots, 1)) * Size(2) + Size(c.router.n_routed_experts) * Size(4) + Size(64);

  std::vector<std::uint64_t> b(kWorkBuffers, 0);
  const auto set = [&](Work w, Size bytes) { b[static_cast<std::size_t>(w)] = align(bytes); };
  set(Work::rows, Size(4) * Size(kPromptChunk) * Size(4));
  set(Work::x, chunk * hidden * Size(4));
  set(Work::delta, chunk * hidden * Size(4));
  set(Work::input, chunk * input * Size(2));
  set(Work::input_scale, chunk * (input.ceil_div(Size(128)) + Size(slots + 2)) * Size(4));
  set(Work::q_latent, chunk * Size(c.q_lora_rank) * Size(4));
  set(Work::kv_row, chunk * Size(c.kv_row()) * Size(4));
  set(Work::q, chunk * Size(heads) * Size(c.qk_head_dim()) * Size(4));
  set(Work::q_absorbed, absorbed * Size(heads) * Size(device_row_values(c)) * element);
  set(Work::partial_sum, splits * Size(heads) * Size(2) * Size(4));
  set(Work::partial_out, splits * Size(heads) * Size(c.kv_lora_rank) * Size(4));
  if (expanded_heads > 0) {
    const Size some = expanded_heads, key_tiles = Size(request.capacity).ceil_div(kExpandedTile);
    // Heads are taken in as few, equal groups as the largest group allows; its size never falls with the
    // context, so that a smaller context always fits where a larger one did.
    const Size bytes =
        std::min(Size(heads) * expanded_bytes(c, request.capacity),
                 std::max(Size(std::int64_t{256} << 20), some * expanded_bytes(c, request.capacity)));
    set(Work::expanded_keys, bytes);
    set(Work::expanded_rope, key_tiles * Size(kTile16) * Size(c.qk_rope_head_dim));
    set(Work::prompt_query,
        Size(std::min(heads, 32)) * chunk.ceil_div(kExpandedTile) * Size(kTile16) * Size(c.qk_head_dim()));
    set(Work::kv_b_tiles,
        Size(std::min(heads, 32)) * Size(c.qk_nope_head_dim + c.v_head_dim) * Size(c.kv_lora_rank) * Size(2));
    set(Work::counter, Size(16) * (Size(2) + Size(std::min(heads, 32)) * chunk.ceil_div(kExpandedTile)));
  }
  set(Work::attn, chunk * attn * Size(4));
  set(Work::router_logits, chunk * Size(c.router.n_routed_experts) * Size(4));
  set(Work::expert_ids, chunk * chosen * Size(4));
  set(Work::expert_weights, chunk * chosen * Size(4));
  set(Work::hidden, chunk * inner * Size(4));
  set(Work::expert_out, chunk * Size(slots) * hidden * Size(2));
  set(Work::tiles, tiles * Size(4));
  if (request.mtp) set(Work::mtp_input, chunk * hidden * Size(8));
  set(Work::logits, Size(kLogitRows) * Size(c.vocab_size) * Size(4));
  if (request.host_experts) set(Work::hand_off, 256);
  set(Work::sampling, kSamplingBytes);
  if (request.hopper && request.timelines == 1 && !request.host_experts && request.numerics.cache == CacheType::bf16)
    set(Work::layers_at_once, kLayersAtOnceBytes);
  return b;
}

std::string gib(std::uint64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

int max_splits(int heads) {
  // Half of the multiprocessors read at full speed, and fewer splits are combined sooner.
  if (heads <= 32) return kMaxSplits / 2;
  const int groups = (heads + 63) / 64;
  return std::clamp(kMaxSplits / groups, 16, kMaxSplits);
}

int least_split_keys(int heads) { return heads > 32 ? 2 * kKeyTile : kKeyTile; }

int keys_per_split(std::int32_t position, int heads) {
  const int least = least_split_keys(heads);
  return least * (position / (least * max_splits(heads)) + 1);
}

std::uint64_t device_bytes(const Linear& l) {
  if (l.rows == 0 || l.cols == 0) return 0;
  const int bits = l.format.decode == Decode::f16 ? 32 : l.format.bits;  // F16 is widened to F32
  const Size row = (Size(l.cols) * Size(bits)).ceil_div(128) * Size(16);
  std::uint64_t sum = align(row * Size(l.rows));
  if (l.format.scaled()) {
    const std::int64_t grid_rows = (l.row0 % l.format.group_rows + l.rows - 1) / l.format.group_rows + 1;
    const std::int64_t grid_cols = (l.col0 % l.format.group_cols + l.cols - 1) / l.format.group_cols + 1;
    sum += align(Size(grid_rows) * Size(grid_cols) * Size(4));
  }
  return sum;
}

int device_row_values(const Config& config) { return (config.kv_row() + 7) / 8 * 8; }

Placement place(const Config& config, const Weights& weights, const PlacementRequest& request) {
  Placement p;
  p.capacity = request.capacity;
  p.weights = weight_bytes(weights, request.host_experts);
  if (request.host_experts) {
    for (const LayerWeights& l : weights.layers) p.host_experts += expert_bytes(l);
    for (const MtpWeights& m : weights.mtp) p.host_experts += expert_bytes(m.layer);
  }
  p.prompt_rows = std::clamp(request.capacity, 1, request.host_experts ? kHostPromptChunk : kPromptChunk);
  p.prompt_rows = (p.prompt_rows + 63) / 64 * 64;
  if (has_expanded_form(config, weights, request))
    p.expanded_heads = heads_at_a_time(config, weights.heads, request.capacity);
  p.work = work_bytes(config, weights.heads, request, p.prompt_rows, p.expanded_heads);
  for (std::uint64_t b : p.work) p.workspace += b;
  const Size layers = config.num_hidden_layers + (request.mtp ? config.num_nextn_predict_layers : 0);
  const Size element = request.numerics.cache == CacheType::f32    ? 4
                       : request.numerics.cache == CacheType::bf16 ? 2
                                                                   : 1;
  p.bytes_per_position =
      (layers * Size(request.timelines) * Size(device_row_values(config)) * element).value();
  p.cache = align(Size(p.bytes_per_position) * Size(request.capacity));
  return p;
}

std::int32_t Placement::largest_capacity(std::uint64_t available) const {
  const std::uint64_t fixed = weights + workspace + kAlign;
  if (available <= fixed || bytes_per_position == 0) return 0;
  return static_cast<std::int32_t>(
      std::min<std::uint64_t>((available - fixed) / bytes_per_position, 0x7fffffff));
}

std::string Placement::text() const {
  std::string out = fmt::format("weights {} + cache {} ({} positions) + workspace {} = {}", gib(weights), gib(cache),
                                capacity, gib(workspace), gib(total()));
  if (host_experts > 0) out += fmt::format("; routed experts {} in host memory", gib(host_experts));
  return out;
}

void require_fit(const Placement& p, std::uint64_t available, const std::string& device) {
  if (p.total() <= available) return;
  const std::int32_t fits = p.largest_capacity(available);
  throw Error(
      Exit::out_of_memory,
      fmt::format("{}: {} needed ({}), {} available", device, gib(p.total()), p.text(), gib(available)),
      fits > 0 ? fmt::format("use --ctx {} or less", fits)
      : p.host_experts > 0
          ? std::string("the weights beside the experts alone do not fit: use --backend cpu")
          : std::string("the weights alone do not fit: use --experts host, or --backend cpu"));
}

Placement choose_placement(const Config& config, const Weights& weights, PlacementRequest request, ExpertPlace experts,
                           bool context_asked_for, std::uint64_t available, const std::string& device) {
  // A context of a few tokens is no use: rather say what is missing.
  const std::int32_t least = std::min(request.capacity, 1024);
  const auto fitted = [&](bool host) {
    PlacementRequest r = request;
    r.host_experts = host;
    const Placement p = place(config, weights, r);
    if (context_asked_for || p.total() <= available) return p;
    r.capacity = p.largest_capacity(available);
    return r.capacity >= least ? place(config, weights, r) : p;
  };
  const bool routed = config.router.n_routed_experts > 0;
  if (experts == ExpertPlace::host && !routed)
    throw Error(Exit::unsupported, "--experts host: this model has no routed experts", "leave --experts at auto");
  Placement p = fitted(experts == ExpertPlace::host);
  if (experts == ExpertPlace::automatic && routed && p.total() > available) p = fitted(true);
  require_fit(p, available, device);
  return p;
}

Weights weights_of_shape(const Config& c, bool fp8, bool mtp) {
  const auto matrix = [](std::int64_t rows, std::int64_t cols, const WeightFormat& format) {
    Linear l;
    l.rows = rows;
    l.cols = cols;
    l.row_bytes = cols * format.bits / 8;
    l.format = format;
    if (format.scaled()) l.scale_cols = (cols + format.group_cols - 1) / format.group_cols;
    return l;
  };
  const WeightFormat block = fp8 ? formats::fp8_f32 : formats::bf16;
  const auto ones = [](int n) { return std::vector<float>(static_cast<std::size_t>(n), 1.0f); };
  const auto mlp = [&](std::int64_t width) {
    return Mlp{matrix(width, c.hidden_size, block), matrix(width, c.hidden_size, block),
               matrix(c.hidden_size, width, block)};
  };
  const auto layer = [&](bool moe) {
    LayerWeights l;
    l.input_layernorm = l.post_attention_layernorm = ones(c.hidden_size);
    l.kv_a_layernorm = ones(c.kv_lora_rank);
    const std::int64_t q_rows = std::int64_t{c.num_attention_heads} * c.qk_head_dim();
    if (c.q_lora_rank > 0) {
      l.q_a_proj = matrix(c.q_lora_rank, c.hidden_size, block);
      l.q_a_layernorm = ones(c.q_lora_rank);
    }
    l.q_proj = matrix(q_rows, c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size, block);
    l.kv_a_proj = matrix(c.kv_row(), c.hidden_size, block);
    l.kv_b_proj = matrix(std::int64_t{c.num_attention_heads} * (c.qk_nope_head_dim + c.v_head_dim),
                         c.kv_lora_rank, block);
    l.o_proj = matrix(c.hidden_size, std::int64_t{c.num_attention_heads} * c.v_head_dim, block);
    if (!moe) {
      l.dense = mlp(c.intermediate_size);
      return l;
    }
    l.router = matrix(c.router.n_routed_experts, c.hidden_size, formats::bf16);
    if (c.router.topk_method == TopkMethod::noaux_tc)
      l.e_score_correction_bias.assign(static_cast<std::size_t>(c.router.n_routed_experts), 0.0f);
    const Mlp one = mlp(c.moe_intermediate_size);
    l.experts.experts.assign(static_cast<std::size_t>(c.router.n_routed_experts),
                             Expert{one.gate, one.up, one.down, Device::host()});
    if (c.n_shared_experts > 0) l.shared = mlp(c.shared_intermediate_size());
    return l;
  };
  Weights w;
  w.embed_tokens = matrix(c.vocab_size, c.hidden_size, formats::bf16);
  w.lm_head = w.embed_tokens;
  w.norm = ones(c.hidden_size);
  w.heads = c.num_attention_heads;
  for (int i = 0; i < c.num_hidden_layers; ++i) w.layers.push_back(layer(c.is_moe(i)));
  for (int i = 0; mtp && i < c.num_nextn_predict_layers; ++i) {
    MtpWeights m;
    m.enorm = m.hnorm = m.norm = ones(c.hidden_size);
    m.eh_proj = matrix(c.hidden_size, std::int64_t{2} * c.hidden_size, formats::bf16);
    m.embed_tokens = m.head = w.embed_tokens;
    m.layer = layer(true);
    w.mtp.push_back(m);
  }
  return w;
}

}  // namespace fathom
