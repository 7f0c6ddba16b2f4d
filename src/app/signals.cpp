#include "src/app/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace fathom::signals {
namespace {

std::atomic<int> arrived{0};  // signal number, 0: none
std::atomic<Mode> mode{Mode::leave};
std::atomic<void (*)()> restore_terminal{nullptr};
int wake_pipe[2] = {-1, -1};

// Async-signal-safe: atomics without locks, write() and _exit() only.
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<Mode>::is_always_lock_free);

void handle(int signal) {
  const int saved = errno;
  const Mode now = mode.load();
  const bool repeated = arrived.exchange(signal) != 0;
  if (now == Mode::leave || (now == Mode::stop && repeated)) {
    if (auto* restore = restore_terminal.load()) restore();
    ::_exit(128 + signal);
  }
  const char byte = 1;
  // A full pipe already wakes whoever listens.
  [[maybe_unused]] const ssize_t n = ::write(wake_pipe[1], &byte, 1);
  errno = saved;
}

}  // namespace

void install() {
  if (wake_pipe[0] < 0 && ::pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
    fail(Exit::io, "cannot make a pipe for signals: no free descriptors");
  struct sigaction action {};
  action.sa_handler = handle;
  ::sigemptyset(&action.sa_mask);
  // No SA_RESTART: a blocked read or write returns and asks whether to go on.
  for (int s : {SIGINT, SIGTERM, SIGHUP}) {
    // nohup and background jobs start with a signal ignored, and it stays ignored.
    struct sigaction old {};
    ::sigaction(s, nullptr, &old);
    if (old.sa_handler != SIG_IGN) ::sigaction(s, &action, nullptr);
  }
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, nullptr);
}

void set_mode(Mode m) { mode.store(m); }

std::optional<Exit> received() {
  switch (arrived.load()) {
    case 0: return std::nullopt;
    case SIGTERM: return Exit::terminated;
    case SIGHUP: return Exit::hangup;
    default: return Exit::interrupted;
  }
}

void clear() {
  arrived.store(0);
  char bytes[64];
  while (::read(wake_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

int wake_descriptor() { return wake_pipe[0]; }

void set_restore(void (*restore)()) { restore_terminal.store(restore); }

}  // namespace fathom::signals
