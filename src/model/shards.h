// Which shards a checkpoint has, and the check of every header before any of them is mapped.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/model/checkpoint.h"

namespace fathom {

// The checkpoint's own list of files: from model.safetensors.index.json, or without one from the directory.
struct ShardList {
  std::vector<std::string> names;                              // sorted, unique
  std::string index;                                           // name of the index file; empty without one
  std::map<std::string, std::string, std::less<>> weight_map;  // tensor -> file, with an index only
  std::uint64_t total_size = 0;  // of the index's metadata; 0 if it does not say
  std::vector<std::string> notes;
};

// Errors: bad_checkpoint (index malformed, several, naming files elsewhere), not_found (no weights at all),
// unsupported (weights in another container).
ShardList list_shards(const FileSet& files);

// One shard's header, read with pread and checked against the file's size.
struct ShardHeader {
  std::string name;
  std::uint64_t size = 0;
  FileIdentity identity;  // zero when in memory
  SafetensorsHeader header;
};

// Reads and checks every header. Errors: one that lists all bad shards at once.
std::vector<ShardHeader> read_shard_headers(const FileSet& files, const ShardList& list);

// Index against headers: every tensor where the index says, none in two shards. Returns notes.
// Errors: bad_checkpoint listing what disagrees.
std::vector<std::string> check_index(const ShardList& list, const std::vector<ShardHeader>& shards);

// What `hf download --local-dir` wrote beside a file: the repository's commit, and the file's etag (of a large file its
// SHA-256).
struct DownloadRecord {
  std::string commit, etag;
};
std::optional<DownloadRecord> download_record(const FileSet& files, const std::string& name);

// `error` with the command that downloads its file again as the remedy, if it says of a file of the checkpoint that it
// contradicts its format, and no remedy; else as it is.
Error with_repair(const FileSet& files, const Error& error);
// Runs `body`, whose errors are thrown on with_repair.
template <typename Body>
auto repairable(const FileSet& files, Body&& body) {
  try {
    return body();
  } catch (const Error& e) {
    throw with_repair(files, e);
  }
}

// "ORG/NAME" if the directory is a snapshot in the Hub cache, else the directory as given.
std::string display_name(const FileSet& files);

}  // namespace fathom
