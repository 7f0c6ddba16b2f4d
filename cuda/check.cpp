#include "cuda/check.h"

#include <atomic>

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom::cuda {
namespace {
// A lost context is a fact about the process, not about one engine: the driver keeps one primary context per
// device.
std::atomic<bool> device_lost{false};

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }
}  // namespace

NoDevice no_device_reason(cudaError_t code, int devices, int driver_version, int runtime_version) {
  switch (code) {
    case cudaSuccess:
      if (devices == 0) return {"no CUDA device is visible", false};
      return {"the GPU is older than compute capability 8.0", true};
    case cudaErrorNoDevice:
      return {"no CUDA device is visible", false};
    case cudaErrorInsufficientDriver:
      // Without a driver CUDA reports one that is too old, of version 0.
      if (driver_version == 0) return {"no NVIDIA driver is installed", false};
      return {fmt::format("the NVIDIA driver is too old: it supports CUDA {}, this program needs {}",
                          version_text(driver_version), version_text(runtime_version)),
              true};
    case cudaErrorDevicesUnavailable:
      return {"the GPU is taken: another process has it to itself", true};
    default:
      return {cudaGetErrorString(code), true};
  }
}

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
      throw Error(Exit::unsupported, what, "use --backend cpu");
    case cudaErrorDevicesUnavailable:
      throw Error(Exit::unsupported, what,
                  "another process has the GPU to itself: wait for its end, or use --backend cpu");
    case cudaErrorInsufficientDriver:
      throw Error(Exit::unsupported, what, "install a newer NVIDIA driver, or use --backend cpu");
    case cudaErrorNoKernelImageForDevice:
      throw Error(Exit::unsupported, what,
                  "this GPU is older than compute capability 8.0; use --backend cpu");
    // GPUs other than Hopper run what the driver compiles, and this one does not know the language's version.
    case cudaErrorUnsupportedPtxVersion:
      throw Error(
          Exit::unsupported, what,
          fmt::format(
              "the driver cannot compile CUDA {} programs for this GPU: install a newer NVIDIA driver, or "
              "use --backend cpu",
              version_text(CUDART_VERSION)));
    default:
      throw Error(Exit::compute, what);
  }
}

}  // namespace fathom::cuda
