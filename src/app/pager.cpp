#include "src/app/pager.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "src/base/descriptor.h"
#include "src/base/error.h"

namespace fathom {
namespace {

// Ctrl-C belongs to the pager while it runs.
class InterruptIgnored {
 public:
  InterruptIgnored() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGINT, &ignore, &before_);
  }
  ~InterruptIgnored() { ::sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

[[noreturn]] void become_pager(const std::string& pager, int input) {
  ::dup2(input, STDIN_FILENO);
  for (const int s : {SIGINT, SIGPIPE}) ::signal(s, SIG_DFL);
  ::setenv("LESS", "FRX", 0);  // as git does: nothing is left behind, and a short text needs no key
  ::execl("/bin/sh", "sh", "-c", pager.c_str(), nullptr);
  ::_exit(127);
}

// False when there was no pager.
bool page(const std::string& pager, std::string_view text) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  const InterruptIgnored quiet;
  const pid_t child = ::fork();
  if (child == 0) become_pager(pager, ends[0]);
  ::close(ends[0]);
  if (child > 0) {
    try {
      write_descriptor(ends[1], text, "the pager");
    } catch (const Error&) {
      // Left before the end: the reader has seen enough.
    }
  }
  ::close(ends[1]);
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 127);
}

}  // namespace

void show_text(Terminal& terminal, const Environment& environment, std::string_view text) {
  Screen& out = terminal.out();
  const auto lines = std::count(text.begin(), text.end(), '\n');
  const bool paged =
      out.is_terminal() && terminal.stdin_is_terminal() && environment.pager && lines >= out.height();
  if (paged && page(*environment.pager, text)) return;
  out.raw(text);
}

}  // namespace fathom
