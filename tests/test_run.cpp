// `fathom run` on the golden checkpoints, driven as a shell would.
#include <doctest/doctest.h>

#include <signal.h>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using test::Outcome;
using test::Process;
using test::run;
using test::shell;

namespace {

const std::vector<std::string> kIds = {"run", "-m", "tests/goldens/v3", "--ids", "1,2,3,4", "--greedy"};

std::vector<std::string> with(std::vector<std::string> args, std::vector<std::string> more) {
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

json::Value parsed(const std::string& text) { return json::parse(text, "output", Exit::failure); }

const json::Value& choice(const json::Value& v) { return v.find("choices")->as_array()[0]; }

std::vector<std::int64_t> ids_of(const json::Value& v) {
  std::vector<std::int64_t> ids;
  for (const json::Value& id : choice(v).find("ids")->as_array()) ids.push_back(*id.integer_in(0, 1 << 30));
  return ids;
}

}  // namespace

TEST_CASE("run: ids in, ids out, without tokenizer files, as text and as JSON") {
  const Outcome text = run(with(kIds, {"-n", "5", "--ignore-eos"}));
  REQUIRE(text.code == 0);
  CHECK(text.err.empty());
  const Outcome object = run(with(kIds, {"-n", "5", "--ignore-eos", "--json"}));
  REQUIRE(object.code == 0);
  CHECK(object.out.ends_with("}\n"));
  const json::Value v = parsed(object.out);
  const std::vector<std::int64_t> ids = ids_of(v);
  CHECK(ids.size() == 5);
  CHECK(text.out == fmt::format("{}\n", fmt::join(ids, ",")));
  CHECK(v.find("schema")->as_string() == "fathom.run/1");
  CHECK(v.find("object")->as_string() == "chat.completion");
  CHECK(v.find("id")->as_string().size() == 30);
  CHECK(choice(v).find("finish_reason")->as_string() == "length");
  CHECK(choice(v).find("message")->find("content")->as_string().empty());
  CHECK(v.find("usage")->find("prompt_tokens")->integer_in(4, 4));
  CHECK(v.find("usage")->find("completion_tokens")->integer_in(5, 5));
  CHECK(v.find("usage")->find("total_tokens")->integer_in(9, 9));
  const json::Value* f = v.find("fathom");
  CHECK(f->find("fingerprint")->as_string().size() == 64);
  CHECK(f->find("numerics")->find("cache")->as_string() == "bf16");
  CHECK(f->find("backend")->as_string() == "cpu");
  CHECK(f->find("temperature")->as_number() == 0);
  CHECK(f->find("context")->is_integer());
  for (const char* key : {"seed", "top_p", "load_s", "prefill_s", "decode_s", "prefill_tps", "decode_tps", "version"})
    CHECK_MESSAGE(f->find(key) != nullptr, key);
}

TEST_CASE("run: the ids come from a file as well, and bad ones are refused") {
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("ids", "1, 2\n3 4\n");
  const auto args = [&](const std::string& ids) {
    return std::vector<std::string>{"run", "-m", "tests/goldens/v3", "--greedy", "-n", "3", "--ids", ids};
  };
  CHECK(run(args("@" + file)).out == run(args("1,2,3,4")).out);
  for (const char* bad : {"", "a", "1,", "1,,2", "-1", "1.5", "99999999999", ",1", "1;2"})
    CHECK_MESSAGE(run(args(bad)).code == 2, bad);
  CHECK(run(args("160")).code == 2);  // vocab_size is 160
  CHECK(run(args("@/proc/nonexistent")).code == 3);
}

TEST_CASE("run: the same seed gives the same bytes, another seed another text") {
  const auto draw = [](const std::string& seed) {
    return run({"run", "-m", "tests/goldens/v3", "--ids", "1,2,3", "--temp", "5", "-n", "12", "--ignore-eos", "--seed", seed});
  };
  CHECK(draw("7").out == draw("7").out);
  CHECK(draw("7").out != draw("8").out);
  const json::Value v = parsed(run({"run", "-m", "tests/goldens/v3", "--ids", "1", "-n", "1", "--json", "--seed",
                                    "18446744073709551615"}).out);
  CHECK(v.find("fathom")->find("seed")->as_u64() == 18446744073709551615ull);
}

TEST_CASE("run: threads do not change the ids") {
  const std::string one = run(with(kIds, {"-n", "8", "--ignore-eos", "--threads", "1"})).out;
  CHECK(one == run(with(kIds, {"-n", "8", "--ignore-eos", "--threads", "3"})).out);
}

TEST_CASE("run: log-probabilities in JSON") {
  const json::Value v = parsed(run(with(kIds, {"-n", "3", "--ignore-eos", "--json", "--logprobs", "2"})).out);
  const json::Array& content = choice(v).find("logprobs")->find("content")->as_array();
  REQUIRE(content.size() == 3);
  for (const json::Value& t : content) {
    CHECK(t.find("token")->is_null());
    CHECK(t.find("bytes")->is_null());
    CHECK(t.find("logprob")->as_number() <= 0);
    const json::Array& top = t.find("top_logprobs")->as_array();
    REQUIRE(top.size() == 2);
    CHECK(top[0].find("id")->integer_in(0, 1000) == t.find("id")->integer_in(0, 1000));  // greedy takes the best
    CHECK(top[0].find("logprob")->as_number() == t.find("logprob")->as_number());
    CHECK(top[0].find("logprob")->as_number() >= top[1].find("logprob")->as_number());
  }
}

TEST_CASE("run: --jsonl ends with finish_reason and usage") {
  const Outcome r = run(with(kIds, {"-n", "3", "--ignore-eos", "--jsonl"}));
  REQUIRE(r.code == 0);
  const std::string last = r.out.substr(r.out.rfind('\n', r.out.size() - 2) + 1);
  const json::Value v = parsed(last);
  CHECK(v.find("schema")->as_string() == "fathom.chunk/1");
  CHECK(choice(v).find("finish_reason")->as_string() == "length");
  CHECK(v.find("usage")->find("completion_tokens")->integer_in(3, 3));
}

TEST_CASE("run: exit codes") {
  CHECK(run({"run", "-m", "/nonexistent", "--ids", "1"}).code == 3);
  CHECK(run({"run", "-m", "no-such-model", "--ids", "1"}).code == 3);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1", "--ctx", "200000"}).code == 2);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1", "--backend", "cuda"}).code == 5);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1", "--cache", "fp8"}).code == 5);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1,2,3", "--ctx", "3"}).code == 7);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1,2,3,4", "--ctx", "3"}).code == 7);
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "1,2", "--ctx", "3"}).code == 0);
  CHECK(run(with(kIds, {"-n", "1", "--fail-on-length", "--ignore-eos"})).code == 7);
  CHECK(run({"run", "-m", "tests/goldens/v3", "hi"}).code == 3);  // no tokenizer files
  const test::TemporaryDirectory empty;
  CHECK(run({"run", "-m", empty.path(), "--ids", "1"}).code == 3);
  empty.file("config.json", "{");
  CHECK(run({"run", "-m", empty.path(), "--ids", "1"}).code == 4);
}

TEST_CASE("run: prompts that are none are refused before anything is loaded") {
  const auto refused = [](Process p, int code, std::string_view says) {
    const Outcome r = run(p);
    CHECK(r.code == code);
    CHECK_MESSAGE(r.err.find(says) != r.err.npos, r.err);
    CHECK(r.out.empty());
  };
  const auto args = [](std::vector<std::string> more, std::optional<std::string> input = {}) {
    Process p;
    p.args = with({"run", "-m", "/nonexistent"}, std::move(more));
    p.input = std::move(input);
    return p;
  };
  refused(args({}, ""), 2, "standard input was empty");
  refused(args({}), 2, "standard input was empty");
  refused(args({""}), 2, "the prompt is empty");
  refused(args({}, " \n\n"), 2, "the prompt is empty");
  refused(args({"-f", "/proc/nonexistent", "x"}), 3, "/proc/nonexistent");
  refused(args({"--max-input", "10"}, std::string(100, 'x')), 9, "more than 10 bytes");
  refused(args({}, "\xFF\xFEhi"), 2, "UTF-16");
  Process endless;
  endless.shell = "yes | $FATHOM run -m /nonexistent --max-input 1MiB";
  refused(endless, 9, "more than 1048576 bytes");
  endless.shell = "$FATHOM run -m /nonexistent <&-";
  refused(endless, 2, "standard input was empty");
  const test::TemporaryDirectory dir;
  for (const char* bad : {"", "{}", "[]", "[1]", R"([{"role":"robot","content":"x"}])", R"([{"role":"user"}])",
                          R"([{"role":"user","content":null}])", R"([{"role":"user","content":1}])", "[{]"})
    CHECK_MESSAGE(run({"run", "-m", "/nonexistent", "--messages", dir.file("m", bad)}).code == 2, bad);
}

TEST_CASE("run: -o writes the answer whole or not at all") {
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("answer", "old");
  const auto to = [&](const std::string& path) { return run(with(kIds, {"-n", "3", "-o", path})); };
  const Outcome r = to(file);
  CHECK(r.code == 0);
  CHECK(r.out.empty());
  CHECK(read_file(file, 1000) == run(with(kIds, {"-n", "3"})).out);
  CHECK(to(dir.path()).code == 9);
  CHECK(to("/proc/nonexistent/x").code == 9);
  CHECK(to("/dev/full").code == 9);
  CHECK(to("/dev/null").code == 0);
  CHECK(to("-").out == read_file(file, 1000));  // standard output, not a file of that name
  // A FIFO is written directly.
  const Outcome fifo = shell("mkfifo " + dir.path() +
                             "/fifo; $FATHOM run -m tests/goldens/v3 --ids 1,2,3,4 --greedy -n 3 -o " + dir.path() +
                             "/fifo & cat " + dir.path() + "/fifo");
  CHECK(fifo.out == read_file(file, 1000));
  CHECK(FileSet::directory(dir.path()).list() == std::vector<std::string>{"answer", "fifo"});
  // The prompt's own file is no output (tests/test_limits.cpp has every such pair).
  const std::string ids = dir.file("ids", "1,2,3,4");
  CHECK(run({"run", "-m", "tests/goldens/v3", "--ids", "@" + ids, "--greedy", "-n", "3", "-o", ids}).code == 2);
  CHECK(read_file(ids, 1000) == "1,2,3,4");
}

TEST_CASE("run: output that cannot be written, and readers that leave") {
  CHECK(shell("$FATHOM run -m tests/goldens/v3 --ids 1,2 --greedy -n 2 > /dev/full").code == 9);
  const Outcome r = shell("($FATHOM run -m tests/goldens/v3 --ids 1,2 --greedy -n 100000 --ignore-eos --json; echo $? >&2) | head -c 0");
  CHECK(r.err.find("141") != r.err.npos);
}

TEST_CASE("run: a time limit ends the run with 124 and what there is") {
  const Outcome r = run(with(kIds, {"--ignore-eos", "--timeout", "300ms", "--json", "--ctx", "100000"}));
  CHECK(r.code == 124);
  CHECK(r.seconds < 3);
  CHECK(choice(parsed(r.out)).find("finish_reason")->as_string() == "timeout");
  // Also while it waits for its input.
  const Outcome waiting = shell("sleep 5 | $FATHOM run --timeout 200ms; echo $?");
  CHECK(waiting.out == "124\n");
}

TEST_CASE("run: signals end the run with 128 plus their number, and the JSON is whole") {
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, {SIGTERM, 143}, {SIGHUP, 129}}) {
    Process p;
    p.args = with(kIds, {"--ignore-eos", "--json", "--ctx", "100000"});
    p.signal = signal;
    p.signal_after_s = 0.5;
    const Outcome r = run(p);
    CHECK(r.code == code);
    CHECK(r.seconds < 3);
    CHECK(choice(parsed(r.out)).find("finish_reason")->as_string() == "interrupted");
  }
}
