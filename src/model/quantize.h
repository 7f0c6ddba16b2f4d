// BF16, F16 or F32 checkpoint -> FP8 checkpoint in the published layout: e4m3 with one F32 scale per 128x128
// block.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "src/base/threads.h"
#include "src/model/checkpoint.h"

namespace fathom {

struct QuantizeProgress {
  std::string shard;                  // being written
  std::uint64_t done = 0, total = 0;  // bytes of the source's tensors
};

struct QuantizeReport {
  std::uint64_t quantised = 0, copied = 0;          // tensors
  std::uint64_t bytes_before = 0, bytes_after = 0;  // of all tensors
};

// Whether a tensor is quantised: the weights of attention's and MLPs' linear layers, routed and shared
// experts too. Embedding, head, norms, router, bias and MTP's eh_proj keep their type.
bool is_quantised_weight(std::string_view name);

// Writes directory `destination` (absent or empty): shards under their own names, index, config.json with
// quantization_config, and every other text or tokenizer file. Memory is bounded by one band of 128 rows,
// whatever the tensor. config.json comes last: a destination without it is unfinished. A block's scale is
// amax / 448 (1 if all its values are 0), its codes e4m3(x / scale), to nearest even. Errors: those of
// opening, reading and binding `source`; unsupported if it is FP8 already; usage if destination is not empty;
// bad_checkpoint for a NaN or infinite weight; io.
QuantizeReport quantize_checkpoint(const FileSet& source, const std::string& destination, Threads& threads,
                                   const std::function<void(const QuantizeProgress&)>& progress = {});

// One row-major block row: `rows` <= 128 rows of `cols` F32 values -> codes (rows, cols) and ceil(cols / 128)
// scales. False if a value is not finite.
bool quantize_band(const float* values, std::int64_t rows, std::int64_t cols, std::uint8_t* codes,
                   float* scales, Threads& threads);

}  // namespace fathom
