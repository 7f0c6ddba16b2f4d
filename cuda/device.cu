#include "cuda/device.h"

#include <cuda_runtime.h>

#include "cuda/check.h"

namespace fathom::cuda {

bool built_with_cuda() { return true; }

std::vector<DeviceInfo> devices(NoDevice* none) {
  std::vector<DeviceInfo> list;
  int count = 0;
  cudaError_t code = cudaGetDeviceCount(&count);
  for (int i = 0; code == cudaSuccess && i < count; ++i) {
    cudaDeviceProp p{};
    code = cudaGetDeviceProperties(&p, i);
    if (code != cudaSuccess) break;
    DeviceInfo d{i, p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem, 0, 0, {}};
    char address[32] = {};
    if (cudaDeviceGetPCIBusId(address, sizeof address, i) == cudaSuccess) d.pci_address = address;
    int kilohertz = 0, bits = 0;
    if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, i) == cudaSuccess &&
        cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, i) == cudaSuccess)
      d.memory_bandwidth = 2.0 * 1000.0 * kilohertz * bits / 8;  // two transfers a clock
    std::size_t free_bytes = 0, total = 0;
    if (cudaSetDevice(i) == cudaSuccess && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess)
      d.memory_free = free_bytes;
    if (p.major >= 8) list.push_back(d);
  }
  int driver = 0;
  if (none != nullptr && list.empty()) {
    (void)cudaDriverGetVersion(&driver);  // 0 where there is none
    *none = no_device_reason(code, count, driver, CUDART_VERSION);
  }
  return list;
}

}  // namespace fathom::cuda
