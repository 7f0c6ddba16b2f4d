// Weights on their way from memory into registers, for kernels in which a warp owns pieces of rows.
//
// An item is a piece of R rows (two: of gate and up, or of neighbouring rows) that share the input's columns:
// at most kItemVectors vectors of 16 bytes per lane and item. A lane always has that many loads in flight:
// each is issued for the next item as soon as the vector before it has been used, so no register waits for
// its successor.
//
//   step s of a row, lane l: columns [s 32 V + l V, + V), V = 16 (FP8), 8 (BF16), 4 (F32): 512 bytes
#pragma once

#include <algorithm>

#include "cuda/kernel.cuh"

namespace fathom::cuda {

inline constexpr int kItemVectors = 8;
template <int R>
inline constexpr int kItemSteps = kItemVectors / R;

// Rows of `steps` steps are cut into 2^n parts of at most `most` steps, whatever the number of rows.
inline int parts_log2(int steps, int most) {
  int n = 0;
  while (steps > most << n) ++n;
  return n;
}
// Two blocks share a multiprocessor, if their input leaves room; a block has an item for each warp, and no
// more than there is room for sums.
inline int blocks_of(const Launch& on, int items, int staged_floats) {
  const int full = on.multiprocessors * (staged_floats > 24 * 1024 ? 1 : 2);
  return std::max(std::min((items + kWarps - 1) / kWarps, full), (items + 1023) / 1024);
}

// Steps [step, end) of R rows; end - step <= kItemSteps<R>.
template <int R>
struct Item {
  const std::byte* codes[R];  // this lane's vector of the first step
  const float* scale[R];      // this lane's of the first step; FP8 only
  int step;
  int steps = 0;
  int left = 0;  // vectors from this lane's first to the end of the piece
};

// Scales of a matrix without.
static __device__ const float kOnes[4 * kItemVectors] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Row r of the item is row `row` of m, whose codes and scales may lie elsewhere than m says. item.step is
// set.
template <Code C, int R>
__device__ __forceinline__ void point_at(Item<R>& item, int r, const Matrix& m, const std::byte* codes,
                                         const float* scale, int row) {
  const int lane = threadIdx.x % 32;
  item.codes[r] = codes + static_cast<std::int64_t>(row) * m.row_bytes + (item.step * 32 + lane) * 16;
  if constexpr (C == Code::e4m3)
    item.scale[r] =
        scale == nullptr
            ? kOnes
            : scale + static_cast<unsigned>(row + m.row_shift) / 128u * static_cast<unsigned>(m.scale_cols) +
                  static_cast<unsigned>((item.step * 32 + lane) * 16 + m.col_shift) / 128u;
}
// The item is steps [step, end) of rows of `row_bytes`.
template <int R>
__device__ __forceinline__ void cut(Item<R>& item, int step, int end, int row_bytes) {
  item.step = step, item.steps = end - step;
  item.left = min(item.steps * 32, row_bytes / 16 - step * 32) - static_cast<int>(threadIdx.x % 32);
}

// Vector i of an item: row i % R, step i / R.
struct Vector {
  uint4 v;
  float scale;
};
// Zeros beyond the end, which count nothing.
template <Code C, int R>
__device__ __forceinline__ void load_vector(Vector& to, const Item<R>& item, int i) {
  const bool inside = i / R * 32 < item.left;
  to.v = load_weights(item.codes[i % R] + i / R * 512, inside);
  if constexpr (C == Code::e4m3) to.scale = load_scale(item.scale[i % R] + i / R * 4, inside);
}

// sum[t] += vector times staged row t, whose step lies at x + t * columns.
template <Code C, int TT>
__device__ __forceinline__ void add_vector(float (&sum)[TT], const Vector& from, const float* x,
                                           int columns) {
  constexpr int V = Vec<C>::kValues;
  float w[V];
  Vec<C>::decode(from.v, w);
#pragma unroll
  for (int t = 0; t < TT; ++t) {
    const float dot = dot_step<V>(w, x + t * columns, threadIdx.x % 32);
    sum[t] = C == Code::e4m3 ? __fmaf_rn(dot, from.scale, sum[t]) : __fadd_rn(sum[t], dot);
  }
}

// Uses up an item and asks for the next, two vectors at a time. __syncwarp is for the compiler, which would
// delay the loads before it until they are needed.
template <Code C, int TT, int R>
__device__ __forceinline__ void add_item(float (&sum)[R][TT], Vector (&vector)[kItemVectors], int steps,
                                         const float* x, int columns, const Item<R>& next) {
#pragma unroll
  for (int first = 0; first < kItemVectors; first += 2) {
    __syncwarp();
#pragma unroll
    for (int s = first / R; s < first / R + 2 / R; ++s)
      if (s < steps)
#pragma unroll
        for (int r = 0; r < R; ++r)
          add_vector<C>(sum[r], vector[s * R + r], x + s * 32 * Vec<C>::kValues, columns);
#pragma unroll
    for (int i = first; i < first + 2; ++i) load_vector<C>(vector[i], next, i);
  }
}

}  // namespace fathom::cuda
