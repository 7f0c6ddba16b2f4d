#include "src/base/descriptor.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom {
namespace {

[[noreturn]] void fail_io(std::string_view name, std::string_view what, int e) {
  if (e == EPIPE) throw Error(Exit::broken_pipe, fmt::format("{}: the reader is gone", name));
  throw Error(Exit::io, fmt::format("{}: {}: {}", name, what, std::generic_category().message(e)))
      .at(std::string(name));
}

void check_interrupted(const std::function<bool()>& interrupted) {
  if (interrupted && interrupted()) throw Error(Exit::interrupted, "interrupted");
}

// Waits until `fd` is ready for `events`. A signal wakes the wait, and the question is asked again.
void wait_ready(int fd, short events, const std::function<bool()>& interrupted) {
  for (;;) {
    check_interrupted(interrupted);
    pollfd p{fd, events, 0};
    if (::poll(&p, 1, -1) >= 0 || errno != EINTR) return;
  }
}

}  // namespace

void write_descriptor(int fd, std::string_view text, std::string_view name, const std::function<bool()>& interrupted) {
  while (!text.empty()) {
    if (faults::trip(faults::Site::io)) fail_io(name, "cannot write", EIO);
    // At most what a pipe takes at once, so that a signal finds us between writes.
    const ssize_t n = ::write(fd, text.data(), std::min<std::size_t>(text.size(), 1u << 16));
    if (n >= 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EINTR) {
      check_interrupted(interrupted);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_ready(fd, POLLOUT, interrupted);  // somebody made the shared terminal non-blocking
    } else {
      fail_io(name, "cannot write", errno);
    }
  }
}

std::size_t read_descriptor(int fd, std::span<char> out, std::string_view name,
                            const std::function<bool()>& interrupted) {
  for (;;) {
    wait_ready(fd, POLLIN, interrupted);
    if (faults::trip(faults::Site::io)) fail_io(name, "cannot read", EIO);
    const ssize_t n = ::read(fd, out.data(), out.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) fail_io(name, "cannot read", errno);
  }
}

bool wait_readable(int fd, int timeout_ms) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, timeout_ms) > 0;
}

std::string read_input(int fd, std::uint64_t max_bytes, std::string_view name,
                       const std::function<bool()>& interrupted) {
  std::string text;
  std::vector<char> buffer(1u << 16);
  while (const std::size_t n = read_descriptor(fd, buffer, name, interrupted)) {
    text.append(buffer.data(), n);
    if (text.size() > max_bytes)
      throw Error(Exit::io, fmt::format("{}: more than {} bytes", name, max_bytes), "give a larger --max-input")
          .at(std::string(name));
  }
  return text;
}

std::string read_input(const std::string& path, std::uint64_t max_bytes, const std::function<bool()>& interrupted) {
  int fd = -1;
  do {
    fd = faults::trip(faults::Site::io) ? (errno = EIO, -1) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 && errno == EINTR) check_interrupted(interrupted);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int e = errno;
    if (e == EIO || e == EMFILE || e == ENFILE) fail_io(path, "cannot open", e);
    throw Error(Exit::not_found, fmt::format("{}: cannot open: {}", path, std::generic_category().message(e))).at(path);
  }
  try {
    std::string text = read_input(fd, max_bytes, path, interrupted);
    ::close(fd);
    return text;
  } catch (...) {
    ::close(fd);
    throw;
  }
}

int open_for_writing(const std::string& path) {
  for (;;) {
    const int fd = faults::trip(faults::Site::io) ? (errno = EIO, -1)
                                                  : ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0) return fd;
    if (errno != EINTR) fail_io(path, "cannot open for writing", errno);
  }
}

void close_descriptor(int fd, std::string_view name) {
  if (::close(fd) != 0 && errno != EINTR) fail_io(name, "cannot close", errno);
}

void reserve_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free descriptor is taken, which is this one. Reading gives end of file; writing vanishes.
    if (::open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) return;
  }
}

}  // namespace fathom
