#include "src/engine/generate.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "src/base/error.h"
#include "src/engine/channels.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The most tokens that may be generated. The context holds prompt and answer; nothing but room ends the default.
std::size_t token_limit(const GenerationRequest& request, std::int32_t capacity) {
  const std::size_t room = static_cast<std::size_t>(capacity);
  if (request.prompt.ids.size() >= room)
    throw Error(Exit::context,
                fmt::format("the prompt has {} tokens and the context {}: no room for an answer", request.prompt.ids.size(),
                            capacity),
                "shorten the prompt or give a larger --ctx");
  const std::size_t left = room - request.prompt.ids.size();
  const std::int64_t wanted = request.max_tokens.value_or(std::numeric_limits<std::int64_t>::max());
  return std::min(left, static_cast<std::size_t>(wanted));
}

// The next token, drawn or forced; an error over NaN names the stage that it came from.
Drawn next_token(Timeline& timeline, const TextModel& model, const GenerationRequest& request,
                 std::span<const std::int32_t> history, std::optional<std::int32_t> forced) {
  if (forced) {
    if (!request.logprobs) return {*forced, 0, {}};
    const std::span<const float> logits = timeline.logits();
    return {*forced, log_probability(logits, model.valid_ids, *forced),
            top_logprobs(logits, model.valid_ids, *request.logprobs)};
  }
  try {
    return timeline.draw(request.sampling, model.valid_ids, history, request.logprobs);
  } catch (const Error& e) {
    if (e.code() != Exit::compute) throw;
    const std::string stage = timeline.first_bad_stage();
    if (stage.empty()) throw;
    throw Error(e.code(), fmt::format("{}; the first bad value is written by {}", e.what(), stage), e.remedy());
  }
}

}  // namespace

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::stop_string: return "stop_string";
    case FinishReason::interrupted: return "interrupted";
    case FinishReason::timeout: return "timeout";
    case FinishReason::error: return "error";
  }
  return "error";
}

// -- StopFilter -----------------------------------------------------------------------------------------------------

std::string StopFilter::feed(std::string_view text) {
  if (found_) return {};
  held_ += text;
  // The one that is complete first, so that the answer does not depend on how the text was cut into pieces.
  std::size_t begin = held_.npos, end = held_.npos;
  for (const std::string& s : stops_) {
    const std::size_t at = held_.find(s);
    if (at == held_.npos || std::pair(at + s.size(), at) >= std::pair(end, begin)) continue;
    begin = at;
    end = at + s.size();
  }
  if (begin != held_.npos) {
    found_ = true;
    std::string before = held_.substr(0, begin);
    held_.clear();
    return before;
  }
  // The longest end of the text that begins some stop string may still become one.
  std::size_t keep = 0;
  for (const std::string& s : stops_)
    for (std::size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n)
      if (held_.ends_with(std::string_view(s).substr(0, n))) keep = n;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopFilter::finish() {
  std::string rest = std::move(held_);
  held_.clear();
  return found_ ? std::string() : rest;
}

// -- the loop -------------------------------------------------------------------------------------------------------

GenerationResult generate(Timeline& timeline, const TextModel& model, const GenerationRequest& request,
                          const GenerationEvents& events) {
  const std::size_t limit = token_limit(request, timeline.capacity());
  GenerationResult result;
  result.prompt_tokens = request.prompt.ids.size();
  Channels channels(model.tokenizer, request, events, result);

  const auto poll = [&]() -> std::optional<FinishReason> { return events.poll ? events.poll() : std::nullopt; };
  // A forward pass that was stopped in the middle says Error(interrupted); the poll knows why.
  const auto stoppable = [&](auto&& pass) -> std::optional<FinishReason> {
    try {
      pass();
      return std::nullopt;
    } catch (const Error& e) {
      if (e.code() != Exit::interrupted) throw;
      return poll().value_or(FinishReason::interrupted);
    }
  };
  const auto finish = [&](FinishReason reason) {
    channels.finish();
    result.finish_reason = channels.stop_string_found() ? FinishReason::stop_string : reason;
    return std::move(result);
  };

  result.cached_tokens = timeline.common_prefix(request.prompt.ids);
  auto begin = Clock::now();
  const auto in_prefill = stoppable([&] {
    timeline.sync_to_draw(request.prompt.ids, [&](std::size_t done) {
      if (events.prefill) events.prefill(done, request.prompt.ids.size());
    });
  });
  result.prefill_s = seconds_since(begin);
  if (in_prefill) return finish(*in_prefill);

  begin = Clock::now();
  std::vector<std::int32_t> history = request.prompt.ids;
  for (;;) {
    if (const auto reason = poll()) return finish(*reason);
    const auto forced = channels.forced_id();
    Drawn next = next_token(timeline, model, request, history, forced);
    const std::int32_t id = next.id;
    // A pass that keeps its logits has ended its step only now.
    if (result.decode_steps > 0) result.decode_s = seconds_since(begin);
    if (request.logprobs) result.logprobs.push_back({id, next.logprob, std::move(next.top)});
    result.ids.push_back(id);
    history.push_back(id);
    const bool ends = !forced && !request.ignore_eos &&
                      std::binary_search(model.stop_ids.begin(), model.stop_ids.end(), id);
    if (!ends) channels.feed(id);
    if (events.step) events.step(result.ids.size(), channels.in_thinking());
    if (ends) return finish(FinishReason::stop);
    if (channels.stop_string_found()) return finish(FinishReason::stop_string);
    if (result.ids.size() == limit) return finish(FinishReason::length);
    const auto in_step = stoppable([&] { timeline.append_to_draw(id); });
    result.decode_s = seconds_since(begin);
    if (in_step) return finish(*in_step);
    ++result.decode_steps;
  }
}

}  // namespace fathom
