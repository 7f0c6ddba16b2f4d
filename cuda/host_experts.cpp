#include "cuda/host_experts.h"

#include <atomic>
#include <chrono>
#include <new>
#include <vector>

#include "src/base/checked.h"
#include "src/base/error.h"

namespace fathom::cuda {

// What both sides poll; each word in a line of its own, so that neither side's polling disturbs the other's writes.
struct HostExperts::Control {
  alignas(128) std::uint64_t request = 0;    // written by the GPU
  alignas(128) std::uint64_t answer = 0;     // written by the host
  alignas(128) std::uint32_t timed_out = 0;  // written by the GPU
};

namespace {

constexpr std::uint64_t kEveryAnswer = ~std::uint64_t{0};
// Cold pages of eight experts of 44 MB from a slow disk take seconds; two minutes mean that nobody will answer.
constexpr std::uint64_t kMostWaitNanoseconds = 120'000'000'000;

std::uint64_t aligned(Size bytes) { return (bytes.ceil_div(256) * Size(256)).value(); }

}  // namespace

HostExperts::HostExperts(const Config& config, int most_rows, Threads& threads, std::byte* counters)
    : hidden_(config.hidden_size),
      slots_(config.router.num_experts_per_tok),
      machine_{threads, cpu::kernels_for(cpu::best_isa())},
      counters_(counters) {
  const Size rows = most_rows, row = Size(hidden_) * Size(4);
  rows_at_ = aligned(Size(static_cast<std::int64_t>(sizeof(Control))));
  ids_at_ = rows_at_ + aligned(rows * row);
  out_at_ = ids_at_ + aligned(rows * Size(slots_) * Size(4));
  pinned_ = Pinned(out_at_ + aligned(rows * Size(slots_) * row));
  new (pinned_.data()) Control;
}

HostExperts::Control& HostExperts::control() const { return *reinterpret_cast<Control*>(pinned_.data()); }

void HostExperts::hand_over(const Launch& on, const Input& normed, const std::int32_t* ids, int rows) {
  cuda::hand_over(on, {.input = normed,
                       .ids = ids,
                       .slots = slots_,
                       .x_out = rows_in(),
                       .ids_out = ids_in(),
                       .counters = reinterpret_cast<HandOffCounters*>(counters_),
                       .request = &control().request,
                       .rows = rows});
}

void HostExperts::await_answer(const Launch& on) {
  cuda::await_answer(on, {.counters = reinterpret_cast<HandOffCounters*>(counters_),
                          .answer = &control().answer,
                          .timed_out = &control().timed_out,
                          .most_nanoseconds = kMostWaitNanoseconds});
}

void HostExperts::combine_answer(const Launch& on, const float* weights, const float* shared, float* out, bool add,
                                 int rows) {
  cuda::combine_answer(on, {.expert_out = rows_out(),
                            .weights = weights,
                            .slots = slots_,
                            .shared = shared,
                            .out = out,
                            .add = add,
                            .hidden = hidden_,
                            .rows = rows});
}

void HostExperts::wait_for_request(cudaStream_t stream, std::uint64_t number) const {
  const std::atomic_ref<std::uint64_t> request(control().request);
  for (std::uint32_t spins = 1;; ++spins) {
    if (request.load(std::memory_order_acquire) >= number) return;
    __builtin_ia32_pause();
    // About every millisecond: a GPU that has failed will never ask.
    if (spins % (1u << 14) != 0) continue;
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaErrorNotReady) continue;
    FATHOM_CUDA(state);
    if (request.load(std::memory_order_acquire) >= number) return;
    fail(Exit::compute, "the GPU ended its work without handing over the rows of a layer's experts");
  }
}

void HostExperts::serve(cudaStream_t stream, const ExpertTable& table, int rows, cpu::Rounding rounding,
                        FunctionRef<void()> poll) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  wait_for_request(stream, served_ + 1);
  const auto asked = Clock::now();
  const auto count = static_cast<std::size_t>(rows);
  cpu::routed_experts(machine_,
                      {.table = table,
                       .x = {rows_in(), count * static_cast<std::size_t>(hidden_)},
                       .ids = {ids_in(), count * static_cast<std::size_t>(slots_)},
                       .num_experts_per_tok = slots_,
                       .rounding = rounding,
                       .expert_out = rows_out()},
                      poll);
  // Release: whoever sees the answer sees expert_out.
  std::atomic_ref<std::uint64_t>(control().answer).store(++served_, std::memory_order_release);
  times_.waiting_s += std::chrono::duration<double>(asked - begin).count();
  times_.computing_s += std::chrono::duration<double>(Clock::now() - asked).count();
  ++times_.answers;
}

void HostExperts::abandon(cudaStream_t stream) noexcept {
  const std::atomic_ref<std::uint64_t> answer(control().answer);
  answer.store(kEveryAnswer, std::memory_order_release);
  if (!lost()) (void)cudaStreamSynchronize(stream);
  served_ = std::atomic_ref<std::uint64_t>(control().request).load(std::memory_order_acquire);
  answer.store(served_, std::memory_order_release);
}

void HostExperts::require_answered() const {
  if (std::atomic_ref<std::uint32_t>(control().timed_out).load() != 0)
    fail(Exit::compute, "the GPU waited for the experts in host memory for more than {} seconds",
         kMostWaitNanoseconds / 1'000'000'000);
}

double HostExperts::rate(std::span<const ExpertTable* const> tables, cpu::Rounding rounding, int repeats) {
  std::vector<float> x(static_cast<std::size_t>(hidden_)), out(x.size() * static_cast<std::size_t>(slots_));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1024) / 512.0f - 1.0f;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(slots_));
  double bytes = 0, seconds = 0;
  std::uint32_t turn = 0;
  for (int round = -1; round < repeats; ++round)  // the first is not counted: it wakes the team
    for (const ExpertTable* table : tables) {
      // Ascending and distinct: one of each of `slots` equal parts of the experts.
      const auto part = static_cast<std::uint32_t>(table->experts.size()) / static_cast<std::uint32_t>(slots_);
      for (std::size_t s = 0; s < ids.size(); ++s)
        ids[s] = static_cast<std::int32_t>(static_cast<std::uint32_t>(s) * part +
                                           (turn++ * 2654435761u >> 16) % std::max(part, 1u));
      const auto begin = std::chrono::steady_clock::now();
      cpu::routed_experts(machine_,
                          {.table = *table,
                           .x = x,
                           .ids = ids,
                           .num_experts_per_tok = slots_,
                           .rounding = rounding,
                           .expert_out = out.data()},
                          [] {});
      if (round < 0) continue;
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      for (std::int32_t id : ids) {
        const Expert& e = table->experts[static_cast<std::size_t>(id)];
        bytes += static_cast<double>(e.gate.bytes() + e.up.bytes() + e.down.bytes());
      }
    }
  return seconds > 0 ? bytes / seconds : 0;
}

}  // namespace fathom::cuda
