// Damage that knows what it damages: JSON values, safetensors headers, offsets, shapes, types, whole files.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>

namespace fathom::test {

// The files of a checkpoint by name.
using Files = std::map<std::string, std::string>;

class Mutator {
 public:
  // The same seed gives the same damage.
  explicit Mutator(std::uint64_t seed) : random_(seed * 0x9e3779b97f4a7c15u + 1) {}

  // One to three changes somewhere in `files`; what they were, for messages.
  std::string damage(Files& files);
  // Changes one value, key or member of a JSON text, or its bytes when it is no JSON.
  std::string json_text(std::string& text, int changes = 1);
  // Changes the header, its length or the data of a safetensors file.
  std::string safetensors(std::string& file);
  // Flips, removes, repeats or replaces some bytes.
  std::string bytes(std::string& text);

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random_() % n); }
  std::string header_field(std::string& header);
  std::string header_length(std::string& file);
  std::string whole_file(Files& files, const std::string& name);

  std::mt19937_64 random_;
};

// A sound checkpoint in two shards with an index, tokenizer and chat template: MoE, FP8, multi-token prediction.
Files sound_checkpoint();

}  // namespace fathom::test
