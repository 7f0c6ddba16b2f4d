// y = W x for any number of rows of x, FP32 accumulation, over every WeightFormat. The bits of a row of y
// depend on its row of x and on the instruction set: not on the other rows, not on their number, not on the
// number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/base/numerics.h"
#include "src/base/threads.h"
#include "src/cpu/kernels.h"
#include "src/model/linear.h"

namespace fathom::cpu {

// What a pass computes on.
struct Machine {
  Threads& threads;
  const Kernels& kernels;
};

// body(begin, end) over n rows of light work (a norm, a rounding): the team is woken only for eight rows or
// more.
void for_rows(Threads& threads, std::int64_t n, FunctionRef<void(std::int64_t, std::int64_t)> body);

// Uninitialised floats at a cache line's border. Errors: out_of_memory.
class Floats {
 public:
  Floats() = default;
  explicit Floats(std::int64_t n);
  float* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
};

// The rounding that Numerics asks of a linear's input.
struct Rounding {
  ActivationType type = ActivationType::f32;
  bool ue8m0 = false;  // fp8: scales are rounded up to powers of two
};

// Rows of x laid out for products with `w`: columns grouped as w's scale blocks are (a slice's first block
// may be short), zero-padded to blocks of 128. Fill row(t)[0, cols), then finish().
class Input {
 public:
  Input(const Linear& w, std::int64_t rows);
  // The same, filled from (rows, w.cols) and finished.
  Input(const Machine& m, const Linear& w, std::span<const float> x, Rounding rounding);

  float* row(std::int64_t t) { return data_.data() + t * stride_ + lead_; }
  std::int64_t rows() const { return rows_; }
  // Rounds every row in place. Before it, and only for f32, products read the rows as they are.
  void finish(const Machine& m, Rounding rounding);
  // The same in parts, for rows that are filled at different times: prepare() once and before any row is
  // finished, then finish_rows() for every row, on any threads.
  void prepare(Rounding rounding);
  void finish_rows(std::int64_t begin, std::int64_t end, Rounding rounding);

  // For the products: rows and scales (null unless fp8) as w's blocks see them.
  const float* blocks(std::int64_t t) const { return data_.data() + t * stride_; }
  const float* scales(std::int64_t t) const {
    return scales_.empty() ? nullptr : scales_.data() + t * (stride_ / kBlock);
  }
  std::int64_t lead() const { return lead_; }
  std::int64_t block_count() const { return stride_ / kBlock; }

 private:
  void round_row(std::int64_t t, Rounding rounding);
  std::int64_t rows_, cols_, lead_, stride_;
  Floats data_;
  std::vector<float> scales_;
};

// One row of an Input and where its product goes.
struct ProductRow {
  const float* x;
  const float* x_scale;
  float* y;
};

// y[i] = row (begin + i) of W x for i in [0, end - begin), for every row of x, on the calling thread.
// Precondition: all rows come from Inputs laid out for `w` (or for a weight with the same columns and scale
// groups).
void product(const Kernels& k, const Linear& w, std::int64_t begin, std::int64_t end,
             std::span<const ProductRow> rows);

// Rows of `w`, a multiple of kPanelRows, that are worth a thread for `rows` rows of x: smaller shares cost
// more to hand over than to compute.
std::int64_t share_rows(const Linear& w, std::int64_t rows);

// All of y (x.rows(), w.rows), on all threads that have work enough.
void product(const Machine& m, const Linear& w, const Input& x, float* y);

// y[t] = W^T x[t]: (w.cols rounded up to 16) values each, for x[t] of w.rows values, on the calling thread.
// Where the format has scales by blocks of rows, they multiply the FP32 sum over those rows.
void transposed_product(const Kernels& k, const Linear& w, std::span<const float* const> x,
                        std::span<float* const> y);

// act_quant: codes of x (up to 128 values) as floats in place; returns the scale.
float quantise_block(std::span<float> x, bool ue8m0);

}  // namespace fathom::cpu
