#include "src/app/session_cache.h"

#include <cstring>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "src/base/sha256.h"

namespace fathom {
namespace {

// magic, header_bytes u32, then as JSON-free fixed text: the key's parts with their lengths; count u64; ids i32; rows;
// SHA-256 of all before it as 64 hex digits. Integers are little-endian.
constexpr std::string_view kMagic = "fathom.latents/1\n";
constexpr std::size_t kDigest = 64;
constexpr std::size_t kMaxText = 4096;

template <typename T>
void put(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);
}

std::string header_of(const LatentKey& key, std::uint64_t count) {
  std::string out(kMagic);
  for (const std::string* part : {&key.fingerprint, &key.numerics, &key.backend}) {
    put(out, static_cast<std::uint32_t>(part->size()));
    out += *part;
  }
  put(out, key.row_bytes);
  put(out, count);
  return out;
}

// Reads a header that is expected to be that of `key`; the number of positions, or why not.
std::optional<std::uint64_t> read_header(const File& file, const LatentKey& key, std::size_t* header_bytes, std::string* why) {
  const std::string expected = header_of(key, 0);
  *header_bytes = expected.size();
  if (file.size() < expected.size() + kDigest) return *why = "it is too short", std::nullopt;
  std::string found(expected.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(found)));
  if (!found.starts_with(kMagic)) return *why = "it is no latent cache of this version", std::nullopt;
  const std::size_t fixed = expected.size() - sizeof(std::uint64_t);
  if (std::string_view(found).substr(0, fixed) != std::string_view(expected).substr(0, fixed))
    return *why = "it belongs to other weights or numerics", std::nullopt;
  std::uint64_t count = 0;
  std::memcpy(&count, found.data() + fixed, sizeof count);
  return count;
}

std::optional<LatentRows> read_checked(const std::string& path, const LatentKey& key, std::string* why, std::uint64_t max_bytes) {
  const File file = File::open_read(path);
  std::size_t header_bytes = 0;
  const auto count = read_header(file, key, &header_bytes, why);
  if (!count) return std::nullopt;
  const Size body = Size(*count) * (Size(sizeof(std::int32_t)) + Size(key.row_bytes));
  if ((Size(header_bytes) + body + Size(kDigest)).value() != file.size() || file.size() > max_bytes)
    return *why = "its size does not fit its header", std::nullopt;
  LatentRows out;
  out.ids.resize(*count);
  out.rows.resize((Size(*count) * Size(key.row_bytes)).to<std::size_t>());
  std::string header(header_bytes, '\0'), digest(kDigest, '\0');
  const auto ids = std::as_writable_bytes(std::span(out.ids));
  file.read_at(0, std::as_writable_bytes(std::span(header)));
  file.read_at(header_bytes, ids);
  file.read_at(header_bytes + ids.size(), out.rows);
  file.read_at(header_bytes + ids.size() + out.rows.size(), std::as_writable_bytes(std::span(digest)));
  Sha256 sum;
  sum.update(as_bytes_of(header));
  sum.update(ids);
  sum.update(out.rows);
  if (sum.hex_digest() != digest) return *why = "its checksum is wrong", std::nullopt;
  return out;
}

}  // namespace

std::string latent_path(const std::string& session_path) {
  constexpr std::string_view kEnd = ".jsonl";
  const bool usual = session_path.ends_with(kEnd);
  return session_path.substr(0, session_path.size() - (usual ? kEnd.size() : 0)) + ".latents";
}

bool write_latents(const std::string& path, const LatentKey& key, std::span<const std::int32_t> ids,
                   std::span<const std::byte> rows, std::uint64_t max_bytes) {
  if (key.fingerprint.size() + key.numerics.size() + key.backend.size() > kMaxText) return false;
  const std::string header = header_of(key, ids.size());
  const Size total = Size(header.size()) + Size(ids.size_bytes()) + Size(rows.size()) + Size(kDigest);
  if (total.value() > max_bytes) return false;
  Sha256 sum;
  sum.update(as_bytes_of(header));
  sum.update(std::as_bytes(ids));
  sum.update(rows);
  AtomicFile file(path, 0600);
  file.write(header);
  file.write(std::as_bytes(ids));
  file.write(rows);
  file.write(sum.hex_digest());
  file.commit();
  return true;
}

std::optional<LatentRows> read_latents(const std::string& path, const LatentKey& key, std::string* why,
                                       std::uint64_t max_bytes) {
  why->clear();
  try {
    return read_checked(path, key, why, max_bytes);
  } catch (const Error& e) {
    if (e.code() != Exit::not_found) *why = e.what();
    return std::nullopt;
  }
}

}  // namespace fathom
