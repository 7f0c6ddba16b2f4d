// What memory there is: the kernel's files as they are, cut short, absurd or absent.
#include <doctest/doctest.h>

#include "src/engine/placement.h"

using namespace fathom;

namespace {

const std::string kMemory = "MemTotal:       24000000 kB\nMemFree:         1000 kB\nMemAvailable:   2000000 kB\n";
constexpr std::uint64_t kAvailable = 2'000'000ull << 10;

}  // namespace

TEST_CASE("placement: the memory left is MemAvailable, or what a control group leaves") {
  CHECK(available_memory({.meminfo = kMemory}) == kAvailable);
  const auto group = [&](std::optional<std::string> limit, std::optional<std::string> used,
                         std::optional<std::string> stat = {}, std::optional<std::string> meminfo = kMemory) {
    return available_memory({meminfo, limit, used, stat});
  };
  CHECK(group("1000000\n", "400000\n") == 600'000);
  CHECK(group("1000000\n", "400000\n", "anon 5\ninactive_file 100000\nactive_file 7\n") == 700'000);
  CHECK(group("1000000\n", "400000\n", "inactive_file 900000\n") == 1'000'000);  // never more than the limit
  CHECK(group("1000000\n", "400000\n", "anon 5\n") == 600'000);
  CHECK(group("1000000\n", "4000000\n") == 0);
  CHECK(group("max\n", "400000\n") == kAvailable);
  CHECK(group("9000000000000\n", "400000\n") == kAvailable);  // the machine has less
  CHECK(group("1000000\n", {}) == kAvailable);
  CHECK(group({}, "400000\n") == kAvailable);
  CHECK(group("1000000\n", "none\n") == kAvailable);
  CHECK(group("1000000\n", "400000\n", {}, std::nullopt) == 600'000);
}

TEST_CASE("placement: what the kernel does not tell is not guessed") {
  CHECK_FALSE(available_memory(MemoryFiles{}));
  for (const char* text : {"", "MemTotal: 5 kB\n", "MemAvailable:", "MemAvailable: many kB\n",
                           "MemAvailable: 99999999999999999999999 kB\n"})
    CHECK_FALSE(available_memory({.meminfo = text}));
  // Kilobytes that do not fit in bytes.
  CHECK(available_memory({.meminfo = "MemAvailable: 18446744073709551615 kB\n"}) == ~std::uint64_t{0} >> 10 << 10);
  CHECK(available_memory().value_or(1) > 0);
}
