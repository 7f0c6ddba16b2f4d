// Takes tensors out of a checkpoint by name, checks shape and dtype, and remembers everything that does not
// fit, so that one error lists it all.
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "src/model/checkpoint.h"
#include "src/model/config.h"
#include "src/model/linear.h"

namespace fathom {

// Which matrices may be FP8: the linear layers of attention and MLPs. Embedding, head, router and eh_proj may
// not.
enum class Quantisable { no, yes };

class Binder {
 public:
  Binder(const Checkpoint& checkpoint, const Config& config) : checkpoint_(checkpoint), config_(config) {}

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  // A vector of n values as F32. Stored BF16, F16 or F32.
  std::vector<float> vector(const std::string& name, std::int64_t n);
  // A matrix (rows, cols): BF16, F16, F32 or, where allowed, FP8 e4m3 with its grid `name` + "_scale_inv".
  Linear matrix(const std::string& name, std::int64_t rows, std::int64_t cols, Quantisable quantisable);
  // Counts a tensor as known without using it.
  void know(const std::string& name);

  // Throws one error for all that is missing, wrong (bad_checkpoint) or of a type not run (unsupported).
  void check() const;
  // Bytes, as stored, of all tensors taken so far, each counted once.
  std::int64_t bytes() const { return bytes_; }
  // Names in the checkpoint that were not taken, without leftovers that all loaders ignore.
  std::vector<std::string> unknown() const;

 private:
  const TensorView* take(const std::string& name);
  // Notes a problem; at the thousandth it gives up, so that a config of a billion experts costs nothing.
  void wrong(const std::string& name, std::string problem);
  bool check_shape(const std::string& name, const TensorView& t, const std::vector<std::int64_t>& shape);
  // The scale grid of an FP8 weight; nullptr after noting what is wrong with it.
  const TensorView* take_scale(const std::string& name, std::int64_t rows, std::int64_t cols);
  Linear fp8_matrix(const std::string& name, const TensorView& weight);

  const Checkpoint& checkpoint_;
  const Config& config_;
  std::unordered_set<const TensorView*> taken_;
  std::vector<std::string> problems_, unsupported_;
  std::int64_t bytes_ = 0;
};

// Refuses checkpoints whose tensors have other names than Hugging Face's: the original DeepSeek release,
// fused experts of transformers 5, packed 4-bit weights, multimodal wrappers. Errors: unsupported, with what
// to use instead.
void check_naming(const Checkpoint& checkpoint);

}  // namespace fathom
