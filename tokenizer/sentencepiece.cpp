// SentencePiece BPE through the sentencepiece library, with control tokens matched outside of it.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/loaders.h"
#include "tokenizer/piece_cache.h"
#include "tokenizer/sentencepiece_model.h"

namespace fathom {
namespace {

using Type = SentencePieceModel::Type;

constexpr std::string_view space_mark = "\u2581";  // stands for a space inside pieces

// What a piece stands for: byte pieces are one byte, in others U+2581 is a space.
std::string bytes_of(const SentencePieceModel::Piece& piece) {
  if (piece.type == Type::control) return piece.text;
  if (piece.type == Type::unknown) return "\uFFFD";
  if (piece.type == Type::byte) return {static_cast<char>(sentencepiece_byte(piece.text).value())};
  std::string text;
  for (std::string_view rest = piece.text; !rest.empty();) {
    const std::size_t mark = std::min(rest.find(space_mark), rest.size());
    text += rest.substr(0, mark);
    rest.remove_prefix(mark);
    if (rest.empty()) break;
    text += ' ';
    rest.remove_prefix(space_mark.size());
  }
  return text;
}

// Whether a space occurs in `text` behind another character, so that a merge may cross the border of a word.
bool crosses_words(std::string_view text) {
  while (text.starts_with(space_mark)) text.remove_prefix(space_mark.size());
  return text.find(space_mark) != text.npos;
}

// Length of the word that `text` begins with: spaces (written either way), then other characters.
std::size_t word_size(std::string_view text) {
  std::size_t i = 0;
  const auto space = [&] {
    return text[i] == ' ' ? 1 : text.substr(i).starts_with(space_mark) ? space_mark.size() : 0;
  };
  while (i < text.size() && space() != 0) i += space();
  while (i < text.size() && space() == 0) ++i;
  return i;
}

class SentencePiece final : public Tokenizer {
 public:
  SentencePiece(SentencePieceModel model, TokenizerConfig config) {
    special_ = std::move(config.special);
    for (AddedToken& t : config.added_tokens) add_token(std::move(t), model);
    add_model_controls(model);
    check_ids(model.pieces.size());
    read_pieces(model);
    const auto status = processor_.LoadFromSerializedProto(model.serialize());
    if (!status.ok())
      fail(Exit::bad_checkpoint, "the sentencepiece library refuses the model: {}", status.ToString());
  }

  std::vector<std::int32_t> encode(std::string_view text, AddedTokens added) const override {
    std::vector<std::int32_t> ids;
    PieceCache cache;
    added_.cut(
        text, added == AddedTokens::match, [&](std::string_view piece) { encode_text(piece, cache, ids); },
        [&](std::int32_t id) { ids.push_back(id); });
    return ids;
  }
  std::string_view token_bytes(std::int32_t id) const override {
    if (const AddedToken* token = added_.by_id(id)) return token->content;
    return bytes_[id];
  }
  bool is_control(std::int32_t id) const override {
    const AddedToken* token = added_.by_id(id);
    return token != nullptr && token->is_control();
  }
  std::optional<std::int32_t> find_added(std::string_view content) const override {
    return added_.find(content);
  }
  std::int32_t vocab_size() const override { return vocab_size_; }
  std::string describe() const override {
    const std::size_t outside = static_cast<std::size_t>(vocab_size_) - bytes_.size();
    return fmt::format("tokenizer.model (SentencePiece BPE, {} + {})", bytes_.size(), outside);
  }

 private:
  // An added token is known by its id and content, never by asking the library for the content: a marker may
  // contain U+2581. A piece that the library would match in any text becomes one that it never matches.
  void add_token(AddedToken token, SentencePieceModel& model) {
    const auto at = static_cast<std::size_t>(token.id);
    if (at < model.pieces.size()) {
      SentencePieceModel::Piece& piece = model.pieces[at];
      if (piece.text != token.content) {
        fail(Exit::bad_checkpoint, "added token {} is {} in tokenizer_config.json and {} in tokenizer.model",
             token.id, json::quote(token.content.substr(0, 80)), json::quote(piece.text));
      }
      if (piece.type == Type::normal || piece.type == Type::byte) {
        fail(Exit::bad_checkpoint, "added token {} {} is an ordinary piece of tokenizer.model", token.id,
             json::quote(piece.text));
      }
      if (piece.type == Type::user_defined && token.is_control()) piece.type = Type::control;
    }
    added_.add(std::move(token));
  }

  void add_model_controls(const SentencePieceModel& model) {
    for (std::size_t id = 0; id < model.pieces.size(); ++id) {
      const SentencePieceModel::Piece& piece = model.pieces[id];
      if (piece.type != Type::control || added_.by_id(static_cast<std::int32_t>(id)) != nullptr) continue;
      added_.add({static_cast<std::int32_t>(id), piece.text, true, false});
    }
  }

  void check_ids(std::size_t pieces) {
    std::int32_t size = Size(pieces).to<std::int32_t>();
    std::vector<std::int32_t> beyond;
    for (const AddedToken& t : added_.tokens())
      if (t.id >= size) beyond.push_back(t.id);
    std::ranges::sort(beyond);
    for (const std::int32_t id : beyond) {
      if (id != size)
        fail(Exit::bad_checkpoint, "no token has the id {}, but added token {} exists", size, id);
      ++size;
    }
    vocab_size_ = size;
  }

  void read_pieces(const SentencePieceModel& model) {
    bytes_.resize(model.pieces.size());
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
      const auto id = static_cast<std::int32_t>(i);
      const SentencePieceModel::Piece& piece = model.pieces[i];
      bytes_.set(id, bytes_of(piece));
      const bool matched =
          piece.type != Type::control && piece.type != Type::unknown && piece.type != Type::byte;
      if (matched && crosses_words(piece.text)) words_are_independent_ = false;
      if (piece.type == Type::byte) byte_token_[sentencepiece_byte(piece.text).value()] = id;
    }
  }

  // The library takes well-formed UTF-8; other bytes become byte pieces.
  void encode_text(std::string_view text, PieceCache& cache, std::vector<std::int32_t>& ids) const {
    while (!text.empty()) {
      const std::size_t good = well_formed_prefix(text);
      if (good > 0) encode_well_formed(text.substr(0, good), cache, ids);
      text.remove_prefix(good);
      const std::size_t bad = malformed_prefix(text);
      for (const char c : text.substr(0, bad)) ids.push_back(byte_token_[static_cast<unsigned char>(c)]);
      text.remove_prefix(bad);
    }
  }
  // The library searches the whole text for each merge. Where no piece reaches over the border of a word,
  // words are encoded alone and remembered: the same ids, fifty times as fast.
  void encode_well_formed(std::string_view text, PieceCache& cache, std::vector<std::int32_t>& ids) const {
    const auto encode = [this](std::string_view piece, std::vector<std::int32_t>& out) {
      call_library(piece, out);
    };
    while (!text.empty()) {
      const std::size_t size = words_are_independent_ ? word_size(text) : text.size();
      cache.append(text.substr(0, size), ids, encode);
      text.remove_prefix(size);
    }
  }
  void call_library(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> found;
    const auto status = processor_.Encode(text, &found);
    if (!status.ok())
      fail(Exit::failure, "the sentencepiece library fails on {} bytes of text: {}", text.size(),
           status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  }

  sentencepiece::SentencePieceProcessor processor_;
  AddedVocabulary added_;
  TokenTexts bytes_;
  std::array<std::int32_t, 256> byte_token_{};
  std::int32_t vocab_size_ = 0;
  bool words_are_independent_ = true;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view file, TokenizerConfig config) {
  try {
    return std::make_unique<SentencePiece>(SentencePieceModel::parse(file), std::move(config));
  } catch (Error& e) {
    if (e.file().empty()) e.at("tokenizer.model");
    throw;
  }
}

}  // namespace fathom
