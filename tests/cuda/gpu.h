// Whether there is a GPU to test on.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace fathom::test {

// Without a GPU a case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
inline bool gpu_present() {
  cuda::NoDevice none;
  if (!cuda::devices(&none).empty()) return true;
  if (std::getenv("FATHOM_TEST_CUDA") != nullptr) FAIL("FATHOM_TEST_CUDA is set, but: " << none.why);
  MESSAGE("skipped: " << none.why);
  return false;
}

// The same for a GPU that runs Hopper's own kernels.
inline bool hopper_present() {
  if (!gpu_present()) return false;
  if (cuda::runs_hopper_code()) return true;
  if (std::getenv("FATHOM_TEST_CUDA") != nullptr) FAIL("FATHOM_TEST_CUDA is set, but there is no Hopper GPU");
  MESSAGE("skipped: not a Hopper GPU");
  return false;
}

}  // namespace fathom::test
