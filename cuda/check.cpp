#include "cuda/check.h"

#include <atomic>

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom::cuda {
namespace {
// A lost context is a fact about the process, not about one engine: the driver keeps one primary context per
// device.
std::atomic<bool> device_lost{false};
}  // namespace

Severity classify(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return Severity::none;
    case cudaErrorMemoryAllocation:
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorNotReady:
    case cudaErrorPeerAccessAlreadyEnabled:
      return Severity::retryable;
    default:
      return Severity::fatal;
  }
}

bool lost() { return device_lost.load(std::memory_order_relaxed); }

cudaError_t before_call() {
  if (lost() || faults::trip(faults::Site::cuda)) return cudaErrorLaunchFailure;
  return cudaSuccess;
}

void check(cudaError_t code, std::string_view operation) {
  if (code == cudaSuccess) return;
  if (classify(code) == Severity::fatal) device_lost = true;
  // Neither of these two touches the device.
  const std::string what =
      fmt::format("CUDA: {}: {} ({})", operation, cudaGetErrorString(code), static_cast<int>(code));
  switch (code) {
    case cudaErrorMemoryAllocation:
      throw Error(Exit::out_of_memory, what, "use a smaller --ctx, or --backend cpu");
    case cudaErrorNoDevice:
    case cudaErrorDevicesUnavailable:
      throw Error(Exit::unsupported, what, "use --backend cpu");
    case cudaErrorInsufficientDriver:
      throw Error(Exit::unsupported, what, "install a newer NVIDIA driver, or use --backend cpu");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      throw Error(Exit::unsupported, what,
                  "this GPU is older than compute capability 8.0; use --backend cpu");
    default:
      throw Error(Exit::compute, what);
  }
}

}  // namespace fathom::cuda
