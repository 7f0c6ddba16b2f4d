// Reading the header of one safetensors file; see parse_safetensors_header in checkpoint.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/error.h"
#include "src/base/file.h"

namespace fathom {

// The file is not damaged but not all there: cut short, or a placeholder in its stead. Downloading it again
// helps.
class IncompleteFile : public Error {
 public:
  IncompleteFile(std::string message, std::string_view file, std::uint64_t offset)
      : Error(Exit::bad_checkpoint, std::move(message)) {
    at(std::string(file), offset);
  }
};

// The most that a header may hold, as in the reference reader.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;
// Enough of a file's beginning to tell what else it is when it is not a safetensors file.
inline constexpr std::size_t kSafetensorsSniff = 64;

// Length N of the JSON header, checked against the file's size before anything of that size is read. `head`:
// the first min(64, file_size) bytes of the file, or more. Errors: IncompleteFile (cut short; a Git LFS
// pointer; an error page), bad_checkpoint, unsupported (another container, with a hint).
std::uint64_t safetensors_header_length(Bytes head, std::uint64_t file_size, std::string_view where);

}  // namespace fathom
