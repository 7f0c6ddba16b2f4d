#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace fathom::test {
namespace {

using Clock = std::chrono::steady_clock;

void read_some(int& fd, std::string& into) {
  char buffer[1 << 16];
  const ssize_t n = ::read(fd, buffer, sizeof buffer);
  if (n > 0) {
    into.append(buffer, static_cast<std::size_t>(n));
  } else {
    ::close(fd);
    fd = -1;
  }
}

[[noreturn]] void start(const Process& process, int in, int out, int err) {
  ::setpgid(0, 0);  // so that a timeout ends what a shell has started, too
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  ::signal(SIGPIPE, SIG_DFL);
  std::vector<std::string> words;
  if (process.shell.empty()) {
    words.push_back(program());
    words.insert(words.end(), process.args.begin(), process.args.end());
  } else {
    words = {"/bin/sh", "-c", process.shell};
  }
  std::vector<std::string> variables{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/proc/nonexistent", "LC_ALL=C.UTF-8",
                                     "FATHOM=" + program()};
  for (const auto& [name, value] : process.variables) variables.push_back(name + "=" + value);
  std::vector<char*> argv, envp;
  for (std::string& w : words) argv.push_back(w.data());
  for (std::string& v : variables) envp.push_back(v.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

}  // namespace

std::string program() {
  if (const char* p = ::getenv("FATHOM_BINARY")) return std::filesystem::absolute(p);
  // BUILD/tests/all and BUILD/fathom.
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "fathom";
}

Outcome run(const Process& process) {
  int in[2] = {-1, -1}, out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  if (process.input) {
    if (::pipe2(in, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  } else {
    in[0] = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  const auto begin = Clock::now();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("no process");
  if (pid == 0) start(process, in[0], out[1], err[1]);
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  ::signal(SIGPIPE, SIG_IGN);
  if (in[1] >= 0) ::fcntl(in[1], F_SETFL, O_NONBLOCK);

  Outcome outcome;
  std::string_view left = process.input ? std::string_view(*process.input) : std::string_view();
  bool timed_out = false, signalled = false;
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  while (out[0] >= 0 || err[0] >= 0) {
    if (in[1] >= 0 && left.empty()) {
      ::close(in[1]);
      in[1] = -1;
    }
    pollfd fds[3] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}, {in[1], POLLOUT, 0}};
    ::poll(fds, 3, 20);
    if (out[0] >= 0 && fds[0].revents != 0) read_some(out[0], outcome.out);
    if (err[0] >= 0 && fds[1].revents != 0) read_some(err[0], outcome.err);
    if (in[1] >= 0 && fds[2].revents != 0) {
      const ssize_t n = ::write(in[1], left.data(), left.size());
      left.remove_prefix(n > 0 ? static_cast<std::size_t>(n) : left.size());
    }
    if (!timed_out && elapsed() > process.timeout_s) {
      timed_out = true;
      ::kill(-pid, SIGKILL);
    }
    if (process.signal != 0 && !signalled && elapsed() > process.signal_after_s) {
      signalled = true;
      ::kill(pid, process.signal);
    }
  }
  if (in[1] >= 0) ::close(in[1]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  outcome.seconds = elapsed();
  outcome.code = timed_out ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = std::filesystem::temp_directory_path() / "fathom-test-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::file(const std::string& name, std::string_view content) const {
  const std::string path = path_ + "/" + name;
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  return path;
}

}  // namespace fathom::test
