// Expanded multi-head latent attention of prompt rows, for Hopper.
//
//   FLOPs per row, key and head: 2 (192 + 128), against 2 (576 + 512) of the absorbed form. 8k rows, 128
//   heads: 2.75 TFLOP, 3.4 ms at the 800 TFLOP/s that cuBLAS reaches. Expanding a key: 2 * 512 * 256 a head,
//   as much as 410 rows of attention.
//
// Per group of heads: kv_b's codes become BF16 tiles (exact); expand_kernel multiplies the cached latents by
// them (FP32 sums, block scales applied every 128 columns) and writes keys and values as F16; pack_kernel
// does so with q; attend_kernel is attention over tiles of 128 keys with FP32 online softmax. All tiles lie
// in global memory in the order in which the tensor cores want them in shared memory, so one bulk copy
// fetches a tile:
//
//   block = [rows][64 columns]: rows of 128 bytes, 16-byte chunk c of row r at c ^ (r % 8)
//   expanded  [head][key tile] k, k, v, v blocks of 128 rows       rope   [key tile] block of 128 rows
//   query     [head][64 rows] nope, nope, rope blocks of 64 rows   kv_b   [head][k or v][8 blocks of 128
//   rows]
//
// Bits: a row's tiles of keys begin at multiples of 128 from position 0 and are taken in ascending order;
// a tile wholly beyond a row changes nothing (p = 0, factor 1). So neither chunks nor neighbours matter.
//
// attend_kernel, persistent, one block per multiprocessor takes (head, 128 rows) in an order that gives long
// rows first and keeps few heads' keys in L2 at a time:
//   warpgroup 0    one thread: bulk copies into 2 stages of keys (48 KB) and of values (32 KB), and q (48 KB)
//   warpgroups 1, 2    64 rows each. S = Q K(t) and O += P V(t - 1) are under way while the other
//                      warpgroup is in softmax: they take turns in issuing products (named barriers)
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/hopper.cuh"
#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kNope = 128, kRope = 64, kValue = 128, kLatent = 512;
constexpr int kKeys = kPromptKeyTile;  // of a tile
constexpr int kRowTile = 128;          // rows of a block, 64 per warpgroup

constexpr std::uint32_t kBlock = 128 * 128;      // bytes of a block of 128 rows
constexpr std::uint32_t kKeyBytes = 3 * kBlock;  // k, k, rope
constexpr std::uint32_t kValueBytes = 2 * kBlock;
constexpr std::uint32_t kQueryBytes = 3 * kBlock / 2;  // of 64 rows
constexpr std::uint32_t kHalfBytes = 8 * kBlock;       // of kv_b: 128 rows by 512 columns

// Byte of the 16-byte chunk `chunk` (0 .. 7) of row `row` in a block.
__host__ __device__ constexpr std::uint32_t chunk_at(int row, int chunk) {
  return static_cast<std::uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

// -- appending ----------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) append_kernel(const __grid_constant__ AppendParams p) {
  __shared__ float scratch[kWarps];
  let_next_start();
  wait_for_previous();
  const int t = blockIdx.x, values = p.latent + p.rope;
  float* row = p.kv_row + static_cast<std::int64_t>(t) * values;
  const float inverse = inverse_rms(row, p.latent, p.eps, scratch);
  auto* out = static_cast<__nv_bfloat16*>(p.cache) +
              (static_cast<std::int64_t>(p.timeline[t]) * p.capacity + p.position[t]) * p.row;
  for (int c = threadIdx.x; c < p.row; c += kThreads) {
    float v = 0;
    if (c < values) {
      v = row[c];
      if (c < p.latent) row[c] = v = __fmul_rn(__fmul_rn(v, inverse), p.norm_weight[c]);
    }
    out[c] = __float2bfloat16_rn(v);
  }
}

// -- the group's operands -----------------------------------------------------------------------------------

struct Group {
  PromptAttendParams p;
  int key_tiles, row_tiles;
  int heads_per_block;  // of expand_kernel
  int query_head;       // of the group's first head in `query`
  int heads_together;   // of attend_prompt_kernel: heads whose rows are taken in turn
};

// Behind the counter: the pieces of work of attend_prompt_kernel, then -1.
__device__ __forceinline__ int4* pieces_of(const Group& g) {
  return reinterpret_cast<int4*>(g.p.counter) + 1;
}

// kv_b's codes of the group's heads as BF16 tiles. A thread makes 16 bytes.
template <Code C>
__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ Group g) {
  let_next_start();
  wait_for_previous();  // the tiles may still be read by the group before
  const int index = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int row = index / (kLatent / 8), chunk = index % (kLatent / 8);  // row of the group's kv_b
  if (row >= g.p.heads * (kNope + kValue)) return;
  const Matrix& w = g.p.kv_b;
  const std::byte* from = w.codes +
                          (static_cast<std::int64_t>(g.p.first_head) * (kNope + kValue) + row) * w.row_bytes +
                          chunk * 8 * code_bytes(C);
  uint4 v;
  if constexpr (C == Code::bf16) {
    v = load_weights(from);
  } else {
    const uint2 codes = *reinterpret_cast<const uint2*>(from);
    const std::uint32_t pairs[4] = {codes.x & 0xffffu, codes.x >> 16, codes.y & 0xffffu, codes.y >> 16};
    std::uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = decode_e4m3x2(pairs[i]);
      const __nv_bfloat162 b = __floats2bfloat162_rn(two.x, two.y);
      packed[i] = *reinterpret_cast<const std::uint32_t*>(&b);
    }
    v = make_uint4(packed[0], packed[1], packed[2], packed[3]);
  }
  std::byte* to = g.p.decoded + static_cast<std::int64_t>(row / 128) * kHalfBytes + chunk / 8 * kBlock;
  *reinterpret_cast<uint4*>(to + chunk_at(row % 128, chunk % 8)) = v;
}

// The group's q as F16 tiles, unless the product has made them; rows beyond the last are zero. A thread makes
// 16 bytes.
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ Group g) {
  constexpr int kChunks = (kNope + kRope) / 8;
  let_next_start();
  wait_for_previous();
  const int index = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int pieces = g.p.heads * g.row_tiles;
  if (index == 0) *g.p.counter = 0;
  if (index <= pieces) pieces_of(g)[index] = make_int4(index < pieces ? index : -1, 0, 0, 0);
  const int chunk = index % kChunks, head = index / kChunks % g.p.heads, t = index / kChunks / g.p.heads;
  if (g.p.q == nullptr || t >= g.row_tiles * kRowTile) return;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (t < g.p.rows) {
    const float4* from = reinterpret_cast<const float4*>(
        g.p.q + (static_cast<std::int64_t>(t) * g.p.shape.heads + g.p.first_head + head) * (kNope + kRope) +
        chunk * 8);
    const float4 a = from[0], b = from[1];
    v = make_uint4(pack_f16(a.x, a.y), pack_f16(a.z, a.w), pack_f16(b.x, b.y), pack_f16(b.z, b.w));
  }
  std::byte* to = g.p.query + (static_cast<std::int64_t>(head) * g.row_tiles * 2 + t / 64) * kQueryBytes +
                  chunk / 8 * (kBlock / 2);
  *reinterpret_cast<uint4*>(to + chunk_at(t % 64, chunk % 8)) = v;
}

// -- Hopper -------------------------------------------------------------------------------------------------

#ifdef FATHOM_HOPPER

constexpr float kLog2e = 1.4426950408889634f;
constexpr std::uint32_t kTileBytes = 4 * kBlock;  // k, k, v, v of one head

// `bytes` (a multiple of 16) into shared memory; they complete at `barrier`.
__device__ __forceinline__ void copy_bytes(std::uint32_t to, const std::byte* from, std::uint32_t bytes,
                                           std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ int load_shared(std::uint32_t from) {
  int value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}
// This thread's stores to shared memory become visible to the tensor cores.
__device__ __forceinline__ void fence_shared_stores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_threads(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Descriptor of a B operand whose columns are those of two blocks of 128 rows, K along the rows.
__device__ __forceinline__ std::uint64_t columns_descriptor(std::uint32_t address) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | std::uint64_t{kBlock / 16} << 16 |
         std::uint64_t{1024 / 16} << 32 | std::uint64_t{1} << 62;
}
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#define FATHOM_SUMS_16(s, b)                                                                            \
  "+f"(s[b]), "+f"(s[b + 1]), "+f"(s[b + 2]), "+f"(s[b + 3]), "+f"(s[b + 4]), "+f"(s[b + 5]),           \
      "+f"(s[b + 6]), "+f"(s[b + 7]), "+f"(s[b + 8]), "+f"(s[b + 9]), "+f"(s[b + 10]), "+f"(s[b + 11]), \
      "+f"(s[b + 12]), "+f"(s[b + 13]), "+f"(s[b + 14]), "+f"(s[b + 15])
#define FATHOM_SUMS(s) \
  FATHOM_SUMS_16(s, 0), FATHOM_SUMS_16(s, 16), FATHOM_SUMS_16(s, 32), FATHOM_SUMS_16(s, 48)
#define FATHOM_SUM_NAMES                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
  "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
  "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, " \
  "%58, %59, %60, %61, %62, %63"

// d = (add ? d : 0) + A B^T, 64 x 128 x 16. Register 4 j + 2 h + i of lane l of warp w holds row
// 16 w + 8 h + l / 4, column 8 j + l % 4 * 2 + i.
__device__ __forceinline__ void wgmma_f16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" FATHOM_SUM_NAMES
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : FATHOM_SUMS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// d = (add ? d : 0) + A B, A (64 x 16) in registers, K along B's rows.
__device__ __forceinline__ void wgmma_f16(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b,
                                          bool add) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" FATHOM_SUM_NAMES
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : FATHOM_SUMS(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
#undef FATHOM_SUMS_16
#undef FATHOM_SUMS
#undef FATHOM_SUM_NAMES

// A position in a ring of `stages` stages.
template <int kStages>
struct Ring {
  std::uint32_t stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

#endif  // FATHOM_HOPPER

// -- expansion ----------------------------------------------------------------------------------------------

// A block takes 128 keys, whose latents stay in shared memory (128 KB), and walks over its heads' k and v
// rows of kv_b, 128 rows by 128 columns (32 KB) a stage.
constexpr int kExpandStages = 3;
constexpr int kExpandThreads = 3 * 128;
constexpr std::uint32_t kExpandStageBytes = 2 * kBlock;
constexpr std::size_t kExpandShared = kHalfBytes + kExpandStages * kExpandStageBytes + 1024;

#ifdef FATHOM_HOPPER

struct ExpandShared {
  std::uint32_t latents, stage, full, empty;
};

__device__ __forceinline__ void expand_produce(const Group& g, const ExpandShared& s, int begin, int end) {
  Ring<kExpandStages> at;
  const std::byte* from = g.p.decoded + static_cast<std::int64_t>(begin) * 2 * kHalfBytes;
  for (int i = 0; i < (end - begin) * 2 * 4; ++i) {
    wait_barrier(s.empty + at.stage * 8, at.phase ^ 1);
    arrive_and_expect(s.full + at.stage * 8, kExpandStageBytes);
    copy_bytes(s.stage + at.stage * kExpandStageBytes,
               from + static_cast<std::int64_t>(i) * kExpandStageBytes, kExpandStageBytes,
               s.full + at.stage * 8);
    at.advance();
  }
}

// Gathers the tile's latents, by the 256 threads of the math warpgroups.
__device__ __forceinline__ void gather_latents(const Group& g, std::uint32_t to, int tile, int thread) {
  const auto* cache = static_cast<const __nv_bfloat16*>(g.p.cache);
  const int keys = g.p.first_position + g.p.rows;
#pragma unroll 8
  for (int i = 0; i < kKeys * kLatent / 8 / 256; ++i) {
    const int index = thread + i * 256, row = index / (kLatent / 8), chunk = index % (kLatent / 8);
    const int key = tile * kKeys + row;
    const bool valid = key < keys;
    const __nv_bfloat16* from =
        cache + static_cast<std::int64_t>(valid ? key : 0) * g.p.shape.row + chunk * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     to + static_cast<std::uint32_t>(chunk / 8) * kBlock + chunk_at(row, chunk % 8)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
  }
  commit_copies();
}

// The tile's rotated keys as F16; BF16 values in F16's normal range are exact in it.
__device__ __forceinline__ void convert_rope(const Group& g, int tile, int thread) {
  const auto* cache = static_cast<const __nv_bfloat16*>(g.p.cache);
  const int keys = g.p.first_position + g.p.rows;
  for (int index = thread; index < kKeys * kRope / 8; index += 256) {
    const int row = index / (kRope / 8), chunk = index % (kRope / 8), key = tile * kKeys + row;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (key < keys) {
      float w[8];
      Vec<Code::bf16>::decode(
          *reinterpret_cast<const uint4*>(cache + static_cast<std::int64_t>(key) * g.p.shape.row + kLatent +
                                          chunk * 8),
          w);
      v = make_uint4(pack_f16(w[0], w[1]), pack_f16(w[2], w[3]), pack_f16(w[4], w[5]), pack_f16(w[6], w[7]));
    }
    *reinterpret_cast<uint4*>(g.p.rope + static_cast<std::int64_t>(tile) * kBlock + chunk_at(row, chunk)) = v;
  }
}

// The four lanes of a quad hold words of four pieces each; afterwards v[i] of lane q is lane i's word of
// piece q.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&v)[4]) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool upper = (quad & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      // The lower lane keeps v[i] and wants its partner's; the upper keeps v[i + bit].
      const std::uint32_t sent = upper ? v[i] : v[i + bit];
      const std::uint32_t got = __shfl_xor_sync(~0u, sent, bit);
      if (upper)
        v[i] = got;
      else
        v[i + bit] = got;
    }
  }
}

// Writes a warpgroup's 64 x 128 sums as F16 into two blocks. The four lanes of a quad exchange 8-column
// pieces, so that each writes 16 bytes.
__device__ __forceinline__ void store_expanded(std::byte* to, const float (&sums)[64], int first_row) {
  const int lane = threadIdx.x % 32, quad = lane % 4;
  const int row = first_row + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
      std::uint32_t v[4];  // v[i]: columns quad * 2 of piece j + i; wanted: lane q has piece j + q whole
#pragma unroll
      for (int i = 0; i < 4; ++i)
        v[i] = pack_f16(sums[(j + i) * 4 + half * 2], sums[(j + i) * 4 + half * 2 + 1]);
      transpose_quad(v);
      const int piece = j + quad;
      *reinterpret_cast<uint4*>(to + static_cast<std::uint32_t>(piece / 8) * kBlock +
                                chunk_at(row + half * 8, piece % 8)) = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

__device__ __forceinline__ void expand_math(const Group& g, const ExpandShared& s, int tile, int begin,
                                            int end, bool rope) {
  const int thread = static_cast<int>(threadIdx.x) - 128, warpgroup = thread / 128;
  gather_latents(g, s.latents, tile, thread);
  if (rope) convert_rope(g, tile, thread);
  wait_for_copies<0>();
  fence_shared_stores();
  sync_threads(1, 256);  // latents of both warpgroups' threads are visible

  const int first_row = warpgroup * 64;
  const std::uint64_t a = rows_descriptor(s.latents + static_cast<std::uint32_t>(first_row) * 128);
  const Matrix& w = g.p.kv_b;
  Ring<kExpandStages> at;
  for (int part = begin * 2; part < end * 2; ++part) {  // k of a head, then its v
    const int head = g.p.first_head + part / 2;
    const int grid_row = (head * 2 + part % 2) + w.row_shift / 128;
    float total[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) total[i] = 0;
#pragma unroll
    for (int k = 0; k < kLatent / 128; ++k) {
      float sums[64];
      wait_barrier(s.full + at.stage * 8, at.phase);
      const std::uint64_t b = rows_descriptor(s.stage + at.stage * kExpandStageBytes);
      pin(sums);
      begin_products();
#pragma unroll
      for (int i = 0; i < 8; ++i)
        wgmma_bf16(sums, a + (k * 2 + i / 4) * (kBlock / 16) + i % 4 * 2,
                   b + i / 4 * (kBlock / 16) + i % 4 * 2, i > 0);
      commit_products();
      const float scale = w.scale == nullptr ? 1.0f : __ldg(w.scale + grid_row * w.scale_cols + k);
      wait_for_products<0>();
      pin(sums);
      if (thread % 128 == 0) arrive(s.empty + at.stage * 8);
      at.advance();
#pragma unroll
      for (int i = 0; i < 64; ++i) total[i] = __fmaf_rn(sums[i], scale, total[i]);
    }
    std::byte* to = g.p.expanded + (static_cast<std::int64_t>(part / 2) * g.key_tiles + tile) * kTileBytes +
                    part % 2 * kValueBytes;
    store_expanded(to, total, first_row + thread % 128 / 32 * 16);
  }
}

#endif  // FATHOM_HOPPER

__global__ void __launch_bounds__(kExpandThreads, 1) expand_kernel(const __grid_constant__ Group g) {
#ifdef FATHOM_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ __align__(8) std::uint64_t barriers[2 * kExpandStages];
  ExpandShared s;
  s.latents = (shared_address(memory) + 1023) / 1024 * 1024;
  s.stage = s.latents + kHalfBytes;
  s.full = shared_address(barriers), s.empty = s.full + kExpandStages * 8;
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kExpandStages; ++i) init_barrier(s.full + i * 8, 1), init_barrier(s.empty + i * 8, 2);
    fence_barrier_init();
  }
  __syncthreads();  // the barriers are initialised
  wait_for_previous();
  const int tile = blockIdx.y, begin = static_cast<int>(blockIdx.x) * g.heads_per_block;
  const int end = min(begin + g.heads_per_block, g.p.heads);
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) expand_produce(g, s, begin, end);
  } else {
    take_registers<232>();
    expand_math(g, s, tile, begin, end, blockIdx.x == 0 && g.p.first_head == 0);
  }
#endif
}

// -- attention ----------------------------------------------------------------------------------------------

constexpr int kStages = 2;
constexpr int kAttendThreads = 3 * 128;
constexpr std::size_t kAttendShared = 2 * kQueryBytes + kStages * (kKeyBytes + kValueBytes) + 1024;

#ifdef FATHOM_HOPPER

// Probabilities are kept times 2^15: F16 then holds them down to 2^-29 of the largest with full precision.
constexpr float kHeadroom = 15.0f;
constexpr std::uint32_t kItemBytes = 16;

struct AttendShared {
  std::uint32_t query, keys, values;
  std::uint32_t query_full, query_empty, keys_full, keys_empty, values_full, values_empty;
  std::uint32_t item;
};

// Item `index` of the group's work: which head, which 128 rows.
struct Item {
  int head, tile;
};
__device__ __forceinline__ Item item_at(const Group& g, int index) {
  const int per_set = g.heads_together * g.row_tiles;
  const int set = index / per_set, within = index - set * per_set;
  const int heads = min(g.heads_together, g.p.heads - set * g.heads_together);
  return {set * g.heads_together + within % heads, g.row_tiles - 1 - within / heads};
}
// Tiles of keys that rows up to `row` of the call read.
__device__ __forceinline__ int tiles_up_to(const Group& g, int row) {
  return (g.p.first_position + min(row, g.p.rows - 1)) / kKeys + 1;
}

__device__ __forceinline__ void attend_produce(const Group& g, const AttendShared& s) {
  Ring<kStages> at;
  std::uint32_t query_phase = 0;
  const int items = g.p.heads * g.row_tiles;
  for (;;) {
    const int index = atomicAdd(g.p.counter, 1);
    const bool more = index < items;
    const Item item = item_at(g, more ? index : 0);
    const std::byte* head = g.p.expanded + static_cast<std::int64_t>(item.head) * g.key_tiles * kTileBytes;
    const int tiles = more ? tiles_up_to(g, item.tile * kRowTile + kRowTile - 1) : 0;
    const auto load_keys = [&](int tile) {
      wait_barrier(s.keys_empty + at.stage * 8, at.phase ^ 1);
      const std::uint32_t full = s.keys_full + at.stage * 8, to = s.keys + at.stage * kKeyBytes;
      arrive_and_expect(full, kKeyBytes);
      copy_bytes(to, head + static_cast<std::int64_t>(tile) * kTileBytes, 2 * kBlock, full);
      copy_bytes(to + 2 * kBlock, g.p.rope + static_cast<std::int64_t>(tile) * kBlock, kBlock, full);
    };
    if (more) load_keys(0);
    wait_barrier(s.query_empty, query_phase ^ 1);
    query_phase ^= 1;
    // Copied rather than stored, like all else that the math warpgroups read.
    arrive_and_expect(s.query_full, kItemBytes + (more ? 2 * kQueryBytes : 0));
    copy_bytes(s.item, reinterpret_cast<const std::byte*>(pieces_of(g) + min(index, items)), kItemBytes,
               s.query_full);
    if (!more) return;
    copy_bytes(s.query,
               g.p.query + (static_cast<std::int64_t>(g.query_head + item.head) * g.row_tiles + item.tile) *
                               2 * kQueryBytes,
               2 * kQueryBytes, s.query_full);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile > 0) load_keys(tile);
      wait_barrier(s.values_empty + at.stage * 8, at.phase ^ 1);
      const std::uint32_t full = s.values_full + at.stage * 8;
      arrive_and_expect(full, kValueBytes);
      copy_bytes(s.values + at.stage * kValueBytes,
                 head + static_cast<std::int64_t>(tile) * kTileBytes + kValueBytes, kValueBytes, full);
      at.advance();
    }
  }
}

// A warpgroup's 64 rows: thread's rows lane / 4 and lane / 4 + 8 of its warp's 16.
struct Softmax {
  float maximum[2], sum[2];  // of raw scores; of this lane's columns
};

// Scores to probabilities (times 2^kHeadroom); returns what earlier sums must be multiplied by.
template <bool kMasked>
__device__ __forceinline__ void softmax_tile(float (&s)[64], Softmax& state, float scale, int limit,
                                             float (&factor)[2]) {
  // limit: largest allowed column of the thread's first row, relative to its own first column; the second
  // row's is 8 more.
  if constexpr (kMasked) {
#pragma unroll
    for (int j = 0; j < 16; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (j * 8 + i % 2 > limit + i / 2 * 8) s[j * 4 + i] = -INFINITY;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = fmaxf(s[r * 2], s[r * 2 + 1]);
#pragma unroll
    for (int j = 1; j < 16; ++j) most = fmaxf(most, fmaxf(s[j * 4 + r * 2], s[j * 4 + r * 2 + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    most = fmaxf(most, state.maximum[r]);
    factor[r] = exp2_fast((state.maximum[r] - most) * scale);
    state.maximum[r] = most;
    const float offset = kHeadroom - most * scale;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 16; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[j * 4 + r * 2 + i];
        x = exp2_fast(__fmaf_rn(x, scale, offset));
        sum += x;
      }
    state.sum[r] = __fmaf_rn(state.sum[r], factor[r], sum);
  }
}

__device__ __forceinline__ void pack_probabilities(std::uint32_t (&p)[8][4], const float (&s)[64]) {
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 h = __floats2half2_rn(s[k * 8 + i * 2], s[k * 8 + i * 2 + 1]);
      p[k][i] = *reinterpret_cast<const std::uint32_t*>(&h);
    }
}

__device__ __forceinline__ void score_products(float (&s)[64], std::uint64_t q, std::uint64_t k) {
  begin_products();
#pragma unroll
  for (int i = 0; i < 12; ++i)
    wgmma_f16(s, q + i / 4 * (kBlock / 2 / 16) + i % 4 * 2, k + i / 4 * (kBlock / 16) + i % 4 * 2, i > 0);
  commit_products();
}
__device__ __forceinline__ void value_products(float (&o)[64], const std::uint32_t (&p)[8][4],
                                               std::uint64_t v, bool add) {
  begin_products();
#pragma unroll
  for (int k = 0; k < 8; ++k) wgmma_f16(o, p[k], v + k * (16 * 128 / 16), add || k > 0);
  commit_products();
}

// A row's 128 values of a head, 32 in each lane of a quad (columns 8 j + quad * 2 + i), as e4m3 codes: lane q
// writes columns [32 q, 32 q + 32).
__device__ __forceinline__ void store_codes(std::uint8_t* to, const float (&v)[32], float scale, bool valid) {
  const int quad = threadIdx.x % 4;
  const float reciprocal = __frcp_rn(scale);
  std::uint32_t word[2][4];  // [w][b]: columns of j = 4 b + 2 w and the next one
#pragma unroll
  for (int w = 0; w < 2; ++w) {
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float* x = v + (4 * b + 2 * w) * 2;
      word[w][b] = pack_e4m3(divide(x[0], scale, reciprocal), divide(x[1], scale, reciprocal)) |
                   pack_e4m3(divide(x[2], scale, reciprocal), divide(x[3], scale, reciprocal)) << 16;
    }
    transpose_quad(word[w]);
    // Lane i's two columns of j = 4 quad + 2 w, then of the next j.
    if (!valid) continue;
    *reinterpret_cast<uint4*>(to + quad * 32 + w * 16) =
        make_uint4(__byte_perm(word[w][0], word[w][1], 0x5410), __byte_perm(word[w][2], word[w][3], 0x5410),
                   __byte_perm(word[w][0], word[w][1], 0x7632), __byte_perm(word[w][2], word[w][3], 0x7632));
  }
}
__device__ __forceinline__ void store_bf16(__nv_bfloat16* to, const float (&v)[32], bool valid) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < 16; j += 4) {
    std::uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = pack_bf16(v[(j + i) * 2], v[(j + i) * 2 + 1]);
    transpose_quad(word);
    if (valid)
      *reinterpret_cast<uint4*>(to + (j + quad) * 8) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// Rows of a warpgroup: sums over the row's probabilities, as attn or as o_proj's operand.
__device__ __forceinline__ void store_rows(const Group& g, const Softmax& state, const float (&o)[64],
                                           int head, int first_row) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = __fdividef(1.0f, sum);
    const int row = first_row + r * 8;
    float v[32], most = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      v[i] = o[i / 2 * 4 + r * 2 + i % 2] * inverse;
      most = fmaxf(most, fabsf(v[i]));
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const std::int64_t block = static_cast<std::int64_t>(row) * g.p.shape.heads + g.p.first_head + head;
    const bool valid = row < g.p.rows;
    if (g.p.codes != nullptr) {
      const float scale = activation_scale(most, g.p.ue8m0);
      if (valid && lane % 4 == 0) g.p.scale[(g.p.first_head + head) * g.p.scale_stride + row] = scale;
      store_codes(g.p.codes + block * kValue, v, scale, valid);
    } else if (g.p.rounded != nullptr) {
      store_bf16(g.p.rounded + block * kValue, v, valid);
    } else if (valid) {
      float* to = g.p.attn + block * kValue + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < 16; ++j)
        *reinterpret_cast<float2*>(to + j * 8) = make_float2(v[2 * j], v[2 * j + 1]);
    }
  }
}

__device__ __forceinline__ void attend_math(const Group& g, const AttendShared& shared) {
  const int thread = static_cast<int>(threadIdx.x) - 128, warpgroup = thread / 128, lane = thread % 32;
  const int warp_row =
      warpgroup * 64 + thread % 128 / 32 * 16 + lane / 4;  // first row of this thread in the tile
  const bool leader = thread % 128 == 0;
  const int my_turn = 2 + warpgroup, other_turn = 3 - warpgroup;
  const float scale = g.p.shape.scale * kLog2e;
  const std::uint64_t query =
      rows_descriptor(shared.query + static_cast<std::uint32_t>(warpgroup) * kQueryBytes);
  const std::uint64_t keys = rows_descriptor(shared.keys), values = columns_descriptor(shared.values);
  Ring<kStages> k_at, v_at;
  std::uint32_t query_phase = 0;
  if (warpgroup == 1) arrive_threads(other_turn, 256);  // warpgroup 0 begins

  for (;;) {
    wait_barrier(shared.query_full, query_phase);
    query_phase ^= 1;
    // By the lane whose arrival at query_empty lets the next item take its place.
    const int index = __shfl_sync(~0u, lane == 0 ? load_shared(shared.item) : 0, 0);
    if (index < 0) break;
    const Item item = item_at(g, index);
    const int first = item.tile * kRowTile, mine = first + warpgroup * 64;
    const int tiles = tiles_up_to(g, first + kRowTile - 1);
    const int my_tiles = mine < g.p.rows ? tiles_up_to(g, mine + 63) : 0;
    // Tiles below this one need no mask: all their keys lie at or before the warpgroup's first row.
    const int whole = (g.p.first_position + mine + 1) / kKeys;
    const int position = g.p.first_position + first + warp_row;

    float s[64], o[64], factor[2];
    std::uint32_t p[8][4];
    Softmax state{{-INFINITY, -INFINITY}, {0, 0}};
    const auto softmax = [&](int tile) {
      const int limit = position - tile * kKeys - lane % 4 * 2;
      if (tile < whole)
        softmax_tile<false>(s, state, scale, limit, factor);
      else
        softmax_tile<true>(s, state, scale, limit, factor);
    };
    if (my_tiles > 0) {
      wait_barrier(shared.keys_full + k_at.stage * 8, k_at.phase);
      sync_threads(my_turn, 256);
      score_products(s, query, keys + k_at.stage * (kKeyBytes / 16));
      arrive_threads(other_turn, 256);
      wait_for_products<0>();
      pin(s);
      if (leader) arrive(shared.keys_empty + k_at.stage * 8);
      k_at.advance();
      softmax(0);
      pack_probabilities(p, s);
#pragma unroll 1
      for (int tile = 1; tile < my_tiles; ++tile) {
        wait_barrier(shared.keys_full + k_at.stage * 8, k_at.phase);
        sync_threads(my_turn, 256);
        score_products(s, query, keys + k_at.stage * (kKeyBytes / 16));
        wait_barrier(shared.values_full + v_at.stage * 8, v_at.phase);
        value_products(o, p, values + v_at.stage * (kValueBytes / 16), tile > 1);
        arrive_threads(other_turn, 256);
        wait_for_products<1>();
        pin(s);
        if (leader) arrive(shared.keys_empty + k_at.stage * 8);
        k_at.advance();
        softmax(tile);
        wait_for_products<0>();
        pin(o);
        if (leader) arrive(shared.values_empty + v_at.stage * 8);
        v_at.advance();
        // Multiplying by 1 would change no bit.
        if (__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
          for (int i = 0; i < 64; ++i) o[i] *= factor[i / 2 % 2];
        }
        pack_probabilities(p, s);
      }
      if (lane == 0) arrive(shared.query_empty);  // every warp: it has read the item, too
      wait_barrier(shared.values_full + v_at.stage * 8, v_at.phase);
      value_products(o, p, values + v_at.stage * (kValueBytes / 16), my_tiles > 1);
      wait_for_products<0>();
      pin(o);
      if (leader) arrive(shared.values_empty + v_at.stage * 8);
      v_at.advance();
    } else if (lane == 0) {
      arrive(shared.query_empty);
    }
    // Tiles beyond every row of this warpgroup: pass on the turn and the stages.
    for (int tile = my_tiles; tile < tiles; ++tile) {
      wait_barrier(shared.keys_full + k_at.stage * 8, k_at.phase);
      sync_threads(my_turn, 256);
      arrive_threads(other_turn, 256);
      if (leader) arrive(shared.keys_empty + k_at.stage * 8);
      k_at.advance();
      wait_barrier(shared.values_full + v_at.stage * 8, v_at.phase);
      if (leader) arrive(shared.values_empty + v_at.stage * 8);
      v_at.advance();
    }
    if (my_tiles > 0) store_rows(g, state, o, item.head, first + warp_row);
  }
  if (warpgroup == 0) sync_threads(my_turn, 256);  // takes the turn that was passed on last
}

#endif  // FATHOM_HOPPER

__global__ void __launch_bounds__(kAttendThreads, 1) attend_prompt_kernel(const __grid_constant__ Group g) {
#ifdef FATHOM_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ __align__(8) std::uint64_t barriers[2 + 4 * kStages];
  __shared__ int4 item;
  AttendShared s;
  s.query = (shared_address(memory) + 1023) / 1024 * 1024;
  s.keys = s.query + 2 * kQueryBytes;
  s.values = s.keys + kStages * kKeyBytes;
  s.query_full = shared_address(barriers), s.query_empty = s.query_full + 8;
  s.keys_full = s.query_empty + 8, s.keys_empty = s.keys_full + kStages * 8;
  s.values_full = s.keys_empty + kStages * 8, s.values_empty = s.values_full + kStages * 8;
  s.item = shared_address(&item);
  let_next_start();
  if (threadIdx.x == 0) {
    init_barrier(s.query_full, 1), init_barrier(s.query_empty, 8);
    for (int i = 0; i < kStages; ++i) {
      init_barrier(s.keys_full + i * 8, 1), init_barrier(s.keys_empty + i * 8, 2);
      init_barrier(s.values_full + i * 8, 1), init_barrier(s.values_empty + i * 8, 2);
    }
    fence_barrier_init();
  }
  __syncthreads();  // the barriers are initialised
  wait_for_previous();
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) attend_produce(g, s);
  } else {
    take_registers<232>();
    attend_math(g, s);
  }
#endif
}

// Heads per block of expand_kernel: gathering a tile's latents costs about as much as 1.2 of its 128 x 128
// products, a head has two; blocks run in waves, one per multiprocessor.
int expanded_per_block(int heads, int key_tiles, int multiprocessors) {
  int best = 1;
  double least = 0;
  for (int per_block = 1; per_block <= heads; ++per_block) {
    const std::int64_t blocks = std::int64_t{(heads + per_block - 1) / per_block} * key_tiles;
    const double time =
        static_cast<double>((blocks + multiprocessors - 1) / multiprocessors) * (1.2 + 2.0 * per_block);
    if (per_block == 1 || time < least) best = per_block, least = time;
  }
  return best;
}

Group group_of(const Launch& on, const PromptAttendParams& p) {
  Group g{.p = p,
          .key_tiles = 0,
          .row_tiles = 0,
          .heads_per_block = 1,
          .query_head = p.q == nullptr ? p.first_head : 0,
          .heads_together = 4};
  g.key_tiles = (p.first_position + p.rows + kKeys - 1) / kKeys;
  g.row_tiles = (p.rows + kRowTile - 1) / kRowTile;
  g.heads_per_block = expanded_per_block(p.heads, g.key_tiles, on.multiprocessors);
  return g;
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void append_latents(const Launch& on, const AppendParams& p) {
  if (p.rows == 0) return;
  launch_kernel(on, append_kernel, dim3(static_cast<unsigned>(p.rows)), kThreads, 0, p);
}

void expand_keys(const Launch& on, const PromptAttendParams& p) {
  if (p.rows == 0) return;
  const Group g = group_of(on, p);
  const unsigned blocks = blocks_for(std::int64_t{p.heads} * (kNope + kValue) * (kLatent / 8));
  if (p.kv_b.code == Code::e4m3)
    launch_kernel(on, decode_kernel<Code::e4m3>, dim3(blocks), kThreads, 0, g);
  else
    launch_kernel(on, decode_kernel<Code::bf16>, dim3(blocks), kThreads, 0, g);
  const int sets = (p.heads + g.heads_per_block - 1) / g.heads_per_block;
  launch_kernel(on, expand_kernel, dim3(static_cast<unsigned>(sets), static_cast<unsigned>(g.key_tiles)),
                kExpandThreads, kExpandShared, g);
}

void attend_expanded(const Launch& on, const PromptAttendParams& p) {
  if (p.rows == 0) return;
  const Group g = group_of(on, p);
  const std::int64_t chunks = std::int64_t{g.row_tiles} * kRowTile * p.heads * ((kNope + kRope) / 8);
  const std::int64_t pieces = std::int64_t{p.heads} * g.row_tiles + 1;
  launch_kernel(on, pack_kernel, dim3(blocks_for(p.q == nullptr ? pieces : chunks)), kThreads, 0, g);
  launch_kernel(on, attend_prompt_kernel,
                dim3(static_cast<unsigned>(std::min(on.multiprocessors, p.heads * g.row_tiles))),
                kAttendThreads, kAttendShared, g);
}

}  // namespace fathom::cuda
