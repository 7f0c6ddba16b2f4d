// A checkpoint exactly as Hugging Face publishes it: shards mapped read-only, their headers checked before
// anything else is touched.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/base/file.h"
#include "src/base/tensor.h"

namespace fathom {

// One safetensors header, checked against every rule of the format (reliability.md).
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the start of the data section
};

struct SafetensorsHeader {
  std::uint64_t data_offset = 0;  // of the data section in the file: 8 + header length
  std::vector<TensorEntry> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<std::string> notes;  // acceptable oddities, for -v
};

// Parses and checks the header of a safetensors file of `file_size` bytes. `prefix` holds its first 8 + N
// bytes (or the whole file when shorter). Errors: bad_checkpoint, unsupported (unknown dtype), each naming
// `where` and the offset.
SafetensorsHeader parse_safetensors_header(Bytes prefix, std::uint64_t file_size, std::string_view where);

struct CheckpointOptions {
  bool mmap = true;
  // Called after each shard that was mapped or read, with bytes of all of them.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

class Checkpoint {
 public:
  // Reads index and headers of every shard, checks every size, then maps. All bad shards are listed at once.
  // Errors: not_found, bad_checkpoint, unsupported, io.
  static Checkpoint open(FileSet files, const CheckpointOptions& options = {});

  const FileSet& files() const { return files_; }
  // nullptr when there is no such tensor.
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  struct Shard {
    std::string name;
    std::uint64_t size = 0;
    std::uint64_t header_bytes = 0;  // 8 + header length: where the data begin
    FileIdentity identity;           // zero when in memory
    Blob blob;
    bool mapped = false;             // the blob is a mapping of the file, unless that was refused
  };
  const std::vector<Shard>& shards() const { return shards_; }
  // Index of the shard that holds `name`.
  std::size_t shard_of(std::string_view name) const;
  // SHA-256 of config.json, all safetensors headers and sizes, as 64 hex digits.
  std::string fingerprint() const;
  const std::vector<std::string>& notes() const { return notes_; }
  // Throws io if a shard is no longer the file that was opened.
  void check_unchanged() const;

 private:
  Checkpoint(FileSet files) : files_(std::move(files)) {}
  FileSet files_;
  std::vector<Shard> shards_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::unordered_map<std::string, std::size_t> shard_of_;
  std::vector<std::string> notes_;
};

}  // namespace fathom
