#include "src/engine/placement.h"

#include <algorithm>
#include <charconv>

#include "src/base/descriptor.h"
#include "src/base/error.h"

namespace fathom {
namespace {

// Activations, tokenizer and the allocator's slack; the weights are mapped and can be dropped from memory again.
constexpr std::uint64_t kReserve = 256u << 20;

// The first integer after `key` in `text`.
std::optional<std::uint64_t> number_after(std::string_view text, std::string_view key) {
  const auto at = text.find(key);
  if (at == text.npos) return std::nullopt;
  text.remove_prefix(at + key.size());
  const auto digit = text.find_first_of("0123456789");
  if (digit == text.npos) return std::nullopt;
  std::uint64_t v = 0;
  const auto [end, error] = std::from_chars(text.data() + digit, text.data() + text.size(), v);
  if (error != std::errc()) return std::nullopt;
  return v;
}

std::optional<std::string> small_text(const std::string& path) {
  try {
    return read_input(path, 1u << 20);
  } catch (const Error&) {
    return std::nullopt;  // no /proc, or no such control group: there is simply nothing to learn
  }
}

std::optional<std::uint64_t> control_group_memory(const MemoryFiles& files) {
  if (!files.limit || !files.used) return std::nullopt;
  const auto most = number_after(*files.limit, ""), now = number_after(*files.used, "");
  if (!most || !now) return std::nullopt;  // "max": no limit
  // File pages count as used but are given back under pressure.
  const std::uint64_t reclaimable = files.stat ? number_after(*files.stat, "inactive_file ").value_or(0) : 0;
  const std::uint64_t held = *now - std::min(*now, reclaimable);
  return *most - std::min(*most, held);
}

}  // namespace

std::optional<std::uint64_t> available_memory(const MemoryFiles& files) {
  std::optional<std::uint64_t> bytes;
  if (files.meminfo)
    if (const auto kilobytes = number_after(*files.meminfo, "MemAvailable:"))
      bytes = std::min(*kilobytes, ~std::uint64_t{0} >> 10) << 10;
  const auto group = control_group_memory(files);
  if (group && (!bytes || *group < *bytes)) bytes = group;
  return bytes;
}

std::optional<std::uint64_t> available_memory() {
  const std::string group = "/sys/fs/cgroup/memory.";
  return available_memory({.meminfo = small_text("/proc/meminfo"),
                           .limit = small_text(group + "max"),
                           .used = small_text(group + "current"),
                           .stat = small_text(group + "stat")});
}

std::int32_t wanted_context(const Config& config, std::optional<std::int32_t> wanted, std::int32_t usual) {
  if (wanted && *wanted > config.max_position_embeddings)
    throw Error(Exit::usage, fmt::format("--ctx {}: the model was made for at most {} positions (max_position_embeddings)",
                                         *wanted, config.max_position_embeddings));
  return wanted.value_or(static_cast<std::int32_t>(std::min<std::int64_t>(config.max_position_embeddings, usual)));
}

CpuPlan plan_cpu(const Config& config, CacheType cache, std::optional<std::int32_t> wanted,
                 std::optional<std::uint64_t> available) {
  if (cache == CacheType::fp8)
    throw Error(Exit::unsupported, "--cache fp8 is not supported yet", "use --cache bf16 or f32");
  const std::uint64_t element = cache == CacheType::f32 ? 4 : 2;
  const std::uint64_t row = static_cast<std::uint64_t>(config.kv_row()) * element *
                            static_cast<std::uint64_t>(config.num_hidden_layers);
  const std::uint64_t usable = available ? *available - std::min(*available, kReserve) : ~std::uint64_t{0};
  const auto fits = static_cast<std::int64_t>(std::min<std::uint64_t>(usable / row, std::uint64_t{1} << 31));
  CpuPlan plan;
  plan.available = available;
  const auto describe = [&](std::int64_t context) {
    return fmt::format("a context of {} needs {:.1f} MiB for the latent cache ({} bytes per position), {:.1f} MiB are available",
                       context, static_cast<double>(row) * static_cast<double>(context) / (1 << 20), row,
                       static_cast<double>(usable) / (1 << 20));
  };
  plan.context = wanted_context(config, wanted);
  if (wanted && *wanted > fits)
    throw Error(Exit::out_of_memory, describe(*wanted), fmt::format("the largest --ctx that fits is {}", fits));
  if (fits < 2) throw Error(Exit::out_of_memory, describe(2), "close other programs");
  plan.context = static_cast<std::int32_t>(std::min<std::int64_t>(plan.context, fits));
  plan.cache_bytes = row * static_cast<std::uint64_t>(plan.context);
  return plan;
}

}  // namespace fathom
