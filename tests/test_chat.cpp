// Chat as a person uses it: the real program with a scripted model behind a pseudo-terminal.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "src/app/chat_commands.h"
#include "src/app/session.h"
#include "src/base/file.h"
#include "tests/support/build.h"
#include "tests/support/fake_model.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"

using namespace fathom;
using test::Pty;
using namespace std::chrono_literals;

namespace {

// A chat with a model that answers as `answers` say, in turn.
struct Talk {
  struct Settings {
    std::vector<std::string> answers = {"Hello."};
    std::vector<std::string> arguments;
    std::vector<std::pair<std::string, std::string>> variables;
    std::string state;  // XDG_STATE_HOME; a folder of its own when empty
    bool thinks = false;
  };

  explicit Talk(Settings s) : settings(prepare(std::move(s))), pty([this] { return start(settings); }, 24, 100), before(pty.modes()) {}

  static Settings prepare(Settings s) {
    static int count = 0;
    const std::string folder = test::scratch(fmt::format("talk-{}", ++count));
    ::mkdir(folder.c_str(), 0700);
    if (s.state.empty()) s.state = folder + "/state";
    test::write_fake_checkpoint(folder + "/fake", s.thinks);
    test::write_script(folder + "/script", s.answers);
    s.arguments.insert(s.arguments.begin(), {"chat", "-m", folder + "/fake"});
    s.variables.emplace_back("FATHOM_FAKE_SCRIPT", folder + "/script");
    s.variables.emplace_back("XDG_STATE_HOME", s.state);
    s.variables.emplace_back("TERM", "xterm-256color");
    s.variables.emplace_back("HOME", folder);
    return s;
  }

  static int start(const Settings& s) {
    for (const char* name : {"FATHOM_MODEL", "XDG_CONFIG_HOME", "NO_COLOR", "VISUAL", "EDITOR"}) ::unsetenv(name);
    for (const auto& [name, value] : s.variables) ::setenv(name.c_str(), value.c_str(), 1);
    const std::string program = test::self_path();
    std::vector<const char*> argv = {program.c_str(), "--as-fathom"};
    for (const std::string& a : s.arguments) argv.push_back(a.c_str());
    argv.push_back(nullptr);
    ::execv(program.c_str(), const_cast<char* const*>(argv.data()));
    return 127;
  }

  // Waits for the prompt.
  void ready() {
    REQUIRE_MESSAGE(pty.expect("\x1b[?2004h", 10s), test::plain(pty.transcript()));
    REQUIRE_MESSAGE(pty.expect("> ", 10s), test::plain(pty.transcript()));
  }
  // Types a line and returns what a person then sees, up to the next prompt.
  std::string say(std::string_view line) {
    const std::size_t from = pty.transcript().size();
    pty.send(line);
    pty.send("\r");
    CHECK_MESSAGE(pty.expect("\x1b[?2004h", 10s), test::plain(pty.transcript().substr(from)));
    CHECK(pty.expect("> ", 10s));
    return test::plain(pty.transcript().substr(from));
  }
  int leave() {
    pty.send("\x04");
    const int code = pty.wait();
    CHECK(test::same_modes(pty.modes(), before));
    return code;
  }
  std::string session_file() const { return newest_session(settings.state + "/fathom/sessions").value_or(""); }

  Settings settings;
  Pty pty;
  termios before;
};

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("chat: typed lines are text, commands or mistakes") {
  CHECK(parse_typed("hello").kind == Typed::Kind::text);
  CHECK(parse_typed(" /help").kind == Typed::Kind::text);
  CHECK(parse_typed("//etc/hosts").text == "/etc/hosts");
  CHECK(parse_typed("//etc/hosts").kind == Typed::Kind::text);
  CHECK(parse_typed(" \t\n").kind == Typed::Kind::nothing);
  CHECK(parse_typed("/bye").command == Slash::exit);
  CHECK(parse_typed("/system  be brief ").text == "be brief");
  CHECK(parse_typed("/think on").text == "on");
  for (const char* wrong : {"/thnik on", "/think", "/think maybe", "/exit now", "/file", "/etc/hosts", "/", "/\x1b[2J"})
    CHECK(parse_typed(wrong).kind == Typed::Kind::wrong);
  CHECK(contains(parse_typed("/retyr").text, "did you mean /retry?"));
  CHECK(complete_chat("/th", "").words == std::vector<std::string>{"/think"});
  CHECK(complete_chat("/think o", "").words == std::vector<std::string>{"off", "on"});
  CHECK(complete_chat("/set top", "").words == std::vector<std::string>{"top-k", "top-p"});
  CHECK(complete_chat("hello /th", "").words.empty());
  for (const SlashRow& row : slash_table()) CHECK(contains(slash_help(), row.name));
}

TEST_CASE("chat: a conversation, its commands, and the terminal as it was") {
  Talk t({.answers = {"Hello 日本.", "Second.", "Third."}, .arguments = {}, .variables = {}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("hi"), "Hello 日本."));
  CHECK(contains(t.say("/hlep"), "did you mean /help?"));
  CHECK(contains(t.say("/quti"), "did you mean /quit?"));
  CHECK(contains(t.say("/fi"), "did you mean /file?"));
  CHECK(contains(t.say("//not a command"), "Second."));
  CHECK(contains(t.say("/stats"), "answer 8 ("));
  CHECK(contains(t.say("/show-thinking hidden"), "thinking is shown: hidden"));
  CHECK(contains(t.say("/show-thinking auto"), "thinking is shown: auto"));
  CHECK(contains(t.say("/tokens"), "of 32,768 tokens are used"));
  CHECK(contains(t.say("/set temp hot"), "temp"));
  CHECK(contains(t.say("/set temp 0.25"), "temp 0.25"));
  CHECK(contains(t.say("/set tmep 1"), "did you mean temp?"));
  CHECK(contains(t.say("/undo"), "dropped: /not a command"));
  CHECK(contains(t.say("/system Be brief."), "the system prompt is set"));
  CHECK(contains(t.say("/system"), "Be brief."));
  CHECK(contains(t.say("/retry"), "Third."));
  const std::string saved = test::scratch("saved.jsonl");
  CHECK(contains(t.say("/save " + saved), "3 messages saved"));
  CHECK(contains(t.say("/new"), "a new conversation"));
  CHECK(contains(t.say("/load " + saved), "3 messages so far"));
  CHECK(contains(t.say("/load /nonexistent"), "/nonexistent"));
  CHECK(contains(t.say("/file /nonexistent"), "/nonexistent"));
  CHECK(t.leave() == 0);
  const SessionText s = load_session(saved);
  REQUIRE(s.messages.size() == 3);
  CHECK(s.messages[0].message.content == "Be brief.");
  CHECK(s.messages[1].message.content == "hi");
  CHECK(s.messages[2].message.content == "Third.");
}

TEST_CASE("chat: an unknown command never reaches the model") {
  Talk t({});
  t.ready();
  t.say("/delete everything");
  CHECK(t.leave() == 0);
  CHECK(t.session_file().empty());
}

TEST_CASE("chat: a paste and a file are one message") {
  Talk t({});
  t.ready();
  const std::string file = test::scratch("attached.txt");
  {
    AtomicFile f(file);
    f.write("from a file\n");
    f.commit();
  }
  CHECK(contains(t.say("/file " + file), "12 bytes before your next message"));
  t.say("\x1b[200~first\rsecond\x1b[201~");
  CHECK(t.leave() == 0);
  const SessionText s = load_session(t.session_file());
  REQUIRE(s.messages.size() == 2);
  CHECK(s.messages[0].message.content == "from a file\n\n\nfirst\nsecond");
}

TEST_CASE("chat: /edit sends what the editor leaves") {
  Talk t({.answers = {"Good."}, .arguments = {}, .variables = {{"VISUAL", "printf 'edited\\ntext\\n' >"}}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("/edit"), "Good."));
  CHECK(t.leave() == 0);
  CHECK(load_session(t.session_file()).messages.at(0).message.content == "edited\ntext");
}

TEST_CASE("chat: Ctrl-C keeps the partial answer and the conversation goes on") {
  Talk t({.answers = {std::string(5000, 'x'), "After."}, .arguments = {}, .variables = {{"FATHOM_FAKE_DELAY_US", "2000"}}, .state = {}, .thinks = false});
  t.ready();
  t.pty.send("go\r");
  REQUIRE(t.pty.expect("xxxxx"));
  const auto pressed = std::chrono::steady_clock::now();
  t.pty.send("\x03");
  REQUIRE(t.pty.expect("[interrupted]"));
  CHECK(std::chrono::steady_clock::now() - pressed < 500ms);
  REQUIRE(t.pty.expect("> "));
  CHECK(contains(t.say("next"), "After."));
  CHECK(t.leave() == 0);
  const SessionText s = load_session(t.session_file());
  REQUIRE(s.messages.size() == 4);
  CHECK(s.messages[1].finish_reason == "interrupted");
  CHECK(s.messages[1].message.content.size() > 4);
  CHECK(s.messages[1].message.content.size() < 5000);
}

TEST_CASE("chat: Ctrl-C twice, at the prompt and during an answer that does not stop") {
  {
    Talk t({});
    t.ready();
    t.pty.send("typed\x03");
    CHECK(t.pty.expect("> "));
    t.pty.send("\x03");
    CHECK(t.pty.expect("press Ctrl-C again or Ctrl-D to leave"));
    CHECK(t.pty.expect("> "));
    t.pty.send("\x03");
    CHECK(t.pty.wait() == 130);
    CHECK(test::same_modes(t.pty.modes(), t.before));
  }
  {
    // One step takes ten seconds: the first Ctrl-C cannot be obeyed, the second ends the process.
    Talk t({.answers = {"xy"}, .arguments = {}, .variables = {{"FATHOM_FAKE_DELAY_US", "10000000"}}, .state = {}, .thinks = false});
    t.ready();
    t.pty.send("go\r");
    REQUIRE(t.pty.expect("x"));
    t.pty.send("\x03");
    t.pty.settle(50ms);
    t.pty.send("\x03");
    CHECK(t.pty.wait(test::kSanitized ? 10s : 1s) == 130);
    CHECK(test::same_modes(t.pty.modes(), t.before));
  }
}

TEST_CASE("chat: Ctrl-C while a long prompt is read drops the question") {
  Talk t({.answers = {"no"}, .arguments = {}, .variables = {{"FATHOM_FAKE_PREFILL_US", "100000"}}, .state = {}, .thinks = false});
  t.ready();
  t.pty.send("a question of some length\r");
  t.pty.settle(300ms);
  const auto pressed = std::chrono::steady_clock::now();
  t.pty.send("\x03");
  REQUIRE(t.pty.expect("[interrupted]"));
  CHECK(std::chrono::steady_clock::now() - pressed < 500ms);
  CHECK(t.pty.expect("> "));
  CHECK(contains(t.say("/undo"), "nothing to undo"));
  CHECK(t.leave() == 0);
}

TEST_CASE("chat: Ctrl-C clears the bar of the prompt that was being read") {
  Talk t({.answers = {"no"}, .arguments = {}, .variables = {{"FATHOM_FAKE_PREFILL_US", "1000"}}, .state = {}, .thinks = false});
  t.ready();
  t.pty.send("\x1b[200~" + std::string(3000, 'x') + "\x1b[201~\r");
  REQUIRE(t.pty.expect("reading ["));
  t.pty.send("\x03");
  REQUIRE(t.pty.expect("[interrupted]"));
  const std::string& seen = t.pty.transcript();
  const std::size_t bar = seen.rfind("reading ["), cleared = seen.find("\r\x1b[K", bar);
  CHECK(cleared < seen.rfind("[interrupted]"));
  CHECK(t.pty.expect("> "));
  CHECK(t.leave() == 0);
}

TEST_CASE("chat: Ctrl-C before the first word of /retry leaves question and answer as they were") {
  Talk t({.answers = {"First.", "Second."}, .arguments = {}, .variables = {{"FATHOM_FAKE_PREFILL_US", "500000"}}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("q"), "First."));
  t.pty.send("/retry\r");
  t.pty.settle(150ms);
  t.pty.send("\x03");
  REQUIRE(t.pty.expect("[interrupted]"));
  CHECK(t.pty.expect("> "));
  CHECK(contains(t.say("/retry"), "Second."));
  CHECK(t.leave() == 0);
  const SessionText s = load_session(t.session_file());
  REQUIRE(s.messages.size() == 2);
  CHECK(s.messages[0].message.content == "q");
  CHECK(s.messages[1].message.content == "Second.");
}

TEST_CASE("chat: a system prompt of the command line is text, whatever it is") {
  Talk t({.answers = {"ok"}, .arguments = {"-s", "-"}, .variables = {}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("/system"), "\n-\n"));
  t.say("/system -");
  CHECK(contains(t.say("/system"), "no system prompt"));
  CHECK(t.leave() == 0);
}

TEST_CASE("run: --no-input refuses to wait for what a person would type") {
  const std::string folder = test::scratch("no-input");
  test::write_fake_checkpoint(folder, false);
  const auto run = [&](std::vector<const char*> more) {
    Pty pty([&] {
      const std::string program = test::self_path();
      std::vector<const char*> argv = {program.c_str(), "--as-fathom", "run", "-m", folder.c_str()};
      argv.insert(argv.end(), more.begin(), more.end());
      argv.push_back(nullptr);
      ::execv(program.c_str(), const_cast<char* const*>(argv.data()));
      return 127;
    });
    const int code = pty.wait(2s);
    return std::pair(code, test::plain(pty.transcript()));
  };
  for (const char* flag : {"-f", "--messages", "--system-file"}) {
    const auto [code, seen] = run({"--no-input", flag, "-"});
    CHECK(code == 2);
    CHECK(contains(seen, "--no-input"));
  }
  CHECK(run({"--no-input", "hi"}).first == 0);
  CHECK(run({"-f", "-"}).first == -1);  // without it the text is waited for
}

TEST_CASE("chat: TERM and HUP save the conversation") {
  for (const int signal : {SIGTERM, SIGHUP}) {
    Talk t({.answers = {std::string(5000, 'x')}, .arguments = {}, .variables = {{"FATHOM_FAKE_DELAY_US", "2000"}}, .state = {}, .thinks = false});
    t.ready();
    t.pty.send("go\r");
    REQUIRE(t.pty.expect("xxxxx"));
    t.pty.signal(signal);
    CHECK(t.pty.wait() == 128 + signal);
    CHECK(test::same_modes(t.pty.modes(), t.before));
    CHECK(load_session(t.session_file()).messages.size() == 2);
  }
  Talk t({});
  t.ready();
  t.pty.signal(SIGTERM);
  CHECK(t.pty.wait() == 143);
  CHECK(test::same_modes(t.pty.modes(), t.before));
}

TEST_CASE("chat: the terminal vanishes") {
  Talk t({});
  t.ready();
  t.pty.hang_up();
  CHECK(t.pty.wait() == 129);
}

TEST_CASE("chat: a conversation is continued, also after a crash in its last line") {
  const std::string state = test::scratch("continued");
  {
    Talk t({.answers = {"One."}, .arguments = {}, .variables = {}, .state = state, .thinks = false});
    t.ready();
    t.say("first question");
    CHECK(t.leave() == 0);
    AppendFile(t.session_file()).append("{\"role\":\"user\",\"cont", false);
  }
  Talk t({.answers = {"Two."}, .arguments = {"-c"}, .variables = {}, .state = state, .thinks = false});
  t.ready();
  CHECK(contains(test::plain(t.pty.transcript()), "the last line is incomplete and was dropped"));
  CHECK(contains(test::plain(t.pty.transcript()), "first question"));
  t.say("second question");
  CHECK(t.leave() == 0);
  CHECK(load_session(t.session_file()).messages.size() == 4);
}

TEST_CASE("run: --session keeps a conversation, -c continues the newest, chat goes on with it") {
  const std::string folder = test::scratch("run-session");
  ::mkdir(folder.c_str(), 0700);
  test::write_fake_checkpoint(folder + "/fake", false);
  test::write_script(folder + "/script", {"answer"});
  const auto run = [&](const std::string& arguments, int* code) {
    const std::string out = test::capture(fmt::format("cd {0} && FATHOM_FAKE_SCRIPT=script XDG_STATE_HOME={0}/state {1} --as-fathom run -m fake {2} </dev/null 2>&1",
                                                      folder, test::self_path(), arguments), code);
    *code = WEXITSTATUS(*code);
    return out;
  };
  int code = 0;
  run("-c hi", &code);
  CHECK(code == 3);
  CHECK(run("--session talk.jsonl -s 'Be brief.' one", &code) == "answer\n");
  CHECK(run("--session talk.jsonl two", &code) == "answer\n");
  CHECK(run("--session talk.jsonl --raw three", &code).find("--raw") != std::string::npos);
  CHECK(code == 2);
  const SessionText s = load_session(folder + "/talk.jsonl");
  REQUIRE(s.messages.size() == 5);
  CHECK(s.messages[0].message.content == "Be brief.");
  CHECK(s.messages[3].message.content == "two");
  CHECK(run("--session talk.jsonl -s 'Be long.' three", &code) == "answer\n");
  CHECK(load_session(folder + "/talk.jsonl").messages.size() == 7);
  CHECK(load_session(folder + "/talk.jsonl").messages[0].message.content == "Be long.");
}

TEST_CASE("chat: nothing is kept with --no-history, everything is private otherwise") {
  {
    Talk t({.answers = {"x"}, .arguments = {"--no-history"}, .variables = {}, .state = {}, .thinks = false});
    t.ready();
    t.say("secret");
    CHECK(t.leave() == 0);
    CHECK(test::capture("find " + t.settings.state + " -type f 2>/dev/null").empty());
  }
  Talk t({});
  t.ready();
  t.say("hello");
  CHECK(t.leave() == 0);
  CHECK(test::capture("find " + t.settings.state + " -type f ! -perm 600 -o -type d ! -perm 700").empty());
}

TEST_CASE("chat: a turn that does not fit is refused with the two numbers") {
  Talk t({.answers = {"ok"}, .arguments = {"--ctx", "40"}, .variables = {}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("short"), "ok"));
  const std::string refused = t.say("a message with far too many tokens for what is left of it");
  CHECK(contains(refused, "the context holds 40"));
  CHECK(contains(refused, "/new"));
  CHECK(contains(t.say("/undo"), "dropped: short"));
  CHECK(contains(t.say("again"), "ok"));
  // A file that is too much is what is dropped, not the conversation.
  const std::string file = test::scratch("too-much.txt");
  {
    AtomicFile f(file);
    f.write(std::string(60, 'y'));
    f.commit();
  }
  t.say("/file " + file);
  CHECK(contains(t.say("sum it up"), "/undo drops the attached text of 60 bytes"));
  CHECK(contains(t.say("/undo"), "dropped: the attached text of 60 bytes"));
  CHECK(contains(t.say("/undo"), "dropped: again"));
  CHECK(t.leave() == 0);
}

TEST_CASE("chat: thinking is dim, summed up in one line, and kept apart in the record") {
  Talk t({.answers = {"Let me see.</think>\n\nForty-two."}, .arguments = {}, .variables = {}, .state = {}, .thinks = true});
  t.ready();
  const std::size_t from = t.pty.transcript().size();
  const std::string seen = t.say("what?");
  CHECK(contains(seen, "Let me see.\nthought for 0."));
  CHECK(contains(seen, "tokens\n\nForty-two."));
  CHECK(contains(t.pty.transcript().substr(from), "2mLet"));
  CHECK(contains(t.say("/think off"), "thinking off"));
  CHECK(contains(t.say("/show-thinking hidden"), ""));
  CHECK(t.leave() == 0);
  const SessionText s = load_session(t.session_file());
  CHECK(s.messages.at(1).message.reasoning_content == "Let me see.");
  CHECK(s.messages.at(1).message.content == "Forty-two.");
}

TEST_CASE("chat: what is typed ahead, while the model loads or answers, is read as it was typed") {
  Talk t({.answers = {"First.", "Second."}, .arguments = {}, .variables = {{"FATHOM_FAKE_DELAY_US", "20000"}}, .state = {}, .thinks = false});
  // From the moment on when the chat has the terminal.
  for (int i = 0; i < 5000 && (t.pty.modes().c_lflag & ECHO) != 0; ++i) ::usleep(1000);
  t.pty.send("one\rtwo\r");
  REQUIRE(t.pty.expect("First."));
  REQUIRE(t.pty.expect("Second."));
  t.pty.settle();
  CHECK(t.leave() == 0);
  const SessionText s = load_session(t.session_file());
  REQUIRE(s.messages.size() == 4);
  CHECK(s.messages[0].message.content == "one");
  CHECK(s.messages[2].message.content == "two");
}

TEST_CASE("chat: past three quarters of the context the prompt says so") {
  Talk t({.answers = {"0123456789"}, .arguments = {"--ctx", "30"}, .variables = {}, .state = {}, .thinks = false});
  t.ready();
  CHECK(contains(t.say("0123456789ab"), "[context "));
  CHECK(t.leave() == 0);
}

TEST_CASE("chat: what the model writes cannot steer the terminal") {
  const std::string evil = "\x1b[2J\x1b]0;title\x07\x1b]52;c;aGk=\x07\x1b[6n\x1bP1$r\x1b\\\xC2\x9B" "31m\x9B\r\x08\x0B";
  Talk t({.answers = {evil + "end"}, .arguments = {}, .variables = {}, .state = {}, .thinks = false});
  t.ready();
  const std::size_t from = t.pty.transcript().size();
  t.say("go");
  const std::string shown = t.pty.transcript().substr(from);
  CHECK(contains(shown, "\xE2\x90\x9B]0;title\xE2\x90\x87"));
  for (const char* sequence : {"\x1b]", "\x1b[2J", "\x1b[6n", "\x1bP", "\xC2\x9B", "\x07", "\x0B"}) CHECK_FALSE(contains(shown, sequence));
  // Shown again on resuming, and in /undo.
  CHECK_FALSE(contains(t.say("/undo"), "\x07"));
  CHECK(t.leave() == 0);
}

TEST_CASE("chat: interrupts at random moments leave the terminal as it was") {
  std::mt19937 random(7);
  for (int i = 0; i < 24; ++i) {
    Talk t({.answers = {std::string(300, 'x')}, .arguments = {}, .variables = {{"FATHOM_FAKE_DELAY_US", "300"}}, .state = {}, .thinks = false});
    t.pty.send("go\r");
    ::usleep(static_cast<useconds_t>(random() % 150'000));
    const int signal = i % 3 == 0 ? SIGTERM : SIGINT;
    t.pty.signal(signal);
    t.pty.settle(std::chrono::milliseconds(random() % 30));
    if (signal == SIGINT) t.pty.signal(SIGINT);
    t.pty.settle(20ms);
    t.pty.send("\x04");
    int code = t.pty.wait(2s);
    if (code < 0) t.pty.send("\r\x04"), code = t.pty.wait(2s);
    CHECK_MESSAGE((code == 0 || code == 130 || code == 143), code);
    CHECK(test::same_modes(t.pty.modes(), t.before));
  }
}

TEST_CASE("chat: without a terminal it says what to use instead") {
  for (const char* command : {"echo hi | {} --as-fathom chat", "{} --as-fathom chat </dev/null"}) {
    int status = 0;
    const std::string text = test::capture(fmt::format(fmt::runtime(command), test::self_path()) + " 2>&1", &status);
    CHECK(WEXITSTATUS(status) == 2);
    CHECK(contains(text, "fathom run"));
  }
}
