// A hundred thousand damaged checkpoints in one process: each is refused with a documented code and a message, in time,
// or runs. FATHOM_MUTATIONS=n tries n (a slice otherwise), FATHOM_MUTATION_DUMP=FILE writes every damaged header with our
// verdict for scripts/hostile/oracle.py, which asks the reference reader.
#include <doctest/doctest.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "src/engine/engine.h"
#include "src/engine/generate.h"
#include "src/engine/prompt.h"
#include "src/engine/timeline.h"
#include "tests/support/cpu_time.h"
#include "tests/support/errors.h"
#include "tests/support/mutations.h"
#include "tests/support/safetensors_text.h"

using namespace fathom;
using test::Files;

namespace {

long mutations(long otherwise) {
  long n = otherwise;
  if (const char* text = std::getenv("FATHOM_MUTATIONS")) std::from_chars(text, text + std::strlen(text), n);
  return n;
}

// Loads, renders, generates two tokens.
void use(const Files& files) {
  std::vector<FileSet::MemoryFile> memory;
  for (const auto& [name, text] : files) memory.push_back({name, as_bytes_of(text)});
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  options.threads = 1;
  options.context = 256;
  const auto engine = Engine::load(FileSet::memory("mutant", std::move(memory)), options);
  Message message;
  message.role = "user";
  message.content = "hi";
  GenerationRequest request;
  request.prompt = chat_prompt(*engine, std::vector<Message>{message}, std::nullopt);
  request.max_tokens = 2;
  request.sampling = default_sampling(engine->generation_config());
  const auto forward = engine->make_forward();
  Timeline timeline(*forward);
  (void)generate(timeline, {engine->tokenizer(), engine->stop_ids(), engine->valid_ids()}, request, {});
}

bool documented(Exit code) {
  switch (code) {
    case Exit::ok:
    case Exit::not_found:
    case Exit::bad_checkpoint:
    case Exit::unsupported:
    case Exit::out_of_memory:  // a config that asks for more than there is
    case Exit::context:        // a template longer than the context
    case Exit::compute:        // data that give NaN
    case Exit::usage:          // a template's raise_exception
      return true;
    default:
      return false;
  }
}

}  // namespace

TEST_CASE("mutations: damaged checkpoints are refused or run") {
  const Files sound = test::sound_checkpoint();
  CHECK_NOTHROW(use(sound));
  std::map<Exit, long> endings;
  double worst = 0;
  const long n = mutations(250);
  for (long seed = 0; seed < n; ++seed) {
    Files files = sound;
    const std::string what = test::Mutator(static_cast<std::uint64_t>(seed)).damage(files);
    const double begin = test::cpu_seconds();
    test::Outcome o;
    try {
      o = test::outcome_of([&] { use(files); });
    } catch (const std::exception& e) {
      FAIL_CHECK("mutation " << seed << " (" << what << "): " << e.what());
    }
    const double took = test::cpu_seconds() - begin;
    worst = std::max(worst, took);
    ++endings[o.code];
    if (documented(o.code) && took < 2.0 && (o.code == Exit::ok || !o.message.empty())) continue;
    FAIL_CHECK("mutation " << seed << " (" << what << "): code " << static_cast<int>(o.code) << " in " << took << " s: " << o.message);
  }
  std::string table;
  for (const auto& [code, count] : endings) table += fmt::format(" {}:{}", static_cast<int>(code), count);
  MESSAGE(n << " damaged checkpoints, worst " << worst << " s, exit codes" << table);
}

TEST_CASE("mutations: damaged headers") {
  using test::TestTensor;
  const std::string sound = test::safetensors_file({{"a", DType::bf16, {2, 3}, std::string(12, 'a')},
                                                    {"model.layers.0.b", DType::f8_e4m3, {5}, std::string(5, 'b')},
                                                    {"c", DType::f32, {}, std::string(4, 'c')},
                                                    {"empty", DType::i64, {0, 7}, ""}});
  std::ofstream dump;
  if (const char* path = std::getenv("FATHOM_MUTATION_DUMP")) dump.open(path, std::ios::binary);
  long accepted = 0;
  const long n = mutations(5000);
  for (long seed = 0; seed < n; ++seed) {
    std::string file = sound;
    test::Mutator mutator(static_cast<std::uint64_t>(seed));
    const std::string what = mutator.safetensors(file);
    const test::Outcome o =
        test::outcome_of([&] { (void)parse_safetensors_header(as_bytes_of(file), file.size(), "mutant"); });
    accepted += o.code == Exit::ok ? 1 : 0;
    CHECK_MESSAGE((o.code == Exit::ok || o.code == Exit::bad_checkpoint || o.code == Exit::unsupported), what);
    if (!dump.is_open()) continue;
    const std::uint64_t size = file.size();
    dump.write(reinterpret_cast<const char*>(&size), 8).put(static_cast<char>(o.code)).write(file.data(), static_cast<long>(size));
  }
  CHECK(accepted > n / 100);
  MESSAGE(n << " damaged headers, " << accepted << " accepted");
}
