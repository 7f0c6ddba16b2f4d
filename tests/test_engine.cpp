#include <doctest/doctest.h>

#include "src/base/error.h"
#include "src/engine/generate.h"
#include "src/engine/generation_config.h"
#include "src/engine/placement.h"
#include "src/engine/timeline.h"
#include "tests/support/errors.h"
#include "tests/support/scripted_model.h"

using namespace fathom;
using test::code_of;
using test::ScriptedForward;
using test::TableTokenizer;

namespace {

// id 0 ends the text; 1.. are the pieces.
struct Fixture {
  std::vector<std::string> pieces{"<eos>"};
  std::vector<std::int32_t> script;
  std::vector<std::int32_t> stops{0};
  std::vector<std::string> contents;  // deltas
  GenerationRequest request;
  std::int32_t capacity = 64;

  explicit Fixture(const std::vector<std::string>& says, bool ends = true) {
    for (const std::string& s : says) {
      script.push_back(static_cast<std::int32_t>(pieces.size()));
      pieces.push_back(s);
    }
    if (ends) script.push_back(0);
    request.prompt.ids = {1, 1, 1};
    request.prompt.chat = true;
    request.sampling.temperature = 0;
  }
  GenerationResult go(std::function<std::optional<FinishReason>()> poll = {}) {
    const TableTokenizer tokenizer(pieces, {0});
    ScriptedForward forward(static_cast<int>(pieces.size()), capacity, script);
    Timeline timeline(forward);
    GenerationEvents events;
    events.content = [&](std::string_view t) { contents.emplace_back(t); };
    events.poll = std::move(poll);
    return generate(timeline, {&tokenizer, stops, tokenizer.vocab_size()}, request, events);
  }
};

}  // namespace

TEST_CASE("timeline: the common prefix is kept and only the rest runs") {
  ScriptedForward forward(8, 2000, {1});
  Timeline t(forward);
  t.sync(std::vector<std::int32_t>{1, 2, 3, 4});
  CHECK(forward.rows.size() == 4);
  CHECK(forward.rows[3].position == 3);
  CHECK(forward.rows[3].role == Role::prompt);
  forward.rows.clear();
  t.append(5);
  CHECK(forward.rows[0].role == Role::generated);
  CHECK(forward.rows[0].position == 4);
  forward.rows.clear();
  t.sync(std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7});
  CHECK(forward.rows.size() == 2);
  CHECK(forward.rows[0].position == 5);
  forward.rows.clear();
  t.sync(std::vector<std::int32_t>{1, 2, 7});  // differs at 2: truncated there
  CHECK(forward.rows.size() == 1);
  CHECK(forward.rows[0].position == 2);
  CHECK(t.ids().size() == 3);
  forward.rows.clear();
  t.sync(std::vector<std::int32_t>{1, 2, 7});  // nothing new: the last row runs again for its logits
  CHECK(forward.rows.size() == 1);
  CHECK(forward.rows[0].position == 2);
  forward.rows.clear();
  t.sync(std::vector<std::int32_t>{1, 2});  // shorter than what is cached
  CHECK(forward.rows.size() == 1);
  CHECK(t.ids().size() == 2);
  // A long prompt goes in chunks and in order.
  forward.rows.clear();
  forward.calls = 0;
  std::vector<std::int32_t> longer(1500, 3);
  longer[0] = 1, longer[1] = 2;
  t.sync(longer);
  CHECK(forward.calls == 3);
  CHECK(forward.rows.size() == 1498);
  CHECK(forward.rows.back().position == 1499);
  CHECK(code_of([&] { t.sync(std::vector<std::int32_t>(2001, 1)); }) == Exit::context);
  CHECK(code_of([&] { t.sync({}); }) == Exit::usage);
}

TEST_CASE("generate: stops at end of text, which is listed but not printed") {
  Fixture f({"Par", "is", "."});
  const GenerationResult r = f.go();
  CHECK(r.content == "Paris.");
  CHECK(r.finish_reason == FinishReason::stop);
  CHECK(r.ids == std::vector<std::int32_t>{1, 2, 3, 0});
  CHECK(r.prompt_tokens == 3);
  CHECK(r.decode_steps == 3);
}

TEST_CASE("generate: lengths, budgets and the context") {
  Fixture f({"a", "b", "c", "d"});
  f.request.max_tokens = 2;
  GenerationResult r = f.go();
  CHECK(r.content == "ab");
  CHECK(r.finish_reason == FinishReason::length);
  f.request.max_tokens.reset();
  f.capacity = 6;  // 3 of prompt, 3 of answer
  r = f.go();
  CHECK(r.content == "abc");
  CHECK(r.finish_reason == FinishReason::length);
  f.capacity = 4;  // ctx - 1 prompt tokens: exactly one is generated
  CHECK(f.go().ids.size() == 1);
  f.capacity = 3;
  CHECK(code_of([&] { f.go(); }) == Exit::context);
  f.capacity = 2;
  CHECK(code_of([&] { f.go(); }) == Exit::context);
  Fixture forever({"x"}, false);
  forever.request.ignore_eos = true;
  CHECK(forever.go().ids.size() == 61);
  Fixture ignored({"a"});
  ignored.request.ignore_eos = true;
  ignored.request.max_tokens = 5;
  r = ignored.go();
  CHECK(r.ids == std::vector<std::int32_t>{1, 0, 0, 0, 0});
  CHECK(r.content == "a");  // control tokens have no text
}

TEST_CASE("generate: stop strings end the content, over tokens and when they overlap themselves") {
  Fixture f({"one ", "EN", "D two"});
  f.request.stop = {"END"};
  GenerationResult r = f.go();
  CHECK(r.content == "one ");
  CHECK(r.finish_reason == FinishReason::stop_string);
  CHECK(r.ids.size() == 3);
  // "EN" may begin END, so it is not shown before it is certain.
  Fixture g({"one EN", "ough"});
  g.request.stop = {"END"};
  r = g.go();
  CHECK(r.content == "one ENough");
  CHECK(g.contents == std::vector<std::string>{"one ", "ENough"});
  Fixture h({"aab", "a", "aaa", "b"});
  h.request.stop = {"aaab", "zz"};
  r = h.go();
  CHECK(r.content == "aaba");
  CHECK(r.finish_reason == FinishReason::stop_string);
  // Held text at the end is part of the answer.
  Fixture tail({"x", "E"});
  tail.request.stop = {"END"};
  CHECK(tail.go().content == "xE");
  // The first to occur counts, not the first in the list.
  Fixture both({"1,2;3"});
  both.request.stop = {";", ","};
  CHECK(both.go().content == "1");
}

TEST_CASE("generate: stop filter gives the same text for every split") {
  const std::string text = "ababcababcabcd";
  for (std::size_t a = 0; a <= text.size(); ++a)
    for (std::size_t b = a; b <= text.size(); ++b) {
      StopFilter filter({"abcabcd", "abcx"});
      std::string out = filter.feed(text.substr(0, a));
      out += filter.feed(text.substr(a, b - a));
      out += filter.feed(text.substr(b));
      out += filter.finish();
      CHECK(out == "ababcab");
      CHECK(filter.found());
    }
}

// Found by fuzzing: "abcd" given whole ended before it, given by bytes behind its "a".
TEST_CASE("generate: the stop string that is complete first counts, however the text is cut") {
  for (const std::size_t step : {1, 2, 3, 4, 100}) {
    const std::string text = "xabcdx";
    StopFilter filter({"abcd", "bc", "c"});
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += step) out += filter.feed(text.substr(at, step));
    out += filter.finish();
    CHECK(out == "xa");
    CHECK(filter.found());
  }
}

TEST_CASE("generate: characters split over tokens arrive whole") {
  Fixture f({"\xF0\x9F", "\x91", "\x8D!", "\xE6\x97"});
  const GenerationResult r = f.go();
  CHECK(r.content == "\U0001F44D!\uFFFD");
  CHECK(f.contents == std::vector<std::string>{"\U0001F44D!", "\uFFFD"});
}

TEST_CASE("generate: chat drops newlines before the content, plain text keeps them") {
  Fixture f({"\n", "\n\nHi", "\n"});
  CHECK(f.go().content == "Hi\n");
  f.request.prompt.chat = false;
  CHECK(f.go().content == "\n\n\nHi\n");
}

TEST_CASE("generate: thinking is parted, counted and closed by its budget") {
  // ids: 1 <think>, 2 </think>, 3 "so", 4 "4"
  const TableTokenizer tokenizer({"<eos>", "<think>", "</think>", "so", "4"}, {0, 1, 2});
  GenerationRequest request;
  request.prompt.ids = {3};
  request.prompt.chat = true;
  request.sampling.temperature = 0;
  request.prompt.markers = find_think_markers(tokenizer, "");
  request.prompt.tail = "<think>\n";
  REQUIRE(request.prompt.markers.known);
  const std::vector<std::int32_t> stops{0};
  const auto go = [&](std::vector<std::int32_t> script) {
    ScriptedForward forward(5, 64, std::move(script));
    Timeline timeline(forward);
    return generate(timeline, {&tokenizer, stops, 5}, request, {});
  };
  GenerationResult r = go({3, 3, 2, 4, 0});
  CHECK(r.reasoning == "soso");
  CHECK(r.content == "4");
  CHECK(r.reasoning_tokens == 3);
  // The script would think on; after two tokens the end marker is put in its place, then the model goes on.
  request.think_budget = 2;
  r = go({3, 3, 3, 4, 0});
  CHECK(r.ids == std::vector<std::int32_t>{3, 3, 2, 4, 0});
  CHECK(r.reasoning == "soso");
  CHECK(r.content == "4");
  request.think_budget = 0;
  r = go({3, 4, 0});
  CHECK(r.ids == std::vector<std::int32_t>{2, 4, 0});
  CHECK(r.reasoning.empty());
  request.think_budget.reset();
  // A stop string does not act on the thinking.
  request.stop = {"so"};
  CHECK(go({3, 2, 4, 0}).content == "4");
  CHECK(go({3, 2, 4, 3, 0}).finish_reason == FinishReason::stop_string);
  // Without a split the markers are no text, but the rest is all content.
  request.stop.clear();
  request.prompt.chat = false;
  CHECK(go({3, 2, 4, 0}).content == "so4");
}

TEST_CASE("generate: interruption and timeout keep what was said") {
  Fixture f({"a", "b", "c"});
  int polls = 0;
  GenerationResult r = f.go([&]() -> std::optional<FinishReason> {
    return ++polls == 3 ? std::optional(FinishReason::timeout) : std::nullopt;
  });
  CHECK(r.finish_reason == FinishReason::timeout);
  CHECK(r.content == "ab");
  r = f.go([]() -> std::optional<FinishReason> { return FinishReason::interrupted; });
  CHECK(r.finish_reason == FinishReason::interrupted);
  CHECK(r.ids.empty());
}

TEST_CASE("generate: a forward pass stopped in the middle ends with the poll's reason") {
  Fixture f({"a"});
  const TableTokenizer tokenizer(f.pieces, {0});
  ScriptedForward forward(2, 64, f.script);
  forward.stop_requested = [] { return true; };
  Timeline timeline(forward);
  GenerationEvents events;
  events.poll = []() -> std::optional<FinishReason> { return FinishReason::timeout; };
  const GenerationResult r = generate(timeline, {&tokenizer, f.stops, 2}, f.request, events);
  CHECK(r.finish_reason == FinishReason::timeout);
  CHECK(r.prompt_tokens == 3);
}

TEST_CASE("generate: nothing is emitted from NaN") {
  Fixture f({"a", "b"});
  const TableTokenizer tokenizer(f.pieces, {0});
  ScriptedForward forward(3, 64, f.script);
  forward.nan_at_step = 1;
  Timeline timeline(forward);
  std::string said;
  GenerationEvents events;
  events.content = [&](std::string_view t) { said += t; };
  CHECK(code_of([&] { generate(timeline, {&tokenizer, f.stops, 3}, f.request, events); }) == Exit::compute);
  CHECK(said == "a");
}

TEST_CASE("generate: log-probabilities are listed for every id, the last too") {
  Fixture f({"a", "b"});
  f.request.logprobs = 2;
  const GenerationResult r = f.go();
  REQUIRE(r.logprobs.size() == 3);
  CHECK(r.logprobs[2].id == 0);
  CHECK(r.logprobs[0].top.size() == 2);
  CHECK(r.logprobs[0].top[0].id == 1);
  CHECK(r.logprobs[0].logprob == doctest::Approx(0).epsilon(1e-6));
}

TEST_CASE("generation config: values, lists and refusals") {
  const auto parse = [](std::string_view text) { return parse_generation_config(text, "generation_config.json", 100); };
  GenerationConfig g = parse(R"({"do_sample":true,"temperature":0.6,"top_p":0.95,"eos_token_id":[1,2],"x":[]})");
  CHECK(g.eos_token_ids == std::vector<std::int32_t>{1, 2});
  CHECK(default_sampling(g).temperature == 0.6f);
  CHECK(default_sampling(g).top_p == 0.95f);
  g = parse(R"({"eos_token_id":7,"temperature":0.3,"top_k":40,"repetition_penalty":1.1})");
  CHECK(g.eos_token_ids == std::vector<std::int32_t>{7});
  CHECK(default_sampling(g).top_p == 1.0f);
  CHECK(default_sampling(g).top_k == 40);
  CHECK(default_sampling(g).repeat_penalty == 1.1f);
  CHECK(default_sampling(parse(R"({"do_sample":false,"temperature":0.3})")).temperature == 0.0f);
  CHECK(default_sampling(parse("{}")).temperature == 0.6f);
  for (const char* bad :
       {R"({"temperature":-1})", R"({"temperature":"hot"})", R"({"temperature":1e999})", R"({"eos_token_id":100})",
        R"({"eos_token_id":-1})", R"({"eos_token_id":"1"})", R"({"eos_token_id":[1,100]})", R"({"bos_token_id":1.0})",
        R"({"top_p":1.5})", R"({"top_k":-1})", R"({"do_sample":1})", "[]", "", R"({"top_k":1,"top_k":1})"})
    CHECK_MESSAGE(code_of([&] { parse(bad); }) == Exit::bad_checkpoint, bad);
}

TEST_CASE("stop ids: the union of all sources, with the family's end-of-turn markers") {
  Config c;
  c.eos_token_ids = {5};
  GenerationConfig g;
  g.eos_token_ids = {3, 5};
  CHECK(stop_ids(g, c, nullptr) == std::vector<std::int32_t>{3, 5});
  const TableTokenizer t({"a", "<|im_end|>", "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"}, {1, 2});
  CHECK(stop_ids(g, c, &t) == std::vector<std::int32_t>{1, 2, 3, 5});
}

TEST_CASE("plan: the context is what the model, the memory and the default allow") {
  Config c;
  c.kv_lora_rank = 512;
  c.qk_rope_head_dim = 64;
  c.num_hidden_layers = 61;
  c.max_position_embeddings = 163840;
  const std::uint64_t row = 576 * 2 * 61;
  CHECK(plan_cpu(c, CacheType::bf16, {}, {}).context == 32768);
  CHECK(plan_cpu(c, CacheType::bf16, {}, 64ull << 30).context == 32768);
  CHECK(plan_cpu(c, CacheType::bf16, {}, (256u << 20) + row * 1000).context == 1000);
  CHECK(plan_cpu(c, CacheType::f32, {}, (256u << 20) + row * 1000).context == 500);
  CHECK(plan_cpu(c, CacheType::bf16, 163840, 64ull << 30).cache_bytes == row * 163840);
  CHECK(code_of([&] { plan_cpu(c, CacheType::bf16, 163841, {}); }) == Exit::usage);
  CHECK(code_of([&] { plan_cpu(c, CacheType::bf16, 1001, (256u << 20) + row * 1000); }) == Exit::out_of_memory);
  CHECK(code_of([&] { plan_cpu(c, CacheType::bf16, {}, 1000); }) == Exit::out_of_memory);
  CHECK(code_of([&] { plan_cpu(c, CacheType::fp8, {}, {}); }) == Exit::unsupported);
  c.max_position_embeddings = 100;
  CHECK(plan_cpu(c, CacheType::bf16, {}, {}).context == 100);
}
