// Long runs and company: memory that does not grow, the same text again, two engines in one process, eight processes on
// one directory. FATHOM_SOAK=n generates n tokens (a slice otherwise).
#include <doctest/doctest.h>

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "src/base/file.h"
#include "src/base/sha256.h"
#include "src/engine/engine.h"
#include "src/engine/generate.h"
#include "src/engine/timeline.h"
#include "tests/support/build.h"
#include "tests/support/subprocess.h"

using namespace fathom;

namespace {

constexpr bool kMemoryTells = !test::kSanitized;  // freed memory stays in quarantine

long soak_tokens() {
  long n = 600;
  if (const char* text = std::getenv("FATHOM_SOAK")) std::from_chars(text, text + std::strlen(text), n);
  return n;
}

// Bytes of this process in memory that no file backs.
long resident_bytes() {
  const std::string path = "/proc/self/status";
  std::string text(1 << 16, '\0');
  FILE* f = std::fopen(path.c_str(), "r");
  REQUIRE(f != nullptr);
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  const std::size_t at = text.find("RssAnon:");
  REQUIRE(at != text.npos);
  const std::size_t digit = text.find_first_of("0123456789", at);
  long kib = 0;
  std::from_chars(text.data() + digit, text.data() + text.size(), kib);
  return kib * 1024;
}

struct Run {
  std::string digest;
  long tokens = 0, conversations = 0;
  long early = 0, late = 0;  // resident bytes after a tenth, the whole context once in use, and at the end
};

// Sampled text until the context is full, then a new conversation in the same timeline, as /new does.
Run soak(const Engine& engine, long tokens) {
  const auto forward = engine.make_forward();
  Timeline timeline(*forward);
  Sha256 sum;
  Run run;
  while (run.tokens < tokens) {
    GenerationRequest request;
    request.prompt.ids = {1, static_cast<std::int32_t>(10 + run.conversations % 200)};
    request.sampling.temperature = 1;
    request.sampling.seed = static_cast<std::uint64_t>(run.conversations);
    request.ignore_eos = true;
    GenerationEvents events;
    events.poll = [&]() -> std::optional<FinishReason> {
      const long before = run.tokens++;
      if (run.early == 0 && before >= tokens / 10 && run.conversations >= 2) run.early = resident_bytes();
      if (before >= tokens) return FinishReason::interrupted;
      return std::nullopt;
    };
    const GenerationResult r = generate(timeline, {engine.tokenizer(), engine.stop_ids(), engine.valid_ids()}, request, events);
    sum.update(std::as_bytes(std::span(r.ids)));
    sum.update(as_bytes_of(r.content));
    ++run.conversations;
  }
  run.late = resident_bytes();
  run.digest = sum.hex_digest();
  return run;
}

std::unique_ptr<Engine> minnow(std::int32_t context) {
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  options.threads = 1;
  options.context = context;
  return Engine::load(FileSet::directory("models/minnow"), options);
}

std::vector<std::int32_t> some_ids(const Engine& engine, std::uint64_t seed) {
  const auto forward = engine.make_forward();
  Timeline timeline(*forward);
  GenerationRequest request;
  request.prompt.ids = {1, 2, 3, 4};
  request.sampling.temperature = 1;
  request.sampling.seed = seed;
  request.max_tokens = 20;
  request.ignore_eos = true;
  return generate(timeline, {nullptr, engine.stop_ids(), engine.valid_ids()}, request, {}).ids;
}

}  // namespace

TEST_CASE("soak: memory does not grow and the text is the same again") {
  const long tokens = soak_tokens();
  const auto engine = minnow(tokens > 10'000 ? 4096 : 128);
  const Run first = soak(*engine, tokens);
  MESSAGE(first.tokens << " tokens in " << first.conversations << " conversations, resident " << first.early << " -> " << first.late);
  CHECK(first.early > 0);
  if (kMemoryTells) CHECK(first.late - first.early <= 1 << 20);
  const Run second = soak(*engine, tokens);
  CHECK(second.digest == first.digest);
  if (kMemoryTells) CHECK(second.late - first.late <= 1 << 20);
}

TEST_CASE("soak: two engines in one process do not know of each other") {
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  options.threads = 1;
  options.context = 64;
  options.tokenizer_required = false;
  const auto a = Engine::load(FileSet::directory("tests/goldens/v3"), options);
  const auto b = Engine::load(FileSet::directory("tests/goldens/v2-lite"), options);
  const std::vector<std::int32_t> alone_a = some_ids(*a, 1), alone_b = some_ids(*b, 2);
  std::vector<std::int32_t> together_a, together_b;
  std::thread other([&] {
    for (int i = 0; i < 2; ++i) together_b = some_ids(*b, 2);
  });
  for (int i = 0; i < 2; ++i) together_a = some_ids(*a, 1);
  other.join();
  CHECK(together_a == alone_a);
  CHECK(together_b == alone_b);
}

TEST_CASE("soak: eight processes on one directory") {
  const std::string ask = "\"$FATHOM\" run -m models/minnow --backend cpu --threads 1 --greedy -n 20 'What is 12 + 34?'";
  const test::Outcome alone = test::shell(ask);
  REQUIRE_MESSAGE(alone.code == 0, alone.err);
  const test::Outcome all = test::shell("d=$(mktemp -d); for i in 1 2 3 4 5 6 7 8; do (" + ask +
                                        " >$d/$i 2>$d/err$i; echo $? >$d/code$i) & done; wait; cat $d/code*; cat $d/1 $d/2 $d/3 "
                                        "$d/4 $d/5 $d/6 $d/7 $d/8; cat $d/err* >&2; rm -r $d");
  std::string expected;
  for (int i = 0; i < 8; ++i) expected += "0\n";
  for (int i = 0; i < 8; ++i) expected += alone.out;
  CHECK_MESSAGE(all.out == expected, all.err);
}
