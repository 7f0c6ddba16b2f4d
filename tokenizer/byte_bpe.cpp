#include "tokenizer/byte_bpe.h"

#include <algorithm>
#include <utility>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

// Bytes C0, C1 and F5 to FF occur in no well-formed text, and real vocabularies lack tokens for them.
bool occurs_in_utf8(unsigned byte) { return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5); }

}  // namespace

struct ByteBpe::Call {
  Pretokenizer::State state;
  PieceCache cache;
  std::vector<std::int32_t> ids;
};

ByteBpe::ByteBpe(Bpe bpe, Pretokenizer pretokenizer, AddedVocabulary added, Special special,
                 std::string_view source)
    : bpe_(std::move(bpe)),
      pretokenizer_(std::move(pretokenizer)),
      added_(std::move(added)),
      source_(source) {
  special_ = std::move(special);
  for (unsigned b = 0; b < 256; ++b) {
    if (occurs_in_utf8(b) && bpe_.byte_token[b] < 0)
      fail(Exit::bad_checkpoint, "the vocabulary has no token for the byte {:#04x}, so some text has no ids",
           b);
    if (bpe_.byte_token[b] >= 0 && is_control(bpe_.byte_token[b])) {
      fail(Exit::bad_checkpoint, "added token {} is also the token of the byte {:#04x}", bpe_.byte_token[b],
           b);
    }
  }
  vocab_size_ = Size(bpe_.bytes.size()).to<std::int32_t>();
  for (const AddedToken& t : added_.tokens()) vocab_size_ = std::max(vocab_size_, t.id + 1);
}

std::vector<std::int32_t> ByteBpe::encode(std::string_view text, AddedTokens added) const {
  Call call;
  call.ids.reserve(text.size() / 3 + 8);
  added_.cut(
      text, added == AddedTokens::match, [&](std::string_view piece) { encode_text(piece, call); },
      [&](std::int32_t id) { call.ids.push_back(id); });
  return std::move(call.ids);
}

void ByteBpe::encode_text(std::string_view text, Call& call) const {
  const auto encode_piece = [&](std::string_view piece) { bpe_.encode(piece, call.cache, call.ids); };
  while (!text.empty()) {
    const std::size_t good = well_formed_prefix(text);
    if (good > 0) pretokenizer_.split(text.substr(0, good), call.state, encode_piece);
    text.remove_prefix(good);
    const std::size_t bad = malformed_prefix(text);
    if (bad > 0) encode_piece(text.substr(0, bad));
    text.remove_prefix(bad);
  }
}

std::string_view ByteBpe::token_bytes(std::int32_t id) const {
  if (const AddedToken* token = added_.by_id(id)) return token->content;
  return bpe_.bytes[id];
}

bool ByteBpe::is_control(std::int32_t id) const {
  const AddedToken* token = added_.by_id(id);
  return token != nullptr && token->is_control();
}

std::string ByteBpe::describe() const {
  const std::size_t ordinary = bpe_.bytes.size();
  const auto outside = std::ranges::count_if(
      added_.tokens(), [&](const AddedToken& t) { return static_cast<std::size_t>(t.id) >= ordinary; });
  return fmt::format("{} (BPE, {} + {})", source_, ordinary, outside);
}

}  // namespace fathom
