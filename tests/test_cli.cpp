// Drives the real binary: what a shell sees.
#include <doctest/doctest.h>

#include "src/base/json.h"
#include "tests/support/build.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using test::Outcome;
using test::run;
using test::shell;

namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("cli: fathom alone shows help and two examples") {
  const Outcome r = run(std::vector<std::string>{});
  CHECK(r.code == 0);
  CHECK(contains(r.out, "fathom run \"What is 37 * 24?\""));
  CHECK(contains(r.out, "Commands:"));
  CHECK(r.err.empty());
}

TEST_CASE("cli: help and version") {
  CHECK(run({"--help"}).out.starts_with("usage: fathom"));
  CHECK(run({"-h"}).code == 0);
  CHECK(run({"run", "--help"}).out.starts_with("usage: fathom run"));
  CHECK(run({"help", "run"}).out == run({"run", "-h"}).out);
  CHECK(contains(run({"help", "exit-codes"}).out, "bad-checkpoint"));
  CHECK(run({"help", "nonsense"}).code == 2);
  CHECK(run({"--version"}).out.starts_with("fathom "));
  const json::Value v = json::parse(run({"--version", "--json"}).out, "version");
  CHECK(v.find("schema")->as_string() == "fathom.version/1");
  CHECK(v.find("commit")->is_string());
}

TEST_CASE("cli: usage errors are quick, say what was meant and leave stdout empty") {
  double best = 1;
  for (auto args : {std::vector<std::string>{"run", "--tmep", "1"}, {"run", "hi", "--temp", "0,5"}, {"rnu"},
                    {"run", "\xff"}, {"run", "a", "b"}, {"run", "x", "--json=1"}}) {
    const Outcome r = run(args);
    CHECK(r.code == 2);
    CHECK(r.out.empty());
    CHECK(r.err.starts_with("fathom: "));
    best = std::min(best, r.seconds);
  }
  CHECK(contains(run({"run", "--tmep"}).err, "did you mean --temp?"));
  // U1: 30 ms. The quickest of several, because the machine that tests may be busy.
  if (test::kRelease)
    CHECK(best < 0.030);
  else
    MESSAGE("not the program that is shipped: its start is not timed");
}

TEST_CASE("cli: a wrong value in the configuration file is reported with its line") {
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("c.toml", "# mine\ntop-p = 0.9\ntemp = \"hot\"\n");
  const Outcome r = run({"run", "--config", file, "hi"});
  CHECK(r.code == 2);
  CHECK(r.err.starts_with(fmt::format("fathom: {}:3: temp: expected a number from 0 to 100", file)));
  // What is typed is not the file's fault, and replaces it.
  CHECK(run({"run", "--config", file, "--temp", "0,5", "hi"}).err.starts_with("fathom: --temp: expected"));
}

TEST_CASE("cli: an error is an object on stdout too when JSON is asked for") {
  const Outcome r = run({"run", "--json", "--temp", "hot", "x"});
  CHECK(r.code == 2);
  const json::Value v = json::parse(r.out, "error");
  CHECK(v.find("schema")->as_string() == "fathom.error/1");
  CHECK(v.find("error")->find("code")->integer_in(2, 2));
  CHECK(v.find("error")->find("name")->as_string() == "usage");
  CHECK(contains(r.err, v.find("error")->find("message")->as_string()));
  CHECK(run({"run", "--", "--json", "--json"}).out.empty());
  // Also where the configuration file asks for it.
  const test::TemporaryDirectory dir;
  const std::string config = dir.file("config.toml", "json = true\n");
  const json::Value from_file = json::parse(run({"run", "--config", config, "--temp", "hot", "x"}).out, "error");
  CHECK(from_file.find("error")->find("name")->as_string() == "usage");
}

TEST_CASE("cli: closed standard descriptors are survived") {
  CHECK(shell("$FATHOM --help <&- >&- 2>&-").code == 0);
  CHECK(shell("$FATHOM run --temp x hi 2>&-").code == 2);
  CHECK(contains(shell("$FATHOM --help <&-").out, "Commands:"));
}

TEST_CASE("cli: output errors end with their codes") {
  CHECK(shell("$FATHOM --help > /dev/full").code == 9);
  const Outcome r = shell("(sleep 0.2; $FATHOM --help; echo $? >&2) | head -c 0");
  CHECK(contains(r.err, "141"));
}
