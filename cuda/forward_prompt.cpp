// Products of prompt rows on tensor cores: operands, projections, MLPs and experts.
//
// Two paths with the same stages. Hopper (Pass::hopper): operands are e4m3 codes or BF16, gate and up close
// with SwiGLU and round their result themselves, experts' operands are gathered in sorted order. Portable:
// operands are BF16 (or e4m3 values held as BF16), `hidden` is FP32 and rounded by a kernel of its own.
#include "cuda/forward.h"

namespace fathom::cuda {
namespace {

constexpr int padded(int cols) { return (cols + 15) / 16 * 16; }
constexpr int blocks(int cols) { return (cols + 127) / 128; }
constexpr bool is_fp8(Round r) { return r == Round::fp8 || r == Round::fp8_ue8m0; }

}  // namespace

// The operand buffer has two parts: the normed rows, which several products read, and another operand behind
// them.
CudaForward::OperandPlace CudaForward::operand_place(const Pass& pass, int cols, bool second) const {
  const std::int64_t chunk = placement_.prompt_rows;
  const std::int64_t first = chunk * padded(config_.hidden_size) * 2;
  const std::int64_t first_scales = chunk * blocks(config_.hidden_size);
  OperandPlace place;
  place.values = work<std::byte>(Work::input) + (second ? first : 0);
  if (is_fp8(pass.round)) place.scale = work<float>(Work::input_scale) + (second ? first_scales : 0);
  place.scale_stride = pass.hopper ? chunk : blocks(cols);
  return place;
}

// `rows`: 0 stands for those of the pass.
void CudaForward::operand(const Pass& pass, const Input& in, bool second, int rows) {
  const OperandPlace place = operand_place(pass, in.cols, second);
  OperandParams p{.input = in, .rows = rows == 0 ? pass.rows : rows};
  p.input.round = pass.round;
  p.scale = place.scale;
  if (pass.hopper && is_fp8(pass.round)) {
    p.codes = reinterpret_cast<std::uint8_t*>(place.values);
    p.scale_stride = place.scale_stride;
  } else {
    p.out = reinterpret_cast<__nv_bfloat16*>(place.values);
  }
  make_operand(on_, p);
}

// The product of an operand in its place; the caller says where the result goes.
GemmParams CudaForward::gemm_params(const Pass& pass, const Matrix& w, bool second) const {
  const OperandPlace place = operand_place(pass, w.cols, second);
  GemmParams p;
  p.w = w;
  p.rows = pass.rows;
  p.a_stride = padded(w.cols);
  p.a_scale = place.scale;
  p.scale_stride = place.scale_stride;
  p.ue8m0 = pass.round == Round::fp8_ue8m0;
  if (pass.hopper && is_fp8(pass.round))
    p.codes = reinterpret_cast<const std::uint8_t*>(place.values);
  else
    p.a = reinterpret_cast<const __nv_bfloat16*>(place.values);
  return p;
}

void CudaForward::multiply(const Pass& pass, const GemmParams& p) {
  if (pass.hopper) return is_fp8(pass.round) ? gemm_fp8(on_, p) : gemm_bf16(on_, p);
  if (p.out2 == nullptr) return gemm(on_, p);
  GemmParams one = p;
  one.up = {}, one.out2 = nullptr;
  gemm(on_, one);
  one.w = p.up, one.out = p.out2, one.out_stride = p.out2_stride;
  gemm(on_, one);
}

// Fused: the product is q, rotated, as tiles in place of q. Where q is packed otherwise lies what it is
// turned by.
void CudaForward::into_tiles(const Pass& pass, GemmParams& p) const {
  if (!pass.fused) return;
  p.query = work<std::byte>(Work::q);
  p.rotation = work<float2>(Work::prompt_query);
}

void CudaForward::project_gemm(const Pass& pass, const DeviceLayer& l) {
  const Config& c = config_;
  const std::int64_t q_stride = std::int64_t{heads_} * c.qk_head_dim();
  const bool lora = c.q_lora_rank > 0;
  operand(pass, normed(l.input_layernorm, pass.round), false);
  GemmParams p = gemm_params(pass, lora ? l.q_a_proj : l.q_proj, false);
  p.out = work<float>(lora ? Work::q_latent : Work::q);
  p.out_stride = lora ? c.q_lora_rank : q_stride;
  p.up = l.kv_a_proj;
  p.out2 = work<float>(Work::kv_row);
  p.out2_stride = c.kv_row();
  if (!lora) into_tiles(pass, p);
  multiply(pass, p);
  if (lora) {
    operand(pass,
            {work<float>(Work::q_latent), c.q_lora_rank, c.q_lora_rank, l.q_a_layernorm, c.rms_norm_eps,
             pass.round, nullptr},
            true);
    GemmParams q = gemm_params(pass, l.q_proj, true);
    q.out = work<float>(Work::q);
    q.out_stride = q_stride;
    into_tiles(pass, q);
    multiply(pass, q);
  }
  rotate(on_, work<float>(Work::kv_row), c.kv_row(), c.kv_row(), rotation(c.kv_row()), pass.rows);
  if (pass.fused) return;
  rotate(on_, work<float>(Work::q), q_stride, static_cast<int>(q_stride), rotation(c.qk_head_dim()),
         pass.rows);
}

// Gate and up, SwiGLU, and its rounding: the operand of `down` is in the second place afterwards, `rows` of
// it. `p` holds the operand, gate and up.
void CudaForward::gate_up_gemm(const Pass& pass, GemmParams& p, int rows) {
  const int inner = p.w.rows;
  if (!pass.hopper) {
    float* hidden = work<float>(Work::hidden);
    p.out = hidden;
    p.out_stride = inner;
    multiply(pass, p);
    operand(pass, {hidden, inner, inner, nullptr, 0, pass.round, nullptr}, true, rows);
    return;
  }
  const OperandPlace place = operand_place(pass, inner, true);
  p.out_stride = padded(inner);
  if (is_fp8(pass.round)) {
    p.out_codes = reinterpret_cast<std::uint8_t*>(place.values);
    p.out_scale = place.scale;
    p.out_scale_stride = std::int64_t{placement_.prompt_rows} * (rows > pass.rows ? rows / pass.rows : 1);
  } else {
    p.out_bf16 = reinterpret_cast<__nv_bfloat16*>(place.values);
  }
  multiply(pass, p);
}

// A dense or shared MLP of the normed rows in the first place.
void CudaForward::mlp_gemm(const Pass& pass, const DeviceMlp& m, bool to_x) {
  GemmParams g = gemm_params(pass, m.gate, false);
  g.up = m.up;
  gate_up_gemm(pass, g, pass.rows);
  GemmParams d = gemm_params(pass, m.down, true);
  d.out = work<float>(to_x ? Work::x : Work::delta);
  d.out_stride = config_.hidden_size;
  d.add = to_x;
  multiply(pass, d);
}

void CudaForward::experts_gemm(const Pass& pass, const DeviceLayer& l) {
  const int slots = config_.router.num_experts_per_tok, hidden = config_.hidden_size;
  const int pairs = pass.rows * slots;
  operand(pass, normed(l.post_attention_layernorm, pass.round), false);
  const bool shared = l.shared.gate.rows > 0;
  if (shared) mlp_gemm(pass, l.shared, false);  // into delta

  const int tile_rows = pass.hopper ? grouped_tile_rows(pairs, l.expert_count) : kGemmRows;
  const int tiles = (pairs + tile_rows - 1) / tile_rows + l.expert_count;
  TilesParams t;
  t.ids = work<std::int32_t>(Work::expert_ids);
  t.pairs = pairs;
  t.experts = l.expert_count;
  t.sorted = work<int>(Work::tiles);
  t.tile_expert = t.sorted + placement_.prompt_rows * slots;
  t.tile_begin = t.tile_expert + tiles;
  t.tile_count = t.tile_begin + tiles;
  t.tile_total = t.tile_count + tiles;
  t.tile_rows = tile_rows;
  t.tiles = tiles;
  sort_by_expert(on_, t);

  const auto grouped = [&](GemmParams& p, int which) {
    p.experts = l.experts;
    p.expert_count = l.expert_count;
    p.expert_bytes = l.expert_bytes;
    p.which = which;
    p.tile_expert = t.tile_expert;
    p.tile_begin = t.tile_begin;
    p.tile_count = t.tile_count;
    p.tile_total = t.tile_total;
    p.tiles = tiles;
    p.rows = pairs;
  };
  GemmParams g = gemm_params(pass, l.expert.gate, false);
  g.up = l.expert.up;
  grouped(g, 0);
  GemmParams d = gemm_params(pass, l.expert.down, true);
  grouped(d, 2);
  d.sorted = t.sorted;
  if (pass.hopper) {
    g.w.codes = l.first_expert.gate, g.up.codes = l.first_expert.up, d.w.codes = l.first_expert.down;
    // The gathered rows lie where the experts' results go later, their scales where the portable path has
    // `hidden`.
    const std::int64_t stride = std::int64_t{placement_.prompt_rows} * slots;
    const OperandPlace place = operand_place(pass, hidden, false);
    GatherParams gather;
    gather.in = place.values;
    gather.out = work<std::byte>(Work::expert_out);
    gather.row_bytes = padded(hidden) * (is_fp8(pass.round) ? 1 : 2);
    gather.scale = place.scale;
    gather.out_scale = work<float>(Work::hidden);
    gather.scale_rows = blocks(hidden);
    gather.scale_stride = place.scale_stride;
    gather.out_scale_stride = stride;
    gather.sorted = t.sorted;
    gather.divisor = slots;
    gather.rows = pairs;
    gather_operand(on_, gather);
    g.codes = is_fp8(pass.round) ? work<std::uint8_t>(Work::expert_out) : nullptr;
    g.a = work<__nv_bfloat16>(Work::expert_out);
    g.a_scale = gather.out_scale;
    g.scale_stride = d.scale_stride = stride;
  } else {
    g.sorted = t.sorted;
    g.input_divisor = slots;
  }
  gate_up_gemm(pass, g, pairs);
  d.out_bf16 = work<__nv_bfloat16>(Work::expert_out);
  d.out_stride = hidden;
  multiply(pass, d);
  combine(on_, {.expert_out = d.out_bf16,
                .weights = work<float>(Work::expert_weights),
                .slots = slots,
                .shared = shared ? work<float>(Work::delta) : nullptr,
                .x = work<float>(Work::x),
                .hidden = hidden,
                .rows = pass.rows});
}

}  // namespace fathom::cuda
