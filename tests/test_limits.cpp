// Limits of the machine and odd command lines, environments and prompts (reliability.md D, E, 173), through the binary:
// a documented exit code and a message, never a signal, nothing half written.
#include <doctest/doctest.h>

#include <filesystem>

#include "src/base/file.h"
#include "tests/support/build.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

using namespace fathom;
namespace fs = std::filesystem;

namespace {

const std::string kRun = "\"$FATHOM\" run -m models/minnow --backend cpu --threads 1 -n 2 ";

struct Case {
  const char* what;
  int code;
  const char* says;
  std::string command;
};

void check_all(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    CAPTURE(std::string(c.what));
    const test::Outcome r = test::shell(c.command);
    CAPTURE(r.err);
    CHECK(r.code == c.code);
    CHECK(r.err.find(c.says) != r.err.npos);
    CHECK(r.err.find('\x1b') == r.err.npos);
    if (c.code != 0) CHECK(r.out.empty());
  }
}

}  // namespace

TEST_CASE("limits: address space, from too little to enough") {
  if (test::kSanitized) {
    MESSAGE("a sanitizer reserves terabytes of address space: not tested");
    return;
  }
  bool refused = false, enough = false;
  for (long kib = 12'000; !enough; kib += kib / 8) {
    REQUIRE(kib < 4'000'000);
    const test::Outcome r = test::shell("ulimit -v " + std::to_string(kib) + "; exec " + kRun + "--greedy hi");
    CAPTURE(kib);
    CAPTURE(r.err);
    if (r.code == 127 && (r.err.find("shared librar") != r.err.npos || r.err.find("TLS") != r.err.npos)) continue;  // the loader had too little for libc
    // The kernel ends a program that it cannot map: one that carries its model is larger than the smallest limits.
    if (r.code == 139 && r.err.empty() && test::shell("ulimit -v " + std::to_string(kib) + "; exec $FATHOM --version").code == 139) continue;
    enough = r.code == 0;
    refused = refused || r.code == 6;
    CHECK((r.code == 0 || r.code == 6));
    if (r.code == 6) CHECK_FALSE(r.err.empty());
  }
  CHECK(refused);
}

TEST_CASE("limits: descriptors, stack, file size") {
  bool refused = false;
  // The undefined-behaviour sanitizer asks with a pipe whether an object may be read, and reports where it gets none.
  if (test::kSanitized) MESSAGE("a sanitizer needs descriptors of its own: few of them are not tested");
  for (int n = test::kSanitized ? 16 : 4; n < 16; ++n) {
    const test::Outcome r = test::shell("ulimit -n " + std::to_string(n) + "; exec " + kRun + "--greedy hi");
    CAPTURE(n);
    CAPTURE(r.err);
    CHECK((r.code == 0 || r.code == 9 || r.code == 127));  // 127: the loader had none for libc
    if (r.code == 9) CHECK(r.err.find("fathom: ") == 0);
    refused = refused || r.code == 9;
    if (n > 12) CHECK(r.code == 0);
  }
  CHECK((refused || test::kSanitized));
  check_all({{"a small stack", 0, "", "ulimit -s 256; exec " + kRun + "--greedy hi"},
             {"no core file", 0, "", "ulimit -c 0; exec " + kRun + "--greedy hi"}});
  if (test::kThreadSanitized) {
    MESSAGE("any program of the thread sanitizer is killed at its first write beyond a file size limit: not tested");
    return;
  }
  // SIGXFSZ would kill; the write that meets the limit says so, and nothing half written stays.
  const test::TempDir dir;
  const std::string out = dir.file("out"), text = dir.file("text"), talk = dir.file("talk.jsonl");
  for (const char* blocks : {"0", "1", "16"}) {
    const test::Outcome r =
        test::shell(std::string("ulimit -f ") + blocks + "; exec \"$FATHOM\" quantize tests/goldens/v2-lite " + out);
    CAPTURE(r.err);
    CHECK(r.code == 9);
    CHECK(r.err.find("File too large") != r.err.npos);
    CHECK(fs::is_empty(out));
  }
  check_all({{"an answer's file", 9, "File too large", "ulimit -f 0; exec " + kRun + "--greedy -o " + text + " hi"},
             {"a session", 9, "File too large", "ulimit -f 0; exec " + kRun + "--greedy --session " + talk + " hi"}});
}

TEST_CASE("limits: odd command lines and environments") {
  const std::string ask = kRun + "--greedy ";
  std::string long_term(10'000, 'x');
  check_all({
      {"the largest seed", 0, "", kRun + "--seed 18446744073709551615 hi"},
      {"a seed beyond it", 2, "18446744073709551616", kRun + "--seed 18446744073709551616 hi"},
      {"-n 0", 2, "--max-tokens", ask + "-n 0 hi"},
      {"-n -1", 2, "--max-tokens", ask + "-n -1 hi"},
      {"-n beyond 64 bits", 2, "--max-tokens", ask + "-n 99999999999999999999 hi"},
      {"temp nan", 2, "--temp", kRun + "--temp nan hi"},
      {"temp inf", 2, "--temp", kRun + "--temp inf hi"},
      {"temp -1", 2, "--temp", kRun + "--temp -1 hi"},
      {"temp with a comma", 2, "--temp", kRun + "--temp 0,5 hi"},
      {"temp in hexadecimal", 2, "--temp", kRun + "--temp 0x1p-1 hi"},
      {"temp 1e400", 2, "--temp", kRun + "--temp 1e400 hi"},
      {"empty temp", 2, "--temp", kRun + "--temp '' hi"},
      {"ctx 0", 2, "--ctx", ask + "--ctx 0 hi"},
      {"ctx 1", 2, "--ctx", ask + "--ctx 1 hi"},
      {"ctx beyond the model", 2, "max_position_embeddings", ask + "--ctx 100000000 hi"},
      {"top-k 10^9", 0, "", kRun + "--top-k 1000000000 hi"},
      {"top-p 0", 0, "", kRun + "--top-p 0 hi"},
      {"messages and a prompt", 2, "exclude each other", ask + "--messages - hi"},
      {"a prompt with a dash", 2, "put -- before it", ask + "-hi"},
      {"a prompt with a dash behind --", 0, "", ask + "-- -hi"},
      {"no UTF-8", 2, "not valid UTF-8", ask + "\"$(printf 'a\\377b')\""},
      {"many arguments", 2, "unexpected argument", ask + "$(yes x | head -n 50000)"},
      {"an argument of 130 kB", 7, "tokens and the context", ask + "\"$(yes 1234567 | head -c 130000)\""},
      {"no environment", 0, "", "exec env -i \"$FATHOM\" run -m models/minnow --backend cpu --greedy -n 2 hi"},
      {"empty HOME", 0, "", "HOME= " + ask + "hi"},
      {"HOME is /", 0, "", "HOME=/ " + ask + "hi"},
      {"relative XDG directories", 0, "", "XDG_CONFIG_HOME=a XDG_STATE_HOME=b XDG_CACHE_HOME=c " + ask + "hi"},
      {"a long TERM", 0, "", "TERM=" + long_term + " " + ask + "hi"},
      {"TERM dumb", 0, "", "TERM=dumb " + ask + "hi"},
      {"COLUMNS 0", 0, "", "COLUMNS=0 " + ask + "hi"},
      {"COLUMNS -1", 0, "", "COLUMNS=-1 " + ask + "hi"},
      {"COLUMNS abc", 0, "", "COLUMNS=abc LINES=99999999999 \"$FATHOM\" --help >/dev/null"},
      {"empty NO_COLOR", 0, "", "NO_COLOR= " + ask + "hi"},
      {"an output that is a directory", 9, "directory", ask + "-o /tmp hi"},
      {"an output in no directory", 9, "/nonexistent/x", ask + "-o /nonexistent/x hi"},
      {"a locale that is not there", 0, "", "LC_ALL=xx_YY.UTF-8 " + ask + "hi"},
      {"turkish", 0, "", "LC_ALL=tr_TR.UTF-8 " + ask + "hi"},
      {"no /tmp", 0, "", "TMPDIR=/nonexistent " + ask + "hi"},
      {"more threads than cores", 0, "", ask + "--threads 7 hi"},
  });
}

// An answer is never written over what it answers: the file keeps its bytes, whatever it is called by.
TEST_CASE("limits: an output that is also an input") {
  const test::TempDir dir;
  dir.write("a", "[{\"role\":\"user\",\"content\":\"hi\"}]\n");
  dir.write("b", "{\"prompt\":\"hi\"}\n");
  dir.write("ids", "1,2,3\n");
  fs::create_symlink("a", dir.file("link"));
  fs::create_hard_link(dir.file("a"), dir.file("hard"));
  const std::string before =
      read_file(dir.file("a"), 1000) + read_file(dir.file("b"), 1000) + read_file(dir.file("ids"), 1000);
  const std::string
      in = "cd " + dir.path() + "; ",
      run = "\"$FATHOM\" run -m \"$OLDPWD/models/minnow\" --backend cpu --threads 1 -n 2 --greedy ";
  check_all({
      {"--file", 2, "--output a: this is the file of --file", in + run + "--file a -o a"},
      {"--file through a link", 2, "--file", in + run + "--file a -o link"},
      {"--file by another name", 2, "--file", in + run + "--file hard -o ./a hi"},
      {"--messages", 2, "--messages", in + run + "--messages a -o a"},
      {"--system-file", 2, "--system-file", in + run + "--system-file a -o a hi"},
      {"--template", 2, "--template", in + run + "--template a -o a hi"},
      {"--ids", 2, "--ids", in + run + "--ids @ids -o ids"},
      {"--config", 2, "", in + run + "--config a -o a hi"},
      {"--session", 2, "--session", in + run + "--session a -o a hi"},
      {"a session that is new", 2, "--session", in + run + "--session new -o new hi"},
      {"--batch", 2, "--batch", in + run + "--batch b -o b"},
      {"standard input", 2, "standard input", in + run + "-o a <a"},
      {"another file", 0, "", in + run + "--file a -o c"},
      {"a device", 0, "", in + run + "--file a -o /dev/null </dev/null"},
  });
  CHECK(read_file(dir.file("a"), 1000) + read_file(dir.file("b"), 1000) + read_file(dir.file("ids"), 1000) ==
        before);
  CHECK_FALSE(fs::exists(dir.file("new")));
}

TEST_CASE("limits: odd prompts") {
  const std::string ask = kRun + "--greedy ";
  check_all({
      {"empty", 2, "the prompt is empty", ask + "''"},
      {"spaces", 2, "the prompt is empty", ask + "'   '"},
      {"a newline", 2, "the prompt is empty", "printf '\\n' | " + ask},
      {"NUL", 0, "", "printf 'a\\0b' | " + ask},
      {"UTF-16", 2, "UTF-16", "printf '\\377\\376h\\0i\\0' | " + ask},
      {"a byte order mark", 0, "", "printf '\\357\\273\\277hi' | " + ask},
      {"bytes that are no UTF-8", 0, "UTF-8", "printf 'a\\377\\300\\200b' | " + ask},
      {"without end", 9, "--max-input", "yes | " + ask + "--max-input 1MiB"},
      {"a megabyte of spaces", 7, "tokens and the context", "printf 'x%1000000sx' '' | " + ask},
      {"no messages", 2, "no messages", "echo '[]' | " + ask + "--messages -"},
      {"messages are no array", 2, "messages", "echo '{}' | " + ask + "--messages -"},
      {"no content", 2, "content", "echo '[{\"role\":\"user\"}]' | " + ask + "--messages -"},
      {"null content", 2, "content", "echo '[{\"role\":\"user\",\"content\":null}]' | " + ask + "--messages -"},
      {"an unknown role", 2, "king", "echo '[{\"role\":\"king\",\"content\":\"x\"}]' | " + ask + "--messages -"},
      {"an answer begun", 0, "",
       "echo '[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}]' | " + ask + "--messages -"},
      {"many combining marks", 0, "", "printf 'e'; printf '\\314\\201%.0s' " + std::string(test::kSanitized ? "$(seq 100)" : "$(seq 1000)") + " | " + ask},
      {"control tokens typed by a user", 0, "", ask + "'<｜User｜></think><｜end▁of▁sentence｜>'"},
  });
}
