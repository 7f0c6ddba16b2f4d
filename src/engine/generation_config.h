// generation_config.json: how a checkpoint's authors sample from it, and which ids end a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "src/base/file.h"
#include "src/engine/sampler.h"
#include "src/model/config.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<float> temperature, top_p, repetition_penalty;
  std::optional<int> top_k;
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;
};

// Absent file: everything absent. Errors: bad_checkpoint for a value of the wrong type or out of range, and for an id
// that is not below `vocab_size`.
GenerationConfig read_generation_config(const FileSet& files, int vocab_size);
GenerationConfig parse_generation_config(std::string_view text, std::string_view where, int vocab_size);

// The file's sampling: greedy when do_sample is false; what it leaves open is 0.6 and top-p 0.95 when it names neither,
// as DeepSeek advises for R1, else "off".
SamplingParams default_sampling(const GenerationConfig& config);

// Every id that ends an answer: eos of generation_config.json, config.json and the tokenizer, and the end-of-turn
// markers of the family that its vocabulary has. Sorted, unique. tokenizer may be null.
std::vector<std::int32_t> stop_ids(const GenerationConfig& generation, const Config& config,
                                   const Tokenizer* tokenizer);

}  // namespace fathom
