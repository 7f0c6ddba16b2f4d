#include "tests/support/pty.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utmp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace fathom::test {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::milliseconds left(Clock::time_point end) {
  return std::max(std::chrono::milliseconds(0), std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()));
}

}  // namespace

Pty::Pty(const std::function<int()>& child, int rows, int columns) {
  winsize size{};
  size.ws_row = static_cast<unsigned short>(rows);
  size.ws_col = static_cast<unsigned short>(columns);
  // The slave stays open here too, so that its modes can be read after the program has ended.
  if (::openpty(&master_, &slave_, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
  // The test program's own handlers are not the child's: no signal reaches it before they are gone.
  sigset_t all, before;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, &before);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::close(master_);
    ::login_tty(slave_);
    for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGSEGV, SIGABRT, SIGFPE, SIGILL}) ::signal(s, SIG_DFL);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::_exit(child());
  }
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  ::fcntl(master_, F_SETFL, O_NONBLOCK);
}

Pty::~Pty() {
  if (status_ < 0 && pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (master_ >= 0) ::close(master_);
  if (slave_ >= 0) ::close(slave_);
}

bool Pty::read_some(std::chrono::milliseconds timeout) {
  if (master_ < 0) return false;
  pollfd p{master_, POLLIN, 0};
  if (::poll(&p, 1, static_cast<int>(timeout.count())) <= 0) return false;
  char buffer[65536];
  const ssize_t n = ::read(master_, buffer, sizeof buffer);
  if (n > 0) transcript_.append(buffer, static_cast<std::size_t>(n));
  return n > 0;
}

void Pty::send(std::string_view keys) {
  const auto end = Clock::now() + std::chrono::seconds(20);
  while (!keys.empty() && Clock::now() < end) {
    const ssize_t n = ::write(master_, keys.data(), std::min<std::size_t>(keys.size(), 1024));
    if (n > 0) keys.remove_prefix(static_cast<std::size_t>(n));
    read_some(std::chrono::milliseconds(n > 0 ? 0 : 5));
  }
}

bool Pty::expect(std::string_view text, std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  for (;;) {
    const std::size_t at = transcript_.find(text, seen_);
    if (at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (Clock::now() >= end) return false;
    read_some(std::min(left(end), std::chrono::milliseconds(50)));
  }
}

std::string Pty::settle(std::chrono::milliseconds silence) {
  while (read_some(silence)) {}
  const std::string out = transcript_.substr(seen_);
  seen_ = transcript_.size();
  return out;
}

termios Pty::modes() const {
  termios t{};
  ::tcgetattr(slave_, &t);
  return t;
}

void Pty::resize(int rows, int columns) {
  winsize size{};
  size.ws_row = static_cast<unsigned short>(rows);
  size.ws_col = static_cast<unsigned short>(columns);
  ::ioctl(master_, TIOCSWINSZ, &size);
}

void Pty::signal(int number) const { ::kill(pid_, number); }

int Pty::wait(std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  while (status_ < 0) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    if (Clock::now() >= end) return -1;
    read_some(std::chrono::milliseconds(2));
  }
  while (read_some(std::chrono::milliseconds(0))) {}
  return status_;
}

void Pty::hang_up() {
  ::close(std::exchange(slave_, -1));
  ::close(std::exchange(master_, -1));
}

bool same_modes(const termios& a, const termios& b) {
  return a.c_iflag == b.c_iflag && a.c_oflag == b.c_oflag && a.c_cflag == b.c_cflag && a.c_lflag == b.c_lflag &&
         std::memcmp(a.c_cc, b.c_cc, sizeof a.c_cc) == 0;
}

std::string plain(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b' && i + 1 < text.size()) {
      if (text[++i] == '[')
        for (++i; i < text.size() && (text[i] < '@' || text[i] > '~'); ++i) {}
    } else if (text[i] != '\r') {
      out += text[i];
    }
  }
  return out;
}

}  // namespace fathom::test
