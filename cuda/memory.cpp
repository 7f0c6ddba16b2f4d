#include "cuda/memory.h"

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom::cuda {

Arena::Arena(std::uint64_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* p = nullptr;
  FATHOM_CUDA(faults::trip(faults::Site::memory) ? cudaErrorMemoryAllocation : cudaMalloc(&p, bytes));
  memory_ = Handle<void*, cudaFree>(p);
}

std::byte* Arena::take(std::uint64_t bytes) {
  const std::uint64_t aligned = (bytes + 255) / 256 * 256;
  if (aligned > size_ - used_)
    fail(Exit::failure,
         "the placement planned {} bytes of device memory, of which {} are used, and {} more are asked for",
         size_, used_, aligned);
  std::byte* p = data() + used_;
  used_ += aligned;
  return p;
}

Pinned::Pinned(std::uint64_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* p = nullptr;
  FATHOM_CUDA(faults::trip(faults::Site::memory) ? cudaErrorMemoryAllocation : cudaMallocHost(&p, bytes));
  memory_ = Handle<void*, cudaFreeHost>(p);
}

}  // namespace fathom::cuda
