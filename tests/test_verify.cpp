#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "src/base/sha256.h"
#include "src/model/verify.h"
#include "tests/support/cpu_time.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_checkpoint.h"

using namespace fathom;
using test::outcome_of;
using test::TinyCheckpoint;

namespace {

template <typename T>
void plant(TinyCheckpoint& tiny, const std::string& name, std::size_t element, T value) {
  std::memcpy(tiny.at(name).data.data() + element * sizeof(T), &value, sizeof(T));
}

ValueReport scan(TinyCheckpoint& tiny, int threads = 2) {
  Threads team(threads);
  return scan_values(Checkpoint::open(tiny.files()), team);
}

const std::string kWeight = "model.layers.1.mlp.experts.3.up_proj.weight", kScale = kWeight + "_scale_inv";

}  // namespace

TEST_CASE("values: a sound checkpoint has nothing to report") {
  TinyCheckpoint tiny(test::tiny_v3_config());
  for (auto& t : tiny.tensors)
    if (t.name.ends_with("_scale_inv"))
      for (std::size_t i = 0; i < t.data.size() / 4; ++i) plant(tiny, t.name, i, 0.01f);
  const ValueReport r = scan(tiny);
  CHECK(r.ok());
  CHECK(r.notes.empty());
  CHECK(r.tensors == tiny.tensors.size());
  TinyCheckpoint e8m0(test::tiny_v3_config(), DType::f8_e8m0);
  CHECK(scan(e8m0).ok());
}

TEST_CASE("values: scales that no model has") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0f, -0.0f, -1.0f, std::nanf(""), inf, 1e-40f, 1e38f}) {
    TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
    tiny.replace(kScale, DType::f32, {1, 1});
    plant(tiny, kScale, 0, bad);
    const ValueReport r = scan(tiny);
    CAPTURE(bad);
    REQUIRE(r.errors.size() == 1);
    CHECK(r.errors[0].tensor == kScale);
    CHECK(r.errors[0].problem ==
          "1 of 1 values is zero, negative, denormal, too large or NaN, the first at (0, 0)");
  }
  for (const float good : {1e-30f, 1.0f, 7e35f}) {
    TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
    tiny.replace(kScale, DType::f32, {1, 1});
    plant(tiny, kScale, 0, good);
    CHECK(scan(tiny).ok());
  }
  for (const std::uint8_t bad : {std::uint8_t{0}, std::uint8_t{255}}) {
    TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
    plant(tiny, kScale, 0, bad);
    CHECK(scan(tiny).errors.size() == 1);
  }
}

TEST_CASE("values: NaN and infinity are found in every type and place") {
  for (const std::uint8_t code : {std::uint8_t{0x7f}, std::uint8_t{0xff}}) {
    for (const std::size_t at : {0u, 1u, 7u, 8u, 100u, 48u * 64 - 1}) {
      TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
      plant(tiny, kWeight, at, code);
      const ValueReport r = scan(tiny);
      REQUIRE(r.errors.size() == 1);
      CHECK(r.errors[0].first == at);
      CHECK(r.errors[0].problem ==
            fmt::format("1 of 3072 values is NaN or infinite, the first at ({}, {})", at / 64, at % 64));
    }
  }
  TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
  plant<std::uint16_t>(tiny, "lm_head.weight", 64 * 96 - 1, 0x7f80);
  plant<std::uint16_t>(tiny, "lm_head.weight", 64 * 96 - 2, 0xffff);
  plant<std::uint16_t>(tiny, "lm_head.weight", 3, 0x7f7f);  // the largest finite value
  plant(tiny, "model.layers.1.mlp.gate.e_score_correction_bias", 7, -std::numeric_limits<float>::infinity());
  tiny.replace("model.norm.weight", DType::f16, {64});
  plant<std::uint16_t>(tiny, "model.norm.weight", 63, 0x7c00);
  const ValueReport r = scan(tiny);
  REQUIRE(r.errors.size() == 3);
  CHECK(r.errors[0].tensor == "lm_head.weight");
  CHECK(r.errors[0].count == 2);
  CHECK(r.errors[0].first == 64 * 96 - 2);
  CHECK(r.errors[1].tensor == "model.layers.1.mlp.gate.e_score_correction_bias");
  CHECK(r.errors[2].tensor == "model.norm.weight");
  const Checkpoint c = Checkpoint::open(tiny.files());
  const test::Outcome o = outcome_of([&] { require_sound(r, c); });
  CHECK(o.code == Exit::bad_checkpoint);
  CHECK(o.says("tiny: 3 of"));
  CHECK(o.says("\n  lm_head.weight: 2 of 6144 values are NaN or infinite, the first at (95, 62)"));
  CHECK(o.file == "model.safetensors");
}

TEST_CASE("values: tensors of nothing but zeros are noted") {
  TinyCheckpoint tiny(test::tiny_v3_config(), DType::f8_e8m0);
  for (const char* name : {"model.norm.weight", "model.layers.2.self_attn.o_proj.weight"}) {
    auto& data = tiny.at(name).data;
    data.assign(data.size(), '\0');
  }
  const ValueReport r = scan(tiny);
  CHECK(r.ok());
  REQUIRE(r.notes.size() == 2);
  CHECK(r.notes[0].tensor == "model.layers.2.self_attn.o_proj.weight");
  CHECK(r.notes[1].problem == "holds nothing but zeros");
}

TEST_CASE("values: the report does not depend on the number of threads") {
  // 20 MB, so that one tensor is several pieces of work.
  const std::int64_t rows = 5120, cols = 4096;
  std::string data(static_cast<std::size_t>(rows * cols), '\1');
  for (const std::size_t at : {5u, 9'000'000u, 20'000'000u}) data[at] = '\x7f';
  const std::string file = test::safetensors_file({{"w", DType::f8_e4m3, {rows, cols}, data}});
  const Checkpoint c = Checkpoint::open(FileSet::memory("m", {{"model.safetensors", as_bytes_of(file)}}));
  for (const int n : {1, 2, 5}) {
    Threads threads(n);
    std::uint64_t last = 0;
    const ValueReport r = scan_values(c, threads, [&](std::uint64_t done, std::uint64_t total) {
      CHECK(done > last);
      CHECK(total == data.size());
      last = done;
    });
    CHECK(last == data.size());
    REQUIRE(r.errors.size() == 1);
    CHECK(r.errors[0].count == 3);
    CHECK(r.errors[0].first == 5);
  }
}

TEST_CASE("hashes: of files, and where the expected ones are found") {
  test::TempDir dir;
  std::string content(20'000'003, 'x');
  dir.write("a.safetensors", content);
  const FileSet files = FileSet::directory(dir.path());
  const std::string hex = sha256_hex(as_bytes_of(content));
  const double begin = test::cpu_seconds();
  CHECK(hash_file(files, "a.safetensors") == hex);
  const double took = test::cpu_seconds() - begin;
  MESSAGE("SHA-256: " << 20.0 / took << " MB per processor second");
  CHECK(hash_file(FileSet::memory("m", {{"f", as_bytes_of(content)}}), "f") == hex);
  CHECK_FALSE(expected_hash(files, "a.safetensors"));
  dir.write("SHA256SUMS", std::string(64, '0') + "  other\n" + hex + " *a.safetensors\n");
  CHECK(expected_hash(files, "a.safetensors")->hex == hex);
  CHECK(expected_hash(files, "a.safetensors")->source == "SHA256SUMS");
  std::filesystem::create_directories(dir.file(".cache/huggingface/download"));
  dir.write(".cache/huggingface/download/a.safetensors.metadata",
            "0123abcd\n" + std::string(64, 'a') + "\n1731.5\n");
  CHECK(expected_hash(files, "a.safetensors")->hex == std::string(64, 'a'));
  // A Git hash of a small file is no SHA-256 of its content.
  dir.write(".cache/huggingface/download/config.json.metadata",
            "0123abcd\n" + std::string(40, 'a') + "\n1731.5\n");
  CHECK_FALSE(expected_hash(files, "config.json"));
  const std::string root = dir.file("models--a--b");
  std::filesystem::create_directories(root + "/snapshots/1");
  std::filesystem::create_directories(root + "/blobs");
  dir.write("models--a--b/blobs/" + hex, content);
  std::filesystem::create_symlink("../../blobs/" + hex, root + "/snapshots/1/a.safetensors");
  const FileSet snapshot = FileSet::directory(root + "/snapshots/1");
  CHECK(expected_hash(snapshot, "a.safetensors")->hex == hex);
  CHECK(hash_file(snapshot, "a.safetensors") == hex);
}

TEST_CASE("hashes: expected ones are never read from outside the directory") {
  test::TempDir dir, outside;
  const std::string hex(64, 'b');
  outside.write("sums", hex + "  a.safetensors\n");
  outside.write("a.safetensors.metadata", "0123abcd\n" + hex + "\n1731.5\n");
  dir.write("a.safetensors", "x");
  const FileSet files = FileSet::directory(dir.path());
  std::filesystem::create_symlink(outside.file("sums"), dir.file("SHA256SUMS"));
  std::filesystem::create_directories(dir.file(".cache/huggingface"));
  std::filesystem::create_symlink(outside.path(), dir.file(".cache/huggingface/download"));
  CHECK_FALSE(expected_hash(files, "a.safetensors"));
  std::filesystem::remove(dir.file("SHA256SUMS"));
  dir.write("sums", hex + "  a.safetensors\n");
  std::filesystem::create_symlink("sums", dir.file("SHA256SUMS"));
  CHECK(expected_hash(files, "a.safetensors")->hex == hex);
}
