// The saved results of `verify --hash`.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "src/app/verified.h"
#include "src/base/json.h"
#include "src/base/sha256.h"
#include "tests/support/fake_model.h"
#include "tests/support/shell.h"
#include "tests/support/subprocess.h"

using namespace fathom;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

VerifiedFile entry(std::uint64_t inode, char digit = 'a') {
  return {{.device = 66306,
           .inode = inode,
           .size = 4'302'350'824,
           .mtime_ns = 1'700'000'000 * kSecond + 7,
           .ctime_ns = 1'700'000'001 * kSecond},
          std::string(64, digit)};
}
const std::int64_t kLater = 1'800'000'000 * kSecond;

}  // namespace

TEST_CASE("verified: an entry is found for the same file only, and by the next process") {
  const test::TempDir dir;
  const std::string path = dir.file("cache/fathom/verified");
  {
    VerifiedFiles files(path);
    CHECK_FALSE(files.find(entry(1).file));
    files.add(entry(1), kLater);
    CHECK(files.trouble().empty());
  }
  struct stat s {};
  REQUIRE(::stat(path.c_str(), &s) == 0);
  CHECK((s.st_mode & 0777) == 0600);
  REQUIRE(::stat(dir.file("cache/fathom").c_str(), &s) == 0);
  CHECK((s.st_mode & 0777) == 0700);
  VerifiedFiles files(path);
  CHECK(files.find(entry(1).file) == std::string(64, 'a'));
  for (int i = 0; i < 5; ++i) {
    FileIdentity other = entry(1).file;
    if (i == 0) ++other.device;
    if (i == 1) ++other.inode;
    if (i == 2) --other.size;
    if (i == 3) ++other.mtime_ns;
    if (i == 4) ++other.ctime_ns;
    CAPTURE(i);
    CHECK_FALSE(files.find(other));
  }
  // Hashed again with another result: the newer one counts.
  files.add(entry(1, 'b'), kLater);
  CHECK(VerifiedFiles(path).find(entry(1).file) == std::string(64, 'b'));
}

TEST_CASE("verified: a file that was changed a moment ago is not kept") {
  const test::TempDir dir;
  VerifiedFiles files(dir.file("verified"));
  files.add(entry(1), entry(1).file.mtime_ns + kSecond);
  files.add(entry(1), entry(1).file.mtime_ns - 100 * kSecond);  // a clock that was set back
  CHECK_FALSE(files.find(entry(1).file));
  files.add(entry(1), entry(1).file.ctime_ns + 3 * kSecond);
  CHECK(files.find(entry(1).file));
}

TEST_CASE("verified: untrusted lines are left out, sound ones beside them count") {
  const std::string good = verified_line(entry(1)), hash(64, 'c');
  const std::string bad[] = {"\n",
                             "x\n",
                             good.substr(0, good.size() - 2) + "\n",
                             good.substr(0, good.size() - 1) + "0\n",
                             "1 2 3 4 " + hash + "\n",
                             "-1 2 3 4 5 " + hash + "\n",
                             "1 2 3 4 5  " + hash + "\n",
                             "1 2 3 99999999999999999999 5 " + hash + "\n",
                             "1 2 3 4 5 " + std::string(64, 'C') + "\n",
                             "1 2 3 4 5 " + hash + " \n",
                             " 1 2 3 4 5 " + hash + "\n",
                             "1 2 3 4 5 6 " + hash + "\n",
                             std::string("\0\n", 2),
                             std::string(100'000, '1') + "\n",
                             good.substr(0, 30)};
  std::string text;
  for (const std::string& line : bad) {
    CAPTURE(line);
    CHECK(parse_verified(line).empty());
    text += line;
  }
  CHECK(parse_verified(good + text) == std::vector{entry(1)});
  CHECK(parse_verified(text + "\n" + good) == std::vector{entry(1)});
  const VerifiedFile extremes{{~std::uint64_t{0}, 0, ~std::uint64_t{0}, INT64_MIN, INT64_MAX},
                              std::string(64, '0')};
  CHECK(parse_verified(verified_line(extremes)) == std::vector{extremes});
}

TEST_CASE("verified: a line that a crash has cut costs itself only") {
  const test::TempDir dir;
  const std::string whole = verified_line(entry(1)), second = verified_line(entry(2));
  for (std::size_t cut = 0; cut < second.size(); ++cut) {
    dir.write("verified", whole + second.substr(0, cut));
    VerifiedFiles files(dir.file("verified"));
    files.add(entry(3), kLater);
    const VerifiedFiles again(dir.file("verified"));
    CAPTURE(cut);
    CHECK(again.find(entry(1).file));
    CHECK(again.find(entry(3).file));
    CHECK(again.find(entry(2).file).has_value() ==
          (cut + 1 == second.size()));  // only its line end is missing
    std::filesystem::remove(dir.file("verified"));
  }
}

TEST_CASE("verified: hostile and impossible files are not used, and not touched") {
  const test::TempDir dir;
  const std::string good = verified_line(entry(1));
  dir.write("target", good);
  std::filesystem::create_symlink(dir.file("target"), dir.file("link"));
  dir.write("shared", good);
  REQUIRE(::chmod(dir.file("shared").c_str(), 0660) == 0);
  std::filesystem::create_directory(dir.file("folder"));
  REQUIRE(::mkfifo(dir.file("fifo").c_str(), 0600) == 0);
  for (const char* name : {"link", "shared", "folder", "fifo", "target/below"}) {
    CAPTURE(name);
    VerifiedFiles files(dir.file(name));
    CHECK_FALSE(files.trouble().empty());
    CHECK_FALSE(files.find(entry(1).file));
    files.add(entry(2), kLater);
    CHECK(files.find(entry(2).file));  // for this process
  }
  CHECK(read_file(dir.file("target"), 1000) == good);
  CHECK(read_file(dir.file("shared"), 1000) == good);
  VerifiedFiles none("");
  CHECK(none.trouble().empty());
}

TEST_CASE("verified: the file does not grow without end") {
  const test::TempDir dir;
  constexpr std::size_t kMost = VerifiedFiles::kMaxFiles;
  std::string text;
  for (std::size_t i = 0; i < 2 * kMost; ++i) text += verified_line(entry(i));
  dir.write("verified", text + "junk");
  REQUIRE(::chmod(dir.file("verified").c_str(), 0600) == 0);
  VerifiedFiles files(dir.file("verified"));
  files.add(entry(2 * kMost), kLater);
  const std::vector<VerifiedFile> kept = parse_verified(read_file(dir.file("verified"), 1u << 24));
  REQUIRE(kept.size() == kMost);
  CHECK(kept.back() == entry(2 * kMost));
  CHECK(kept.front() == entry(kMost + 1));
  // Beyond any size that fathom makes: the newest part is read.
  dir.resize("verified", 0);
  dir.resize("verified", std::uintmax_t{1} << 33);
  VerifiedFiles huge(dir.file("verified"));
  CHECK_FALSE(huge.find(entry(1).file));
}

TEST_CASE("verified: several processes lose no line, also while the file is made shorter") {
  const test::TempDir dir;
  const std::string path = dir.file("verified");
  constexpr std::uint64_t kProcesses = 4, kEach = 50;
  std::string text;
  for (std::uint64_t i = 0; i < 2 * VerifiedFiles::kMaxFiles - 20; ++i)
    text += verified_line(entry(1'000'000 + i));
  dir.write("verified", text);
  REQUIRE(::chmod(path.c_str(), 0600) == 0);
  for (std::uint64_t p = 0; p < kProcesses; ++p)
    if (::fork() == 0) {
      VerifiedFiles files(path);
      for (std::uint64_t i = 0; i < kEach; ++i) files.add(entry(p * kEach + i), kLater);
      ::_exit(files.trouble().empty() ? 0 : 1);
    }
  for (std::uint64_t p = 0; p < kProcesses; ++p) {
    int status = 0;
    REQUIRE(::wait(&status) > 0);
    CHECK(status == 0);
  }
  const VerifiedFiles files(path);
  for (std::uint64_t i = 0; i < kProcesses * kEach; ++i) CHECK(files.find(entry(i).file));
  CHECK(read_file(path, 1u << 24).size() < text.size());
}

TEST_CASE("verified: verify --hash reads a file once, and again when it has changed") {
  const test::TempDir dir;
  const std::string model = dir.file("model"), shard = model + "/model.safetensors",
                    cache = dir.file("cache");
  test::write_fake_checkpoint(model);
  const std::string bytes = read_file(shard, 1u << 24);
  const auto put_sums = [&](const std::string& hex) {
    dir.write("model/SHA256SUMS", hex + "  model.safetensors\n");
  };
  put_sums(sha256_hex(as_bytes_of(bytes)));
  const auto age = [&] { return test::shell("sleep 2.1").code; };  // files of this very moment are not kept
  REQUIRE(age() == 0);
  const auto verify = [&](const std::string& flags = "") {
    return test::shell(
        fmt::format("XDG_CACHE_HOME={} {} verify {} --hash {}", cache, test::program(), model, flags));
  };
  const test::Outcome first = verify();
  CHECK_MESSAGE(first.code == 0, first.err);
  CHECK(first.out.find("earlier run") == std::string::npos);
  const test::Outcome second = verify();
  CHECK(second.code == 0);
  CHECK(second.out.find("1 file is unchanged since an earlier run hashed it") != std::string::npos);
  CHECK(second.out.find(cache + "/fathom/verified") != std::string::npos);
  const json::Value record = json::parse(verify("--json").out, "record");
  CHECK(record.find("files")->as_array().at(0).find("hashed_before")->as_bool());
  // What is compared is not saved: other sums are noticed.
  put_sums(std::string(64, 'd'));
  CHECK(verify().code == 4);
  put_sums(sha256_hex(as_bytes_of(bytes)));
  // One bit, the same size, the modification time set back.
  struct stat s {};
  REQUIRE(::stat(shard.c_str(), &s) == 0);
  std::string changed = bytes;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  dir.write("model/model.safetensors", changed);
  const timespec times[2] = {s.st_atim, s.st_mtim};
  REQUIRE(::utimensat(AT_FDCWD, shard.c_str(), times, 0) == 0);
  const test::Outcome third = verify();
  CHECK(third.code == 4);
  CHECK(third.err.find("files differ from what was published") != std::string::npos);
  // Without a place to keep it nothing changes.
  CHECK(test::shell(fmt::format("XDG_CACHE_HOME=/proc/none {} verify {} --hash", test::program(), model))
            .code == 4);
}
