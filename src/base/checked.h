// Checked arithmetic: the one type for every size, count and offset that comes from input.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <utility>

#include "src/base/error.h"

namespace fathom {

// An unsigned 64-bit quantity whose operations throw Error(bad_checkpoint) instead of wrapping.
class Size {
 public:
  constexpr Size() = default;
  template <std::integral T>
  constexpr Size(T v) : value_(static_cast<std::uint64_t>(v)) {
    if (std::cmp_less(v, 0)) overflow();
  }

  constexpr std::uint64_t value() const { return value_; }

  // The value as T; throws if T cannot hold it.
  template <std::integral T>
  constexpr T to() const {
    if (std::cmp_greater(value_, std::numeric_limits<T>::max())) overflow();
    return static_cast<T>(value_);
  }

  friend constexpr Size operator+(Size a, Size b) {
    Size r;
    if (__builtin_add_overflow(a.value_, b.value_, &r.value_)) overflow();
    return r;
  }
  friend constexpr Size operator-(Size a, Size b) {
    Size r;
    if (__builtin_sub_overflow(a.value_, b.value_, &r.value_)) overflow();
    return r;
  }
  friend constexpr Size operator*(Size a, Size b) {
    Size r;
    if (__builtin_mul_overflow(a.value_, b.value_, &r.value_)) overflow();
    return r;
  }
  friend constexpr auto operator<=>(Size, Size) = default;

  // Quotient rounded up; throws for a zero divisor.
  constexpr Size ceil_div(Size d) const {
    if (d.value_ == 0) overflow();
    return Size(value_ / d.value_ + (value_ % d.value_ != 0 ? 1u : 0u));
  }

 private:
  [[noreturn]] static void overflow() {
    throw Error(Exit::bad_checkpoint, "a size computed from the input does not fit: it is negative, too large or zero");
  }
  std::uint64_t value_ = 0;
};

}  // namespace fathom
