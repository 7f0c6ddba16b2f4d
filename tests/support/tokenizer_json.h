// Small tokenizer.json texts for tests: the byte alphabet, some merges and whatever a test spoils.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tests/support/errors.h"
#include "tokenizer/tokenizer.h"

namespace fathom::test {

struct TinyTokenizer {
  std::vector<std::pair<std::string, std::string>>
      merges;                             // in the byte alphabet; their results are tokens 256...
  std::vector<std::string> extra_tokens;  // after the merges' results
  std::set<int> missing_bytes;
  bool merges_as_pairs = false, merges_first = false;
  std::string raw_merges, raw_tokens;  // replace the merges; further entries of the vocabulary
  std::string type = "BPE", model_extra, added = "[]", normalizer = "null";
  std::string decoder = R"({"type": "ByteLevel"})";
  std::string pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";

  // The id of a byte: its rank in the byte alphabet's order of code points equals the byte here, by
  // construction.
  std::int32_t byte_id(int byte) const { return byte; }

  std::string text() const {
    std::string vocab, list;
    int next = 0;
    const auto add = [&](const std::string& token) {
      vocab += (vocab.empty() ? "" : ",") + json::quote(token) + ":" + std::to_string(next++);
    };
    char32_t extra = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      std::string c;
      utf8_append(c, itself ? static_cast<char32_t>(b) : extra++);
      if (!missing_bytes.contains(b)) add(c);
    }
    for (const auto& [a, b] : merges) {
      if (vocab.find(json::quote(a + b) + ":") == std::string::npos) add(a + b);
      list += list.empty() ? "" : ",";
      list += merges_as_pairs ? "[" + json::quote(a) + "," + json::quote(b) + "]" : json::quote(a + " " + b);
    }
    for (const std::string& t : extra_tokens) add(t);
    if (!raw_tokens.empty()) vocab += "," + raw_tokens;
    const std::string v = "\"vocab\":{" + vocab + "}";
    const std::string m = "\"merges\":" + (raw_merges.empty() ? "[" + list + "]" : raw_merges);
    return "{\"version\":\"1.0\",\"added_tokens\":" + added + ",\"normalizer\":" + normalizer +
           ",\"pre_tokenizer\":" + pre_tokenizer + ",\"decoder\":" + decoder + ",\"model\":{\"type\":\"" +
           type + "\"," + model_extra + (merges_first ? m + "," + v : v + "," + m) + "}}";
  }
};

inline std::unique_ptr<Tokenizer> load_tiny(const TinyTokenizer& file) {
  const std::string text = file.text();
  return Tokenizer::load(FileSet::memory("test", {{"tokenizer.json", as_bytes_of(text)}}));
}

inline Outcome refusal_of(const TinyTokenizer& file) {
  return outcome_of([&] { (void)load_tiny(file); });
}

}  // namespace fathom::test
