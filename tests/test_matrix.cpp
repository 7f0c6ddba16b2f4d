// The stdin / stdout matrix of cli.md, times the thinking modes, times what a model may write: standard output is
// exactly the `content` of the same run's JSON, and never holds a control byte of fathom's own.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tests/support/fake_model.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"

using namespace fathom;

namespace {

constexpr const char* kThink = "</think>";

// What the scripted model says; reliability.md section F. `content` and `reasoning` are what must come of it when the
// prompt opened a thinking block.
struct Saying {
  const char* name;
  std::string raw, reasoning, content;
};

std::vector<Saying> sayings() {
  std::vector<Saying> s = {
      {"plain", "Why?</think>\n\nBecause.", "Why?", "Because."},
      {"no end of thinking", "Never done", "Never done", ""},
      {"empty thinking", "</think>The answer", "", "The answer"},
      {"newline thinking", "\n\n</think>\n\n\nThe answer\n\n", "", "The answer\n\n"},
      {"nothing at all", "", "", ""},
      {"CSI and clear", "a</think>\x1b[31mred\x1b[2J\x1b[H\x1b" "c", "a", "\x1b[31mred\x1b[2J\x1b[H\x1b" "c"},
      {"OSC", "\x1b]0;t\x07</think>\x1b]8;;http://x\x1b\\link\x1b]52;c;aGk=\x07", "\x1b]0;t\x07", "\x1b]8;;http://x\x1b\\link\x1b]52;c;aGk=\x07"},
      {"DCS, APC, reports", "x</think>\x1bPq#0\x1b\\\x1b_Ga=T\x1b\\\x1b[6n\x1b[c", "x", "\x1bPq#0\x1b\\\x1b_Ga=T\x1b\\\x1b[6n\x1b[c"},
      {"C1 as characters", "x</think>\xC2\x9B" "31m\xC2\x90", "x", "\xC2\x9B" "31m\xC2\x90"},
      {"C1 as raw bytes", "x</think>\x9B" "31m\x90.", "x", "\xEF\xBF\xBD" "31m\xEF\xBF\xBD."},
      {"overprinting", "x</think>a\rb\b\b\v\f\a", "x", "a\rb\b\b\v\f\a"},
      {"characters over tokens", "日本</think>\xF0\x9F\x91\x8D 日本 é", "日本", "\xF0\x9F\x91\x8D 日本 é"},
      {"incomplete at the end", "x</think>ab\xE6\x97", "x", "ab\xEF\xBF\xBD"},
      {"invalid in the middle", "x</think>a\xFF\xFE" "b\xC0\xAF", "x", "a\xEF\xBF\xBD\xEF\xBF\xBD" "b\xEF\xBF\xBD\xEF\xBF\xBD"},
      {"bidi and tags", "x</think>\xE2\x80\xAE" "abc\xF3\xA0\x81\x81", "x", "\xE2\x80\xAE" "abc\xF3\xA0\x81\x81"},
      {"NUL", std::string("x</think>a\0b", 12), "x", std::string("a\0b", 3)},
      {"ten lines", "x</think>1\n2\n3\n\n\n", "x", "1\n2\n3\n\n\n"},
  };
  s.push_back({"long without a newline", "x</think>" + std::string(20'000, 'y'), "x", std::string(20'000, 'y')});
  return s;
}

struct Folder {
  std::string path = test::scratch("matrix");
  Folder() {
    ::mkdir(path.c_str(), 0700);
    test::write_fake_checkpoint(path + "/fake");
  }
  // The shell words that run fathom with `raw` as the model's answer.
  std::string command(const std::string& raw, const std::string& arguments, const std::string& environment = {}) const {
    test::write_script(path + "/script", {raw});
    return fmt::format("FATHOM_FAKE_SCRIPT={0}/script XDG_STATE_HOME={0}/state {3} {1} --as-fathom run -m {0}/fake {2}", path, test::self_path(),
                       arguments, environment);
  }
};

// Trailing newlines as one.
std::string normalised(std::string s) {
  while (s.ends_with('\n')) s.pop_back();
  return s + "\n";
}

json::Value message_of(const std::string& line) {
  return json::parse(line, "output").find("choices")->as_array().at(0).find("message") == nullptr
             ? json::Value()
             : *json::parse(line, "output").find("choices")->as_array()[0].find("message");
}

}  // namespace

TEST_CASE("matrix: standard output is the content of the JSON, whatever the model writes and however thinking is shown") {
  const Folder folder;
  for (const Saying& s : sayings()) {
    CAPTURE(s.name);
    const std::string line = test::capture(folder.command(s.raw, "--json hi </dev/null"));
    REQUIRE(line.ends_with("}\n"));
    for (const char c : line.substr(0, line.size() - 1)) REQUIRE((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
    CHECK(line.find("\xC2\x9B") == line.npos);
    const json::Value message = message_of(line);
    CHECK(message.find("content")->as_string() == s.content);
    const json::Value* reasoning = message.find("reasoning_content");
    CHECK((reasoning == nullptr ? std::string() : reasoning->as_string()) == s.reasoning);
    for (const char* mode : {"auto", "full", "summary", "hidden"}) {
      CAPTURE(mode);
      const std::string out = test::capture(folder.command(s.raw, fmt::format("--show-thinking={} hi </dev/null 2>/dev/null", mode)));
      CHECK(out == normalised(s.content));
    }
    CHECK(test::capture(folder.command(s.raw, "--no-stream --color=always hi </dev/null 2>/dev/null")) == normalised(s.content));
  }
}

TEST_CASE("matrix: thinking goes to standard error only when asked for in full") {
  const Folder folder;
  const std::string raw = std::string("I wonder") + kThink + "Yes.";
  CHECK(test::capture(folder.command(raw, "hi 2>&1 >/dev/null </dev/null")).empty());
  CHECK(test::capture(folder.command(raw, "--show-thinking=hidden hi 2>&1 >/dev/null </dev/null")).empty());
  CHECK(test::capture(folder.command(raw, "--show-thinking=full hi 2>&1 >/dev/null </dev/null")).find("I wonder") != std::string::npos);
  const std::string hidden = test::capture(folder.command(raw, "--json --show-thinking=hidden hi </dev/null"));
  CHECK(hidden.find("I wonder") == hidden.npos);
}

TEST_CASE("matrix: the rows of standard input") {
  const Folder folder;
  const std::string raw = std::string("t") + kThink + "A.";
  // Each: how it is called, the exit code, what stands on stderr ("" none), and what the prompt was (by token count).
  struct Row {
    const char* arguments;
    const char* before;  // of the command, in the shell
    int code;
    const char* says;
  };
  for (const Row& r : std::initializer_list<Row>{
           {"", "printf 'from a pipe' |", 0, ""},
           {"PROMPT", "printf 'from a pipe' |", 0, ""},
           {"PROMPT", "printf '' |", 0, ""},
           {"", "printf '' |", 2, "standard input was empty"},
           {"PROMPT <&-", "", 0, ""},
           {"PROMPT </dev/null", "", 0, ""},
           {"</dev/null", "", 2, "standard input was empty"},
           {"-v PROMPT </dev/null", "", 0, "empty"},
           {"'' </dev/null", "", 2, "empty"},
           {"--max-input 10", "yes |", 9, "10"},
       }) {
    CAPTURE(r.arguments);
    CAPTURE(r.before);
    int status = 0;
    const std::string command = folder.command(raw, r.arguments);
    const std::string errors = test::capture(fmt::format("{} {} 2>&1 >{}/out", r.before, command, folder.path), &status);
    CHECK(WEXITSTATUS(status) == r.code);
    if (*r.says != '\0') CHECK(errors.find(r.says) != errors.npos);
    if (*r.says == '\0') CHECK(errors.empty());
    const std::string out = read_file(folder.path + "/out", 1000);
    CHECK(out == (r.code == 0 ? "A.\n" : ""));
  }
  // Order: standard input, a blank line, PROMPT.
  const auto prompt_tokens = [&](const std::string& before, const std::string& arguments) {
    const std::string line = test::capture(before + folder.command(raw, "--json " + arguments));
    return json::parse(line, "output").find("usage")->find("prompt_tokens")->integer_in(0, 1000).value_or(-1);
  };
  const auto both = prompt_tokens("printf abc | ", "de"), one = prompt_tokens("", "a </dev/null");
  CHECK(both - one == 6);  // "abc\n\nde" against "a"
}

TEST_CASE("matrix: a terminal gets dim thinking, a summary and sanitised text, and no raw control byte of the model") {
  const Folder folder;
  for (const Saying& s : sayings()) {
    CAPTURE(s.name);
    test::write_script(folder.path + "/script", {s.raw});
    test::Pty pty([&] {
      ::setenv("FATHOM_FAKE_SCRIPT", (folder.path + "/script").c_str(), 1);
      ::setenv("TERM", "xterm-256color", 1);
      const std::string program = test::self_path(), model = folder.path + "/fake";
      ::execl(program.c_str(), program.c_str(), "--as-fathom", "run", "-m", model.c_str(), "hi", nullptr);
      return 127;
    });
    const termios before = pty.modes();
    CHECK(pty.wait(std::chrono::seconds(20)) == 0);
    CHECK(test::same_modes(pty.modes(), before));
    const std::string& shown = pty.transcript();
    // Only fathom's own SGR and line erasing may follow an ESC; no C1, BEL, BS, VT, FF, SO, SI.
    for (std::size_t i = 0; i < shown.size(); ++i) {
      const auto c = static_cast<unsigned char>(shown[i]);
      if (c == 0x1b) {
        const std::size_t end = shown.find_first_not_of("[0123456789;", i + 1);
        REQUIRE(end != shown.npos);
        CHECK((shown[end] == 'm' || shown[end] == 'K'));
      } else {
        CHECK((c >= 0x20 || c == '\n' || c == '\r' || c == '\t'));
      }
    }
    CHECK(is_utf8(shown));
    CHECK(shown.find("\xC2\x9B") == shown.npos);
    if (!s.reasoning.empty()) CHECK(shown.find("thought for 0.") != shown.npos);
  }
}

TEST_CASE("matrix: thinking that repeats itself is ended, and said so") {
  const Folder folder;
  int status = 0;
  const std::string errors = test::capture(folder.command("I see. x", "-n 900 --json hi </dev/null 2>&1 >" + folder.path + "/out", "FATHOM_FAKE_ENDLESS=1"), &status);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(errors.find("repeated the same 1 tokens") != errors.npos);
  const json::Value record = json::parse(read_file(folder.path + "/out", 100'000), "out");
  const json::Value* details = record.find("usage")->find("completion_tokens_details");
  CHECK(details->find("reasoning_tokens")->integer_in(384, 400).has_value());
  CHECK(record.find("choices")->as_array()[0].find("message")->find("content")->as_string().size() > 400);
}

TEST_CASE("matrix: readers that stop, devices that are full, answers that are cut") {
  const Folder folder;
  const std::string endless = std::string("t") + kThink + "y";
  int status = 0;
  const auto start = std::chrono::steady_clock::now();
  const std::string head = test::capture("bash -c '" + folder.command(endless, "hi </dev/null", "FATHOM_FAKE_ENDLESS=1") + " | head -c 10; exit ${PIPESTATUS[0]}'", &status);
  CHECK(head == "yyyyyyyyyy");
  CHECK(WEXITSTATUS(status) == 141);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
  const std::string raw = std::string("t") + kThink + "A.";
  CHECK(test::capture(folder.command(raw, "hi </dev/null 2>&1 >/dev/full"), &status).find("standard output") != std::string::npos);
  CHECK(WEXITSTATUS(status) == 9);
  test::capture(folder.command(raw, "-o /dev/full hi </dev/null 2>&1"), &status);
  CHECK(WEXITSTATUS(status) == 9);
  test::capture(folder.command(endless, "-n 5 --fail-on-length hi </dev/null 2>&1", "FATHOM_FAKE_ENDLESS=1"), &status);
  CHECK(WEXITSTATUS(status) == 7);
  test::capture(folder.command(endless, "--timeout 100ms hi </dev/null 2>&1", "FATHOM_FAKE_ENDLESS=1 FATHOM_FAKE_DELAY_US=1000"), &status);
  CHECK(WEXITSTATUS(status) == 124);
}
