// What is said where a GPU cannot be used. Needs none.
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "cuda/check.h"
#include "src/base/error.h"

using namespace fathom;

namespace {

Error error_of(cudaError_t code) {
  try {
    cuda::check(code, "cudaProbe()");
  } catch (const Error& e) {
    return e;
  }
  FAIL("no error was thrown");
  return Error(Exit::failure, "");
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("gpu messages: no driver, an old one, no device, an old or a busy one are told apart") {
  using cuda::no_device_reason;
  const cuda::NoDevice without = no_device_reason(cudaErrorInsufficientDriver, 0, 0, 13000);
  CHECK(without.why == "no NVIDIA driver is installed");
  CHECK(!without.present);
  CHECK(no_device_reason(cudaErrorInsufficientDriver, 0, 12040, 13000).present);
  const std::string old = no_device_reason(cudaErrorInsufficientDriver, 0, 12040, 13000).why;
  CHECK(has(old, "too old"));
  CHECK(has(old, "CUDA 12.4"));
  CHECK(has(old, "13.0"));
  for (cudaError_t code : {cudaErrorNoDevice, cudaSuccess}) {
    const cuda::NoDevice none = no_device_reason(code, 0, 13000, 13000);
    CHECK(none.why == "no CUDA device is visible");
    CHECK(!none.present);
  }
  CHECK(has(no_device_reason(cudaSuccess, 1, 13000, 13000).why, "compute capability 8.0"));
  CHECK(has(no_device_reason(cudaErrorDevicesUnavailable, 1, 13000, 13000).why, "another process"));
  CHECK(has(no_device_reason(cudaErrorECCUncorrectable, 1, 13000, 13000).why, "ECC"));
  CHECK(no_device_reason(cudaErrorECCUncorrectable, 1, 13000, 13000).present);
}

TEST_CASE("gpu messages: each failure before the first kernel has its exit code and its remedy") {
  std::set<std::string> remedies;
  for (cudaError_t code : {cudaErrorInsufficientDriver, cudaErrorUnsupportedPtxVersion,
                           cudaErrorNoKernelImageForDevice, cudaErrorNoDevice, cudaErrorDevicesUnavailable}) {
    const Error e = error_of(code);
    CHECK(e.code() == Exit::unsupported);
    CHECK(has(e.what(), "cudaProbe()"));
    CHECK(has(e.remedy(), "--backend cpu"));
    remedies.insert(std::string(e.remedy()));
  }
  CHECK(remedies.size() == 5);
  CHECK(has(error_of(cudaErrorUnsupportedPtxVersion).remedy(), "newer NVIDIA driver"));
  CHECK(!has(error_of(cudaErrorUnsupportedPtxVersion).remedy(), "older than"));
  const Error memory = error_of(cudaErrorMemoryAllocation);
  CHECK(memory.code() == Exit::out_of_memory);
  CHECK(has(memory.remedy(), "--ctx"));
  CHECK(!cuda::lost());  // none of them ends the use of CUDA
}
