// The tokenizer files. The first byte says which one the rest is; what loads must encode and decode without loss.
#include <cstdlib>
#include <string>

#include "src/base/error.h"
#include "tests/support/tokenizer_json.h"
#include "tokenizer/tokenizer.h"

using namespace fathom;

namespace {

constexpr const char* kNames[] = {"tokenizer.json", "tokenizer.model", "tiktoken.model"};

std::string decoded(const Tokenizer& t, const std::vector<std::int32_t>& ids) {
  std::string out;
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= t.vocab_size()) std::abort();
    out += t.token_bytes(id);
  }
  return out;
}

// Byte-level BPE keeps every byte.
void round_trip(std::string_view text) {
  static const std::unique_ptr<Tokenizer> sound = [] {
    test::TinyTokenizer t;
    t.merges = {{"a", "a"}, {"aa", "a"}, {"t", "h"}, {"th", "e"}, {"Ġ", "the"}, {"Ġ", "Ġ"}};
    return test::load_tiny(t);
  }();
  if (decoded(*sound, sound->encode(text, AddedTokens::plain)) != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 == 3) {
    round_trip(rest);
    return 0;
  }
  try {
    const auto tokenizer = Tokenizer::load(FileSet::memory("fuzz", {{kNames[data[0] % 4], as_bytes_of(rest)}}));
    (void)decoded(*tokenizer, tokenizer->encode("The 日本 \xff\n  1234 <|x|>", AddedTokens::plain));
  } catch (const Error& e) {
    if (e.code() != Exit::bad_checkpoint && e.code() != Exit::unsupported && e.code() != Exit::not_found) std::abort();
  }
  return 0;
}
