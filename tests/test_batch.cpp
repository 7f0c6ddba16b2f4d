#include <doctest/doctest.h>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/app/batch.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/fake_model.h"
#include "tests/support/shell.h"

using namespace fathom;

namespace {

struct Folder {
  std::string path;
  Folder() {
    static int count = 0;
    path = test::scratch(fmt::format("batch-{}", ++count));
    ::mkdir(path.c_str(), 0700);
    test::write_fake_checkpoint(path + "/fake", false);
    test::write_script(path + "/script", {"one", "two", "three"});
  }
  void put(const std::string& name, std::string_view text) const {
    AtomicFile f(path + "/" + name);
    f.write(text);
    f.commit();
  }
  std::string get(const std::string& name) const { return read_file(path + "/" + name, 1u << 30); }
  // Exit code of a batch run; what it printed in `out`.
  int run(const std::string& arguments, std::string* out = nullptr, const std::string& environment = {}) const {
    int status = 0;
    const std::string text = test::capture(
        fmt::format("cd {0} && FATHOM_FAKE_SCRIPT={0}/script {3} {1} --as-fathom run -m {0}/fake --batch {2} </dev/null", path,
                    test::self_path(), arguments, environment),
        &status);
    if (out != nullptr) *out = text;
    return WEXITSTATUS(status);
  }
};

std::vector<json::Value> lines_of(const std::string& text) {
  std::vector<json::Value> out;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != text.npos; at = end + 1)
    out.push_back(json::parse(std::string_view(text).substr(at, end - at), "record"));
  return out;
}

std::string id_of(const json::Value& record) { return record.find("custom_id")->as_string(); }
std::string content_of(const json::Value& record) {
  return record.find("choices")->as_array().at(0).find("message")->find("content")->as_string();
}

std::string problem_with(const std::string& line) {
  try {
    parse_batch_line(line, 3, {});
  } catch (const Error& e) {
    CHECK(e.code() == Exit::usage);
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("batch: a line's fields are checked one by one") {
  const BatchRequest r = parse_batch_line(
      R"({"custom_id":"x","messages":[{"role":"user","content":"hi"}],"max_tokens":5,"temperature":0,"top_p":0.5,)"
      R"("top_k":3,"min_p":0.1,"repeat_penalty":1.1,"presence_penalty":0.5,"frequency_penalty":-1,)"
      R"("seed":18446744073709551615,"stop":["a","b"],"think":false})",
      1, {});
  CHECK(r.custom_id == "x");
  CHECK(r.messages->at(0).content == "hi");
  CHECK(r.max_tokens == 5);
  CHECK(r.sampling.temperature == 0.0f);
  CHECK(r.sampling.top_k == 3);
  CHECK(r.sampling.seed == 18446744073709551615u);
  CHECK(r.stop == std::vector<std::string>{"a", "b"});
  CHECK(r.think == false);
  CHECK(parse_batch_line(R"({"prompt":"hi"})", 7, {}).custom_id == "line-7");
  CHECK(batch_id(R"({"custom_id":"","prompt":"hi"})", 7) == "line-7");  // found by fuzzing: the record had no name
  CHECK(parse_batch_line(R"({"ids":[1,2]})", 7, {}).ids == std::vector<std::int32_t>{1, 2});
  CHECK(parse_batch_line(R"({"prompt":"hi","stop":"x"})", 7, {}).stop == std::vector<std::string>{"x"});
  for (const auto& [line, says] : std::initializer_list<std::pair<const char*, const char*>>{
           {"{", "line 3"},
           {"[]", "expected an object"},
           {"{}", "exactly one of messages, prompt and ids"},
           {R"({"prompt":"a","ids":[1]})", "exactly one of"},
           {R"({"prompt":7})", "prompt: expected text, found 7"},
           {R"({"prompt":"a","max_tokens":0})", "max_tokens"},
           {R"({"prompt":"a","max_tokens":1.5})", "max_tokens"},
           {R"({"prompt":"a","temperature":"hot"})", "temperature"},
           {R"({"prompt":"a","temperature":-1})", "temperature"},
           {R"({"prompt":"a","seed":-1})", "seed"},
           {R"({"prompt":"a","stop":[1]})", "stop"},
           {R"({"prompt":"a","stop":""})", "stop"},
           {R"({"prompt":"a","think":"yes"})", "think"},
           {R"({"prompt":"a","tempratur":1})", "unknown field \"tempratur\""},
           {R"({"prompt":"a","prompt":"b"})", "line 3"},
           {R"({"ids":[-1]})", "ids"},
           {R"({"messages":[{"role":"king","content":"x"}]})", "king"},
           {R"({"custom_id":7,"prompt":"a"})", "custom_id"},
       }) {
    const std::string problem = std::string(line) + " gave " + problem_with(line);
    CHECK_MESSAGE(problem.find(says, std::string_view(line).size()) != std::string::npos, problem);
  }
}

TEST_CASE("batch: records in input order, bad lines answered with errors, exit 10") {
  const Folder f;
  f.put("in", "{\"custom_id\":\"a\",\"prompt\":\"x\"}\r\n\n{not json\n{\"custom_id\":\"b\",\"messages\":[{\"role\":\"user\",\"content\":\"y\"}],"
              "\"max_tokens\":2}\n{\"custom_id\":\"a\",\"prompt\":\"again\"}\n   \n{\"custom_id\":\"c\",\"prompt\":\"z\"}");
  std::string out;
  CHECK(f.run("in 2>/dev/null", &out) == 10);
  const auto records = lines_of(out);
  REQUIRE(records.size() == 5);
  CHECK(id_of(records[0]) == "a");
  CHECK(content_of(records[0]) == "one");
  CHECK(records[0].find("schema")->as_string() == "fathom.run/1");
  CHECK(id_of(records[1]) == "line-3");
  CHECK(records[1].find("schema")->as_string() == "fathom.error/1");
  CHECK(records[1].find("error")->find("code")->integer_in(0, 200) == 2);
  CHECK(content_of(records[2]) == "tw");
  CHECK(records[2].find("choices")->as_array()[0].find("finish_reason")->as_string() == "length");
  CHECK(records[3].find("error")->find("message")->as_string().find("stands twice") != std::string::npos);
  CHECK(content_of(records[4]) == "three");
  CHECK(f.run("in --strict 2>/dev/null", &out) == 2);
  CHECK(lines_of(out).size() == 2);
  CHECK(f.run("none 2>/dev/null") == 3);
}

TEST_CASE("batch: what an earlier run finished is skipped, errors and torn lines are not") {
  const Folder f;
  std::string input;
  for (const char* id : {"a", "b", "c", "d"}) input += fmt::format("{{\"custom_id\":\"{}\",\"prompt\":\"x\"}}\n", id);
  f.put("in", input);
  REQUIRE(f.run("in -o out 2>/dev/null") == 0);
  const std::string whole = f.get("out");
  REQUIRE(lines_of(whole).size() == 4);
  // Nothing is left to do.
  CHECK(f.run("in -o out 2>/dev/null") == 0);
  CHECK(f.get("out") == whole);
  // Cut anywhere: the same records come to be there again, each once.
  for (std::size_t cut : {std::size_t{0}, std::size_t{10}, whole.find('\n'), whole.find('\n') + 1, whole.find('\n') + 50, whole.size() - 1}) {
    f.put("out", whole.substr(0, cut));
    CHECK(f.run("in -o out 2>/dev/null") == 0);
    const auto records = lines_of(f.get("out"));
    REQUIRE(records.size() == 4);
    for (std::size_t i = 0; i < 4; ++i) CHECK(id_of(records[i]) == std::string(1, static_cast<char>('a' + i)));
  }
  // An error is tried again.
  f.put("out", batch_error("a", Error(Exit::context, "too long")) + "\n");
  CHECK(f.run("in -o out 2>/dev/null") == 0);
  CHECK(lines_of(f.get("out")).size() == 5);
  const BatchDone done = parse_batch_output(f.get("out") + "{\"custom_id\":\"zz\"");
  CHECK(done.ids == std::set<std::string>{"a", "b", "c", "d"});
  CHECK(done.good_bytes == f.get("out").size());
}

TEST_CASE("batch: stopped by a time limit it leaves whole records and goes on later") {
  const Folder f;
  std::string input;
  for (int i = 0; i < 20; ++i) input += fmt::format("{{\"custom_id\":\"{}\",\"prompt\":\"x\"}}\n", i);
  f.put("in", input);
  CHECK(f.run("in -o out --timeout 300ms 2>/dev/null", nullptr, "FATHOM_FAKE_DELAY_US=20000") == 124);
  const std::size_t before = lines_of(f.get("out")).size();
  CHECK(before < 20);
  CHECK(f.run("in -o out 2>/dev/null") == 0);
  CHECK(lines_of(f.get("out")).size() == 20);
}

TEST_CASE("batch: a second process is refused, a full disk is exit 9") {
  const Folder f;
  f.put("in", "{\"prompt\":\"x\"}\n");
  AppendFile held(f.path + "/out", 0644);
  REQUIRE(held.lock(true));
  std::string out;
  CHECK(f.run("in -o out 2>&1", &out) == 9);
  CHECK(out.find("another fathom") != out.npos);
  CHECK(f.run("in >/dev/full 2>/dev/null") == 9);
}

TEST_CASE("batch: a line over the limit is an error, the next one is answered") {
  const Folder f;
  f.put("in", "{\"custom_id\":\"long\",\"prompt\":\"" + std::string(5'000'000, 'x') + "\"}\n{\"custom_id\":\"b\",\"prompt\":\"y\"}\n");
  std::string out;
  CHECK(f.run("in --max-input 1MiB 2>/dev/null", &out) == 10);
  const auto records = lines_of(out);
  REQUIRE(records.size() == 2);
  CHECK(records[0].find("error") != nullptr);
  CHECK(id_of(records[1]) == "b");
}

TEST_CASE("batch: the system prompt of a file is the one that --system gives; reused rows are not counted as read") {
  const Folder f;
  f.put("in", "{\"prompt\":\"x\"}\n{\"prompt\":\"x\"}\n");
  f.put("system", "Be terse.\n");
  const auto usage = [](const json::Value& record) {
    const json::Value* u = record.find("usage");
    return std::pair(u->find("prompt_tokens")->integer_in(0, 1000).value(),
                     u->find("prompt_tokens_details")->find("cached_tokens")->integer_in(0, 1000).value());
  };
  std::string as_text, as_file;
  REQUIRE(f.run("in --system 'Be terse.' 2>/dev/null", &as_text) == 0);
  REQUIRE(f.run("in --system-file system 2>/dev/null", &as_file) == 0);
  const auto text = lines_of(as_text), file = lines_of(as_file);
  REQUIRE(text.size() == 2);
  REQUIRE(file.size() == 2);
  CHECK(usage(file[0]).first == usage(text[0]).first);
  CHECK(usage(text[0]).second == 0);
  // All of the prompt but its last token, which always runs again.
  CHECK(usage(text[1]).second == usage(text[1]).first - 1);
}
