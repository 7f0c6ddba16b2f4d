// Tensor parallelism: one rank's views of the weights.
#include <algorithm>
#include <numeric>

#include "src/base/error.h"
#include "src/base/threads.h"
#include "src/model/weights.h"

namespace fathom {
namespace {

// This rank's part of n in whole blocks of `multiple`, the larger parts first (11 blocks over 8 ranks: 2, 2,
// 2, 1, 1, 1, 1, 1); the last rank's end is n, be its last block ragged.
Range part(std::int64_t n, Rank rank, std::int64_t multiple) {
  const std::int64_t blocks = (n + multiple - 1) / multiple, each = blocks / rank.count,
                     larger = blocks % rank.count;
  const auto border = [&](std::int64_t i) {
    return std::min(n, (i * each + std::min(i, larger)) * multiple);
  };
  return {border(rank.index), border(rank.index + 1)};
}

// The largest power of two up to `grid` that leaves no rank without a block. Below 128 a border falls inside
// a scale block, which a Linear allows; that happens only to models too small to be worth splitting.
std::int64_t grid_for(std::int64_t n, Rank rank, std::int64_t grid) {
  while (grid > 1 && (n + grid - 1) / grid < rank.count) grid /= 2;
  return grid;
}

// Rows of gate and up, columns of down.
Range width_of(const Linear& gate, const Linear& down, Rank rank) {
  const std::int64_t grid = gate.format.scaled() || down.format.scaled() ? 128 : 16;
  return part(gate.rows, rank, grid_for(gate.rows, rank, grid));
}

Mlp slice(const Mlp& m, Rank rank) {
  const Range r = width_of(m.gate, m.down, rank);
  return {m.gate.rows_slice(r.begin, r.end), m.up.rows_slice(r.begin, r.end),
          m.down.cols_slice(r.begin, r.end)};
}

ExpertTable slice(const ExpertTable& table, Rank rank) {
  ExpertTable out;
  out.experts.reserve(table.experts.size());
  for (const Expert& e : table.experts) {
    const Mlp m = slice(Mlp{e.gate, e.up, e.down}, rank);
    out.experts.push_back({m.gate, m.up, m.down, e.device});
  }
  return out;
}

// Whole heads, and where o_proj has block scales so many that its columns end on the grid.
Range heads_of(const Weights& whole, const Config& c, Rank rank) {
  const bool scaled = !whole.layers.empty() && whole.layers[0].o_proj.format.scaled();
  const std::int64_t aligned = scaled ? 128 / std::gcd(128, c.v_head_dim) : 1;
  return part(c.num_attention_heads, rank, grid_for(c.num_attention_heads, rank, aligned));
}

LayerWeights slice(const LayerWeights& w, const Config& c, Range heads, Rank rank) {
  LayerWeights s = w;
  const auto rows_of_heads = [&](const Linear& l, int per_head) {
    return l.rows_slice(heads.begin * per_head, heads.end * per_head);
  };
  s.q_proj = rows_of_heads(w.q_proj, c.qk_head_dim());
  s.kv_b_proj = rows_of_heads(w.kv_b_proj, c.qk_nope_head_dim + c.v_head_dim);
  s.o_proj = w.o_proj.cols_slice(heads.begin * c.v_head_dim, heads.end * c.v_head_dim);
  if (w.dense) s.dense = slice(*w.dense, rank);
  if (w.shared) s.shared = slice(*w.shared, rank);
  s.experts = slice(w.experts, rank);
  return s;
}

std::int64_t bytes_of(const Linear& l) { return l ? l.bytes() : 0; }
std::int64_t bytes_of(const std::optional<Mlp>& m) {
  return m ? bytes_of(m->gate) + bytes_of(m->up) + bytes_of(m->down) : 0;
}
std::int64_t bytes_of(const std::vector<float>& v) {
  return static_cast<std::int64_t>(v.size() * sizeof(float));
}

std::int64_t bytes_of(const LayerWeights& w) {
  std::int64_t bytes = bytes_of(w.input_layernorm) + bytes_of(w.post_attention_layernorm) +
                       bytes_of(w.q_a_layernorm) + bytes_of(w.kv_a_layernorm) +
                       bytes_of(w.e_score_correction_bias) + bytes_of(w.q_a_proj) + bytes_of(w.q_proj) +
                       bytes_of(w.kv_a_proj) + bytes_of(w.kv_b_proj) + bytes_of(w.o_proj) +
                       bytes_of(w.router) + bytes_of(w.dense) + bytes_of(w.shared);
  for (const Expert& e : w.experts.experts) bytes += bytes_of(e.gate) + bytes_of(e.up) + bytes_of(e.down);
  return bytes;
}

// A view already counted as another (tied head, shared copies of the MTP module) adds nothing.
std::int64_t bytes_total(const Weights& w) {
  std::int64_t bytes = bytes_of(w.embed_tokens) + bytes_of(w.norm);
  const auto inside_embedding = [&](const Linear& l) {
    const auto end = w.embed_tokens.data + w.embed_tokens.rows * w.embed_tokens.row_bytes;
    return l.data >= w.embed_tokens.data && l.data < end;
  };
  if (!inside_embedding(w.lm_head)) bytes += bytes_of(w.lm_head);
  for (const LayerWeights& layer : w.layers) bytes += bytes_of(layer);
  for (const MtpWeights& m : w.mtp) {
    bytes +=
        bytes_of(m.enorm) + bytes_of(m.hnorm) + bytes_of(m.norm) + bytes_of(m.eh_proj) + bytes_of(m.layer);
    if (m.embed_tokens.data != w.embed_tokens.data) bytes += bytes_of(m.embed_tokens);
    if (m.head.data != w.lm_head.data) bytes += bytes_of(m.head);
  }
  return bytes;
}

}  // namespace

Weights slice_weights(const Weights& whole, const Config& config, Rank rank) {
  if (rank.count < 1 || rank.index < 0 || rank.index >= rank.count || rank.count > config.num_attention_heads)
    fail(Exit::unsupported, "rank {} of {}: expected at most one rank per attention head ({})", rank.index,
         rank.count, config.num_attention_heads);
  if (rank.count == 1) return whole;
  const Range heads = heads_of(whole, config, rank);
  const Range rows = part(config.vocab_size, rank, grid_for(config.vocab_size, rank, 16));
  Weights s = whole;
  s.first_head = static_cast<int>(heads.begin);
  s.heads = static_cast<int>(heads.end - heads.begin);
  s.first_vocab_row = static_cast<int>(rows.begin);
  s.lm_head = whole.lm_head.rows_slice(rows.begin, rows.end);
  for (LayerWeights& layer : s.layers) layer = slice(layer, config, heads, rank);
  for (MtpWeights& m : s.mtp) {
    m.head = m.head.rows_slice(rows.begin, rows.end);
    m.layer = slice(m.layer, config, heads, rank);
  }
  s.bytes_total = bytes_total(s);
  s.bytes_per_token = bytes_read_per_token(s, config);
  return s;
}

}  // namespace fathom
