// The fuzz targets without libFuzzer: over every seed in tests/fuzz/corpus and over mutations of them, the same in every
// run. What a fuzzer once found is among the seeds. FATHOM_MUTATIONS=n tries n mutations per target.
#include <doctest/doctest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/fuzz/target.h"

using namespace fathom;
namespace fs = std::filesystem;

namespace {

constexpr const char* kCorpus = "tests/fuzz/corpus";

std::vector<std::string> seeds(std::string_view target) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(fs::path(kCorpus) / target)) paths.push_back(entry.path());
  std::ranges::sort(paths);
  std::vector<std::string> out;
  for (const fs::path& p : paths) out.push_back(read_file(p.string(), 1 << 20));
  return out;
}

// A few changes to `text`: bytes flipped, removed, repeated, replaced, or a piece of `other` put in.
std::string mutate(std::string text, const std::string& other, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random() % n); };
  constexpr std::string_view kTelling = "{}[]\",:\\\n\0 \x1b\xff\x80-0919.eE<>=|";
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1), size = 1 + below(8);
    switch (below(6)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text.erase(at, size);
        break;
      case 2:
        text.insert(at, std::string(text, at, size * 4));
        break;
      case 3:
        text.insert(at, 1, kTelling[below(kTelling.size())]);
        break;
      case 4:
        if (at < text.size()) text[at] = kTelling[below(kTelling.size())];
        break;
      default:
        text.insert(at, other.substr(below(other.size()), size * 4));
    }
  }
  return text;
}

long mutations() {
  long n = 400;
  if (const char* text = std::getenv("FATHOM_MUTATIONS")) std::from_chars(text, text + std::strlen(text), n);
  return n;
}

}  // namespace

TEST_CASE("fuzz seeds: every target, every seed and mutations of them") {
  REQUIRE(fuzz::targets().size() >= 20);
  for (const auto& entry : fuzz::targets()) {
    const std::string name(entry.first);
    CAPTURE(name);
    const std::vector<std::string> all = seeds(name);
    CHECK_FALSE(all.empty());
    std::string input;
    const auto check = [&] {
      try {
        entry.second(input);
      } catch (const std::exception& e) {
        FAIL_CHECK(name << ": " << e.what() << ", input " << json::quote(input));
      }
    };
    for (const std::string& seed : all) {
      input = seed;
      check();
    }
    std::mt19937_64 random(7);
    for (long i = 0; i < mutations(); ++i) {
      input = mutate(all[random() % all.size()], all[random() % all.size()], random);
      check();
    }
  }
}

TEST_CASE("fuzz seeds: every folder of seeds belongs to a target") {
  for (const auto& entry : fs::directory_iterator(kCorpus)) {
    CAPTURE(entry.path().string());
    CHECK(fuzz::targets().contains(entry.path().filename().string()));
  }
}
