#include "tokenizer/added_tokens.h"

#include <utility>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"

namespace fathom {

bool AddedToken::is_control() const {
  if (special || content.empty()) return true;
  const Utf8Sequence first = utf8_sequence(content);
  return first.kind != Utf8Sequence::character || first.size != content.size();
}

std::uint32_t AddedTokenMatcher::child_of(std::uint32_t node, unsigned char byte) const {
  std::uint32_t c = nodes_[node].child;
  while (c != none && nodes_[c].byte != byte) c = nodes_[c].sibling;
  return c;
}

void AddedTokenMatcher::add(std::string_view content, std::int32_t id) {
  std::uint32_t node = 0;
  for (const char ch : content) {
    const auto byte = static_cast<unsigned char>(ch);
    std::uint32_t next = child_of(node, byte);
    if (next == none) {
      next = static_cast<std::uint32_t>(nodes_.size());
      nodes_.push_back({byte, -1, none, nodes_[node].child});
      nodes_[node].child = next;
    }
    node = next;
  }
  nodes_[node].id = id;
  starts_[static_cast<unsigned char>(content.front())] = true;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view text,
                                                                std::size_t from) const {
  if (nodes_.size() == 1) return std::nullopt;
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> longest;
    std::uint32_t node = 0;
    for (std::size_t i = begin; i < text.size(); ++i) {
      node = child_of(node, static_cast<unsigned char>(text[i]));
      if (node == none) break;
      if (nodes_[node].id >= 0) longest = Match{begin, i + 1, nodes_[node].id};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

void AddedVocabulary::add(AddedToken token) {
  if (token.content.empty()) fail(Exit::bad_checkpoint, "added token {} has an empty content", token.id);
  if (token.content.size() > max_content) {
    fail(Exit::bad_checkpoint, "added token {} has {} bytes; at most {} are expected", token.id,
         token.content.size(), max_content);
  }
  const std::size_t index = tokens_.size();
  if (!by_content_.emplace(token.content, index).second)
    fail(Exit::bad_checkpoint, "two added tokens have the content {}", json::quote(token.content));
  if (const auto [at, fresh] = by_id_.emplace(token.id, index); !fresh) {
    fail(Exit::bad_checkpoint, "added tokens {} and {} have the same id {}",
         json::quote(tokens_[at->second].content), json::quote(token.content), token.id);
  }
  for (Passes* passes : {&all_, &plain_}) {
    if (passes == &plain_ && token.is_control()) continue;
    (token.normalized ? passes->normalized : passes->raw).add(token.content, token.id);
  }
  tokens_.push_back(std::move(token));
}

std::optional<std::int32_t> AddedVocabulary::find(std::string_view content) const {
  const auto at = by_content_.find(std::string(content));
  if (at == by_content_.end()) return std::nullopt;
  return tokens_[at->second].id;
}

const AddedToken* AddedVocabulary::by_id(std::int32_t id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() ? nullptr : &tokens_[at->second];
}

}  // namespace fathom
