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

TEST_CASE("file: a save removes what killed processes left of earlier ones, and nothing else") {
  const test::TempDir dir;
  const std::string path = dir.file("saved");
  const std::vector<std::string> kept{"saved.fathom-2-0.tmp",
                                      "saved.fathom-3-0.tmp",
                                      "other.fathom-1-0.tmp",
                                      "saved.fathom-.tmp",
                                      "saved.fathom-1x.tmp",
                                      "saved.fathom-1-0.tmp.old",
                                      "saved.tmp",
                                      "saved2"};
  for (const std::string& name : kept) dir.write(name, "kept");
  for (const char* name : {"saved.fathom-1-0.tmp", "saved.fathom-4194305-17.tmp"}) dir.write(name, "left");
  std::filesystem::remove(dir.file(kept[0]));
  std::filesystem::create_symlink("saved2", dir.file(kept[0]));
  std::filesystem::create_directory(dir.file("saved.fathom-5-0.tmp"));
  AppendFile other(dir.file(kept[1]));  // another process is writing it
  REQUIRE(other.lock(false));
  AtomicFile first(path);
  first.write("first");
  {
    AtomicFile second(path);  // begun while the first is not done
    second.write("second");
    second.commit();
  }
  CHECK(read_file(path, 100) == "second");
  first.commit();
  CHECK(read_file(path, 100) == "first");
  for (const std::string& name : kept) {
    CAPTURE(name);
    CHECK(std::filesystem::exists(dir.file(name)));
    CHECK(read_file(dir.file(name), 100) == "kept");
  }
  CHECK(FileSet::directory(dir.path()).list().size() == kept.size() + 2);
}

TEST_CASE("file: two names of one file are the same, other things are not") {
  const test::TempDir dir;
  dir.write("a", "x");
  dir.write("b", "x");
  std::filesystem::create_symlink("a", dir.file("link"));
  std::filesystem::create_hard_link(dir.file("a"), dir.file("hard"));
  CHECK(same_file(dir.file("a"), dir.file("a")));
  CHECK(same_file(dir.file("link"), dir.file("a")));
  CHECK(same_file(dir.file("a"), dir.file("hard")));
  CHECK_FALSE(same_file(dir.file("a"), dir.file("b")));
  CHECK_FALSE(same_file(dir.file("a"), dir.file("absent")));
  CHECK_FALSE(same_file(dir.file("absent"), dir.file("absent")));
  CHECK_FALSE(same_file("/dev/null", "/dev/null"));
  const File f = File::open_read(dir.file("a"));
  CHECK(same_file(dir.file("link"), f.descriptor()));
  CHECK_FALSE(same_file(dir.file("b"), f.descriptor()));
  CHECK_FALSE(same_file(dir.file("a"), -1));
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
