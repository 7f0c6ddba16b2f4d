#include "src/base/sigbus.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "src/base/error.h"

namespace fathom::sigbus {
namespace {

// The list is read inside a signal handler, so entries are added and reused but never freed.
struct Entry {
  std::atomic<std::uintptr_t> begin{0}, end{0};  // begin 0: free
  std::atomic<bool> taken{false};
  char name[512] = {};
  Entry* next = nullptr;  // set before the entry is published
};

// A signal handler can reach nothing but process-wide state.
std::atomic<Entry*> entries{nullptr};
std::atomic<void (*)()> restore{nullptr};

void say(const char* text) {
  // A failing write leaves nothing better to do.
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

const Entry* find(std::uintptr_t address) {
  for (const Entry* e = entries.load(std::memory_order_acquire); e != nullptr; e = e->next) {
    const std::uintptr_t begin = e->begin.load(std::memory_order_acquire);
    if (begin != 0 && address >= begin && address < e->end.load(std::memory_order_acquire)) return e;
  }
  return nullptr;
}

void handle(int, siginfo_t* info, void*) {
  const Entry* e = find(reinterpret_cast<std::uintptr_t>(info->si_addr));
  if (e == nullptr) {
    // Not ours: the default action, by raising it again once this handler returns.
    ::signal(SIGBUS, SIG_DFL);
    return;
  }
  if (auto* f = restore.load()) f();
  say("fathom: ");
  say(e->name);
  say(": I/O error, or the file was changed while in use\n");
  ::_exit(static_cast<int>(Exit::io));
}

// Each thread needs a stack of its own for the handler: the fault may come with the thread's own stack nearly full.
struct AlternateStack {
  std::array<char, 16384> bytes;
  stack_t before{};  // a sanitizer's own, which it wants back when the thread ends
  bool used = false;
  ~AlternateStack() {
    if (used) ::sigaltstack(&before, nullptr);
  }
};
thread_local AlternateStack alternate_stack;

}  // namespace

void use_alternate_stack() {
  if (alternate_stack.used) return;
  stack_t s{};
  s.ss_sp = alternate_stack.bytes.data();
  s.ss_size = alternate_stack.bytes.size();
  alternate_stack.used = ::sigaltstack(&s, &alternate_stack.before) == 0;
}

void install() {
  use_alternate_stack();
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGBUS, &action, nullptr);
}

void on_exit(void (*restore_terminal)()) { restore = restore_terminal; }

Watch::Watch(const void* address, std::size_t bytes, const std::string& name) : entry_(nullptr) {
  Entry* e = entries.load();
  for (; e != nullptr; e = e->next) {
    bool free = false;
    if (e->taken.compare_exchange_strong(free, true)) break;
  }
  if (e == nullptr) {
    e = new Entry;
    e->taken = true;
    e->next = entries.load();
    while (!entries.compare_exchange_weak(e->next, e)) {
    }
  }
  // Control bytes of a hostile file name must not reach the terminal from the handler.
  const std::size_t n = std::min(name.size(), sizeof e->name - 1);
  for (std::size_t i = 0; i < n; ++i) {
    const auto c = static_cast<unsigned char>(name[i]);
    e->name[i] = c < 0x20 || c >= 0x7f ? '?' : name[i];
  }
  e->name[n] = 0;
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  e->end.store(begin + bytes, std::memory_order_release);
  e->begin.store(begin, std::memory_order_release);
  entry_ = e;
}

Watch::~Watch() {
  auto* e = static_cast<Entry*>(entry_);
  e->begin.store(0, std::memory_order_release);
  e->taken.store(false, std::memory_order_release);
}

}  // namespace fathom::sigbus
