// Every n-th allocation and file operation of a load and a short run fails, once and from then on: no crash, no hang,
// a documented error, and the next run is as if nothing had been.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <new>

#include "src/app/session.h"
#include "src/base/faults.h"
#include "src/base/file.h"
#include "src/engine/engine.h"
#include "src/engine/generate.h"
#include "src/engine/timeline.h"
#include "tests/support/files.h"

namespace {

// While true, every operator new of this program asks faults::Site::memory, beside those of consequence that do always.
std::atomic<bool> news_may_fail{false};

void* allocate(std::size_t size) {
  if (news_may_fail.load(std::memory_order_relaxed) && fathom::faults::trip(fathom::faults::Site::memory))
    return nullptr;
  return std::malloc(size == 0 ? 1 : size);
}

void* allocate_or_throw(std::size_t size) {
  void* p = allocate(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t size) { return allocate_or_throw(size); }
void* operator new[](std::size_t size) { return allocate_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }

using namespace fathom;
using faults::Site;

namespace {

constexpr std::int64_t kTokens = 8;

// Loads a checkpoint and generates greedily; the ids.
std::vector<std::int32_t> load_and_run(const std::string& directory, bool mmap) {
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  options.threads = 2;
  options.context = 32;
  options.mmap = mmap;
  options.tokenizer_required = false;
  const auto engine = Engine::load(FileSet::directory(directory), options);
  const auto forward = engine->make_forward();
  Timeline timeline(*forward);
  GenerationRequest request;
  request.prompt.ids = {1, 2, 3, 4};
  request.max_tokens = kTokens;
  request.ignore_eos = true;
  request.sampling.temperature = 0;
  return generate(timeline, {nullptr, engine->stop_ids(), engine->valid_ids()}, request, {}).ids;
}

// What became of one run with a fault in it. Nothing here allocates while a fault is armed but the run itself.
struct Ending {
  bool done = false, foreign = false;
  Exit code = Exit::ok;
  long seen = 0;
};

template <typename Body>
Ending with_fault(Site site, long nth, bool persistent, Body&& body) {
  Ending e;
  faults::arm(site, nth, persistent);
  news_may_fail = site == Site::memory;
  try {
    body();
    e.done = true;
  } catch (const Error& error) {
    e.code = error.code();
  } catch (const std::bad_alloc&) {
    e.code = Exit::out_of_memory;  // as app.cpp has it
  } catch (...) {
    e.foreign = true;
  }
  news_may_fail = false;
  e.seen = faults::seen(site);
  faults::disarm();
  return e;
}

std::ptrdiff_t open_descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

// FATHOM_FAULTS_ALL=1 tries every n; otherwise about `samples`, spread evenly, with a stride that is no multiple of 2.
long stride(long total, long samples) {
  return std::getenv("FATHOM_FAULTS_ALL") != nullptr ? 1 : std::max(1L, total / samples) | 1;
}

void every_fault(Site site, const std::string& directory, bool mmap, long samples) {
  CAPTURE(directory);
  const std::vector<std::int32_t> expected = load_and_run(directory, mmap);
  REQUIRE(expected.size() == kTokens);
  constexpr long kNever = 1L << 40;
  const std::ptrdiff_t open = open_descriptors();
  const long total = with_fault(site, kNever, false, [&] { load_and_run(directory, mmap); }).seen;
  REQUIRE(total > 0);
  long injected = 0;
  for (const bool persistent : {false, true})
    for (long n = 1; n <= total; n += stride(total, samples)) {
      std::vector<std::int32_t> ids;
      const Ending e = with_fault(site, n, persistent, [&] { ids = load_and_run(directory, mmap); });
      CAPTURE(n);
      CAPTURE(persistent);
      CHECK_FALSE(e.foreign);
      if (e.done) {
        CHECK(ids == expected);  // it did without, or asked again
      } else {
        CHECK((e.code == Exit::out_of_memory || e.code == Exit::io));
        if (site == Site::io) CHECK(e.code == Exit::io);
      }
      ++injected;
    }
  CHECK(load_and_run(directory, mmap) == expected);
  CHECK(open_descriptors() == open);
  MESSAGE(directory << ": " << total << " operations, " << injected << " faults injected");
}

}  // namespace

TEST_CASE("faults: every file operation of a load and a run") {
  every_fault(Site::io, "tests/goldens/v3", true, 1000);
  every_fault(Site::io, "tests/goldens/v3", false, 1000);
  every_fault(Site::io, "tests/goldens/v2-lite", true, 1000);
}

TEST_CASE("faults: allocations of a load and a run") {
  every_fault(Site::memory, "tests/goldens/v3", true, 60);
  every_fault(Site::memory, "tests/goldens/v2-lite", false, 60);
}

TEST_CASE("faults: allocations and calls of a save leave the old file or the new one") {
  const test::TempDir dir;
  const std::string path = dir.file("saved"), big(300'000, 'n');
  const auto save = [&](const std::string& text) {
    AtomicFile f(path);
    f.write(text);
    f.commit();
  };
  for (const Site site : {Site::io, Site::memory})
    for (const bool persistent : {false, true})
      for (long n = 1;; ++n) {
        REQUIRE(n < 200);
        save("old");
        const Ending e = with_fault(site, n, persistent, [&] { save(big); });
        const std::string now = read_file(path, 1 << 20);
        CAPTURE(n);
        CHECK((now == "old" || now == big));
        if (e.done) CHECK(now == big);
        CHECK_FALSE(e.foreign);
        if (!e.done) CHECK(e.code == (site == Site::io ? Exit::io : Exit::out_of_memory));
        // No temporary file stays behind.
        CHECK(FileSet::directory(dir.path()).list().size() == 1);
        if (e.seen < n) break;
      }
}

TEST_CASE("faults: allocations of a session's save leave whole records") {
  const test::TempDir dir;
  const std::string path = dir.file("talk.jsonl");
  const SessionHeader header{"m", std::string(64, 'a'), "cache bf16"};
  SessionMessage old, more, replaced;
  old.message.role = more.message.role = replaced.message.role = "user";
  old.message.content = std::string(100, 'o');
  more.message.content = std::string(100, 'm');
  replaced.message.content = std::string(100, 'r');
  for (const Site site : {Site::io, Site::memory})
    for (const bool persistent : {false, true})
      for (long n = 1;; ++n) {
        REQUIRE(n < 2000);
        {
          AtomicFile f(path, 0600);
          f.write(session_line(header) + session_line(old));
          f.commit();
        }
        const Ending e = with_fault(site, n, persistent, [&] {
          Session s = Session::open(path, header);
          s.append(more);
          s.replace({replaced}, header);
        });
        CAPTURE(n);
        CHECK_FALSE(e.foreign);
        const SessionText now = load_session(path);
        CHECK(now.notes.empty());
        REQUIRE_FALSE(now.messages.empty());
        CHECK((now.messages[0].message.content == old.message.content ||
               now.messages[0].message.content == replaced.message.content));
        if (e.seen < n) break;
      }
}
