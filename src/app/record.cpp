#include "src/app/record.h"

#include <sys/random.h>

#include <chrono>
#include <cmath>

#include "src/app/version.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

json::Value text(std::string_view s) { return json::Value(std::string(s)); }
json::Value integer(std::size_t n) { return json::Value(static_cast<std::int64_t>(n)); }
// Milliseconds and tenths of a token per second are enough; more digits would only look exact.
json::Value rounded(double v, double steps) { return json::Value(std::round(v * steps) / steps); }

json::Value number(float v) {
  // The decimal that the user or the checkpoint wrote, not the double nearest to its float.
  return json::parse(fmt::format("{}", v), "a number");
}

double rate(std::size_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

void add_token(json::Object& o, std::int32_t id, double logprob, const Tokenizer* tokenizer) {
  o.emplace_back("id", json::Value(std::int64_t{id}));
  if (tokenizer == nullptr) {
    o.emplace_back("token", json::Value());
    o.emplace_back("bytes", json::Value());
  } else {
    const std::string_view bytes = tokenizer->token_bytes(id);
    json::Array list;
    for (char c : bytes) list.emplace_back(std::int64_t{static_cast<unsigned char>(c)});
    o.emplace_back("token", json::Value(to_utf8(bytes)));
    o.emplace_back("bytes", json::Value(std::move(list)));
  }
  o.emplace_back("logprob", json::Value(logprob));
}

json::Value usage_value(const GenerationResult& r) {
  return json::Value(json::Object{
      {"prompt_tokens", integer(r.prompt_tokens)},
      {"completion_tokens", integer(r.ids.size())},
      {"total_tokens", integer(r.prompt_tokens + r.ids.size())},
      {"prompt_tokens_details", json::Value(json::Object{{"cached_tokens", integer(r.cached_tokens)}})},
      {"completion_tokens_details",
       json::Value(json::Object{{"reasoning_tokens", integer(r.reasoning_tokens)}})},
  });
}

json::Value fathom_value(const RunRecord& record) {
  const Engine& e = *record.engine;
  const GenerationResult& r = *record.result;
  const SamplingParams& p = record.request->sampling;
  return json::Value(json::Object{
      {"seed", json::Value(std::uint64_t{p.seed})},
      {"temperature", number(p.temperature)},
      {"top_p", number(p.top_p)},
      {"top_k", json::Value(std::int64_t{p.top_k})},
      {"min_p", number(p.min_p)},
      {"repeat_penalty", number(p.repeat_penalty)},
      {"presence_penalty", number(p.presence_penalty)},
      {"frequency_penalty", number(p.frequency_penalty)},
      {"context", json::Value(std::int64_t{e.context()})},
      {"numerics", json::Value(json::Object{
                       {"cache", text(name(e.numerics().cache))},
                       {"prompt_activations", text(name(e.numerics().prompt_activations))},
                       {"generated_activations", text(name(e.numerics().generated_activations))},
                   })},
      {"backend", text(e.backend())},
      {"placement", text(record.placement)},
      {"gpu", e.backend() == "cuda" ? text(record.placement) : json::Value()},
      {"load_s", rounded(e.load_seconds(), 1e3)},
      {"prefill_s", rounded(r.prefill_s, 1e3)},
      {"decode_s", rounded(r.decode_s, 1e3)},
      {"prefill_tps", rounded(rate(r.prompt_tokens - r.cached_tokens, r.prefill_s), 10)},
      {"decode_tps", rounded(rate(r.decode_steps, r.decode_s), 10)},
      {"fingerprint", text(e.checkpoint().fingerprint())},
      {"version", text(version_number())},
      {"commit", text(version_commit())},
  });
}

json::Object head(const RunRecord& record, std::string_view schema, std::string_view object) {
  return {{"schema", text(schema)},
          {"object", text(object)},
          {"id", text(record.id)},
          {"created", json::Value(std::int64_t{record.created})},
          {"model", text(record.model)}};
}

void add_outcome(json::Object& choice, const RunRecord& record) {
  const GenerationResult& r = *record.result;
  choice.emplace_back("finish_reason", text(name(r.finish_reason)));
  choice.emplace_back("ids", ids_value(r.ids));
  if (record.request->logprobs)
    choice.emplace_back("logprobs", json::Value(json::Object{
                                        {"content", logprobs_value(r.logprobs, record.engine->tokenizer())}}));
}

json::Value one(json::Object choice) {
  json::Array choices;
  choices.emplace_back(std::move(choice));
  return json::Value(std::move(choices));
}

}  // namespace

std::string new_run_id() {
  constexpr std::string_view kAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  const auto ms = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  std::string id = "run-";
  for (int shift = 45; shift >= 0; shift -= 5) id += kAlphabet[(ms >> shift) & 31];
  unsigned char random[16] = {};
  // Without random bytes the id is merely less unique.
  [[maybe_unused]] const ssize_t n = ::getrandom(random, sizeof random, 0);
  for (unsigned char c : random) id += kAlphabet[c & 31];
  return id;
}

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

json::Value ids_value(std::span<const std::int32_t> ids) {
  json::Array list;
  list.reserve(ids.size());
  for (std::int32_t id : ids) list.emplace_back(std::int64_t{id});
  return json::Value(std::move(list));
}

json::Value logprobs_value(const std::vector<TokenRecord>& records, const Tokenizer* tokenizer) {
  json::Array list;
  for (const TokenRecord& r : records) {
    json::Object o;
    add_token(o, r.id, r.logprob, tokenizer);
    json::Array top;
    for (const TokenLogprob& t : r.top) {
      json::Object alternative;
      add_token(alternative, t.id, t.logprob, tokenizer);
      top.emplace_back(std::move(alternative));
    }
    o.emplace_back("top_logprobs", json::Value(std::move(top)));
    list.emplace_back(std::move(o));
  }
  return json::Value(std::move(list));
}

json::Object run_object(const RunRecord& record) {
  const GenerationResult& r = *record.result;
  json::Object message{{"role", text("assistant")}, {"content", text(r.content)}};
  if (!r.reasoning.empty() && !record.hide_thinking) message.emplace_back("reasoning_content", text(r.reasoning));
  json::Object choice{{"index", integer(0)}, {"message", json::Value(std::move(message))}};
  add_outcome(choice, record);
  json::Object o = head(record, "fathom.run/1", "chat.completion");
  o.emplace_back("choices", one(std::move(choice)));
  o.emplace_back("usage", usage_value(r));
  o.emplace_back("fathom", fathom_value(record));
  return o;
}

std::string chunk_line(const RunRecord& record, std::string_view key, std::string_view delta) {
  json::Object o = head(record, "fathom.chunk/1", "chat.completion.chunk");
  o.emplace_back("choices", one({{"index", integer(0)},
                                 {"delta", json::Value(json::Object{{std::string(key), text(delta)}})}}));
  return json::dump(json::Value(std::move(o)));
}

std::string last_chunk_line(const RunRecord& record) {
  json::Object choice{{"index", integer(0)}, {"delta", json::Value(json::Object{})}};
  add_outcome(choice, record);
  json::Object o = head(record, "fathom.chunk/1", "chat.completion.chunk");
  o.emplace_back("choices", one(std::move(choice)));
  o.emplace_back("usage", usage_value(*record.result));
  o.emplace_back("fathom", fathom_value(record));
  return json::dump(json::Value(std::move(o)));
}

}  // namespace fathom
