#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <set>

#include "src/base/checked.h"
#include "src/base/faults.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/sigbus.h"
#include "src/base/tensor.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"

using namespace fathom;
using test::code_of;

TEST_CASE("checked sizes refuse to wrap") {
  CHECK((Size(3) * Size(4) + Size(1)).value() == 13);
  CHECK(Size(576).ceil_div(128).value() == 5);
  const Size big(std::uint64_t{1} << 63);
  CHECK(code_of([&] { (void)(big * Size(2)); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)(big + big); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)(Size(1) - Size(2)); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)Size(-1); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)Size(300).to<std::uint8_t>(); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)Size(1).ceil_div(0); }) == Exit::bad_checkpoint);
}

TEST_CASE("e4m3 decodes and encodes every code exactly") {
  for (int c = 0; c < 256; ++c) {
    const auto code = static_cast<std::uint8_t>(c);
    const float v = e4m3_to_float(code);
    if ((c & 0x7f) == 0x7f) {
      CHECK(std::isnan(v));
    } else {
      CHECK(float_to_e4m3(v) == code);
    }
  }
  CHECK(e4m3_to_float(0x7e) == 448.0f);
  CHECK(e4m3_to_float(0x01) == 0x1p-9f);
  CHECK(float_to_e4m3(1e9f) == 0x7e);
  CHECK(float_to_e4m3(-1e9f) == 0xfe);
  // Between neighbours the nearest is taken, and a tie goes to the even code.
  for (int c = 0; c < 0x7e; ++c) {
    const float lo = e4m3_to_float(static_cast<std::uint8_t>(c)), hi = e4m3_to_float(static_cast<std::uint8_t>(c + 1));
    const float middle = (lo + hi) / 2;
    CHECK(float_to_e4m3(middle) == (c % 2 == 0 ? c : c + 1));
    CHECK(float_to_e4m3(std::nextafter(middle, lo)) == c);
    CHECK(float_to_e4m3(std::nextafter(middle, hi)) == c + 1);
  }
}

TEST_CASE("half, bf16, e8m0 and e2m1 decode") {
  CHECK(f16_to_float(0x3c00) == 1.0f);
  CHECK(f16_to_float(0x0001) == 0x1p-24f);
  CHECK(f16_to_float(0xfbff) == -65504.0f);
  CHECK(std::isinf(f16_to_float(0x7c00)));
  CHECK(bf16_to_float(0x3f80) == 1.0f);
  CHECK(float_to_bf16(1.00390625f) == 0x3f80);  // tie to even
  CHECK(float_to_bf16(1.01171875f) == 0x3f82);  // tie to even, upwards
  CHECK(std::isnan(round_to_bf16(std::nanf(""))));
  CHECK(e8m0_to_float(127) == 1.0f);
  CHECK(e8m0_to_float(0) == 0x1p-127f);
  CHECK(std::isnan(e8m0_to_float(255)));
  CHECK(e2m1_to_float(0xA) == -1.0f);
  CHECK(e2m1_to_float(7) == 6.0f);
}

TEST_CASE("JSON keeps integers exact and refuses what is not JSON") {
  const json::Value v = json::parse(R"({"a":[1,-2,18446744073709551615,1.5,"x\u00e9",null,true],"b":{}})", "t");
  const json::Array& a = v.find("a")->as_array();
  CHECK(a[0].integer_in(0, 10) == 1);
  CHECK(a[1].integer_in(-5, 5) == -2);
  CHECK(a[2].as_u64() == 18446744073709551615ull);
  CHECK_FALSE(a[3].is_integer());
  CHECK(a[4].as_string() == "x\xC3\xA9");
  CHECK(json::dump(v) == "{\"a\":[1,-2,18446744073709551615,1.5,\"x\xC3\xA9\",null,true],\"b\":{}}");
  for (const char* bad : {"", "{", "[1,]", "{\"a\":1,\"a\":1}", "01", "1 2", "\xEF\xBB\xBF{}", "\"\xFF\"",
                          "99999999999999999999", "nan", "'x'"})
    CHECK_MESSAGE(code_of([&] { json::parse(bad, "t"); }) == Exit::bad_checkpoint, bad);
  CHECK(code_of([&] { json::parse(std::string(1000000, '['), "t"); }) == Exit::bad_checkpoint);
  CHECK(json::quote("a\"\\\n\x01\xC2\x9B\xFF\x7F") == "\"a\\\"\\\\\\n\\u0001\\u009b\\ufffd\\u007f\"");
}

TEST_CASE("an atomic file is whole or absent, also when a call fails") {
  const test::TempDir folder;
  const std::string path = folder.file("atomic");
  {
    AtomicFile f(path);
    f.write("first");
    f.commit();
  }
  CHECK(read_file(path, 100) == "first");
  for (long n = 1; n < 20; ++n) {
    faults::arm(faults::Site::io, n, false);
    const Exit code = code_of([&] {
      AtomicFile f(path);
      f.write("second");
      f.commit();
    });
    faults::disarm();
    const std::string now = read_file(path, 100);
    CHECK((now == "first" || now == "second"));
    if (code == Exit::ok) CHECK(now == "second");
    if (now == "second") break;
    CHECK(code == Exit::io);
  }
  CHECK(read_file(path, 100) == "second");
  CHECK(code_of([&] { read_file(path, 3); }) == Exit::bad_checkpoint);
  std::remove(path.c_str());
  CHECK(code_of([&] { read_file(path, 3); }) == Exit::not_found);
}

TEST_CASE("a mapping truncated from outside ends with exit 9 and the file's name") {
  const test::TempDir folder;
  const std::string path = folder.file("truncated");
  {
    AtomicFile f(path);
    f.write(std::string(1 << 16, 'x'));
    f.commit();
  }
  int out[2];
  REQUIRE(::pipe(out) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], STDERR_FILENO);
    sigbus::install();
    const Blob blob = map_file(File::open_read(path));
    if (::truncate(path.c_str(), 4096) != 0) ::_exit(100);
    const volatile std::byte* p = blob.bytes().data();
    const int sum = std::to_integer<int>(p[40000]);
    ::_exit(101 + sum % 2);
  }
  ::close(out[1]);
  std::string text;
  char buffer[256];  // the handler writes its line in pieces
  for (ssize_t n; (n = ::read(out[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(n));
  ::close(out[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 9);
  CHECK_MESSAGE(text.find(path) != std::string::npos, text);
  std::remove(path.c_str());
}

TEST_CASE("a file set never leaves its directory") {
  const test::TempDir dir;
  const FileSet set = FileSet::directory(dir.path());
  for (const char* name : {"../etc/passwd", "/etc/passwd", "..", "", "a/b"})
    CHECK(code_of([&] { set.open(name); }) == Exit::bad_checkpoint);
}
