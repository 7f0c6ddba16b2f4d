// Reading mapped shards through their files.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include "src/base/faults.h"
#include "src/model/shard_reader.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"

using namespace fathom;
using test::code_of;

namespace {

struct Copy {
  Copy() {
    for (const auto& entry : std::filesystem::directory_iterator("tests/goldens/v3"))
      if (entry.is_regular_file())
        std::filesystem::copy(entry.path(), folder.file(entry.path().filename().string()));
  }
  Checkpoint open(bool mmap = true) const {
    return Checkpoint::open(FileSet::directory(folder.file("")), {.mmap = mmap, .progress = {}});
  }
  test::TempDir folder;
};

// Whether every tensor is read as the mapping has it.
bool reads_all(const Checkpoint& checkpoint) {
  ShardReader reader(checkpoint);
  std::vector<std::byte> got;
  for (const auto& [name, view] : checkpoint.tensors()) {
    got.assign(view.bytes, std::byte{0xee});
    reader.read(view.data, got);
    if (std::memcmp(got.data(), view.data, got.size()) != 0) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a shard reader gives the bytes of the mapping, from the file or without it") {
  const Copy copy;
  const Checkpoint checkpoint = copy.open();
  CHECK(reads_all(checkpoint));
  CHECK(reads_all(copy.open(false)));
  std::byte local[5] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}}, got[5];
  ShardReader reader(checkpoint);
  reader.read(local, got);  // of no shard
  CHECK(std::memcmp(local, got, sizeof got) == 0);
  // The bytes do come from the file: that it cannot be read is an error.
  const Checkpoint::Shard& shard = checkpoint.shards().front();
  faults::arm(faults::Site::io, 2, false);  // the first opens it
  std::vector<std::byte> some(64);
  ShardReader failing(checkpoint);
  CHECK(code_of([&] { failing.read(shard.blob.bytes().data(), some); }) == Exit::io);
  faults::disarm();
}

TEST_CASE("a shard reader takes the mapping's bytes where the file is gone or another one") {
  const Copy copy;
  const Checkpoint checkpoint = copy.open();
  const std::string path = copy.folder.file(checkpoint.shards().front().name);
  const auto size = std::filesystem::file_size(path);
  std::filesystem::remove(path);
  CHECK(reads_all(checkpoint));
  copy.folder.write(checkpoint.shards().front().name, std::string(size, 'x'));
  CHECK(reads_all(checkpoint));
  faults::arm(faults::Site::io, 1, true);
  CHECK(reads_all(checkpoint));  // nothing can be opened
  faults::disarm();
}
