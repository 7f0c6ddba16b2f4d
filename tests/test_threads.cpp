// The team of threads, and how many processors it may have.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "src/base/cores.h"
#include "src/base/error.h"
#include "src/base/threads.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"

using namespace fathom;
using test::code_of;

namespace {

// Waits until `ready`, ten seconds at most.
template <typename Ready>
bool eventually(Ready&& ready) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!ready()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

std::size_t tasks_of_this_process() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task")) ++n;
  return n;
}

}  // namespace

TEST_CASE("threads cover a range once and carry exceptions out") {
  for (int n : {1, 2, 5, 64}) {
    Threads threads(n);
    CHECK(threads.count() == n);
    std::vector<std::atomic<int>> hits(1001);
    for (int round = 0; round < 50; ++round)
      threads.for_range(1001, 8, [&](std::int64_t b, std::int64_t e) {
        if (b % 8 != 0 || (e % 8 != 0 && e != 1001)) fail(Exit::failure, "a border at {} or {}", b, e);
        for (auto i = b; i < e; ++i) ++hits[static_cast<std::size_t>(i)];
      });
    for (auto& h : hits) CHECK(h == 50);
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
    CHECK(code_of([&] {
            threads.run([&](int i) {
              ++runs[static_cast<std::size_t>(i)];
              if (i == n - 1) fail(Exit::compute, "planted");
            });
          }) == Exit::compute);
    for (auto& r : runs) CHECK(r == 1);
    threads.for_range(0, 8, [&](std::int64_t, std::int64_t) { FAIL("nothing to do"); });
    threads.run_in_order(0, [&](std::int64_t) { FAIL("nothing to do"); });
  }
}

TEST_CASE("threads cover a range of more blocks than a share can count") {
  Threads threads(3);
  constexpr std::int64_t kMany = (std::int64_t{1} << 21) + 77;
  std::atomic<std::int64_t> covered{0};
  threads.for_range(kMany, 1, [&](std::int64_t b, std::int64_t e) { covered += e - b; });
  CHECK(covered == kMany);
}

TEST_CASE("threads: many short jobs, one after the other, never mix") {
  Threads threads(4);
  std::vector<int> last(97, -1);
  bool good = true;
  for (int job = 0; job < 20000; ++job) {
    const int n = 1 + job % 97;
    // A thread that came late from the job before would run this body out of its range or twice.
    threads.for_range(n, 1, [&](std::int64_t b, std::int64_t e) {
      for (auto i = b; i < e; ++i) last[static_cast<std::size_t>(i)] = job;
    });
    for (int i = 0; i < n; ++i) good = good && last[static_cast<std::size_t>(i)] == job;
    for (int i = n; i < 97; ++i) good = good && last[static_cast<std::size_t>(i)] < job;
  }
  CHECK(good);
}

TEST_CASE("threads: a thread that is held up delays its piece alone") {
  Threads threads(2);
  if (usable_processors() < 2) return;  // nobody else is there
  std::atomic<std::int64_t> others{0};
  std::atomic<bool> waited_in_vain{false};
  threads.for_range(1600, 1, [&](std::int64_t b, std::int64_t e) {
    if (b > 0) {
      others += e - b;
    } else if (!eventually([&] { return others == 1600 - e; })) {
      waited_in_vain = true;
    }
  });
  CHECK(!waited_in_vain);
}

TEST_CASE("threads: pieces in order may wait for the ones before") {
  for (int n : {1, 2, 7}) {
    Threads threads(n);
    std::vector<std::atomic<bool>> done(500);
    std::atomic<bool> waited_in_vain{false};
    threads.run_in_order(500, [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      if (i > 0 && !eventually([&] { return done[at - 1].load(); })) waited_in_vain = true;
      done[at] = true;
    });
    CHECK(!waited_in_vain);
    CHECK(done[499]);
  }
}

TEST_CASE("threads: no more are started than there are processors") {
  const std::size_t before = tasks_of_this_process();
  const Threads threads(512);
  CHECK(tasks_of_this_process() - before == static_cast<std::size_t>(std::min(512, usable_processors())) - 1);
  CHECK(threads.count() == 512);
}

TEST_CASE("cores: quotas of control groups, both versions, up to the root") {
  const test::TempDir root;
  const auto put = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root.file(name)).parent_path());
    root.write(name, text);
  };
  const std::string at = root.file("");
  const std::string mount = at.ends_with('/') ? at.substr(0, at.size() - 1) : at;
  CHECK(processor_quota("0::/a/b\n", mount) == 0);  // nothing to read
  put("a/b/cpu.max", "max 100000\n");
  CHECK(processor_quota("0::/a/b\n", mount) == 0);
  put("a/cpu.max", "250000 100000\n");
  CHECK(processor_quota("0::/a/b\n", mount) == 2.5);
  CHECK(processor_quota("0::/\n", mount) == 0);
  CHECK(processor_quota("0::/../elsewhere\n", mount) == 0);
  put("cpu.max", "100000 100000\n");
  CHECK(processor_quota("0::/a/b\n", mount) == 1);
  CHECK(processor_quota("0::/not/visible/here\n", mount) == 1);
  put("cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
  put("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
  CHECK(processor_quota("3:memory:/x\n1:cpu,cpuacct:/x\n", mount) == 0);
  put("cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
  put("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  CHECK(processor_quota("3:memory:/x\n1:cpu,cpuacct:/x\n", mount) == 4);
  for (const char* bad : {"", "\n", ":::", "0::", "0::/", "x", "1:cpu", "1:cpu,:/x/"})
    (void)processor_quota(bad, mount);
  put("b/cpu.max", "0 0\n");
  CHECK(processor_quota("0::/b\n", mount) == 1);
  CHECK(usable_cores() >= 1);
  CHECK(usable_cores() <= usable_processors());
}
