// Reading a mapped checkpoint through its files.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "src/base/file.h"
#include "src/model/checkpoint.h"

namespace fathom {

// Copies bytes of the mapped shards by reading their files: bytes that are needed once, on their way to a
// GPU, then cost no page table entries, neither to make nor to take down (16 GB: a quarter of a second at the
// end). For one thread; keeps at most one file open. `checkpoint` must outlive it.
class ShardReader {
 public:
  explicit ShardReader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  // Fills `to` with the bytes at `from`. From memory where they belong to no mapped shard, or where its file
  // is no longer there or another one. Errors: io naming file and offset.
  void read(const std::byte* from, std::span<std::byte> to);

 private:
  const File* file_of(const Checkpoint::Shard& shard);
  const Checkpoint& checkpoint_;
  const Checkpoint::Shard* shard_ = nullptr;  // that was looked at last
  std::optional<File> file_;                  // of shard_; empty: not to be had
};

}  // namespace fathom
