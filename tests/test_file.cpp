// The door to the file system where it refuses: what is no file, what shrinks, what another process holds.
#include <doctest/doctest.h>

#include <sys/stat.h>

#include <filesystem>

#include "src/app/session.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"

using namespace fathom;
using test::outcome_of;

TEST_CASE("file: one that shrinks while it is read is an I/O error with the place") {
  const test::TempDir dir;
  dir.write("a", std::string(100, 'a'));
  const File f = File::open_read(dir.file("a"));
  dir.resize("a", 40);
  std::vector<std::byte> bytes(100);
  const test::Outcome o = outcome_of([&] { f.read_at(0, bytes); });
  CHECK(o.code == Exit::io);
  CHECK(o.says("ends at byte 40"));
  CHECK(outcome_of([&] { f.read_at(4096, bytes); }).code == Exit::io);
}

TEST_CASE("file: what is no regular file is neither read nor appended to") {
  const test::TempDir dir;
  REQUIRE(::mkfifo(dir.file("pipe").c_str(), 0600) == 0);
  CHECK(outcome_of([&] { (void)File::open_read(dir.file("pipe")); }).code == Exit::bad_checkpoint);
  CHECK(outcome_of([&] { AppendFile f(dir.file("pipe")); }).says("expected a regular file"));
  CHECK(outcome_of([&] { AppendFile f(dir.path()); }).code == Exit::io);
  dir.write("file", "x");
  std::filesystem::create_symlink("file", dir.file("link"));
  CHECK(outcome_of([&] { AppendFile f(dir.file("link")); }).says("symbolic link"));
  CHECK(outcome_of([&] { AppendFile f(dir.file("link"), 0600, AppendFile::Links::follow); }).code == Exit::ok);
  CHECK(outcome_of([&] { (void)FileSet::directory(dir.file("file")); }).says("expected a directory"));
  CHECK(outcome_of([&] { make_directory(dir.file("file")); }).code == Exit::io);
  CHECK(outcome_of([&] { make_directory(dir.file("new")); }).code == Exit::ok);
  CHECK(outcome_of([&] { make_directory(dir.file("new")); }).code == Exit::ok);
  CHECK(outcome_of([&] { make_directories(dir.file("file/below")); }).code == Exit::io);
  CHECK(outcome_of([&] { AtomicFile f(dir.file("absent/x")); }).says("cannot create"));
  CHECK(outcome_of([&] { (void)read_file(dir.file("file"), 0); }).says("expected at most 0 bytes"));
}

TEST_CASE("file: names with a way out of the directory are refused, below it they are found") {
  const test::TempDir dir, outside;
  outside.write("secret", "s");
  std::filesystem::create_directories(dir.file("sub"));
  dir.write("sub/inside", "i");
  const FileSet files = FileSet::directory(dir.path());
  CHECK(files.read_below("sub/inside", 10) == "i");
  CHECK_FALSE(files.read_below("sub/inside", 0));
  CHECK_FALSE(files.read_below("absent", 10));
  CHECK_FALSE(files.read_below("../" + std::filesystem::path(outside.path()).filename().string() + "/secret", 10));
  std::filesystem::create_symlink(outside.path(), dir.file("way"));
  CHECK_FALSE(files.read_below("way/secret", 10));
  CHECK_FALSE(FileSet::memory("m", {}).read_below("sub/inside", 10));
  for (const char* name : {"", ".", "..", "../x", "/etc/passwd", "sub/inside"})
    CHECK(outcome_of([&] { (void)files.open(name); }).code == Exit::bad_checkpoint);
}

TEST_CASE("file: a conversation is held by one process at a time") {
  const test::TempDir dir;
  const SessionHeader header{"m", "f", "n"};
  const std::string path = dir.file("talk.jsonl");
  {
    const Session held = Session::open(path, header);
    const test::Outcome o = outcome_of([&] { (void)Session::open(path, header); });
    CHECK(o.code == Exit::io);
    CHECK(o.says("in use by another fathom"));
  }
  CHECK(outcome_of([&] { (void)Session::open(path, header); }).code == Exit::ok);
}
