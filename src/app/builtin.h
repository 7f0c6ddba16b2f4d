// Minnow, the built-in model.
#pragma once

#include <optional>

#include "src/base/file.h"

namespace fathom {

// Its files: embedded in the executable, or with EMBED=0 read from models/minnow beside the executable or in the
// working directory. Nothing when there is neither.
std::optional<FileSet> builtin_model();

}  // namespace fathom
