#include <doctest/doctest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "src/app/session_cache.h"
#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/file.h"
#include "tests/support/shell.h"

using namespace fathom;

namespace {

const LatentKey kKey{std::string(64, 'f'), "cache bf16, prompt f32, generated f32", "cpu", 24};

LatentRows rows_of(std::size_t n) {
  LatentRows r;
  for (std::size_t i = 0; i < n; ++i) r.ids.push_back(static_cast<std::int32_t>(i * 7));
  for (std::size_t i = 0; i < n * kKey.row_bytes; ++i) r.rows.push_back(static_cast<std::byte>(i * 31));
  return r;
}

void put(const std::string& path, std::string_view text) {
  AtomicFile f(path, 0600);
  f.write(text);
  f.commit();
}

}  // namespace

TEST_CASE("latent cache: rows come back for the same key only") {
  const std::string path = test::scratch("a.latents");
  const LatentRows r = rows_of(100);
  REQUIRE(write_latents(path, kKey, r.ids, r.rows));
  struct stat s {};
  REQUIRE(::stat(path.c_str(), &s) == 0);
  CHECK((s.st_mode & 0777) == 0600);
  std::string why;
  const auto back = read_latents(path, kKey, &why);
  REQUIRE(back);
  CHECK(back->ids == r.ids);
  CHECK(back->rows == r.rows);
  for (int part = 0; part < 4; ++part) {
    LatentKey other = kKey;
    if (part == 0) other.fingerprint[5] = 'e';
    if (part == 1) other.numerics += "x";
    if (part == 2) other.backend = "cuda";
    if (part == 3) other.row_bytes = 25;
    CHECK_FALSE(read_latents(path, other, &why));
    CHECK_FALSE(why.empty());
  }
  CHECK_FALSE(read_latents(path, kKey, &why, 100));
  CHECK_FALSE(write_latents(test::scratch("b.latents"), kKey, r.ids, r.rows, 1000));
  CHECK_FALSE(read_latents(test::scratch("none.latents"), kKey, &why));
  CHECK(why.empty());
  CHECK(latent_path("x/talk.jsonl") == "x/talk.latents");
  CHECK(latent_path("talk") == "talk.latents");
}

TEST_CASE("latent cache: any damage is noticed and survived") {
  const std::string path = test::scratch("damaged.latents");
  const LatentRows r = rows_of(5);
  REQUIRE(write_latents(path, kKey, r.ids, r.rows));
  const std::string good = read_file(path, 1 << 20);
  std::string why;
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    put(path, bad);
    CHECK_FALSE(read_latents(path, kKey, &why));
    CHECK_FALSE(why.empty());
    put(path, good.substr(0, i));
    CHECK_FALSE(read_latents(path, kKey, &why));
  }
  put(path, good + "x");
  CHECK_FALSE(read_latents(path, kKey, &why));
  // A count whose product wraps.
  std::string huge = good;
  const std::size_t at = good.size() - 64 - 5 * 28 - 8;
  for (const std::uint64_t count : {~std::uint64_t{0}, std::uint64_t{1} << 62, std::uint64_t{0x2492492492492493}}) {
    std::memcpy(huge.data() + at, &count, 8);
    put(path, huge);
    CHECK_FALSE(read_latents(path, kKey, &why));
  }
  ::unlink(path.c_str());
  REQUIRE(::mkdir(path.c_str(), 0700) == 0);
  CHECK_FALSE(read_latents(path, kKey, &why));
  CHECK_FALSE(why.empty());
  ::rmdir(path.c_str());
}

TEST_CASE("latent cache: a failing call while writing leaves the old file") {
  const std::string path = test::scratch("kept.latents");
  const LatentRows old = rows_of(3), now = rows_of(4);
  std::string why;
  for (long n = 1; n < 10; ++n) {
    REQUIRE(write_latents(path, kKey, old.ids, old.rows));
    faults::arm(faults::Site::io, n, false);
    try {
      write_latents(path, kKey, now.ids, now.rows);
    } catch (const Error& e) {
      CHECK(e.code() == Exit::io);
    }
    faults::disarm();
    const auto back = read_latents(path, kKey, &why);
    REQUIRE(back);
    CHECK((back->ids == old.ids || back->ids == now.ids));
  }
}
