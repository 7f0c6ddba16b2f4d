// Byte-level byte pair encoding: the vocabulary, the merges and the algorithm.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/piece_cache.h"

namespace fathom {

// Maps a pair of adjacent tokens to the merge that joins them. Open addressing: a lookup is one or two cache
// lines.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;  // lower merges first
    std::int32_t token;  // the joined token
  };
  MergeTable();
  void reserve(std::size_t merges);
  // False if the pair has a merge already, which then stays.
  bool insert(std::int32_t left, std::int32_t right, Merge merge);
  const Merge* find(std::int32_t left, std::int32_t right) const {
    if (slots_.empty()) return nullptr;
    const std::uint64_t key = pair_key(left, right);
    for (std::size_t i = index_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].merge;
      if (slots_[i].key == empty) return nullptr;
    }
  }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = empty;
    Merge merge{};
  };
  // An odd factor of chance: a crafted file cannot choose pairs that collide.
  std::uint64_t factor_;
  static std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t index_of(std::uint64_t key) const { return static_cast<std::size_t>(key * factor_ >> shift_); }
  void grow(std::size_t slots);

  std::vector<Slot> slots_;
  std::size_t mask_ = 0, size_ = 0;
  int shift_ = 63;
};

// Token texts by id, in one array of characters.
class TokenTexts {
 public:
  // The text of ids never set is empty.
  void resize(std::size_t ids) { spans_.resize(ids); }
  std::size_t size() const { return spans_.size(); }
  void set(std::int32_t id, std::string_view text);
  std::string_view operator[](std::int32_t id) const;

 private:
  struct Span {
    std::uint32_t begin = 0, size = 0;
  };
  std::string characters_;
  std::vector<Span> spans_;
};

// Finds ids by text: open addressing over the texts of one TokenTexts, handed to every call.
class TextIndex {
 public:
  TextIndex();
  void reserve(std::size_t texts);
  // False if the text is there already.
  bool insert(const TokenTexts& texts, std::int32_t id);
  std::optional<std::int32_t> find(const TokenTexts& texts, std::string_view text) const;

 private:
  // The slot that holds `text` or the free one where it belongs.
  std::size_t slot(const TokenTexts& texts, std::string_view text) const;
  void grow(const TokenTexts& texts, std::size_t slots);
  std::uint64_t seed_;
  std::vector<std::int32_t> slots_;  // -1: free
  std::size_t size_ = 0;
};

// Vocabulary and merges; immutable after load and shared between threads.
class Bpe {
 public:
  Bpe() { byte_token.fill(-1); }

  TokenTexts bytes;                          // what each token of the vocabulary stands for
  std::array<std::int32_t, 256> byte_token;  // -1: the vocabulary has no token for this byte
  MergeTable merges;
  // Set: a piece that is a token as a whole becomes it without merging (`ignore_merges`, and tiktoken's
  // rule). Indexes `bytes`.
  std::optional<TextIndex> whole_pieces;

  // Appends the ids of one piece, which must stay where it is as long as `cache` lives. A byte without a
  // token is encoded as U+FFFD. Merges go by rank, then from the left. O(n log n) in the piece's bytes at
  // worst.
  void encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& out) const;

 private:
  void merge(std::string_view piece, std::vector<std::int32_t>& out) const;
};

}  // namespace fathom
