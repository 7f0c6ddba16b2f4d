#include "tokenizer/piece_cache.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

namespace fathom {
namespace {

constexpr std::size_t max_entries = 1u << 16;  // 2 MiB of entries, half of them used

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

}  // namespace

std::uint64_t unforeseeable_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::uint64_t hash_text(std::string_view s, std::uint64_t seed) {
  constexpr std::uint64_t odd = 0x9E3779B97F4A7C15u;
  std::uint64_t h = seed ^ s.size();
  std::size_t i = 0;
  for (; i + 8 <= s.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, s.data() + i, 8);
    h = mix(h ^ word, seed | odd);
  }
  std::uint64_t tail = 0;
  if (i < s.size()) std::memcpy(&tail, s.data() + i, s.size() - i);
  return mix(h ^ tail, seed ^ odd) ^ h;
}

PieceCache::Entry& PieceCache::find(std::string_view piece) {
  if (2 * (used_ + 1) > entries_.size()) make_room();
  const std::uint64_t hash = hash_text(piece, seed_);
  const std::size_t mask = entries_.size() - 1;
  for (std::size_t i = hash & mask;; i = (i + 1) & mask) {
    Entry& e = entries_[i];
    if (e.text != nullptr && (e.hash != hash || std::string_view(e.text, e.size) != piece)) continue;
    e.hash = hash;
    return e;
  }
}

void PieceCache::store(Entry& e, std::string_view piece, const std::vector<std::int32_t>& out,
                       std::size_t begin) {
  e.text = piece.data();
  e.size = static_cast<std::uint32_t>(piece.size());
  e.first = static_cast<std::uint32_t>(ids_.size());
  e.count = static_cast<std::uint32_t>(out.size() - begin);
  ids_.insert(ids_.end(), out.begin() + static_cast<std::ptrdiff_t>(begin), out.end());
  ++used_;
}

void PieceCache::make_room() {
  if (entries_.size() >= max_entries) {  // full: start over with what the text holds now
    entries_.clear();
    ids_.clear();
    used_ = 0;
  }
  const std::size_t slots = std::max<std::size_t>(256, 4 * entries_.size());
  const std::vector<Entry> old = std::exchange(entries_, std::vector<Entry>(slots));
  for (const Entry& e : old) {
    if (e.text == nullptr) continue;
    std::size_t i = e.hash & (slots - 1);
    while (entries_[i].text != nullptr) i = (i + 1) & (slots - 1);
    entries_[i] = e;
  }
}

}  // namespace fathom
