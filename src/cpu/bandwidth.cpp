#include "src/cpu/bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom::cpu {
namespace {

constexpr std::int64_t kPage = 4096;

// Sum of all 8-byte words, in eight chains, so that loads and not additions limit the speed.
std::uint64_t sum_words(const std::byte* p, std::int64_t bytes) {
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(p + i + 2048);
    for (int k = 0; k < 8; ++k) {
      std::uint64_t word;
      std::memcpy(&word, p + i + 8 * k, 8);
      sums[k] += word;
    }
  }
  std::uint64_t sum = 0;
  for (std::uint64_t s : sums) sum += s;
  return sum;
}

class Region {
 public:
  explicit Region(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    p_ = faults::trip(faults::Site::memory)
             ? MAP_FAILED
             : ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p_ == MAP_FAILED)
      fail(Exit::out_of_memory, "cannot allocate {} bytes to measure memory bandwidth", bytes);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { ::munmap(p_, bytes_); }
  std::byte* data() const { return static_cast<std::byte*>(p_); }

 private:
  void* p_;
  std::size_t bytes_;
};

}  // namespace

double measure_read_bandwidth(Threads& threads, std::int64_t bytes) {
  bytes = std::max<std::int64_t>(bytes / kPage, 1) * kPage;
  const Region region(bytes);
  threads.for_range(bytes, kPage, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += 8) std::memcpy(region.data() + i, &i, 8);
  });
  double best = 0;
  std::atomic<std::uint64_t> sink{0};
  for (int pass = 0; pass < 3; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    threads.for_range(bytes, kPage, [&](std::int64_t begin, std::int64_t end) {
      sink.fetch_add(sum_words(region.data() + begin, end - begin), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / time.count());
  }
  return best;
}

}  // namespace fathom::cpu
