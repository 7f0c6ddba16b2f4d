#include "cuda/persistent.h"

#include <algorithm>

namespace fathom::cuda {
namespace {

constexpr int kSplitKeys = 64;  // a split has a multiple of them
constexpr int kMinRing = 128 * 1024;
constexpr int kInFlight =
    3;  // transfers of 32 KB a multiprocessor: two and three are equal, all that fit lose 3 %

int shared_per_block() {
  int device = 0, bytes = 0;
  FATHOM_CUDA(cudaGetDevice(&device));
  FATHOM_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// `matrices`: of this shape in one transfer.
RoleShape shape_of(const Matrix& m, int matrices = 1) {
  return {m.rows, m.cols, m.row_bytes, m.scale_cols, matrices == 2 ? 8 : 16};
}
RolePointers pointers_of(const Matrix& m) { return {m.codes, m.scale}; }

// Every matrix of a role: one code, scales with e4m3 only, whole scale blocks from the first row and column
// on.
bool plain(const Matrix& m, const RoleShape& role, Code code, bool expert = false) {
  return m.code == code && m.rows == role.rows && m.cols == role.cols && m.row_shift == 0 &&
         m.col_shift == 0 && (expert || (code == Code::e4m3) == (m.scale != nullptr));
}

bool layer_suits(const DeviceLayer& l, const PersistentParams& p, Code code) {
  if (!plain(l.q_proj, p.q, code) || !plain(l.kv_a_proj, p.kv_a, code) || !plain(l.kv_b_proj, p.kv_b, code) ||
      !plain(l.o_proj, p.o, code) || l.q_a_proj.rows > 0)
    return false;
  if (l.expert_count == 0)
    return plain(l.dense.gate, p.dense_up, code) && plain(l.dense.up, p.dense_up, code) &&
           plain(l.dense.down, p.dense_down, code);
  return plain(l.router, p.router, Code::bf16) && plain(l.shared.gate, p.shared_up, code) &&
         plain(l.shared.up, p.shared_up, code) && plain(l.shared.down, p.shared_down, code) &&
         plain(l.expert.gate, p.expert_up, code, true) && plain(l.expert.down, p.expert_down, code, true);
}

// What the kernel's fixed divisions of work take: one (head, part) a block, 512 latent columns, 128-wide
// heads.
bool suits(const Launch& on, const PersistentParams& p) {
  const AttentionShape& a = p.attention;
  return on.dependent && a.heads % 16 == 0 && a.heads * 8 < on.multiprocessors && a.latent == 512 &&
         a.nope == 128 && a.v == 128 && a.rope == 64 && a.row == 576 && p.q.cols == 2048 &&
         p.o.cols == 2048 && p.round == Round::bf16 && p.choice.experts <= 64 && p.expert_up.cols == 2048 &&
         p.expert_down.row_bytes % 128 == 0 && p.shared_down.row_bytes % 128 == 0 &&
         p.dense_down.row_bytes % 64 == 0 && p.o.rows <= 16 * on.multiprocessors &&
         p.choice.chosen * p.expert_down.cols + p.shared_down.cols <= 96 * 128 &&
         p.dense_down.cols <= 96 * 128 &&
         (p.choice.chosen * p.expert_up.rows + p.shared_up.rows) / on.multiprocessors < 92 &&
         p.dense_up.rows / on.multiprocessors < 92;
}

int activation_bytes(const PersistentParams& p) {
  // attend: q, probabilities, two parts of the scores, corrections; o_proj: partial sums and the row.
  const int attend = 16 * (p.attention.row + 8) * 2 + 16 * 72 * 2 + 2 * 16 * 68 * 4 + 64;
  return std::max(attend, 4 * 192 * 17 + 96 * 256);
}

}  // namespace

std::unique_ptr<PersistentPlan> plan_persistent(const Launch& on, const std::vector<DeviceLayer>& layers,
                                                const PersistentParams& base,
                                                const std::function<void*(int)>& cache_of) {
  if (layers.empty()) return nullptr;
  auto plan = std::make_unique<PersistentPlan>();
  PersistentParams& p = plan->params;
  p = base;
  const DeviceLayer& any = layers.front();
  constexpr Code code = Code::e4m3;
  p.q = shape_of(any.q_proj), p.kv_a = shape_of(any.kv_a_proj), p.kv_b = shape_of(any.kv_b_proj);
  p.o = shape_of(any.o_proj);
  for (const DeviceLayer& l : layers) {
    if (l.expert_count == 0) {
      p.dense_up = shape_of(l.dense.gate, 2), p.dense_down = shape_of(l.dense.down);
    } else {
      p.router = shape_of(l.router);
      p.shared_up = shape_of(l.shared.gate, 2), p.shared_down = shape_of(l.shared.down);
      p.expert_up = shape_of(l.expert.gate, 2), p.expert_down = shape_of(l.expert.down);
    }
  }
  p.keys_per_round = kSplitKeys * kPersistentSplits;
  if (!suits(on, p)) return nullptr;
  std::vector<PersistentLayer> table;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const DeviceLayer& l = layers[i];
    if (!layer_suits(l, p, code)) return nullptr;
    const DeviceMlp& m = l.expert_count == 0 ? l.dense : l.shared;
    table.push_back({.input_layernorm = l.input_layernorm,
                     .kv_a_layernorm = l.kv_a_layernorm,
                     .post_attention_layernorm = l.post_attention_layernorm,
                     .e_score_correction_bias = l.e_score_correction_bias,
                     .q = pointers_of(l.q_proj),
                     .kv_a = pointers_of(l.kv_a_proj),
                     .kv_b = pointers_of(l.kv_b_proj),
                     .o = pointers_of(l.o_proj),
                     .router = pointers_of(l.router),
                     .gate = pointers_of(m.gate),
                     .up = pointers_of(m.up),
                     .down = pointers_of(m.down),
                     .experts = l.experts,
                     .cache = cache_of(static_cast<int>(i))});
  }
  p.activation_bytes = (activation_bytes(p) + 127) / 128 * 128;
  p.ring_bytes = most_ring_bytes(p, shared_per_block());
  p.in_flight = kInFlight;
  if (p.ring_bytes < kMinRing) return nullptr;

  const std::uint64_t table_bytes = table.size() * sizeof(PersistentLayer);
  const std::uint64_t value_bytes =
      std::uint64_t{8} * static_cast<std::uint64_t>(p.attention.heads * p.attention.v) * 4;
  const int words[] = {(p.q.rows + p.kv_a.rows) / 2, (p.attention.heads + 1) * kAbsorbedWords, p.o.rows / 2,
                       p.o.rows / 2, std::max(p.choice.experts, 1)};
  TaggedWord** const word_pointers[] = {&p.q_words, &p.absorbed_words, &p.x_words[0], &p.x_words[1],
                                        &p.logit_words};
  std::uint64_t word_bytes = 0;
  for (int n : words) word_bytes += static_cast<std::uint64_t>(n) * kTaggedWordBytes + 256;
  plan->memory = Arena(table_bytes + value_bytes + grid_counters_bytes() + word_bytes + 3 * 256);
  auto* device_table = plan->memory.take(table_bytes);
  FATHOM_CUDA(cudaMemcpy(device_table, table.data(), table_bytes, cudaMemcpyHostToDevice));
  p.layers = reinterpret_cast<const PersistentLayer*>(device_table);
  p.value = reinterpret_cast<float*>(plan->memory.take(value_bytes));
  std::byte* counters = plan->memory.take(grid_counters_bytes());
  FATHOM_CUDA(cudaMemset(counters, 0, grid_counters_bytes()));
  p.counters = reinterpret_cast<GridCounters*>(counters);
  for (std::size_t i = 0; i < std::size(words); ++i) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(words[i]) * kTaggedWordBytes;
    std::byte* at = plan->memory.take(bytes);
    FATHOM_CUDA(cudaMemset(at, 0, bytes));  // no launch has epoch 0
    *word_pointers[i] = reinterpret_cast<TaggedWord*>(at);
  }
  p.end = static_cast<int>(table.size());
  return plan;
}

}  // namespace fathom::cuda
