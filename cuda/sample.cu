// From logits to one token on the device, as src/engine/sampler.cpp defines it: greedy, or inverse CDF over the
// candidates that top-k, top-p and min-p keep, in the order (logit descending, id ascending).
//
//   survey   many blocks: the best logit and its lowest id; NaN and +inf
//   weigh    many blocks: sums of weights in FP64, a histogram of logits by their distance from the best
//   choose   one block: gathers the best candidates (at most kCandidates: all of the histogram's first bins that fit),
//            sorts them and walks down the CDF
//
// A distribution so flat that the walk leaves the candidates is undecided: the caller then samples on the host. Reads
// the logits (0.5 MB of L2) three times; the sums' order is fixed, so a seed gives the same token every time.
#include "cuda/kernel.cuh"

namespace fathom::cuda {
namespace {

constexpr int kChooseThreads = 1024;

// -- helpers ------------------------------------------------------------------------------------------------

// Sorts ascending as logits descend, then by id.
__device__ __forceinline__ std::uint64_t order_key(float logit, int id) {
  const std::uint32_t u = __float_as_uint(__fadd_rn(logit, 0.0f));  // -0 and +0 are equal
  const std::uint32_t ascending = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
  return static_cast<std::uint64_t>(~ascending) << 32 | static_cast<std::uint32_t>(id);
}
__device__ __forceinline__ float logit_of(std::uint64_t key) {
  const std::uint32_t ascending = ~static_cast<std::uint32_t>(key >> 32);
  return __uint_as_float((ascending & 0x80000000u) != 0 ? ascending & 0x7fffffffu : ~ascending);
}
__device__ __forceinline__ int id_of(std::uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

// Bin of a logit's distance from the best: 32 bins for each power of two from 2^-24 to 2^8, nearer ones in bin 0.
__device__ __forceinline__ int bin_of(float best, float logit) {
  const float distance = __fsub_rn(best, logit);
  const int bin = static_cast<int>(__float_as_uint(distance) >> 18) - ((127 - 24) << 5);
  return min(max(bin, 0), kSampleBins - 1);
}

// exp((l - best) / temperature), as the host computes it.
__device__ __forceinline__ double weight_of(float logit, float best, double temperature) {
  return exp(__ddiv_rn(__dsub_rn(static_cast<double>(logit), static_cast<double>(best)), temperature));
}

__device__ __forceinline__ bool better(float a, int a_id, float b, int b_id) {
  return a > b || (a == b && a_id < b_id);
}

struct Best {
  float logit;
  int id;
  int bad;
};
__device__ __forceinline__ Best join(const Best& a, const Best& b) {
  const bool first = better(a.logit, a.id, b.logit, b.id);
  return {first ? a.logit : b.logit, first ? a.id : b.id, a.bad | b.bad};
}
__device__ __forceinline__ Best warp_best(Best v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    v = join(v, {__shfl_xor_sync(~0u, v.logit, offset), __shfl_xor_sync(~0u, v.id, offset),
                 __shfl_xor_sync(~0u, v.bad, offset)});
  return v;
}
__device__ __forceinline__ double warp_sum_double(double v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = __dadd_rn(v, __shfl_xor_sync(~0u, v, offset));
  return v;
}

// The best of all blocks' parts, in every thread. One barrier behind it.
__device__ __forceinline__ Best best_of_parts(const SampleScratch& s, Best* shared) {
  if (threadIdx.x < 32) {
    Best v{-INFINITY, 0x7fffffff, 0};
    for (int i = threadIdx.x; i < kSampleBlocks; i += 32)
      v = join(v, {s.part[i].best, s.part[i].best_id, s.part[i].bad});
    v = warp_best(v);
    if (threadIdx.x == 0) *shared = v;
  }
  __syncthreads();
  return *shared;
}

// -- kernels ------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) survey_kernel(const __grid_constant__ SampleParams p) {
  __shared__ Best warps[kWarps];
  wait_for_previous();
  const int first = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x, stride = kSampleBlocks * kThreads;
  Best v{-INFINITY, 0x7fffffff, 0};
  for (int i = first; i < p.valid; i += stride) {
    const float l = p.logits[i];
    if (isnan(l) || l == INFINITY) v.bad = 1;
    if (better(l, i, v.logit, v.id)) v.logit = l, v.id = i;
  }
  v = warp_best(v);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  if (first < kSampleBins) p.scratch->bins[first] = 0;
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) v = join(v, warps[w]);
  SamplePart& part = p.scratch->part[blockIdx.x];
  part.best = v.logit, part.best_id = v.id, part.bad = v.bad;
}

__global__ void __launch_bounds__(kThreads) weigh_kernel(const __grid_constant__ SampleParams p) {
  __shared__ Best shared_best;
  __shared__ int bins[kSampleBins];
  __shared__ double sums[2][kWarps];
  wait_for_previous();
  for (int i = threadIdx.x; i < kSampleBins; i += kThreads) bins[i] = 0;
  const float best = best_of_parts(*p.scratch, &shared_best).logit;
  const int stride = kSampleBlocks * kThreads;
  double sum = 0, plain = 0;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x; i < p.valid; i += stride) {
    const float l = p.logits[i];
    if (!(l > -INFINITY)) continue;
    sum = __dadd_rn(sum, weight_of(l, best, p.temperature));
    if (p.log_probability) plain = __dadd_rn(plain, weight_of(l, best, 1.0));
    atomicAdd(&bins[bin_of(best, l)], 1);
  }
  sum = warp_sum_double(sum), plain = warp_sum_double(plain);
  if (threadIdx.x % 32 == 0) sums[0][threadIdx.x / 32] = sum, sums[1][threadIdx.x / 32] = plain;
  __syncthreads();
  for (int i = threadIdx.x; i < kSampleBins; i += kThreads)
    if (bins[i] != 0) atomicAdd(&p.scratch->bins[i], bins[i]);
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w)
    sum = __dadd_rn(sum, sums[0][w]), plain = __dadd_rn(plain, sums[1][w]);
  p.scratch->part[blockIdx.x].sum = sum, p.scratch->part[blockIdx.x].plain = plain;
}

// How many bins, from the best on, hold at most kCandidates logits together, and how many logits there are in these and
// in all.
struct Cut {
  int bins, inside, all;
};
__device__ Cut cut_of(const int* bins, int* scratch) {  // scratch: kSampleBins ints of shared memory
  const int i = threadIdx.x;                            // kChooseThreads == kSampleBins
  scratch[i] = bins[i];
  __syncthreads();
  for (int step = 1; step < kSampleBins; step *= 2) {
    const int before = i >= step ? scratch[i - step] : 0;
    __syncthreads();  // everyone has read
    scratch[i] += before;
    __syncthreads();  // the sums over 2 step bins are visible
  }
  const int fits = __syncthreads_count(scratch[i] <= kSampleCandidates);
  return {fits, fits > 0 ? scratch[fits - 1] : 0, scratch[kSampleBins - 1]};
}

// Sorts n <= kSampleCandidates keys ascending; those behind n become the largest.
__device__ void sort_keys(std::uint64_t* keys, int n) {
  int size = 2;
  while (size < n) size *= 2;
  for (int i = n + threadIdx.x; i < size; i += kChooseThreads) keys[i] = ~std::uint64_t{0};
  __syncthreads();
  for (int width = 2; width <= size; width *= 2)
    for (int step = width / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size; i += kChooseThreads) {
        const int other = i ^ step;
        if (other <= i) continue;
        const std::uint64_t a = keys[i], b = keys[other];
        if ((a > b) == ((i & width) == 0)) keys[i] = b, keys[other] = a;
      }
      __syncthreads();  // this step's exchanges are visible to the next
    }
}

// The walk of src/engine/sampler.cpp, by one thread: sums in the same order, so in the same bits.
// Returns the index of the candidate drawn, or -1 when the candidates do not decide it.
__device__ int walk(const SampleParams& p, const std::uint64_t* keys, double* up_to, int inside, int all, double total,
                    float best) {
  const bool limited = p.top_k > 0 && p.top_k < all;
  const int count = limited ? min(p.top_k, inside) : inside;
  const bool complete = limited ? p.top_k <= inside : inside == all;
  if (limited) {
    if (!complete) return -1;
    total = 0;
    for (int i = 0; i < count; ++i) total = __dadd_rn(total, weight_of(logit_of(keys[i]), best, p.temperature));
  }
  const double nucleus = p.top_p < 1.0 ? __dmul_rn(p.top_p, total) : total;
  const bool all_kept = p.top_p >= 1.0 && p.min_p == 0.0;
  const double target = __dmul_rn(p.uniform, total);
  double sum = 0;
  int kept = 0;
  bool ended = complete;
  for (int i = 0; i < count; ++i) {
    const double w = weight_of(logit_of(keys[i]), best, p.temperature);
    if (kept > 0 && w < p.min_p) {
      ended = true;
      break;
    }
    sum = __dadd_rn(sum, w);
    if (all_kept && sum > target) return i;
    up_to[kept++] = sum;
    if (!all_kept && sum >= nucleus) {
      ended = true;
      break;
    }
  }
  if (!ended || kept == 0) return -1;
  const double at = __dmul_rn(p.uniform, sum);
  for (int i = 0; i < kept; ++i)
    if (up_to[i] > at) return i;
  return kept - 1;
}

__global__ void __launch_bounds__(kChooseThreads) choose_token_kernel(const __grid_constant__ SampleParams p) {
  __shared__ Best shared_best;
  __shared__ std::uint64_t keys[kSampleCandidates];
  __shared__ double up_to[kSampleCandidates];
  __shared__ int gathered;
  wait_for_previous();
  SampleResult& out = *p.result;
  const Best best = best_of_parts(*p.scratch, &shared_best);
  const bool bad = best.bad != 0 || best.logit == -INFINITY;
  if (bad || (p.greedy && !p.log_probability)) {
    if (threadIdx.x == 0) out.status = bad ? SampleStatus::bad_logits : SampleStatus::drawn, out.id = best.id;
    return;
  }
  const Cut cut = cut_of(p.scratch->bins, reinterpret_cast<int*>(up_to));
  if (threadIdx.x == 0) gathered = 0;
  __syncthreads();
  for (int i = threadIdx.x; cut.inside > 0 && i < p.valid; i += kChooseThreads) {
    const float l = p.logits[i];
    if (l > -INFINITY && bin_of(best.logit, l) < cut.bins) keys[atomicAdd(&gathered, 1)] = order_key(l, i);
  }
  __syncthreads();  // all candidates are in `keys`
  sort_keys(keys, cut.inside);
  if (threadIdx.x != 0) return;
  double total = 0, plain = 0;
  for (int i = 0; i < kSampleBlocks; ++i)
    total = __dadd_rn(total, p.scratch->part[i].sum), plain = __dadd_rn(plain, p.scratch->part[i].plain);
  int at = p.greedy ? 0 : walk(p, keys, up_to, cut.inside, cut.all, total, best.logit);
  if (cut.inside == 0 || (p.top > cut.inside && cut.inside < p.valid)) at = -1;
  out.status = at < 0 ? SampleStatus::undecided : SampleStatus::drawn;
  if (at < 0) return;
  out.id = p.greedy ? best.id : id_of(keys[at]);
  out.logit = p.greedy ? best.logit : logit_of(keys[at]);
  out.best = best.logit;
  out.plain_sum = plain;
  for (int i = 0; i < p.top && i < cut.inside; ++i)
    out.top_id[i] = id_of(keys[i]), out.top_logit[i] = logit_of(keys[i]);
}

}  // namespace

void sample_token(const Launch& on, const SampleParams& p) {
  // Each waits for the one before: there is nothing to fetch early.
  Launch plain = on;
  plain.dependent = false;
  launch_kernel(plain, survey_kernel, dim3(kSampleBlocks), kThreads, 0, p);
  if (!p.greedy || p.log_probability) launch_kernel(plain, weigh_kernel, dim3(kSampleBlocks), kThreads, 0, p);
  launch_kernel(plain, choose_token_kernel, dim3(1), kChooseThreads, 0, p);
}

}  // namespace fathom::cuda
