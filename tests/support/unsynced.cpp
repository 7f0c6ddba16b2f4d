#include "tests/support/unsynced.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

namespace fathom::test {
namespace {

namespace fs = std::filesystem;

// One file: what a reader sees, and what would survive.
struct Content {
  std::string cached, durable;
};
using Names = std::map<std::string, std::shared_ptr<Content>>;  // by path

enum class Loss { all, none, half, zeros };

std::string survivor(const Content& c, Loss loss) {
  if (loss == Loss::all) return c.durable;
  if (loss == Loss::none) return c.cached;
  const std::size_t common = static_cast<std::size_t>(
      std::mismatch(c.cached.begin(), c.cached.end(), c.durable.begin(), c.durable.end()).first -
      c.cached.begin());
  if (loss == Loss::half) return c.cached.substr(0, common + (c.cached.size() - common) / 2);
  return c.cached.substr(0, common) + std::string(c.cached.size() - common, '\0');
}

// A disk and its cache, moved on by the calls of a traced process.
class Disk {
 public:
  explicit Disk(const std::string& root) : root_(root) {
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      names_[entry.path()] = std::make_shared<Content>(Content{text, text});
    }
    durable_names_ = names_;
  }

  void opened(long fd, const std::string& path, int flags) {
    open_.erase(fd);
    if (!path.starts_with(root_)) return;
    Open o{path, nullptr, 0, (flags & O_APPEND) != 0};
    if (const auto found = names_.find(path); found != names_.end()) o.content = found->second;
    if (o.content == nullptr && (flags & O_CREAT)) o.content = names_[path] = std::make_shared<Content>();
    if (o.content != nullptr && (flags & O_TRUNC)) o.content->cached.clear();
    open_[fd] = std::move(o);
  }
  void closed(long fd) { open_.erase(fd); }
  void duplicated(long from, long to) {
    if (const auto o = open_.find(from); o != open_.end()) open_[to] = o->second;
  }
  bool watches(long fd) const { return open_.contains(fd); }
  void written(long fd, std::string_view bytes, std::optional<std::size_t> at) {
    Open& o = open_.at(fd);
    std::string& text = o.content->cached;
    const std::size_t begin = o.append ? text.size() : at.value_or(o.at);
    text.resize(std::max(text.size(), begin + bytes.size()));
    text.replace(begin, bytes.size(), bytes);
    if (!at) o.at = begin + bytes.size();
  }
  void truncated(long fd, std::size_t size) { open_.at(fd).content->cached.resize(size); }
  void synced(long fd) {
    const Open& o = open_.at(fd);
    if (o.content != nullptr) {
      o.content->durable = o.content->cached;
      return;
    }
    const auto below = [&](const std::string& path) { return fs::path(path).parent_path() == o.path; };
    std::erase_if(durable_names_, [&](const auto& name) { return below(name.first); });
    for (const auto& [path, content] : names_)
      if (below(path)) durable_names_[path] = content;
  }
  void renamed(const std::string& from, const std::string& to) {
    const auto found = names_.find(from);
    if (found == names_.end()) return;
    names_[to] = found->second;
    names_.erase(from);
  }
  void unlinked(const std::string& path) { names_.erase(path); }

  // Makes the directory what a crash now may leave.
  void materialise(bool durable_names, Loss loss) const {
    for (const auto& entry : fs::directory_iterator(root_)) fs::remove_all(entry.path());
    for (const auto& [path, content] : durable_names ? durable_names_ : names_) {
      fs::create_directories(fs::path(path).parent_path());
      std::ofstream(path, std::ios::binary) << survivor(*content, loss);
    }
  }

 private:
  struct Open {
    std::string path;
    std::shared_ptr<Content> content;  // none: a directory
    std::size_t at = 0;
    bool append = false;
  };
  std::string root_;
  Names names_, durable_names_;
  std::map<long, Open> open_;
};

std::string memory_of(pid_t pid, std::uint64_t address, std::size_t size) {
  std::string out(size, '\0');
  iovec here{out.data(), size}, there{reinterpret_cast<void*>(address), size};
  const ssize_t n = ::process_vm_readv(pid, &here, 1, &there, 1, 0);
  if (n < 0) throw std::runtime_error("cannot read the traced process");
  out.resize(static_cast<std::size_t>(n));
  return out;
}

std::string path_at(pid_t pid, std::uint64_t address) {
  std::string path;
  for (char c; (c = memory_of(pid, address + path.size(), 1)[0]) != '\0';) path += c;
  return path;
}

// Moves a disk on; true if it changed what a crash may leave.
using Change = std::function<bool(Disk&)>;

// What a call that succeeded does; nothing for a call that touches no file.
Change change_of(pid_t pid, std::uint64_t number, const std::array<std::uint64_t, 6>& a,
                 std::int64_t result) {
  const long fd = static_cast<long>(a[0]);
  const auto rename = [&](std::uint64_t from, std::uint64_t to) -> Change {
    return [from = path_at(pid, from), to = path_at(pid, to)](Disk& d) { return d.renamed(from, to), true; };
  };
  const auto unlink = [&](std::uint64_t path) -> Change {
    return [path = path_at(pid, path)](Disk& d) { return d.unlinked(path), true; };
  };
  switch (number) {
    case SYS_openat:
      return [path = path_at(pid, a[1]), flags = static_cast<int>(a[2]), result](Disk& d) {
        return d.opened(result, path, flags), (flags & (O_CREAT | O_TRUNC)) != 0;
      };
    case SYS_close:
      return [fd](Disk& d) { return d.closed(fd), false; };
    case SYS_fcntl:
      if (a[1] != F_DUPFD_CLOEXEC && a[1] != F_DUPFD) return {};
      return [fd, result](Disk& d) { return d.duplicated(fd, result), false; };
    case SYS_write:
    case SYS_pwrite64:
      return [fd, bytes = memory_of(pid, a[1], static_cast<std::size_t>(result)),
              at = number == SYS_write ? std::nullopt : std::optional<std::size_t>(a[3])](Disk& d) {
        return d.watches(fd) && (d.written(fd, bytes, at), true);
      };
    case SYS_ftruncate:
      return [fd, size = a[1]](Disk& d) { return d.watches(fd) && (d.truncated(fd, size), true); };
    case SYS_fsync:
    case SYS_fdatasync:
      return [fd](Disk& d) { return d.watches(fd) && (d.synced(fd), true); };
#ifdef SYS_rename
    case SYS_rename:
      return rename(a[0], a[1]);
    case SYS_unlink:
      return unlink(a[0]);
#endif
    case SYS_renameat:
    case SYS_renameat2:
      return rename(a[1], a[3]);
    case SYS_unlinkat:
      return unlink(a[1]);
#ifdef SYS_open
    case SYS_open:
    case SYS_creat:
#endif
    case SYS_dup:
    case SYS_writev:
    case SYS_pwritev:
    case SYS_truncate:
    case SYS_linkat:
    case SYS_copy_file_range:
    case SYS_sendfile:
      throw std::runtime_error("a system call that this test does not know: " + std::to_string(number));
    default:
      return {};
  }
}

constexpr int kRefused = 77, kFailed = 78;

pid_t start(const std::function<void()>& save) {
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("no process");
  if (pid != 0) return pid;
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(kRefused);
  ::raise(SIGSTOP);
  try {
    save();
  } catch (...) {
    ::_exit(kFailed);
  }
  ::_exit(0);
}

// The changes that `save` makes, in order; nothing when this machine lets no process trace another.
std::optional<std::vector<Change>> changes_of(const std::function<void()>& save) {
  const pid_t pid = start(save);
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFEXITED(status)) return std::nullopt;
  ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  std::vector<Change> changes;
  struct __ptrace_syscall_info entry{};
  struct __ptrace_syscall_info now{};
  for (;;) {
    ::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    ::waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return changes;
    if (!WIFSTOPPED(status)) throw std::runtime_error("the traced function failed");
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof now, &now) <= 0)
      throw std::runtime_error("no word of the call");
    if (now.op == PTRACE_SYSCALL_INFO_ENTRY) entry = now;
    if (now.op != PTRACE_SYSCALL_INFO_EXIT || now.exit.is_error) continue;
    std::array<std::uint64_t, 6> arguments;
    std::copy_n(entry.entry.args, 6, arguments.begin());
    if (Change change = change_of(pid, entry.entry.nr, arguments, now.exit.rval))
      changes.push_back(std::move(change));
  }
}

}  // namespace

std::size_t after_power_loss(const std::string& directory, const std::function<void()>& save,
                             const std::function<void()>& check) {
  Disk disk(directory);
  const auto changes = changes_of(save);
  if (!changes) return 0;
  std::size_t states = 0;
  for (const Change& change : *changes) {
    if (!change(disk)) continue;
    for (const bool durable_names : {true, false})
      for (const Loss loss : {Loss::all, Loss::none, Loss::half, Loss::zeros}) {
        disk.materialise(durable_names, loss);
        check();
        ++states;
      }
  }
  disk.materialise(false, Loss::none);
  return states;
}

}  // namespace fathom::test
