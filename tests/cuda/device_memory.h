// Device memory for tests of single kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"

namespace fathom::test {

// Holds what a test puts there; every other byte is 0xff, a NaN to whoever reads it as a number.
struct DeviceMemory {
  DeviceMemory() : arena(std::uint64_t{512} << 20), stream(cuda::make_stream()) {
    FATHOM_CUDA(cudaMemset(arena.data(), 0xff, arena.size()));
    on = {stream.get(), cuda::devices().front().multiprocessors, cuda::runs_hopper_code()};
  }
  template <typename T>
  T* put(const std::vector<T>& v) {
    T* p = room<T>(v.size());
    cuda::copy_to_device(p, v.data(), v.size() * sizeof(T));
    return p;
  }
  template <typename T>
  T* room(std::size_t n) {
    return reinterpret_cast<T*>(arena.take(n * sizeof(T) + 256));
  }
  template <typename T>
  std::vector<T> get(const T* p, std::size_t n) {
    FATHOM_CUDA(cudaStreamSynchronize(stream.get()));
    std::vector<T> v(n);
    FATHOM_CUDA(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  cuda::Arena arena;
  cuda::Stream stream;
  cuda::Launch on;
};

}  // namespace fathom::test
