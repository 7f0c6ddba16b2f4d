#include <doctest/doctest.h>

#include <set>

#include "src/app/config_file.h"
#include "src/app/help.h"
#include "src/app/options.h"
#include "src/base/error.h"

using namespace fathom;

namespace {

Options options(std::vector<std::string> args) { return make_options(parse_args(args)); }

// The message and remedy of the usage error that these arguments are, "" when they are accepted.
std::string refusal(std::vector<std::string> args) {
  try {
    options(std::move(args));
  } catch (const Error& e) {
    CHECK(e.code() == Exit::usage);
    return std::string(e.what()) + "\n" + e.remedy();
  }
  return "";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("options: every choice becomes its value, and odd values are refused") {
  const auto run = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "hi"});
    return options(more);
  };
  CHECK_FALSE(run({}).activations);
  CHECK(run({"--activations", "f32"}).activations == ActivationType::f32);
  CHECK(run({"--activations", "bf16"}).activations == ActivationType::bf16);
  CHECK(run({"--activations", "fp8"}).activations == ActivationType::fp8);
  CHECK(run({"--cache", "fp8"}).cache == CacheType::fp8);
  CHECK(run({"--cache", "f32"}).cache == CacheType::f32);
  CHECK_FALSE(run({}).mmap);
  CHECK(run({"--mmap"}).mmap == true);
  CHECK(run({"--no-mmap"}).mmap == false);
  CHECK(run({"--check", "values"}).check == CheckLevel::values);
  CHECK(run({"--check", "none"}).check == CheckLevel::none);
  CHECK(run({"--stats", "--no-history"}).stats);
  CHECK(run({"--json", "--logprobs", "3"}).logprobs == 3);
  CHECK(run({"--jsonl", "--logprobs", "3"}).logprobs == 3);
  CHECK(options({"run", "--batch", "f", "--logprobs", "3"}).logprobs == 3);
  CHECK(contains(refusal({"run", "hi", "--logprobs", "3"}), "--logprobs"));
  CHECK(contains(refusal({"run", "hi", "--stop", ""}), "--stop"));
  CHECK(contains(refusal({"run", "hi", "--seed", "12x"}), "--seed"));
  CHECK(contains(refusal({"run", "hi", "--seed", "-1"}), "--seed"));
  CHECK(contains(refusal({"run", "hi", "--threads", "0"}), "--threads"));
  CHECK(contains(refusal({"run", "hi", "--threads", "5x"}), "--threads"));
  CHECK(contains(refusal({"run", "hi", "--markdown", "bold"}), "--markdown"));
  CHECK(contains(refusal({"--frob"}), "--frob"));
  CHECK(contains(refusal({"-Z"}), "-Z"));
  CHECK(contains(refusal({"run", "-Z"}), "-Z"));
  CHECK(contains(refusal({"nonsense"}), "nonsense"));
}

TEST_CASE("options: the table has unique names and no unknown kinds") {
  std::set<std::string_view> names;
  std::set<char> shorts;
  for (const OptionRow& row : option_table()) {
    CHECK_MESSAGE(names.insert(row.long_name).second, row.long_name);
    if (row.short_name != 0) CHECK(shorts.insert(row.short_name).second);
    CHECK(takes_value(row) == !row.argument.empty());
    CHECK_FALSE(row.help.ends_with('.'));
  }
}

TEST_CASE("options: global flags stand before and after the command, values in both spellings") {
  for (auto args : {std::vector<std::string>{"-m", "X", "run", "hi"}, {"run", "-m", "X", "hi"}, {"run", "hi", "-mX"},
                    {"--model=X", "run", "hi"}, {"run", "hi", "--model", "X"}, {"run", "--model=X", "--", "hi"}}) {
    const Options o = options(args);
    CHECK(o.command == Command::run);
    CHECK(o.model == "X");
    CHECK(o.positionals == std::vector<std::string>{"hi"});
  }
  CHECK(options({"run", "-vv", "x"}).verbose == 2);
  CHECK(options({"run", "-n5", "x"}).max_tokens == 5);
  CHECK(options({"run", "--temp", "1", "--temp=0.5", "x"}).temp == 0.5f);
  CHECK(options({"run", "--greedy", "x"}).temp == 0.0f);
  CHECK(options({"run", "-f", "a", "-f", "-", "x"}).files == std::vector<std::string>{"a", "-"});
  CHECK(options({}).command == Command::none);
  CHECK(options({"--version", "--json"}).json);
}

TEST_CASE("options: text is taken as it is") {
  CHECK(options({"run", "[1,2]"}).positionals[0] == "[1,2]");
  CHECK(options({"run", "x", "--stop", "[a,b]"}).stop == std::vector<std::string>{"[a,b]"});
  CHECK(options({"run", "x", "--stop", "--json"}).stop == std::vector<std::string>{"--json"});
  CHECK(options({"run", "x", "--stop=--a=b"}).stop == std::vector<std::string>{"--a=b"});
  CHECK(options({"run", "x", "-s", ""}).system == "");
  CHECK(options({"run", "x", "--system="}).system == "");
  CHECK(options({"run", ""}).positionals[0] == "");
  CHECK(options({"run", "-"}).positionals[0] == "-");
  CHECK(options({"run", "-1 + 2"}).positionals[0] == "-1 + 2");
  CHECK(options({"run", "--", "--json"}).positionals[0] == "--json");
  CHECK_FALSE(options({"run", "--", "--json"}).json);
  CHECK(options({"run", "--", "--"}).positionals[0] == "--");
  CHECK(options({"run", "chat"}).positionals[0] == "chat");
  CHECK(options({"run", "'quoted'"}).positionals[0] == "'quoted'");
  CHECK(options({"run", std::string(2 << 20, 'x')}).positionals[0].size() == 2 << 20);
}

TEST_CASE("options: mistakes are refused and the near miss is named") {
  CHECK(contains(refusal({"run", "--tmep", "1"}), "did you mean --temp?"));
  CHECK(contains(refusal({"run", "--jsno"}), "did you mean --json?"));
  CHECK(contains(refusal({"rnu", "hi"}), "did you mean `fathom run`?"));
  CHECK(contains(refusal({"what is 2+2"}), "there is no command"));
  CHECK(contains(refusal({"run", "--te", "1"}), "unknown option --te"));  // no abbreviations
  CHECK(contains(refusal({"tokenize", "--temp", "1"}), "does not take --temp"));
  CHECK(contains(refusal({"tokenize", "--temp", "1"}), "run"));
  CHECK(contains(refusal({"run", "--verbose=3"}), "takes no value"));
  CHECK(contains(refusal({"run", "hi", "--temp"}), "--temp needs a value"));
  CHECK(contains(refusal({"run", "hi", "-n"}), "-n needs a value"));
  CHECK(contains(refusal({"run", "what", "is", "this"}), "unexpected argument 'is'"));
  CHECK(contains(refusal({"run", "-x"}), "unknown option -x"));
  CHECK(contains(refusal({"run", "-x"}), "--"));
  CHECK(contains(refusal({"run", "\xff"}), "not valid UTF-8"));
  CHECK(contains(refusal({"run", "x", "--stop", "a\xc3"}), "not valid UTF-8"));
}

TEST_CASE("options: numbers are exact") {
  for (const char* bad : {"0,5", "nan", "inf", "-inf", "-1", "0x1p-1", "1e400", "", " 1", "1 ", "+1", "1.0f", "hot",
                          "-0.5", "1_000"})
    CHECK_MESSAGE(contains(refusal({"run", "x", "--temp", bad}), "--temp: expected a number"), bad);
  for (const char* bad : {"0", "-1", "99999999999999999999", "1.0", "1e3", "0x10", "", "ten", "5 "})
    CHECK_MESSAGE(contains(refusal({"run", "x", "-n", bad}), "--max-tokens: expected an integer"), bad);
  for (const char* bad : {"0", "1", "-5"}) CHECK_FALSE(refusal({"run", "x", "--ctx", bad}).empty());
  CHECK(options({"run", "x", "--temp", "0"}).temp == 0.0f);
  CHECK(options({"run", "x", "--temp", "1e-1"}).temp == 0.1f);
  CHECK(options({"run", "x", "--seed", "18446744073709551615"}).seed == 18446744073709551615ull);
  CHECK(contains(refusal({"run", "x", "--seed", "18446744073709551616"}), "--seed"));
  CHECK(contains(refusal({"run", "x", "--seed", "-1"}), "--seed"));
  CHECK(contains(refusal({"run", "x", "--top-p", "1.1"}), "--top-p"));
  CHECK(options({"run", "x", "--top-k", "1000000000"}).top_k == 1000000000);
}

TEST_CASE("options: sizes and durations have units") {
  CHECK(read_size("64MiB", "x") == 64u << 20);
  CHECK(read_size("70GB", "x") == 70'000'000'000u);
  CHECK(read_size("4096", "x") == 4096);
  for (const char* bad : {"", "MiB", "64 MiB", "64mib", "-1", "0", "1.5GiB", "99999999999TiB", "99999999999999999999"})
    CHECK_THROWS_AS_MESSAGE(read_size(bad, "x"), Error, bad);
  CHECK(read_duration_ms("10s", "x") == 10000);
  CHECK(read_duration_ms("10", "x") == 10000);
  CHECK(read_duration_ms("1.5s", "x") == 1500);
  CHECK(read_duration_ms("250ms", "x") == 250);
  CHECK(read_duration_ms("2m", "x") == 120000);
  CHECK(read_duration_ms("1h", "x") == 3600000);
  for (const char* bad : {"", "s", "-1s", "0", "nan", "inf", "1d", "1 s", "1e3s", "1e9h"})
    CHECK_THROWS_AS_MESSAGE(read_duration_ms(bad, "x"), Error, bad);
}

TEST_CASE("options: contradictions are refused by name") {
  CHECK(contains(refusal({"run", "x", "--json", "--jsonl"}), "--json and --jsonl exclude each other"));
  CHECK(contains(refusal({"run", "x", "--think", "--no-think"}), "--think and --no-think"));
  CHECK(contains(refusal({"run", "x", "--messages", "m.json"}), "--messages and PROMPT"));
  CHECK(contains(refusal({"run", "x", "--ids", "1,2"}), "--ids and PROMPT"));
  CHECK(contains(refusal({"run", "x", "--logprobs", "3"}), "--json"));
  CHECK(contains(refusal({"bench", "--layers", "3"}), "--random-weights"));
  CHECK(contains(refusal({"run", "x", "--cache", "int8"}), "f32|bf16|fp8"));
  CHECK(contains(refusal({"run", "x", "-m", ""}), "--model"));
  // What would have no effect is refused, not ignored.
  const std::vector<std::string> batch{"run", "--batch", "f"};
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--fail-on-length"}, {"--session", "s"}, {"-c"}, {"--stats"},
                                               {"--jsonl"}, {"--no-stream"}}) {
    std::vector<std::string> args = batch;
    args.insert(args.end(), more.begin(), more.end());
    CHECK_MESSAGE(contains(refusal(args), "--batch and --"), more[0]);
  }
  CHECK(refusal({"run", "--batch", "f", "--strict", "--logprobs", "2", "--think", "--json"}).empty());
  CHECK(contains(refusal({"run", "x", "--strict"}), "--strict needs --batch FILE"));
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--think"}, {"--no-think"}, {"--think-budget", "3"},
                                               {"--template", "deepseek-r1"}}) {
    std::vector<std::string> raw{"run", "x", "--raw"}, ids{"run", "--ids", "1"};
    raw.insert(raw.end(), more.begin(), more.end());
    ids.insert(ids.end(), more.begin(), more.end());
    CHECK_MESSAGE(contains(refusal(raw), "--raw and " + more[0] + " exclude"), more[0]);
    CHECK_MESSAGE(contains(refusal(ids), "--ids and " + more[0] + " exclude"), more[0]);
  }
  CHECK(contains(refusal({"run", "--messages", "m", "-f", "x"}), "--messages and --file"));
  CHECK(contains(refusal({"run", "x", "--raw", "--session", "s"}), "--session and --raw"));
  CHECK(contains(refusal({"chat", "-c", "--no-history"}), "--continue and --no-history"));
  CHECK(contains(refusal({"chat", "--no-input"}), "does not take --no-input"));
}

TEST_CASE("options: help names every option of a command, and every exit code") {
  for (const CommandRow& c : command_table()) {
    const std::string text = command_help(c.command);
    for (const OptionRow& row : option_table())
      CHECK(contains(text, fmt::format("--{}", row.long_name)) >= ((row.commands & only(c.command)) != 0));
  }
  for (const char* topic : {"environment", "exit-codes", "files", "formatting"}) CHECK_FALSE(topic_help(topic).empty());
  CHECK(topic_help("nonsense").empty());
  CHECK(contains(topic_help("exit-codes"), "141  broken-pipe"));
  for (const std::string& text : {short_help(), full_help(), command_help(Command::run)})
    for (std::size_t i = 0, end; i < text.size(); i = end + 1) {
      end = text.find('\n', i);
      REQUIRE(end != text.npos);
      CHECK_MESSAGE(end - i <= 115, text.substr(i, end - i));
    }
}

TEST_CASE("options: the configuration file speaks where the command line is silent") {
  const ConfigFile file =
      parse_config_text("temp = 0.6\nno-think = true\nno-history = false\nmax-tokens = 7\nthreads = 3\n", "config.toml");
  const auto merged = [&](std::vector<std::string> args) {
    ParsedArgs parsed = parse_args(args);
    merge_defaults(parsed, file);
    return make_options(parsed);
  };
  CHECK(merged({"run", "x"}).temp == 0.6f);
  CHECK(merged({"run", "x"}).think == false);
  CHECK_FALSE(merged({"run", "x"}).no_history);
  CHECK(merged({"run", "x", "--temp", "1"}).temp == 1.0f);
  CHECK(merged({"run", "x", "--greedy"}).temp == 0.0f);
  CHECK(merged({"run", "x", "--think"}).think == true);
  CHECK(merged({"tokenize", "x"}).threads == 3);
  CHECK_FALSE(merged({"tokenize", "x"}).temp);
}

TEST_CASE("options: a default gives way to any flag of the command line that excludes it") {
  const ConfigFile file = parse_config_text("system = \"Be terse.\"\ncolor = \"always\"\n", "config.toml");
  const auto merged = [&](std::vector<std::string> args) {
    ParsedArgs parsed = parse_args(args);
    merge_defaults(parsed, file);
    return make_options(parsed);
  };
  CHECK(merged({"run", "x"}).system == "Be terse.");
  CHECK_FALSE(merged({"run", "x", "--raw"}).system);
  CHECK_FALSE(merged({"run", "--ids", "1,2"}).system);
  CHECK_FALSE(merged({"run", "x", "--system-file", "f"}).system);
  CHECK(merged({"run", "x", "--no-color"}).color == "never");
  CHECK(contains(refusal({"run", "x", "--raw", "--system", "s"}), "--raw and --system exclude each other"));
  CHECK(contains(refusal({"run", "--batch", "f", "--raw"}), "--batch and --raw exclude each other"));
  // And a default that needs another flag waits for it.
  const ConfigFile strict = parse_config_text("strict = true\n", "config.toml");
  const auto with_strict = [&](std::vector<std::string> args) {
    ParsedArgs parsed = parse_args(args);
    merge_defaults(parsed, strict);
    return make_options(parsed).strict;
  };
  CHECK(with_strict({"run", "--batch", "f"}));
  CHECK_FALSE(with_strict({"run", "x"}));
}
