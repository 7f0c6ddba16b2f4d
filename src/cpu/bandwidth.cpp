#include "src/cpu/bandwidth.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "src/base/error.h"
#include "src/base/faults.h"

namespace fathom::cpu {
namespace {

constexpr std::int64_t kPage = 4096, kLine = 64;

// Sum of all 8-byte words, read as four streams a quarter apart: the pattern that reads fastest.
std::uint64_t sum_words(const std::byte* p, std::int64_t bytes) {
  const std::int64_t quarter = bytes / 4 / kLine * kLine;
  __m128i sums[4] = {};
  const auto add_line = [&](const std::byte* line) {
    _mm_prefetch(reinterpret_cast<const char*>(line) + 2048, _MM_HINT_T0);
    for (int i = 0; i < 4; ++i)
      sums[i] = _mm_add_epi64(sums[i], _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + 16 * i)));
  };
  for (std::int64_t i = 0; i < quarter; i += kLine)
    for (int stream = 0; stream < 4; ++stream) add_line(p + stream * quarter + i);
  for (std::int64_t i = 4 * quarter; i < bytes; i += kLine) add_line(p + i);
  std::uint64_t words[2];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words),
                   _mm_add_epi64(_mm_add_epi64(sums[0], sums[1]), _mm_add_epi64(sums[2], sums[3])));
  return words[0] + words[1];
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
