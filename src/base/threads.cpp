#include "src/base/threads.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/sigbus.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

// How long a thread looks for work before it sleeps, if the last gap between two jobs was shorter than that,
// and if it was not. A layer's parts follow each other within microseconds, experts in host memory within the
// tenth of a millisecond that the GPU needs for the rest of a layer; waking a sleeper costs 5 to 50 us.
constexpr std::chrono::microseconds kLongSpin{300}, kShortSpin{20};
// How long the caller looks at pieces in other hands before it sleeps.
constexpr std::chrono::microseconds kLastSpin{100};

void sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t value) {
  static_assert(sizeof word == 4);
  // Every return is as good as another: the caller looks again.
  (void)::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake(std::atomic<std::uint32_t>& word, int sleepers) {
  (void)::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, sleepers, nullptr, nullptr, 0);
}

// Looks every few cycles, and at the clock every few looks. False: the time is over.
template <typename Ready>
bool spin(std::chrono::microseconds limit, Ready&& ready) {
  const auto end = Clock::now() + limit;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      __builtin_ia32_pause();
    }
  } while (Clock::now() < end);
  return ready();
}

// What is left of one share of a job: blocks [next, end), and the number of the job. One word, so that one
// compare-and-swap takes a piece of exactly the job that was looked at: a thread that comes late finds
// another number and takes nothing.
struct Share {
  static constexpr int kBits = 20;
  static constexpr std::uint64_t kMost = (std::uint64_t{1} << kBits) - 1;
  std::uint64_t word = 0;

  static Share make(std::uint32_t job, std::uint64_t next, std::uint64_t end) {
    return {(std::uint64_t{job} << 2 * kBits) | (next << kBits) | end};
  }
  std::uint64_t next() const { return word >> kBits & kMost; }
  std::uint64_t end() const { return word & kMost; }
  bool of(std::uint32_t job) const { return word >> 2 * kBits == (job & ((1u << (64 - 2 * kBits)) - 1)); }
};

struct alignas(64) Lane {  // a cache line each: its owner takes most of it
  std::atomic<std::uint64_t> share{0};
};

}  // namespace

struct Threads::Team {
  explicit Team(int count) : lanes(static_cast<std::size_t>(count)) {}

  std::vector<Lane> lanes;  // one per thread asked for
  // Of the job under way. Written before its shares are, and not again before `left` is zero: whoever has
  // taken a piece may read them.
  FunctionRef<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::exception_ptr error;
  std::mutex error_mutex;
  // Advice, which may be stale where it is read: it decides how many blocks are taken, never which. `least`
  // 0: one.
  std::atomic<std::uint32_t> lanes_used{0}, least{1};
  alignas(64) std::atomic<std::uint32_t> job{0};  // its number; incremented to begin it
  std::atomic<std::uint32_t> sleepers{0};
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<std::uint32_t> left{0};  // blocks not yet done
  std::atomic<bool> caller_sleeps{false};
  std::vector<std::jthread> workers;  // the last member: they end before the rest does

  // Takes a piece of `lane`: half of what is left, but not less than `least`; or one block.
  bool take(std::size_t lane, std::uint32_t number, std::uint64_t& begin, std::uint64_t& end) {
    std::atomic<std::uint64_t>& word = lanes[lane].share;
    Share s{word.load(std::memory_order_acquire)};
    while (s.of(number) && s.next() < s.end()) {
      const std::uint64_t rest = s.end() - s.next();
      const std::uint64_t smallest = least.load(std::memory_order_relaxed);
      const std::uint64_t some = smallest == 0 ? 1 : std::min(rest, std::max(rest / 2, smallest));
      begin = s.next(), end = begin + some;
      if (word.compare_exchange_weak(s.word, Share::make(number, end, s.end()).word,
                                     std::memory_order_acq_rel, std::memory_order_acquire))
        return true;
    }
    return false;
  }

  void do_piece(std::uint64_t begin, std::uint64_t end) {
    try {
      (*body)(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end));
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
    const auto done = static_cast<std::uint32_t>(end - begin);
    // Sequentially consistent, as the caller's two accesses are: either it sees zero or this sees that it
    // sleeps.
    if (left.fetch_sub(done) == done && caller_sleeps.load()) wake(left, 1);
  }

  // The own share first, then the others' from there on.
  void help(std::size_t own, std::uint32_t number) {
    const std::size_t count = lanes_used.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t lane = (own + i) % count;
      for (std::uint64_t begin = 0, end = 0; take(lane, number, begin, end);) do_piece(begin, end);
    }
  }

  void work(std::size_t own) {
    std::uint32_t seen = 0;
    auto limit = kShortSpin;
    while (!stop.load()) {
      const auto idle = Clock::now();
      const auto changed = [&] { return job.load() != seen; };
      if (!spin(limit, changed)) {
        // Sequentially consistent, as begin()'s two accesses are: either this sees the new job or begin()
        // sees a sleeper.
        sleepers.fetch_add(1);
        while (!changed()) sleep_while(job, seen);
        sleepers.fetch_sub(1);
      }
      limit = Clock::now() - idle < kLongSpin ? kLongSpin : kShortSpin;
      seen = job.load(std::memory_order_acquire);
      help(own, seen);
    }
  }

  void begin(std::uint32_t number, int wanted) {
    job.store(number);
    if (wanted > 0 && sleepers.load() > 0) wake(job, wanted);
  }

  void wait_for_the_rest() {
    const auto done = [&] { return left.load(std::memory_order_acquire) == 0; };
    if (spin(kLastSpin, done)) return;
    caller_sleeps.store(true);
    for (std::uint32_t n; (n = left.load()) != 0;) sleep_while(left, n);
    caller_sleeps.store(false);
  }

  // f(begin, end) over blocks [0, n), cut into `shares` near-equal shares and those as take() does.
  void run(std::uint64_t n, std::size_t shares, std::uint64_t smallest,
           FunctionRef<void(std::int64_t, std::int64_t)> f) {
    if (n == 0) return;
    body = &f;
    left.store(static_cast<std::uint32_t>(n));
    least.store(static_cast<std::uint32_t>(smallest), std::memory_order_relaxed);
    lanes_used.store(static_cast<std::uint32_t>(shares), std::memory_order_relaxed);
    const std::uint32_t number = job.load() + 1;
    for (std::size_t i = 0; i < shares; ++i)
      lanes[i].share.store(Share::make(number, n * i / shares, n * (i + 1) / shares).word,
                           std::memory_order_release);
    begin(number, static_cast<int>(std::min<std::uint64_t>(n - 1, workers.size())));
    help(0, number);
    wait_for_the_rest();
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
};

Threads::Threads(int count) : team_(std::make_unique<Team>(count)) {
  const int run = std::min(count, usable_processors());
  try {
    for (int i = 1; i < run; ++i) {
      if (faults::trip(faults::Site::memory)) throw std::system_error(EAGAIN, std::generic_category());
      team_->workers.emplace_back([team = team_.get(), i] {
        sigbus::use_alternate_stack();  // weights are read on these threads
        team->work(static_cast<std::size_t>(i));
      });
    }
  } catch (const std::system_error& e) {
    team_->stop = true;
    team_->begin(team_->job + 1, run);
    team_->workers.clear();
    fail(Exit::out_of_memory, "cannot start {} threads: {}", run, e.what());
  }
}

Threads::~Threads() {
  team_->stop = true;
  team_->begin(team_->job + 1, count());
}

int Threads::count() const { return static_cast<int>(team_->lanes.size()); }

void Threads::run(FunctionRef<void(int)> body) {
  run_in_order(count(), [&](std::int64_t i) { body(static_cast<int>(i)); });
}

void Threads::run_in_order(std::int64_t pieces, FunctionRef<void(std::int64_t)> body) {
  if (static_cast<std::uint64_t>(pieces) > Share::kMost)
    fail(Exit::failure, "{} pieces of work in one job", pieces);
  team_->run(static_cast<std::uint64_t>(pieces), 1, 0, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

void Threads::for_range(std::int64_t n, std::int64_t multiple,
                        FunctionRef<void(std::int64_t, std::int64_t)> body) {
  if (n <= 0) return;
  // Fewer and larger blocks where there are more than a share can count.
  const auto most = static_cast<std::int64_t>(Share::kMost);
  const std::int64_t fine = (n + multiple - 1) / multiple, block = multiple * ((fine + most - 1) / most);
  const std::int64_t blocks = (n + block - 1) / block, shares = std::min<std::int64_t>(count(), blocks);
  // A share is taken in four pieces, the last two an eighth of it each; alone, in one.
  const std::int64_t smallest =
      team_->workers.empty() ? blocks : std::max<std::int64_t>(1, blocks / (8 * shares));
  team_->run(static_cast<std::uint64_t>(blocks), static_cast<std::size_t>(shares),
             static_cast<std::uint64_t>(smallest),
             [&](std::int64_t begin, std::int64_t end) { body(begin * block, std::min(n, end * block)); });
}

}  // namespace fathom
