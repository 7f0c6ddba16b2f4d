#include "cuda/persistent.h"

#include <algorithm>

namespace fathom::cuda {
namespace {

constexpr int kSplitKeys = 64;  // a split has a multiple of them
constexpr int kMinRing = 128 * 1024;
constexpr int kInFlight = 2;  // transfers of 32 KB a multiprocessor: one loses 1 %, three 3 %, six 4 %

int shared_per_block() {
  int device = 0, bytes = 0;
  FATHOM_CUDA(cudaGetDevice(&device));
  FATHOM_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// `rows`: of a transfer, of one matrix.
RoleShape shape_of(const Matrix& m, int rows) { return {m.rows, m.cols, m.row_bytes, m.scale_cols, rows}; }
constexpr int kOutputRows = 16;  // of a block, in one transfer
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
         p.expert_down.cols % 128 == 0 && p.shared_down.cols % 128 == 0 && p.dense_down.row_bytes % 64 == 0 &&
         p.o.rows <= 16 * on.multiprocessors &&
         p.choice.chosen * p.expert_down.cols + p.shared_down.cols <= 96 * 128 &&
         p.dense_down.cols <= 96 * 128 && p.dense_down.cols % 4 == 0 && p.shared_down.cols % 4 == 0 &&
         (p.choice.chosen * p.expert_up.rows + p.shared_up.rows) / on.multiprocessors < 90 &&
         p.dense_up.rows / on.multiprocessors < 90;
}

int activation_bytes(const PersistentParams& p) {
  // attend: q, probabilities, two parts of the scores, corrections; o_proj: partial sums and the row.
  const int attend = 16 * (p.attention.row + 8) * 2 + 16 * 72 * 2 + 2 * 16 * 68 * 4 + 64;
  return std::max(attend, 4 * 192 * 17 + 96 * 256);
}

// Inputs of down: the chosen experts' and the shared MLP's, or the dense MLP's; whole words of four.
int hidden_columns(const PersistentParams& p) {
  return (std::max(p.choice.chosen * p.expert_down.cols + p.shared_down.cols, p.dense_down.cols) + 3) / 4 * 4;
}

// -- the schedule of the copying warp -----------------------------------------------------------------------

int round_up(int bytes) { return (bytes + 127) / 128 * 128; }

// Units [begin, end) of `total` that are block b's; as my_part in persistent.cu.
struct Units {
  int begin = 0, end = 0;
};
Units part_of(int total, int b, int blocks) { return {total * b / blocks, total * (b + 1) / blocks}; }
Units clip(Units u, int begin, int end) {
  const int first = std::clamp(u.begin, begin, end);
  return {first, std::clamp(u.end, first, end)};
}

class Schedule {
 public:
  Schedule(const PersistentParams& p, int block, int blocks) : p_(p), block_(block), blocks_(blocks) {}

  std::vector<Transfer> dense() {
    list_.clear();
    attention();
    rows(kSourceGate, p_.dense_up, 2, pairs(p_.dense_up.rows));
    const Units down = pairs(p_.dense_down.rows);
    const int count = down.end - down.begin;
    for (int column = 0; column < p_.dense_down.row_bytes; column += p_.chunk_bytes) {
      Transfer t = p_.code == Code::e4m3 ? scales_of(p_.dense_down, down.begin, count) : Transfer{};
      t.kind = TransferKind::chunk, t.source = kSourceDown, t.pieces = count;
      t.code_offset = down.begin * p_.dense_down.row_bytes + column;
      t.code_bytes = std::min(p_.chunk_bytes, p_.dense_down.row_bytes - column);
      t.ring_bytes = round_up(count * p_.chunk_bytes + t.scale_bytes);
      list_.push_back(t);
    }
    list_.push_back({.kind = TransferKind::end});
    return list_;
  }

  std::vector<Transfer> experts() {
    list_.clear();
    if (p_.expert_up.rows == 0) return {{.kind = TransferKind::end}};
    attention();
    rows(kSourceRouter, p_.router, 1, part(p_.router.rows));
    rows(kSourceGate, p_.shared_up, 2, pairs(p_.shared_up.rows));
    const Units down = pairs(p_.expert_down.rows);
    list_.push_back({.kind = TransferKind::choose});
    const int inner = p_.expert_up.rows, slots = p_.choice.chosen;
    for (int slot = 0; slot < slots; ++slot) {
      const Units mine = clip(pairs(slots * inner), slot * inner, (slot + 1) * inner);
      rows(kLayerSources + slot * 3, p_.expert_up, 2, {mine.begin - slot * inner, mine.end - slot * inner});
    }
    list_.push_back({.kind = TransferKind::weigh});
    rows(kSourceDown, p_.shared_down, 1, down);
    for (int slot = 0; slot < slots; ++slot) rows(kLayerSources + slot * 3 + 2, p_.expert_down, 1, down);
    list_.push_back({.kind = TransferKind::end});
    return list_;
  }

 private:
  Units part(int total) const { return part_of(total, block_, blocks_); }
  Units pairs(int rows) const {
    const Units u = part(rows / 2);
    return {2 * u.begin, 2 * u.end};
  }

  void attention() {
    const int q = p_.q.rows / 2, all = q + p_.kv_a.rows / 2;
    const Units mine = part(all), of_q = clip(mine, 0, q), of_kv = clip(mine, q, all);
    rows(kSourceQ, p_.q, 1, {2 * of_q.begin, 2 * of_q.end});
    rows(kSourceKvA, p_.kv_a, 1, {2 * (of_kv.begin - q), 2 * (of_kv.end - q)});
    list_.push_back({.kind = TransferKind::prefetch});
    list_.push_back({.kind = TransferKind::keys, .ring_bytes = kKeyTransferBytes});
    rows(kSourceO, p_.o, 1, pairs(p_.o.rows));
  }

  // The scales that `count` rows from `row` on need, copied from the 16-byte boundary before them.
  static Transfer scales_of(const RoleShape& shape, int row, int count) {
    const int first = row / 128, last = (row + count - 1) / 128, at = first * shape.scale_cols * 4;
    Transfer t;
    t.scale_skip = at % 16, t.scale_offset = at - t.scale_skip;
    t.scale_bytes = (t.scale_skip + (last - first + 1) * shape.scale_cols * 4 + 15) / 16 * 16;
    return t;
  }

  void rows(int source, const RoleShape& shape, int pieces, Units u) {
    for (int row = u.begin; row < u.end; row += shape.per_transfer) {
      const int count = std::min(shape.per_transfer, u.end - row);
      Transfer t =
          source != kSourceRouter && p_.code == Code::e4m3 ? scales_of(shape, row, count) : Transfer{};
      t.source = source, t.pieces = pieces;
      t.code_offset = row * shape.row_bytes, t.code_bytes = count * shape.row_bytes;
      t.ring_bytes = round_up(pieces * (t.code_bytes + t.scale_bytes));
      list_.push_back(t);
    }
  }

  const PersistentParams& p_;
  int block_, blocks_;
  std::vector<Transfer> list_;
};

// (blocks, kLayerKinds, kMostTransfers); empty if a block has more.
std::vector<Transfer> schedule_of(const PersistentParams& p, int blocks) {
  std::vector<Transfer> all(static_cast<std::size_t>(blocks * kLayerKinds * kMostTransfers));
  for (int b = 0; b < blocks; ++b)
    for (int kind = 0; kind < kLayerKinds; ++kind) {
      Schedule s(p, b, blocks);
      const std::vector<Transfer> list = kind == 0 ? s.dense() : s.experts();
      if (list.size() > kMostTransfers) return {};
      std::copy(list.begin(), list.end(), all.begin() + (b * kLayerKinds + kind) * kMostTransfers);
    }
  return all;
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
  const Code code = any.q_proj.code;
  if (code != Code::e4m3 && code != Code::bf16) return nullptr;
  p.code = code;
  // 32 KB a transfer: 16 rows of e4m3, 8 of BF16.
  const int per = 16 / code_bytes(code);
  p.q = shape_of(any.q_proj, per), p.kv_a = shape_of(any.kv_a_proj, per);
  p.kv_b = shape_of(any.kv_b_proj, per), p.o = shape_of(any.o_proj, per);
  p.chunk_bytes = 16 * 128 * code_bytes(code);
  for (const DeviceLayer& l : layers) {
    if (l.expert_count == 0) {
      p.dense_up = shape_of(l.dense.gate, per / 2), p.dense_down = shape_of(l.dense.down, kOutputRows);
    } else {
      p.router = shape_of(l.router, 16);
      p.shared_up = shape_of(l.shared.gate, per / 2), p.shared_down = shape_of(l.shared.down, kOutputRows);
      p.expert_up = shape_of(l.expert.gate, per / 2), p.expert_down = shape_of(l.expert.down, kOutputRows);
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
  const std::vector<Transfer> schedule = schedule_of(p, on.multiprocessors);
  if (schedule.empty()) return nullptr;

  const std::uint64_t table_bytes = table.size() * sizeof(PersistentLayer);
  const std::uint64_t value_bytes =
      std::uint64_t{kValueParts} * static_cast<std::uint64_t>(p.attention.heads * p.attention.v) * 4;
  const std::uint64_t schedule_bytes = schedule.size() * sizeof(Transfer);
  const int words[] = {(p.q.rows + p.kv_a.rows) / 2,
                       (p.attention.heads + 1) * kAbsorbedWords,
                       p.o.rows / 2,
                       p.o.rows / 2,
                       std::max(p.choice.experts, 1),
                       hidden_columns(p) / 4};
  TaggedWord* hidden = nullptr;
  TaggedWord** const word_pointers[] = {&p.q_words,    &p.absorbed_words, &p.x_words[0],
                                        &p.x_words[1], &p.logit_words,    &hidden};
  std::uint64_t word_bytes = 0;
  for (int n : words) word_bytes += static_cast<std::uint64_t>(n) * kTaggedWordBytes + 256;
  plan->memory =
      Arena(table_bytes + schedule_bytes + value_bytes + grid_counters_bytes() + word_bytes + 4 * 256);
  auto* device_table = plan->memory.take(table_bytes);
  copy_to_device(device_table, table.data(), table_bytes);
  p.layers = reinterpret_cast<const PersistentLayer*>(device_table);
  p.value = reinterpret_cast<float*>(plan->memory.take(value_bytes));
  auto* device_schedule = plan->memory.take(schedule_bytes);
  copy_to_device(device_schedule, schedule.data(), schedule_bytes);
  p.transfers = reinterpret_cast<const Transfer*>(device_schedule);
  std::byte* counters = plan->memory.take(grid_counters_bytes());
  FATHOM_CUDA(cudaMemset(counters, 0, grid_counters_bytes()));
  p.counters = reinterpret_cast<GridCounters*>(counters);
  for (std::size_t i = 0; i < std::size(words); ++i) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(words[i]) * kTaggedWordBytes;
    std::byte* at = plan->memory.take(bytes);
    FATHOM_CUDA(cudaMemset(at, 0, bytes));  // no launch has epoch 0
    *word_pointers[i] = reinterpret_cast<TaggedWord*>(at);
  }
  p.hidden_words = reinterpret_cast<std::uint64_t*>(hidden);
  p.end = static_cast<int>(table.size());
  FATHOM_CUDA(cudaStreamSynchronize(cudaStreamLegacy));  // no other stream waits for the zeros
  return plan;
}

}  // namespace fathom::cuda
