// Every exit code of cli.md: its number, and what is said with it.
#include <doctest/doctest.h>

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "src/app/help.h"
#include "src/base/file.h"
#include "tests/support/fake_model.h"
#include "tests/support/shell.h"
#include "tests/support/subprocess.h"

using namespace fathom;

namespace {

// A scripted checkpoint with one file changed.
std::string variant(const test::TemporaryDirectory& dir, const char* name, const char* file,
                    const std::function<void(std::string& bytes)>& change) {
  const std::string folder = dir.path() + "/" + name;
  test::write_fake_checkpoint(folder, false);
  std::string bytes = read_file(folder + "/" + file, 1u << 24);
  change(bytes);
  std::ofstream(folder + "/" + file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return folder;
}

void replace(std::string& text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  REQUIRE(at != text.npos);
  text.replace(at, from.size(), to);
}

struct Case {
  int code;
  std::string command;            // for the shell; {F}: fathom, {S}: fathom with the scripted model
  std::vector<std::string> says;  // all on stderr
};

}  // namespace

TEST_CASE("exit codes: each has its number and says what, where and what to do") {
  const test::TemporaryDirectory dir;
  const std::string sound = variant(dir, "sound", "config.json", [](std::string&) {});
  const std::string truncated = variant(dir, "truncated", "model.safetensors", [](std::string& b) { b.resize(b.size() - 7); });
  const std::string foreign = variant(dir, "foreign", "config.json", [](std::string& b) { replace(b, "deepseek_v2", "llama"); });
  const std::string endless = variant(dir, "endless", "config.json", [](std::string& b) { replace(b, "262144", "2147483647"); });
  // Two bytes of ones are a NaN in BF16: the whole output matrix, which stands last.
  const std::string nan = variant(dir, "nan", "model.safetensors", [](std::string& b) { b.replace(b.size() - 272 * 64, 272 * 64, 272 * 64, '\xff'); });
  const std::string script = dir.file("script", "y");
  const std::string bad_line = dir.file("bad.jsonl", "{\"prompt\":\"hi\"}\n{\"prompt\":\n");
  const std::string go_on = " --ignore-eos hi </dev/null >/dev/null";
  const std::string scripted = fmt::format("FATHOM_FAKE_SCRIPT={} FATHOM_FAKE_ENDLESS=1 FATHOM_FAKE_DELAY_US=1000 ", script);
  const auto stopped_by = [&](const char* signal) {
    return scripted + fmt::format("timeout --preserve-status -s {} 0.7 {{S}} run -m {} {}", signal, sound, go_on);
  };
  const std::vector<Case> cases = {
      {0, "{F} --version", {}},
      {1, "FATHOM_FAKE_THROW=1 {S} run -m " + sound + " hi </dev/null", {"internal error: planted", "please report it"}},
      {2, "{F} run --temp 0,5 hi", {"--temp", "'0,5'", "from 0 to 100"}},
      {3, "{F} run -m /nonexistent/model hi", {"/nonexistent/model"}},
      {4, "{F} run -m " + truncated + " hi", {"model.safetensors", "(7 missing)", "To repair:  hf download"}},
      {5, "{F} run -m " + foreign + " hi", {"llama", "deepseek_v2"}},
      {6, "{F} run --backend cpu --cache f32 --ctx 2147483647 -m " + endless + " hi", {"2147483647", "the largest --ctx that fits is"}},
      {7, "{F} run -m tests/goldens/v3 --ids 1,2,3 --ctx 3", {"the prompt has 3 tokens and the context 3", "--ctx"}},
      {8, "{F} run --backend cpu -m " + nan + " hi </dev/null", {"NaN", "position"}},
      {9, "{F} run -m tests/goldens/v3 --ids 1,2 -n 2 >/dev/full", {"standard output", "No space left on device"}},
      {10, "{F} run -m models/minnow --batch " + bad_line + " -n 2 >/dev/null", {"1 request was answered with errors"}},
      {124, scripted + "{S} run --timeout 200ms -m " + sound + go_on, {"--timeout"}},
      {129, stopped_by("HUP"), {}},
      {130, stopped_by("INT"), {}},
      {141, scripted + "bash -c '{S} run -m " + sound + " --ignore-eos hi </dev/null | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}'", {}},
      {143, stopped_by("TERM"), {}},
  };
  for (const Case& c : cases) {
    std::string command = c.command;
    for (const auto& [mark, program] : {std::pair<std::string, std::string>{"{F}", test::program()}, {"{S}", test::self_path() + " --as-fathom"}})
      if (const auto at = command.find(mark); at != command.npos) command.replace(at, 3, program);
    CAPTURE(command);
    const test::Outcome r = test::shell(command);
    CHECK(r.code == c.code);
    for (const std::string& s : c.says) CHECK_MESSAGE(r.err.find(s) != r.err.npos, r.err);
    if (c.code != 0 && !c.says.empty()) CHECK(r.err.starts_with("fathom: "));
  }
  // None is missing.
  REQUIRE(cases.size() == exit_table().size());
  for (const ExitRow& row : exit_table())
    CHECK(std::any_of(cases.begin(), cases.end(), [&](const Case& c) { return c.code == static_cast<int>(row.code); }));
}
