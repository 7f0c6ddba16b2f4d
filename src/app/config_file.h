// The configuration file: a subset of TOML that holds defaults of flags and a table of model aliases.
//
//   model = "V3"            # a long flag without its dashes
//   temp = 0.6
//   stop = ["###", "END"]   # flags that repeat take a list
//   no-history = true
//
//   [aliases]
//   V3 = "~/models/DeepSeek-V3"
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom {

struct ConfigFile {
  // One default, its values as they would stand on the command line ("true" or "false" for a flag without a value).
  struct Default {
    std::string flag;  // long name without dashes
    std::vector<std::string> values;
    int line = 0;
  };
  std::string path;
  std::vector<Default> defaults;                             // in file order; each flag once
  std::vector<std::pair<std::string, std::string>> aliases;  // name, model

  // The model that `name` stands for.
  std::optional<std::string> alias(std::string_view name) const;
};

// Largest configuration file that is read.
inline constexpr std::uint64_t kMaxConfigBytes = 1u << 20;

// True if a flag may stand in the configuration file: one that describes a habit, not a single request.
bool may_be_configured(std::string_view flag);

// Parses `text`. Errors: usage naming `where` and the line; an unknown key names the nearest known one.
ConfigFile parse_config_text(std::string_view text, std::string_view where);

// Reads `path`. Errors: not_found when absent or unreadable; usage when malformed, larger than kMaxConfigBytes or not
// a regular file.
ConfigFile read_config_file(const std::string& path);

// The file named by `explicit_path` (--config, FATHOM_CONFIG), which must exist; when empty, `default_path`, which
// need not (nothing then, also for an empty default_path).
std::optional<ConfigFile> load_config_file(const std::string& explicit_path, const std::string& default_path);

// The known word nearest to `word` by edit distance (insert, delete, replace, swap), if it is near enough to be meant.
std::string nearest_word(std::string_view word, std::span<const std::string_view> known);

}  // namespace fathom
