// The only header of cuda/ that src/ includes: plain C++, usable in a build without CUDA (cuda/none.cpp then answers).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::cuda {

struct DeviceInfo {
  int ordinal = 0;
  std::string name;               // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;       // compute capability
  int multiprocessors = 0;
  std::uint64_t memory_total = 0, memory_free = 0;  // bytes
};

// True when fathom was built with CUDA.
bool built_with_cuda();
// GPUs that fathom can run on, after CUDA_VISIBLE_DEVICES; empty without driver or device. Never throws; `why` says in
// one line why the list is empty.
std::vector<DeviceInfo> devices(std::string* why = nullptr);

}  // namespace fathom::cuda
