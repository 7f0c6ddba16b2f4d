#include <doctest/doctest.h>

#include "src/model/checkpoint.h"
#include "tests/support/build.h"
#include "tests/support/cpu_time.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"
#include "tests/support/safetensors_text.h"

using namespace fathom;
using test::Outcome;
using test::outcome_of;
using test::raw_file;
using test::raw_file_with_length;

namespace {

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors_header(as_bytes_of(file), file.size(), "t.safetensors");
}

void check_refused(std::string_view file, Exit code, const std::string& fragment) {
  const Outcome o = outcome_of([&] { parse(file); });
  INFO(file.substr(0, 300) << " gives " << o.message);
  CHECK(o.code == code);
  CHECK(o.says(fragment));
  CHECK(o.message.starts_with("t.safetensors: "));
  CHECK(o.file == "t.safetensors");
}

void check_bad(std::string_view file, const std::string& fragment) {
  check_refused(file, Exit::bad_checkpoint, fragment);
}

// A header for one tensor "a" of four bytes with its fields as raw JSON.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}
std::string tensor(const std::string& name, std::uint64_t begin, std::uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, end - begin, begin,
                     end);
}

const std::string kGood = one("\"F32\"", "[1]", "[0,4]");

}  // namespace

TEST_CASE("safetensors: a well-formed header") {
  const std::string file = test::safetensors_file({{"x", DType::bf16, {2, 3}, std::string(12, '\1')},
                                                   {"s", DType::f32, {}, std::string(4, '\0')},
                                                   {"none", DType::f16, {0, 7}, ""}});
  const SafetensorsHeader h = parse(file);
  REQUIRE(h.tensors.size() == 3);
  CHECK(h.tensors[0].name == "x");
  CHECK(h.tensors[0].dtype == DType::bf16);
  CHECK(h.tensors[0].shape == std::vector<std::int64_t>{2, 3});
  CHECK(h.tensors[0].end == 12);
  CHECK(h.tensors[1].shape.empty());
  CHECK(h.metadata == std::vector<std::pair<std::string, std::string>>{{"format", "pt"}});
  CHECK(h.data_offset % 8 == 0);
  CHECK(h.data_offset + 16 == file.size());
  CHECK(h.notes.empty());
}

TEST_CASE("safetensors: odd but legal files are accepted") {
  CHECK(parse(test::safetensors_file({{"x", DType::u8, {3}, "abc"}}, 1, "")).tensors.size() ==
        1);  // N odd or even
  CHECK(parse(raw_file(kGood + " ", "1234")).tensors.size() == 1);
  CHECK(parse(raw_file(kGood + std::string(10'000'000, ' '), "1234")).tensors.size() == 1);
  CHECK(parse(raw_file("{}      ")).tensors.empty());
  const SafetensorsHeader h = parse(raw_file(
      R"({"a":{"dtype":"U8","extra":{"b":[1,{"c":null}],"d":-1.5},"shape":[1],"more":true,"data_offsets":[0,1]}})",
      "1"));
  CHECK(h.tensors.size() == 1);
  CHECK(h.notes.size() == 2);
  CHECK(h.notes[0].find("unknown field extra") != std::string::npos);
  // Header order need not be data order.
  CHECK(parse(raw_file("{" + tensor("b", 2, 4) + "," + tensor("a", 0, 2) + "}", "1234")).tensors[0].begin ==
        2);
}

TEST_CASE("safetensors: the length of the header") {
  check_bad("", "an empty file");
  for (std::size_t n = 1; n < 8; ++n) check_bad(std::string(n, '\0'), "expected at least 8");
  check_bad(raw_file_with_length(0, kGood, "1234"), "a header of 0 bytes");
  check_bad(raw_file_with_length(1, kGood, "1234"), "a header of 1 bytes");
  check_bad(raw_file_with_length(3, "{}"), "its header alone needs 11 (1 missing)");
  check_bad(raw_file_with_length(100'000'000, kGood), "its header alone needs 100,000,008");
  for (const std::uint64_t n :
       {std::uint64_t{100'000'001}, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7})
    check_bad(raw_file_with_length(n, kGood, "1234"), "expected at most 100,000,000");
  check_bad(raw_file_with_length(__builtin_bswap64(kGood.size()), kGood, "1234"),
            "expected at most 100,000,000");
}

TEST_CASE("safetensors: the header is JSON of the right kind") {
  for (const std::string& start :
       {std::string(" "), std::string("["), std::string("\xEF\xBB\xBF"), std::string(1, '\0')})
    check_bad(raw_file(start + kGood, "1234"), "does not begin with '{'");
  for (std::size_t cut = 1; cut + 1 < kGood.size(); ++cut) {
    const Outcome o = outcome_of([&] { parse(raw_file(kGood.substr(0, cut), "1234")); });
    CHECK(o.code == Exit::bad_checkpoint);
  }
  check_bad(raw_file(kGood + "\n", "1234"), "does not end with '}' and spaces");
  check_bad(raw_file(kGood + std::string(8, '\0'), "1234"), "does not end with '}' and spaces");
  check_bad(raw_file(kGood + kGood, "1234"), "not valid JSON");
  check_bad(raw_file("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"),
            "holds a NUL");
  for (const char* name :
       {"\\ud800", "\\udc00\\ud800", "\\x", "\xC0\x80", "\xED\xA0\x80", "\xFF", "\xF5\x80\x80\x80", "a\nb"})
    check_bad(
        raw_file("{\"" + std::string(name) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"),
        "not valid JSON");
  check_bad(raw_file("{\"a\":" + std::string(1'000'000, '[') + "}"), "expected an object, found an array");
  check_bad(raw_file("{\"a\":{\"extra\":" + std::string(1'000'000, '[') + "}}"), "nested deeper than");
  check_bad(raw_file("{\"" + std::string(5'000, 'n') + "\":{}}"), "expected at most 4096");
  for (const char* value : {"1", "null", "\"x\"", "[]", "true", "-1", "1.5"})
    check_bad(raw_file("{\"a\":" + std::string(value) + "}"), "a: expected an object");
  check_bad(raw_file("{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", "1"),
            "expected dtype as a string");
}

TEST_CASE("safetensors: duplicates") {
  const std::string a = tensor("a", 0, 2), b = tensor("a", 2, 4);
  check_bad(raw_file("{" + a + "," + b + "}", "1234"), "a: given twice");
  check_bad(raw_file("{" + a + "," + a + "}", "12"), "a: given twice");
  check_bad(raw_file("{" + tensor("a", 0, 0) + "," + tensor("b", 0, 0) + "," + tensor("a", 0, 0) + "}"),
            "a: given twice");
  check_bad(raw_file(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"),
            "dtype given twice");
  check_bad(raw_file(R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", "1"),
            "shape given twice");
  check_bad(raw_file(R"({"a":{"x":1,"x":1,"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"),
            "x given twice");
  check_bad(raw_file(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__: given twice");
  check_bad(raw_file(R"({"__metadata__":{"a":"1","a":"1"}})"), "duplicate key a");
}

TEST_CASE("safetensors: metadata maps strings to strings") {
  for (const char* value : {"{\"a\":1}", "{\"a\":[]}", "{\"a\":{}}", "{\"a\":null}", "[]", "\"x\"", "1"})
    check_bad(raw_file("{\"__metadata__\":" + std::string(value) + "}"), "__metadata__: expected");
}

TEST_CASE("safetensors: offsets and shapes") {
  const auto with_offsets = [](const std::string& o) { return raw_file(one("\"F32\"", "[1]", o), "1234"); };
  check_bad(with_offsets("[4,0]"), "end before they begin");
  for (const char* bad :
       {"[-1,3]", "[-0,4]", "[0,4.0]", "[0,4e0]", "[0,\"4\"]", "[0,null]", "[[0],4]", "[0,true]"})
    check_bad(with_offsets(bad), "a: expected data_offsets of two integers");
  check_bad(with_offsets("[0,18446744073709551616]"), "does not fit 64 bits");
  check_bad(with_offsets("[0,9223372036854775808]"), "hold 9,223,372,036,854,775,808");
  check_bad(with_offsets("[0]"), "expected two data_offsets");
  check_bad(with_offsets("[0,4,4]"), "expected two data_offsets");
  check_bad(with_offsets("{\"0\":4}"), "expected data_offsets as an array");
  const auto with_shape = [](const std::string& s) { return raw_file(one("\"F32\"", s, "[0,4]"), "1234"); };
  for (const char* bad : {"[-1]", "[1.0]", "[\"1\"]", "[[1]]", "[null]"})
    check_bad(with_shape(bad), "a: expected shape");
  for (const char* bad : {"[4294967296,4294967296]", "[9223372036854775807,2]", "[4611686018427387904,4]",
                          "[4611686018427387904]"})
    check_bad(with_shape(bad), "does not fit 64 bits");
  check_bad(with_shape("[9223372036854775808,2]"), "dimension 9223372036854775808 is too large");
  check_bad(with_shape("[2]"), "shape and dtype need 8 bytes");
  check_bad(with_shape("[0]"), "shape and dtype need 0 bytes");
  check_bad(with_shape("[1,1,1,1,1,1,1,1,1]"), "at most 8 dimensions");
  std::string rank_1000 = "[1";
  for (int i = 1; i < 1000; ++i) rank_1000 += ",1";
  check_bad(with_shape(rank_1000 + "]"), "at most 8 dimensions");
  check_bad(raw_file(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", "1234"), "a: no dtype");
  check_bad(raw_file(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "1234"), "a: no shape");
  check_bad(raw_file(R"({"a":{"dtype":"F32","shape":[1]}})", "1234"), "a: no data_offsets");
}

TEST_CASE("safetensors: tensors cover the data without overlap or hole") {
  const auto pair_of = [](std::uint64_t b0, std::uint64_t e0, std::uint64_t b1, std::uint64_t e1,
                          std::size_t data) {
    return raw_file("{" + tensor("a", b0, e0) + "," + tensor("b", b1, e1) + "}", std::string(data, 'x'));
  };
  CHECK(parse(pair_of(0, 4, 4, 8, 8)).tensors.size() == 2);
  check_bad(pair_of(0, 4, 3, 7, 7), "b: begins at 3, expected 4: it overlaps");
  check_bad(pair_of(0, 4, 0, 4, 4), "it overlaps");
  check_bad(pair_of(0, 4, 5, 9, 9), "b: begins at 5, expected 4: a hole");
  check_bad(pair_of(8, 12, 12, 16, 16), "a: begins at 8, expected 0: a hole");
  check_bad(pair_of(0, 4, 4, 8, 7), "(1 missing)");
  check_bad(pair_of(0, 4, 4, 8, 4), "(4 missing)");  // cut exactly at a tensor's border
  check_bad(pair_of(0, 4, 4, 8, 9), "(1 too many)");
  check_bad(pair_of(0, 4, 4, 8, 8) + "PK\x05\x06 and so on", "too many");
  check_bad(
      raw_file(
          R"({"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}})"),
      "missing");
}

TEST_CASE("safetensors: an unknown dtype is unsupported, but only in a sound file") {
  for (const char* dtype : {"\"F4\"", "\"XYZ\"", "\"f16\"", "\"\""})
    check_refused(raw_file(one(dtype, "[1]", "[0,4]"), "1234"), Exit::unsupported,
                  "is none that fathom knows");
  check_bad(raw_file(one("\"F4\"", "[1]", "[1,4]"), "1234"), "a hole");
}

TEST_CASE("safetensors: files that are something else are named") {
  check_bad("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4302350824\n",
            "a Git LFS pointer, not weights");
  check_bad("<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page");
  check_bad("\n  <?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "an HTML or XML page");
  check_bad(std::string("\x1f\x8b\x08\0\0\0\0\0\0\3abcdefgh", 18), "gzip");
  check_refused(std::string("GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16), Exit::unsupported, "GGUF");
  check_refused(std::string("PK\3\4\x14\0\0\0\0\0abc", 13), Exit::unsupported, "PyTorch .bin");
  check_refused("\x80\x02}q\x01 and more", Exit::unsupported, "never executes code");
}

TEST_CASE("safetensors: a name from the file cannot write to the terminal") {
  const Outcome o = outcome_of([] { parse(raw_file("{\"\\u001b[2J\\u009b\":1}")); });
  CHECK(o.says("\\u001b[2J\\u009b"));
  CHECK(o.message.find('\x1b') == std::string::npos);
}

TEST_CASE("safetensors: hostile sizes cost little time and memory") {
  const double begin = test::cpu_seconds();
  // A 100 MB header of nothing: refused by its first byte, before it is read.
  test::TempDir dir;
  dir.write("model.safetensors", raw_file_with_length(100'000'000, ""));
  dir.resize("model.safetensors", 100'000'008);
  const Outcome sparse = outcome_of([&] { Checkpoint::open(FileSet::directory(dir.path())); });
  CHECK(sparse.code == Exit::bad_checkpoint);
  CHECK(sparse.says("does not begin with '{'"));
  // A million empty tensors, and a name of 50 MB.
  std::string million = "{";
  for (int i = 0; i < 1'000'000; ++i)
    million += fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                           i == 0 ? "" : ",", i);
  check_bad(raw_file(million + "}"), "more than 500,000 tensors");
  check_bad(raw_file("{\"" + std::string(50'000'000, 'n') + "\":{}}"), "a name of 50,000,000 bytes");
  const double took = test::cpu_seconds() - begin;
  MESSAGE("hostile sizes: " << took << " s");
  if (!test::kSanitized) CHECK(took < 10);  // about 1 s; a sanitizer build needs 35
}

TEST_CASE("safetensors: damaged headers are refused or mean what they say") {
  // Structure-aware damage to a sound file; 60,000 files of such kinds were compared with the reference
  // reader.
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("b":{"dtype":"F8_E4M3","shape":[5],"data_offsets":[12,17]},)"
      R"("c":{"dtype":"F32","shape":[],"data_offsets":[17,21]}})";
  const std::string pieces = "{}[]\",:0123456789-.eE \\ntu";
  std::uint64_t state = 1;
  const auto random = [&](std::size_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % n;
  };
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string damaged = header;
    for (std::size_t edits = 1 + random(3); edits > 0; --edits) {
      const std::size_t at = random(damaged.size());
      switch (random(4)) {
        case 0:
          damaged[at] = static_cast<char>(random(256));
          break;
        case 1:
          damaged.erase(at, 1 + random(4));
          break;
        case 2:
          damaged.insert(at, 1, pieces[random(pieces.size())]);
          break;
        default:
          damaged.insert(at, damaged.substr(random(damaged.size()), random(60)));
          break;
      }
    }
    const std::string file = raw_file(damaged, std::string(20 + random(3), 'x'));
    SafetensorsHeader h;
    const Outcome o = outcome_of([&] { h = parse(file); });
    if (o.code != Exit::ok) {
      CHECK_MESSAGE((o.code == Exit::bad_checkpoint || o.code == Exit::unsupported), damaged);
      continue;
    }
    ++accepted;
    // Accepted: the tensors tile the data section, each as large as shape and type say.
    std::uint64_t total = 0;
    for (const TensorEntry& t : h.tensors) {
      std::uint64_t bytes = dtype_size(t.dtype);
      for (const std::int64_t d : t.shape) bytes *= static_cast<std::uint64_t>(d);
      CHECK_MESSAGE(t.end - t.begin == bytes, damaged);
      total += bytes;
    }
    CHECK_MESSAGE(h.data_offset + total == file.size(), damaged);
  }
  CHECK(accepted > 100);  // edits inside names and spaces
}
