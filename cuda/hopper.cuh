// Hopper's own instructions: transaction barriers, tensor copies (TMA) and warpgroup products (wgmma).
//
// Only code behind FATHOM_HOPPER may use them: the portable PTX of the same kernels has empty bodies, and the
// host chooses by runs_hopper_code().
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"
#include "cuda/tensor_map.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FATHOM_HOPPER 1
#endif

namespace fathom::cuda {

#ifdef FATHOM_HOPPER

// -- transaction barriers -----------------------------------------------------------------------------------

__device__ __forceinline__ void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Initialised barriers become visible to the copy engine and to the other blocks of the cluster.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives, and lets the barrier's phase wait for `bytes` of copies.
__device__ __forceinline__ void arrive_and_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster. Orders nothing beyond this block: a release at
// cluster scope would cost a fence of all memory, half a microsecond.
__device__ __forceinline__ void arrive_at(std::uint32_t barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
// Waits for the end of the phase of this parity; what was copied or written before it is visible then.
__device__ __forceinline__ void wait_barrier(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Address in the shared memory of block `rank` of the cluster of what lies at `address` in this block's.
__device__ __forceinline__ std::uint32_t address_at(std::uint32_t address, int rank) {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
// 16 bytes to an address in another block's shared memory; they complete at that block's `barrier`.
__device__ __forceinline__ void send(std::uint32_t there, const float (&v)[4], std::uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          there),
      "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(barrier)
      : "memory");
}
// Arrives at the same barrier of block `rank`; what this thread has stored or seen before becomes visible to
// whoever waits for it by wait_barrier_cluster.
__device__ __forceinline__ void release_at(std::uint32_t barrier, int rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_at(barrier, rank))
               : "memory");
}
__device__ __forceinline__ void wait_barrier_cluster(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// -- tensor copies ------------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Copies the box at (column, row) to shared memory and completes its bytes at `barrier`.
__device__ __forceinline__ void copy_box(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                         int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}
__device__ __forceinline__ void copy_box(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                         int column, int row, int slice) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(slice)
      : "memory");
}
// The same to the same place of every block of the cluster named by `mask`, and at each one's barrier.
__device__ __forceinline__ void copy_box_to_all(std::uint32_t to, const CUtensorMap* map,
                                                std::uint32_t barrier, int column, int row, int slice,
                                                std::uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(slice), "h"(mask)
      : "memory");
}

// -- rounding -----------------------------------------------------------------------------------------------

__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&two);
}

// Correctly rounded v / s, given the rounded reciprocal of s.
__device__ __forceinline__ float divide(float v, float s, float reciprocal) {
  const float q = __fmul_rn(v, reciprocal);
  return __fmaf_rn(__fmaf_rn(-q, s, v), reciprocal, q);
}

// Two e4m3 codes, ties to even, saturating; the first in the low byte.
__device__ __forceinline__ std::uint32_t pack_e4m3(float low, float high) {
  std::uint16_t two;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
  return two;
}

// -- warpgroup products -------------------------------------------------------------------------------------

template <int Registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
// Descriptor of rows of 128 bytes, stored back to back from a multiple of 1,024 bytes on, with the 128-byte
// permutation of TMA. Adding 2 moves 32 bytes along the row.
__device__ __forceinline__ std::uint64_t rows_descriptor(std::uint32_t address) {
  constexpr std::uint64_t kEightRows = 1024 / 16, kPermuted128 = 1;
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | std::uint64_t{1} << 16 | kEightRows << 32 |
         kPermuted128 << 62;
}
// Before the first product of a batch: registers written before are visible to it.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most N batches are under way.
template <int N>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// The compiler may not move reads or writes of these registers across this point.
template <int N>
__device__ __forceinline__ void pin(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The sums of a product as operands of its instruction, and their names in it.
#define FATHOM_SUMS_16(d, b)                                                                            \
  "+f"(d[b]), "+f"(d[b + 1]), "+f"(d[b + 2]), "+f"(d[b + 3]), "+f"(d[b + 4]), "+f"(d[b + 5]),           \
      "+f"(d[b + 6]), "+f"(d[b + 7]), "+f"(d[b + 8]), "+f"(d[b + 9]), "+f"(d[b + 10]), "+f"(d[b + 11]), \
      "+f"(d[b + 12]), "+f"(d[b + 13]), "+f"(d[b + 14]), "+f"(d[b + 15])
#define FATHOM_SUMS_32(d, b) FATHOM_SUMS_16(d, b), FATHOM_SUMS_16(d, b + 16)
#define FATHOM_SUMS_64(d, b) FATHOM_SUMS_32(d, b), FATHOM_SUMS_32(d, b + 32)
#define FATHOM_SUMS_96(d, b) FATHOM_SUMS_64(d, b), FATHOM_SUMS_32(d, b + 64)
#define FATHOM_SUMS_128(d, b) FATHOM_SUMS_64(d, b), FATHOM_SUMS_64(d, b + 64)
#define FATHOM_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FATHOM_NAMES_32 \
  FATHOM_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_NAMES_64                                                                \
  FATHOM_NAMES_32                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FATHOM_NAMES_96                                                                \
  FATHOM_NAMES_64                                                                      \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FATHOM_NAMES_128                                                                 \
  FATHOM_NAMES_96                                                                        \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "   \
  "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
  "%124, %125, %126, %127"

// d = (add ? d : 0) + A B^T: 64 rows of A, 2 Sums rows of B, 32 bytes of columns, both in shared memory.
// Register 4 j + 2 h + i of lane l of warp w holds row 16 w + 8 h + l / 4, column 8 j + l % 4 * 2 + i.
// A, B, ADD: the numbers of the operands behind the sums.
#define FATHOM_WGMMA(NAME, SUMS, SHAPE, TYPES, A, B, ADD, FLAGS)                                       \
  __device__ __forceinline__ void NAME(float(&d)[SUMS], std::uint64_t a, std::uint64_t b, bool add) {  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned." SHAPE \
                 ".f32." TYPES " {" FATHOM_NAMES_##SUMS "}, %" #A ", %" #B ", p, " FLAGS ";\n}\n"      \
                 : FATHOM_SUMS_##SUMS(d, 0)                                                            \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                        \
  }
FATHOM_WGMMA(wgmma_e4m3, 16, "m64n32k32", "e4m3.e4m3", 16, 17, 18, "1, 1")
FATHOM_WGMMA(wgmma_e4m3, 32, "m64n64k32", "e4m3.e4m3", 32, 33, 34, "1, 1")
FATHOM_WGMMA(wgmma_e4m3, 96, "m64n192k32", "e4m3.e4m3", 96, 97, 98, "1, 1")
FATHOM_WGMMA(wgmma_e4m3, 64, "m64n128k32", "e4m3.e4m3", 64, 65, 66, "1, 1")
FATHOM_WGMMA(wgmma_bf16, 16, "m64n32k16", "bf16.bf16", 16, 17, 18, "1, 1, 0, 0")
FATHOM_WGMMA(wgmma_bf16, 32, "m64n64k16", "bf16.bf16", 32, 33, 34, "1, 1, 0, 0")
FATHOM_WGMMA(wgmma_bf16, 64, "m64n128k16", "bf16.bf16", 64, 65, 66, "1, 1, 0, 0")
FATHOM_WGMMA(wgmma_bf16, 96, "m64n192k16", "bf16.bf16", 96, 97, 98, "1, 1, 0, 0")
FATHOM_WGMMA(wgmma_bf16, 128, "m64n256k16", "bf16.bf16", 128, 129, 130, "1, 1, 0, 0")

// The same with A in registers: register i of lane l of warp w holds four bytes of row 16 w + i % 2 * 8 + l /
// 4 from byte i / 2 * 16 + l % 4 * 4 on. They may change only when the batch has ended.
#define FATHOM_WGMMA_ROWS(NAME, SUMS, SHAPE, TYPES, A0, A1, A2, A3, B, ADD, FLAGS)                          \
  __device__ __forceinline__ void NAME(float(&d)[SUMS], const std::uint32_t(&a)[4], std::uint64_t b,        \
                                       bool add) {                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned." SHAPE      \
                 ".f32." TYPES " {" FATHOM_NAMES_##SUMS "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B \
                                                        ", p, " FLAGS ";\n}\n"                              \
                 : FATHOM_SUMS_##SUMS(d, 0)                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));         \
  }
FATHOM_WGMMA_ROWS(wgmma_e4m3, 64, "m64n128k32", "e4m3.e4m3", 64, 65, 66, 67, 68, 69, "1, 1")

#undef FATHOM_WGMMA_ROWS
#undef FATHOM_WGMMA
#undef FATHOM_NAMES_128
#undef FATHOM_NAMES_96
#undef FATHOM_NAMES_64
#undef FATHOM_NAMES_32
#undef FATHOM_NAMES_16
#undef FATHOM_SUMS_128
#undef FATHOM_SUMS_96
#undef FATHOM_SUMS_64
#undef FATHOM_SUMS_32
#undef FATHOM_SUMS_16

#endif

}  // namespace fathom::cuda
