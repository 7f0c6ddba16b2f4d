// What a call throws, for tests that assert the exit code and the words of an error.
#pragma once

#include <string>

#include "src/base/error.h"

namespace fathom::test {

// Not the Outcome of subprocess.h, which another file of the same program may use: two types of one name would share
// their inline functions.
struct ErrorOutcome {
  Exit code = Exit::ok;
  std::string message, remedy, file;
  bool says(const std::string& fragment) const { return message.find(fragment) != std::string::npos; }
};
using Outcome = ErrorOutcome;

// Runs body and returns the fathom::Error it throws, or {Exit::ok} if it returns.
template <typename Body>
Outcome outcome_of(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    return {e.code(), e.what(), e.remedy(), e.file()};
  }
  return {};
}

template <typename Body>
Exit code_of(Body&& body) {
  return outcome_of(body).code;
}

}  // namespace fathom::test
