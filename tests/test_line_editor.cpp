#include <doctest/doctest.h>

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>

#include "src/app/line_editor.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"

using namespace fathom;
using test::Pty;
using namespace std::chrono_literals;

namespace {

std::string one_line(std::string_view s) {
  std::string out;
  for (const char c : s) out += c == '\n' ? '|' : c;
  return out;
}

// A program that reads messages and prints each as <status:bytes:text>, newlines as |.
int echo_messages(const std::string& history_path) {
  History history(history_path);
  LineEditorOptions options;
  options.complete = [](std::string_view line) {
    Completion c;
    for (const char* word : {"/exit", "/help", "/hello"})
      if (std::string_view(word).starts_with(line)) c.words.emplace_back(word);
    return c;
  };
  const QuietKeys keys(0);
  LineEditor editor(history, options);
  for (;;) {
    const LineEditor::Result r = editor.read("ask> ");
    const std::string shown = r.text.size() > 300 ? fmt::format("{:x}", std::hash<std::string>{}(r.text)) : one_line(r.text);
    const std::string line = fmt::format("<{}:{}:{}>\n", static_cast<int>(r.status), r.text.size(), shown);
    if (::write(1, line.data(), line.size()) < 0) return 1;
    if (r.status == LineEditor::Status::end) return 0;
    if (r.status == LineEditor::Status::hangup) return 129;
  }
}

struct Editing {
  explicit Editing(const std::string& history = {}, int rows = 24, int columns = 80)
      : pty([=] { return echo_messages(history); }, rows, columns), before(pty.modes()) {
    REQUIRE(pty.expect("ask> "));
  }
  // Types keys and checks the message that comes of it.
  void gives(std::string_view keys, const std::string& expected) {
    pty.send(keys);
    CHECK_MESSAGE(pty.expect(expected + "\r\n"), "keys gave: ", test::plain(pty.settle()));
    CHECK(pty.expect("ask> "));
  }
  void finish() {
    pty.send("\x04");
    CHECK(pty.expect("<2:0:>"));
    CHECK(pty.wait() == 0);
    CHECK(test::same_modes(pty.modes(), before));
  }
  Pty pty;
  termios before;
};

}  // namespace

TEST_CASE("line editor: UTF-8, several lines, fences and editing keys") {
  Editing e;
  e.gives("hello\r", "<0:5:hello>");
  e.gives("h\xC3\xA9 日本 \xF0\x9F\x91\x8D\r", "<0:15:h\xC3\xA9 日本 \xF0\x9F\x91\x8D>");
  e.gives("日本\x7f語\r", "<0:6:日語>");
  e.gives("one\ntwo\x1b\rthree\r", "<0:13:one|two|three>");
  e.gives("\"\"\"first\rsecond\r\r\"\"\"\r", "<0:13:first|second|>");
  e.gives("\"\"\"\ra\rb\"\"\"\r", "<0:3:a|b>");
  e.gives("\"\"\"x\"\"\"\r", "<0:1:x>");
  e.gives("abc\x1b[D\x1b[DX\r", "<0:4:aXbc>");
  e.gives("abc\x01X\x05Y\r", "<0:5:XabcY>");
  e.gives("a\xFF\x62\r", "<0:5:a\xEF\xBF\xBD\x62>");
  e.gives("one two\x17three\r", "<0:9:one three>");
  e.gives("\r", "<0:0:>");
  e.finish();
}

TEST_CASE("line editor: keys split at every byte, and up and down inside a message") {
  Editing e;
  for (const char c : std::string("日\x1b[D本\r")) {
    e.pty.send(std::string_view(&c, 1));
    ::usleep(2000);
  }
  CHECK(e.pty.expect("<0:6:本日>"));
  CHECK(e.pty.expect("ask> "));
  e.gives("abc\ndef\x1b[AX\r", "<0:8:abcX|def>");
  e.gives("abc\ndef\x1b[A\x01\x1b[BX\r", "<0:8:abc|Xdef>");
  e.finish();
}

TEST_CASE("line editor: a paste is one message, whatever is in it") {
  Editing e;
  e.gives("\x1b[200~one\rtwo\r\n三\n\tfour\x1b[201~\r", "<0:17:one|two|三|\tfour>");
  // The paste's own end mark cannot be pasted; what follows it is text without ESC, and nothing runs.
  e.gives("\x1b[200~a\x1b[31mb\x1b[201~c\x1b[200~\x07\x1b]0;t\x07\xC2\x9B" "d\x1b[201~\r", "<0:12:a[31mbc]0;td>");
  e.gives("before \x1b[200~pasted\x1b[201~ after\r", "<0:19:before pasted after>");
  // Marks that arrive in pieces.
  for (const char* part : {"\x1b[2", "00~x", "\x1b[20", "1~", "y\r"}) {
    e.pty.send(part);
    ::usleep(20000);
  }
  CHECK(e.pty.expect("<0:2:xy>"));
  CHECK(e.pty.expect("ask> "));
  e.finish();
  CHECK(e.pty.transcript().find("\x1b[?2004h") != std::string::npos);
  CHECK(e.pty.transcript().rfind("\x1b[?2004l") > e.pty.transcript().rfind("\x1b[?2004h"));
}

TEST_CASE("line editor: one megabyte pasted is one message within a second") {
  Editing e;
  std::string text;
  for (int i = 0; text.size() < 1'000'000; ++i) text += fmt::format("line {} of a pasted file, 日本\n", i);
  text += "end";
  const auto start = std::chrono::steady_clock::now();
  e.pty.send("\x1b[200~" + text + "\x1b[201~\r");
  CHECK(e.pty.expect(fmt::format("<0:{}:{:x}>", text.size(), std::hash<std::string>{}(text)), 20s));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  MESSAGE("1 MB paste: ", took.count(), " s");
  CHECK(took.count() < 2.0);  // the goal is 1 s; twice for a busy machine
  CHECK(e.pty.expect("ask> "));
  e.finish();
}

TEST_CASE("line editor: Ctrl-C clears, Ctrl-D ends, Tab completes") {
  Editing e;
  e.gives("half a li\x03", "<1:9:half a li>");
  e.gives("\x03", "<1:0:>");
  e.gives("abc\x01\x04\r", "<0:2:bc>");
  e.gives("/ex\t\r", "<0:6:/exit >");
  e.pty.send("/he\t");
  e.pty.send("\t");
  CHECK(e.pty.expect("/hello"));
  e.gives("p\t\r", "<0:6:/help >");
  e.gives("\"\"\"\rx\x03", "<1:0:>");
  e.finish();
}

TEST_CASE("line editor: history comes back, also from a hostile file") {
  const std::string path = test::scratch("editor-history");
  {
    Editing e(path);
    e.gives("first\r", "<0:5:first>");
    e.gives("two\nlines\r", "<0:9:two|lines>");
    e.gives(" secret\r", "<0:7: secret>");
    e.gives("\x1b[A\r", "<0:9:two|lines>");
    e.gives("\x10\x10\r", "<0:5:first>");
    e.finish();
  }
  {
    Editing e(path);
    e.gives("\x1b[A\r", "<0:5:first>");
    e.finish();
  }
  History(path).add("evil \x1b[2J\x1b]0;title\x07\xC2\x9B");
  {
    Editing e(path);
    e.gives("\x1b[A\r", "<0:16:evil [2J]0;title>");
    CHECK(e.pty.transcript().find("\x1b]") == std::string::npos);
    e.finish();
  }
}

TEST_CASE("line editor: suspend, continue, resize, hang up") {
  Editing e;
  e.pty.send("abc");
  CHECK(e.pty.expect("abc"));
  e.pty.resize(10, 20);
  e.pty.signal(SIGWINCH);
  e.pty.settle();
  // Another program changed the modes while we were stopped: they are set again on the way back.
  e.pty.signal(SIGCONT);
  e.pty.settle();
  e.gives("def\r", "<0:6:abcdef>");
  e.pty.hang_up();
  CHECK(e.pty.wait() == 129);
}

TEST_CASE("line editor: odd terminals") {
  for (const char* term : {"", "dumb", "no-such-terminal", "xterm-256color"})
    for (const int columns : {1, 2, 80}) {
      ::setenv("TERM", term, 1);
      Pty pty([] { return echo_messages({}); }, 3, columns);
      ::setenv("TERM", "xterm-256color", 1);
      const termios before = pty.modes();
      for (int i = 0; i < 5000 && (pty.modes().c_lflag & ECHO) != 0; ++i) ::usleep(1000);
      pty.send("hello 日本 world\r");
      CHECK(pty.expect("18:hello"));
      pty.send("\x04");
      CHECK(pty.wait() == 0);
      CHECK(test::same_modes(pty.modes(), before));
    }
}
