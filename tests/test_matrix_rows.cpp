// The fourteen rows of cli.md's table of stdin, stdout and terminals, each under every way of showing thinking, on the
// scripted model and on a trained one.
#include <doctest/doctest.h>

#include <fmt/format.h>
#include <unistd.h>

#include <functional>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/fake_model.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using namespace std::chrono_literals;

namespace {

enum class Terminals { none, in, out, err };  // which of the standard descriptors is one; all: in, out and err

// One row: how fathom is called, what is a terminal, and how it ends.
struct Way {
  const char* name;
  const char* command;  // {0}: fathom run with its flags; {1}: PROMPT
  Terminals terminal;
  int code;
  const char* says;  // on stderr; "": nothing but thinking that was asked for in full
};

constexpr Way kRows[] = {
    {"terminal, PROMPT", "{0} {1} >$D/out 2>$D/err", Terminals::in, 0, ""},
    {"terminal, no PROMPT", "{0} >$D/out 2>$D/err", Terminals::in, 2, "no prompt: give one, pipe text in, or use `fathom chat`"},
    {"pipe, no PROMPT", "printf %s {1} | {0} >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"file, no PROMPT", "printf %s {1} >$D/in; {0} <$D/in >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"pipe, PROMPT", "printf 'Here is a question.' | {0} {1} >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"empty pipe, PROMPT", "printf '' | {0} {1} >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"empty pipe, no PROMPT", "printf '' | {0} >$D/out 2>$D/err", Terminals::none, 2, "standard input was empty"},
    {"closed, PROMPT", "{0} {1} <&- >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"/dev/null, PROMPT", "{0} {1} </dev/null >$D/out 2>$D/err", Terminals::none, 0, ""},
    {"answer to a pipe", "{0} {1} </dev/null 2>$D/err | cat >$D/out", Terminals::none, 0, ""},
    {"errors to a terminal", "{0} {1} </dev/null >$D/out", Terminals::err, 0, ""},
};

struct Subject {
  std::string run, chat, prompt;  // shell words
};

std::vector<Subject> subjects(const std::string& folder) {
  test::write_fake_checkpoint(folder + "/fake");
  test::write_script(folder + "/script", {"Let me see.\n\x1b[31m\n</think>\n\nIt is\n\n42 \x1b]0;t\x07 日本.\n\n\n"});
  const std::string fake = fmt::format("env FATHOM_FAKE_SCRIPT={0}/script XDG_STATE_HOME={0}/state {1} --as-fathom", folder, test::self_path());
  const std::string real = fmt::format("env XDG_STATE_HOME={}/state {}", folder, test::program());
  return {{fmt::format("{} run -m {}/fake", fake, folder), fmt::format("{} chat -m {}/fake", fake, folder), "hello"},
          {real + " run -m models/minnow --threads 1 --greedy", real + " chat -m models/minnow", "'What is 17 + 25?'"}};
}

// Runs a shell command with a terminal where the row has one; its exit code, and in *seen what the terminal got.
int execute(const std::string& command, Terminals terminal, std::string* seen) {
  if (terminal == Terminals::none) {
    int status = 0;
    *seen = test::capture("bash -c " + json::quote(command), &status);
    return WEXITSTATUS(status);
  }
  test::Pty pty([&] {
    ::setenv("TERM", "xterm-256color", 1);
    ::execl("/bin/bash", "bash", "-c", command.c_str(), nullptr);
    return 127;
  });
  const int code = pty.wait(60s);
  *seen = pty.transcript();
  return code;
}

std::string content_of(const std::string& record) {
  const json::Value v = json::parse(record, "record");
  return v.find("choices")->as_array().at(0).find("message")->find("content")->as_string();
}

std::string normalised(std::string s) {
  while (s.ends_with('\n')) s.pop_back();
  return s + "\n";
}

std::string in_folder(std::string command, const std::string& folder) {
  for (std::size_t at; (at = command.find("$D")) != command.npos;) command.replace(at, 2, folder);
  return command;
}

}  // namespace

TEST_CASE("matrix rows: redirected output is the content of the same run's JSON, in every row and mode") {
  const test::TemporaryDirectory dir;
  for (const Subject& subject : subjects(dir.path()))
    for (const Way& row : kRows) {
      CAPTURE(subject.run);
      CAPTURE(row.name);
      std::string seen;
      const auto go = [&](const std::string& flag) {
        std::string command = in_folder(row.command, dir.path());
        for (const auto& [mark, text] : {std::pair<std::string, std::string>{"{0}", subject.run + " " + flag}, {"{1}", subject.prompt}})
          for (std::size_t at; (at = command.find(mark)) != command.npos;) command.replace(at, 3, text);
        dir.file("err", "");
        return execute(command, row.terminal, &seen);
      };
      std::string content;
      if (row.code == 0) {
        CHECK(go("--json") == 0);
        const std::string record = read_file(dir.path() + "/out", 100'000);
        // No control byte at all, the model's are escaped.
        for (const char c : record.substr(0, record.size() - 1)) REQUIRE((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
        content = content_of(record);
      }
      for (const char* mode : {"auto", "full", "summary", "hidden"}) {
        CAPTURE(mode);
        CHECK(go(fmt::format("--show-thinking={}", mode)) == row.code);
        const std::string out = read_file(dir.path() + "/out", 100'000), err = read_file(dir.path() + "/err", 100'000);
        if (*row.says != '\0') CHECK(err.find(row.says) != err.npos);
        if (row.code != 0) {
          CHECK(out.empty());
          continue;
        }
        if (std::string_view(mode) != "full") CHECK(err.empty());
        if (row.terminal != Terminals::err) CHECK(seen.empty());
        // The model's control bytes are kept and none of fathom's own is there.
        CHECK(out == normalised(content));
      }
    }
}

TEST_CASE("matrix rows: a terminal gets the content, and thinking only in the modes that show it") {
  const test::TemporaryDirectory dir;
  for (const Subject& subject : subjects(dir.path())) {
    const std::string content = content_of(test::capture(fmt::format("{} --json {} </dev/null", subject.run, subject.prompt)));
    const std::string last = content.substr(0, content.find(' '));
    for (const char* mode : {"auto", "full", "summary", "hidden"}) {
      CAPTURE(subject.run);
      CAPTURE(mode);
      std::string seen;
      CHECK(execute(fmt::format("{} --show-thinking={} {}", subject.run, mode, subject.prompt), Terminals::out, &seen) == 0);
      CHECK(test::plain(seen).find(last) != std::string::npos);
      CHECK((seen.find("thought for ") != seen.npos) == (std::string_view(mode) != "hidden"));
      const bool shows = std::string_view(mode) == "auto" || std::string_view(mode) == "full";
      CHECK((seen.find("\x1b[0;2m") != seen.npos) >= shows);  // dim
      CHECK(seen.find("\x1b]") == seen.npos);
    }
  }
}

TEST_CASE("matrix rows: chat needs a terminal on both sides and says what to use instead") {
  const test::TemporaryDirectory dir;
  for (const Subject& subject : subjects(dir.path())) {
    CAPTURE(subject.chat);
    std::string seen;
    CHECK(execute(fmt::format("printf hi | {} 2>&1", subject.chat), Terminals::none, &seen) == 2);
    CHECK(seen.find("fathom run") != seen.npos);
    CHECK(seen.find("--batch") != seen.npos);
    CHECK(execute(fmt::format("{} >{}/out", subject.chat, dir.path()), Terminals::in, &seen) == 2);
    CHECK(seen.find("chat needs a terminal as standard output") != seen.npos);
    CHECK(read_file(dir.path() + "/out", 1000).empty());
  }
}
