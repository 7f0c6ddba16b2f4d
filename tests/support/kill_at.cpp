#include "tests/support/kill_at.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

namespace fathom::test {
namespace {

constexpr int kRefused = 77, kFailed = 78;

[[noreturn]] void child(const std::function<void()>& body) {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(kRefused);
  ::raise(SIGSTOP);
  try {
    body();
  } catch (...) {
    ::_exit(kFailed);
  }
  ::_exit(0);
}

int wait_for(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) throw std::runtime_error("waitpid failed");
  return status;
}

}  // namespace

Killed kill_at(long stop, const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("no process");
  if (pid == 0) child(body);
  int status = wait_for(pid);
  if (WIFEXITED(status)) return Killed::refused;
  ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  for (long seen = 0; seen < stop;) {
    if (::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) != 0) throw std::runtime_error("cannot go on tracing");
    status = wait_for(pid);
    if (WIFEXITED(status)) {
      if (WEXITSTATUS(status) != 0) throw std::runtime_error("the traced function failed");
      return Killed::finished;
    }
    if (WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80)) ++seen;
  }
  ::kill(pid, SIGKILL);
  wait_for(pid);
  return Killed::yes;
}

}  // namespace fathom::test
