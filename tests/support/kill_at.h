// A crash at every system call: runs a function in a child process that is killed before or after its n-th call.
#pragma once

#include <functional>

namespace fathom::test {

enum class Killed {
  yes,      // at stop number n
  finished, // the function ended first
  refused,  // this machine lets no process trace another
};
// Stops before and after each system call of `body` count from 1. SIGKILL at the one before a call: the call does not
// happen. `body` runs in a fork of this process, in one thread.
Killed kill_at(long stop, const std::function<void()>& body);

}  // namespace fathom::test
