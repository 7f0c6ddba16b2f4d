// Odd machines (reliability.md 125, 177, 179 to 181): no arguments at all, no /proc, calls that a sandbox forbids, a
// stopped process, a user without a home. The same answer, or a documented exit code.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <vector>

#include "src/base/file.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

using namespace fathom;

namespace {

const std::vector<std::string> kAsk = {"run", "-m",       "models/minnow", "--backend", "cpu", "--threads",
                                       "2",   "--greedy", "--no-history",  "-n",        "8",   "hi"};

bool redirect(const char* path, int flags, int to) {
  const int fd = ::open(path, flags, 0600);
  return fd >= 0 && ::dup2(fd, to) == to;
}

// Runs the program in a child that `prepare` has changed (false: it could not); what it wrote to standard output and how it
// ended, 128 + signal when killed.
std::pair<int, std::string> run_after(const std::function<bool()>& prepare, std::vector<std::string> args) {
  const test::TempDir dir;
  const std::string out = dir.file("out"), program = test::program();
  args.insert(args.begin(), program);
  std::vector<char*> argv;
  for (std::string& a : args) argv.push_back(a.data());
  argv.push_back(nullptr);
  constexpr int kRefused = 99;
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (!redirect(out.c_str(), O_WRONLY | O_CREAT, 1) || !redirect("/dev/null", O_RDONLY, 0) || !prepare()) ::_exit(kRefused);
    ::execv(program.c_str(), argv.data());
    ::_exit(kRefused);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out, 1 << 20)};
}

// Makes the kernel answer `calls` with EPERM, in this process and what it executes.
bool forbid(const std::vector<long>& calls) {
  std::vector<sock_filter> filter = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long call : calls) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace

TEST_CASE("machine: a sandbox that forbids advice, locking, affinity and priorities changes no answer") {
  const std::string expected = test::run(kAsk).out;
  REQUIRE_FALSE(expected.empty());
  const auto [code, out] = run_after(
      [] {
        return forbid({SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_madvise, SYS_sched_setaffinity, SYS_sched_getaffinity,
                       SYS_setpriority, SYS_sched_setscheduler, SYS_fadvise64, SYS_readahead, SYS_mbind, SYS_statfs});
      },
      kAsk);
  if (code == 99) {
    MESSAGE("this machine lets no process be confined: not tested");
    return;
  }
  CHECK(code == 0);
  CHECK(out == expected);
}

TEST_CASE("machine: no argument, not even a name") {
  const std::string program = test::program();
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (!redirect("/dev/null", O_WRONLY, 1)) ::_exit(99);
    std::array<char*, 1> none{nullptr};
    ::execv(program.c_str(), none.data());
    ::_exit(98);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  REQUIRE(WIFEXITED(status));
  CHECK((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 2));
}

TEST_CASE("machine: stopped and continued in the middle, the answer is the same") {
  const std::string expected = test::run(kAsk).out;
  std::string command = "\"$FATHOM\"";
  for (const std::string& a : kAsk) command += " '" + a + "'";
  const test::Outcome r = test::shell(command + " </dev/null & p=$!; for i in 1 2 3 4; do kill -STOP $p; sleep 0.05; kill -CONT $p; sleep 0.01; done 2>/dev/null; wait $p");
  CHECK(r.code == 0);
  CHECK(r.out == expected);
}

TEST_CASE("machine: nobody, without a home") {
  if (::geteuid() != 0) {
    MESSAGE("not root: cannot become nobody, not tested");
    return;
  }
  // Nobody may not search every directory that leads to the program.
  const auto [code, out] = run_after(
      [] { return ::unsetenv("HOME") == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0 && ::access(test::program().c_str(), X_OK) == 0; },
      kAsk);
  if (code == 99) {
    MESSAGE("the program is not where nobody can run it: not tested");
    return;
  }
  CHECK(code == 0);
  CHECK(out == test::run(kAsk).out);
}

TEST_CASE("machine: without /proc") {
  std::string command = "\"$FATHOM\"";
  for (const std::string& a : kAsk) command += " '" + a + "'";
  const test::Outcome r = test::shell("unshare -rm sh -c 'mount -t tmpfs none /proc 2>/dev/null || exit 99; exec \"$@\"' sh " + command + " </dev/null");
  if (r.code == 99 || r.err.find("unshare") != r.err.npos) {
    MESSAGE("no name space of its own here: not tested");
    return;
  }
  CHECK(r.code == 0);
  CHECK(r.out == test::run(kAsk).out);
}
