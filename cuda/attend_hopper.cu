// Split-KV attention over a BF16 latent cache on Hopper: keys by the copy engine, products by wgmma.
//
//   A key is 512 + 64 BF16 values, 1,152 bytes, shared by all heads. Floor at 3.08 TB/s: 4k / 32k / 128k keys
//   1.5 / 12.2 / 49 us; measured, 16 heads, 4.7 / 17.8 / 54.6. 128 heads: 36.5 GFLOP at 128k, 40 us of tensor
//   cores; measured 11.5 / 33.7 / 80.0.
//
// A block takes one row, N heads (16, 32 or 64) and one split of the row's keys, in tiles of 64 keys. Both
// products are transposed, so that the heads of a small model fill the instruction's N, not its fixed M of
// 64:
//
//   S^T (64 keys, N heads)    = K (64, 576)    Q^T (576, N)     K as stored, M along the keys
//   O^T (512 latent, N heads) += V^T (512, 64) P^T (64, N)      the same tile, M along the latent columns
//
// One warp loads; G warpgroups work. A round is G tiles: warpgroup g scores tile g of the round, then adds
// both tiles to its 512 / G latent columns. Softmax is relative to a reference that starts as the maximum
// over the first 16 keys and is raised only when a score exceeds it by 2^kSlack, so that a round usually
// exchanges one bit and no maxima: probabilities are BF16 and sums FP32, whose relative precision does not
// depend on the reference.
//
//   shared memory   keys [2 stages][9 boxes][64 keys][64 columns]   q [9 boxes][N heads][64 columns]
//                   A tile's last box (rope columns) is dead once scored and then holds P [N heads][64 keys].
//                   At the end the keys' space holds O [N heads][512 + 4]: 4: no bank conflicts.
#include <cfloat>

#include "cuda/hopper.cuh"

namespace fathom::cuda {
namespace {

constexpr int kTile = 64;  // keys
constexpr int kLatent = 512, kRow = 576;
constexpr int kBoxes = kRow / 64;       // of 64 columns
constexpr int kBoxBytes = kTile * 128;  // of a key tile
constexpr int kTileBytes = kBoxes * kBoxBytes;
constexpr int kStages = 2;
constexpr int kPieces = 3;  // of a tile that arrive one by one
constexpr int kOutRow = kLatent + 4;

struct HopperParams {
  AttendParams p;
  CUtensorMap keys;  // boxes of (kTile, 64)
};

template <int N, int G>
struct Layout {
  // Two warpgroups need more registers than a block's share: the loading warp is then a warpgroup that gives
  // its own.
  static constexpr int kWorkers = 128 * G, kThreads = kWorkers + (G == 1 ? 32 : 128);
  static constexpr int kQ = kStages * kTileBytes;
  static constexpr int kExchange = kQ + kBoxes * N * 128;      // float [4 G][N]
  static constexpr int kBarriers = kExchange + 4 * G * N * 4;  // full [stage][piece], empty [stage]
  static constexpr int kBytes = kBarriers + kStages * (kPieces + 1) * 8;
  static_assert(N * kOutRow * 4 <= kStages * kTileBytes);
};

#ifdef FATHOM_HOPPER

constexpr float kSlack = 16;  // a score may exceed the reference by this power of 2
constexpr float kLog2e = 1.4426950408889634f;
constexpr int kWorkerBarrier = 1;  // of the hardware barriers; 0 is __syncthreads

template <int kThreads>
__device__ __forceinline__ void sync_workers() {
  asm volatile("barrier.cta.sync %0, %1;" ::"n"(kWorkerBarrier), "n"(kThreads) : "memory");
}
// The same; true for all if `value` is for any.
template <int kThreads>
__device__ __forceinline__ bool any_worker(bool value) {
  int any;
  asm volatile(
      "{\n.reg .pred mine, all;\n"
      "setp.ne.s32 mine, %1, 0;\n"
      "barrier.cta.red.or.pred all, %2, %3, mine;\n"
      "selp.s32 %0, 1, 0, all;\n}\n"
      : "=r"(any)
      : "r"(static_cast<int>(value)), "n"(kWorkerBarrier), "n"(kThreads)
      : "memory");
  return __shfl_sync(~0u, any, 0) != 0;
}
// What this thread wrote to shared memory becomes visible to wgmma and to the copy engine, behind a barrier.
__device__ __forceinline__ void publish_to_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// `bytes` (a multiple of 16) from shared to global memory, in this thread's current group.
__device__ __forceinline__ void store_bulk(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
// Until shared memory may go away; the end of the kernel makes the stores visible.
__device__ __forceinline__ void finish_bulk_stores() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Asks for `bytes` (a multiple of 16) of global memory to be brought into L2.
__device__ __forceinline__ void prefetch_bulk(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
// Four 8 x 8 matrices, each stored transposed: lane l names where row l % 8 of what is stored as matrix l / 8
// goes.
__device__ __forceinline__ void stmatrix_transposed(std::uint32_t to, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
// 2^x, 2 units in the last place; 0 below 2^-126.
__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&v);
}

// d (64, N) = (add ? d : 0) + A B of 16 terms. kByColumns: A's rows run along the columns of its box. The
// registers: d[4 j + 2 h + e] of lane l of warp w is row 16 w + l / 4 + 8 h, column 8 j + l % 4 * 2 + e.
template <bool kByColumns>
__device__ __forceinline__ void product(float (&d)[8], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, "
      "1, %11, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kByColumns ? 1 : 0));
}
template <bool kByColumns>
__device__ __forceinline__ void product(float (&d)[16], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
      "%11, %12, %13, %14, %15}, %16, %17, p, 1, 1, %19, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kByColumns ? 1 : 0));
}
template <bool kByColumns>
__device__ __forceinline__ void product(float (&d)[32], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
      "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
      "%31}, %32, %33, p, 1, 1, %35, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kByColumns ? 1 : 0));
}
// The operand `bytes` further on in shared memory.
__device__ __forceinline__ std::uint64_t advance(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<std::uint64_t>(bytes >> 4);
}

// What the threads of a block share.
struct Block {
  unsigned char *keys, *q;
  float* exchange;
  std::uint32_t barriers;
  int begin, end;  // keys of this split
  int tiles;
  __device__ std::uint32_t full(int stage, int piece) const {
    return barriers + static_cast<std::uint32_t>(stage * kPieces + piece) * 8;
  }
  __device__ std::uint32_t empty(int stage) const {
    return barriers + static_cast<std::uint32_t>(kStages * kPieces + stage) * 8;
  }
  __device__ unsigned char* tile(int stage) const { return keys + stage * kTileBytes; }
};

// One thread: tile after tile into the stage that comes free. Only tiles that hold keys of this call's rows
// wait for the kernel that writes them.
__device__ __forceinline__ void load_tiles(const Block& b, const HopperParams& h, int first_row,
                                           int oldest_new) {
  bool waited = false;
  for (int tile = 0; tile < b.tiles; ++tile) {
    const int stage = tile % kStages, first = b.begin + tile * kTile;
    if (tile >= kStages) wait_barrier(b.empty(stage), static_cast<unsigned>(tile / kStages - 1) & 1u);
    if (!waited && min(first + kTile, b.end) > oldest_new) {
      wait_for_previous();
      waited = true;
    }
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      arrive_and_expect(b.full(stage, piece), kTileBytes / kPieces);
#pragma unroll
      for (int i = 0; i < kBoxes / kPieces; ++i) {
        const int box = piece * (kBoxes / kPieces) + i;
        copy_box(shared_address(b.tile(stage) + box * kBoxBytes), &h.keys, b.full(stage, piece), box * 64,
                 first_row + first);
      }
    }
  }
}

// Brings this block's share of W_UV into L2: the next kernel's weights. It can't fetch them itself while this
// one holds the multiprocessors.
__device__ __forceinline__ void prefetch_value_weights(const AttendParams& p, int block, int blocks) {
  const int row_bytes = p.kv_b.row_bytes;
  for (int head = block; head < p.shape.heads; head += blocks)
    prefetch_bulk(
        p.kv_b.codes +
            (static_cast<std::int64_t>(head) * (p.shape.nope + p.shape.v) + p.shape.nope) * row_bytes,
        p.shape.v * row_bytes);
}

// q' of the block's heads into its boxes; heads that do not exist are zero.
template <int N, int kThreads>
__device__ __forceinline__ void load_q(const Block& b, const __nv_bfloat16* q, int heads) {
  constexpr int kUnits = kRow / 8;
  static_assert(N * kUnits % kThreads == 0);
#pragma unroll
  for (int i = 0; i < N * kUnits / kThreads; ++i) {
    const int item = static_cast<int>(threadIdx.x) + i * kThreads, head = item / kUnits, unit = item % kUnits;
    copy_async(b.q + unit / 8 * (N * 128) + head * 128 + ((unit % 8) ^ (head % 8)) * 16,
               q + (head < heads ? head * kRow + unit * 8 : 0), head < heads);
  }
  commit_copies();
  wait_for_copies<0>();
  publish_to_async();
}

// Keys beyond the row's own position are masked, but 0 times what lies there is 0 only where that is finite.
// By one warpgroup.
__device__ __forceinline__ void clear_keys(unsigned char* tile, int from) {
  const int units = (kTile - from) * (kLatent / 8);
#pragma unroll 1
  for (int i = threadIdx.x % 128; i < units; i += 128) {
    const int row = from + i / (kLatent / 8), unit = i % (kLatent / 8);
    *reinterpret_cast<uint4*>(tile + unit / 8 * kBoxBytes + row * 128 + unit % 8 * 16) =
        make_uint4(0, 0, 0, 0);
  }
  publish_to_async();
}

// The largest of a warp's scores of each head: to (8 kPairs) floats in the order of the heads.
template <int kPairs>
__device__ __forceinline__ void write_maxima(const float (&z)[4 * kPairs], float* to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    float m[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      m[e] = fmaxf(z[4 * j + e], z[4 * j + 2 + e]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) m[e] = fmaxf(m[e], __shfl_xor_sync(~0u, m[e], offset));
    }
    if (lane < 4) *reinterpret_cast<float2*>(to + 8 * j + lane * 2) = make_float2(m[0], m[1]);
  }
}

template <int N, int G>
__device__ __forceinline__ void work(const Block& b, const AttendParams& p, int group, std::int64_t slot) {
  constexpr int kWorkers = Layout<N, G>::kWorkers;
  constexpr int kRegisters = N / 2;                       // of a 64 x N product
  constexpr int kChains = N == 16 ? 4 : N == 32 ? 2 : 1;  // short products wait for their own sums otherwise
  constexpr int kParts = kLatent / 64 / G;                // 64-row parts of O^T of a warpgroup
  constexpr int kPairs = N / 8;                           // pairs of neighbouring heads that a thread has
  const int lane = threadIdx.x % 32, warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0),
            g = warp / 4;
  const float scale = p.shape.scale * kLog2e;

  float out[kParts][kRegisters] = {};
  // Of heads 8 j + lane % 4 * 2 + e: the reference, in units of log 2, the same in every thread that has the
  // head, and the sum over this thread's keys.
  float reference[kPairs][2], sum[kPairs][2] = {};
#pragma unroll
  for (int j = 0; j < kPairs; ++j) reference[j][0] = reference[j][1] = -INFINITY;
  const std::uint64_t q = rows_descriptor(shared_address(b.q));

  for (int round = 0; round * G < b.tiles; ++round) {
    const int tile = round * G + g, stage = tile % kStages;
    const unsigned parity = static_cast<unsigned>(tile / kStages) & 1u;
    const bool mine = tile < b.tiles;
    const int valid = min(b.end - (b.begin + tile * kTile), kTile);  // keys; <= 0 without a tile
    float score[kChains][kRegisters];
    if (mine) {
      const std::uint64_t k = rows_descriptor(shared_address(b.tile(stage)));
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        wait_barrier(b.full(stage, piece), parity);
        if (piece == 0) begin_products();
#pragma unroll
        for (int i = 0; i < kBoxes / kPieces * 4; ++i) {
          const int step = piece * (kBoxes / kPieces * 4) + i, box = step / 4, in_box = step % 4 * 32;
          product<false>(score[step % kChains], advance(k, box * kBoxBytes + in_box),
                         advance(q, box * N * 128 + in_box), step >= kChains);
        }
      }
      commit_products();
      wait_for_products<0>();
#pragma unroll
      for (int c = 0; c < kChains; ++c) pin(score[c]);
    }
    // Scores in units of log 2; -inf beyond the end.
    float z[kRegisters];
    bool broken = false;
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      float s = score[0][i];
#pragma unroll
      for (int c = 1; c < kChains; ++c) s = __fadd_rn(s, score[c][i]);
      const bool inside = warp % 4 * 16 + lane / 4 + i % 4 / 2 * 8 < valid;  // never without a tile
      broken |= mine && !inside && !(fabsf(s) <= FLT_MAX);
      z[i] = inside ? s * scale : -INFINITY;
    }
    // The first reference is the maximum over the first warp's keys: sixteen are enough to be near.
    if (round == 0) {
      if (warp == 0) write_maxima<kPairs>(z, b.exchange);
      sync_workers<kWorkers>();  // the references are visible
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 m = *reinterpret_cast<const float2*>(b.exchange + 8 * j + lane % 4 * 2);
        reference[j][0] = m.x, reference[j][1] = m.y;
      }
    }
    bool exceeds = false;
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) exceeds |= z[i] > reference[i / 4][i % 2] + kSlack;
    // Behind this barrier all warps have scored: the rope box may be overwritten.
    if (any_worker<kWorkers>(exceeds)) {
      write_maxima<kPairs>(z, b.exchange + warp * N);
      sync_workers<kWorkers>();  // maxima of all warps are visible
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        float m[2] = {reference[j][0], reference[j][1]};
#pragma unroll
        for (int w = 0; w < 4 * G; ++w) {
          const float2 v = *reinterpret_cast<const float2*>(b.exchange + w * N + 8 * j + lane % 4 * 2);
          m[0] = fmaxf(m[0], v.x), m[1] = fmaxf(m[1], v.y);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float correction = power_of_2(reference[j][e] - m[e]);
          reference[j][e] = m[e];
          sum[j][e] *= correction;
#pragma unroll
          for (int i = 0; i < kParts; ++i)
            out[i][4 * j + e] *= correction, out[i][4 * j + 2 + e] *= correction;
        }
      }
    }
    // Only the last tile of all can be cut short.
    const bool clear =
        round * G + G >= b.tiles && (b.end - b.begin) % kTile != 0 && any_worker<kWorkers>(broken);
    if (clear && mine && valid < kTile) clear_keys(b.tile(stage), valid);
    if (mine) {
      const int row = lane % 8 + lane / 16 * 8;  // of the stored matrix: a head
      const std::uint32_t to =
          shared_address(b.tile(stage) + (kBoxes - 1) * kBoxBytes) +
          static_cast<std::uint32_t>(row * 128 + (((warp % 4 * 2 + lane / 8 % 2) ^ (row % 8)) * 16));
      // The sum takes the probabilities as rounded: where few keys weigh much, both errors cancel.
#pragma unroll
      for (int j = 0; j < kPairs; j += 2) {
        std::uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 4 * j + 2 * i;
          r[i] = pack_bf16(power_of_2(z[at] - reference[at / 4][0]),
                           power_of_2(z[at + 1] - reference[at / 4][1]));
          sum[at / 4][0] = __fadd_rn(sum[at / 4][0], __uint_as_float(r[i] << 16));
          sum[at / 4][1] = __fadd_rn(sum[at / 4][1], __uint_as_float(r[i] & 0xffff0000u));
        }
        stmatrix_transposed(to + static_cast<std::uint32_t>(j * 8 * 128), r);
      }
      publish_to_async();
    }
    sync_workers<kWorkers>();  // probabilities of all tiles of the round are visible

#pragma unroll
    for (int u = 0; u < G; ++u) {
      const int other = round * G + u;
      if (other >= b.tiles) break;
      const std::uint32_t at = shared_address(b.tile(other % kStages));
      const std::uint64_t v = rows_descriptor(at + static_cast<std::uint32_t>(g * kParts * kBoxBytes));
      const std::uint64_t probabilities =
          rows_descriptor(at + static_cast<std::uint32_t>((kBoxes - 1) * kBoxBytes));
#pragma unroll
      for (int i = 0; i < kParts; ++i) pin(out[i]);
      begin_products();
#pragma unroll
      for (int step = 0; step < kTile / 16; ++step)
#pragma unroll
        for (int i = 0; i < kParts; ++i)
          product<true>(out[i], advance(v, i * kBoxBytes + step * 16 * 128),
                        advance(probabilities, step * 32), true);
      commit_products();
      wait_for_products<0>();
#pragma unroll
      for (int i = 0; i < kParts; ++i) pin(out[i]);
      if (lane == 0) arrive(b.empty(other % kStages));
    }
  }

  // Sums over lanes with the same heads, then over warps in order.
#pragma unroll
  for (int j = 0; j < kPairs; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e)
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        sum[j][e] = __fadd_rn(sum[j][e], __shfl_xor_sync(~0u, sum[j][e], offset));
  sync_workers<kWorkers>();  // every warp has read the maxima and every product the keys
  if (lane < 4)
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      *reinterpret_cast<float2*>(b.exchange + warp * N + 8 * j + lane * 2) =
          make_float2(sum[j][0], sum[j][1]);
  float* staged = reinterpret_cast<float*>(b.keys);
#pragma unroll
  for (int i = 0; i < kParts; ++i)
#pragma unroll
    for (int r = 0; r < kRegisters; ++r)
      staged[(r / 4 * 8 + lane % 4 * 2 + r % 2) * kOutRow + (g * kParts + i) * 64 + warp % 4 * 16 + lane / 4 +
             r % 4 / 2 * 8] = out[i][r];
  publish_to_async();
  sync_workers<kWorkers>();  // O^T and the warps' sums are visible
  const int heads = p.shape.heads;
  if (static_cast<int>(threadIdx.x) < min(N, heads - group * N)) {
    const std::int64_t at = slot * heads + group * N + threadIdx.x;
    store_bulk(p.partial_out + at * kLatent, staged + static_cast<int>(threadIdx.x) * kOutRow, kLatent * 4);
    float total = 0;
#pragma unroll
    for (int w = 0; w < 4 * G; ++w) total = __fadd_rn(total, b.exchange[w * N + threadIdx.x]);
    p.partial_sum[at * 2 + 1] = total;
    finish_bulk_stores();
  }
  // The first warp's lanes 0 .. 3 know all heads' references.
  if (warp == 0 && lane < 4)
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (const int head = group * N + 8 * j + lane * 2 + e; head < heads)
          p.partial_sum[(slot * heads + head) * 2] = reference[j][e];
}

#endif  // FATHOM_HOPPER

template <int N, int G>
__global__ void __launch_bounds__(Layout<N, G>::kThreads, 1)
    attend_hopper_kernel(const __grid_constant__ HopperParams h) {
#ifdef FATHOM_HOPPER
  using L = Layout<N, G>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const AttendParams& p = h.p;
  Block b;
  b.keys = memory;
  b.q = memory + L::kQ;
  b.exchange = reinterpret_cast<float*>(memory + L::kExchange);
  b.barriers = shared_address(memory + L::kBarriers);
  let_next_start();

  const int split = blockIdx.x, group = blockIdx.y, t = blockIdx.z;
  // Positions are uploaded before the step's first kernel; cached keys older than this call's rows too.
  const int position = p.position[t];
  const int keys = keys_of_split(position, p.max_splits, p.keys_per_round);
  b.begin = split * keys;
  b.end = min(b.begin + keys, position + 1);
  b.tiles = (b.end - b.begin + kTile - 1) / kTile;
  if (b.begin >= b.end) {
    wait_for_previous();  // completion of this kernel must imply its predecessor's
    return;
  }
  if (threadIdx.x == L::kWorkers) prefetch_map(&h.keys);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      for (int piece = 0; piece < kPieces; ++piece) init_barrier(b.full(s, piece), 1);
      init_barrier(b.empty(s), 4 * G);
    }
    fence_barrier_init();
  }
  __syncthreads();  // barriers are initialised
  if (threadIdx.x >= L::kWorkers) {
    if constexpr (G > 1) give_registers<24>();
    if (threadIdx.x == L::kWorkers)
      load_tiles(b, h, static_cast<int>(p.timeline[t] * p.capacity), first_unwritten(p, position));
    // One block per 64 heads and split is busy for long; blocks of fewer heads leave room for the next
    // kernel's.
    if (G > 1 && t == 0 && threadIdx.x == L::kWorkers)
      prefetch_value_weights(p, split * static_cast<int>(gridDim.y) + group,
                             (position / keys + 1) * static_cast<int>(gridDim.y));
  } else {
    if constexpr (G > 1) take_registers<240>();
    const std::int64_t slot = static_cast<std::int64_t>(t) * p.max_splits + split;
    const auto* q = static_cast<const __nv_bfloat16*>(p.q_absorbed) +
                    (static_cast<std::int64_t>(t) * p.shape.heads + group * N) * kRow;
    if (threadIdx.x == 0) {
      warm(q);
      warm(p.partial_out + (slot * p.shape.heads + group * N) * kLatent);
      warm(p.partial_sum + (slot * p.shape.heads + group * N) * 2);
    }
    wait_for_previous();
    load_q<N, L::kWorkers>(b, q, p.shape.heads - group * N);
    sync_workers<L::kWorkers>();  // q is visible
    work<N, G>(b, p, group, slot);
  }
#else
  (void)h;
#endif
}

template <int N, int G>
void launch(const Launch& on, const HopperParams& h) {
  const dim3 grid(h.p.max_splits, (h.p.shape.heads + N - 1) / N, h.p.rows);
  launch_kernel(on, attend_hopper_kernel<N, G>, grid, Layout<N, G>::kThreads, Layout<N, G>::kBytes, h);
}

}  // namespace

bool hopper_attends(const AttendParams& p) {
  return !p.cache_f32 && p.shape.latent == kLatent && p.shape.row == kRow;
}

void attend_hopper(const Launch& on, const AttendParams& p) {
  HopperParams h;
  h.p = p;
  h.keys = make_tensor_map({.data = p.cache,
                            .type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                            .columns = kRow,
                            .rows = static_cast<std::uint64_t>(p.cache_rows),
                            .row_bytes = kRow * 2,
                            .box_columns = 64,
                            .box_rows = kTile});
  if (p.shape.heads <= 16)
    launch<16, 1>(on, h);
  else if (p.shape.heads <= 32)
    launch<32, 1>(on, h);
  else
    launch<64, 2>(on, h);
}

}  // namespace fathom::cuda
