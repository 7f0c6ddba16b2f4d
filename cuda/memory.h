// Owners of device memory, pinned host memory, streams, events and graphs.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "cuda/check.h"

namespace fathom::cuda {

// A handle that is released at the end; a release that fails says nothing (the device may be lost).
template <typename T, auto Release>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, T{})) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_ != T{} && !lost()) (void)Release(value_);
  }
  T get() const { return value_; }
  explicit operator bool() const { return value_ != T{}; }

 private:
  T value_{};
};

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using Graph = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;

inline Stream make_stream() {
  cudaStream_t s = nullptr;
  FATHOM_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  return Stream(s);
}
// Copies to the device; the bytes are there when it returns. cudaMemcpy alone may return while they are on their way
// from pageable memory, and no stream of make_stream() waits for it.
inline void copy_to_device(void* to, const void* from, std::size_t bytes) {
  FATHOM_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  FATHOM_CUDA(cudaStreamSynchronize(cudaStreamLegacy));
}
inline Event make_event(bool timing = true) {
  cudaEvent_t e = nullptr;
  FATHOM_CUDA(cudaEventCreateWithFlags(&e, timing ? cudaEventDefault : cudaEventDisableTiming));
  return Event(e);
}

// Device memory, handed out in 256-byte aligned pieces. Errors: out_of_memory when the device has too little.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::uint64_t bytes);
  // Precondition: the plan that sized the arena counted this piece; throws failure otherwise.
  std::byte* take(std::uint64_t bytes);
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  std::uint64_t size() const { return size_; }

 private:
  Handle<void*, cudaFree> memory_;
  std::uint64_t size_ = 0, used_ = 0;
};

// Page-locked host memory. Errors: out_of_memory.
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(std::uint64_t bytes);
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  std::uint64_t size() const { return size_; }

 private:
  Handle<void*, cudaFreeHost> memory_;
  std::uint64_t size_ = 0;
};

}  // namespace fathom::cuda
