// The JSON that a run leaves: fathom.run/1 and fathom.chunk/1.
#pragma once

#include <string>
#include <string_view>

#include "src/base/json.h"
#include "src/engine/engine.h"
#include "src/engine/generate.h"

namespace fathom {

struct RunRecord {
  std::string model;      // ORG/NAME
  std::string id;         // new_run_id()
  std::int64_t created = 0;  // seconds since 1970
  const Engine* engine = nullptr;
  const GenerationRequest* request = nullptr;
  const GenerationResult* result = nullptr;
  std::string placement;  // Forward::describe()
  bool hide_thinking = false;
};

// "run-" and 26 characters that sort by time.
std::string new_run_id();
std::int64_t unix_time();

// The fathom.run/1 object; add members (custom_id) as needed, then json::dump.
json::Object run_object(const RunRecord& record);
// One fathom.chunk/1 line without its newline. `key`: content or reasoning_content.
std::string chunk_line(const RunRecord& record, std::string_view key, std::string_view delta);
// The last one: finish_reason, usage, ids, log-probabilities and the fathom block.
std::string last_chunk_line(const RunRecord& record);

// {"id", "token", "bytes", "logprob", "top_logprobs"} of each token.
json::Value logprobs_value(const std::vector<TokenRecord>& records, const Tokenizer* tokenizer);
json::Value ids_value(std::span<const std::int32_t> ids);

}  // namespace fathom
