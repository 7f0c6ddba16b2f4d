// Writing checkpoints: one safetensors shard at a time, streamed, and the index of several.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "src/base/file.h"
#include "src/model/checkpoint.h"

namespace fathom {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

// One safetensors file as Hugging Face's library writes it: tensors ordered by type (wider types first) and
// name, the header padded to a multiple of 8. Nothing appears under `path` until commit().
class ShardWriter {
 public:
  ShardWriter(std::string path, std::vector<TensorInfo> tensors);

  // The tensors in the order of the file: their data are best written in it.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  // Bytes of the data section.
  std::uint64_t data_bytes() const { return data_bytes_; }
  // Writes bytes of tensor `index` of tensors(), `offset` bytes into it. Every byte is to be written exactly
  // once.
  void write(std::size_t index, std::uint64_t offset, Bytes bytes);
  // Errors: failure if not all bytes were written; io.
  void commit();

 private:
  AtomicFile file_;
  std::string path_;
  std::vector<TensorEntry> tensors_;
  std::uint64_t data_offset_ = 0, data_bytes_ = 0, written_ = 0;
};

// model.safetensors.index.json. `weight_map`: tensor -> plain file name; total_size: bytes of all data
// sections.
void write_index(const std::string& path, const std::map<std::string, std::string>& weight_map,
                 std::uint64_t total_size);

}  // namespace fathom
