// The one door to the file system: reading, mapping and atomic writing. Fault injection sits here (faults::Site::io).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

using Bytes = std::span<const std::byte>;

inline std::string_view as_text(Bytes b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }
inline Bytes as_bytes_of(std::string_view s) { return {reinterpret_cast<const std::byte*>(s.data()), s.size()}; }

// What identifies the content of a file without reading it.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t mtime_ns = 0, ctime_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

// A regular file open for reading. Never blocks on a FIFO or device.
class File {
 public:
  // Errors: not_found (absent, unreadable), bad_checkpoint (not a regular file), io.
  static File open_read(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }
  std::uint64_t size() const { return identity_.size; }
  // Fills `out` from byte `offset`; retries EINTR and short reads. Errors: io naming path and offset.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;
  int descriptor() const { return fd_; }

 private:
  File(int fd, std::string path, FileIdentity id) : fd_(fd), path_(std::move(path)), identity_(id) {}
  int fd_;
  std::string path_;
  FileIdentity identity_;
};

// Bytes that stay valid as long as a copy of the handle lives: a private read-only mapping, a heap buffer or a region
// of the executable.
class Blob {
 public:
  Blob() = default;
  Blob(Bytes bytes, std::shared_ptr<const void> owner) : bytes_(bytes), owner_(std::move(owner)) {}
  Bytes bytes() const { return bytes_; }
  std::string_view text() const { return as_text(bytes_); }

 private:
  Bytes bytes_;
  std::shared_ptr<const void> owner_;
};

// Maps a whole file privately and read-only (PROT_READ), or reads it into memory where mapping is refused or
// `use_mmap` is false. A SIGBUS in the mapping is reported by name (see src/base/sigbus.h). Errors: as open_read, io.
Blob map_file(const File& file, bool use_mmap = true);

// True if `path` lies on a network or user-space file system (NFS, SMB, Lustre, FUSE ...), where reading is safer than
// mapping: a lost server would arrive as SIGBUS. False when it cannot be told.
bool on_network_file_system(const std::string& path);

// True if both name one regular file, links followed; the second may be an open descriptor. False when either
// is absent.
bool same_file(const std::string& a, const std::string& b);
bool same_file(const std::string& path, int fd);

// Creates the directory `path` (its parent exists) unless it is there. Errors: io.
void make_directory(const std::string& path, mode_t mode = 0777);

// True if `path` exists and belongs to the user that we act as.
bool owned_by_us(const std::string& path);

// Reads a whole small file. Errors: not_found, io; `too_large` is thrown when it exceeds max_bytes.
std::string read_file(const std::string& path, std::uint64_t max_bytes);

// Writes `path` so that a reader, or a crash at any moment, sees the old content or the new one: temporary
// file in the same directory (O_EXCL, mode), fsync, rename, fsync of the directory. Not committed: the
// temporary is removed. What a killed process left of an earlier save of `path` is removed too: the writer of
// a temporary file holds a lock on it.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path, mode_t mode = 0644);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();
  void write(Bytes bytes);
  void write(std::string_view text) { write(as_bytes_of(text)); }
  // Overwrites bytes already written, at `offset`.
  void write_at(std::uint64_t offset, Bytes bytes);
  void commit();

 private:
  // Opens a new temporary file; false when the name is taken.
  bool create(int attempt, mode_t mode);
  std::string path_, temporary_;
  int fd_ = -1;
};

// A regular file that grows by whole records under an advisory lock (flock): history, sessions, batch results.
class AppendFile {
 public:
  enum class Links { refuse, follow };
  // Opens `path` for reading and appending and creates it with `mode` when absent. Errors: io (cannot be opened, a
  // refused link, not a regular file).
  explicit AppendFile(std::string path, mode_t mode = 0600, Links links = Links::refuse);
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;
  ~AppendFile();

  const std::string& path() const { return path_; }
  // Takes the exclusive lock, held until unlock() or the end. False when another process holds it and `wait` is false.
  // True on a file system that knows no locks.
  bool lock(bool wait);
  void unlock();
  // True while `path` still names this file: false after another process has put a new one in its place.
  bool current() const;
  bool owned_by_us() const;
  // True when the file's mode lets its group or everybody write.
  bool others_may_write() const;
  std::uint64_t size() const;
  // The last `max_bytes` of the file, or all of it. Errors: io.
  std::string tail(std::uint64_t max_bytes) const;
  // Appends `record` with one write and, if asked, syncs it. Errors: io; a record written in part is cut off again.
  void append(std::string_view record, bool sync);
  // Makes the name of a new file survive a power loss, as a synced append does its content. Errors: io.
  void sync_name() const;
  // Cuts the file to `size` bytes. Errors: io.
  void truncate(std::uint64_t size);

 private:
  std::string path_;
  int fd_ = -1;
};

// Creates the directory `path` and its parents, each with mode 0700. Errors: io.
void make_directories(const std::string& path);

// The files of one checkpoint directory by plain name, on disk or in memory (the built-in model): one code path.
class FileSet {
 public:
  struct MemoryFile {
    std::string name;
    Bytes bytes;
  };
  // Errors: not_found if `path` is no readable directory.
  static FileSet directory(const std::string& path);
  static FileSet memory(std::string label, std::vector<MemoryFile> files);

  // The directory's path, or the label: for messages.
  const std::string& label() const { return label_; }
  bool on_disk() const { return files_.empty(); }
  // Plain names present, sorted.
  std::vector<std::string> list() const;
  bool has(std::string_view name) const;
  // A text-sized file. Errors: not_found; bad_checkpoint when larger than max_bytes.
  Blob read(std::string_view name, std::uint64_t max_bytes) const;
  // The open file behind `name` on disk. Refused (bad_checkpoint): a name with '/', NUL or "..", a symlink that leaves
  // the directory except into the Hub cache's `blobs/` beside `snapshots/`. Errors: not_found.
  File open(std::string_view name) const;
  // A small file at `relative`, which may lie in a subdirectory ("a/b"); nothing when there is none on disk, when it cannot
  // be read or is larger than max_bytes, and when a symbolic link on the way leaves the directory.
  std::optional<std::string> read_below(const std::string& relative, std::uint64_t max_bytes) const;
  // Where `name` points if it is a symbolic link, as written in it; nothing otherwise.
  std::optional<std::string> link_target(std::string_view name) const;
  // In-memory bytes of `name`; nothing when on disk.
  std::optional<Bytes> memory_bytes(std::string_view name) const;

 private:
  std::string label_;
  std::vector<MemoryFile> files_;
};

}  // namespace fathom
