#include "src/base/populate.h"

#include <sys/mman.h>

#include <cstdint>

namespace fathom {

void populate(std::span<const std::byte> mapped) {
#ifdef MADV_POPULATE_READ
  static constexpr std::uintptr_t kPage = 4096;
  const auto at = reinterpret_cast<std::uintptr_t>(mapped.data());
  const std::uintptr_t begin = at / kPage * kPage, end = (at + mapped.size() + kPage - 1) / kPage * kPage;
  // A kernel before 5.14 knows no such advice, and a file that was truncated meanwhile is reported by who reads it.
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
#else
  (void)mapped;
#endif
}

}  // namespace fathom
