// From what the user calls a model to the files of one: a path, ORG/NAME[@REV] in the Hugging Face cache, an alias.
// Never uses the network.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/app/config_file.h"
#include "src/app/environment.h"
#include "src/base/file.h"

namespace fathom {

struct ResolvedModel {
  std::string name;       // as in JSON's "model": ORG/NAME, the directory's last part, or Minnow
  std::string directory;  // empty for the built-in model in memory
  bool builtin = false;
  FileSet files;
};

// `wanted`: -m or FATHOM_MODEL; nothing: the built-in model. Errors: not_found with the places searched, near matches
// and the command that downloads.
ResolvedModel resolve_model(const std::optional<std::string>& wanted, const Environment& environment,
                            const ConfigFile& config);

// One snapshot in the Hugging Face cache.
struct CachedModel {
  std::string name;       // ORG/NAME
  std::string revision;   // commit
  std::string directory;  // of the snapshot
  bool main = true;       // refs/main names it: ORG/NAME alone finds it
  // What -m takes: ORG/NAME, or ORG/NAME@REV with the commit's first seven digits.
  std::string argument() const;
};
// Every model in the cache with a snapshot, by name; of several snapshots the one refs/main names, else the newest.
std::vector<CachedModel> cached_models(const Environment& environment);

}  // namespace fathom
