// The generation loop: prompt in, text out, token by token, with everything that can end it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/prompt.h"
#include "src/engine/sampler.h"
#include "src/engine/timeline.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

enum class FinishReason { stop, length, stop_string, interrupted, timeout, error };
std::string_view name(FinishReason reason);

// What the loop needs to know of a model besides its forward pass.
struct TextModel {
  const Tokenizer* tokenizer = nullptr;    // null: ids only, no text
  std::span<const std::int32_t> stop_ids;  // sorted
  std::int32_t valid_ids = 0;
};

struct GenerationRequest {
  Prompt prompt;
  SamplingParams sampling;
  std::optional<std::int64_t> max_tokens;  // thinking included; nothing: what the context leaves
  std::vector<std::string> stop;           // looked for in the content, never in the thinking
  bool ignore_eos = false;
  std::optional<std::int64_t> think_budget;  // tokens of thinking after which its end is forced
  std::optional<int> logprobs;               // how many alternatives are recorded with each token
};

struct TokenRecord {
  std::int32_t id = 0;
  double logprob = 0;
  std::vector<TokenLogprob> top;
};

struct GenerationEvents {
  std::function<void(std::size_t done, std::size_t total)> prefill;
  // Whole UTF-8, as it becomes certain: text that may yet be part of a stop string is held back.
  std::function<void(std::string_view)> reasoning, content;
  // After each token and its text; `in_thinking` before the next.
  std::function<void(std::size_t tokens, bool in_thinking)> step;
  // Asked before each step and within long prompts: a reason ends the generation.
  std::function<std::optional<FinishReason>()> poll;
};

struct GenerationResult {
  FinishReason finish_reason = FinishReason::stop;
  std::vector<std::int32_t> ids;  // every generated id, the one that ended the text too
  std::string content, reasoning;
  std::size_t prompt_tokens = 0, cached_tokens = 0, reasoning_tokens = 0;
  std::vector<TokenRecord> logprobs;  // one per id when asked for
  std::size_t loop_tokens = 0;  // length of the block whose exact repetition ended the thinking; 0: none did
  double prefill_s = 0, decode_s = 0;
  std::size_t decode_steps = 0;  // forward passes of one token within decode_s
};

// Runs until something ends it. What was generated before an interruption or a timeout is in the result.
// Errors: context when the prompt leaves no room for one token, compute (NaN: nothing of that step is emitted), those
// of Forward.
GenerationResult generate(Timeline& timeline, const TextModel& model, const GenerationRequest& request,
                          const GenerationEvents& events);

// Finds the stop string that is complete first in a stream of text, across pieces; of two that end together, the longer.
// Precondition: no stop string is empty.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Text that is certainly before any stop string.
  std::string feed(std::string_view text);
  // What was held back, when the text ends without a stop string.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace fathom
