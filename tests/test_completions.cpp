#include <doctest/doctest.h>

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <regex>
#include <set>

#include "src/app/completions.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "tests/support/pty.h"
#include "tests/support/shell.h"

using namespace fathom;
using namespace std::chrono_literals;

namespace {

std::set<std::string> long_flags_of(Command c) {
  std::set<std::string> out;
  for (const OptionRow* row : flags_of(c)) out.insert("--" + std::string(row->long_name));
  return out;
}

std::set<std::string> all_long_flags() {
  std::set<std::string> out;
  for (const OptionRow& row : option_table()) out.insert("--" + std::string(row.long_name));
  return out;
}

// Every --word in `text`.
std::set<std::string> long_flags_in(const std::string& text) {
  static const std::regex kFlag("--[a-z][a-z-]*");
  return {std::sregex_token_iterator(text.begin(), text.end(), kFlag), {}};
}

std::string between(const std::string& text, const std::string& from, const std::string& to) {
  const auto b = text.find(from);
  if (b == text.npos) return {};
  return text.substr(b + from.size(), text.find(to, b + from.size()) - b - from.size());
}

void write(const std::string& path, const std::string& text) {
  AtomicFile f(path);
  f.write(text);
  f.commit();
}

}  // namespace

TEST_CASE("completions: bash lists exactly the flags of each command") {
  const std::string script = completions_for("bash");
  for (const CommandRow& c : command_table())
    CHECK(long_flags_in(between(script, "    " + std::string(c.name) + ") flags='", "'")) == long_flags_of(c.command));
  CHECK(long_flags_in(between(script, "    *) flags='", "'")) == long_flags_of(Command::none));
}

TEST_CASE("completions: zsh lists exactly the flags of each command") {
  const std::string script = completions_for("zsh");
  for (const CommandRow& c : command_table()) {
    const std::string part = between(script, "        " + std::string(c.name) + ")\n", " ;;\n");
    std::set<std::string> found;
    static const std::regex kSpec("'\\*?(--[a-z-]+)=?\\[");
    for (std::sregex_iterator it(part.begin(), part.end(), kSpec), end; it != end; ++it) found.insert((*it)[1]);
    CHECK_MESSAGE(found == long_flags_of(c.command), c.name);
  }
}

TEST_CASE("completions: fish lists exactly the table's flags, each for its commands") {
  const std::string script = completions_for("fish");
  std::set<std::string> found;
  static const std::regex kLine("-l ([a-z-]+)");
  for (std::sregex_iterator it(script.begin(), script.end(), kLine), end; it != end; ++it)
    found.insert("--" + (*it)[1].str());
  CHECK(found == all_long_flags());
  CHECK(script.find("-n '__fish_seen_subcommand_from run' -l timeout") != script.npos);
}

TEST_CASE("the manual page lists exactly the table's flags, commands and exit codes") {
  const std::string page = manual_page("1.0.0");
  std::set<std::string> found;
  static const std::regex kHeading("\n\\.TP\n(?:\\\\fB\\\\-.\\\\fR, )?\\\\fB((?:\\\\-)+[a-z\\\\-]+)\\\\fR");
  for (std::sregex_iterator it(page.begin(), page.end(), kHeading), end; it != end; ++it) {
    std::string name = (*it)[1];
    name.erase(std::remove(name.begin(), name.end(), '\\'), name.end());
    found.insert(name);
  }
  CHECK(found == all_long_flags());
  for (const CommandRow& c : command_table()) CHECK(page.find(".B fathom " + std::string(c.name) + "\n") != page.npos);
  for (const int code : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 124, 129, 130, 141, 143})
    CHECK(page.find(".TP\n.B " + std::to_string(code) + "\n") != page.npos);
}

TEST_CASE("completions: an unknown shell is a usage error") {
  try {
    completions_for("tcsh");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.code() == Exit::usage);
    CHECK(e.remedy().find("fathom completions bash") != std::string::npos);
  }
}

TEST_CASE("completions: bash completes commands, flags and values" * doctest::skip(!test::has_program("bash"))) {
  const std::string path = test::scratch("completion.bash");
  write(path, completions_for("bash"));
  const auto complete = [&](const std::string& list, int at) {
    return test::capture("bash --norc -c 'source " + path + "; COMP_WORDS=(" + list + "); COMP_CWORD=" +
                         std::to_string(at) + "; _fathom; printf \"%s \" \"${COMPREPLY[@]}\"' 2>&1");
  };
  CHECK(complete("fathom ch", 1) == "chat ");
  CHECK(complete("fathom run --th", 2) == "--threads --think --think-budget ");
  CHECK(complete("fathom inspect --th", 2) == "--threads ");
  CHECK(complete("fathom run --cache b", 3) == "bf16 ");
  CHECK(complete("fathom run --cache = f", 4) == "f32 fp8 ");
  CHECK(complete("fathom completions \"\"", 2) == "bash zsh fish man ");
}

TEST_CASE("completions: zsh completes commands, flags and values at its prompt" * doctest::skip(!test::has_program("zsh"))) {
  const std::string path = test::scratch("_fathom"), home = test::scratch("zsh-home");
  ::mkdir(home.c_str(), 0700);
  write(path, completions_for("zsh"));
  test::Pty pty([&] {
    for (const auto& [name, value] : {std::pair{"HOME", home.c_str()}, {"ZDOTDIR", home.c_str()}, {"TERM", "xterm"}, {"PS1", "ready> "}}) ::setenv(name, value, 1);
    ::execlp("zsh", "zsh", "-f", "-i", nullptr);
    return 127;
  }, 40, 100);
  REQUIRE(pty.expect("ready> ", 30s));
  pty.send("autoload -Uz compinit; compinit -u -D; source " + path + "; print -r -- LOA''DED\r");
  REQUIRE(pty.expect("LOADED", 30s));
  // Types `keys` and Tab, and clears the line afterwards. zsh draws in pieces: judged is what a person reads.
  const auto completes = [&](const std::string& keys, const char* to) {
    const std::size_t from = pty.transcript().size();
    pty.send(keys + "\t");
    for (int i = 0; i < 100 && test::plain(pty.transcript().substr(from)).find(to) == std::string::npos; ++i) pty.settle(200ms);
    CHECK_MESSAGE(test::plain(pty.transcript().substr(from)).find(to) != std::string::npos, keys << " gave " << pty.transcript().substr(from));
    pty.send("\x15");
    pty.settle(200ms);
  };
  completes("fathom cha", "fathom chat ");
  completes("fathom run --th", "--threads       -- CPU threads");
  completes("fathom inspect --th", "fathom inspect --threads=");
  completes("fathom run --cache ", "bf16  f32");
  completes("fathom -q run --no-s", "fathom -q run --no-stream ");
  completes("fathom completions f", "fathom completions fish ");
}

TEST_CASE("completions: fish completes commands, flags and values" * doctest::skip(!test::has_program("fish"))) {
  const std::string path = test::scratch("fathom.fish"), home = test::scratch("fish-home");
  ::mkdir(home.c_str(), 0700);
  write(path, completions_for("fish"));
  const auto complete = [&](const std::string& line) {
    const std::string out = test::capture("HOME=" + home + " XDG_CONFIG_HOME=" + home + " fish --no-config -c 'source " + path +
                                          "; complete -C \"" + line + "\"' 2>&1");
    std::string names;  // before the tab of each line
    for (std::size_t at = 0, end; (end = out.find('\n', at)) != out.npos; at = end + 1) {
      const std::string one = out.substr(at, end - at);
      names += one.substr(0, one.find('\t')) + " ";
    }
    return names;
  };
  CHECK(complete("fathom ch") == "chat ");
  CHECK(complete("fathom run --th") == "--think --think-budget --threads ");
  CHECK(complete("fathom inspect --th") == "--threads ");
  CHECK(complete("fathom run --cache ") == "bf16 f32 fp8 ");
  CHECK(complete("fathom completions ") == "bash fish man zsh ");
}

TEST_CASE("the manual page has nothing for mandoc's lint to say" * doctest::skip(!test::has_program("mandoc"))) {
  const std::string path = test::scratch("fathom.1");
  write(path, completions_for("man"));
  CHECK(test::capture("mandoc -T lint -W all " + path + " 2>&1") == "");
}
