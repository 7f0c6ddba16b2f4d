// A chat with the built-in model: turns reuse the cache, and nothing depends on the process that holds it.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <unistd.h>

#include <regex>
#include <span>
#include <string>
#include <vector>

#include "src/app/options.h"
#include "src/app/session.h"
#include "src/base/json.h"
#include "tests/support/pty.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using namespace std::chrono_literals;

TEST_CASE("chat: a trained model reads only what is new in each turn, and a fresh process says the same") {
  const test::TemporaryDirectory dir;
  const std::string saved = dir.path() + "/saved.jsonl", program = test::program();
  constexpr int kMost = 40;  // tokens of an answer
  test::Pty pty([&] {
    ::setenv("XDG_STATE_HOME", dir.path().c_str(), 1);
    ::setenv("TERM", "xterm-256color", 1);
    ::execl(program.c_str(), program.c_str(), "chat", "-m", "models/minnow", "--threads", "1", "--greedy", "-n", "40", "--stats", nullptr);
    return 127;
  }, 24, 120);
  REQUIRE(pty.expect("\x1b[?2004h", 30s));
  int prompt = 0, cached = 0;
  const std::vector<std::string> questions = {"What is 17 + 25?", "now double it", "How many l are in parallel?", "Hello", "What is 100 - 37?", "and 3 more?"};
  for (const std::string& question : questions) {
    const std::size_t from = pty.transcript().size();
    pty.send(question + "\r");
    REQUIRE(pty.expect(" cached) ", 60s));
    REQUIRE(pty.expect("\x1b[?2004h", 30s));
    const std::string seen = test::plain(pty.transcript().substr(from));
    std::smatch m;
    REQUIRE(std::regex_search(seen, m, std::regex("prompt ([0-9]+) tokens \\(([0-9]+) cached\\)")));
    prompt = static_cast<int>(read_integer(m[1].str(), "prompt", 0, 4096));
    cached = static_cast<int>(read_integer(m[2].str(), "cached", 0, 4096));
    // The last answer, without its thinking, and the question with its markers: never the conversation.
    CHECK_MESSAGE(prompt - cached <= kMost + 30, question);
  }
  CHECK(cached > 60);
  pty.send("/save " + saved + "\r");
  REQUIRE(pty.expect("messages saved", 30s));
  pty.send("\x04");
  CHECK(pty.wait(30s) == 0);

  const SessionText session = load_session(saved);
  REQUIRE(session.messages.size() == 2 * questions.size());
  std::string messages;
  for (const SessionMessage& m : std::span(session.messages).first(session.messages.size() - 1))
    messages += fmt::format("{}{{\"role\":{},\"content\":{},\"reasoning_content\":{}}}", messages.empty() ? "[" : ",", json::quote(m.message.role),
                            json::quote(m.message.content), json::quote(m.message.reasoning_content));
  const test::Outcome fresh = test::run({"run", "-m", "models/minnow", "--threads", "1", "--greedy", "-n", "40", "--json", "--messages",
                                         dir.file("messages.json", messages + "]")});
  REQUIRE(fresh.code == 0);
  const json::Value record = json::parse(fresh.out, "record");
  CHECK(record.find("usage")->find("prompt_tokens")->integer_in(prompt, prompt));
  const json::Value* answer = record.find("choices")->as_array().at(0).find("message");
  CHECK(answer->find("content")->as_string() == session.messages.back().message.content);
}
