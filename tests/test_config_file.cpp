#include <doctest/doctest.h>

#include <unistd.h>

#include "src/app/config_file.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "tests/support/files.h"

using namespace fathom;

namespace {

// The error that parsing `text` gives; a default one (code failure, no text) when it parses.
Error error_of(std::string_view text) {
  try {
    parse_config_text(text, "config.toml");
  } catch (const Error& e) {
    return e;
  }
  return Error(Exit::failure, "");
}

}  // namespace

TEST_CASE("config: defaults and aliases are read as written") {
  const ConfigFile c = parse_config_text(
      "\xEF\xBB\xBF# mine\r\nmodel = \"V3\"\r\n"
      "temp = 0.6   # cooler\nthreads=8\nno-history = true\nstats = false\n"
      "stop = [\n  \"a\\tb\", # one\n  'c\\d',\n]\nsystem = \"Say \\\"\\u00e9\\U0001F600\\\"\"\n"
      "[aliases]\nV3 = \"~/models/V3\"\n\"dotted.name\" = 'x y'\n",
      "config.toml");
  REQUIRE(c.defaults.size() == 7);
  CHECK(c.defaults[0].flag == "model");
  CHECK(c.defaults[0].values == std::vector<std::string>{"V3"});
  CHECK(c.defaults[0].line == 2);
  CHECK(c.defaults[1].values == std::vector<std::string>{"0.6"});
  CHECK(c.defaults[3].values == std::vector<std::string>{"true"});
  CHECK(c.defaults[4].values == std::vector<std::string>{"false"});
  CHECK(c.defaults[5].values == std::vector<std::string>{"a\tb", "c\\d"});
  CHECK(c.defaults[6].values == std::vector<std::string>{"Say \"\xC3\xA9\xF0\x9F\x98\x80\""});
  CHECK(c.alias("V3") == "~/models/V3");
  CHECK(c.alias("dotted.name") == "x y");
  CHECK_FALSE(c.alias("nothing"));
  CHECK(parse_config_text("", "empty").defaults.empty());
}

TEST_CASE("config: what is wrong is a usage error that names the line") {
  struct Case {
    const char* text;
    const char* says;
  };
  for (const Case& k : std::initializer_list<Case>{
           {"temp = 0.6\ntemp = 0.7", "config.toml:2: key \"temp\" stands twice (first on line 1)"},
           {"\n\nthreds = 8", "config.toml:3: unknown key \"threds\""},
           {"temp 0.6", "expected `=`"},
           {"temp = hot", "found \"hot\": quote text"},
           {"temp =", "expected a value"},
           {"temp = 0.6 0.7", "expected the end of the line"},
           {"model = \"V3", "no closing \""},
           {"model = \"a\nb\"", "no closing \""},
           {"model = \"\\q\"", "unknown escape \\q"},
           {"model = \"\\ud800\"", "no character"},
           {"model = \"\\u00g0\"", "4 hex digits"},
           {"model = true", "takes a value"},
           {"model = [\"a\"]", "not a list"},
           {"no-history = 1", "expected true or false"},
           {"no-history = \"true\"", "expected true or false"},
           {"stop = [\"a\" \"b\"]", "expected `,` or `]`"},
           {"stop = [\"a\"", "in the list"},
           {"stop = [\"a\",", "no `]`"},
           {"[alias]\n", "unknown table [alias]"},
           {"[aliases]\n[aliases]\n", "stands twice"},
           {"[aliases]\na = \"x\"\na = \"y\"", "alias \"a\" stands twice"},
           {"[aliases]\na = 3", "expected a quoted model"},
           {"batch = \"x\"", "for the command line only"},
           {"model = \"\"\"x\"\"\"", "several lines"},
           {"model = \"\x1b[2J\"", "control byte"},
           {"= 3", "expected a key"},
           {"a.b = 3", "dotted keys"},
       }) {
    const Error e = error_of(k.text);
    CHECK_MESSAGE(e.code() == Exit::usage, k.text);
    CHECK_MESSAGE(std::string(e.what()).find(k.says) != std::string::npos, e.what());
    CHECK(e.file() == "config.toml");
  }
  CHECK(error_of("threds = 8").remedy() == "did you mean `threads`?");
  CHECK(error_of("tmep = 1").remedy() == "did you mean `temp`?");
  CHECK(error_of("zzzzzz = 1").remedy().empty());
}

TEST_CASE("config: every truncation of a good file ends in a result or a usage error") {
  const std::string good = "model = \"a\\u00e9\"\nstop = ['x', \"y\"]\nno-history = true\n[aliases]\n\"k\" = 'v'\n";
  for (std::size_t n = 0; n <= good.size(); ++n) {
    const Error e = error_of(good.substr(0, n));
    CHECK((e.code() == Exit::usage || e.code() == Exit::failure));
  }
  CHECK(error_of(good).code() == Exit::failure);
}

TEST_CASE("config: files that are too large, directories and absent ones") {
  const test::TempDir folder;
  const std::string& dir = folder.path();
  const std::string big = dir + "/big";
  {
    AtomicFile f(big);
    f.write("#");
    f.commit();
  }
  REQUIRE(::truncate(big.c_str(), 1 << 30) == 0);
  const auto code = [](auto&& body) {
    try {
      body();
    } catch (const Error& e) {
      return e.code();
    }
    return Exit::ok;
  };
  CHECK(code([&] { read_config_file(big); }) == Exit::usage);
  CHECK(code([&] { read_config_file(dir); }) == Exit::usage);
  CHECK(code([&] { read_config_file(dir + "/none"); }) == Exit::not_found);
  CHECK(code([&] { load_config_file(dir + "/none", ""); }) == Exit::not_found);
  CHECK_FALSE(load_config_file("", dir + "/none").has_value());
  CHECK_FALSE(load_config_file("", "").has_value());
}
