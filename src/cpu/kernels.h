// The inner loops of the CPU pass, one set per instruction set. Chosen once per engine and handed around as a
// struct of function pointers; src/cpu/kernels_impl.h writes each loop once, over a vector type of 1, 8 or 16
// lanes.
//
// The order of every sum is fixed and depends on the instruction set alone, never on how many rows a call
// has, so the row-at-a-time loops and the blocked ones give the same bits:
//   a product over K columns is cut into blocks of 128 and chunks of 1024 columns;
//   lane l of a block's partial sum adds columns l, l + lanes, ... in ascending order with fused
//   multiply-adds; partial sums times the block scale are added lane by lane over a chunk; its lanes are then
//   summed by a fixed tree; chunks are added in ascending order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "src/model/linear.h"

namespace fathom::cpu {

enum class Isa : std::uint8_t { scalar, avx2, avx512, avx512vbmi };

inline constexpr int kBlock = 128;   // columns that share a partial sum (and an FP8 scale)
inline constexpr int kChunk = 1024;  // columns between two sums over lanes
inline constexpr int kChunkBlocks = kChunk / kBlock;
inline constexpr int kPanelRows =
    8;                             // weight rows decoded at a time: 8 x 1024 floats fill two thirds of an L1
inline constexpr int kPiece = 64;  // codes decoded at a time; panels of `absorb` are this wide
inline constexpr int kKeyTile = 64;   // keys attended at a time
inline constexpr int kTileHeads = 8;  // at most this many heads per call of attend_tile

// Four weight rows times one x, decoding the codes in registers: one token reads each weight once.
struct DotArgs {
  Decode decode;
  const std::byte* row[4];   // codes of the full blocks
  const std::byte* tail[4];  // codes of the last block, zero-padded to 128, when it is not full
  const float* scale[4];     // (blocks) per row, times the decoder's unit
  std::int64_t full_blocks, blocks;
  const float* x;           // (blocks * 128), zero-padded
  const float* x_scale;     // (blocks), or null
  std::ptrdiff_t prefetch;  // bytes from a row's code to the one that is wanted in cache next
  float* y;                 // (4)
};

// A decoded panel of weights times many rows of x, over one chunk.
struct TileArgs {
  const float* panel;                     // (kPanelRows, kChunk); rows beyond `rows` are finite
  int rows;                               // 1 to kPanelRows
  std::int64_t blocks;                    // of this chunk, 1 to kChunkBlocks
  const float* scale[kPanelRows];         // (blocks) per row
  const float* const* x;                  // (T) rows, each at this chunk's first column
  const float* const* x_scale;            // (T) rows of (blocks), or null
  std::int64_t x_offset, x_scale_offset;  // added to every pointer of x and x_scale
  std::int64_t T;
  float* const* y;        // (T) rows, each at the panel's first row's output
  std::int64_t y_offset;  // added to every pointer of y
  bool add;               // false: this is the first chunk
};

// sum[t] += panel^T x[t], row after row: the transposed product over a few weight rows.
struct AbsorbArgs {
  const float* panel;  // (rows, columns)
  std::int64_t rows;
  std::int64_t columns;   // a multiple of kPiece
  const float* const* x;  // (T) rows, each of at least x_offset + rows values
  std::int64_t x_offset;
  float* sum;  // (T, columns)
  std::int64_t T;
};

// Attention of up to kTileHeads heads of one token over one tile of keys: m = max score, p = exp(score - m),
// l = sum p, o = sum p * latent. Dimensions are padded with zeros to multiples of 16.
struct AttendTileArgs {
  const float* keys;  // (kKeyTile, dims): latent first; rows beyond n are finite
  int n;              // valid keys, 1 to kKeyTile
  int heads;
  std::int64_t dims, latent;
  const float* q;  // (heads, dims)
  float softmax_scale;
  float* o;  // (heads, latent)
  float* m;  // (heads)
  float* l;  // (heads)
};

struct Kernels {
  Isa isa;
  float
      e4m3_unit;  // decoded e4m3 values are the true ones divided by this power of two; block scales carry it
  // `count` codes (a multiple of kPiece) of f32, f16, bf16 or e4m3 as floats in order; NaN codes give NaN.
  void (*decode)(Decode, const std::byte* codes, std::int64_t count, float* out);
  void (*dot)(const DotArgs&);
  void (*tile)(const TileArgs&);
  void (*absorb)(const AbsorbArgs&);
  void (*attend_tile)(const AttendTileArgs&);
  // o = a * o + b * add over n values (a multiple of 16): joins two tiles' outputs.
  void (*join)(float* o, float a, const float* add, float b, std::int64_t n);
  // up = silu(gate) * up.
  void (*silu_times)(const float* gate, float* up, std::int64_t n);
};

// The sets compiled in.
const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vbmi_kernels();

// What this processor (and its operating system) can run; `best_isa` is the last of them.
bool has_isa(Isa isa);
Isa best_isa();
std::string_view name(Isa isa);
// Inverse of name(); nothing for an unknown one.
std::optional<Isa> isa_from_name(std::string_view name);
// Errors: usage when this processor does not have `isa`.
const Kernels& kernels_for(Isa isa);

}  // namespace fathom::cpu
