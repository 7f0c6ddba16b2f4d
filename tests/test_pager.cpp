// Help texts on a terminal: through $PAGER where they are longer than it.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <unistd.h>

#include "tests/support/pty.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using namespace std::chrono_literals;
using test::Pty;

namespace {

// What a terminal of so many lines gets for `fathom help TOPIC` with this PAGER.
std::string help_on(int rows, const char* pager, const char* topic, int* code) {
  Pty pty(
      [&] {
        ::setenv("PAGER", pager, 1);
        ::setenv("TERM", "xterm-256color", 1);
        ::unsetenv("LESS");
        const std::string program = test::program();
        ::execl(program.c_str(), program.c_str(), "help", topic, nullptr);
        return 127;
      },
      rows, 80);
  *code = pty.wait(10s);
  return pty.transcript();
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("pager: a text longer than the terminal goes through it, others do not") {
  int code = -1;
  const char* numbering = "sed 's/^/PAGED /'";
  const std::string long_text = help_on(24, numbering, "run", &code);
  CHECK(code == 0);
  CHECK(contains(long_text, "PAGED usage: fathom run"));
  CHECK(contains(long_text, "PAGED   -V, --version"));
  const std::string fitting = help_on(200, numbering, "run", &code);
  CHECK(code == 0);
  CHECK(contains(fitting, "usage: fathom run"));
  CHECK_FALSE(contains(fitting, "PAGED"));
  const std::string none = help_on(24, "", "run", &code);
  CHECK(code == 0);
  CHECK_FALSE(contains(none, "PAGED"));
}

TEST_CASE("pager: it gets less's usual flags, may leave early, and may be missing") {
  int code = -1;
  CHECK(contains(help_on(5, "echo less=$LESS; cat >/dev/null", "files", &code), "less=FRX"));
  CHECK(code == 0);
  CHECK(contains(help_on(5, "head -n 1", "run", &code), "usage: fathom run"));
  CHECK(code == 0);
  const std::string missing = help_on(5, "/nonexistent/pager", "run", &code);
  CHECK(code == 0);
  CHECK(contains(missing, "-V, --version"));
}

TEST_CASE("pager: redirected help is as wide as ever and is not paged") {
  const test::Outcome r = test::shell("PAGER='sed s/^/PAGED/' " + test::program() + " help run");
  CHECK(r.code == 0);
  CHECK_FALSE(contains(r.out, "PAGED"));
  CHECK(contains(r.out,
                 "\n  -n, --max-tokens N                most new tokens, thinking included [model limit]\n"));
}

TEST_CASE("help: lines are no wider than the terminal") {
  for (const int columns : {60, 80, 100}) {
    Pty pty(
        [&] {
          ::unsetenv("PAGER");
          const std::string program = test::program();
          ::execl(program.c_str(), program.c_str(), "help", "chat", nullptr);
          return 127;
        },
        24, columns);
    CHECK(pty.wait(10s) == 0);
    const std::string& text = pty.transcript();
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find("\r\n", at), text.size());
      CHECK_MESSAGE(end - at <= static_cast<std::size_t>(columns), text.substr(at, end - at));
      at = end + 2;
    }
  }
}
