#include "src/app/builtin.h"

#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#ifdef FATHOM_EMBED
// One row per file, made by scripts/embed.sh: the name, the first byte and the byte behind the last. Ends with nulls.
extern "C" {
struct FathomEmbeddedFile {
  const char* name;
  const std::byte* begin;
  const std::byte* end;
};
extern const FathomEmbeddedFile fathom_embedded_files[];
}
#endif

namespace fathom {
namespace {

#ifndef FATHOM_EMBED
// The directory of the executable, "" when /proc does not say.
std::string executable_directory() {
  char buffer[4096];
  const ssize_t n = ::readlink("/proc/self/exe", buffer, sizeof buffer);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof buffer)) return {};
  const std::string_view path(buffer, static_cast<std::size_t>(n));
  return std::string(path.substr(0, path.rfind('/')));
}
#endif

}  // namespace

std::optional<FileSet> builtin_model() {
#ifdef FATHOM_EMBED
  std::vector<FileSet::MemoryFile> files;
  for (const FathomEmbeddedFile* f = fathom_embedded_files; f->name != nullptr; ++f)
    files.push_back({f->name, Bytes(f->begin, f->end)});
  return FileSet::memory("minnow", std::move(files));
#else
  const std::string beside = executable_directory();
  for (const std::string& directory : {beside + "/models/minnow", beside + "/../../models/minnow", std::string("models/minnow")})
    if (::access((directory + "/config.json").c_str(), R_OK) == 0) return FileSet::directory(directory);
  return std::nullopt;
#endif
}

}  // namespace fathom
