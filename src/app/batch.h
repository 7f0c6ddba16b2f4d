// `fathom run --batch FILE`: many requests, one load, one record per line in input order, resumable.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "src/app/app.h"
#include "src/engine/sampler.h"
#include "tokenizer/chat_template.h"

namespace fathom {

// One input line: {"custom_id": "a", "messages" | "prompt" | "ids": ..., and any of the optional fields}.
struct BatchRequest {
  std::string custom_id;                  // "line-N" when the line names none
  std::optional<std::vector<Message>> messages;
  std::optional<std::vector<std::int32_t>> ids;
  std::optional<std::int64_t> max_tokens;
  std::optional<bool> think;
  std::optional<std::vector<std::string>> stop;
  SamplingParams sampling;                // `defaults` with the line's fields on top
};

// Parses line `number` (from 1). Errors: usage, naming the field; an unknown field is an error with a suggestion.
BatchRequest parse_batch_line(std::string_view line, std::size_t number, const SamplingParams& defaults);
// The custom_id of a line, also of one that is wrong otherwise; "line-N" when it cannot be told.
std::string batch_id(std::string_view line, std::size_t number);

// {"custom_id": ..., "schema": "fathom.error/1", "error": {...}}, without the newline.
std::string batch_error(const std::string& custom_id, const Error& error);

// What an earlier run left in `text`, a whole output file: its length up to the last whole line, and the custom_ids
// that need no second run (their record is not an error).
struct BatchDone {
  std::uint64_t good_bytes = 0;
  std::set<std::string> ids;
};
BatchDone parse_batch_output(std::string_view text);

// Errors: usage (the file, --strict's bad line), not_found, io, and what ends a run (compute, interrupted, timeout).
// Exit partial when some line was answered with an error.
Exit batch_command(App& app);

}  // namespace fathom
