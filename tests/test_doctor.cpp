#include <doctest/doctest.h>

#include <fmt/format.h>

#include "src/app/doctor.h"
#include "src/app/doctor_self_test.h"
#include "src/base/error.h"
#include "src/base/json.h"
#include "src/engine/engine.h"
#include "tests/support/fake_model.h"
#include "tests/support/shell.h"

using namespace fathom;

namespace {

std::unique_ptr<Engine> golden(ActivationType activations) {
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  options.activations = activations;
  options.tokenizer_required = false;
  options.context = 512;
  return Engine::load(FileSet::directory("tests/goldens/v3"), options);
}

}  // namespace

TEST_CASE("doctor: the self-test tells a pass from itself, from other rounding and from a wrong one") {
  const auto engine = golden(ActivationType::bf16), other = golden(ActivationType::fp8);
  const auto a = engine->make_forward(), b = engine->make_forward(), rounded = other->make_forward();
  const Comparison same = compare_passes(*a, *b, engine->valid_ids(), 40, 8);
  CHECK(same.positions == 9);
  CHECK(same.same_best == 9);
  CHECK(same.worst == 0);
  const Comparison near = compare_passes(*rounded, *b, engine->valid_ids(), 40, 8);
  CHECK(near.worst > 0);
  CHECK(near.worst < 1);
  const std::string folder = test::scratch("doctor-fake");
  test::write_fake_checkpoint(folder);
  EngineOptions options;
  options.backend = BackendChoice::cpu;
  const auto fake = Engine::load(FileSet::directory(folder), options);
  test::FakeForward script(fake->config(), *fake->tokenizer(), {.answers = {"hello there, all of you"}}, 512);
  const auto zeros = fake->make_forward();
  CHECK(compare_passes(script, *zeros, fake->valid_ids(), 10, 5).worst > 1);
}

TEST_CASE("doctor: text and JSON, exit 0 without a GPU, self-test exit 5 or a comparison") {
  const std::string program = test::self_path() + " --as-fathom doctor";
  int status = 0;
  const std::string text = test::capture(program + " 2>&1", &status);
  CHECK(WEXITSTATUS(status) == 0);
  for (const char* topic : {"GPU", "processor", "memory", "terminal"}) CHECK(text.find(topic) != text.npos);
  const std::string line = test::capture(program + " --json", &status);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(json::parse(line, "doctor").find("findings")->as_array().size() >= 6);
  test::capture(program + " --self-test 2>&1", &status);
  CHECK((WEXITSTATUS(status) == 5 || WEXITSTATUS(status) == 0));
}

TEST_CASE("doctor: the driver's version is read from either form of the kernel module's line") {
  CHECK(driver_version("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
                       "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n") == "535.183.01");
  CHECK(driver_version("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (root)\n") ==
        "580.82.07");
  for (const char* none : {"", "\n", "NVRM version: unknown", "12 ... . 7", "\x1b[31m1.2x"}) CHECK(driver_version(none).empty());
}
