#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <utility>

#include "src/base/checked.h"

namespace fathom {
namespace {

constexpr std::size_t short_piece = 48;       // bytes: a scan for the best pair beats any queue
constexpr std::size_t long_piece = 1u << 14;  // bytes: buckets by rank beat a heap

// The best pair is searched anew for each merge.
void merge_by_scan(const MergeTable& merges, std::vector<std::int32_t>& ids, std::size_t begin) {
  constexpr MergeTable::Merge nothing{0xFFFFFFFFu, -1};
  std::array<MergeTable::Merge, 3 * short_piece> pair;  // a byte is at most three ids: those of U+FFFD
  std::int32_t* id = ids.data() + begin;
  std::size_t n = ids.size() - begin;
  const auto look = [&](std::size_t i) {
    const MergeTable::Merge* m = i + 1 < n ? merges.find(id[i], id[i + 1]) : nullptr;
    pair[i] = m != nullptr ? *m : nothing;
  };
  for (std::size_t i = 0; i < n; ++i) look(i);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (pair[i].rank < pair[best].rank) best = i;
    if (pair[best].token < 0) break;
    id[best] = pair[best].token;
    std::copy(id + best + 2, id + n, id + best + 1);
    std::copy(pair.data() + best + 2, pair.data() + n, pair.data() + best + 1);
    --n;
    look(best);
    if (best > 0) look(best - 1);
  }
  ids.resize(begin + n);
}

// A chain of ids that shrinks as pairs merge, and the order in which they do.
class MergeChain {
 public:
  MergeChain(const MergeTable& merges, std::vector<std::int32_t>& ids, std::size_t begin)
      : merges_(merges), ids_(ids), begin_(begin), id_(ids.data() + begin), size_(ids.size() - begin) {
    next_.resize(size_);
    previous_.resize(size_);
    for (std::size_t i = 0; i < size_; ++i) {
      next_[i] = static_cast<Position>(i + 1);
      previous_[i] = static_cast<Position>(i) - 1;
    }
  }

  void run() {
    if (size_ >= long_piece) {
      run_buckets();
    } else {
      for (std::size_t i = 0; i + 1 < size_; ++i) offer_to_heap(static_cast<Position>(i));
    }
    run_heap();
    compact();
  }

 private:
  using Position = std::int32_t;

  const MergeTable::Merge* pair_at(Position p) const {
    if (p < 0 || id_[p] < 0) return nullptr;
    const Position q = next_[static_cast<std::size_t>(p)];
    return static_cast<std::size_t>(q) < size_ ? merges_.find(id_[p], id_[q]) : nullptr;
  }

  // Joins the pair at p if its merge has this rank still; says whether it did.
  bool join(Position p, std::uint32_t rank) {
    const MergeTable::Merge* m = pair_at(p);
    if (m == nullptr || m->rank != rank) return false;
    const Position gone = next_[static_cast<std::size_t>(p)];
    const Position after = next_[static_cast<std::size_t>(gone)];
    id_[p] = m->token;
    id_[gone] = -1;
    next_[static_cast<std::size_t>(p)] = after;
    if (static_cast<std::size_t>(after) < size_) previous_[static_cast<std::size_t>(after)] = p;
    return true;
  }

  void offer_to_heap(Position p) {
    if (const MergeTable::Merge* m = pair_at(p))
      heap_.push(std::uint64_t{m->rank} << 32 | static_cast<std::uint32_t>(p));
  }

  void run_heap() {
    while (!heap_.empty()) {
      const std::uint64_t top = heap_.top();
      heap_.pop();
      const auto p = static_cast<Position>(top & 0xFFFFFFFFu);
      if (!join(p, static_cast<std::uint32_t>(top >> 32))) continue;
      offer_to_heap(previous_[static_cast<std::size_t>(p)]);
      offer_to_heap(p);
    }
  }

  // One bucket of positions per rank. In the merges of a trained vocabulary a token's own merges come after
  // the one that makes it, so buckets are emptied in ascending order, once. A vocabulary that breaks this
  // goes on with the heap.
  void run_buckets() {
    bool ascending = true;
    std::uint32_t current = 0;
    const auto offer = [&](Position p) {
      const MergeTable::Merge* m = pair_at(p);
      if (m == nullptr) return;
      if (m->rank >= buckets_.size()) buckets_.resize(m->rank + 1);
      if (buckets_[m->rank].empty()) ranks_.push(m->rank);
      buckets_[m->rank].push_back(p);
      if (m->rank <= current) ascending = false;
    };
    for (std::size_t i = 0; i + 1 < size_; ++i) offer(static_cast<Position>(i));
    ascending = true;
    while (!ranks_.empty() && ascending) {
      current = ranks_.top();
      ranks_.pop();
      std::vector<Position> bucket = std::exchange(buckets_[current], {});
      if (!std::is_sorted(bucket.begin(), bucket.end())) std::sort(bucket.begin(), bucket.end());
      std::size_t i = 0;
      for (; i < bucket.size() && ascending; ++i) {
        if (!join(bucket[i], current)) continue;
        offer(previous_[static_cast<std::size_t>(bucket[i])]);
        offer(bucket[i]);
      }
      for (; i < bucket.size(); ++i) offer_to_heap(bucket[i]);
    }
    for (; !ranks_.empty(); ranks_.pop())
      for (const Position p : buckets_[ranks_.top()]) offer_to_heap(p);
  }

  void compact() {
    std::size_t n = 0;
    for (std::size_t i = 0; i < size_; i = static_cast<std::size_t>(next_[i])) id_[n++] = id_[i];
    ids_.resize(begin_ + n);
  }

  const MergeTable& merges_;
  std::vector<std::int32_t>& ids_;
  std::size_t begin_;
  std::int32_t* id_;
  std::size_t size_;
  std::vector<Position> next_, previous_;
  std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> heap_;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ranks_;
  std::vector<std::vector<Position>> buckets_;
};

}  // namespace

MergeTable::MergeTable() : factor_(unforeseeable_seed() | 1) {}

void MergeTable::reserve(std::size_t merges) { grow(std::bit_ceil(std::max<std::size_t>(16, 2 * merges))); }

void MergeTable::grow(std::size_t slots) {
  if (slots <= slots_.size()) return;
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots));
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  size_ = 0;
  for (const Slot& s : old) {
    if (s.key == empty) continue;
    insert(static_cast<std::int32_t>(s.key >> 32), static_cast<std::int32_t>(s.key & 0xFFFFFFFFu), s.merge);
  }
}

bool MergeTable::insert(std::int32_t left, std::int32_t right, Merge merge) {
  if (2 * (size_ + 1) > slots_.size()) grow(std::max<std::size_t>(16, 2 * slots_.size()));
  const std::uint64_t key = pair_key(left, right);
  std::size_t i = index_of(key);
  for (; slots_[i].key != empty; i = (i + 1) & mask_)
    if (slots_[i].key == key) return false;
  slots_[i] = {key, merge};
  ++size_;
  return true;
}

void TokenTexts::set(std::int32_t id, std::string_view text) {
  spans_[static_cast<std::size_t>(id)] = {Size(characters_.size()).to<std::uint32_t>(),
                                          Size(text.size()).to<std::uint32_t>()};
  characters_ += text;
}

std::string_view TokenTexts::operator[](std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= spans_.size()) return {};
  const Span s = spans_[static_cast<std::size_t>(id)];
  return std::string_view(characters_).substr(s.begin, s.size);
}

TextIndex::TextIndex() : seed_(unforeseeable_seed()) {}

void TextIndex::reserve(std::size_t texts) {
  // Before the first insert only: growing needs the texts.
  if (size_ == 0) slots_.assign(std::bit_ceil(std::max<std::size_t>(16, 2 * texts)), -1);
}

std::size_t TextIndex::slot(const TokenTexts& texts, std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = hash_text(text, seed_) & mask;
  while (slots_[i] >= 0 && texts[slots_[i]] != text) i = (i + 1) & mask;
  return i;
}

void TextIndex::grow(const TokenTexts& texts, std::size_t slots) {
  const std::vector<std::int32_t> old = std::exchange(slots_, std::vector<std::int32_t>(slots, -1));
  for (const std::int32_t id : old)
    if (id >= 0) slots_[slot(texts, texts[id])] = id;
}

bool TextIndex::insert(const TokenTexts& texts, std::int32_t id) {
  if (2 * (size_ + 1) > slots_.size()) grow(texts, std::max<std::size_t>(16, 2 * slots_.size()));
  const std::size_t i = slot(texts, texts[id]);
  if (slots_[i] >= 0) return false;
  slots_[i] = id;
  ++size_;
  return true;
}

std::optional<std::int32_t> TextIndex::find(const TokenTexts& texts, std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  const std::int32_t id = slots_[slot(texts, text)];
  return id < 0 ? std::nullopt : std::optional(id);
}

void Bpe::encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& out) const {
  if (whole_pieces) {
    if (const auto id = whole_pieces->find(bytes, piece)) {
      out.push_back(*id);
      return;
    }
  }
  cache.append(piece, out, [this](std::string_view p, std::vector<std::int32_t>& ids) { merge(p, ids); });
}

void Bpe::merge(std::string_view piece, std::vector<std::int32_t>& out) const {
  const std::size_t begin = out.size();
  for (const char c : piece) {
    const std::int32_t id = byte_token[static_cast<unsigned char>(c)];
    if (id >= 0) {
      out.push_back(id);
    } else {
      for (const std::size_t b : {0xEFu, 0xBFu, 0xBDu}) out.push_back(byte_token[b]);
    }
  }
  if (piece.size() <= short_piece) {
    merge_by_scan(merges, out, begin);
  } else {
    MergeChain(merges, out, begin).run();
  }
}

}  // namespace fathom
