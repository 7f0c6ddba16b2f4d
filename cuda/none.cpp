// Answers for a build without CUDA.
#include "cuda/device.h"

namespace fathom::cuda {

bool built_with_cuda() { return false; }

std::vector<DeviceInfo> devices(std::string* why) {
  if (why != nullptr) *why = "this fathom was built without CUDA";
  return {};
}

}  // namespace fathom::cuda
