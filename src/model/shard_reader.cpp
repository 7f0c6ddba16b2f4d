#include "src/model/shard_reader.h"

#include <cstring>
#include <functional>

#include "src/base/error.h"

namespace fathom {
namespace {

bool holds(const Checkpoint::Shard& s, const std::byte* from, std::size_t bytes) {
  const Bytes all = s.blob.bytes();
  const std::less_equal<const std::byte*> before;
  return s.mapped && before(all.data(), from) && before(from + bytes, all.data() + all.size());
}

}  // namespace

const File* ShardReader::file_of(const Checkpoint::Shard& shard) {
  if (&shard != shard_) {
    shard_ = &shard;
    file_.reset();
    try {
      File file = checkpoint_.files().open(shard.name);
      if (file.identity() == shard.identity) file_.emplace(std::move(file));
    } catch (const Error&) {
      // The mapping has the bytes.
    }
  }
  return file_ ? &*file_ : nullptr;
}

void ShardReader::read(const std::byte* from, std::span<std::byte> to) {
  const Checkpoint::Shard* found = shard_ != nullptr && holds(*shard_, from, to.size()) ? shard_ : nullptr;
  for (const Checkpoint::Shard& s : checkpoint_.shards())
    if (found == nullptr && holds(s, from, to.size())) found = &s;
  const File* file = found == nullptr ? nullptr : file_of(*found);
  if (file == nullptr)
    std::memcpy(to.data(), from, to.size());
  else
    file->read_at(static_cast<std::uint64_t>(from - found->blob.bytes().data()), to);
}

}  // namespace fathom
