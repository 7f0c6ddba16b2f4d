// Products of weights with many rows on Hopper's tensor cores: what the FP8 and the BF16 kernels share.
//
//   A persistent block walks over tiles of 64 kGroups rows by kColumns weight rows. One warp copies
//   tiles of 128 bytes of columns into a ring of stages; each math warpgroup owns 64 rows of the tile.
//
//   stage: a [64 kGroups][128 bytes], b [kColumns][128 bytes] (permuted by TMA), a_scale [64 kGroups]
//   ring:  full[s] ends when the stage's bytes are there, empty[s] when every warp that reads them is done
//
// Two blocks of a cluster take neighbouring row tiles and the same weight rows: each copies half of those and
// hands it to both, so that L2 is asked for (128 + 128) instead of (128 + 256) rows per tile. Or, where few
// weight rows are long, they take the two halves of the columns of one tile and exchange half of their sums.
// The order of sums depends on nothing but the product's shape: not on the tile, the rows or the cluster.
#pragma once

#include <algorithm>

#include "cuda/hopper.cuh"

namespace fathom::cuda {

// Everything the kernel reads; maps by value, as the copy engine wants them.
struct TilePlan {
  CUtensorMap a, a_scale, b[2];
  GemmParams p;
  int segment_tiles = 0;  // column tiles of the first matrix
  int column_tiles = 0;   // of both
  int row_tiles = 0;      // dense only; grouped: *p.tile_total
  int blocks_of_columns = 0;
};

// What a tile's columns are: weight rows of one matrix or of two that stand beside each other; gate rows and
// the up rows of the same outputs; or as `plain`, with the columns of K shared by two blocks.
enum class TileUse : std::uint8_t { plain, pair, split };

template <Code C, int Groups, int Columns, int Cluster, TileUse Use>
struct TileShape {
  static constexpr Code kCode = C;
  static constexpr int kGroups = Groups, kColumns = Columns, kCluster = Cluster;
  static constexpr bool kPair = Use == TileUse::pair, kSplit = Use == TileUse::split;
  static constexpr bool kShared = Cluster > 1 && !kSplit;  // the cluster's blocks share weights
  static constexpr int kRows = 64 * Groups;
  static constexpr int kOutputs = kPair ? Columns / 2 : Columns;
  static constexpr int kSums = Columns / 2;           // of a thread
  static constexpr int kDepth = 128 / code_bytes(C);  // columns of K per stage
  static constexpr int kThreads = 128 * (Groups + 1);
  static constexpr bool kScaled = C == Code::e4m3;
  static constexpr bool kLarge = Columns >= 192;
  static constexpr int kBoxRows = kShared ? Columns / Cluster : Columns == 192 ? 96 : std::min(128, Columns);
  static constexpr int kStageBytes = (kRows + Columns) * 128;
  // Scales are copied from a multiple of four rows on: the copy engine wants 16-byte units.
  static constexpr int kScaleBox = kRows + 4;
  static constexpr int kScaleBytes = kScaled ? (kScaleBox * 4 + 127) / 128 * 128 : 0;
  static constexpr int kCopiedBytes = kStageBytes + (kScaled ? kScaleBox * 4 : 0);
  // A warp's place for results: 16 rows of 128 bytes, 144 apart against bank conflicts; and, before, half of
  // the sums of the other block's warp.
  static constexpr int kStagingPitch = 144;
  static constexpr int kStagingWarp = std::max(16 * kStagingPitch, kSplit ? kSums / 2 * 32 * 4 : 0),
                       kStagingBytes = 4 * Groups * kStagingWarp;
  static constexpr int kBarrierBytes = 256;
  static constexpr int kBudget = Groups == 1 && !kLarge ? 113 * 1024 : 227 * 1024;  // two blocks fit, or one
  static constexpr int kStages =
      std::min(8, (kBudget - 1024 - kStagingBytes - kBarrierBytes) / (kStageBytes + kScaleBytes));
  static constexpr std::size_t kMemory =
      1024 + static_cast<std::size_t>(kStages) * (kStageBytes + kScaleBytes) + kStagingBytes + kBarrierBytes;
  static constexpr int kBlocks = Groups == 1 && !kLarge ? 2 : 1;
  // Of a thread, where two warpgroups have what the third, which only copies, does not need.
  static constexpr int kMathRegisters = kScaled && Columns == 256 ? 240 : 232,
                       kCopyRegisters = 504 - 2 * kMathRegisters;
  static_assert(!kPair || Columns == 256);  // one scale group of `hidden` per tile
  static_assert(!kSplit || Cluster == 2);
  static_assert(kStages >= 3 && 16 * kStages + 16 * 4 * Groups <= kBarrierBytes);
};

#ifdef FATHOM_HOPPER

// What a block works on at a time.
struct Tile {
  int first_row;  // of the operand
  int rows;       // valid ones, may be 0 or less
  int matrix;     // 0 or 1
  int first;      // weight row
  int expert;
};

// Tiles of a block (or of a cluster, whose blocks take neighbouring rows): first_tile(), then every
// tile_step()-th of tile_count().
template <typename Shape>
__device__ __forceinline__ int first_tile() {
  return static_cast<int>(blockIdx.x) / Shape::kCluster;
}
template <typename Shape>
__device__ __forceinline__ int tile_step() {
  return static_cast<int>(gridDim.x) / Shape::kCluster;
}
template <typename Shape>
__device__ __forceinline__ int tile_count(const TilePlan& plan) {
  const int row_tiles = plan.p.experts != nullptr ? *plan.p.tile_total : plan.row_tiles;
  constexpr int kNeighbours = Shape::kSplit ? 1 : Shape::kCluster;
  return (row_tiles + kNeighbours - 1) / kNeighbours * plan.column_tiles;
}
// Blocks of columns of K [begin, end) that this block sums.
struct Span {
  int begin, end;
};
template <typename Shape>
__device__ __forceinline__ Span blocks_of(const TilePlan& plan) {
  if constexpr (!Shape::kSplit) return {0, plan.blocks_of_columns};
  const int half = (plan.blocks_of_columns + 1) / 2;
  return cluster_rank() == 0 ? Span{0, half} : Span{half, plan.blocks_of_columns};
}
template <typename Shape>
__device__ __forceinline__ Tile tile_at(const TilePlan& plan, int t) {
  Tile tile;
  constexpr int kNeighbours = Shape::kSplit ? 1 : Shape::kCluster;
  int column;
  if (plan.p.experts != nullptr) {
    // Column tiles first: an expert's weights are read by its row tiles at about the same time.
    const int row = t / plan.column_tiles;
    column = t % plan.column_tiles;
    tile.first_row = plan.p.tile_begin[row];
    tile.rows = plan.p.tile_count[row];
    tile.expert = plan.p.tile_expert[row];
  } else {
    // Bands of at most 16 row tiles: what 132 blocks read at a time is about square.
    constexpr int kBand = 16 / kNeighbours;
    const int pairs = (plan.row_tiles + kNeighbours - 1) / kNeighbours;
    const int band = t / (kBand * plan.column_tiles), in_band = t - band * kBand * plan.column_tiles;
    const int height = min(kBand, pairs - band * kBand);
    const int rank = kNeighbours > 1 ? cluster_rank() : 0;
    column = in_band / height;
    tile.first_row = ((band * kBand + in_band % height) * kNeighbours + rank) * Shape::kRows;
    tile.rows = plan.p.rows - tile.first_row;
    tile.expert = 0;
  }
  tile.matrix = column >= plan.segment_tiles ? 1 : 0;
  tile.first = (column - tile.matrix * plan.segment_tiles) * Shape::kOutputs;
  return tile;
}

// The ring's position: stage and the parity of its phase.
template <int Stages>
struct RingPosition {
  int stage = 0;
  std::uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == Stages) stage = 0, phase ^= 1;
  }
};

// Addresses in shared memory.
template <typename Shape>
struct Ring {
  std::uint32_t base;
  __device__ std::uint32_t a(int stage) const {
    return base + static_cast<std::uint32_t>(stage * Shape::kStageBytes);
  }
  __device__ std::uint32_t b(int stage) const { return a(stage) + Shape::kRows * 128; }
  __device__ std::uint32_t scale(int stage) const {
    return base +
           static_cast<std::uint32_t>(Shape::kStages * Shape::kStageBytes + stage * Shape::kScaleBytes);
  }
  __device__ std::uint32_t staging(int warp) const {
    return scale(Shape::kStages) + static_cast<std::uint32_t>(warp * Shape::kStagingWarp);
  }
  __device__ std::uint32_t full(int stage) const {
    return staging(4 * Shape::kGroups) + static_cast<std::uint32_t>(stage * 8);
  }
  __device__ std::uint32_t empty(int stage) const { return full(Shape::kStages + stage); }
  // Split: the other block's sums are in a warp's place; and they may be put into the other block's.
  __device__ std::uint32_t received(int warp) const { return full(2 * Shape::kStages + warp); }
  __device__ std::uint32_t drained(int warp) const { return received(4 * Shape::kGroups + warp); }
};

// One thread: copies every tile's stages, as they become free.
template <typename Shape>
__device__ __forceinline__ void produce(const TilePlan& plan, const Ring<Shape>& ring) {
  RingPosition<Shape::kStages> at;
  const int rank = Shape::kShared ? cluster_rank() : 0;
  for (int t = first_tile<Shape>(); t < tile_count<Shape>(plan); t += tile_step<Shape>()) {
    const Tile tile = tile_at<Shape>(plan, t);
    const Span blocks = blocks_of<Shape>(plan);
#pragma unroll 1
    for (int block = blocks.begin; block < blocks.end; ++block, at.advance()) {
      wait_barrier(ring.empty(at.stage), at.phase ^ 1);
      const std::uint32_t full = ring.full(at.stage);
      arrive_and_expect(full, Shape::kCopiedBytes);
      copy_box(ring.a(at.stage), &plan.a, full, block * Shape::kDepth, tile.first_row);
      if constexpr (Shape::kScaled)
        copy_box(ring.scale(at.stage), &plan.a_scale, full, tile.first_row & ~3, block);
      if constexpr (!Shape::kShared) {
#pragma unroll
        for (int i = 0; i < Shape::kColumns / Shape::kBoxRows; ++i) {
          const int row = i * Shape::kBoxRows % Shape::kOutputs;
          const int matrix = Shape::kPair ? i : tile.matrix;
          copy_box(ring.b(at.stage) + i * Shape::kBoxRows * 128, &plan.b[matrix], full, block * Shape::kDepth,
                   tile.first + row, tile.expert);
        }
      } else {
        const int row = Shape::kPair ? 0 : rank * Shape::kBoxRows;
        const int matrix = Shape::kPair ? rank : tile.matrix;
        copy_box_to_all(ring.b(at.stage) + rank * Shape::kBoxRows * 128, &plan.b[matrix], full,
                        block * Shape::kDepth, tile.first + row, tile.expert, (1 << Shape::kCluster) - 1);
      }
    }
  }
}

// This warp reads no more of the stage.
template <typename Shape>
__device__ __forceinline__ void release(const Ring<Shape>& ring, int stage) {
  const int lane = threadIdx.x % 32;
  if constexpr (!Shape::kShared) {
    if (lane == 0) arrive(ring.empty(stage));
  } else {
    if (lane < Shape::kCluster) arrive_at(ring.empty(stage), lane);
  }
}

__device__ __forceinline__ void load_shared(float (&v)[4], std::uint32_t address) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ float load_shared(std::uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

// Scales of the weight rows of a tile: rows of the grid, the second for the columns from `border` on. A pair
// has one for gate and one for up.
template <typename Shape>
struct WeightScales {
  const float* row[2];
  int border;
  __device__ WeightScales(const GemmParams& p, const Tile& tile, int block) {
    const float* gate = p.w.scale;
    const float* up = p.up.scale;
    if (p.experts != nullptr) {
      const ExpertPointers& e = p.experts[tile.expert];
      gate = p.which == 2 ? e.down_scale : e.gate_scale;
      up = e.up_scale;
    }
    border = Shape::kPair ? 128 : 128 - tile.first % 128;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool second = Shape::kPair ? i == 1 : tile.matrix == 1;
      const int last = ((second ? p.up.rows : p.w.rows) - 1) / 128;
      const int grid_row = tile.first / 128 + (Shape::kPair ? 0 : i);
      row[i] = (second ? up : gate) + static_cast<std::int64_t>(min(grid_row, last)) * p.w.scale_cols + block;
    }
  }
};

// A batch of products of 128 columns on its way, and the scales it will be multiplied by.
template <int N>
struct Batch {
  float sums[N];
  float scale[2];  // of rows l / 4 and l / 4 + 8
  int stage;
};

// The sums of 64 rows of a tile, by one warpgroup. FP8: the tensor cores keep about 14 bits of a running sum,
// so each block of 128 columns is summed by itself, multiplied by its scales and added in FP32.
template <typename Shape>
struct TileSum {
  static constexpr int kSums = Shape::kSums;
  const TilePlan& plan;
  const Ring<Shape>& ring;
  RingPosition<Shape::kStages>& at;
  float (&total)[kSums];
  std::uint32_t my_rows, my_scale;
  int group, first_block, blocks;

  __device__ __forceinline__ TileSum(const TilePlan& tiles, const Ring<Shape>& stages,
                                     RingPosition<Shape::kStages>& position, const Tile& tile, int math_group,
                                     float (&sums)[kSums])
      : plan(tiles),
        ring(stages),
        at(position),
        total(sums),
        my_rows(static_cast<std::uint32_t>(math_group * 64 * 128)),
        group(math_group) {
    const Span span = blocks_of<Shape>(tiles);
    first_block = span.begin, blocks = span.end - span.begin;
    const int row = group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + tile.first_row % 4;
    my_scale = static_cast<std::uint32_t>(row * 4);
  }

  // -- tiles of one batch a stage
  // -----------------------------------------------------------------------------

  __device__ __forceinline__ void begin(Batch<kSums>& batch, float by_block) {
    wait_barrier(ring.full(at.stage), at.phase);
    batch.scale[0] = __fmul_rn(load_shared(ring.scale(at.stage) + my_scale), by_block);
    batch.scale[1] = __fmul_rn(load_shared(ring.scale(at.stage) + my_scale + 32), by_block);
    pin(batch.sums);
    const std::uint64_t a = rows_descriptor(ring.a(at.stage) + my_rows),
                        b = rows_descriptor(ring.b(at.stage));
    begin_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_e4m3(batch.sums, a + 2 * k, b + 2 * k, k > 0);
    commit_products();
    batch.stage = at.stage;
    at.advance();
  }
  __device__ __forceinline__ void finish(Batch<kSums>& batch) {
    pin(batch.sums);
    release(ring, batch.stage);
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = __fmaf_rn(batch.sums[i], batch.scale[i / 2 % 2], total[i]);
  }
  // One batch is under way while the one before is added up.
  __device__ __forceinline__ void pipelined(const float* scale) {
    Batch<kSums> even, odd;
    float next = __ldg(scale + min(1, blocks - 1));
    begin(even, __ldg(scale));
    for (int block = 1; block + 1 < blocks; block += 2) {
      const float after = __ldg(scale + block + 1), later = __ldg(scale + min(block + 2, blocks - 1));
      begin(odd, next);
      wait_for_products<1>();
      finish(even);
      begin(even, after);
      wait_for_products<1>();
      finish(odd);
      next = later;
    }
    if (blocks % 2 == 0) {
      begin(odd, next);
      wait_for_products<1>();
      finish(even);
      wait_for_products<0>();
      finish(odd);
    } else {
      wait_for_products<0>();
      finish(even);
    }
  }

  // -- tiles of two scale groups
  // ------------------------------------------------------------------------------

  // 256 columns are two batches a stage, whose common rows of `a` go through registers: shared memory (128
  // bytes a cycle for products and copies together) is what limits this loop. 192 are one batch.
  static constexpr int kParts = Shape::kColumns == 256 ? 2 : 1, kPartSums = kSums / kParts;

  // A stage whose bytes have arrived, and the scales of this thread's two rows.
  struct Ready {
    std::uint64_t b;
    float low, high;
    int stage;
  };
  __device__ __forceinline__ Ready next_stage() {
    wait_barrier(ring.full(at.stage), at.phase);
    const Ready r{rows_descriptor(ring.b(at.stage)), load_shared(ring.scale(at.stage) + my_scale),
                  load_shared(ring.scale(at.stage) + my_scale + 32), at.stage};
    at.advance();
    return r;
  }
  // The warp's 16 rows of 128 codes. Lane l names a row of 16 bytes of matrix l / 8; TMA has permuted the
  // eight units of a row by its place among eight rows.
  __device__ __forceinline__ void load_rows(std::uint32_t (&rows)[4][4], int stage) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane % 16;
    const std::uint32_t from = ring.a(stage) + my_rows + static_cast<std::uint32_t>(row * 128);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(rows[k][0]), "=r"(rows[k][1]), "=r"(rows[k][2]), "=r"(rows[k][3])
                   : "r"(from + static_cast<std::uint32_t>(((2 * k + lane / 16) ^ (row % 8)) * 16))
                   : "memory");
  }
  __device__ __forceinline__ void issue(float (&sums)[kPartSums], const std::uint32_t (&rows)[4][4],
                                        const Ready& r, int part) {
    pin(sums);
    const std::uint64_t a = rows_descriptor(ring.a(r.stage) + my_rows);
    begin_products();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if constexpr (kParts == 1)
        wgmma_e4m3(sums, a + 2 * k, r.b + 2 * k, k > 0);
      else
        wgmma_e4m3(sums, rows[k], r.b + part * kPartSums * 2 * 128 / 16 + 2 * k, k > 0);
    commit_products();
  }
  // `border`: first column of the second scale group, a multiple of 64.
  __device__ __forceinline__ void add_part(const float (&sums)[kPartSums], const Ready& r,
                                           const float (&by_block)[2], int part, int border) {
#pragma unroll
    for (int first = 0; first < kPartSums; first += 32) {
      const bool behind = (part * kPartSums + first) * 2 >= (Shape::kColumns == 256 ? 128 : border);
      const float by = behind ? by_block[1] : by_block[0];
      const float scale[2] = {__fmul_rn(r.low, by), __fmul_rn(r.high, by)};
#pragma unroll
      for (int i = first; i < first + 32; ++i) {
        float& sum = total[part * kPartSums + i];
        sum = __fmaf_rn(sums[i], scale[i / 2 % 2], sum);
      }
    }
  }
  // A batch after the other: while one warpgroup adds up, the other's products run. What the next stage needs
  // is fetched meanwhile.
  __device__ __forceinline__ void parts(const WeightScales<Shape>& scales) {
    float by_block[2] = {__ldg(scales.row[0]), __ldg(scales.row[1])};
    std::uint32_t rows[4][4];
    Ready now = next_stage();
    if constexpr (kParts > 1) load_rows(rows, now.stage);
    for (int block = 0; block < blocks; ++block) {
      const int ahead = min(block + 1, blocks - 1);
      const float next[2] = {__ldg(scales.row[0] + ahead), __ldg(scales.row[1] + ahead)};
      float part[kPartSums];
#pragma unroll
      for (int i = 0; i + 1 < kParts; ++i) {
        issue(part, rows, now, i);
        wait_for_products<0>();
        pin(part);
        add_part(part, now, by_block, i, scales.border);
      }
      issue(part, rows, now, kParts - 1);
      Ready after = now;
      if (block + 1 < blocks) after = next_stage();
      wait_for_products<0>();
      pin(part);
      release(ring, now.stage);
      if constexpr (kParts > 1)
        if (block + 1 < blocks) load_rows(rows, after.stage);
      add_part(part, now, by_block, kParts - 1, scales.border);
      now = after;
      by_block[0] = next[0], by_block[1] = next[1];
    }
  }

  __device__ __forceinline__ void fp8(const Tile& tile) {
    const WeightScales<Shape> scales(plan.p, tile, first_block);
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = 0;
    if constexpr (Shape::kLarge)
      parts(scales);
    else
      pipelined(scales.row[0]);
  }

  // BF16: the tensor cores add up in FP32 themselves.
  __device__ __forceinline__ void bf16() {
    int before = 0;
    pin(total);
    for (int block = 0; block < blocks; ++block) {
      wait_barrier(ring.full(at.stage), at.phase);
      const std::uint64_t a = rows_descriptor(ring.a(at.stage) + my_rows),
                          b = rows_descriptor(ring.b(at.stage));
      begin_products();
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_bf16(total, a + 2 * k, b + 2 * k, block > 0 || k > 0);
      commit_products();
      if (block > 0) {
        wait_for_products<1>();
        release(ring, before);
      }
      before = at.stage;
      at.advance();
    }
    wait_for_products<0>();
    pin(total);
    release(ring, before);
  }
};

// Passes over the stages of a tile whose rows none of this warpgroup's are.
template <typename Shape>
__device__ __forceinline__ void skip_tile(const TilePlan& plan, const Ring<Shape>& ring,
                                          RingPosition<Shape::kStages>& at) {
  const Span blocks = blocks_of<Shape>(plan);
  for (int block = blocks.begin; block < blocks.end; ++block, at.advance()) {
    wait_barrier(ring.full(at.stage), at.phase);
    release(ring, at.stage);
  }
}

// -- the other half of K ------------------------------------------------------------------------------------

// Split: block 0 of the cluster keeps the first half of the tile's columns, block 1 the second; each sends
// the sums it does not keep to the other and adds what it gets: total[0 .. kSums / 2) is complete then. Two
// addends: their order does not matter. Warp for warp; `tile_number` counts from 0.
template <typename Shape>
__device__ __forceinline__ void exchange(const Ring<Shape>& ring, int warp, int tile_number,
                                         float (&total)[Shape::kSums]) {
  constexpr int kHalf = Shape::kSums / 2;
  const int lane = threadIdx.x % 32, rank = cluster_rank();
  const std::uint32_t parity = static_cast<std::uint32_t>(tile_number % 2);
  const std::uint32_t mine = ring.staging(warp) + static_cast<std::uint32_t>(lane * 16),
                      theirs = address_at(mine, rank ^ 1);
  const std::uint32_t received = ring.received(warp), their_barrier = address_at(received, rank ^ 1);
  if (lane == 0) arrive_and_expect(received, kHalf * 32 * 4);
  wait_barrier_cluster(ring.drained(warp), parity ^ 1);  // the other warp has read the last tile's
#pragma unroll
  for (int i = 0; i < kHalf; i += 4) {
    float sent[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float low = total[i + j], high = total[kHalf + i + j];
      sent[j] = rank == 0 ? high : low;
      total[i + j] = rank == 0 ? low : high;
    }
    send(theirs + i * 128, sent, their_barrier);
  }
  wait_barrier_cluster(received, parity);
#pragma unroll
  for (int i = 0; i < kHalf; i += 4) {
    float got[4];
    load_shared(got, mine + i * 128);
#pragma unroll
    for (int j = 0; j < 4; ++j) total[i + j] = __fadd_rn(total[i + j], got[j]);
  }
}

// -- results ------------------------------------------------------------------------------------------------

// Row of the output that holds row `row` of the tile; -1: none.
__device__ __forceinline__ std::int64_t output_row(const GemmParams& p, const Tile& tile, int row) {
  if (row >= tile.rows) return -1;
  return p.sorted != nullptr ? p.sorted[tile.first_row + row] : tile.first_row + row;
}

// Where a warp's 16 rows go: `out` holds rows of row_bytes in the order that GemmParams asks for.
struct RowsOut {
  std::byte* out;
  std::int64_t row_bytes;
  int warp_row;  // of the tile
};

// The warp's 16 rows of 128 bytes in shared memory, written from `offset` of each row on, 16 bytes per lane.
// `bytes`: of the 128 that exist.
__device__ __forceinline__ void write_rows(const GemmParams& p, const Tile& tile, std::uint32_t staging,
                                           const RowsOut& to_rows, int offset, int bytes) {
  const int lane = threadIdx.x % 32, column = lane % 8 * 16;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(staging + (i * 4 + lane / 8) * 144 + column)
                 : "memory");
    const std::int64_t row = output_row(p, tile, to_rows.warp_row + i * 4 + lane / 8);
    if (row < 0 || column >= bytes) continue;
    std::byte* to = to_rows.out + row * to_rows.row_bytes + offset + column;
    if (column + 16 <= bytes && (reinterpret_cast<std::uintptr_t>(to) & 15) == 0) {
      *reinterpret_cast<uint4*>(to) = v;
    } else {
      const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int b = 0; b < 8; ++b)
        if (column + 2 * b < bytes)
          *reinterpret_cast<std::uint16_t*>(to + 2 * b) =
              static_cast<std::uint16_t>(words[b / 2] >> (b % 2 * 16));
    }
  }
}

template <int N>
__device__ __forceinline__ void write_f32(const GemmParams& p, const Tile& tile, int row, int first,
                                          int rows_of_w, float* out, std::int64_t stride,
                                          const float (&sums)[N]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::int64_t to = output_row(p, tile, row + 8 * h);
    if (to < 0) continue;
    float* const at = out + to * stride + first + lane % 4 * 2;
#pragma unroll
    for (int j0 = 0; j0 < N / 4; j0 += 8) {
      float2 old[8];
#pragma unroll
      for (int j = j0; j < j0 + 8 && j < N / 4; ++j)
        if (p.add && first + 8 * j + lane % 4 * 2 < rows_of_w)
          old[j - j0] = *reinterpret_cast<const float2*>(at + 8 * j);
        else
          old[j - j0] = make_float2(0, 0);
#pragma unroll
      for (int j = j0; j < j0 + 8 && j < N / 4; ++j)
        if (first + 8 * j + lane % 4 * 2 < rows_of_w) {
          float2 v = make_float2(sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
          if (p.add) v = make_float2(__fadd_rn(old[j - j0].x, v.x), __fadd_rn(old[j - j0].y, v.y));
          *reinterpret_cast<float2*>(at + 8 * j) = v;
        }
    }
  }
}

// BF16 values of N / 4 groups of eight columns, 64 columns (128 bytes) at a time.
template <int N>
__device__ __forceinline__ void write_bf16(const GemmParams& p, const Tile& tile, std::uint32_t staging,
                                           const RowsOut& to_rows, int first, int rows_of_w,
                                           const float (&sums)[N]) {
  const int lane = threadIdx.x % 32;
  // ldmatrix order: lane l names row l % 8 of matrix l / 8; matrices 0 and 1 are rows 0 .. 7 and 8 .. 15.
  const std::uint32_t to =
      staging + static_cast<std::uint32_t>((lane / 8 % 2 * 8 + lane % 8) * 144 + lane / 16 * 16);
#pragma unroll
  for (int c = 0; c < N / 4; c += 8) {
    const int taken = N / 4 - c < 8 ? N / 4 - c : 8;
    __syncwarp();  // the last 64 columns were read
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      if (j >= taken) break;
      const float* s = sums + 4 * (c + j);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to + j * 16),
                   "r"(pack_bf16(s[0], s[1])), "r"(pack_bf16(s[2], s[3])), "r"(pack_bf16(s[4], s[5])),
                   "r"(pack_bf16(s[6], s[7]))
                   : "memory");
    }
    __syncwarp();  // 64 columns of 16 rows are there
    write_rows(p, tile, staging, to_rows, (first + c * 8) * 2,
               min(taken * 16, (rows_of_w - first - c * 8) * 2));
  }
}

// q: rotated, as F16, into the tiles of the expanded form of attention. 32 columns at a time, which lie in
// one block of 64 rows by 64 columns; every third block of a head is the rotated one.
template <int N>
__device__ __forceinline__ void write_query(const GemmParams& p, const Tile& tile, std::uint32_t staging,
                                            int warp_row, int first, const float (&sums)[N]) {
  const int lane = threadIdx.x % 32;
  const std::uint32_t to =
      staging + static_cast<std::uint32_t>((lane / 8 % 2 * 8 + lane % 8) * 144 + lane / 16 * 16);
  const int row_tiles = (p.rows + 127) / 128 * 2;
  const float2* turns[2];
#pragma unroll
  for (int h = 0; h < 2; ++h)
    turns[h] = p.rotation +
               static_cast<std::int64_t>(min(tile.first_row + warp_row + lane / 4 + 8 * h, p.rows - 1)) * 32 +
               lane % 4;
#pragma unroll
  for (int c = 0; c < N / 4; c += 4) {
    const int column = first + c * 8, block = column / 64, chunk = column % 64 / 8;
    if (column >= p.w.rows) break;
    const bool turned = block % 3 == 2;
    std::uint32_t packed[8];
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float2 v = make_float2(sums[4 * (c + j) + 2 * h], sums[4 * (c + j) + 2 * h + 1]);
        if (turned) v = rotated(v, turns[h][(chunk + j) * 4]);
        packed[2 * j + h] = pack_f16(v.x, v.y);
      }
    __syncwarp();  // the last columns were read
#pragma unroll
    for (int j = 0; j < 4; j += 2)
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to + j * 16),
                   "r"(packed[2 * j]), "r"(packed[2 * j + 1]), "r"(packed[2 * j + 2]), "r"(packed[2 * j + 3])
                   : "memory");
    __syncwarp();  // 32 columns of 16 rows are there
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp_row + i * 8 + lane / 4, t = tile.first_row + row;
      uint4 v;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(staging + (i * 8 + lane / 4) * 144 + lane % 4 * 16)
                   : "memory");
      if (row >= tile.rows) continue;
      std::byte* rows64 =
          p.query + ((static_cast<std::int64_t>(block / 3) * row_tiles + t / 64) * 3 + block % 3) * 8192;
      *reinterpret_cast<uint4*>(rows64 + t % 64 * 128 + ((chunk + lane % 4) ^ (t % 8)) * 16) = v;
    }
  }
}

// silu(gate) * up, rounded as the input of `down`: e4m3 codes and a scale per row, or BF16.
template <typename Shape>
__device__ __forceinline__ void write_hidden(const TilePlan& plan, const Tile& tile, std::uint32_t staging,
                                             int warp_row, float (&total)[Shape::kSums]) {
  const GemmParams& p = plan.p;
  const int lane = threadIdx.x % 32;
  constexpr int kSums = Shape::kSums / 2;
  float v[kSums];
  float most[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    v[i] = __fmul_rn(silu(total[i]), total[kSums + i]);
    most[i / 2 % 2] = fmaxf(most[i / 2 % 2], fabsf(v[i]));
  }
  const RowsOut to_rows{
      Shape::kScaled ? reinterpret_cast<std::byte*>(p.out_codes) : reinterpret_cast<std::byte*>(p.out_bf16),
      p.out_stride * code_bytes(Shape::kCode), warp_row};
  if constexpr (!Shape::kScaled) {
    write_bf16(p, tile, staging, to_rows, tile.first, p.w.rows, v);
  } else {
    float scale[2], reciprocal[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // A row's 128 columns lie in four neighbouring lanes.
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2));
      scale[h] = activation_scale(most[h], p.ue8m0);
      reciprocal[h] = __frcp_rn(scale[h]);
      const int row = warp_row + lane / 4 + 8 * h;
      if (lane % 4 == 0 && row < tile.rows)
        p.out_scale[static_cast<std::int64_t>(tile.first / 128) * p.out_scale_stride + tile.first_row + row] =
            scale[h];
    }
    __syncwarp();  // the last tile's rows were read
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const std::uint32_t two = pack_e4m3(divide(v[4 * j + 2 * h], scale[h], reciprocal[h]),
                                            divide(v[4 * j + 2 * h + 1], scale[h], reciprocal[h]));
        asm volatile(
            "st.shared.u16 [%0], %1;" ::"r"(staging + (lane / 4 + 8 * h) * 144 + j * 8 + lane % 4 * 2),
            "h"(static_cast<std::uint16_t>(two))
            : "memory");
      }
    __syncwarp();  // 128 codes of 16 rows are there
    write_rows(p, tile, staging, to_rows, tile.first, min(128, static_cast<int>(p.out_stride) - tile.first));
  }
}

// Results of 2 N columns from `first` on.
template <int N>
__device__ __forceinline__ void write_tile(const GemmParams& p, const Tile& tile, std::uint32_t staging,
                                           int warp_row, int first, const float (&sums)[N]) {
  const bool second = tile.matrix == 1;
  const int rows_of_w = second ? p.up.rows : p.w.rows;
  const std::int64_t stride = second ? p.out2_stride : p.out_stride;
  if (p.query != nullptr && !second)
    write_query(p, tile, staging, warp_row, first, sums);
  else if (p.out_bf16 != nullptr)
    write_bf16(p, tile, staging, {reinterpret_cast<std::byte*>(p.out_bf16), stride * 2, warp_row}, first,
               rows_of_w, sums);
  else
    write_f32(p, tile, warp_row + threadIdx.x % 32 / 4, first, rows_of_w, second ? p.out2 : p.out, stride,
              sums);
}

template <typename Shape>
__device__ __forceinline__ void consume(const TilePlan& plan, const Ring<Shape>& ring, int group) {
  const GemmParams& p = plan.p;
  RingPosition<Shape::kStages> at;
  int exchanged = 0;
  for (int t = first_tile<Shape>(); t < tile_count<Shape>(plan); t += tile_step<Shape>()) {
    Tile tile = tile_at<Shape>(plan, t);
    if (tile.rows <= group * 64) {
      skip_tile<Shape>(plan, ring, at);
      continue;
    }
    float total[Shape::kSums];
    TileSum<Shape> sum(plan, ring, at, tile, group, total);
    if constexpr (Shape::kScaled)
      sum.fp8(tile);
    else
      sum.bf16();
    // Worked out again rather than kept in registers through the sums.
    asm volatile("" : "+r"(t));
    tile = tile_at<Shape>(plan, t);
    const int warp = static_cast<int>(threadIdx.x) / 32, warp_row = warp * 16;
    const std::uint32_t staging = ring.staging(warp);
    if constexpr (Shape::kPair) {
      write_hidden<Shape>(plan, tile, staging, warp_row, total);
    } else if constexpr (Shape::kSplit) {
      constexpr int kHalf = Shape::kSums / 2;
      exchange<Shape>(ring, warp, exchanged++, total);
      float half[kHalf];
#pragma unroll
      for (int i = 0; i < kHalf; ++i) half[i] = total[i];
      write_tile(p, tile, staging, warp_row, tile.first + cluster_rank() * 2 * kHalf, half);
      __syncwarp();  // every lane has read what the other block's warp sent, and the rows staged there
      if (threadIdx.x % 32 == 0) release_at(ring.drained(warp), cluster_rank() ^ 1);
    } else {
      write_tile(p, tile, staging, warp_row, tile.first, total);
    }
  }
}

#endif  // FATHOM_HOPPER

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    tile_kernel(const __grid_constant__ TilePlan plan) {
#ifdef FATHOM_HOPPER
  extern __shared__ __align__(1024) unsigned char tile_memory[];
  const Ring<Shape> ring{(shared_address(tile_memory) + 1023) / 1024 * 1024};
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      init_barrier(ring.full(s), 1);
      init_barrier(ring.empty(s), (Shape::kShared ? Shape::kCluster : 1) * Shape::kGroups * 4);
    }
    if constexpr (Shape::kSplit)
      for (int w = 0; w < 4 * Shape::kGroups; ++w)
        init_barrier(ring.received(w), 1), init_barrier(ring.drained(w), 1);
    fence_barrier_init();
    prefetch_map(&plan.a);
    prefetch_map(&plan.b[0]);
  }
  // Barriers are initialised for every thread, and in both blocks before one arrives at the other's.
  if constexpr (Shape::kCluster > 1)
    sync_cluster();
  else
    __syncthreads();
  let_next_start();
  wait_for_previous();
  constexpr bool kMoves = Shape::kBlocks == 1 && Shape::kGroups == 2;  // registers move to the math warps
  if (warp >= 4 * Shape::kGroups) {
    if constexpr (kMoves) give_registers<Shape::kCopyRegisters>();
    if (warp == 4 * Shape::kGroups && threadIdx.x % 32 == 0) produce<Shape>(plan, ring);
  } else {
    if constexpr (kMoves) take_registers<Shape::kMathRegisters>();
    consume<Shape>(plan, ring, warp / 4);
  }
  // A block may still arrive at, or copy to, the other one: both stay until both are done.
  if constexpr (Shape::kCluster > 1) {
    __syncwarp();
    sync_cluster();
  }
#endif
}

template <typename Shape>
void launch_tiles(const Launch& on, TilePlan& plan) {
  const GemmParams& p = plan.p;
  const CUtensorMapDataType type =
      Shape::kScaled ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto columns = static_cast<std::uint64_t>(p.w.cols);
  TensorShape a{.data = Shape::kScaled ? static_cast<const void*>(p.codes) : static_cast<const void*>(p.a),
                .type = type,
                .columns = columns,
                .rows = static_cast<std::uint64_t>(p.rows),
                .row_bytes = static_cast<std::uint64_t>(p.a_stride) * code_bytes(Shape::kCode),
                .box_columns = Shape::kDepth,
                .box_rows = Shape::kRows};
  plan.a = make_tensor_map(a);
  const int blocks = (p.w.cols + Shape::kDepth - 1) / Shape::kDepth;
  if (Shape::kScaled)
    plan.a_scale = make_tensor_map({.data = p.a_scale,
                                    .type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                                    .columns = static_cast<std::uint64_t>(p.rows),
                                    .rows = static_cast<std::uint64_t>(blocks),
                                    .row_bytes = static_cast<std::uint64_t>(p.scale_stride) * 4,
                                    .box_columns = Shape::kScaleBox,
                                    .box_rows = 1,
                                    .swizzle = false});
  const auto weights = [&](const Matrix& m) {
    return make_tensor_map(
        {.data = m.codes,
         .type = type,
         .columns = columns,
         .rows = static_cast<std::uint64_t>(m.rows),
         .slices = static_cast<std::uint64_t>(std::max(p.expert_count, 1)),
         .row_bytes = static_cast<std::uint64_t>(m.row_bytes),
         .slice_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(p.expert_bytes, 16)),
         .box_columns = Shape::kDepth,
         .box_rows = Shape::kBoxRows});
  };
  plan.b[0] = weights(p.w);
  plan.b[1] = p.up.rows > 0 ? weights(p.up) : plan.b[0];
  const auto tiles = [](int rows) { return (rows + Shape::kOutputs - 1) / Shape::kOutputs; };
  plan.segment_tiles = tiles(p.w.rows);
  plan.column_tiles = plan.segment_tiles + (Shape::kPair ? 0 : tiles(p.up.rows));
  plan.row_tiles = (p.rows + Shape::kRows - 1) / Shape::kRows;
  plan.blocks_of_columns = blocks;
  const int most = on.multiprocessors * Shape::kBlocks / Shape::kCluster;
  const int neighbours = Shape::kSplit ? 1 : Shape::kCluster;
  const int wanted = p.experts != nullptr
                         ? p.tiles * plan.column_tiles
                         : (plan.row_tiles + neighbours - 1) / neighbours * plan.column_tiles;
  launch_kernel(on, tile_kernel<Shape>, dim3(static_cast<unsigned>(std::min(most, wanted) * Shape::kCluster)),
                Shape::kThreads, Shape::kMemory, plan, Shape::kCluster);
}

// Whether two blocks share the columns of K: few weight rows that are long leave multiprocessors idle
// otherwise. A property of the weights, so that a row's bits do not depend on the number of rows.
inline bool splits_columns(const GemmParams& p) {
  return p.experts == nullptr && (p.up.rows == 0 || p.out2 != nullptr) && p.w.rows + p.up.rows <= 2560 &&
         p.w.cols >= 8192;
}

// The tile with the shortest time: rounds over the multiprocessors times what a tile costs beside one of 128
// by 256. Bits do not depend on it.
inline GemmTile choose_tile(const Launch& on, const GemmParams& p) {
  const auto ceil_div = [](int a, int b) { return (a + b - 1) / b; };
  const bool pair = p.up.rows > 0 && p.out2 == nullptr;
  if (p.experts != nullptr)
    return grouped_tile_rows(p.rows, p.expert_count) == 64 ? GemmTile::rows64_columns256
                                                           : GemmTile::rows128_columns256_alone;
  if (pair) return p.rows <= 64 ? GemmTile::rows64_columns256 : GemmTile::rows128_columns256;
  const int n = p.w.rows + (p.out2 != nullptr ? p.up.rows : 0);
  if (p.rows <= 64) return GemmTile::rows64_columns32;
  if (p.rows <= 128) return GemmTile::rows128_columns64;
  const int blocks = on.multiprocessors / (splits_columns(p) ? 2 : 1);
  const auto tiles = [&](int columns) { return ceil_div(p.rows, 128) * ceil_div(n, columns); };
  struct Choice {
    GemmTile tile;
    int columns;
    double cost;
  };
  // Sharing weights pays when blocks contend for L2.
  const Choice choices[] = {
      {GemmTile::rows128_columns256, 256, 1},
      {GemmTile::rows128_columns192, 192, 0.78},
      {tiles(128) <= blocks ? GemmTile::rows128_columns128_alone : GemmTile::rows128_columns128, 128, 0.55},
      {GemmTile::rows128_columns64, 64, 0.37}};
  const Choice* best = choices;
  for (const Choice& c : choices)
    if (ceil_div(tiles(c.columns), blocks) * c.cost < ceil_div(tiles(best->columns), blocks) * best->cost)
      best = &c;
  return best->tile;
}

template <Code C, int Groups, int Columns, int Cluster, TileUse Use = TileUse::plain>
void launch_shape(const Launch& on, const GemmParams& p) {
  TilePlan plan;
  plan.p = p;
  launch_tiles<TileShape<C, Groups, Columns, Cluster, Use>>(on, plan);
}

template <Code C>
void multiply_split(const Launch& on, const GemmParams& p, GemmTile tile) {
  switch (tile) {
    case GemmTile::automatic:
    case GemmTile::rows128_columns256:
    case GemmTile::rows128_columns256_alone:
      return launch_shape<C, 2, 256, 2, TileUse::split>(on, p);
    case GemmTile::rows128_columns192:
      return launch_shape<C, 2, 192, 2, TileUse::split>(on, p);
    case GemmTile::rows128_columns128:
    case GemmTile::rows128_columns128_alone:
      return launch_shape<C, 2, 128, 2, TileUse::split>(on, p);
    case GemmTile::rows128_columns64:
      return launch_shape<C, 2, 64, 2, TileUse::split>(on, p);
    case GemmTile::rows64_columns256:
    case GemmTile::rows64_columns32:
      return launch_shape<C, 1, 32, 2, TileUse::split>(on, p);
  }
}

// gemm_fp8 and gemm_bf16: the kernel of the tile. C: of weights and operand alike.
template <Code C>
void multiply_tiles(const Launch& on, const GemmParams& p, GemmTile tile) {
  if (p.rows == 0) return;
  const bool pair = p.up.rows > 0 && p.out2 == nullptr;
  if (tile == GemmTile::automatic) tile = choose_tile(on, p);
  if (splits_columns(p)) return multiply_split<C>(on, p, tile);
  switch (tile) {
    case GemmTile::automatic:
    case GemmTile::rows128_columns256:
      return pair ? launch_shape<C, 2, 256, 2, TileUse::pair>(on, p) : launch_shape<C, 2, 256, 2>(on, p);
    case GemmTile::rows128_columns256_alone:
      return pair ? launch_shape<C, 2, 256, 1, TileUse::pair>(on, p) : launch_shape<C, 2, 256, 1>(on, p);
    case GemmTile::rows128_columns192:
      return launch_shape<C, 2, 192, 2>(on, p);
    case GemmTile::rows128_columns128:
      return launch_shape<C, 2, 128, 2>(on, p);
    case GemmTile::rows128_columns128_alone:
      return launch_shape<C, 2, 128, 1>(on, p);
    case GemmTile::rows128_columns64:
      return launch_shape<C, 2, 64, 1>(on, p);
    case GemmTile::rows64_columns256:
      return pair ? launch_shape<C, 1, 256, 1, TileUse::pair>(on, p) : launch_shape<C, 1, 256, 1>(on, p);
    case GemmTile::rows64_columns32:
      return launch_shape<C, 1, 32, 1>(on, p);
  }
}

}  // namespace fathom::cuda
