// Every n-th CUDA call of a load and 16 tokens fails, in a process of its own: a lost device ends it with
// exit 8 within 5 s and with no further CUDA call; memory that is refused ends it with exit 6, or with the
// same ids.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
// FATHOM_FAULTS_ALL=1 tries every n.
#include <doctest/doctest.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "cuda/forward.h"
#include "src/base/faults.h"
#include "src/engine/engine.h"
#include "src/engine/generate.h"
#include "src/engine/timeline.h"
#include "tests/cuda/gpu.h"
#include "tests/support/fake_model.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using test::gpu_present;

namespace {

constexpr const char* kFault = "FATHOM_CUDA_FAULT";  // "cuda 17": which site, which call
constexpr long kUploadingThreads = 16;               // at most, of a load: cuda/weights.cpp

std::vector<std::int32_t> load_and_run() {
  EngineOptions options;
  options.backend = BackendChoice::cuda;
  options.context = 64;
  options.tokenizer_required = false;
  const auto engine = Engine::load(FileSet::directory("tests/goldens/v3"), options);
  const auto forward = engine->make_forward();
  Timeline timeline(*forward);
  GenerationRequest request;
  request.prompt.ids = {1, 2, 3, 4, 5};
  request.max_tokens = 16;
  request.ignore_eos = true;
  request.sampling.temperature = 0;
  return generate(timeline, {nullptr, engine->stop_ids(), engine->valid_ids()}, request, {}).ids;
}

// One child's line: "CODE SEEN IDS MESSAGE".
struct Ending {
  int code = -1;
  long seen = 0;
  std::string ids, message;
};

Ending read_ending(std::string_view line) {
  Ending e;
  const auto word = [&] {
    const std::string_view w = line.substr(0, line.find(' '));
    line.remove_prefix(std::min(line.size(), w.size() + 1));
    return w;
  };
  const std::string_view code = word(), seen = word();
  std::from_chars(code.data(), code.data() + code.size(), e.code);
  std::from_chars(seen.data(), seen.data() + seen.size(), e.seen);
  e.ids = word();
  e.message = line;
  return e;
}

// Runs children with a fault at each of `calls`, eight at a time; their endings by call.
std::map<long, Ending> with_faults(const char* site, const std::vector<long>& calls) {
  const test::TempDir dir;
  std::string script;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    script += fmt::format(
        "({}='{} {}' timeout 30 {} --test-case='cuda fault: a child' >{}/{} 2>/dev/null; echo \" $?\" "
        ">>{}/{}) & ",
        kFault, site, calls[i], test::self_path(), dir.path(), calls[i], dir.path(), calls[i]);
    if (i % 8 == 7) script += "wait; ";
  }
  test::Process p;
  p.shell = script + "wait";
  p.timeout_s = 600;
  p.variables = {{"FATHOM_TEST_CUDA", "1"}};
  for (const char* name : {"LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"})
    if (const char* value = std::getenv(name)) p.variables[name] = value;
  (void)test::run(p);
  std::map<long, Ending> out;
  for (const long n : calls) {
    const std::string text = read_file(dir.file(std::to_string(n)), 1 << 20);
    const std::size_t at = text.find("ENDING ");
    out[n] = at == text.npos
                 ? Ending{}
                 : read_ending(std::string_view(text).substr(at + 7, text.find('\n', at) - at - 7));
  }
  return out;
}

void every_fault(const char* site, Exit expected, long samples) {
  const Ending sound = with_faults(site, {1L << 40}).begin()->second;
  REQUIRE_MESSAGE(sound.code == 0, sound.message);
  REQUIRE(sound.seen > 0);
  const long step = std::getenv("FATHOM_FAULTS_ALL") != nullptr ? 1 : std::max(1L, sound.seen / samples) | 1;
  std::vector<long> calls;
  for (long n = 1; n <= sound.seen; n += step) calls.push_back(n);
  for (const auto& [call, e] : with_faults(site, calls)) {
    const long n = call;
    CAPTURE(n);
    CAPTURE(e.message);
    if (e.code == 0) {
      CHECK(e.ids == sound.ids);  // it did without
      continue;
    }
    CHECK(e.code == static_cast<int>(expected));
    CHECK_FALSE(e.message.empty());
    if (expected == Exit::compute) {
      // Nobody begins a CUDA call after the lost one; each of the other uploading threads may be in one.
      CHECK(e.seen >= n);
      CHECK(e.seen < n + kUploadingThreads);
    }
  }
  MESSAGE(site << ": " << sound.seen << " calls, " << calls.size() << " faults injected");
}

}  // namespace

// Runs only as a child of the cases below.
TEST_CASE("cuda fault: a child" * doctest::skip(std::getenv(kFault) == nullptr)) {
  const std::string_view fault = std::getenv(kFault);
  const bool memory = fault.starts_with("memory ");
  const std::string_view number = fault.substr(fault.find(' ') + 1);
  long nth = 0;
  std::from_chars(number.data(), number.data() + number.size(), nth);
  const faults::Site site = memory ? faults::Site::memory : faults::Site::cuda;
  int code = 0;
  std::string ids = "-", message;
  faults::arm(site, nth, !memory);
  const auto begin = std::chrono::steady_clock::now();
  try {
    ids.clear();
    for (const std::int32_t id : load_and_run()) ids += fmt::format("{},", id);
  } catch (const Error& e) {
    code = static_cast<int>(e.code());
    message = e.what();
    ids = "-";
  } catch (const std::bad_alloc&) {
    code = static_cast<int>(Exit::out_of_memory);
    message = "bad_alloc";
    ids = "-";
  }
  const long seen = faults::seen(site);
  faults::disarm();
  // Injected after the start of CUDA, which takes what it takes.
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (took > 5 && code != 0) message = fmt::format("after {:.1f} s: {}", took, message), code = 99;
  std::printf("ENDING %d %ld %s %s\n", code, seen, ids.c_str(), message.c_str());
}

TEST_CASE("cuda: every CUDA call of a load and a run may be the last") {
  if (!gpu_present()) return;
  every_fault("cuda", Exit::compute, 40);
}

TEST_CASE("cuda: every allocation of a load and a run may be refused") {
  if (!gpu_present()) return;
  every_fault("memory", Exit::out_of_memory, 40);
}
