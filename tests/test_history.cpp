#include <doctest/doctest.h>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/app/history.h"
#include "src/base/faults.h"
#include "src/base/file.h"
#include "tests/support/shell.h"

using namespace fathom;

namespace {

void write_raw(const std::string& path, std::string_view text) {
  AtomicFile f(path, 0600);
  f.write(text);
  f.commit();
}

mode_t mode_of(const std::string& path) {
  struct stat s {};
  ::stat(path.c_str(), &s);
  return s.st_mode & 0777;
}

}  // namespace

TEST_CASE("history: any bytes survive a line") {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  for (const std::string& s : {all, std::string("a\nb\\n\tc\x1b[2J"), std::string("\\"), std::string("\\x4"), std::string()}) {
    const std::string line = escape_history(s);
    CHECK(unescape_history(line) == s);
    for (const char c : line) CHECK((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
  }
  CHECK(unescape_history("a\\qb\\") == "a\\qb\\");
}

TEST_CASE("history: kept between runs, private, not with a leading space or twice") {
  const std::string dir = test::scratch("state/fathom"), path = dir + "/history";
  {
    History h(path);
    CHECK(h.lines().empty());
    for (const char* line : {"one", " secret", "two\nlines", "two\nlines", "", "three"}) h.add(line);
    h.add(std::string(History::kMaxLineBytes + 1, 'x'));
    CHECK(h.warning().empty());
  }
  CHECK(History(path).lines() == std::vector<std::string>{"one", "two\nlines", "three"});
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(dir) == 0700);
}

TEST_CASE("history: at most 1,000 lines, the newest, and the file stays small") {
  const std::string path = test::scratch("long-history");
  History h(path);
  for (int i = 0; i < 4500; ++i) h.add("line " + std::to_string(i));
  const History again(path);
  REQUIRE(again.lines().size() == History::kMaxLines);
  CHECK(again.lines().front() == "line 3500");
  CHECK(again.lines().back() == "line 4499");
  const std::string text = read_file(path, 1 << 20);
  CHECK(std::count(text.begin(), text.end(), '\n') <= 2 * static_cast<long>(History::kMaxLines) + 1);
}

TEST_CASE("history: two chats at once lose no line") {
  const std::string path = test::scratch("shared-history");
  for (int child = 0; child < 2; ++child) {
    if (::fork() != 0) continue;
    History h(path);
    for (int i = 0; i < 300; ++i) h.add(std::to_string(child) + "-" + std::to_string(i));
    ::_exit(0);
  }
  int status;
  while (::wait(&status) > 0) {}
  const History h(path);
  CHECK(h.lines().size() == 600);
}

TEST_CASE("history: hostile files are survived with a warning or without loss") {
  const std::string path = test::scratch("odd-history");
  SUBCASE("no final newline") {
    write_raw(path, "first\nsecond");
    History h(path);
    h.add("third");
    CHECK(History(path).lines() == std::vector<std::string>{"first", "second", "third"});
  }
  SUBCASE("binary") {
    std::string noise;
    for (int i = 0; i < 100000; ++i) noise += static_cast<char>((i * 7919) >> 3);
    write_raw(path, noise);
    CHECK(History(path).lines().size() <= History::kMaxLines);
  }
  SUBCASE("one gigabyte") {
    write_raw(path, "");
    REQUIRE(::truncate(path.c_str(), 1 << 30) == 0);
    History h(path);
    h.add("after");
    CHECK(h.lines().back() == "after");
    ::unlink(path.c_str());
  }
  SUBCASE("a directory") {
    REQUIRE(::mkdir(path.c_str(), 0700) == 0);
    History h(path);
    h.add("kept in memory");
    CHECK(h.warning().find("history is not kept") == 0);
    CHECK(h.lines().size() == 1);
    ::rmdir(path.c_str());
  }
  SUBCASE("a link to another file") {
    const std::string other = test::scratch("other-file");
    write_raw(other, "precious");
    REQUIRE(::symlink(other.c_str(), path.c_str()) == 0);
    History h(path);
    h.add("not there");
    CHECK(h.warning().find("symbolic link") != std::string::npos);
    CHECK(read_file(other, 100) == "precious");
    ::unlink(path.c_str());
  }
  SUBCASE("every file operation failing once") {
    for (long n = 1; n < 12; ++n) {
      write_raw(path, "first\n");
      faults::arm(faults::Site::io, n, false);
      History h(path);
      h.add("second");
      faults::disarm();
      CHECK(h.lines().back() == "second");
      const std::string text = read_file(path, 1000);
      CHECK((text == "first\n" || text == "first\nsecond\n"));
    }
  }
  ::unlink(path.c_str());
}
