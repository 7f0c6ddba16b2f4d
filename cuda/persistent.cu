// All layers of one generated row as one cooperative launch: a block per multiprocessor, 16 warps that
// compute and one that copies weights.
//
// Between two stages blocks need what others wrote: seven hand-offs a layer, all but two by tagged words
// (cuda/handoff.cuh). Nobody overwrites a word that somebody may still read: a stage's words are written
// again one layer later, and before that every block has waited for x from every block.
//
// The copying warp does not take part in hand-offs. It goes through a schedule of transfers, computed on the
// host, in the order of their use, each block its own rows, and keeps a ring in shared memory full of what
// comes next, across hand-offs and layers, since weights do not depend on data. It waits for two things only:
// space in the ring, and, before the routed experts, the router's logits, from which it chooses the experts
// itself.
//
// clang-format off
//   stage     reads            a block's part                                      writes
//   project   x                pairs of rows of q_proj, kv_a_proj                  q, kv_row, as words
//   absorb    q, kv_row        (head, 64 latent columns); one block the row's key  q' and the key, as words; cache
//   attend    q', key          (split of the keys, 16 heads)                       partial_sum, partial_out: a grid hand-off
//   value     partial_*        (head, 64 latent columns): combine, W_UV            value: a grid hand-off
//   o_proj    value            pairs of rows                                       x, as words
//   gate_up   x                a row of the router; columns of the MLPs            logits and hidden, as words
//   down      hidden           pairs of rows                                       x, as words
// clang-format on
//
// Products run on tensor cores, since decoding e4m3 to FP32 would keep the issue slots busier than the
// memory: 16 rows of weights, e4m3 as exact halves, times one column, BF16 values as halves times a power of
// two per 128 columns (BF16 weights: as they are). Warp w owns columns [128 w, + 128) of every row (of down:
// every 16th group of 128), so it stages its own input and no other warp's; its sums, times their block
// scales, meet those of the other warps in order at the end of a stage.
//
//   V2-Lite FP8, 4k keys: 2.24 GB in 27 layers, 0.73 ms at 3.09 TB/s. Measured: cuda/NOTES.md.
//
//   shared memory   state | activations | ring | table of experts
//   transfer        rows of one or two matrices, then their block scales; or 32 keys, (row + 8) values apart
#include <algorithm>
#include <type_traits>

#include "cuda/handoff.cuh"
#include "cuda/persistent.h"
#include "cuda/router.cuh"

// For the portable target the kernel's body is empty, and what it would refer to unused.
#pragma nv_diag_suppress 177

namespace fathom::cuda {
namespace {

constexpr int kComputeWarps = 16;
constexpr int kComputeThreads = kComputeWarps * 32;
constexpr int kBlockThreads = kComputeThreads + 32;
constexpr int kComputeBarrier = 1;
constexpr int kTransfers = 16;  // in the ring at a time, at most
constexpr int kTile = 64;       // keys, in two transfers of kHalfTile
constexpr int kHalfTile = kTile / 2;
constexpr int kHeadTile = 16;
constexpr int kParts = 8;         // of a head's latent columns
constexpr int kPartColumns = 64;  // latent / kParts
constexpr int kPartPairs = 36;    // of values of q' that a part writes: 64 latent and 8 rotated ones
constexpr int kPartWords = 12;    // of three pairs
constexpr int kRowWords = kParts * kPartWords;
constexpr int kNope = 128, kValue = 128, kLatent = 512, kRope = 64, kRow = kLatent + kRope;
constexpr int kCombineGroups = 16;  // splits are summed in this many groups
constexpr int kMostSplits = 128;
constexpr int kMostExperts = 64;
constexpr int kScoreRow = 68, kProbabilityRow = 72;  // free of bank conflicts
constexpr float kLog2e = 1.4426950408889634f;

static_assert(sizeof(TaggedWord) == kTaggedWordBytes && kRowWords == kAbsorbedWords && kParts == kValueParts);
static_assert(sizeof(PersistentLayer) % 16 == 0 && sizeof(PersistentLayer) <= 512);

// What a launch divides among its blocks.
enum Part {
  kPairs,
  kOutRows,
  kRouterRows,
  kDenseColumns,
  kSharedColumns,
  kChosenColumns,
  kDownRows,
  kPartCount
};

constexpr int kMostSources = kLayerSources + kMaxChosen * 3;

struct Range {
  int begin, end;
  __device__ __forceinline__ int count() const { return end - begin; }
};
// This block's part of `total` units.
__device__ __forceinline__ Range my_part(int total) {
  const unsigned b = blockIdx.x, g = gridDim.x;
  return {static_cast<int>(static_cast<unsigned>(total) * b / g),
          static_cast<int>(static_cast<unsigned>(total) * (b + 1) / g)};
}
__device__ __forceinline__ Range clip(const Range& r, int begin, int end) {
  const int first = min(max(r.begin, begin), end);
  return {first, max(min(r.end, end), first)};
}
struct Where {
  int codes[2], scale[2];  // byte offsets in the ring
};

constexpr int kPartialStride = kComputeWarps + 1;  // floats; free of bank conflicts
constexpr int kMostPartials =
    192 * kPartialStride;           // floats of partial sums of a stage; staged input lies behind
constexpr int kGroup = 128;         // columns of a block of scales, and of a warp's share
constexpr int kMostGroups128 = 96;  // of an input row

struct Shared {
  std::uint64_t full[kTransfers], empty[kTransfers];
  Where where[kTransfers];
  std::uint32_t begin[kTransfers];                   // of a transfer, for the copying warp
  Transfer transfers[kLayerKinds * kMostTransfers];  // of this block
  RolePointers sources[kMostSources];                // of the layer, then of the chosen experts
  float sums[kComputeWarps];
  float factor[kMostGroups128];  // of a staged group
  Range parts[kPartCount];
  int first_slot;  // of this block's columns of chosen experts
  float choice[kMostExperts], group[kMaxGroups];
  float weight[kMaxChosen];
  float sine[kRope / 2], cosine[kRope / 2];
  int id[kMaxChosen];
  PersistentLayer layers[2];
  // Read by every thread, apart from what thread 0 writes meanwhile.
  alignas(16) int position;
  int span;                        // keys of a split
  unsigned epoch;                  // plus a layer's number: that layer's tagged words
  alignas(16) float residual[16];  // this block's rows of x
  // Of thread 0: hand-offs so far, for stamps, and the arrivals that the next one waits for.
  alignas(16) int handoffs;
  unsigned arrivals;
  alignas(16) PersistentParams
      params;  // a copy: a function that is not inlined would read the kernel's own through memory
};

extern __shared__ __align__(128) std::byte block_memory[];  // Shared, activations, ring, table of experts
constexpr int kSharedBytes = (sizeof(Shared) + 127) / 128 * 128;
__device__ __forceinline__ Shared& shared_state() { return *reinterpret_cast<Shared*>(block_memory); }

__device__ __forceinline__ void sync_compute() { sync_some<kComputeBarrier, kComputeThreads>(); }

__device__ __forceinline__ float4 load_shared_by_others(const float* p) {
  return __ldcg(reinterpret_cast<const float4*>(p));
}

// -- what both kinds of warps know --------------------------------------------------------------------------

struct Span {
  int begin, end;
};
__device__ __forceinline__ int span_keys(int position, int keys_per_round) {
  return kTile * (position / keys_per_round + 1);
}
constexpr int kKeyPitch = kRow + 8;  // values; free of ldmatrix bank conflicts
static_assert(kHalfTile * kKeyPitch * 2 == kKeyTransferBytes);

#if !defined(__CUDA_ARCH__) || \
    __CUDA_ARCH__ >= 900  // else never launched: plan_persistent asks for Hopper code

// -- the copying warp ---------------------------------------------------------------------------------------

class Producer {
 public:
  __device__ __forceinline__ Producer(const PersistentParams& p, Shared& s, std::byte* ring,
                                      ExpertPointers* table)
      : p_(p), s_(s), ring_(ring), table_(table), lane_(threadIdx.x % 32) {}

  __device__ __forceinline__ void run() {
    const int span = s_.span, position = s_.position, groups = p_.attention.heads / kHeadTile;
    const int items = (position / span + 1) * groups;
    uint4 next = fetch_layer(p_.begin);
#pragma unroll 1
    for (int i = p_.begin; i < p_.end; ++i) {
      // The layer two before is over for every warp: the experts of the one before were chosen by this warp,
      // after its o_proj.
      const PersistentLayer& l = s_.layers[i % 2];
      if (lane_ < static_cast<int>(sizeof(PersistentLayer) / 16))
        reinterpret_cast<uint4*>(&s_.layers[i % 2])[lane_] = next;
      if (i + 1 < p_.end) next = fetch_layer(i + 1);
      __syncwarp();  // the layer is visible
      if (lane_ < kLayerSources) s_.sources[lane_] = (&l.q)[lane_];
      __syncwarp();                                       // the sources are visible
      int item = blockIdx.x, key = item / groups * span;  // of the next transfer of keys
      int k = l.experts == nullptr ? 0 : kMostTransfers;
#pragma unroll 1
      while (true) {
        const Transfer& t = s_.transfers[k];
        const TransferKind kind = t.kind;
        if (kind == TransferKind::end) break;
        if (kind >= TransferKind::choose) {
          if (kind == TransferKind::prefetch) prefetch(l);
          if (kind == TransferKind::choose) choose(l, s_.epoch + static_cast<unsigned>(i));
          if (kind == TransferKind::weigh) weigh();
          ++k;
          continue;
        }
        if (kind == TransferKind::keys && item >= items) {
          ++k;
          continue;
        }
        const int slot = issued_ % kTransfers;
        const int at = take(t.ring_bytes);
        std::uint64_t* full = &s_.full[slot];
        if (kind == TransferKind::rows) {
          const int scales = at + t.pieces * t.code_bytes;
          if (lane_ == 0) {
            s_.where[slot] = {{at, 0}, {scales + t.scale_skip, scales + t.scale_bytes + t.scale_skip}};
            arrive_expecting(full, static_cast<unsigned>(t.pieces * (t.code_bytes + t.scale_bytes)));
          }
          __syncwarp();  // the barrier expects the bytes before they arrive
          copy_rows(t, at, full);
          ++k;
        } else if (kind == TransferKind::chunk) {
          const int scales = at + t.pieces * p_.chunk_bytes;
          if (lane_ == 0) {
            s_.where[slot] = {{at, 0}, {scales + t.scale_skip, 0}};
            arrive_expecting(full, static_cast<unsigned>(t.pieces * t.code_bytes + t.scale_bytes));
          }
          __syncwarp();  // the barrier expects the bytes before they arrive
          const RolePointers& w = s_.sources[t.source];
          if (lane_ < t.pieces)
            copy_bulk(ring_ + at + lane_ * p_.chunk_bytes,
                      w.codes + t.code_offset + static_cast<std::int64_t>(lane_) * p_.dense_down.row_bytes,
                      static_cast<unsigned>(t.code_bytes), full);
          if (lane_ == 31 && t.scale_bytes > 0)
            copy_bulk(ring_ + scales, reinterpret_cast<const std::byte*>(w.scale) + t.scale_offset,
                      static_cast<unsigned>(t.scale_bytes), full);
          ++k;
        } else {
          const int end = min((item / groups + 1) * span, position + 1);
          const int count = min(max(end - key, 0), kHalfTile);
          if (lane_ == 0) {
            s_.where[slot] = {{at, 0}, {0, 0}};
            arrive_expecting(full, static_cast<unsigned>(count * kRow * 2));
          }
          __syncwarp();  // the barrier expects the bytes before they arrive
          const auto* cache =
              static_cast<const __nv_bfloat16*>(l.cache) + p_.timeline[0] * p_.capacity * kRow;
          if (lane_ < count)
            copy_bulk(ring_ + at + lane_ * kKeyPitch * 2,
                      cache + static_cast<std::int64_t>(key + lane_) * kRow, static_cast<unsigned>(kRow * 2),
                      full);
          key += kHalfTile;
          if (key % kTile == 0 && key >= end)  // spans begin at whole tiles
            item += static_cast<int>(gridDim.x), key = item / groups * span;
        }
        ++issued_;
      }
    }
  }

 private:
  __device__ __forceinline__ uint4 fetch_layer(int i) const {
    if (lane_ >= static_cast<int>(sizeof(PersistentLayer) / 16)) return make_uint4(0, 0, 0, 0);
    return reinterpret_cast<const uint4*>(p_.layers + i)[lane_];
  }

  // What other warps read straight from memory, into L2: this block's part of kv_b; norms by the first
  // blocks.
  __device__ __forceinline__ void prefetch(const PersistentLayer& l) const {
    if (lane_ != 0) return;
    const int rows = p_.kv_b.rows / (p_.attention.heads * kParts);
    if (blockIdx.x < p_.attention.heads * kParts)
      prefetch_bulk(l.kv_b.codes + static_cast<std::int64_t>(blockIdx.x) * rows * p_.kv_b.row_bytes,
                    static_cast<unsigned>(rows * p_.kv_b.row_bytes));
    const unsigned norm = static_cast<unsigned>(p_.q.cols) * 4;
    if (blockIdx.x == gridDim.x - 1) prefetch_bulk(l.input_layernorm, norm);
    if (blockIdx.x == gridDim.x - 2) prefetch_bulk(l.post_attention_layernorm, norm);
    if (blockIdx.x == gridDim.x - 3) prefetch_bulk(l.kv_a_layernorm, kLatent * 4);
    if (blockIdx.x == gridDim.x - 4 && l.kv_b.scale != nullptr)
      prefetch_bulk(l.kv_b.scale, static_cast<unsigned>(p_.kv_b.rows / 128 * p_.kv_b.scale_cols * 4));
    if (blockIdx.x == gridDim.x - 4 && l.experts != nullptr)
      prefetch_bulk(l.experts, static_cast<unsigned>(p_.choice.experts * sizeof(ExpertPointers)));
  }

  // Space for the next transfer, behind the one before or at the ring's beginning; waits for the oldest ones
  // to be used. Positions count on through the ring's rounds.
  __device__ __forceinline__ int take(int bytes) {
    const bool wraps = at_ + bytes > p_.ring_bytes;
    const int skip = wraps ? p_.ring_bytes - at_ : 0;
#pragma unroll 1
    while (issued_ - freed_ == kTransfers ||
           (issued_ != freed_ && head_ + static_cast<std::uint32_t>(skip + bytes) - tail_ >
                                     static_cast<std::uint32_t>(p_.ring_bytes))) {
      wait_barrier(&s_.empty[freed_ % kTransfers], freed_ / kTransfers & 1);
      ++freed_;
      tail_ = s_.begin[freed_ % kTransfers];  // of no meaning if nothing is in the ring
    }
    // Few bytes under way are enough for the bandwidth; more only lengthen every other access's wait.
    if (const int landed = issued_ - p_.in_flight; landed >= 0)
      wait_barrier(&s_.full[landed % kTransfers], landed / kTransfers & 1);
    const int at = wraps ? 0 : at_;
    head_ += static_cast<std::uint32_t>(skip);
    if (issued_ == freed_) tail_ = head_;
    if (lane_ == 0) s_.begin[issued_ % kTransfers] = head_;
    __syncwarp();  // `begin` is visible to all lanes
    head_ += static_cast<std::uint32_t>(bytes), at_ = at + bytes;
    return at;
  }

  // Codes of one or two matrices, then their scales, a copy a lane.
  __device__ __forceinline__ void copy_rows(const Transfer& t, int at, std::uint64_t* full) const {
    const int piece = lane_ % 2;
    if (lane_ >= 4 || piece >= t.pieces) return;
    const RolePointers& w = s_.sources[t.source + piece];
    const bool codes = lane_ < 2;
    const int bytes = codes ? t.code_bytes : t.scale_bytes;
    if (bytes == 0) return;
    copy_bulk(ring_ + at + piece * bytes + (codes ? 0 : t.pieces * t.code_bytes),
              codes ? w.codes + t.code_offset : reinterpret_cast<const std::byte*>(w.scale) + t.scale_offset,
              static_cast<unsigned>(bytes), full);
  }

  // The router's choice for the row: as choose_experts_of_row (router.cuh), by one warp.
  __device__ __forceinline__ void choose(const PersistentLayer& l, unsigned epoch) {
    const RouterParams& r = p_.choice;
    for (int i = lane_; i < r.experts * static_cast<int>(sizeof(ExpertPointers) / 16); i += 32)
      copy_async(reinterpret_cast<std::byte*>(table_) + i * 16,
                 reinterpret_cast<const std::byte*>(l.experts) + i * 16, true);
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();  // the table is visible
    constexpr int kMine = kMostExperts / 32;
    float score[kMine];
    unsigned key[kMine];
    score_experts(r, l.e_score_correction_bias, epoch, score, key);
    // The largest key, of equals the lowest id, `chosen` times.
    unsigned mine = 0;  // bit i: expert i * 32 + lane is chosen
#pragma unroll 1
    for (int k = 0; k < r.chosen; ++k) {
      unsigned best = 0;
      int where = 0;
#pragma unroll
      for (int i = 0; i < kMine; ++i)
        if (key[i] > best) best = key[i], where = i;
      const unsigned top = __reduce_max_sync(~0u, best);
      const unsigned id = __reduce_min_sync(~0u, best == top ? where * 32u + lane_ : ~0u);
      if (id % 32 != lane_) continue;
      mine |= 1u << id / 32;
#pragma unroll
      for (int i = 0; i < kMine; ++i)
        if (i == id / 32) key[i] = 0;
    }
    int taken = 0;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const bool chosen = mine >> i & 1;
      const unsigned mask = __ballot_sync(~0u, chosen);
      const int slot = taken + __popc(mask & ((1u << lane_) - 1));
      if (chosen) {
        const ExpertPointers& e = table_[i * 32 + lane_];
        RolePointers* to = s_.sources + kLayerSources + slot * 3;
        to[0] = {e.gate, e.gate_scale}, to[1] = {e.up, e.up_scale}, to[2] = {e.down, e.down_scale};
        s_.id[slot] = i * 32 + lane_, s_.weight[slot] = score[i];
      }
      taken += __popc(mask);
    }
    __syncwarp();  // sources, ids and scores of the chosen are visible
  }

  // Weights of the chosen experts, from their scores; used by down alone.
  __device__ __forceinline__ void weigh() {
    const RouterParams& r = p_.choice;
    float factor = r.factor;
    if (lane_ < r.chosen) {
      if (r.normalise) {
        float total = 0;
#pragma unroll 1
        for (int i = 0; i < r.chosen; ++i) total = __fadd_rn(total, s_.weight[i]);
        factor = __fmul_rn(__fdiv_rn(s_.weight[lane_], __fadd_rn(total, 1e-20f)), r.factor);
      } else {
        factor = __fmul_rn(s_.weight[lane_], r.factor);
      }
    }
    __syncwarp();  // every lane has read the scores
    if (lane_ < r.chosen) s_.weight[lane_] = factor;
    if (blockIdx.x == 0 && lane_ < r.chosen) r.ids[lane_] = s_.id[lane_], r.weights[lane_] = factor;
    __syncwarp();  // weights are visible
  }

  // Scores of this lane's experts, and keys that order as their choices do: 0 for none, 1 and up for an
  // expert.
  template <int N>
  __device__ __forceinline__ void score_experts(const RouterParams& r, const float* bias, unsigned epoch,
                                                float (&score)[N], unsigned (&key)[N]) {
    float z[N], maximum = -INFINITY, sum = 0;
    TaggedWord words[N];
    const TaggedWord* from[N];
#pragma unroll
    for (int i = 0; i < N; ++i) from[i] = p_.logit_words + min(i * 32 + lane_, r.experts - 1);
    wait_tagged(from, epoch, words);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      z[i] = i * 32 + lane_ < r.experts ? __uint_as_float(words[i][0]) : -INFINITY;
      maximum = fmaxf(maximum, z[i]);
    }
    if (!r.sigmoid) {
      maximum = warp_max(maximum);
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (i * 32 + lane_ < r.experts) sum = __fadd_rn(sum, score[i] = expf(__fsub_rn(z[i], maximum)));
      sum = warp_sum(sum);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      key[i] = 0;
      const int e = i * 32 + lane_;
      if (e >= r.experts) continue;
      score[i] = r.sigmoid ? __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-z[i]))) : __fdiv_rn(score[i], sum);
      float choice = bias == nullptr ? score[i] : __fadd_rn(score[i], bias[e]);
      if (isnan(choice)) choice = -INFINITY;
      key[i] = order_of(choice);
      if (r.groups > 1) s_.choice[e] = choice;
    }
    if (r.groups <= 1) return;
    __syncwarp();  // choices are visible
#pragma unroll 1
    for (int g = lane_; g < r.groups; g += 32) s_.group[g] = group_score(r, s_.choice, g);
    __syncwarp();  // group scores are visible
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int e = i * 32 + lane_;
      if (e >= r.experts) continue;
      const int g = e / (r.experts / r.groups);
      int better = 0;
#pragma unroll 1
      for (int other = 0; other < r.groups; ++other)
        better += s_.group[other] > s_.group[g] || (s_.group[other] == s_.group[g] && other < g);
      if (better >= r.groups_kept) key[i] = order_of(-INFINITY);
    }
  }
  // Larger for larger floats; never 0.
  static __device__ __forceinline__ unsigned order_of(float f) {
    if (f == 0) f = 0;  // both zeros are equal
    const unsigned bits = __float_as_uint(f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
  }

  const PersistentParams& p_;
  Shared& s_;
  std::byte* ring_;
  ExpertPointers* table_;
  int lane_;
  int issued_ = 0, freed_ = 0;         // transfers
  int at_ = 0;                         // where the ring's used part ends
  std::uint32_t head_ = 0, tail_ = 0;  // its end and its beginning, counted on through all rounds
};

// -- the computing warps ------------------------------------------------------------------------------------

// c += a b, 16 x 8 x 16, f16 with FP32 sums.
__device__ __forceinline__ void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                        std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Two e4m3 codes as exact halves.
__device__ __forceinline__ std::uint32_t halves_of(std::uint32_t two) {
  std::uint32_t h = 0;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"(static_cast<std::uint16_t>(two)));
#endif
  return h;
}

// 128 columns of an input row as the tensor core's B, of which only the first column is not zero. A group of
// a row of weights is 64-byte pieces, of which lane q % 4 takes 16 bytes; lane q < 4 holds the columns of its
// 16 bytes of each piece.
struct Operand {
  std::uint32_t b[16];
};

template <Code C>
class Consumer {
  static_assert(C == Code::e4m3 || C == Code::bf16);
  static constexpr int V = Vec<C>::kValues;            // codes in 16 bytes
  static constexpr int kGroupBytes = kGroup * 16 / V;  // of a row of weights
  static constexpr int kPieces = kGroupBytes / 64;

 public:
  __device__ __forceinline__ Consumer(int layer, int next)
      : p_(shared_state().params),
        s_(shared_state()),
        x_(reinterpret_cast<float*>(block_memory + kSharedBytes)),
        bytes_(block_memory + kSharedBytes),
        ring_(block_memory + kSharedBytes + p_.activation_bytes),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32),
        position_(s_.position),
        span_(s_.span),
        epoch_(s_.epoch + static_cast<unsigned>(layer)),
        next_(next) {}
  __device__ __forceinline__ int next() const { return next_; }

  __device__ __forceinline__ void begin() {
    if (threadIdx.x < kRope / 2) {
      float sine, cosine;
      sincosf(__fmul_rn(static_cast<float>(position_), p_.frequency[threadIdx.x]), &sine, &cosine);
      s_.sine[threadIdx.x] = __fmul_rn(sine, p_.magnitude),
      s_.cosine[threadIdx.x] = __fmul_rn(cosine, p_.magnitude);
    }
    if (threadIdx.x < s_.parts[kOutRows].count())
      s_.residual[threadIdx.x] = p_.x[s_.parts[kOutRows].begin + threadIdx.x];
    sync_compute();  // sines and the residual are visible
  }
  // The layer's pointers are in shared memory.
  __device__ __forceinline__ void wait_for_layer() const {
    wait_barrier(&s_.full[next_ % kTransfers], next_ / kTransfers & 1);
  }

  __device__ __forceinline__ void stamp(int which) {
    if (p_.stamps == nullptr || threadIdx.x != 0 || s_.handoffs >= p_.stamps_per_block) return;
    std::uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    p_.stamps[(blockIdx.x * p_.stamps_per_block + s_.handoffs) * 2 + which] = now;
  }
  // See cuda/handoff.cuh.
  __device__ __forceinline__ void arrive() {
    stamp(0);
    arrive_grid<kComputeBarrier, kComputeThreads>(p_.counters, s_.arrivals);
  }
  __device__ __forceinline__ void wait() {
    wait_grid<kComputeBarrier, kComputeThreads>(p_.counters, s_.arrivals);
    stamp(1);
    if (threadIdx.x == 0) ++s_.handoffs;
  }
  // The two halves of a hand-off by tagged words, for stamps; the first also separates a stage's shared
  // memory from the next one's.
  __device__ __forceinline__ void end_stage() {
    stamp(0);
    sync_compute();  // every warp has read what the next stage overwrites
  }
  __device__ __forceinline__ void begin_stage() {
    stamp(1);
    if (threadIdx.x == 0) ++s_.handoffs;
  }
  // Four neighbouring columns of x, pairs of which are words.
  __device__ __forceinline__ float4 wait_for_x(const TaggedWord* words, unsigned epoch, int column) {
    const TaggedWord* const from[2] = {words + column / 2, words + column / 2 + 1};
    TaggedWord w[2];
    wait_tagged(from, epoch, w);
    begin_stage();
    return make_float4(__uint_as_float(w[0][0]), __uint_as_float(w[0][1]), __uint_as_float(w[1][0]),
                       __uint_as_float(w[1][1]));
  }
  // Adds this block's sums to its rows of x, whose pairs become words. By the first warp.
  __device__ __forceinline__ void add_to_x(TaggedWord* words, bool last) {
    if (warp_ != 0) return;
    const Range mine = s_.parts[kOutRows];
    float v = 0;
    if (lane_ < mine.count()) {
      v = s_.residual[lane_] = __fadd_rn(s_.residual[lane_], total_of(lane_));
      if (last) p_.x[mine.begin + lane_] = v;
    }
    const float next = __shfl_down_sync(~0u, v, 1);
    if (lane_ < mine.count() && lane_ % 2 == 0)
      store_tagged(words + (mine.begin + lane_) / 2, __float_as_uint(v), __float_as_uint(next), 0, epoch_);
  }

  // -- transfers
  __device__ __forceinline__ Where acquire() const {
    wait_barrier(&s_.full[next_ % kTransfers], next_ / kTransfers & 1);
    return s_.where[next_ % kTransfers];
  }
  __device__ __forceinline__ void release() {
    __syncwarp();  // every lane has read the transfer
    if (lane_ == 0) arrive_barrier(&s_.empty[next_ % kTransfers]);
    ++next_;
  }

  // -- input rows
  // Warp w deals with groups w, w + 16, ... of 128 columns of every row: it stages them for itself.
  __device__ __forceinline__ float4 norm_group(const float4& v, const float4& weight) {
    const float sum =
        warp_sum(__fmaf_rn(v.w, v.w, __fmaf_rn(v.z, v.z, __fmaf_rn(v.y, v.y, __fmul_rn(v.x, v.x)))));
    if (lane_ == 0) s_.sums[warp_] = sum;
    sync_compute();  // sums of all groups are visible
    const float all = warp_sum(lane_ < kComputeWarps ? s_.sums[lane_] : 0.0f);
    constexpr float kInverse = 1.0f / (kComputeWarps * kGroup);  // a power of two: exact
    return apply_norm(v, __frsqrt_rn(__fadd_rn(__fmul_rn(all, kInverse), p_.eps)), weight);
  }
  // Four columns a lane, BF16 values; for e4m3 weights, whose products are of halves, as halves times a power
  // of two. The caller synchronises its warp.
  __device__ __forceinline__ void stage_group(const float4& v, int group) {
    auto* to = reinterpret_cast<uint2*>(staged() + group * kGroup * 2 + lane_ * 8);
    if constexpr (C == Code::bf16) {
      *to = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
      if (lane_ == 0) s_.factor[group] = 1;
      return;
    }
    const float most = warp_max(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    const int exponent = max(static_cast<int>(__float_as_uint(most) >> 23), 40);
    const float up = __uint_as_float(static_cast<unsigned>(254 + 14 - exponent) << 23);
    const __half2 a = __floats2half2_rn(v.x * up, v.y * up), b = __floats2half2_rn(v.z * up, v.w * up);
    *to = make_uint2(*reinterpret_cast<const unsigned*>(&a), *reinterpret_cast<const unsigned*>(&b));
    if (lane_ == 0) s_.factor[group] = __uint_as_float(static_cast<unsigned>(exponent - 14) << 23);
  }
  __device__ __forceinline__ std::byte* staged() const {
    return bytes_ + kMostPartials * static_cast<int>(sizeof(float));
  }
  static __device__ __forceinline__ float4 round_four(const float4& v) {
    return make_float4(to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w));
  }
  __device__ __forceinline__ Operand load_operand(int group) const {
    Operand o;
    constexpr int kBytes = V * 2, kWords = V / 2;  // of a lane's columns in a piece
#pragma unroll
    for (int h = 0; h < kPieces; ++h)
#pragma unroll
      for (int k = 0; k < kWords; k += 4) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (lane_ < 4)
          v = *reinterpret_cast<const uint4*>(staged() + group * kGroup * 2 + (h * 4 + lane_) * kBytes +
                                              k * 4);
        const int at = h * kWords + k;
        o.b[at] = v.x, o.b[at + 1] = v.y, o.b[at + 2] = v.z, o.b[at + 3] = v.w;
      }
    return o;
  }

  // -- products
  // Sums of rows lane / 4 and lane / 4 + 8 over 128 columns, in lanes that are multiples of 4; `codes`: this
  // lane's 16 bytes of the first row, the second lies `second` bytes behind. `pieces`: of 64 bytes, that
  // exist.
  __device__ __forceinline__ float2 multiply_group(const std::byte* codes, int second, const Operand& o,
                                                   int pieces) const {
    float c[2][4] = {};
#pragma unroll
    for (int h = 0; h < kPieces; ++h) {
      if (h >= pieces) break;
      const uint4 low = *reinterpret_cast<const uint4*>(codes + h * 64);
      const uint4 high = *reinterpret_cast<const uint4*>(codes + h * 64 + second);
      const std::uint32_t l[4] = {low.x, low.y, low.z, low.w}, u[4] = {high.x, high.y, high.z, high.w};
      if constexpr (C == Code::e4m3) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const std::uint32_t a[4] = {halves_of(l[j] & 0xffffu), halves_of(u[j] & 0xffffu),
                                      halves_of(l[j] >> 16), halves_of(u[j] >> 16)};
          mma_f16(c[j & 1], a, o.b[h * 8 + 2 * j], o.b[h * 8 + 2 * j + 1]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const std::uint32_t a[4] = {l[2 * j], u[2 * j], l[2 * j + 1], u[2 * j + 1]};
          mma(c[j], a, o.b[h * 4 + 2 * j], o.b[h * 4 + 2 * j + 1]);
        }
      }
    }
    return make_float2(c[0][0] + c[1][0], c[0][2] + c[1][2]);
  }
  // The scale at `offset` of the ring, times `factor`.
  __device__ __forceinline__ float scale_at(int offset, float factor) const {
    if constexpr (C == Code::bf16) return factor;
    return __fmul_rn(*reinterpret_cast<const float*>(ring_ + offset), factor);
  }

  // Rows [first, first + count) of `pieces` matrices of one shape, 16 rows of both together at a time: sums
  // of unit u of piece i go to partial ((place + u) pieces + i), one a warp. The caller synchronises.
  __device__ __forceinline__ void multiply(const Operand& o, float factor, const RoleShape& shape, int pieces,
                                           int first, int count, int place) {
    const int per = shape.per_transfer, row_bytes = shape.row_bytes;
    const int offset = warp_ * kGroupBytes + lane_ % 4 * 16;
#pragma unroll 1
    for (int t = 0; t < count; t += per) {
      const Where w = acquire();
      const int n = min(per, count - t), base = first + t;
      // Rows that are not there are other ones: their sums are dropped.
      const int low = min(lane_ / 4, n * pieces - 1), high = min(lane_ / 4 + 8, n * pieces - 1);
      const float2 sum =
          multiply_group(ring_ + w.codes[0] + low * row_bytes + offset, (high - low) * row_bytes, o, kPieces);
      if (lane_ % 4 == 0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int v = lane_ / 4 + 8 * i, piece = v >= n, u = v - piece * n;
          if (v >= n * pieces) continue;
          const int scale =
              w.scale[piece] + (((base + u) >> 7) - (base >> 7)) * shape.scale_cols * 4 + warp_ * 4;
          x_[((place + t + u) * pieces + piece) * kPartialStride + warp_] =
              __fmul_rn(i == 0 ? sum.x : sum.y, scale_at(scale, factor));
        }
      }
      release();
    }
  }
  // All warps' sums of one row.
  __device__ __forceinline__ float total_of(int partial) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kComputeWarps; ++w) sum = __fadd_rn(sum, x_[partial * kPartialStride + w]);
    return sum;
  }

  // -- stages
  __device__ __forceinline__ void project(const PersistentLayer& l, bool handed_off) {
    wait_for_layer();
    const int column = warp_ * kGroup + lane_ * 4;
    const float4 weight = __ldg(reinterpret_cast<const float4*>(l.input_layernorm + column));
    const float4 x = handed_off ? wait_for_x(p_.x_words[1], epoch_ - 1, column)
                                : *reinterpret_cast<const float4*>(p_.x + column);
    stage_group(round_four(norm_group(x, weight)), warp_);
    __syncwarp();  // the warp's group is staged
    const Operand o = load_operand(warp_);
    const float factor = s_.factor[warp_];
    const int q_pairs = p_.q.rows / 2, all = q_pairs + p_.kv_a.rows / 2;
    const Range mine = s_.parts[kPairs], q = clip(mine, 0, q_pairs), kv = clip(mine, q_pairs, all);
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const Range& r = i == 0 ? q : kv;
      multiply(o, factor, i == 0 ? p_.q : p_.kv_a, 1, 2 * (r.begin - i * q_pairs), 2 * r.count(),
               i == 0 ? 0 : 2 * q.count());
    }
    sync_compute();  // sums of all warps are visible
    const int head_dim = p_.attention.nope + p_.attention.rope, pair = threadIdx.x;
    if (pair < mine.count()) {
      float a = total_of(2 * pair), b = total_of(2 * pair + 1);
      const bool is_kv = pair >= q.count();
      const int n = 2 * (is_kv ? kv.begin - q_pairs + pair - q.count() : q.begin + pair);
      const int in_rotated = is_kv ? n - kLatent : n % head_dim - kNope;
      if (in_rotated >= 0) {
        const float sine = s_.sine[in_rotated / 2], cosine = s_.cosine[in_rotated / 2], left = a, right = b;
        a = __fsub_rn(__fmul_rn(left, cosine), __fmul_rn(right, sine));
        b = __fadd_rn(__fmul_rn(left, sine), __fmul_rn(right, cosine));
      }
      store_tagged(p_.q_words + mine.begin + pair, __float_as_uint(a), __float_as_uint(b), 0, epoch_);
      // For whoever reads them behind the launch; the latent's columns are finish_row's to write.
      if (!is_kv || n >= kLatent)
        *reinterpret_cast<float2*>((is_kv ? p_.kv_row : p_.q_out) + n) = make_float2(a, b);
    }
    end_stage();
  }

  // Four neighbouring codes of kv_b, as they are stored.
  using FourCodes = std::conditional_t<C == Code::e4m3, unsigned, uint2>;
  __device__ __forceinline__ FourCodes load_four_codes(const PersistentLayer& l, int row, int column) const {
    const std::byte* from =
        l.kv_b.codes + static_cast<std::int64_t>(row) * p_.kv_b.row_bytes + column * (16 / V);
    return __ldg(reinterpret_cast<const FourCodes*>(from));
  }
  static __device__ __forceinline__ float4 decode_four(const FourCodes& v) {
    if constexpr (C == Code::e4m3) {
      const float2 low = decode_e4m3x2(v & 0xffffu), high = decode_e4m3x2(v >> 16);
      return make_float4(low.x, low.y, high.x, high.y);
    } else {
      return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                         __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
    }
  }

  // Block head * kParts + part: q W_UK for 64 latent columns, and 8 rotated columns of q. Threads: 32 groups
  // of 4 rows by 16 quads of columns.
  __device__ __forceinline__ void absorb(const PersistentLayer& l) {
    const AttentionShape& a = p_.attention;
    const int head = blockIdx.x / kParts, part = blockIdx.x % kParts;
    const int group = threadIdx.x / 16, quad = threadIdx.x % 16, column = part * kPartColumns + quad * 4;
    const bool works = head < a.heads;
    FourCodes codes[kNope / 32];
    static_assert(kNope == 128);  // rows of one block of scales
    float scale = 0;
    if (works) {
      const int row = head * (kNope + kValue) + group * 4;
#pragma unroll
      for (int k = 0; k < kNope / 32; ++k) codes[k] = load_four_codes(l, row + k, column);
      scale = block_scale(l.kv_b.scale, p_.kv_b.scale_cols, row, column);
    }
    const bool finishes = head == a.heads && part == 0;
    const float norm = finishes ? l.kv_a_layernorm[threadIdx.x] : 0.0f;
    if (works) {
      const TaggedWord* q = p_.q_words + head * ((kNope + kRope) / 2);
      const TaggedWord* const from[2] = {q + group * 2, q + group * 2 + 1};
      TaggedWord mine[2];
      wait_tagged(from, epoch_, mine);
      begin_stage();
      float sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int k = 0; k < kNope / 32; ++k) {
        const float4 four = decode_four(codes[k]);
        const float w[4] = {four.x, four.y, four.z, four.w};
        const float f = __fmul_rn(__uint_as_float(mine[k / 2][k % 2]), scale);
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[c] = __fmaf_rn(f, w[c], sum[c]);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[c] = __fadd_rn(sum[c], __shfl_xor_sync(~0u, sum[c], 16));
      if (lane_ < 16)
        *reinterpret_cast<float4*>(x_ + warp_ * kPartColumns + quad * 4) =
            make_float4(sum[0], sum[1], sum[2], sum[3]);
      sync_compute();  // sums of all warps are visible
      // Three lanes, each with a pair of values, make a word; thirty lanes of a warp.
      const int word = warp_ * 10 + lane_ / 3, pair = word * 3 + lane_ % 3;
      if (warp_ < 2) {
        float2 total = make_float2(0, 0);
        if (pair < kPartColumns / 2) {
#pragma unroll
          for (int w = 0; w < kComputeWarps; ++w) {
            const float2 v = *reinterpret_cast<const float2*>(x_ + w * kPartColumns + pair * 2);
            total.x = __fadd_rn(total.x, v.x), total.y = __fadd_rn(total.y, v.y);
          }
        } else if (pair < kPartPairs) {
          const TaggedWord w =
              poll_tagged(q + kNope / 2 + part * (kRope / kParts / 2) + pair - kPartColumns / 2, epoch_);
          total = make_float2(__uint_as_float(w[0]), __uint_as_float(w[1]));
        }
        store_pairs(head, part, word, pack_bf16(total.x, total.y));
      }
    } else {
      begin_stage();
      if (finishes) finish_row(l, norm);
    }
    end_stage();
  }
  // The three pairs of a word of q' (or of the row's key, as a head behind the others), held by neighbouring
  // lanes.
  __device__ __forceinline__ void store_pairs(int head, int part, int word, unsigned pair) {
    const unsigned second = __shfl_down_sync(~0u, pair, 1), third = __shfl_down_sync(~0u, pair, 2);
    if (lane_ % 3 == 0 && lane_ < 30 && word < (head < p_.attention.heads ? kPartWords : kRowWords))
      store_tagged(p_.absorbed_words + (head * kParts + part) * kPartWords + word, pair, second, third,
                   epoch_);
  }
  // Where the values of a word's pair lie in a row of q' or in a key.
  static __device__ __forceinline__ int pair_column(int part, int pair) {
    return pair < kPartColumns / 2 ? part * kPartColumns + pair * 2
                                   : kLatent + part * (kRope / kParts) + (pair - kPartColumns / 2) * 2;
  }
  // Writes word `n` of a row of q', or of a key, to where the row lies in shared memory.
  static __device__ __forceinline__ void unpack_word(std::byte* row, int n, const TaggedWord& w) {
    const int part = n / kPartWords, pair = n % kPartWords * 3;
#pragma unroll
    for (int i = 0; i < 3; ++i) *reinterpret_cast<unsigned*>(row + pair_column(part, pair + i) * 2) = w[i];
  }
  static __device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&v);
  }

  // Norm of the latent, a value a thread, and append to the cache. `norm`: this thread's weight.
  __device__ __forceinline__ void finish_row(const PersistentLayer& l, float norm) {
    static_assert(kLatent == kComputeThreads);
    const TaggedWord* words = p_.q_words + p_.q.rows / 2;
    const float v = __uint_as_float(poll_tagged(words + threadIdx.x / 2, epoch_)[threadIdx.x % 2]);
    const float sum = warp_sum(__fmul_rn(v, v));
    if (lane_ == 0) s_.sums[warp_] = sum;
    sync_compute();  // sums of all warps are visible
    const float all = warp_sum(lane_ < kComputeWarps ? s_.sums[lane_] : 0.0f);
    const float inverse = __frsqrt_rn(__fadd_rn(__fmul_rn(all, 1.0f / kLatent), p_.eps));
    const float latent = __fmul_rn(__fmul_rn(v, inverse), norm);
    auto* cache = static_cast<__nv_bfloat16*>(l.cache) + (p_.timeline[0] * p_.capacity + position_) * kRow;
    auto* key = reinterpret_cast<__nv_bfloat16*>(bytes_);
    p_.kv_row[threadIdx.x] = latent;
    key[threadIdx.x] = cache[threadIdx.x] = __float2bfloat16_rn(latent);
    if (const int i = threadIdx.x; i < kRope)
      key[kLatent + i] = cache[kLatent + i] =
          __float2bfloat16_rn(__uint_as_float(poll_tagged(words + (kLatent + i) / 2, epoch_)[i % 2]));
    sync_compute();  // the key is complete
    // Ten words a warp, as in absorb.
    const int word = warp_ * 10 + lane_ / 3, in_part = word % kPartWords * 3 + lane_ % 3;
    unsigned pair = 0;
    if (word < kRowWords)
      pair = *reinterpret_cast<const unsigned*>(key + pair_column(word / kPartWords, in_part));
    store_pairs(p_.attention.heads, 0, word, pair);
  }

  // Keys of this call's own row and beyond, in a tile that arrived before the row was written: the row comes
  // as words, what is beyond is zeroed.
  __device__ __forceinline__ void patch_keys(const std::byte* const (&half)[2], int first) {
    constexpr int units = kRow / 8, pitch = kKeyPitch * 2;
    const int own = position_ - first;
    const auto row_of = [&](int key) {
      return const_cast<std::byte*>(half[key / kHalfTile]) + key % kHalfTile * pitch;
    };
    if (threadIdx.x < kRowWords)
      unpack_word(row_of(own), threadIdx.x,
                  poll_tagged(p_.absorbed_words + p_.attention.heads * kRowWords + threadIdx.x, epoch_));
#pragma unroll 1
    for (int i = threadIdx.x; i < (kTile - 1 - own) * units; i += kComputeThreads)
      *reinterpret_cast<uint4*>(row_of(own + 1 + i / units) + i % units * 16) = make_uint4(0, 0, 0, 0);
    // These writes come before any later bulk copy into the same memory.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    sync_compute();  // the keys are complete
  }

  // One split of the keys of 16 heads.
  __device__ __forceinline__ void attend() {
    const AttentionShape& a = p_.attention;
    const int groups = a.heads / kHeadTile, length = span_;
    const int items = (position_ / length + 1) * groups;
    if (static_cast<int>(blockIdx.x) >= items) begin_stage();
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      const int split = item / groups, group = item % groups;
      attend_span(split, group, {split * length, min((split + 1) * length, position_ + 1)});
      if (item + static_cast<int>(gridDim.x) < items) sync_compute();  // q may be overwritten
    }
    arrive();
  }

  __device__ __forceinline__ void attend_span(int split, int group, const Span& span) {
    const AttentionShape& a = p_.attention;
    constexpr int ld = kKeyPitch;
    auto* q = reinterpret_cast<__nv_bfloat16*>(bytes_);
    auto* probability = q + kHeadTile * ld;
    auto* scores = reinterpret_cast<float*>(probability + kHeadTile * kProbabilityRow);
    float* correction = scores + 2 * kHeadTile * kScoreRow;
    {
      constexpr int kMine = kHeadTile * kRowWords / kComputeThreads;
      static_assert(kMine * kComputeThreads == kHeadTile * kRowWords);
      const TaggedWord* from[kMine];
      TaggedWord words[kMine];
#pragma unroll
      for (int i = 0; i < kMine; ++i)
        from[i] = p_.absorbed_words + group * kHeadTile * kRowWords + threadIdx.x + i * kComputeThreads;
      wait_tagged(from, epoch_, words);
      if (static_cast<int>(blockIdx.x) == split * (a.heads / kHeadTile) + group)
        begin_stage();  // its first item
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int n = threadIdx.x + i * kComputeThreads;
        unpack_word(reinterpret_cast<std::byte*>(q + n / kRowWords * ld), n % kRowWords, words[i]);
      }
    }
    // Scores: warp = (half of the columns, 8 keys). k-steps are added in two chains, k mod 2.
    constexpr int steps = kRow / 16, half = steps / 2;
    static_assert(half % 2 == 0);
    const int keys8 = warp_ % 8, which = warp_ / 8;
    const int k_begin = which * half;
    constexpr int kTiles = kLatent / 8 / kComputeWarps;
    float out[kTiles][4] = {};
    float maximum = -INFINITY, sum = 0;  // of head `warp_`; scores are in units of log 2
    const float factor = a.scale * kLog2e;
    for (int first = span.begin; first < span.end; first += kTile) {
      const std::byte* keys[2];
      keys[0] = ring_ + acquire().codes[0];
      const int second = next_ + 1;
      wait_barrier(&s_.full[second % kTransfers], second / kTransfers & 1);
      keys[1] = ring_ + s_.where[second % kTransfers].codes[0];
      if (first + kTile > position_) patch_keys(keys, first);
      sync_compute();  // q is visible; probabilities of the tile before have been read
      {
        float score[2][4] = {};
        const auto* b_row = reinterpret_cast<const __nv_bfloat16*>(keys[keys8 / 4]) +
                            (keys8 % 4 * 8 + lane_ % 8) * ld + k_begin * 16 + lane_ / 8 * 8;
        const auto* a_row = q + (lane_ % 16) * ld + k_begin * 16 + lane_ / 16 * 8;
#pragma unroll 3
        for (int k = 0; k < half; k += 2) {
          std::uint32_t b[4], x[2][4];
          ldmatrix(b, b_row + k * 16);
          ldmatrix(x[0], a_row + k * 16);
          ldmatrix(x[1], a_row + (k + 1) * 16);
          mma(score[0], x[0], b[0], b[1]);
          mma(score[1], x[1], b[2], b[3]);
        }
        float* to = scores + (which * kHeadTile + lane_ / 4) * kScoreRow + keys8 * 8 + lane_ % 4 * 2;
        *reinterpret_cast<float2*>(to) = make_float2(score[0][0] + score[1][0], score[0][1] + score[1][1]);
        *reinterpret_cast<float2*>(to + 8 * kScoreRow) =
            make_float2(score[0][2] + score[1][2], score[0][3] + score[1][3]);
      }
      sync_compute();  // scores are visible
      {
        const float* of = scores + warp_ * kScoreRow + lane_;
        constexpr int kNext = kHeadTile * kScoreRow;
        float z[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
          z[i] = first + lane_ + i * 32 < span.end ? (of[i * 32] + of[kNext + i * 32]) * factor : -INFINITY;
        const float highest = fmaxf(maximum, warp_max(fmaxf(z[0], z[1])));
        const float p[2] = {exp2f(z[0] - highest), exp2f(z[1] - highest)}, c = exp2f(maximum - highest);
        sum = __fmaf_rn(sum, c, warp_sum(__fadd_rn(p[0], p[1])));
        maximum = highest;
#pragma unroll
        for (int i = 0; i < 2; ++i)
          probability[warp_ * kProbabilityRow + lane_ + i * 32] = __float2bfloat16_rn(p[i]);
        if (lane_ == 0) correction[warp_] = c;
      }
      sync_compute();  // probabilities and corrections are visible
      const float low = correction[lane_ / 4], high = correction[lane_ / 4 + 8];
      std::uint32_t x[4][4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        ldmatrix(x[k], probability + (lane_ % 16) * kProbabilityRow + k * 16 + lane_ / 16 * 8);
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
        out[i][0] *= low, out[i][1] *= low, out[i][2] *= high, out[i][3] *= high;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const auto* v_row = reinterpret_cast<const __nv_bfloat16*>(keys[h]) + lane_ * ld + warp_ * kTiles * 8;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          std::uint32_t b[4];
          ldmatrix_transposed(b, v_row + i * 8);
          mma(out[i], x[2 * h], b[0], b[1]);
          mma(out[i], x[2 * h + 1], b[2], b[3]);
        }
      }
      release();
      release();
    }
    const std::int64_t slot = static_cast<std::int64_t>(split) * a.heads + group * kHeadTile;
    if (lane_ == 0)  // (heads, kMostSplits, 2), unlike the layered kernels': a head's are read together
      *reinterpret_cast<float2*>(p_.partial_sum + ((group * kHeadTile + warp_) * kMostSplits + split) * 2) =
          make_float2(maximum, sum);
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<float2*>(p_.partial_out + (slot + lane_ / 4 + h * 8) * kLatent +
                                   (warp_ * kTiles + i) * 8 + lane_ % 4 * 2) =
            make_float2(out[i][2 * h], out[i][2 * h + 1]);
  }

  // Latent column `i` of 64 that part `part` of a head combines: 16 neighbouring ones of every 128.
  static __device__ __forceinline__ int part_column(int part, int i) {
    const int chunk = i / V;
    return (chunk / 4 * 32 + part + 8 * (chunk % 4)) * V + i % V;
  }

  // Block head * kParts + part: combines 64 latent columns over the splits, then their part of W_UV.
  __device__ __forceinline__ void value(const PersistentLayer& l) {
    const AttentionShape& a = p_.attention;
    const int head = blockIdx.x / kParts, part = blockIdx.x % kParts;
    const bool works = head < a.heads;
    constexpr int kSteps = kPartColumns / (4 * V);  // chunks of a thread
    const int row = threadIdx.x / 4, of_four = threadIdx.x % 4;
    uint4 codes[kSteps];
    float scale[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      codes[k] = make_uint4(0, 0, 0, 0), scale[k] = 0;
      if (works) {
        const int n = head * (kNope + kValue) + kNope + row,
                  column = part_column(part, (k * 4 + of_four) * V);
        codes[k] =
            load_weights(l.kv_b.codes + static_cast<std::int64_t>(n) * p_.kv_b.row_bytes + column / V * 16);
        scale[k] = block_scale(l.kv_b.scale, p_.kv_b.scale_cols, n, column);
      }
    }
    wait();
    if (works) {
      const int splits = (position_ / span_) + 1;
      const std::int64_t stride = static_cast<std::int64_t>(a.heads) * kLatent;
      const float* from =
          p_.partial_out + static_cast<std::int64_t>(head) * kLatent + part_column(part, lane_ * 2);
      constexpr int kMost = kMostSplits / kCombineGroups;
      float2 held[kMost], sums[kMostSplits / 32];
#pragma unroll
      for (int i = 0; i < kMostSplits / 32; ++i) {
        sums[i] = make_float2(-INFINITY, 0);
      }
      auto* shared_sums = reinterpret_cast<float2*>(x_ + kMostPartials);
      if (threadIdx.x < splits)
        shared_sums[threadIdx.x] =
            __ldcg(reinterpret_cast<const float2*>(p_.partial_sum) + head * kMostSplits + threadIdx.x);
#pragma unroll
      for (int k = 0; k < kMost; ++k)
        if (warp_ + k * kCombineGroups < splits)
          held[k] = __ldcg(reinterpret_cast<const float2*>(from + (warp_ + k * kCombineGroups) * stride));
      sync_compute();  // the splits' sums are visible
#pragma unroll
      for (int i = 0; i < kMostSplits / 32; ++i)
        if (lane_ + i * 32 < splits) sums[i] = shared_sums[lane_ + i * 32];
      float highest = -INFINITY, total = 0;
#pragma unroll
      for (int i = 0; i < kMostSplits / 32; ++i) highest = fmaxf(highest, sums[i].x);
      highest = warp_max(highest);
#pragma unroll
      for (int i = 0; i < kMostSplits / 32; ++i) {
        sums[i].x = exp2f(sums[i].x - highest);
        total = __fmaf_rn(sums[i].x, sums[i].y, total);
      }
      const float inverse = __fdividef(1.0f, warp_sum(total));
#pragma unroll
      for (int i = 0; i < kMostSplits / 32; ++i) sums[i].x = __fmul_rn(sums[i].x, inverse);
      float2 mixed = make_float2(0, 0);
#pragma unroll
      for (int k = 0; k < kMost; ++k) {
        const float f = __shfl_sync(~0u, sums[k / 2].x, warp_ + k % 2 * 16);
        if (warp_ + k * kCombineGroups < splits)
          mixed.x = __fmaf_rn(f, held[k].x, mixed.x), mixed.y = __fmaf_rn(f, held[k].y, mixed.y);
      }
      float* combined = x_ + kCombineGroups * kPartColumns;
      *reinterpret_cast<float2*>(x_ + warp_ * kPartColumns + lane_ * 2) = mixed;
      sync_compute();  // sums of all groups are visible
      if (threadIdx.x < kPartColumns) {
        float sum = x_[threadIdx.x];
#pragma unroll
        for (int g = 1; g < kCombineGroups; ++g) sum = __fadd_rn(sum, x_[g * kPartColumns + threadIdx.x]);
        combined[threadIdx.x] = sum;
      }
      sync_compute();  // the combined columns are visible
      float sum = 0;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        float w[V], dot = 0;
        Vec<C>::decode(codes[k], w);
#pragma unroll
        for (int c = 0; c < V; c += 4) {
          const float4 x = *reinterpret_cast<const float4*>(combined + (k * 4 + of_four) * V + c);
          dot = __fmaf_rn(w[c], x.x, dot), dot = __fmaf_rn(w[c + 1], x.y, dot);
          dot = __fmaf_rn(w[c + 2], x.z, dot), dot = __fmaf_rn(w[c + 3], x.w, dot);
        }
        sum = __fmaf_rn(dot, scale[k], sum);
      }
      sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
      sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
      if (of_four == 0) p_.value[(part * a.heads + head) * kValue + row] = sum;
    }
    arrive();
  }

  __device__ __forceinline__ void attn_out() {
    const int columns = p_.o.cols, column = warp_ * kGroup + lane_ * 4;
    const Range mine = s_.parts[kOutRows];
    wait();
    float4 v[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      v[part] = load_shared_by_others(p_.value + part * columns + column);
    const auto tree = [&](float float4::*m) {
      return __fadd_rn(__fadd_rn(__fadd_rn(v[0].*m, v[4].*m), __fadd_rn(v[2].*m, v[6].*m)),
                       __fadd_rn(__fadd_rn(v[1].*m, v[5].*m), __fadd_rn(v[3].*m, v[7].*m)));
    };
    stage_group(
        round_four(make_float4(tree(&float4::x), tree(&float4::y), tree(&float4::z), tree(&float4::w))),
        warp_);
    __syncwarp();  // the warp's group is staged
    multiply(load_operand(warp_), s_.factor[warp_], p_.o, 1, mine.begin, mine.count(), 0);
    sync_compute();  // sums of all warps are visible
    add_to_x(p_.x_words[0], false);
    end_stage();
  }

  // Router rows (MoE), then columns of the dense or shared MLP, then of the chosen experts.
  __device__ __forceinline__ void gate_up(const PersistentLayer& l) {
    const bool moe = l.experts != nullptr;
    const RoleShape& fixed = moe ? p_.shared_up : p_.dense_up;
    const int slots = moe ? p_.choice.chosen : 0, inner = p_.expert_up.rows,
              column = warp_ * kGroup + lane_ * 4;
    const Range shared = s_.parts[moe ? kSharedColumns : kDenseColumns];
    const Range units = moe ? s_.parts[kChosenColumns] : Range{0, 0};
    const float4 weight = __ldg(reinterpret_cast<const float4*>(l.post_attention_layernorm + column));
    const float4 v = norm_group(wait_for_x(p_.x_words[0], epoch_, column), weight);
    if (moe) route(v);
    stage_group(round_four(v), warp_);
    __syncwarp();  // the warp's group is staged
    const Operand o = load_operand(warp_);
    const float factor = s_.factor[warp_];
    int begin = shared.begin, count = shared.count(), place = 0;
#pragma unroll 1
    for (int slot = moe ? s_.first_slot - 1 : -1;; ++slot) {
      multiply(o, factor, place == 0 ? fixed : p_.expert_up, 2, begin, count, place);
      place += count;
      if ((slot + 1) * inner >= units.end) break;
      const Range r = clip(units, (slot + 1) * inner, (slot + 2) * inner);
      begin = r.begin - (slot + 1) * inner, count = r.count();
    }
    sync_compute();  // sums of all warps are visible
    float mine = 0;
    const int i = threadIdx.x;
    if (i < place) {
      const float gate = total_of(2 * i), up = total_of(2 * i + 1);
      mine = __fmul_rn(silu(gate), up);
    }
    // Pairs of columns: every share is even. Routed slots come first.
    const float next = __shfl_down_sync(~0u, mine, 1);
    const int left = i - shared.count();
    const int to = left >= 0 ? units.begin + left : slots * inner + shared.begin + i;
    if (i < place && i % 2 == 0) store_tagged(p_.hidden_words + to / 2, pack_bf16(mine, next), epoch_);
    end_stage();
  }

  // This block's rows of the router, whose input is not rounded. Sums lie behind those of the columns.
  __device__ __forceinline__ void route(const float4& v) {
    const Range mine = s_.parts[kRouterRows];
    if (mine.count() == 0) return;
    const int place = kMostPartials / kPartialStride - mine.count();
    for (int t = 0; t < mine.count(); t += p_.router.per_transfer) {
      const Where w = acquire();
      for (int u = 0; u < min(p_.router.per_transfer, mine.count() - t); ++u) {
        const uint2 two = *reinterpret_cast<const uint2*>(ring_ + w.codes[0] + u * p_.router.row_bytes +
                                                          warp_ * 256 + lane_ * 8);
        const float sum =
            warp_sum(__fmaf_rn(__uint_as_float(two.y & 0xffff0000u), v.w,
                               __fmaf_rn(__uint_as_float(two.y << 16), v.z,
                                         __fmaf_rn(__uint_as_float(two.x & 0xffff0000u), v.y,
                                                   __fmul_rn(__uint_as_float(two.x << 16), v.x)))));
        if (lane_ == 0) x_[(place + t + u) * kPartialStride + warp_] = sum;
      }
      release();
    }
    sync_compute();  // sums of all warps are visible
    if (threadIdx.x < mine.count()) {
      const float logit = total_of(place + threadIdx.x);
      store_tagged(p_.logit_words + mine.begin + threadIdx.x, __float_as_uint(logit), 0, 0, epoch_);
      p_.router_logits[mine.begin + threadIdx.x] = logit;
    }
  }

  __device__ __forceinline__ void down(const PersistentLayer& l, bool last_layer) {
    const bool moe = l.experts != nullptr;
    const RoleShape &routed = p_.expert_down, &last = moe ? p_.shared_down : p_.dense_down;
    const int slots = moe ? p_.choice.chosen : 0, columns = slots * routed.cols + last.cols;
    const Range mine = s_.parts[kDownRows];
    constexpr int kMost = kMostGroups128 / kComputeWarps;
    const auto* from =
        reinterpret_cast<const TaggedWord*>(p_.hidden_words + (warp_ * kGroup + lane_ * 4) / 2);
    constexpr int kStep = kComputeWarps * kGroup / 4;       // words
    const int left = columns - warp_ * kGroup - lane_ * 4;  // columns from this lane's first on
    TaggedWord held[kMost];
    wait_tagged_halves(from, kStep, (left + kStep * 4 - 1) / (kStep * 4), epoch_, held);
    begin_stage();
#pragma unroll
    for (int k = 0; k < kMost; ++k) {
      const int group = warp_ + k * kComputeWarps;
      if (group * kGroup >= columns) break;
      const auto low = static_cast<unsigned>(held[k].low), high = static_cast<unsigned>(held[k].high);
      stage_group(make_float4(__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u),
                              __uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u)),
                  group);
    }
    __syncwarp();  // the warp's groups are staged
    float2 sum = make_float2(0, 0);
    if (moe) {
      const int each = routed.cols / kGroup;
#pragma unroll 1
      for (int slot = -1; slot < slots; ++slot) {
        const RoleShape& shape = slot < 0 ? last : routed;
        const int groups = shape.cols / kGroup, before = (slot < 0 ? slots : slot) * each;
        const Where w = acquire();
#pragma unroll 1
        for (int g = (warp_ - before) & (kComputeWarps - 1); g < groups; g += kComputeWarps)
          add_group(sum, w, shape, shape.row_bytes, mine.begin, g, g, before + g,
                    slot < 0 ? 1.0f : s_.weight[slot], kPieces);
        release();
      }
    } else {
#pragma unroll 1
      for (int g = warp_; g - warp_ < (last.cols + kGroup - 1) / kGroup; g += kComputeWarps) {
        const Where w = acquire();
        if (g * kGroup < last.cols)
          add_group(sum, w, last, kComputeWarps * kGroupBytes, mine.begin, warp_, g, g, 1.0f,
                    min((last.row_bytes - g * kGroupBytes) / 64, kPieces));
        release();
      }
    }
    if (lane_ % 4 == 0) {
      x_[lane_ / 4 * kPartialStride + warp_] = sum.x;
      x_[(lane_ / 4 + 8) * kPartialStride + warp_] = sum.y;
    }
    sync_compute();  // sums of all warps are visible
    add_to_x(p_.x_words[1], last_layer);
    end_stage();
  }
  // Adds 128 columns of a transfer's rows: group `at` of the transfer, `column` of the matrix' scales,
  // `group` staged.
  __device__ __forceinline__ void add_group(float2& sum, const Where& w, const RoleShape& shape, int pitch,
                                            int first_row, int at, int column, int group, float weight,
                                            int pieces) const {
    const int count = s_.parts[kDownRows].count();
    const int low = min(lane_ / 4, count - 1), high = min(lane_ / 4 + 8, count - 1);
    const float2 part = multiply_group(ring_ + w.codes[0] + low * pitch + at * kGroupBytes + lane_ % 4 * 16,
                                       (high - low) * pitch, load_operand(group), pieces);
    const float factor = s_.factor[group] * weight;
    const auto scale = [&](int row) {
      const int block = ((first_row + row) >> 7) - (first_row >> 7);
      return scale_at(w.scale[0] + (block * shape.scale_cols + column) * 4, factor);
    };
    if (lane_ % 4 != 0) return;
    if (lane_ / 4 < count) sum.x = __fmaf_rn(part.x, scale(lane_ / 4), sum.x);
    if (lane_ / 4 + 8 < count) sum.y = __fmaf_rn(part.y, scale(lane_ / 4 + 8), sum.y);
  }

 private:
  const PersistentParams& p_;
  Shared& s_;
  float* x_;          // activations and partial sums, by stage
  std::byte* bytes_;  // the same
  const std::byte* ring_;
  int lane_, warp_, position_, span_;
  unsigned epoch_;  // of this layer's tagged words
  int next_;        // transfer
};

// Every stage is a function of its own: registers are then allotted stage by stage. Takes and returns the
// number of the next transfer.
enum class Stage { project, absorb, attend, value, attn_out, gate_up, down };
template <Code C, Stage kStage>
__device__ __noinline__ int run_stage(int layer, int next) {
  Consumer<C> c(layer, next);
  const PersistentLayer& l = shared_state().layers[layer % 2];
  if constexpr (kStage == Stage::project) c.project(l, layer > shared_state().params.begin);
  if constexpr (kStage == Stage::absorb) c.absorb(l);
  if constexpr (kStage == Stage::attend) c.attend();
  if constexpr (kStage == Stage::value) c.value(l);
  if constexpr (kStage == Stage::attn_out) c.attn_out();
  if constexpr (kStage == Stage::gate_up) c.gate_up(l);
  if constexpr (kStage == Stage::down) c.down(l, layer + 1 == shared_state().params.end);
  return c.next();
}
template <Code C>
__device__ __noinline__ void begin_compute() {
  Consumer<C>(0, 0).begin();
}
template <Code C>
__device__ __forceinline__ void compute(int begin, int end) {
  begin_compute<C>();
  int next = 0;
  for (int i = begin; i < end; ++i) {
    next = run_stage<C, Stage::project>(i, next);
    next = run_stage<C, Stage::absorb>(i, next);
    next = run_stage<C, Stage::attend>(i, next);
    next = run_stage<C, Stage::value>(i, next);
    next = run_stage<C, Stage::attn_out>(i, next);
    next = run_stage<C, Stage::gate_up>(i, next);
    next = run_stage<C, Stage::down>(i, next);
  }
}

__device__ __forceinline__ void divide_work(const PersistentParams& p, Shared& s) {
  const int columns = p.choice.chosen * p.expert_up.rows;
  const int totals[kPartCount] = {(p.q.rows + p.kv_a.rows) / 2,
                                  p.o.rows / 2,  // pairs
                                  p.router.rows,
                                  p.dense_up.rows / 2,
                                  p.shared_up.rows / 2,
                                  columns / 2,
                                  p.o.rows / 2};
#pragma unroll
  for (int i = 0; i < kPartCount; ++i) {
    const Range part = my_part(totals[i]);
    const int unit = i == kPairs || i == kRouterRows ? 1 : 2;
    if (threadIdx.x == i) s.parts[i] = {part.begin * unit, part.end * unit};
  }
  if (threadIdx.x == kPartCount)
    s.first_slot = columns == 0 ? 0 : my_part(columns / 2).begin * 2 / p.expert_up.rows;
}

#endif

std::size_t table_bytes(const PersistentParams& p) {
  return sizeof(ExpertPointers) * static_cast<std::size_t>(p.choice.experts);
}

template <Code C>
__global__ void __launch_bounds__(kBlockThreads, 1)
    persistent_kernel(const __grid_constant__ PersistentParams p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  Shared& s = shared_state();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTransfers; ++i)
      init_barrier(&s.full[i], 1), init_barrier(&s.empty[i], kComputeWarps);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    s.position = p.position[0];
    s.span = span_keys(s.position, p.keys_per_round);
    s.handoffs = 0, s.arrivals = 0;
    s.epoch = p.counters->epoch + 1 - static_cast<unsigned>(p.begin);
  }
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(PersistentParams) / 4); i += kBlockThreads)
    reinterpret_cast<std::uint32_t*>(&s.params)[i] = reinterpret_cast<const std::uint32_t*>(&p)[i];
  constexpr int transfers = kLayerKinds * kMostTransfers;
  for (int i = threadIdx.x; i < transfers * static_cast<int>(sizeof(Transfer) / 16); i += kBlockThreads)
    reinterpret_cast<uint4*>(s.transfers)[i] =
        reinterpret_cast<const uint4*>(p.transfers + static_cast<std::int64_t>(blockIdx.x) * transfers)[i];
  divide_work(p, s);
  __syncthreads();  // barriers are initialised, state is visible
  std::byte* ring = block_memory + kSharedBytes + p.activation_bytes;
  if (threadIdx.x / 32 == kComputeWarps)
    Producer(p, s, ring, reinterpret_cast<ExpertPointers*>(ring + p.ring_bytes)).run();
  else
    compute<C>(p.begin, p.end);
  __syncthreads();  // no warp polls any more
  if (threadIdx.x == 0) leave_grid(p.counters, static_cast<unsigned>(p.end - p.begin));
#endif
}

// -- the hand-off alone -------------------------------------------------------------------------------------

struct HandoffParams {
  GridCounters* counters;
  unsigned *words, *errors;  // (2, blocks, kComputeThreads)
  int epochs;
  bool skip_wait;
};

__global__ void __launch_bounds__(kBlockThreads, 1) handoff_kernel(const __grid_constant__ HandoffParams p) {
  if (threadIdx.x < kComputeThreads) {
    unsigned arrivals = 0;
    const unsigned count = gridDim.x * kComputeThreads;
    for (int e = 0; e < p.epochs; ++e) {
      // Two sets of words: whoever writes a set again is behind the hand-off that followed its last reading.
      unsigned* set = p.words + (e % 2) * count;
      const unsigned mark = static_cast<unsigned>(e + 1) * 0x9e3779b9u;
      set[blockIdx.x * kComputeThreads + threadIdx.x] = mark ^ (blockIdx.x * kComputeThreads + threadIdx.x);
      arrive_grid<kComputeBarrier, kComputeThreads>(p.counters, arrivals);
      if (!p.skip_wait) wait_grid<kComputeBarrier, kComputeThreads>(p.counters, arrivals);
      unsigned wrong = 0;
      for (unsigned i = threadIdx.x; i < count; i += kComputeThreads) wrong += __ldcg(set + i) != (mark ^ i);
      if (wrong != 0) atomicAdd(p.errors, wrong);
    }
  }
  __syncthreads();  // no warp polls any more
  if (threadIdx.x == 0) leave_grid(p.counters);
}

template <typename Params>
void launch_cooperative(const Launch& on, void (*kernel)(Params), std::size_t shared, const Params& params) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(on.multiprocessors));
  config.blockDim = dim3(kBlockThreads);
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  FATHOM_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  FATHOM_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace

std::size_t persistent_shared_bytes(const PersistentParams& p) {
  return static_cast<std::size_t>(kSharedBytes + p.activation_bytes + p.ring_bytes) + table_bytes(p);
}

int most_ring_bytes(const PersistentParams& p, int shared_per_block) {
  const int fixed = kSharedBytes + p.activation_bytes + static_cast<int>(table_bytes(p));
  return (shared_per_block - fixed) / 128 * 128;
}

void run_persistent(const Launch& on, const PersistentParams& p) {
  launch_cooperative(on, p.code == Code::bf16 ? persistent_kernel<Code::bf16> : persistent_kernel<Code::e4m3>,
                     persistent_shared_bytes(p), p);
}

std::size_t grid_counters_bytes() { return sizeof(GridCounters); }

void run_handoffs(const Launch& on, GridCounters* counters, unsigned* words, unsigned* errors, int epochs,
                  bool skip_wait) {
  launch_cooperative(on, handoff_kernel, 0, HandoffParams{counters, words, errors, epochs, skip_wait});
}

}  // namespace fathom::cuda
