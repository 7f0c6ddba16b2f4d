// The latent cache of a conversation, beside its session file: resuming reads rows instead of running the model.
//
// The file is untrusted and disposable. It is used only when its key, its sizes and its SHA-256 are right; loss or
// damage costs the time of a prefill and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// What rows are good for: the same weights, numerics, backend and row layout.
struct LatentKey {
  std::string fingerprint;   // of the checkpoint
  std::string numerics;      // "cache bf16, prompt f32, generated f32"
  std::string backend;       // "cpu", "cuda"
  std::uint64_t row_bytes = 0;  // of one position, all layers together
};

struct LatentRows {
  std::vector<std::int32_t> ids;  // the token prefix, one per position
  std::vector<std::byte> rows;    // ids.size() * row_bytes, in the layout of Forward::export_rows
};

// Fewer tokens are read again sooner than a file is checked.
inline constexpr std::size_t kLatentsWorthSaving = 64;
inline constexpr std::uint64_t kMaxLatentBytes = std::uint64_t{4} << 30;

// The file for a session: "talk.jsonl" -> "talk.latents".
std::string latent_path(const std::string& session_path);

// Writes rows, whole or not at all, mode 0600. False without writing when it would exceed `max_bytes`. Errors: io.
bool write_latents(const std::string& path, const LatentKey& key, std::span<const std::int32_t> ids,
                   std::span<const std::byte> rows, std::uint64_t max_bytes = kMaxLatentBytes);

// Reads rows for `key`; nothing when there is no file, or with `why` filled when it cannot be used. Never throws for
// what the file holds.
std::optional<LatentRows> read_latents(const std::string& path, const LatentKey& key, std::string* why,
                                       std::uint64_t max_bytes = kMaxLatentBytes);

}  // namespace fathom
