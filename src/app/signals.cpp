#include "src/app/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
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
  int none = 0;
  // The first reason stays: a time limit that passes while a Ctrl-C is being obeyed changes nothing.
  const bool first = arrived.compare_exchange_strong(none, signal);
  if (now == Mode::leave || (now == Mode::stop && !first && signal != SIGALRM)) {
    if (auto* restore = restore_terminal.load()) restore();
    if (signal == SIGALRM) {
      constexpr char kMessage[] = "fathom: the time given with --timeout is over\n";
      [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kMessage, sizeof kMessage - 1);
    }
    ::_exit(signal == SIGALRM ? static_cast<int>(Exit::timeout) : 128 + signal);
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
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGALRM}) {
    // nohup and background jobs start with a signal ignored, and it stays ignored.
    struct sigaction old {};
    ::sigaction(s, nullptr, &old);
    if (old.sa_handler != SIG_IGN) ::sigaction(s, &action, nullptr);
  }
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  // The write that meets a closed pipe or a file size limit fails and says so.
  for (int s : {SIGPIPE, SIGXFSZ}) ::sigaction(s, &ignore, nullptr);
}

void set_mode(Mode m) { mode.store(m); }

void set_time_limit(std::int64_t ms) {
  const itimerval limit{{0, 0}, {ms / 1000, ms % 1000 * 1000}};
  ::setitimer(ITIMER_REAL, &limit, nullptr);
}

std::optional<Exit> received() {
  switch (arrived.load()) {
    case 0: return std::nullopt;
    case SIGTERM: return Exit::terminated;
    case SIGHUP: return Exit::hangup;
    case SIGALRM: return Exit::timeout;
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
