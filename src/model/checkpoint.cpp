#include "src/model/checkpoint.h"

#include <array>

#include "src/base/error.h"
#include "src/base/sha256.h"
#include "src/base/text.h"
#include "src/model/shards.h"

namespace fathom {
namespace {

[[noreturn]] void fail_changed(const std::string& name) {
  throw Error(Exit::io, fmt::format("{}: the file was changed while in use", name),
              "run again once nothing writes to the checkpoint")
      .at(name);
}

Blob map_shard(const FileSet& files, const ShardHeader& shard, bool use_mmap) {
  if (const auto bytes = files.memory_bytes(shard.name)) return Blob(*bytes, nullptr);
  const File file = files.open(shard.name);
  if (file.identity() != shard.identity) fail_changed(shard.name);
  return map_file(file, use_mmap);
}

}  // namespace

Checkpoint Checkpoint::open(FileSet files, const CheckpointOptions& options) {
  const ShardList list = list_shards(files);
  std::vector<ShardHeader> headers = read_shard_headers(files, list);
  Checkpoint c(std::move(files));
  c.notes_ = check_index(list, headers);
  std::uint64_t total = 0, done = 0;
  for (const ShardHeader& h : headers) total += h.size;
  for (ShardHeader& h : headers) {
    Blob blob = map_shard(c.files_, h, options.mmap);
    const std::byte* data = blob.bytes().data() + h.header.data_offset;
    for (TensorEntry& t : h.header.tensors) {
      c.shard_of_.emplace(t.name, c.shards_.size());
      TensorView view{t.dtype, std::move(t.shape), data + t.begin, t.end - t.begin};
      c.tensors_.emplace(std::move(t.name), std::move(view));
    }
    done += h.size;
    if (options.progress) options.progress(done, total);
    c.shards_.push_back({std::move(h.name), h.size, h.header.data_offset, h.identity, std::move(blob), options.mmap && c.files_.on_disk()});
  }
  return c;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

std::size_t Checkpoint::shard_of(std::string_view name) const {
  const auto at = shard_of_.find(std::string(name));
  if (at == shard_of_.end()) fail(Exit::failure, "no tensor {} in the checkpoint", printable(name));
  return at->second;
}

std::string Checkpoint::fingerprint() const {
  Sha256 hash;
  if (files_.has("config.json")) hash.update(files_.read("config.json", 64u << 20).bytes());
  for (const Shard& s : shards_) {
    hash.update(s.blob.bytes().first(s.header_bytes));
    std::array<std::byte, 8> size;
    for (std::size_t i = 0; i < 8; ++i) size[i] = static_cast<std::byte>(s.size >> (8 * i));
    hash.update(size);
  }
  return hash.hex_digest();
}

void Checkpoint::check_unchanged() const {
  if (!files_.on_disk()) return;
  for (const Shard& s : shards_)
    if (!files_.has(s.name) || files_.open(s.name).identity() != s.identity) fail_changed(s.name);
}

}  // namespace fathom
