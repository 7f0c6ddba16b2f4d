// Added tokens: strings such as <｜User｜> that become one id before the text is split into words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fathom {

struct AddedToken {
  std::int32_t id = -1;
  std::string content;
  bool special = false;
  bool normalized = false;  // matched in the second pass, on the normalised text

  // A control token is never part of an answer's text, and text typed by a user never becomes one. The
  // exception is a non-special token of one character: the DeepSeek-V2 vocabulary adds thirteen letters (ü,
  // ö, ø, ...) that way, and the model knows these letters by no other id.
  bool is_control() const;
};

// Finds added tokens in text: leftmost, and of those that start at one place the longest.
class AddedTokenMatcher {
 public:
  struct Match {
    std::size_t begin, end;  // bytes
    std::int32_t id;
  };

  void add(std::string_view content, std::int32_t id);
  // The first match at or after byte `from`. O(bytes walked * longest content), which load limits.
  std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  static constexpr std::uint32_t none = 0xFFFFFFFFu;
  // Node 0 is the root. Children of a node are a list through `sibling`.
  struct Node {
    unsigned char byte = 0;
    std::int32_t id = -1;
    std::uint32_t child = none, sibling = none;
  };
  std::uint32_t child_of(std::uint32_t node, unsigned char byte) const;

  std::vector<Node> nodes_{1};
  bool starts_[256] = {};  // bytes some content begins with
};

// All added tokens of a tokenizer.
class AddedVocabulary {
 public:
  // The longest content accepted, in bytes.
  static constexpr std::size_t max_content = 1024;

  // Errors: bad_checkpoint for an empty, too long or repeated content or a repeated id.
  void add(AddedToken token);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  std::optional<std::int32_t> find(std::string_view content) const;
  const AddedToken* by_id(std::int32_t id) const;

  // Cuts `text` at its added tokens, in order: on_text(piece) and on_token(id). `all`: every added token;
  // otherwise only those that are no control tokens. Two passes, as the files mean it: tokens matched on the
  // raw text first, those matched on the normalised text (`normalized`) in what is left.
  template <typename OnText, typename OnToken>
  void cut(std::string_view text, bool all, OnText&& on_text, OnToken&& on_token) const {
    const Passes& passes = all ? all_ : plain_;
    cut_pass(
        passes.raw, text,
        [&](std::string_view rest) { cut_pass(passes.normalized, rest, on_text, on_token); }, on_token);
  }

 private:
  struct Passes {
    AddedTokenMatcher raw, normalized;
  };

  template <typename OnText, typename OnToken>
  static void cut_pass(const AddedTokenMatcher& matcher, std::string_view text, OnText&& on_text,
                       OnToken&& on_token) {
    std::size_t done = 0;
    while (const auto match = matcher.find(text, done)) {
      if (match->begin > done) on_text(text.substr(done, match->begin - done));
      on_token(match->id);
      done = match->end;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, std::size_t> by_content_;
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  Passes all_, plain_;
};

}  // namespace fathom
