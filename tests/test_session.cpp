#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/app/session.h"
#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/json.h"
#include "tests/support/errors.h"
#include "tests/support/shell.h"

using namespace fathom;
using test::code_of;

namespace {

const SessionHeader kHeader{"deepseek-ai/DeepSeek-R1", std::string(64, 'a'), "cache bf16, prompt f32, generated f32"};

SessionMessage said(std::string role, std::string content, std::string reasoning = {}, std::string reason = {}) {
  SessionMessage m;
  m.message.role = std::move(role);
  m.message.content = std::move(content);
  m.message.reasoning_content = std::move(reasoning);
  m.finish_reason = std::move(reason);
  return m;
}

void put(const std::string& path, std::string_view text) {
  AtomicFile f(path, 0600);
  f.write(text);
  f.commit();
}

}  // namespace

TEST_CASE("session: a conversation comes back as it was") {
  const std::string path = test::scratch("talk.jsonl");
  {
    Session s = Session::open(path, kHeader);
    s.append(said("system", "Be \"brief\".\n"));
    s.append(said("user", "日本 \x1b[2J\t\xF0\x9F\x91\x8D"));
    s.append(said("assistant", "Tokyo", "The capital …", "interrupted"));
  }
  struct stat st {};
  REQUIRE(::stat(path.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  const Session s = Session::open(path, {"other", "", ""});
  CHECK(s.header() == kHeader);
  REQUIRE(s.messages().size() == 3);
  CHECK(s.messages()[1].message.content == "日本 \x1b[2J\t\xF0\x9F\x91\x8D");
  CHECK(s.messages()[2].message.reasoning_content == "The capital …");
  CHECK(s.messages()[2].finish_reason == "interrupted");
  for (const char c : read_file(path, 10000)) CHECK((c == '\n' || static_cast<unsigned char>(c) >= 0x20));
  ::unlink(path.c_str());
}

TEST_CASE("session: cut at every byte, the whole records remain and the rest is said") {
  const std::string path = test::scratch("cut.jsonl");
  const std::string first = session_line(kHeader), second = session_line(said("user", "one")),
                    third = session_line(said("assistant", "two"));
  const std::string whole = first + second + third;
  for (std::size_t n = first.size(); n <= whole.size(); ++n) {
    put(path, whole.substr(0, n));
    {
      Session s = Session::open(path, kHeader);
      const std::size_t lines = n + 1 >= whole.size() ? 2 : n + 1 >= first.size() + second.size() ? 1 : 0;
      CHECK(s.messages().size() == lines);
      const bool clean = n == first.size() || n + 1 == first.size() + second.size() || n == first.size() + second.size() ||
                         n + 1 >= whole.size();
      CHECK(s.notes().empty() == clean);
      s.append(said("user", "after"));
    }
    CHECK(load_session(path).messages.back().message.content == "after");
    CHECK(load_session(path).notes.empty());
  }
  for (std::size_t n = 1; n + 1 < first.size(); ++n) {
    put(path, whole.substr(0, n));
    CHECK(code_of([&] { Session::open(path, kHeader); }) == Exit::bad_checkpoint);
    CHECK(read_file(path, 10000) == whole.substr(0, n));  // not ours to repair
  }
  ::unlink(path.c_str());
}

TEST_CASE("session: damage and later versions are refused by name and line") {
  const std::string h = session_line(kHeader);
  struct Case {
    std::string text;
    Exit code;
    const char* says;
  };
  for (const Case& k : std::initializer_list<Case>{
           {"", Exit::bad_checkpoint, "empty file"},
           {"{\"schema\":\"fathom.session/2\"}\n", Exit::unsupported, "later fathom"},
           {"{\"schema\":\"fathom.run/1\"}\n", Exit::bad_checkpoint, "expected a conversation"},
           {"[]\n", Exit::bad_checkpoint, "expected a conversation"},
           {"not json\n", Exit::bad_checkpoint, "s:1"},
           {h + "{\"role\":\"user\",\"content\":7}\n", Exit::bad_checkpoint, "s:2: content: expected a string"},
           {h + "{\"role\":\"user\",\"content\":99999999999999999999999}\n", Exit::bad_checkpoint, "s:2"},
           {h + "{\"role\":\"user\"}\n", Exit::bad_checkpoint, "no content"},
           {h + "{\"role\":\"root\",\"content\":\"x\"}\n", Exit::bad_checkpoint, "expected role"},
           {h + "{\"role\":\"user\",\"role\":\"user\",\"content\":\"x\"}\n", Exit::bad_checkpoint, "s:2"},
           {h + "{\"role\":\"user\",\"content\":\"\xFF\"}\n", Exit::bad_checkpoint, "s:2"},
           {h + "-1\n", Exit::bad_checkpoint, "expected a message"},
           {h + "\n" + session_line(said("user", "x")), Exit::bad_checkpoint, "s:2"},
           {h + std::string(100000, '[') + "\n", Exit::bad_checkpoint, "s:2"},
       }) {
    const test::Outcome o = test::outcome_of([&] { parse_session(k.text, "s"); });
    CHECK(o.code == k.code);
    CHECK_MESSAGE(o.says(k.says), o.message);
  }
  CHECK(code_of([&] { parse_session(h + "{\"role\":\"user\",\"content\":\"x\",\"later\":[1]}\n", "s"); }) == Exit::ok);
}

TEST_CASE("session: a second process is kept out while the first one writes") {
  const std::string path = test::scratch("busy.jsonl");
  const auto taken = [&] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(static_cast<int>(code_of([&] { Session::open(path, kHeader); })));
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  {
    Session s = Session::open(path, kHeader);
    CHECK(taken() == static_cast<int>(Exit::io));
    s.replace({said("user", "new")}, kHeader);
    CHECK(taken() == static_cast<int>(Exit::io));
    s.append(said("assistant", "yes"));
  }
  CHECK(taken() == 0);
  CHECK(load_session(path).messages.size() == 2);
  ::unlink(path.c_str());
}

TEST_CASE("session: whatever call fails, the file holds whole records only") {
  const std::string path = test::scratch("faulty.jsonl");
  for (long n = 1; n < 25; ++n) {
    put(path, session_line(kHeader) + session_line(said("user", "old")));
    faults::arm(faults::Site::io, n, n % 2 == 0);
    code_of([&] {
      Session s = Session::open(path, kHeader);
      s.append(said("assistant", "appended"));
      s.replace({said("user", "replaced")}, kHeader);
    });
    faults::disarm();
    const SessionText now = load_session(path);
    CHECK(now.notes.empty());
    REQUIRE_FALSE(now.messages.empty());
    CHECK((now.messages[0].message.content == "old" || now.messages[0].message.content == "replaced"));
  }
  ::unlink(path.c_str());
}

TEST_CASE("session: the newest conversation of a folder") {
  const std::string folder = test::scratch("sessions");
  CHECK_FALSE(newest_session(folder));
  const std::string a = new_session_path(folder, 1'000'000'000), b = folder + "/a-later-one.jsonl";
  CHECK(a.find("/2001090") != a.npos);
  put(a, session_line(kHeader));
  CHECK(newest_session(folder) == a);
  put(b, session_line(kHeader));
  put(folder + "/notes.txt", "x");
  const struct timespec times[2] = {{2'000'000'000, 0}, {2'000'000'000, 0}};
  REQUIRE(::utimensat(AT_FDCWD, b.c_str(), times, 0) == 0);
  CHECK(newest_session(folder) == b);
}

TEST_CASE("session: a tool's calls come back as they were") {
  SessionMessage m;
  m.message.role = "assistant";
  m.message.tool_calls = json::parse(R"([{"id":"1","type":"function"}])", "calls");
  const SessionText again = parse_session(session_line(kHeader) + session_line(m), "text");
  REQUIRE(again.messages.size() == 1);
  CHECK(json::dump(again.messages[0].message.tool_calls) == json::dump(m.message.tool_calls));
}
