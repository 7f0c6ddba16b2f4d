// The other commands, and runs of the built-in model as a shell sees them.
#include <doctest/doctest.h>

#include <filesystem>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/subprocess.h"

using namespace fathom;
using test::Outcome;
using test::Process;
using test::run;
using test::shell;

namespace {

json::Value parsed(const std::string& text) { return json::parse(text, "output", Exit::failure); }
bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

const json::Value& choice(const json::Value& v) { return v.find("choices")->as_array()[0]; }
std::string content_of(const json::Value& v) { return choice(v).find("message")->find("content")->as_string(); }

std::string with_one_newline(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  return text + "\n";
}

Process minnow(std::vector<std::string> more, std::optional<std::string> input = {}) {
  Process p;
  p.args = {"run", "-m", "models/minnow", "--greedy"};
  p.args.insert(p.args.end(), more.begin(), more.end());
  p.input = std::move(input);
  return p;
}

}  // namespace

TEST_CASE("commands: redirected output is the content and one newline, whatever is shown of the thinking") {
  const std::string question = "What is 7 + 8?";
  const Outcome object = run(minnow({"--json", question}));
  REQUIRE(object.code == 0);
  const json::Value v = parsed(object.out);
  CHECK(content_of(v) == "15");
  CHECK(choice(v).find("finish_reason")->as_string() == "stop");
  CHECK_FALSE(choice(v).find("message")->find("reasoning_content")->as_string().empty());
  CHECK(*v.find("usage")->find("completion_tokens_details")->find("reasoning_tokens")->integer_in(0, 1000) > 0);
  const std::string expected = with_one_newline(content_of(v));
  for (const char* mode : {"auto", "full", "summary", "hidden"})
    for (const char* stream : {"--no-stream", "--greedy"}) {
      const Outcome r = run(minnow({fmt::format("--show-thinking={}", mode), stream, question}));
      CHECK(r.out == expected);
      // Only `full` shows the thinking, and it goes to stderr.
      CHECK(r.err.empty() == (std::string_view(mode) != "full"));
    }
  // Standard input alone, and standard input before the prompt.
  CHECK(run(minnow({}, question + "\n")).out == expected);
  CHECK(run(minnow({"8?"}, "What is 7 +")).code == 0);
  CHECK(run(minnow({"--hide-thinking", "--json", question})).out.find("reasoning_content") == std::string::npos);
  // A line per flush; the deltas add up to the content.
  const Outcome lines = run(minnow({"--jsonl", question}));
  std::string content, reasoning;
  for (std::size_t i = 0, end; i < lines.out.size(); i = end + 1) {
    end = lines.out.find('\n', i);
    const json::Value line = parsed(lines.out.substr(i, end - i));
    const json::Value* delta = choice(line).find("delta");
    if (const json::Value* c = delta->find("content")) content += c->as_string();
    if (const json::Value* c = delta->find("reasoning_content")) reasoning += c->as_string();
  }
  CHECK(content == content_of(v));
  CHECK(reasoning == choice(v).find("message")->find("reasoning_content")->as_string());
}

TEST_CASE("commands: the built-in model says once that it answers") {
  Process p;
  p.args = {"run", "--greedy", "-n", "2", "hi"};
  const Outcome r = run(p);
  CHECK(r.code == 0);
  CHECK(contains(r.err, "Minnow"));
  p.args.insert(p.args.begin() + 1, "-q");
  CHECK(run(p).err.empty());
}

TEST_CASE("commands: thinking can be declined and bounded") {
  const json::Value none = parsed(run(minnow({"--no-think", "--json", "-n", "8", "What is 7 + 8?"})).out);
  CHECK(none.find("usage")->find("completion_tokens_details")->find("reasoning_tokens")->integer_in(0, 0));
  const json::Value bounded = parsed(run(minnow({"--think-budget", "3", "--json", "-n", "12", "What is 7 + 8?"})).out);
  const auto tokens = bounded.find("usage")->find("completion_tokens_details")->find("reasoning_tokens");
  CHECK(tokens->integer_in(3, 4));
  CHECK(run({"run", "-m", "models/minnow", "--no-think", "--template", "deepseek-r1", "-n", "1", "hi"}).code == 5);
  CHECK(run({"run", "-m", "models/minnow", "--template", "nonsense", "hi"}).code == 2);
}

TEST_CASE("commands: messages, and an answer that is continued") {
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("m.json", R"([{"role":"user","content":"What is 7 + 8?"}])");
  CHECK(run(minnow({"--messages", file})).out == run(minnow({"What is 7 + 8?"})).out);
  const std::string prefix = dir.file(
      "p.json", R"([{"role":"user","content":"What is 7 + 8?"},{"role":"assistant","content":"1"}])");
  CHECK(run(minnow({"--messages", prefix, "-n", "2"})).code == 0);
}

TEST_CASE("commands: tokenize") {
  const auto tok = [](std::vector<std::string> more, std::optional<std::string> input = {}) {
    Process p;
    p.args = {"tokenize", "-m", "models/minnow"};
    p.args.insert(p.args.end(), more.begin(), more.end());
    p.input = std::move(input);
    return run(p);
  };
  const Outcome ids = tok({"Hello world"});
  CHECK(ids.code == 0);
  CHECK(tok({}, "Hello world").out == ids.out);
  const json::Value v = parsed(tok({"--format", "json", "Hello world"}).out);
  CHECK(tok({"--format", "count", "Hello world"}).out == fmt::format("{}\n", v.find("ids")->as_array().size()));
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("t.jsonl", "{\"text\":\"Hello world\"}\r\n\n{\"text\":\"\"}\n");
  CHECK(tok({"--input", file}).out == fmt::format("{{\"ids\":[{}]}}\n{{\"ids\":[]}}\n", ids.out.substr(0, ids.out.size() - 1)));
  // A control token in text is text, unless --special lets it match.
  const Outcome plain = tok({"--format", "count", "</think>"}), special = tok({"--format", "count", "--special", "</think>"});
  CHECK(special.out == "1\n");
  CHECK(plain.out != "1\n");
  CHECK(tok({"--input", dir.file("bad", "{\"text\":1}\n")}).code == 2);
  CHECK(run({"tokenize", "-m", "tests/goldens/v3", "x"}).code == 3);
}

TEST_CASE("commands: inspect and verify") {
  const json::Value v = parsed(run({"inspect", "tests/goldens/v3", "--json", "--tensors"}).out);
  CHECK(v.find("schema")->as_string() == "fathom.inspect/1");
  CHECK(v.find("config")->find("kv_lora_rank")->integer_in(128, 128));
  CHECK(v.find("fingerprint")->as_string().size() == 64);
  CHECK(v.find("tensors")->as_array().size() > 50);
  CHECK(contains(run({"inspect", "tests/goldens/v3"}).out, "kv_lora_rank 128"));
  CHECK(run({"verify", "tests/goldens/v3"}).code == 0);
  CHECK(run({"verify", "tests/goldens/v3", "--values"}).code == 0);
  CHECK(parsed(run({"verify", "tests/goldens/v3", "--quick", "--json"}).out).find("ok")->as_bool());
  CHECK(run({"verify", "tests/goldens/v3", "--hash"}).code == 5);  // nobody vouches for it

  const test::TemporaryDirectory dir;
  const std::string copy = dir.path() + "/copy";
  std::filesystem::copy("tests/goldens/v3", copy);
  const std::string shard = copy + "/model-00002-of-000002.safetensors";
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 1);
  for (const char* command : {"verify", "inspect"}) {
    const Outcome r = run({command, copy});
    CHECK(r.code == 4);
    CHECK(contains(r.err, "model-00002-of-000002.safetensors"));
  }
  const Outcome json = run({"verify", copy, "--json"});
  CHECK(parsed(json.out).find("error")->find("code")->integer_in(4, 4));
  CHECK(run({"verify", "/nonexistent"}).code == 3);
}

TEST_CASE("commands: verify tells in JSON what it has found, also where it fails") {
  const test::TemporaryDirectory dir;
  std::filesystem::copy("tests/goldens/v2-lite", dir.path(), std::filesystem::copy_options::recursive);
  dir.file("SHA256SUMS", std::string(64, '0') + "  model.safetensors\n");
  const Outcome r = run({"verify", dir.path(), "--hash", "--json"});
  CHECK(r.code == 4);
  CHECK(contains(r.err, "expected SHA-256 0000"));
  const json::Value v = parsed(r.out);
  CHECK(v.find("schema")->as_string() == "fathom.verify/1");
  CHECK_FALSE(v.find("ok")->as_bool());
  CHECK(v.find("error")->find("name")->as_string() == "bad-checkpoint");
  bool found = false;
  for (const json::Value& f : v.find("files")->as_array())
    if (f.find("file")->as_string() == "model.safetensors") found = f.find("sha256")->as_string().size() == 64;
  CHECK(found);
}

TEST_CASE("commands: flags that this model or machine cannot honour are refused") {
  CHECK(run({"run", "-m", "models/minnow", "--backend", "cpu", "--experts", "gpu", "hi"}).code == 2);
  const Outcome stop = run({"run", "-m", "tests/goldens/v3", "--ids", "1,2", "--stop", "x"});
  CHECK(stop.code == 2);
  CHECK(contains(stop.err, "--stop needs a tokenizer"));
}

TEST_CASE("commands: inspect --plan says where a model goes here and what its speed can be at most") {
  const Outcome text = run({"inspect", "models/minnow", "--plan"});
  CHECK(text.code == 0);
  CHECK(contains(text.out, "\n  plan         cpu: weights 0.02 GiB mapped + cache 0.03 GiB (4096 positions)"));
  CHECK(contains(text.out, "\n  prediction   decode at most "));
  const json::Value v = parsed(run({"inspect", "models/minnow", "--plan", "--json"}).out);
  const json::Value* plan = v.find("plan");
  REQUIRE(plan != nullptr);
  CHECK(plan->find("fits")->as_bool());
  CHECK(plan->find("backend")->as_string() == "cpu");
  CHECK(plan->find("context")->integer_in(4096, 4096));
  const json::Value small = parsed(run({"inspect", "models/minnow", "--plan", "--ctx", "128", "--json"}).out);
  CHECK(small.find("plan")->find("context")->integer_in(128, 128));
  CHECK(run({"inspect", "models/minnow", "--plan", "--ctx", "4097"}).code == 2);
  CHECK(plan->find("cache_bytes")->integer_in(4096 * 6 * 576 * 2, 4096 * 6 * 576 * 2));  // positions, layers, values, BF16
  const double most = plan->find("decode_tps_at_most")->as_number(), full = plan->find("decode_tps_at_most_full_context")->as_number();
  CHECK(full > 0);
  // The cache adds 28.3 MB to the 9.8 MB of weights.
  CHECK(most / full == doctest::Approx((9'808'616.0 + 28'311'552) / 9'808'616).epsilon(0.01));
  CHECK(parsed(run({"inspect", "models/minnow", "--json"}).out).find("plan") == nullptr);
  // What does not run here is the answer, not a failure.
  const Outcome none = run({"inspect", "models/minnow", "--plan", "--backend", "cuda", "--gpus", "99"});
  CHECK(none.code == 0);
  CHECK(contains(none.out, "plan         does not run here: --gpus 99"));
}

TEST_CASE("commands: quantize writes a checkpoint that runs, and refuses what is FP8") {
  const test::TemporaryDirectory dir;
  const std::string out = dir.path() + "/fp8";
  REQUIRE(run({"quantize", "tests/goldens/v2-lite", out}).code == 0);
  CHECK(run({"verify", out, "--values"}).code == 0);
  CHECK(parsed(run({"inspect", out, "--json"}).out).find("config")->find("fp8")->as_bool());
  CHECK(run({"run", "-m", out, "--ids", "1,2,3", "-n", "3", "--greedy"}).code == 0);
  CHECK(run({"quantize", "tests/goldens/v3", dir.path() + "/again"}).code == 5);
  CHECK(run({"quantize", "tests/goldens/v2-lite", out}).code == 2);  // not empty
  CHECK(run({"quantize", "tests/goldens/v2-lite"}).code == 2);
}

TEST_CASE("commands: eval scores ids as run does") {
  const json::Value v = parsed(run({"run", "-m", "tests/goldens/v3", "--ids", "1,2,3", "-n", "4", "--greedy", "--ignore-eos",
                                    "--json", "--logprobs", "1"}).out);
  std::vector<std::int64_t> ids{1, 2, 3};
  for (const json::Value& id : choice(v).find("ids")->as_array()) ids.push_back(*id.integer_in(0, 1000));
  const test::TemporaryDirectory dir;
  const std::string file = dir.file("ids.jsonl", fmt::format("{{\"ids\":[{}]}}\n", fmt::join(ids, ",")));
  const json::Value scored = parsed(run({"eval", "-m", "tests/goldens/v3", "--ids", file}).out);
  const json::Array& logprobs = scored.find("logprobs")->as_array();
  REQUIRE(logprobs.size() == 7);
  CHECK(logprobs[0].is_null());
  const json::Array& content = choice(v).find("logprobs")->find("content")->as_array();
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(logprobs[3 + i].as_number() == doctest::Approx(content[i].find("logprob")->as_number()).epsilon(1e-6));
  CHECK(run({"eval", "-m", "tests/goldens/v3", "--ids", dir.file("bad", "{\"ids\":[160]}")}).code == 2);
  CHECK(run({"eval", "-m", "tests/goldens/v3"}).code == 2);
}

TEST_CASE("commands: eval measures perplexity and asks questions") {
  const test::TemporaryDirectory dir;
  const std::string text = dir.file("t.txt", "What is 7 + 8? What is 7 + 8? What is 7 + 8?");
  const json::Value v = parsed(run({"eval", "-m", "models/minnow", "--json", text}).out);
  CHECK(v.find("perplexity")->as_number() > 1);
  CHECK(*v.find("predicted")->integer_in(1, 1000) == *v.find("tokens")->integer_in(1, 1000) - 1);
  const std::string questions = dir.file(
      "q.jsonl",
      "{\"messages\":[{\"role\":\"user\",\"content\":\"What is 7 + 8?\"}],\"answer\":\"15\",\"task\":\"add\"}\n"
      "{\"messages\":[{\"role\":\"user\",\"content\":\"What is 7 + 8?\"}],\"answer\":\"16\",\"task\":\"wrong\"}\n");
  const json::Value q = parsed(run({"eval", "-m", "models/minnow", "--questions", questions, "--json"}).out);
  CHECK(q.find("overall")->find("accuracy")->as_number() == 0.5);
  CHECK(q.find("tasks")->find("add")->find("right")->integer_in(1, 1));
  CHECK(q.find("tasks")->find("wrong")->find("right")->integer_in(0, 0));
  CHECK(contains(run({"eval", "-m", "models/minnow", "--questions", questions}).out, "overall"));
}

TEST_CASE("commands: models are found in the Hugging Face cache, by revision and by alias") {
  const test::TemporaryDirectory dir;
  const std::string repository = dir.path() + "/models--org--tiny", commit = "0123456789abcdef0123456789abcdef01234567";
  std::filesystem::create_directories(repository + "/snapshots");
  std::filesystem::create_directories(repository + "/refs");
  std::filesystem::copy("tests/goldens/v3", repository + "/snapshots/" + commit);
  dir.file("models--org--tiny/refs/main", commit);
  const std::string config = dir.file("config.toml", "[aliases]\ntiny = \"org/tiny\"\n");
  const auto go = [&](std::vector<std::string> args) {
    Process p;
    p.args = std::move(args);
    p.variables = {{"HF_HUB_CACHE", dir.path()}};
    return run(p);
  };
  const json::Value v = parsed(go({"models", "--json"}).out);
  REQUIRE(v.find("models")->as_array().size() == 1);
  CHECK(v.find("models")->as_array()[0].find("name")->as_string() == "org/tiny");
  CHECK(v.find("models")->as_array()[0].find("complete")->as_bool());
  CHECK(v.find("models")->as_array()[0].find("fits")->as_bool());
  CHECK(contains(go({"models"}).out, "complete, fits\n"));
  // Downloaded by commit: nothing says which one `main` is, and -m needs the commit.
  std::filesystem::rename(repository + "/refs/main", repository + "/refs/v1");
  CHECK(go({"models"}).out.starts_with("org/tiny@0123456  "));
  CHECK(go({"inspect", "org/tiny"}).code == 3);
  std::filesystem::rename(repository + "/refs/v1", repository + "/refs/main");
  const std::string broken = dir.path() + "/models--org--empty/snapshots/89abcdef";
  std::filesystem::create_directories(broken);
  CHECK(contains(go({"models"}).out, "not-found: no config.json\n"));
  std::filesystem::remove_all(dir.path() + "/models--org--empty");
  CHECK(go({"inspect", "org/tiny"}).code == 0);
  CHECK(go({"inspect", "org/tiny@0123456"}).code == 0);
  CHECK(go({"inspect", "org/tiny@main"}).code == 0);
  CHECK(go({"inspect", "org/tiny@v2"}).code == 3);
  CHECK(go({"inspect", "--config", config, "tiny"}).code == 0);
  const Outcome no_tag = go({"inspect", "org/tiny@v2"});
  CHECK(contains(no_tag.err, "It holds org/tiny@0123456\nTo download:  hf download org/tiny --revision v2"));
  CHECK(contains(go({"inspect", "Tiny"}).err, "did you mean org/tiny?"));
  CHECK(contains(go({"inspect", "minnow"}).err, "the built-in Minnow answers without -m"));
  const Outcome near = go({"inspect", "org/tinny"});
  CHECK(near.code == 3);
  CHECK(contains(near.err, "did you mean org/tiny?"));
  CHECK(contains(near.err, "hf download org/tinny"));
  CHECK(go({"inspect", "../../etc"}).code == 3);
}

TEST_CASE("commands: bench reports speeds at each depth") {
  const json::Value v = parsed(run({"bench", "-m", "tests/goldens/v3", "--backend", "cpu", "--ctx", "200", "--json"}).out);
  REQUIRE(v.find("depths") != nullptr);
  REQUIRE(v.find("depths")->as_array().size() == 1);
  CHECK(v.find("depths")->as_array()[0].find("decode_tps")->as_number() > 0);
  CHECK(v.find("read_gb_per_s")->as_number() > 0);
  CHECK(run({"bench", "-m", "tests/goldens/v3", "--backend", "cpu", "--ctx", "50"}).code == 7);
  const std::string csv = run({"bench", "-m", "tests/goldens/v3", "--backend", "cpu", "--ctx", "200", "--csv"}).out;
  CHECK(csv.starts_with("context,prefill_tps,"));
  CHECK(contains(csv, "\n128,"));
  CHECK(run({"bench", "-m", "tests/goldens/v3", "--backend", "cpu", "--csv", "--json"}).code == 2);
  const auto nowhere = run({"bench", "-m", "tests/goldens/v3", "--backend", "cpu", "--experts", "gpu"});
  CHECK(nowhere.code == 2);
  CHECK(contains(nowhere.err, "--experts gpu"));
  CHECK(run({"bench", "--random-weights", "/nonexistent"}).code == 3);
}
