#include "src/engine/kv_cache.h"

#include <sys/mman.h>

#include <cassert>
#include <cstring>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/tensor.h"

namespace fathom {
namespace {

// Zeroed pages that cost memory only once touched.
template <typename T>
std::shared_ptr<T> reserve(Size bytes, const char* what) {
  const auto n = bytes.to<std::size_t>();
  void* p = faults::trip(faults::Site::memory)
                ? MAP_FAILED
                : ::mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(Exit::out_of_memory, fmt::format("cannot reserve {} bytes for the {}", n, what),
                "use a smaller --ctx");
  return std::shared_ptr<T>(static_cast<T*>(p), [n](T* q) { ::munmap(q, n); });
}

}  // namespace

KvCache::KvCache(const Config& config, CacheType type, std::int32_t capacity, std::uint32_t timelines, bool with_mtp)
    : type_(type),
      capacity_(capacity),
      timelines_(timelines),
      layers_(config.num_hidden_layers + (with_mtp ? config.num_nextn_predict_layers : 0)),
      row_values_(config.kv_row()),
      row_bytes_(static_cast<std::size_t>(row_values_) * (type == CacheType::f32 ? 4 : 2)) {
  if (type == CacheType::fp8)
    throw Error(Exit::unsupported, "--cache fp8 is not available yet", "use --cache bf16 or --cache f32");
  const Size slots = Size(layers_) * Size(timelines) * Size(capacity);
  data_ = reserve<std::byte>(slots * Size(row_bytes_), "latent cache");
  tags_ = reserve<RowTag>(slots * Size(sizeof(RowTag)), "latent cache's tags");
}

std::size_t KvCache::slot(StreamId stream, std::uint32_t timeline, std::int32_t position) const {
  assert(stream.kind == RowKind::latent && stream.layer >= 0 && stream.layer < layers_);
  assert(timeline < timelines_ && position >= 0 && position < capacity_);
  const auto index = static_cast<std::size_t>(stream.layer) * timelines_ + timeline;
  return index * static_cast<std::size_t>(capacity_) + static_cast<std::size_t>(position);
}

const std::byte* KvCache::rows(StreamId stream, std::uint32_t timeline) const {
  return data_.get() + slot(stream, timeline, 0) * row_bytes_;
}

void KvCache::store(StreamId stream, RowTag tag, std::span<const float> row) {
  assert(row.size() == static_cast<std::size_t>(row_values_));
  const std::size_t s = slot(stream, tag.timeline, tag.position);
  // Untouched tag pages read as {0, 0}; the stored position is one more than the row's, so that zero means "never".
  tags_.get()[s] = {tag.timeline, tag.position + 1};
  std::byte* out = data_.get() + s * row_bytes_;
  if (type_ == CacheType::f32) {
    std::memcpy(out, row.data(), row_bytes_);
    return;
  }
  for (std::size_t i = 0; i < row.size(); ++i) {
    const std::uint16_t h = float_to_bf16(row[i]);
    std::memcpy(out + 2 * i, &h, 2);
  }
}

void KvCache::restore(StreamId stream, std::uint32_t timeline, std::span<const std::byte> rows) {
  if (rows.empty()) return;
  const std::size_t first = slot(stream, timeline, 0), count = rows.size() / row_bytes_;
  assert(count <= static_cast<std::size_t>(capacity_));
  std::memcpy(data_.get() + first * row_bytes_, rows.data(), count * row_bytes_);
  for (std::size_t i = 0; i < count; ++i) tags_.get()[first + i] = {timeline, static_cast<std::int32_t>(i) + 1};
}

void KvCache::read(StreamId stream, std::uint32_t timeline, std::int32_t position, std::span<float> out) const {
  assert(out.size() == static_cast<std::size_t>(row_values_));
  const std::byte* in = data_.get() + slot(stream, timeline, position) * row_bytes_;
  const DType t = type_ == CacheType::f32 ? DType::f32 : DType::bf16;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = element_as_float(t, in, i);
}

RowTag KvCache::tag(StreamId stream, std::uint32_t timeline, std::int32_t position) const {
  const RowTag t = tags_.get()[slot(stream, timeline, position)];
  return {t.timeline, t.position - 1};
}

}  // namespace fathom
