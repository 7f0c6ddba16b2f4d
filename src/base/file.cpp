#include "src/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/sigbus.h"

namespace fathom {
namespace {

std::string errno_text(int e) { return std::generic_category().message(e); }

// Runs a system call, retrying EINTR; an injected fault looks like EIO.
template <typename Call>
auto system_call(Call call) -> decltype(call()) {
  if (faults::trip(faults::Site::io)) {
    errno = EIO;
    return -1;
  }
  decltype(call()) r;
  do {
    r = call();
  } while (r < 0 && errno == EINTR);
  return r;
}

[[noreturn]] void fail_io(std::string_view what, const std::string& path, int e) {
  throw Error(Exit::io, fmt::format("{}: {}: {}", path, what, errno_text(e))).at(path);
}

FileIdentity identity_of(const struct stat& s) {
  const auto ns = [](const timespec& t) { return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; };
  return {s.st_dev, s.st_ino, static_cast<std::uint64_t>(s.st_size), ns(s.st_mtim), ns(s.st_ctim)};
}

// Makes the names in the directory `path` survive a power loss.
void sync_directory(const std::string& path) {
  const int dir = system_call([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (dir < 0) fail_io("cannot open the directory to sync it", path, errno);
  const int synced = system_call([&] { return ::fsync(dir); });
  const int e = errno;
  ::close(dir);
  // Some file systems cannot sync a directory; the change itself has happened.
  if (synced != 0 && e != EINVAL && e != ENOTSUP) fail_io("cannot sync the directory", path, e);
}

bool same_regular_file(const struct stat& a, const struct stat& b) {
  return S_ISREG(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string real_path(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return {};
  std::string r = resolved;
  std::free(resolved);
  return r;
}

}  // namespace

// -- File ---------------------------------------------------------------------------------------------------------

File File::open_read(const std::string& path) {
  std::string name = path;  // copied first: once the descriptor is open, nothing may throw before a File owns it
  // O_NONBLOCK: opening a FIFO must not wait for a writer. It has no effect on regular files.
  const int fd = system_call([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); });
  if (fd < 0) {
    const int e = errno;
    if (e == EIO || e == ESTALE || e == EMFILE || e == ENFILE) fail_io("cannot open", path, e);
    throw Error(e == ELOOP || e == ENXIO ? Exit::bad_checkpoint : Exit::not_found,
                fmt::format("{}: cannot open: {}", path, errno_text(e)))
        .at(path);
  }
  struct stat s{};
  if (::fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
    ::close(fd);
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected a regular file, found something else", path)).at(path);
  }
  return File(fd, std::move(name), identity_of(s));
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), identity_(other.identity_) {}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const std::size_t chunk = std::min<std::size_t>(out.size(), 1u << 30);
    const ssize_t n = system_call([&] { return ::pread(fd_, out.data(), chunk, static_cast<off_t>(offset)); });
    if (n < 0) {
      const int e = errno;
      throw Error(Exit::io, fmt::format("{}: cannot read at byte {}: {}", path_, offset, errno_text(e)))
          .at(path_, offset);
    }
    if (n == 0)
      throw Error(Exit::io, fmt::format("{}: file ends at byte {}: it was changed while in use", path_, offset))
          .at(path_, offset);
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

Blob map_file(const File& file, bool use_mmap) {
  const std::size_t size = file.size();
  if (size == 0) return {};
  if (use_mmap && !faults::trip(faults::Site::io)) {
    void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (p != MAP_FAILED) {
      auto watch = std::make_unique<sigbus::Watch>(p, size, file.path());
      std::shared_ptr<const void> owner(p, [size, watch = std::move(watch)](const void* q) mutable {
        watch.reset();
        ::munmap(const_cast<void*>(q), size);
      });
      return Blob({static_cast<const std::byte*>(p), size}, std::move(owner));
    }
  }
  auto buffer = std::make_shared<std::vector<std::byte>>(size);
  file.read_at(0, *buffer);
  const Bytes view(*buffer);
  return Blob(view, std::move(buffer));
}

bool on_network_file_system(const std::string& path) {
  struct statfs s{};
  if (::statfs(path.c_str(), &s) != 0) return false;
  constexpr std::array<std::uint32_t, 10> kMagic{
      0x6969,      // NFS
      0x517b,      // SMB
      0xff534d42,  // CIFS
      0xfe534d42,  // SMB2
      0x0bd00bd0,  // Lustre
      0x00c36400,  // Ceph
      0x5346414f,  // AFS
      0x01021997,  // 9p
      0x47504653,  // GPFS
      0x65735546,  // FUSE
  };
  return std::find(kMagic.begin(), kMagic.end(), static_cast<std::uint32_t>(s.f_type)) != kMagic.end();
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat s{};
  struct stat t{};
  return ::stat(a.c_str(), &s) == 0 && ::stat(b.c_str(), &t) == 0 && same_regular_file(s, t);
}

bool same_file(const std::string& path, int fd) {
  struct stat s{};
  struct stat t{};
  return ::stat(path.c_str(), &s) == 0 && ::fstat(fd, &t) == 0 && same_regular_file(s, t);
}

void make_directory(const std::string& path, mode_t mode) {
  struct stat s{};
  if (system_call([&] { return ::mkdir(path.c_str(), mode); }) == 0) return;
  const int e = errno;
  if (e != EEXIST || ::stat(path.c_str(), &s) != 0 || !S_ISDIR(s.st_mode)) fail_io("cannot create the directory", path, e);
}

bool owned_by_us(const std::string& path) {
  struct stat s{};
  return ::stat(path.c_str(), &s) == 0 && s.st_uid == ::geteuid();
}

std::string read_file(const std::string& path, std::uint64_t max_bytes) {
  const File f = File::open_read(path);
  if (f.size() > max_bytes)
    throw Error(Exit::bad_checkpoint,
                fmt::format("{}: expected at most {} bytes, found {}", path, max_bytes, f.size()))
        .at(path);
  std::string text(f.size(), '\0');
  f.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// -- AtomicFile ---------------------------------------------------------------------------------------------------

namespace {

// PATH.fathom-PID-N.tmp
constexpr std::string_view kTemporary = ".fathom-", kTemporaryEnd = ".tmp";

struct Closer {
  int fd;
  ~Closer() {
    if (fd >= 0) ::close(fd);
  }
};

// False when another open file holds the lock. True on a file system that knows no locks.
bool lock_now(int fd) { return ::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

bool is_temporary_of(std::string_view base, std::string_view name) {
  if (!name.starts_with(base)) return false;
  name.remove_prefix(base.size());
  if (!name.starts_with(kTemporary) || !name.ends_with(kTemporaryEnd)) return false;
  name.remove_prefix(kTemporary.size());
  name.remove_suffix(std::min(name.size(), kTemporaryEnd.size()));
  return !name.empty() && name.find_first_not_of("0123456789-") == name.npos;
}

// Removes `path` if it is a file of this user that no process has locked.
void remove_unlocked(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return;
  struct stat s {};
  if (::fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == ::geteuid() &&
      ::flock(fd, LOCK_EX | LOCK_NB) == 0)
    ::unlink(path.c_str());
  ::close(fd);
}

// Removes what killed processes left of earlier saves of `path`. Whatever cannot be read or removed stays.
void remove_abandoned(const std::string& path) {
  const std::string parent = parent_of(path);
  const std::string base = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(parent.c_str()), &::closedir);
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir.get()))
    if (is_temporary_of(base, entry->d_name)) remove_unlocked(fmt::format("{}/{}", parent, entry->d_name));
}

}  // namespace

AtomicFile::AtomicFile(std::string path, mode_t mode) : path_(std::move(path)) {
  remove_abandoned(path_);
  for (int attempt = 0; !create(attempt, mode); ++attempt)
    if (attempt > 100) fail_io("cannot create", temporary_, EEXIST);
}

bool AtomicFile::create(int attempt, mode_t mode) {
  temporary_ = fmt::format("{}{}{}-{}{}", path_, kTemporary, ::getpid(), attempt, kTemporaryEnd);
  const int fd = system_call(
      [&] { return ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode); });
  if (fd < 0 && errno == EEXIST) return false;
  if (fd < 0) fail_io("cannot create", temporary_, errno);
  // Somebody who tidies up may have found the file before the lock was on it.
  struct stat s {};
  if (!lock_now(fd) || (::fstat(fd, &s) == 0 && s.st_nlink == 0)) {
    ::close(fd);
    return false;
  }
  fd_ = fd;
  return true;
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = system_call([&] { return ::write(fd_, bytes.data(), bytes.size()); });
    if (n < 0) fail_io("cannot write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void AtomicFile::write_at(std::uint64_t offset, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        system_call([&] { return ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (n < 0) fail_io("cannot write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void AtomicFile::commit() {
  if (system_call([&] { return ::fsync(fd_); }) != 0) fail_io("cannot sync", path_, errno);
  // The lock outlives the descriptor, until the file has its name.
  const Closer lock{system_call([&] { return ::fcntl(fd_, F_DUPFD_CLOEXEC, 0); })};
  if (lock.fd < 0) fail_io("cannot duplicate the descriptor", path_, errno);
  // close() is not retried on EINTR: the descriptor is gone either way.
  const int closed = faults::trip(faults::Site::io) ? (::close(fd_), errno = EIO, -1) : ::close(fd_);
  fd_ = -1;
  if (closed != 0 && errno != EINTR) fail_io("cannot close", path_, errno);
  if (system_call([&] { return ::rename(temporary_.c_str(), path_.c_str()); }) != 0)
    fail_io("cannot rename into place", path_, errno);
  temporary_.clear();
  sync_directory(parent_of(path_));
}

// -- AppendFile ---------------------------------------------------------------------------------------------------

AppendFile::AppendFile(std::string path, mode_t mode, Links links) : path_(std::move(path)) {
  const int flags = O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY |
                    (links == Links::refuse ? O_NOFOLLOW : 0);
  fd_ = system_call([&] { return ::open(path_.c_str(), flags, mode); });
  if (fd_ < 0 && errno == ELOOP)
    throw Error(Exit::io, fmt::format("{}: expected a file, found a symbolic link", path_)).at(path_);
  if (fd_ < 0) fail_io("cannot open", path_, errno);
  struct stat s{};
  if (::fstat(fd_, &s) != 0 || !S_ISREG(s.st_mode)) {
    ::close(std::exchange(fd_, -1));
    throw Error(Exit::io, fmt::format("{}: expected a regular file, found something else", path_)).at(path_);
  }
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);  // releases the lock
}

bool AppendFile::lock(bool wait) {
  int r;
  do r = ::flock(fd_, LOCK_EX | (wait ? 0 : LOCK_NB));
  while (r != 0 && errno == EINTR);
  return r == 0 || errno != EWOULDBLOCK;
}

void AppendFile::unlock() { ::flock(fd_, LOCK_UN); }

bool AppendFile::current() const {
  struct stat here{}, there{};
  return ::fstat(fd_, &here) == 0 && ::stat(path_.c_str(), &there) == 0 && here.st_dev == there.st_dev &&
         here.st_ino == there.st_ino;
}

bool AppendFile::owned_by_us() const {
  struct stat s{};
  return ::fstat(fd_, &s) == 0 && s.st_uid == ::geteuid();
}

bool AppendFile::others_may_write() const {
  struct stat s{};
  return ::fstat(fd_, &s) != 0 || (s.st_mode & (S_IWGRP | S_IWOTH)) != 0;
}

std::uint64_t AppendFile::size() const {
  struct stat s{};
  if (::fstat(fd_, &s) != 0) fail_io("cannot read the size of", path_, errno);
  return static_cast<std::uint64_t>(s.st_size);
}

std::string AppendFile::tail(std::uint64_t max_bytes) const {
  const std::uint64_t end = size(), begin = end > max_bytes ? end - max_bytes : 0;
  std::string text(end - begin, '\0');
  std::size_t at = 0;
  while (at < text.size()) {
    const ssize_t n = system_call(
        [&] { return ::pread(fd_, text.data() + at, text.size() - at, static_cast<off_t>(begin + at)); });
    if (n < 0) fail_io("cannot read", path_, errno);
    if (n == 0) break;
    at += static_cast<std::size_t>(n);
  }
  text.resize(at);
  return text;
}

void AppendFile::append(std::string_view record, bool sync) {
  const std::uint64_t before = size();
  const ssize_t n = system_call([&] { return ::write(fd_, record.data(), record.size()); });
  if (n != static_cast<ssize_t>(record.size())) {
    const int e = n < 0 ? errno : ENOSPC;
    // Undone as well as it can be; a reader drops an incomplete last record anyway.
    if (n > 0 && ::ftruncate(fd_, static_cast<off_t>(before)) != 0) fail_io("cannot write", path_, e);
    fail_io("cannot write", path_, e);
  }
  if (sync && system_call([&] { return ::fsync(fd_); }) != 0 && errno != EINVAL) fail_io("cannot sync", path_, errno);
}

void AppendFile::sync_name() const { sync_directory(parent_of(path_)); }

void AppendFile::truncate(std::uint64_t bytes) {
  if (system_call([&] { return ::ftruncate(fd_, static_cast<off_t>(bytes)); }) != 0) fail_io("cannot cut", path_, errno);
}

void make_directories(const std::string& path) {
  for (std::size_t slash = path.find('/', 1); !path.empty(); slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) {
      const int e = errno;
      struct stat s{};
      // A read-only or foreign parent that is there is no obstacle.
      if (::stat(part.c_str(), &s) != 0 || !S_ISDIR(s.st_mode)) fail_io("cannot create the directory", part, e);
    }
    if (slash == path.npos) return;
  }
}

// -- FileSet ------------------------------------------------------------------------------------------------------

FileSet FileSet::directory(const std::string& path) {
  struct stat s{};
  if (::stat(path.c_str(), &s) != 0)
    throw Error(Exit::not_found, fmt::format("{}: {}", path, errno_text(errno)),
                "give a directory that holds config.json and *.safetensors").at(path);
  if (!S_ISDIR(s.st_mode))
    throw Error(Exit::not_found, fmt::format("{}: expected a directory", path)).at(path);
  if (::access(path.c_str(), R_OK | X_OK) != 0)
    throw Error(Exit::not_found, fmt::format("{}: the directory is not readable: {}", path, errno_text(errno))).at(path);
  FileSet set;
  set.label_ = path;
  return set;
}

FileSet FileSet::memory(std::string label, std::vector<MemoryFile> files) {
  FileSet set;
  set.label_ = std::move(label);
  set.files_ = std::move(files);
  std::sort(set.files_.begin(), set.files_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return set;
}

std::vector<std::string> FileSet::list() const {
  std::vector<std::string> names;
  for (const MemoryFile& f : files_) names.push_back(f.name);
  if (!on_disk()) return names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(label_.c_str()), &::closedir);
  if (dir == nullptr) fail(Exit::not_found, "{}: cannot list: {}", label_, errno_text(errno));
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<Bytes> FileSet::memory_bytes(std::string_view name) const {
  for (const MemoryFile& f : files_)
    if (f.name == name) return f.bytes;
  return std::nullopt;
}

bool FileSet::has(std::string_view name) const {
  if (!on_disk()) return memory_bytes(name).has_value();
  struct stat s{};
  return ::lstat((label_ + "/" + std::string(name)).c_str(), &s) == 0;
}

std::optional<std::string> FileSet::link_target(std::string_view name) const {
  if (!on_disk()) return std::nullopt;
  std::array<char, PATH_MAX> target;
  const ssize_t n = ::readlink((label_ + "/" + std::string(name)).c_str(), target.data(), target.size());
  if (n < 0) return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(n));
}

std::optional<std::string> FileSet::read_below(const std::string& relative, std::uint64_t max_bytes) const {
  if (!on_disk()) return std::nullopt;
  const std::string path = real_path(label_ + "/" + relative), root = real_path(label_);
  if (root.empty() || !path.starts_with(root == "/" ? root : root + "/")) return std::nullopt;
  try {
    return read_file(path, max_bytes);
  } catch (const Error&) {
    return std::nullopt;
  }
}

Blob FileSet::read(std::string_view name, std::uint64_t max_bytes) const {
  const auto too_large = [&](std::uint64_t size) {
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected at most {} bytes, found {}", name, max_bytes, size))
        .at(std::string(name));
  };
  if (!on_disk()) {
    const auto bytes = memory_bytes(name);
    if (!bytes) throw Error(Exit::not_found, fmt::format("{}: no file {}", label_, name)).at(std::string(name));
    if (bytes->size() > max_bytes) too_large(bytes->size());
    return Blob(*bytes, nullptr);
  }
  const File f = open(name);
  if (f.size() > max_bytes) too_large(f.size());
  return map_file(f, false);  // small: a copy cannot change under the parser
}

File FileSet::open(std::string_view name) const {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
                     name.find('\0') == name.npos;
  if (!plain)
    throw Error(Exit::bad_checkpoint, fmt::format("file name {:?}: expected a plain name inside the directory", name));
  const std::string path = label_ + "/" + std::string(name);
  struct stat s{};
  if (::lstat(path.c_str(), &s) != 0)
    throw Error(Exit::not_found, fmt::format("{}: {}", path, errno_text(errno))).at(std::string(name));
  if (S_ISLNK(s.st_mode)) {
    const std::string target = real_path(path);
    const std::string root = real_path(label_);
    // Hub layout: <repo>/snapshots/<commit>/<file> -> <repo>/blobs/<hash>.
    const std::string blobs = parent_of(parent_of(root)) + "/blobs/";
    const bool inside = !root.empty() && (target.starts_with(root + "/") || target.starts_with(blobs));
    if (target.empty())
      throw Error(Exit::bad_checkpoint, fmt::format("{}: a symbolic link that leads nowhere", path)).at(std::string(name));
    if (!inside)
      throw Error(Exit::bad_checkpoint,
                  fmt::format("{}: a symbolic link out of the directory; only the Hub cache's blobs are followed", path))
          .at(std::string(name));
  }
  return File::open_read(path);
}

}  // namespace fathom
