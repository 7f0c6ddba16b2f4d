#include "src/base/threads.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/sigbus.h"

namespace fathom {

// Workers spin briefly for the next task (a forward pass issues one every few microseconds), then sleep.
struct Threads::Team {
  std::vector<std::jthread> workers;
  std::atomic<std::uint64_t> epoch{0};  // incremented to publish `body`; release/acquire makes it visible
  std::atomic<int> running{0};
  std::atomic<bool> stop{false};
  FunctionRef<void(int)>* body = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::exception_ptr error;

  void work(int index) {
    std::uint64_t seen = 0;
    for (;;) {
      wait_for_epoch(seen);
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load()) return;
      call(index);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void wait_for_epoch(std::uint64_t seen) {
    for (int i = 0; i < 20000; ++i) {
      if (epoch.load(std::memory_order_acquire) != seen) return;
      __builtin_ia32_pause();
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return epoch.load(std::memory_order_acquire) != seen; });
  }

  void publish() {
    // Under the mutex, so that a worker between its test and its wait cannot miss the change.
    {
      std::lock_guard lock(mutex);
      epoch.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
  }

  void call(int index) {
    try {
      (*body)(index);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
};

Threads::Threads(int count) : team_(std::make_unique<Team>()) {
  try {
    for (int i = 1; i < count; ++i) {
      if (faults::trip(faults::Site::memory)) throw std::system_error(EAGAIN, std::generic_category());
      team_->workers.emplace_back([team = team_.get(), i] {
        sigbus::use_alternate_stack();  // weights are read on these threads
        team->work(i);
      });
    }
  } catch (const std::system_error& e) {
    team_->stop = true;
    team_->publish();
    team_->workers.clear();
    fail(Exit::out_of_memory, "cannot start {} threads: {}", count, e.what());
  }
}

Threads::~Threads() {
  team_->stop = true;
  team_->publish();
}

int Threads::count() const { return static_cast<int>(team_->workers.size()) + 1; }

void Threads::run(FunctionRef<void(int)> body) {
  Team& t = *team_;
  t.body = &body;
  t.error = nullptr;
  t.running.store(static_cast<int>(t.workers.size()), std::memory_order_relaxed);
  if (!t.workers.empty()) t.publish();
  t.call(0);
  for (int spins = 0; t.running.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < 20000) {
      __builtin_ia32_pause();
    } else {
      std::this_thread::yield();  // more threads than cores: let the others finish
    }
  }
  if (t.error) std::rethrow_exception(t.error);
}

void Threads::for_range(std::int64_t n, std::int64_t multiple,
                        FunctionRef<void(std::int64_t, std::int64_t)> body) {
  const int parts = count();
  run([&](int index) {
    const Range r = share(n, index, parts, multiple);
    if (r.begin < r.end) body(r.begin, r.end);
  });
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  // One thread per physical core: hyper-threads share the bandwidth and the FMA units that a forward pass lives on.
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    std::ifstream in("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(in, siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  int n = static_cast<int>(cores.size());
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  std::string limit, period;
  if (quota >> limit >> period && limit != "max") {
    const auto to_int = [](const std::string& s) {
      std::int64_t v = 0;
      for (char c : s) v = c >= '0' && c <= '9' ? v * 10 + (c - '0') : v;
      return v;
    };
    if (to_int(period) > 0) n = std::min<int>(n, static_cast<int>((to_int(limit) + to_int(period) - 1) / to_int(period)));
  }
  return std::max(1, n);
}

}  // namespace fathom
