// A fixed team of threads for data-parallel loops. Results never depend on how many there are: work is split
// by output, never over a sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "src/base/cores.h"

namespace fathom {

// A non-owning reference to a callable: no allocation on the hot path. The callable must outlive the call.
template <typename Signature>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>) FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* o, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(o))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

struct Range {
  std::int64_t begin = 0, end = 0;
};

// Part `index` of `count` near-equal parts of [0, n), borders on multiples of `multiple` (the last part takes
// the rest).
inline Range share(std::int64_t n, int index, int count, std::int64_t multiple = 1) {
  const std::int64_t blocks = (n + multiple - 1) / multiple;
  const auto border = [&](std::int64_t i) { return std::min(n, blocks * i / count * multiple); };
  return {border(index), border(index + 1)};
}

class Threads {
 public:
  // A team of `count` >= 1 threads, the calling one included; never more run than the process has processors.
  // Errors: out_of_memory if a thread cannot be started.
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const;

  // Work is dealt out piece by piece to whichever thread is free, so that a thread whose processor is taken
  // away delays the piece it holds and nothing else; the calling thread does all that nobody else has begun.
  // Each call returns when everything is done, and rethrows the first exception thrown by a body; the other
  // pieces are run all the same. Not reentrant; one caller at a time.

  // body(index) for index in [0, count()), as a way to cut work by the size of the team.
  void run(FunctionRef<void(int)> body);
  // body(piece) for piece in [0, pieces), begun in ascending order: a piece may wait for one before it. Fewer
  // than 2^20 pieces.
  void run_in_order(std::int64_t pieces, FunctionRef<void(std::int64_t)> body);
  // body(begin, end) for ranges that cover [0, n), borders on multiples of `multiple`. A thread begins with
  // its own share, the same one in every call of equal size, and helps the others afterwards.
  void for_range(std::int64_t n, std::int64_t multiple, FunctionRef<void(std::int64_t, std::int64_t)> body);

 private:
  struct Team;
  std::unique_ptr<Team> team_;
};

}  // namespace fathom
