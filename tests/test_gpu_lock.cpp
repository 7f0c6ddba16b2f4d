// The advisory lock of a GPU, with a GPU that only its description makes (tests/support/fake_model.h).
#include <doctest/doctest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "src/app/gpu_lock.h"
#include "tests/support/fake_model.h"
#include "tests/support/shell.h"
#include "tests/support/subprocess.h"

using namespace fathom;

namespace {

const cuda::DeviceInfo kDevice{0, "Scripted GPU", 9, 0, 132, 1u << 30, 1u << 30, 0, "0000:1B:00.0"};
constexpr const char* kFile = "/gpu-0000:1B:00.0.lock";

// A process that is certainly gone.
int dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return child;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// Holds the lock file as another fathom does: locks belong to the open file, so this process can play both.
class Other {
 public:
  Other(const std::string& path, std::string_view content)
      : fd_(::open(path.c_str(), O_RDWR | O_CREAT, 0600)) {
    REQUIRE(::write(fd_, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
    REQUIRE(::flock(fd_, LOCK_EX | LOCK_NB) == 0);
  }
  ~Other() { ::close(fd_); }

 private:
  int fd_;
};

}  // namespace

TEST_CASE("gpu lock: taken once, holds the process id, private, and free again when its holder ends") {
  const test::TempDir dir;
  const std::string folder = dir.path() + "/fathom", path = folder + kFile;
  {
    const GpuLock first(folder, kDevice);
    CHECK(first.taken());
    CHECK(first.text().empty());
    CHECK(read_file(path, 100) == fmt::format("{}\n", ::getpid()));
    struct stat s {};
    REQUIRE(::stat(path.c_str(), &s) == 0);
    CHECK((s.st_mode & 0777) == 0600);
    REQUIRE(::stat(folder.c_str(), &s) == 0);
    CHECK((s.st_mode & 0777) == 0700);
    const GpuLock second(folder, kDevice);
    CHECK_FALSE(second.taken());
    CHECK(second.in_use());
    CHECK(second.holder() == ::getpid());
    CHECK(second.text() == fmt::format("GPU 0 is also used by another fathom (process {})", ::getpid()));
    cuda::DeviceInfo neighbour = kDevice;
    neighbour.pci_address = "0000:2B:00.0";
    CHECK(GpuLock(folder, neighbour).taken());
  }
  // The file stays, longer than what is written next, and means nothing.
  dir.write("fathom" + std::string(kFile), "123456789012345\n");
  const GpuLock again(folder, kDevice);
  CHECK(again.taken());
  CHECK(read_file(path, 100) == fmt::format("{}\n", ::getpid()));
}

TEST_CASE("gpu lock: what a lock file may hold") {
  CHECK(holder_in(fmt::format("{}\n", ::getpid())) == ::getpid());
  CHECK_FALSE(holder_in(fmt::format("{}\n", dead_process())));
  for (const char* text : {"", "\n", "0\n", "-1\n", "1", "1\n\n", " 1\n", "1 \n", "0x1\n", "99999999999999\n",
                           "one\n", "1\x1b[31m\n"})
    CHECK_FALSE(holder_in(text));
}

TEST_CASE("gpu lock: hostile and impossible files cost nothing but the lock") {
  const test::TempDir dir;
  const std::string folder = dir.path() + "/fathom", path = folder + kFile;
  CHECK_FALSE(GpuLock(std::nullopt, kDevice).taken());
  CHECK(GpuLock(std::nullopt, kDevice).trouble().empty());
  std::filesystem::create_directory(folder);
  for (const std::string& content : {std::string("not a process"), std::string(10'000'000, '7'),
                                     std::string("\x1b]0;t\x07\n"), std::string()}) {
    const Other other(path, content);
    const GpuLock lock(folder, kDevice);
    CHECK_FALSE(lock.taken());
    CHECK(lock.in_use());
    CHECK_FALSE(lock.holder());
    CHECK(lock.text() == "GPU 0 is also used by another fathom");
    std::filesystem::remove(path);
  }
  const std::string victim = dir.file("victim");
  dir.write("victim", "precious");
  std::filesystem::create_symlink(victim, path);
  const GpuLock linked(folder, kDevice);
  CHECK_FALSE(linked.taken());
  CHECK_FALSE(linked.in_use());
  CHECK(linked.trouble().find("symbolic link") != std::string::npos);
  CHECK(read_file(victim, 100) == "precious");
  std::filesystem::remove(path);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(GpuLock(folder, kDevice).trouble().find("regular file") != std::string::npos);
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  CHECK_FALSE(GpuLock(folder, kDevice).trouble().empty());
  // A runtime folder that is not there is not made: it would be the wrong user's.
  CHECK_FALSE(GpuLock(dir.path() + "/absent/fathom", kDevice).trouble().empty());
  CHECK_FALSE(std::filesystem::exists(dir.path() + "/absent"));
}

TEST_CASE("gpu lock: a second run warns and goes on; without memory it ends and names the first") {
  const test::TemporaryDirectory dir;
  test::write_fake_checkpoint(dir.path() + "/fake");
  test::write_script(dir.path() + "/script", {"</think>yes"});
  ::mkdir((dir.path() + "/run").c_str(), 0700);
  const auto fathom = [&](std::uint64_t free_bytes, const std::string& more) {
    return fmt::format(
        "env XDG_RUNTIME_DIR={0}/run FATHOM_FAKE_SCRIPT={0}/script FATHOM_FAKE_GPU_FREE={1} {2} {3} "
        "--as-fathom run -m {0}/fake hi </dev/null",
        dir.path(), free_bytes, more, test::self_path());
  };
  const std::uint64_t enough = std::uint64_t{8} << 30, little = std::uint64_t{1} << 20;
  const test::Outcome alone = test::shell(fathom(enough, ""));
  CHECK(alone.code == 0);
  CHECK(alone.out == "yes\n");
  CHECK(alone.err.empty());
  // A run whose context memory has cut short says so; how much memory that is depends on the workspaces.
  std::uint64_t less = 0;
  for (std::uint64_t mib = 1; mib < 64 && less == 0; ++mib)
    if (contains(test::shell(fathom(mib << 20, "") + " -v").err, ": as much as the memory holds\n"))
      less = mib << 20;
  REQUIRE(less != 0);
  const test::Outcome asked = test::shell(fathom(less, "") + " -v --ctx 1024");
  CHECK(asked.code == 0);
  CHECK_FALSE(contains(asked.err, "as much as"));
  // The first holds the lock while its model answers without end; $! is its process, exec'ed through env.
  const std::string first = fathom(enough, "FATHOM_FAKE_ENDLESS=1 FATHOM_FAKE_DELAY_US=2000");
  const auto beside = [&](const std::string& second) {
    return test::shell(
        fmt::format("rm -f {1}/first; {0} >{1}/first & first=$!\nwhile ! [ -s {1}/first ]; do sleep 0.02; "
                    "done\n{2}\ncode=$?\n"
                    "kill -9 $first; wait $first\necho \"first was $first\" >&2; exit $code",
                    first, dir.path(), second));
  };
  const test::Outcome both = beside(fathom(enough, ""));
  CHECK(both.code == 0);
  CHECK(both.out == "yes\n");
  const auto at = both.err.find("first was ");
  REQUIRE(at != both.err.npos);
  const std::string pid = both.err.substr(at + 10, both.err.find('\n', at) - at - 10);
  CHECK(both.err.find(fmt::format(
            "fathom: GPU 0 is also used by another fathom (process {}): both are slower\n", pid)) == 0);

  const test::Outcome short_of_memory = beside(fathom(little, ""));
  CHECK(short_of_memory.code == 6);
  CHECK(short_of_memory.out.empty());
  CHECK(short_of_memory.err.starts_with("fathom: Scripted GPU: "));
  CHECK(short_of_memory.err.find("\n  GPU 0 is also used by another fathom (process ") != std::string::npos);
  CHECK(short_of_memory.err.find("wait until the other one ends") != std::string::npos);

  // The first was killed: nobody has the lock, though its file is there.
  CHECK(test::shell(fathom(enough, "")).err.empty());
  const test::Outcome poor = test::shell(fathom(little, ""));
  CHECK(poor.code == 6);
  CHECK(poor.err.find("another fathom") == std::string::npos);
}

TEST_CASE("gpu: one that is there and cannot be used is never passed over without a word") {
  const test::TemporaryDirectory dir;
  test::write_fake_checkpoint(dir.path() + "/fake");
  test::write_script(dir.path() + "/script", {"</think>yes"});
  const auto run = [&](const std::string& more) {
    return test::shell(fmt::format(
        "env FATHOM_FAKE_SCRIPT={0}/script FATHOM_FAKE_GPU_BROKEN='the GPU is taken' {1} --as-fathom run "
        "-m {0}/fake {2} hi </dev/null",
        dir.path(), test::self_path(), more));
  };
  const test::Outcome automatic = run("");
  CHECK(automatic.code == 0);
  CHECK(automatic.out == "yes\n");
  CHECK(contains(automatic.err, "the GPU is taken"));
  CHECK(contains(automatic.err, "running on the CPU"));
  CHECK(run("--backend cpu").err.empty());
  CHECK(run("-q").err.empty());
  const test::Outcome asked = run("--backend cuda");
  CHECK(asked.code == 5);
  CHECK(contains(asked.err, "the GPU is taken"));
}
