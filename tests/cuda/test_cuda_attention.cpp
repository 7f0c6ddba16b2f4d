// Split-KV attention by itself at the rows of published models (512 + 64 BF16 values), every kernel that can
// run here against sums in double precision on the host.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "src/base/numerics.h"
#include "src/base/tensor.h"
#include "src/engine/gpu_placement.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using namespace fathom::cuda;
using fathom::test::gpu_present;

namespace {

constexpr int kLatent = 512, kRow = 576;
constexpr float kScale = 0.05f;

float rounded(float v) { return bf16_to_float(float_to_bf16(v)); }

// Cache of two timelines, queries and results of one kernel call.
struct Attention {
  Attention(int heads_, std::int32_t capacity_, unsigned seed, float growth = 0)
      : heads(heads_), capacity(capacity_), stream(make_stream()), random(seed) {
    on = {stream.get(), devices().front().multiprocessors, runs_hopper_code()};
    std::normal_distribution<float> normal;
    keys.resize(std::size_t{2} * static_cast<std::size_t>(capacity) * kRow);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto position = static_cast<float>(i / kRow % static_cast<std::size_t>(capacity));
      keys[i] = rounded(normal(random) * (1 + growth * position));
    }
    queries.resize(std::size_t{kGeneratedRows} * static_cast<std::size_t>(heads) * kRow);
    for (float& v : queries) v = rounded(normal(random));
    const std::size_t slots = std::size_t{kGeneratedRows} * kMaxSplits * static_cast<std::size_t>(heads);
    device = Arena((keys.size() + queries.size()) * 2 + slots * (kLatent + 2) * 4 + 4096);
    cache = upload(keys);
    q = upload(queries);
    rows = device.take(1024);
    sums = reinterpret_cast<float*>(device.take(slots * 8));
    outs = reinterpret_cast<float*>(device.take(slots * kLatent * 4));
  }

  std::byte* upload(const std::vector<float>& values) {
    std::vector<std::uint16_t> bits(values.size());
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = float_to_bf16(values[i]);
    std::byte* to = device.take(bits.size() * 2);
    cuda::copy_to_device(to, bits.data(), bits.size() * 2);
    return to;
  }

  // Makes what lies behind `position` unusable.
  void poison(std::uint32_t timeline, std::int32_t position) {
    const std::vector<std::uint16_t> nan(static_cast<std::size_t>(capacity - position - 1) * kRow, 0x7fc0);
    std::byte* at = cache + (std::int64_t{timeline} * capacity + position + 1) * kRow * 2;
    cuda::copy_to_device(at, nan.data(), nan.size() * 2);
  }

  // Normalised latents (rows, heads, latent) of rows at first, first + 1, ... with queries from first_query
  // on.
  std::vector<float> run(bool hopper, std::uint32_t timeline, std::int32_t first, int count,
                         int first_query = 0, bool one_split = false) {
    std::vector<std::int32_t> host(16, static_cast<std::int32_t>(timeline));
    for (int t = 0; t < count; ++t) host[static_cast<std::size_t>(t)] = first + t;
    cuda::copy_to_device(rows, host.data(), 64);
    AttendParams p;
    p.shape = {heads, 128, 64, 128, kLatent, kRow, kScale};
    p.q_absorbed = q + std::int64_t{first_query} * heads * kRow * 2;
    p.cache = cache;
    p.capacity = capacity;
    p.cache_rows = 2 * std::int64_t{capacity};
    p.position = reinterpret_cast<const std::int32_t*>(rows);
    p.timeline = p.position + 8;
    p.max_splits = one_split ? 1 : max_splits(heads);
    p.keys_per_round = one_split ? 0 : least_split_keys(heads) * p.max_splits;
    p.partial_sum = sums, p.partial_out = outs, p.rows = count;
    const auto slots = static_cast<std::size_t>(count) * static_cast<std::size_t>(p.max_splits) *
                       static_cast<std::size_t>(heads);
    // Every result that is read must have been written.
    FATHOM_CUDA(cudaMemset(sums, 0xff, slots * 8));
    FATHOM_CUDA(cudaMemset(outs, 0xff, slots * kLatent * 4));
    FATHOM_CUDA(cudaDeviceSynchronize());
    Launch launch = on;
    launch.dependent = hopper;
    attend_split_kv(launch, p);
    FATHOM_CUDA(cudaStreamSynchronize(stream.get()));
    std::vector<float> sum(slots * 2), out(slots * kLatent);
    FATHOM_CUDA(cudaMemcpy(sum.data(), sums, sum.size() * 4, cudaMemcpyDeviceToHost));
    FATHOM_CUDA(cudaMemcpy(out.data(), outs, out.size() * 4, cudaMemcpyDeviceToHost));
    return combined(sum, out, first, count, p.max_splits, one_split);
  }

  std::vector<float> combined(const std::vector<float>& sum, const std::vector<float>& out,
                              std::int32_t first, int count, int allotted, bool one_split) const {
    std::vector<float> result;
    for (int t = 0; t < count; ++t)
      for (int h = 0; h < heads; ++h) {
        const int splits = one_split ? 1 : (first + t) / keys_per_split(first + t, heads) + 1;
        const auto at = [&](int s) { return static_cast<std::size_t>((t * allotted + s) * heads + h); };
        double highest = -1e300, total = 0;
        for (int s = 0; s < splits; ++s) highest = std::max(highest, static_cast<double>(sum[at(s) * 2]));
        std::vector<double> mixed(kLatent);
        for (int s = 0; s < splits; ++s) {
          const double f = std::exp2(static_cast<double>(sum[at(s) * 2]) - highest);
          total += f * static_cast<double>(sum[at(s) * 2 + 1]);
          for (std::size_t c = 0; c < kLatent; ++c)
            mixed[c] += f * static_cast<double>(out[at(s) * kLatent + c]);
        }
        for (double v : mixed) result.push_back(static_cast<float>(v / total));
      }
    return result;
  }

  // ||got - expected|| / ||expected|| of one row and head; NaN for NaN.
  double error(const std::vector<float>& got, std::uint32_t timeline, std::int32_t position, int t, int query,
               int head) const {
    const float* x = queries.data() + (std::ptrdiff_t{query} * heads + head) * kRow;
    const float* key = keys.data() + std::ptrdiff_t{timeline} * capacity * kRow;
    std::vector<double> score(static_cast<std::size_t>(position) + 1), mixed(kLatent);
    double highest = -1e300, total = 0, square = 0, norm = 0;
    for (std::size_t k = 0; k < score.size(); ++k) {
      double dot = 0;
      for (std::size_t c = 0; c < kRow; ++c)
        dot += static_cast<double>(x[c]) * static_cast<double>(key[k * kRow + c]);
      score[k] = dot * static_cast<double>(kScale);
      highest = std::max(highest, score[k]);
    }
    for (std::size_t k = 0; k < score.size(); ++k) {
      const double p = std::exp(score[k] - highest);
      total += p;
      for (std::size_t c = 0; c < kLatent; ++c) mixed[c] += p * static_cast<double>(key[k * kRow + c]);
    }
    const float* ours = got.data() + (std::ptrdiff_t{t} * heads + head) * kLatent;
    for (std::size_t c = 0; c < kLatent; ++c) {
      const double want = mixed[c] / total, e = static_cast<double>(ours[c]) - want;
      square += e * e, norm += want * want;
    }
    return std::sqrt(square / norm);
  }

  int heads;
  std::int32_t capacity;
  Stream stream;
  std::mt19937 random;
  Launch on;
  Arena device;
  std::vector<float> keys, queries;
  std::byte *cache = nullptr, *q = nullptr, *rows = nullptr;
  float *sums = nullptr, *outs = nullptr;
};

// Probabilities are BF16: 2^-9 each at most, mostly cancelling.
constexpr double kBound = 3e-3;

void check_rows(const Attention& a, const std::string& where, const std::vector<float>& got,
                std::uint32_t timeline, std::int32_t first, int count, int query = 0) {
  for (int t = 0; t < count; t += std::max(1, count - 1))
    for (int h : {0, 1, a.heads / 2, a.heads - 1}) {
      const double e = a.error(got, timeline, first + t, t, query + t, h);
      CHECK_MESSAGE(e <= kBound, fmt::format("{}, row {} of {} from {}, head {} of {}: relative error {:.2e}",
                                             where, t, count, first, h, a.heads, e));
    }
}

std::vector<bool> kernels_here() {
  return runs_hopper_code() ? std::vector<bool>{true, false} : std::vector<bool>{false};
}

}  // namespace

TEST_CASE("cuda attention: every split of a row's keys, by every kernel, agrees with double precision") {
  if (!gpu_present()) return;
  for (int heads : {2, 16, 20, 32, 64, 128}) {
    Attention a(heads, 8400, 40);
    for (bool hopper : kernels_here())
      for (std::int32_t first : {0, 1, 62, 63, 64, 127, 130, 4095, 4096, 8191, 8250}) {
        const std::string where = hopper ? "Hopper" : "portable";
        check_rows(a, where, a.run(hopper, 1, first, 1), 1, first, 1);
        if (first == 63 || first == 4095) check_rows(a, where, a.run(hopper, 0, first, 8), 0, first, 8);
      }
  }
}

TEST_CASE("cuda attention: many tiles of one split, with scores that grow a thousandfold, agree") {
  if (!gpu_present()) return;
  for (int heads : {16, 32, 128})
    for (float growth : {0.0f, 0.01f, 0.2f}) {
      Attention a(heads, 900, 41, growth);
      for (bool hopper : kernels_here())
        for (std::int32_t first : {64, 128, 191, 192, 700})
          check_rows(a, fmt::format("{}, growth {}", hopper ? "Hopper" : "portable", growth),
                     a.run(hopper, 1, first, 3, 2, true), 1, first, 3, 2);
    }
}

TEST_CASE("cuda attention: what lies behind a row's position is never seen, whatever it is") {
  if (!gpu_present()) return;
  for (int heads : {16, 128})
    for (std::int32_t position : {0, 40, 64, 150, 4100})
      for (bool hopper : kernels_here()) {
        Attention a(heads, 4200, 42);
        const auto clean = a.run(hopper, 0, position, 1);
        a.poison(0, position);
        const auto poisoned = a.run(hopper, 0, position, 1);
        CHECK_MESSAGE(std::memcmp(clean.data(), poisoned.data(), clean.size() * 4) == 0,
                      fmt::format("{} heads at {}, {}", heads, position, hopper ? "Hopper" : "portable"));
      }
}

TEST_CASE("cuda attention: a row's bits depend neither on the rows beside it nor on the run") {
  if (!gpu_present()) return;
  for (int heads : {16, 64, 128})
    for (bool hopper : kernels_here()) {
      Attention a(heads, 8400, 43);
      for (std::int32_t first : {60, 4090, 8188}) {
        const auto eight = a.run(hopper, 0, first, 8);
        CHECK(eight == a.run(hopper, 0, first, 8));
        const std::size_t row = static_cast<std::size_t>(heads) * kLatent;
        for (int t = 0; t < 8; ++t) {
          const auto one = a.run(hopper, 0, first + t, 1, t);
          CHECK_MESSAGE(
              std::memcmp(one.data(), eight.data() + static_cast<std::size_t>(t) * row, row * 4) == 0,
              fmt::format("{} heads, row {} from {}, {}", heads, t, first, hopper ? "Hopper" : "portable"));
        }
      }
    }
}
