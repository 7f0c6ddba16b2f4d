// The key/value cache as named row streams per layer. A row is what Latents writes: normed latent, then rotated key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/base/numerics.h"
#include "src/model/config.h"

namespace fathom {

// What a row stream holds. index: sparse-attention keys, later.
enum class RowKind : std::uint8_t { latent, index };

struct StreamId {
  RowKind kind = RowKind::latent;
  int layer = 0;  // MTP layers count on from num_hidden_layers
};

// Which sequence a row belongs to and where in it.
struct RowTag {
  std::uint32_t timeline = 0;
  std::int32_t position = -1;
  bool operator==(const RowTag&) const = default;
};

// Host memory for the rows of `timelines` sequences of up to `capacity` positions each. Reserved at construction,
// committed page by page as rows are written, so a large context costs nothing until it is used.
class KvCache {
 public:
  // Errors: out_of_memory naming bytes and rows; unsupported for CacheType::fp8.
  KvCache(const Config& config, CacheType type, std::int32_t capacity, std::uint32_t timelines = 1,
          bool with_mtp = false);

  CacheType type() const { return type_; }
  std::int32_t capacity() const { return capacity_; }
  // Values per row: kv_lora_rank + qk_rope_head_dim. Bytes per row: values * element size.
  int row_values() const { return row_values_; }
  std::size_t row_bytes() const { return row_bytes_; }
  // Bytes of all rows of all streams for one position.
  std::size_t bytes_per_position() const { return row_bytes_ * static_cast<std::size_t>(layers_); }

  // Rows [0, n) of a timeline, consecutive in memory, `row_bytes()` apart. Precondition: n <= capacity().
  const std::byte* rows(StreamId stream, std::uint32_t timeline) const;
  // Stores a row, rounded to type(): (row_values) floats. Precondition: 0 <= tag.position < capacity().
  void store(StreamId stream, RowTag tag, std::span<const float> row);
  // Reads row `position` back as floats, exactly as stored.
  void read(StreamId stream, std::uint32_t timeline, std::int32_t position, std::span<float> out) const;
  // Puts `rows` (row_bytes() apart, as rows() gives them) at positions [0, rows.size() / row_bytes()).
  // Precondition: they fit capacity().
  void restore(StreamId stream, std::uint32_t timeline, std::span<const std::byte> rows);
  // The tag written with a row; {0, -1} before the first.
  RowTag tag(StreamId stream, std::uint32_t timeline, std::int32_t position) const;

 private:
  std::size_t slot(StreamId stream, std::uint32_t timeline, std::int32_t position) const;
  CacheType type_;
  std::int32_t capacity_;
  std::uint32_t timelines_;
  int layers_;
  int row_values_;
  std::size_t row_bytes_;
  std::shared_ptr<std::byte> data_;
  std::shared_ptr<RowTag> tags_;
};

}  // namespace fathom
