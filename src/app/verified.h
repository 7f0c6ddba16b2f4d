// What `verify --hash` has hashed before: reading 700 GB again takes half an hour, and nothing of it has
// changed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"

namespace fathom {

// A file as it was when it was hashed.
struct VerifiedFile {
  FileIdentity file;
  std::string sha256;  // 64 hex digits
  bool operator==(const VerifiedFile&) const = default;
};

// "DEVICE INODE SIZE MTIME CTIME SHA256\n", times in nanoseconds. The hash comes last, so that a line that a
// crash has cut is none.
std::string verified_line(const VerifiedFile& entry);
// Lines that are not of this form are left out: the file is untrusted input like any other.
std::vector<VerifiedFile> parse_verified(std::string_view text);

// The saved hashes, $XDG_CACHE_HOME/fathom/verified (0600). An entry counts as long as all five of the file's
// device, inode, size and times are what they were; one for a file that is gone or changed is never found
// again and ages out. Losing the cache only costs time, so nothing here throws. Several processes may use it
// at once: lines are appended under a lock.
class VerifiedFiles {
 public:
  static constexpr std::size_t kMaxFiles = 4096;  // kept; the newest
  // path: empty for none. A link, another user's file or one that others may write to is not read and not
  // written.
  explicit VerifiedFiles(std::string path);

  // The SHA-256 of a file with this identity; nothing if it is not known.
  std::optional<std::string> find(const FileIdentity& file) const;
  // `hashed_at`: when hashing began, nanoseconds since 1970. A file changed within the two seconds before is
  // not kept: a change in the same tick of its clock would not be seen.
  void add(const VerifiedFile& entry, std::int64_t hashed_at);
  // Why nothing is kept; empty if all is well.
  const std::string& trouble() const { return trouble_; }

 private:
  void load();
  void append(const std::string& line);
  std::string path_, trouble_;
  std::vector<VerifiedFile> entries_;  // oldest first
  std::size_t lines_ = 0;              // in the file
};

}  // namespace fathom
