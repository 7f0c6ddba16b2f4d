// FATHOM_LOG: a file with everything that is meant for stderr, whether it is shown there or not.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/app/log.h"
#include "src/base/file.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using test::Outcome;
using test::Process;
using test::run;

namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("log: one line each, with time and process, control characters visible, private") {
  const test::TemporaryDirectory dir;
  const std::string path = dir.path() + "/log";
  Log log(path);
  log.write("warning", "first\x1b[2J");
  log.write("error", "second\nits remedy");
  const std::string text = read_file(path, 1000);
  CHECK(text.substr(4, 1) == "-");
  CHECK(text.substr(19, 2) == "Z ");
  CHECK(contains(text, fmt::format(" {} warning: first␛[2J\n", ::getpid())));
  CHECK(contains(text, " error: second\n  its remedy\n"));
  CHECK(log.trouble().empty());
  struct stat s {};
  REQUIRE(::stat(path.c_str(), &s) == 0);
  CHECK((s.st_mode & 0777) == 0600);
}

TEST_CASE("log: none is asked for, and one that cannot be written is said once") {
  Log none{std::nullopt};
  none.write("warning", "x");
  CHECK(none.trouble().empty());
  Log broken(std::string("/proc/nonexistent/log"));
  broken.write("warning", "x");
  CHECK(contains(broken.trouble(), "/proc/nonexistent/log"));
  broken.write("warning", "y");
  CHECK(broken.trouble().empty());
}

TEST_CASE("log: the program keeps there what -q hides, and its errors") {
  const test::TemporaryDirectory dir;
  Process p;
  p.variables["FATHOM_LOG"] = dir.path() + "/log";
  p.args = {"run", "-q", "--greedy", "-n", "2", "hi"};
  const Outcome quiet = run(p);
  CHECK(quiet.code == 0);
  CHECK(quiet.err.empty());
  p.args = {"run", "--temp", "hot", "hi"};
  CHECK(run(p).code == 2);
  const std::string text = read_file(p.variables["FATHOM_LOG"], 100'000);
  CHECK(contains(text, " warning: no model given with -m: the built-in Minnow answers\n"));
  CHECK(contains(text, " notice: [stopped: reached --max-tokens 2]\n"));
  CHECK(contains(text, " error: --temp: expected a number"));
  p.variables["FATHOM_LOG"] = "/proc/nonexistent/log";
  p.args = {"run", "--greedy", "-n", "2", "hi"};
  const Outcome broken = run(p);
  CHECK(broken.code == 0);
  CHECK(contains(broken.err, "fathom: FATHOM_LOG: /proc/nonexistent/log: cannot open"));
}
