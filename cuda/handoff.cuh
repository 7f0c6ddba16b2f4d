// Hand-offs between the blocks of one cooperative launch, and between a warp that copies weights into shared
// memory and the warps that use them.
//
// A grid hand-off makes everything that any block wrote before it visible to every block behind it. A block
// arrives once: its threads meet (their writes then happen before the arrival), one thread adds 1 with
// release semantics, one thread polls with acquire semantics, and the threads meet again. The counter only
// grows during a launch, so nothing is reset between hand-offs; the last block to leave zeroes it for the
// next launch. Measured on an H100: 1.0 us for 132 blocks (cuda/NOTES.md).
//
// Small results need no counter: a tagged word carries the epoch in which it was written, in one access that
// is never torn, so whoever reads the epoch has the value. Its writer needs no fence, its reader no second
// trip to L2. Whoever writes a word again must know that everybody has read it.
//
// Every wait is bounded: a mistake traps (the launch fails with an error) instead of hanging the machine.
#pragma once

#include "cuda/kernel.cuh"

namespace fathom::cuda {

// Ten seconds: longer than any launch, also under a debugging tool.
inline constexpr std::uint64_t kMostNanoseconds = 10'000'000'000;

// Of a wait that began at `since` (0: now).
__device__ __noinline__ inline std::uint64_t check_patience(std::uint64_t since) {
  std::uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  if (since == 0) return now;
  if (now - since > kMostNanoseconds) __trap();
  return since;
}

// -- between blocks -----------------------------------------------------------------------------------------

// In device memory, zero before the first launch. One 128-byte line each: arrivals at one do not delay polls
// of another.
struct GridCounters {
  alignas(128) unsigned arrived;  // by blocks
  alignas(128) unsigned left;     // blocks at their end
  alignas(128) unsigned epoch;    // of tagged words: those that earlier launches may have used
};

// What the calling thread wrote, and what it saw of others at a barrier before, is visible to whoever sees
// the sum.
__device__ __forceinline__ void add_release(unsigned* counter, unsigned n = 1) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(n) : "memory");
}

__device__ __forceinline__ unsigned load_acquire(const unsigned* counter) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}
// Waits until the counter has reached `target`; the difference decides, so the counter may wrap.
__device__ __noinline__ inline void poll_acquire(const unsigned* counter, unsigned target) {
  std::uint64_t since = 0;
  for (unsigned polls = 1; static_cast<int>(load_acquire(counter) - target) < 0; ++polls)
    if (polls % 64 == 0) since = check_patience(since);
}

// Barrier of `kCount` threads of a block, other than __syncthreads.
template <int kBarrier, int kCount>
__device__ __forceinline__ void sync_some() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kCount) : "memory");
}

// The two halves of a hand-off, by kCount threads of each block, thread 0 of the block among them.
// `arrivals`: thread 0's, of all blocks by the end of this hand-off; zero at the beginning of a launch. What
// is done between the halves neither sees the other blocks' writes nor is seen by them.
template <int kBarrier, int kCount>
__device__ __forceinline__ void arrive_grid(GridCounters* counters, unsigned& arrivals) {
  sync_some<kBarrier, kCount>();  // the block's writes come before the arrival
  if (threadIdx.x == 0) arrivals += gridDim.x, add_release(&counters->arrived);
}
template <int kBarrier, int kCount>
__device__ __forceinline__ void wait_grid(const GridCounters* counters, const unsigned& arrivals) {
  if (threadIdx.x == 0) poll_acquire(&counters->arrived, arrivals);
  sync_some<kBarrier, kCount>();  // every thread is behind the poll
}

// At a block's end, by one thread, when no thread of the block will poll or arrive again. `epochs`: used by
// this launch, behind counters->epoch.
__device__ __forceinline__ void leave_grid(GridCounters* counters, unsigned epochs = 0) {
  __threadfence();  // this block's arrivals come before its leaving
  if (atomicAdd(&counters->left, 1u) + 1 < gridDim.x) return;
  counters->arrived = counters->left = 0;  // the end of the launch publishes the zeros
  counters->epoch += epochs;
}

// -- tagged words -------------------------------------------------------------------------------------------

// Three values of 32 bits and the epoch, aligned to 16 bytes.
struct TaggedWord {
  std::uint64_t low, high;
  __device__ __forceinline__ unsigned epoch() const { return static_cast<unsigned>(high >> 32); }
  __device__ __forceinline__ unsigned operator[](int i) const {
    return static_cast<unsigned>(i == 0 ? low : i == 1 ? low >> 32 : high);
  }
};
__device__ __forceinline__ void store_tagged(TaggedWord* to, unsigned a, unsigned b, unsigned c,
                                             unsigned epoch) {
#if __CUDA_ARCH__ >= 700
  asm volatile(
      "{\n.reg .b128 w;\n.reg .b64 low, high;\nmov.b64 low, {%1, %2};\nmov.b64 high, {%3, %4};\n"
      "mov.b128 w, {low, high};\nst.relaxed.gpu.global.b128 [%0], w;\n}\n" ::"l"(to),
      "r"(a), "r"(b), "r"(c), "r"(epoch)
      : "memory");
#endif
}
__device__ __forceinline__ TaggedWord load_tagged(const TaggedWord* from) {
  TaggedWord w{};
#if __CUDA_ARCH__ >= 700
  asm volatile("{\n.reg .b128 w;\nld.relaxed.gpu.global.b128 w, [%2];\nmov.b128 {%0, %1}, w;\n}\n"
               : "=l"(w.low), "=l"(w.high)
               : "l"(from)
               : "memory");
#endif
  return w;
}
// Polls are counted where a call would cost registers: each takes more than half a microsecond.
inline constexpr unsigned kMostPolls = 20'000'000;

__device__ __forceinline__ TaggedWord poll_tagged(const TaggedWord* from, unsigned epoch) {
  TaggedWord w = load_tagged(from);
#pragma unroll 1
  for (unsigned polls = 0; w.epoch() != epoch; w = load_tagged(from))
    if (++polls > kMostPolls) __trap();
  return w;
}
// A warp's words, N a lane, each read until it is there. Lanes without words pass another's.
template <int N>
__device__ __forceinline__ void wait_tagged(const TaggedWord* const (&from)[N], unsigned epoch,
                                            TaggedWord (&w)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) w[i] = load_tagged(from[i]);
#pragma unroll 1
  for (unsigned polls = 0;;) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (w[i].epoch() != epoch) all = false, w[i] = load_tagged(from[i]);
    if (all) break;
    if (++polls > kMostPolls) __trap();
  }
  __syncwarp();  // every lane has its words
}
// Half a word: one value and the epoch, aligned to 8 bytes; two of them lie in what load_tagged returns.
__device__ __forceinline__ void store_tagged(std::uint64_t* to, unsigned value, unsigned epoch) {
#if __CUDA_ARCH__ >= 700
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to),
               "l"(static_cast<std::uint64_t>(epoch) << 32 | value)
               : "memory");
#endif
}
// As wait_tagged, of two halves each; word i of a lane lies i * step behind `from`, the lane has `count`.
template <int N>
__device__ __forceinline__ void wait_tagged_halves(const TaggedWord* from, int step, int count,
                                                   unsigned epoch, TaggedWord (&w)[N]) {
  const auto have = [&](const TaggedWord& v) {
    return static_cast<unsigned>(v.low >> 32) == epoch && v.epoch() == epoch;
  };
#pragma unroll
  for (int i = 0; i < N; ++i) {
    w[i] = {};
    if (i < count) w[i] = load_tagged(from + i * step);
  }
#pragma unroll 1
  for (unsigned polls = 0;;) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < count && !have(w[i])) all = false, w[i] = load_tagged(from + i * step);
    if (all) break;
    if (++polls > kMostPolls) __trap();
  }
  __syncwarp();  // every lane has its words
}

// -- between warps ------------------------------------------------------------------------------------------

__device__ __forceinline__ void init_barrier(std::uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void arrive_barrier(std::uint64_t* barrier) {
  asm volatile(
      "{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(shared_address(barrier))
      : "memory");
}
// Arrives and announces `bytes` of copies that complete on the barrier.
__device__ __forceinline__ void arrive_expecting(std::uint64_t* barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
#endif
}
__device__ __forceinline__ bool test_barrier(std::uint32_t barrier, unsigned parity) {
  unsigned done = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
#endif
  return done != 0;
}
// Out of line: waits are many, and code is time.
__device__ __noinline__ inline void wait_for_barrier(std::uint32_t barrier, unsigned parity) {
  std::uint64_t since = 0;
  for (unsigned polls = 1; !test_barrier(barrier, parity); ++polls)
    if (polls % 64 == 0) since = check_patience(since);
}
// Waits for the end of the phase of this parity; what the arriving threads wrote or copied is visible behind
// it.
__device__ __forceinline__ void wait_barrier(std::uint64_t* barrier, unsigned parity) {
  if (!test_barrier(shared_address(barrier), parity)) wait_for_barrier(shared_address(barrier), parity);
}
// One bulk copy from global to shared memory; addresses and size are multiples of 16 bytes.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, unsigned bytes,
                                          std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
}
// Brings memory into L2; a hint.
__device__ __forceinline__ void prefetch_bulk(const void* from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

}  // namespace fathom::cuda
