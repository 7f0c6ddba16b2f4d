// Routed experts whose weights stay in host memory: the GPU hands the normed rows and the chosen ids over through
// pinned memory, the CPU's expert code computes each expert's output, and the GPU goes on with them.
//
//   stream of the GPU                          calling thread and its team
//   -----------------------------------------  ---------------------------------------
//   hand_over: rows, ids, then request = n  -> serve(): sees n, runs cpu::routed_experts
//   shared experts (overlapped)
//   await_answer: polls until answer >= n   <- writes expert_out, then answer = n
//   combine_answer: reads expert_out
//
// n counts hand-overs on the device and never returns to zero, so that a replayed graph needs no new arguments and
// no flag is ever reset under a kernel that still reads it.
#pragma once

#include <functional>
#include <span>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "src/cpu/experts.h"
#include "src/model/config.h"

namespace fathom::cuda {

class HostExperts {
 public:
  // For calls of up to `most_rows` rows. `counters`: 256 zeroed bytes of device memory. `threads` runs the experts
  // and is used only inside serve(). Errors: out_of_memory.
  HostExperts(const Config& config, int most_rows, Threads& threads, std::byte* counters);

  // Enqueue the three kernels of one layer's hand-off; see the drawing. `normed` names x, norm weight and eps.
  void hand_over(const Launch& on, const Input& normed, const std::int32_t* ids, int rows);
  void await_answer(const Launch& on);
  // out(t) = (add ? out(t) : 0) + sum over slots in order of weight times expert output, then shared, FP32.
  void combine_answer(const Launch& on, const float* weights, const float* shared, float* out, bool add, int rows);

  // Waits for the next hand-over on `stream` and answers it. `poll` as in cpu::routed_experts. After an exception
  // abandon() must be called. Errors: compute (the GPU failed, or stopped waiting), those of routed_experts.
  void serve(cudaStream_t stream, const ExpertTable& table, int rows, cpu::Rounding rounding,
             FunctionRef<void()> poll);
  // After an exception between hand_over and the end of the stream: lets every waiting kernel go on and waits for
  // the stream, so that the next call begins afresh. The values of the abandoned call mean nothing.
  void abandon(cudaStream_t stream) noexcept;
  // Once the stream is idle. Errors: compute when a kernel gave up waiting for an answer.
  void require_answered() const;

  // Seconds since the last call of this: waiting for the GPU to hand over, and computing experts; and how many
  // hand-overs were answered.
  struct Times {
    double waiting_s = 0, computing_s = 0;
    std::int64_t answers = 0;
  };
  Times take_times() { return std::exchange(times_, {}); }

  // Bytes of experts' weights per second that the expert code alone reaches on one row a call, layer after layer
  // with varying experts, over `repeats` rounds of all tables.
  double rate(std::span<const ExpertTable* const> tables, cpu::Rounding rounding, int repeats);

 private:
  struct Control;
  Control& control() const;
  float* rows_in() const { return reinterpret_cast<float*>(pinned_.data() + rows_at_); }
  std::int32_t* ids_in() const { return reinterpret_cast<std::int32_t*>(pinned_.data() + ids_at_); }
  float* rows_out() const { return reinterpret_cast<float*>(pinned_.data() + out_at_); }
  void wait_for_request(cudaStream_t stream, std::uint64_t number) const;

  int hidden_, slots_;
  cpu::Machine machine_;
  std::byte* counters_;
  Pinned pinned_;
  std::uint64_t rows_at_ = 0, ids_at_ = 0, out_at_ = 0;
  std::uint64_t served_ = 0;
  Times times_;
};

}  // namespace fathom::cuda
