// The GPU's side of experts in host memory: rows out, a bounded wait, outputs in. Everything crosses PCIe through
// pinned memory: V2-Lite writes 8 KB and reads 49 KB a layer, V3 28 KB and 229 KB (5 us at 51 GB/s), against 0.5 to
// 4 ms that the host's memory needs for the experts themselves.
#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

__device__ __forceinline__ void store_release_system(std::uint64_t* p, std::uint64_t v) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
__device__ __forceinline__ std::uint64_t load_acquire_system(const std::uint64_t* p) {
  std::uint64_t v;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ std::uint64_t nanoseconds() {
  std::uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

__global__ void __launch_bounds__(kThreads) hand_over_kernel(const __grid_constant__ HandOverParams p) {
  __shared__ float scratch[kWarps];
  let_next_start();
  wait_for_previous();
  const std::int64_t t = blockIdx.x;
  const Input& in = p.input;
  const float* x = in.x + t * in.stride;
  const float inverse = inverse_rms(x, in.cols, in.eps, scratch);
  for (int c = threadIdx.x * 4; c < in.cols; c += kThreads * 4)
    *reinterpret_cast<float4*>(p.x_out + t * in.cols + c) =
        apply_norm(load_four(x, c, in.cols), inverse, load_four(in.norm_weight, c, in.cols));
  if (threadIdx.x < p.slots) p.ids_out[t * p.slots + threadIdx.x] = p.ids[t * p.slots + threadIdx.x];
  __threadfence_system();  // this thread's part of the row reaches the host before the request does
  __syncthreads();         // every thread's part is fenced
  if (threadIdx.x != 0) return;
  // The last block to arrive asks; the counter returns to zero by itself.
  if (atomicInc(&p.counters->arrived, gridDim.x - 1) != gridDim.x - 1) return;
  __threadfence_system();  // behind the other blocks' arrivals: their rows are ordered before the request
  store_release_system(p.request, ++p.counters->number);
}

__global__ void await_kernel(const __grid_constant__ AwaitParams p) {
  let_next_start();
  wait_for_previous();
  const std::uint64_t number = p.counters->number, begin = nanoseconds();
  while (load_acquire_system(p.answer) < number) {
    if (nanoseconds() - begin < p.most_nanoseconds) continue;
    *p.timed_out = 1;
    __threadfence_system();
    return;
  }
}

__global__ void __launch_bounds__(kThreads) combine_answer_kernel(const __grid_constant__ CombineAnswerParams p) {
  let_next_start();
  wait_for_previous();
  const std::int64_t t = blockIdx.y;
  const int c = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= p.hidden) return;
  float sum = 0;
#pragma unroll 8
  for (int slot = 0; slot < p.slots; ++slot) {
    const std::int64_t pair = t * p.slots + slot;
    // Never from a cache: the host rewrites these bytes for every layer.
    sum = __fmaf_rn(p.weights[pair], __ldcv(p.expert_out + pair * p.hidden + c), sum);
  }
  if (p.shared != nullptr) sum = __fadd_rn(sum, p.shared[t * p.hidden + c]);
  float* out = p.out + t * p.hidden + c;
  *out = p.add ? __fadd_rn(*out, sum) : sum;
}

}  // namespace

void hand_over(const Launch& on, const HandOverParams& p) {
  if (p.rows > 0) launch_kernel(on, hand_over_kernel, dim3(p.rows), kThreads, 0, p);
}
void await_answer(const Launch& on, const AwaitParams& p) { launch_kernel(on, await_kernel, dim3(1), 1, 0, p); }
void combine_answer(const Launch& on, const CombineAnswerParams& p) {
  if (p.rows > 0)
    launch_kernel(on, combine_answer_kernel, dim3((p.hidden + kThreads - 1) / kThreads, p.rows), kThreads, 0, p);
}

}  // namespace fathom::cuda
