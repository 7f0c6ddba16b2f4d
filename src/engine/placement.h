// What lives where and how much of it fits: computed before anything large is allocated.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/base/numerics.h"
#include "src/model/config.h"

namespace fathom {

// What the kernel says about memory, as text; nothing where a file cannot be read.
struct MemoryFiles {
  std::optional<std::string> meminfo = {};                        // /proc/meminfo
  std::optional<std::string> limit = {}, used = {}, stat = {};  // memory.max, .current and .stat of the control group
};
// Bytes that may still be allocated: MemAvailable, or less where a control group says so; nothing when neither is told.
std::optional<std::uint64_t> available_memory(const MemoryFiles& files);
// The same of this machine.
std::optional<std::uint64_t> available_memory();

struct CpuPlan {
  std::int32_t context = 0;               // positions
  std::uint64_t cache_bytes = 0;          // of all of them, committed as they are used
  std::optional<std::uint64_t> available;  // bytes
};

inline constexpr std::int32_t kUsualContext = 32768;
// `wanted`, else min(max_position_embeddings, usual). Errors: usage when wanted exceeds max_position_embeddings.
std::int32_t wanted_context(const Config& config, std::optional<std::int32_t> wanted,
                            std::int32_t usual = kUsualContext);

// The context: `wanted`, else min(max_position_embeddings, what fits in the available memory, 32768).
// Errors: usage when wanted exceeds max_position_embeddings, out_of_memory with the numbers when it does not fit.
CpuPlan plan_cpu(const Config& config, CacheType cache, std::optional<std::int32_t> wanted,
                 std::optional<std::uint64_t> available);

}  // namespace fathom
