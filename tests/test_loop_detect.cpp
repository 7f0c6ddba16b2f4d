#include <doctest/doctest.h>

#include <random>

#include "src/engine/loop_detect.h"

using namespace fathom;

namespace {

// The number of tokens pushed when `block` repeated without end is recognised, 0 if not within `limit`.
std::size_t tokens_until_found(LoopDetector& d, const std::vector<std::int32_t>& block, std::size_t limit, std::size_t* length) {
  for (std::size_t i = 0; i < limit; ++i)
    if ((*length = d.push(block[i % block.size()])) != 0) return i + 1;
  return 0;
}

}  // namespace

TEST_CASE("loop detection: a block is found after its last needed repeat, whatever its length and what came before") {
  std::mt19937 random(1);
  for (const std::size_t length : {1u, 2u, 7u, 96u, 97u, 500u, 1024u}) {
    LoopDetector d;
    for (int i = 0; i < 3000; ++i) REQUIRE(d.push(static_cast<std::int32_t>(random() % 50000) + 10) == 0);
    std::vector<std::int32_t> block;
    for (std::size_t i = 0; i < length; ++i) block.push_back(static_cast<std::int32_t>(100000 + i));
    std::size_t found = 0;
    CHECK(tokens_until_found(d, block, 10000, &found) == std::max<std::size_t>(384, 4 * length));
    CHECK(found == length);
  }
}

TEST_CASE("loop detection: near repetition, counting and random text are no loops") {
  std::mt19937 random(2);
  LoopDetector d;
  for (std::int32_t i = 0; i < 20000; ++i) CHECK(d.push(i % 10 == 9 ? 1000 + i : i % 10) == 0);  // a numbered list
  d.reset();
  for (int i = 0; i < 20000; ++i) CHECK(d.push(static_cast<std::int32_t>(random() % 2)) == 0);
  d.reset();
  for (int i = 0; i < 383; ++i) CHECK(d.push(5) == 0);
  CHECK(d.push(6) == 0);
  for (int i = 0; i < 383; ++i) CHECK(d.push(5) == 0);
  LoopDetector block_too_long;
  std::vector<std::int32_t> block(1025);
  for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<std::int32_t>(i);
  std::size_t found = 0;
  CHECK(tokens_until_found(block_too_long, block, 20000, &found) == 0);
}
