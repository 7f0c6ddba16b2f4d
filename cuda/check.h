// The wrapper around every CUDA call: classifies the result and stops all CUDA work after a fatal one.
// For .cu files and cuda/*.cpp only.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <string_view>

#include "cuda/device.h"

namespace fathom::cuda {

// Retryable: the call failed before anything was launched (memory). Fatal: the context is lost (illegal
// address, launch failure, ECC, ...); every later check() throws at once without a CUDA call.
enum class Severity { none, retryable, fatal };
Severity classify(cudaError_t code);

// Throws Error: out_of_memory (memory), unsupported (no device, driver too old, no kernel image), compute
// otherwise, naming `operation` and CUDA's own text. A fault injected at faults::Site::cuda looks like
// cudaErrorLaunchFailure, and one at faults::Site::memory in an allocation like cudaErrorMemoryAllocation.
void check(cudaError_t code, std::string_view operation);

// Why there is no GPU to run on. `code`: what looking for `devices` of them gave; versions as
// CUDA counts them (13000 is 13.0), 0 for a driver that is not there.
NoDevice no_device_reason(cudaError_t code, int devices, int driver_version, int runtime_version);

// True once a fatal error was seen: no further CUDA call may be made.
bool lost();

}  // namespace fathom::cuda

// Evaluates `call` unless the device is lost or a fault is injected.
#define FATHOM_CUDA(call) \
  ::fathom::cuda::check(::fathom::cuda::before_call() == cudaSuccess ? (call) : cudaErrorLaunchFailure, #call)

namespace fathom::cuda {
// cudaSuccess, or the error that an injected fault or a lost device stands for.
cudaError_t before_call();
}  // namespace fathom::cuda
