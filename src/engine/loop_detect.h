// Finds a model that repeats itself: an exact block of tokens, over and over, at the end of what it has written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fathom {

// The least that counts as a loop. Shorter repetition is ordinary: rulers, tables, a refrain.
struct LoopLimits {
  std::size_t longest_block = 1024;  // tokens
  std::size_t repeats = 4;           // of the whole block
  std::size_t span = 384;            // tokens that all repeats together must cover
};

class LoopDetector {
 public:
  explicit LoopDetector(const LoopLimits& limits = {});
  // Takes the next token; the length of the repeated block once a loop is certain, else 0.
  // Cost: longest_block comparisons.
  std::size_t push(std::int32_t token);
  void reset();

 private:
  LoopLimits limits_;
  std::vector<std::int32_t> recent_;  // ring of the last longest_block tokens
  std::vector<std::uint32_t> run_;    // run_[p - 1]: how many newest tokens equal the one p before them
  std::size_t seen_ = 0;
};

}  // namespace fathom
