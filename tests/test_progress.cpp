// Signs of life on a terminal's stderr: phases, the bar of a long prompt, and nothing left of either.
#include <doctest/doctest.h>

#include <unistd.h>

#include "src/app/progress.h"
#include "tests/support/fake_model.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"

using namespace fathom;
using namespace std::chrono_literals;
using test::Pty;

namespace {

// What a terminal of this width gets of a progress at 3 of 4 thousand, then of its end.
std::string shown(int columns, bool bytes) {
  Pty pty(
      [&] {
        Terminal terminal(read_environment(), {});
        Progress p(terminal, "reading", true);
        ::usleep(400'000);
        bytes ? p.bytes(3'000'000'000, 4'000'000'000) : p.count(3000, 4000, "tokens");
        return 0;
      },
      24, columns);
  CHECK(pty.wait() == 0);
  return pty.transcript();
}

}  // namespace

TEST_CASE("progress: a bar, numbers and the time left, in one line that is cleared at the end") {
  const std::string wide = shown(100, false);
  CHECK(wide.starts_with("\rreading\x1b[K"));
  CHECK(wide.find("\rreading [###############.....] 3,000/4,000 tokens, 75 %\x1b[K") != wide.npos);
  CHECK(wide.ends_with("\r\x1b[K"));
  CHECK(shown(100, true).find("\rreading [###############.....] 3.0/4.0 GB, ") != std::string::npos);
  CHECK(shown(60, false).find("\rreading 3,000/4,000 tokens, 75 %\x1b[K") != std::string::npos);
  // Cut rather than wrapped: a second line could not be cleared.
  CHECK(shown(20, false).find("\rreading 3,000/4,000\x1b[K") != std::string::npos);
}

TEST_CASE("progress: a long prompt is read behind a bar, by run and by chat") {
  const std::string folder = test::scratch("progress");
  test::write_fake_checkpoint(folder, false);
  test::write_script(folder + "/script", {"ok"});
  const std::string question(1500, 'a');
  for (const bool chat : {false, true}) {
    Pty pty([&] {
      ::setenv("FATHOM_FAKE_SCRIPT", (folder + "/script").c_str(), 1);
      ::setenv("FATHOM_FAKE_PREFILL_US", "1000", 1);
      const std::string program = test::self_path();
      if (chat) ::execl(program.c_str(), program.c_str(), "--as-fathom", "chat", "--no-history", "-m", folder.c_str(), nullptr);
      ::execl(program.c_str(), program.c_str(), "--as-fathom", "run", "-m", folder.c_str(), question.c_str(), nullptr);
      return 127;
    }, 24, 100);
    if (chat) {
      REQUIRE(pty.expect("> "));
      pty.send(question + "\r");
    }
    CHECK(pty.expect("reading [######..............] 512/1,503 tokens, 34 %", 10s));
    CHECK(pty.expect("reading [#############.......] 1,024/1,503 tokens, 68 %, 0:0", 10s));
    CHECK(pty.expect("\r\x1b[K", 10s));
    CHECK(pty.expect("ok", 10s));
  }
}

TEST_CASE("progress: an error clears the line of the phase that it ends") {
  const std::string folder = test::scratch("progress-broken");
  test::write_fake_checkpoint(folder, false);
  REQUIRE(::truncate((folder + "/model.safetensors").c_str(), 3000) == 0);
  Pty pty([&] {
    const std::string program = test::self_path();
    ::execl(program.c_str(), program.c_str(), "--as-fathom", "run", "-m", folder.c_str(), "hi", nullptr);
    return 127;
  });
  CHECK(pty.wait() == 4);
  CHECK(pty.transcript().find("checking 1 shard\x1b[K\r\x1b[Kfathom: cannot use") != std::string::npos);
}
