// The loops of src/cpu/kernels.h over a vector type V. Included by linear_scalar.cpp and linear_avx*.cpp
// only.
//
// Everything sits in an unnamed namespace and calls no inline function of another header: a function compiled
// here may use instructions that the processor lacks, and the linker must never choose it for the rest of the
// program.
//
// V provides: F (a vector of kLanes floats), zero, set1, load, store, fma(a, b, c) = a b + c in one rounding,
// add, mul, max, sum4 (the four sums over lanes, by one fixed tree), max_of, exp, div, decode<D>(codes,
// F[kPiece / kLanes]), kTileX (rows of x per tile), kHeads (heads per tile) and keep(F&): the value stays in
// a register (GCC otherwise loads it again for each use, and loads are what these loops run out of).
#pragma once

#include "src/cpu/kernels.h"

#define FATHOM_INLINE inline __attribute__((always_inline))

namespace fathom::cpu {
namespace {

constexpr std::int64_t code_bytes(Decode d) { return d == Decode::f32 ? 4 : d == Decode::e4m3 ? 1 : 2; }

template <class V, Decode D>
void dot_rows(const DotArgs& a) {
  using F = typename V::F;
  constexpr int kVectors = kPiece / V::kLanes;
  float y[4] = {0, 0, 0, 0};
  for (std::int64_t chunk = 0; chunk < a.blocks; chunk += kChunkBlocks) {
    const std::int64_t end = chunk + kChunkBlocks < a.blocks ? chunk + kChunkBlocks : a.blocks;
    F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (std::int64_t b = chunk; b < end; ++b) {
      F partial[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      for (int piece = 0; piece < kBlock; piece += kPiece) {
        const float* x = a.x + b * kBlock + piece;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const std::byte* codes =
              (b < a.full_blocks ? a.row[i] + b * kBlock * code_bytes(D) : a.tail[i]) + piece * code_bytes(D);
          for (std::int64_t line = 0; line < kPiece * code_bytes(D); line += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(codes) + a.prefetch + line);
          F w[kVectors];
          V::template decode<D>(codes, w);
#pragma GCC unroll 64
          for (int v = 0; v < kVectors; ++v)
            partial[i] = V::fma(w[v], V::load(x + v * V::kLanes), partial[i]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float scale = a.x_scale != nullptr ? a.scale[i][b] * a.x_scale[b] : a.scale[i][b];
        sum[i] = V::fma(partial[i], V::set1(scale), sum[i]);
      }
    }
    float s[4];
    V::sum4(sum[0], sum[1], sum[2], sum[3], s);
    for (int i = 0; i < 4; ++i) y[i] = chunk == 0 ? s[i] : y[i] + s[i];
  }
  for (int i = 0; i < 4; ++i) a.y[i] = y[i];
}

template <class V>
void dot(const DotArgs& a) {
  switch (a.decode) {
    case Decode::e4m3:
      return dot_rows<V, Decode::e4m3>(a);
    case Decode::bf16:
      return dot_rows<V, Decode::bf16>(a);
    case Decode::f16:
      return dot_rows<V, Decode::f16>(a);
    default:
      return dot_rows<V, Decode::f32>(a);
  }
}

template <class V, Decode D>
void decode_codes(const std::byte* codes, std::int64_t count, float* out) {
  constexpr int kVectors = kPiece / V::kLanes;
  for (std::int64_t i = 0; i < count; i += kPiece) {
    typename V::F w[kVectors];
    for (std::int64_t line = 0; line < kPiece * code_bytes(D); line += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(codes) + i * code_bytes(D) + 2048 + line);
    V::template decode<D>(codes + i * code_bytes(D), w);
#pragma GCC unroll 64
    for (int v = 0; v < kVectors; ++v) V::store(out + i + v * V::kLanes, w[v]);
  }
}

template <class V>
void decode(Decode d, const std::byte* codes, std::int64_t count, float* out) {
  switch (d) {
    case Decode::e4m3:
      return decode_codes<V, Decode::e4m3>(codes, count, out);
    case Decode::bf16:
      return decode_codes<V, Decode::bf16>(codes, count, out);
    case Decode::f16:
      return decode_codes<V, Decode::f16>(codes, count, out);
    default:
      return decode_codes<V, Decode::f32>(codes, count, out);
  }
}

// Four panel rows times X rows of x: 4 X partial sums and 4 X sums live in registers.
template <class V, int X, bool kScaledX>
FATHOM_INLINE void tile_of(const TileArgs& a, int row, std::int64_t t) {
  using F = typename V::F;
  const float* w = a.panel + row * kChunk;
  const float* x[X];
#pragma GCC unroll 8
  for (int c = 0; c < X; ++c) x[c] = a.x[t + c] + a.x_offset;
  F sum[4][X];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < X; ++c) sum[r][c] = V::zero();
  for (std::int64_t b = 0; b < a.blocks; ++b) {
    F partial[4][X];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < X; ++c) partial[r][c] = V::zero();
    for (std::int64_t k = b * kBlock; k < (b + 1) * kBlock; k += V::kLanes) {
      F wv[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) V::keep(wv[r] = V::load(w + r * kChunk + k));
#pragma GCC unroll 8
      for (int c = 0; c < X; ++c) {
        const F xv = V::load(x[c] + k);
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) partial[r][c] = V::fma(wv[r], xv, partial[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < X; ++c)
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        float scale = a.scale[row + r][b];
        if constexpr (kScaledX) scale *= (a.x_scale[t + c] + a.x_scale_offset)[b];
        sum[r][c] = V::fma(partial[r][c], V::set1(scale), sum[r][c]);
      }
  }
  const int rows = a.rows - row < 4 ? a.rows - row : 4;
#pragma GCC unroll 8
  for (int c = 0; c < X; ++c) {
    float s[4];
    V::sum4(sum[0][c], sum[1][c], sum[2][c], sum[3][c], s);
    float* y = a.y[t + c] + a.y_offset + row;
    for (int r = 0; r < rows; ++r) y[r] = a.add ? y[r] + s[r] : s[r];
  }
}

template <class V, int X>
FATHOM_INLINE void tile_rows(const TileArgs& a, std::int64_t t) {
  for (int row = 0; row < a.rows; row += 4)
    if (a.x_scale != nullptr)
      tile_of<V, X, true>(a, row, t);
    else
      tile_of<V, X, false>(a, row, t);
}

template <class V>
void tile(const TileArgs& a) {
  std::int64_t t = 0;
  for (; t + V::kTileX <= a.T; t += V::kTileX) tile_rows<V, V::kTileX>(a, t);
  if constexpr (V::kTileX > 2)
    for (; t + 2 <= a.T; t += 2) tile_rows<V, 2>(a, t);
  for (; t < a.T; ++t) tile_rows<V, 1>(a, t);
}

template <class V, int X>
FATHOM_INLINE void absorb_of(const AbsorbArgs& a, std::int64_t t) {
  using F = typename V::F;
  // At most four vectors of columns at a time, so that X times four sums fit in registers.
  constexpr int kVectors = kPiece / V::kLanes < 4 ? kPiece / V::kLanes : 4;
  constexpr int kStep = kVectors * V::kLanes;
  for (std::int64_t column = 0; column < a.columns; column += kStep) {
    F sum[X][kVectors];
#pragma GCC unroll 8
    for (int c = 0; c < X; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[c][v] = V::load(a.sum + (t + c) * a.columns + column + v * V::kLanes);
    for (std::int64_t r = 0; r < a.rows; ++r) {
      const float* w = a.panel + r * a.columns + column;
      F wv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) V::keep(wv[v] = V::load(w + v * V::kLanes));
#pragma GCC unroll 8
      for (int c = 0; c < X; ++c) {
        const F xv = V::set1((a.x[t + c] + a.x_offset)[r]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[c][v] = V::fma(wv[v], xv, sum[c][v]);
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < X; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        V::store(a.sum + (t + c) * a.columns + column + v * V::kLanes, sum[c][v]);
  }
}

template <class V>
void absorb(const AbsorbArgs& a) {
  std::int64_t t = 0;
  for (; t + V::kHeads <= a.T; t += V::kHeads) absorb_of<V, V::kHeads>(a, t);
  for (; t < a.T; ++t) absorb_of<V, 1>(a, t);
}

// Scores of H heads against four keys: lanes along the dimensions.
template <class V, int H>
FATHOM_INLINE void scores_of(const AttendTileArgs& a, int head, int key, float* scores) {
  using F = typename V::F;
  F sum[4][H];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) sum[r][h] = V::zero();
  for (std::int64_t d = 0; d < a.dims; d += V::kLanes) {
    F kv[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) V::keep(kv[r] = V::load(a.keys + (key + r) * a.dims + d));
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) {
      const F qv = V::load(a.q + (head + h) * a.dims + d);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) sum[r][h] = V::fma(kv[r], qv, sum[r][h]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    float s[4];
    V::sum4(sum[0][h], sum[1][h], sum[2][h], sum[3][h], s);
    for (int r = 0; r < 4; ++r) scores[(head + h) * kKeyTile + key + r] = s[r] * a.softmax_scale;
  }
}

template <class V>
FATHOM_INLINE void scores(const AttendTileArgs& a, float* out) {
  for (int key = 0; key < a.n; key += 4) {
    int head = 0;
    for (; head + V::kHeads <= a.heads; head += V::kHeads) scores_of<V, V::kHeads>(a, head, key, out);
    for (; head < a.heads; ++head) scores_of<V, 1>(a, head, key, out);
  }
}

// Scores become probabilities relative to the tile's own maximum. Entries beyond n become zero.
template <class V>
FATHOM_INLINE void probabilities(float* s, int n, float* m, float* l) {
  using F = typename V::F;
  for (int k = n; k < kKeyTile; ++k) s[k] = -__builtin_inff();
  F top = V::load(s);
  for (int k = V::kLanes; k < kKeyTile; k += V::kLanes) top = V::max(top, V::load(s + k));
  *m = V::max_of(top);
  F sum = V::zero();
  for (int k = 0; k < kKeyTile; k += V::kLanes) {
    const F p = V::exp(V::add(V::load(s + k), V::set1(-*m)));
    V::store(s + k, p);
    sum = V::add(sum, p);
  }
  for (int k = n; k < kKeyTile; ++k) s[k] = 0;
  float sums[4];
  V::sum4(sum, sum, sum, sum, sums);
  *l = sums[0];
}

// o = sum over keys, in ascending order, of p * latent: lanes along the latent.
template <class V, int H>
FATHOM_INLINE void weighted_of(const AttendTileArgs& a, int head, const float* p) {
  using F = typename V::F;
  constexpr int kVectors = 4;
  std::int64_t c = 0;
  for (; c + kVectors * V::kLanes <= a.latent; c += kVectors * V::kLanes) {
    F sum[H][kVectors];
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[h][v] = V::zero();
    for (int k = 0; k < a.n; ++k) {
      F kv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) V::keep(kv[v] = V::load(a.keys + k * a.dims + c + v * V::kLanes));
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) {
        const F pv = V::set1(p[(head + h) * kKeyTile + k]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[h][v] = V::fma(pv, kv[v], sum[h][v]);
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) V::store(a.o + (head + h) * a.latent + c + v * V::kLanes, sum[h][v]);
  }
  for (; c < a.latent; c += V::kLanes)
    for (int h = 0; h < H; ++h) {
      F sum = V::zero();
      for (int k = 0; k < a.n; ++k)
        sum = V::fma(V::set1(p[(head + h) * kKeyTile + k]), V::load(a.keys + k * a.dims + c), sum);
      V::store(a.o + (head + h) * a.latent + c, sum);
    }
}

template <class V>
void attend_tile(const AttendTileArgs& a) {
  alignas(64) float p[kTileHeads * kKeyTile];
  scores<V>(a, p);
  for (int h = 0; h < a.heads; ++h) probabilities<V>(p + h * kKeyTile, a.n, a.m + h, a.l + h);
  int head = 0;
  for (; head + V::kHeads <= a.heads; head += V::kHeads) weighted_of<V, V::kHeads>(a, head, p);
  for (; head < a.heads; ++head) weighted_of<V, 1>(a, head, p);
}

template <class V>
void join(float* o, float a, const float* add, float b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += V::kLanes)
    V::store(o + i, V::fma(V::load(o + i), V::set1(a), V::mul(V::load(add + i), V::set1(b))));
}

template <class V>
FATHOM_INLINE typename V::F silu_times_of(typename V::F gate, typename V::F up) {
  const typename V::F e = V::exp(V::mul(gate, V::set1(-1.0f)));
  return V::mul(V::div(gate, V::add(V::set1(1.0f), e)), up);
}

// The last elements go through a padded copy: an element's bits do not depend on where a thread's share ends.
template <class V>
void silu_times(const float* gate, float* up, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes)
    V::store(up + i, silu_times_of<V>(V::load(gate + i), V::load(up + i)));
  if (i == n) return;
  float g[V::kLanes] = {}, u[V::kLanes] = {};
  for (std::int64_t k = i; k < n; ++k) g[k - i] = gate[k], u[k - i] = up[k];
  V::store(u, silu_times_of<V>(V::load(g), V::load(u)));
  for (std::int64_t k = i; k < n; ++k) up[k] = u[k - i];
}

template <class V>
constexpr Kernels kernels_of(Isa isa) {
  return {.isa = isa,
          .e4m3_unit = V::kE4m3Unit,
          .decode = decode<V>,
          .dot = dot<V>,
          .tile = tile<V>,
          .absorb = absorb<V>,
          .attend_tile = attend_tile<V>,
          .join = join<V>,
          .silu_times = silu_times<V>};
}

}  // namespace
}  // namespace fathom::cpu
