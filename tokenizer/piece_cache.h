// The pieces that one encode call has met and their ids, so that a word is merged once. Bounded in size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace fathom {

// A number nobody can foresee: hash tables over untrusted text are seeded with one, so a crafted file or
// prompt cannot choose keys that collide. Ids never depend on it.
std::uint64_t unforeseeable_seed();
std::uint64_t hash_text(std::string_view s, std::uint64_t seed);

class PieceCache {
 public:
  // Longer pieces are rare and are not kept.
  static constexpr std::size_t max_piece = 128;  // bytes

  PieceCache() : seed_(unforeseeable_seed()) {}

  // Appends the ids of `piece` to `out`: from the cache, or else as encode(piece, out) appends them. The
  // piece must stay where it is as long as the cache lives.
  template <typename Encode>
  void append(std::string_view piece, std::vector<std::int32_t>& out, Encode&& encode) {
    if (piece.size() > max_piece) {
      encode(piece, out);
      return;
    }
    Entry& e = find(piece);
    if (e.text == nullptr) {
      const std::size_t begin = out.size();
      encode(piece, out);
      store(e, piece, out, begin);
    } else {
      const auto first = ids_.begin() + e.first;
      out.insert(out.end(), first, first + e.count);
    }
  }

 private:
  struct Entry {
    std::uint64_t hash = 0;
    const char* text = nullptr;  // null: free
    std::uint32_t size = 0, first = 0, count = 0;
  };
  // The entry of `piece`, or the free one where it belongs.
  Entry& find(std::string_view piece);
  void store(Entry& e, std::string_view piece, const std::vector<std::int32_t>& out, std::size_t begin);
  void make_room();

  std::uint64_t seed_;
  std::vector<Entry> entries_;
  std::vector<std::int32_t> ids_;
  std::size_t used_ = 0;
};

}  // namespace fathom
