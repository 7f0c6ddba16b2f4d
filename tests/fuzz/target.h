// A fuzz target: a function over any bytes, under a name. Two programs run all of them: libFuzzer (fuzz_main.cpp, chosen
// by FATHOM_FUZZ_TARGET) and the test suite, over the seeds in corpus/ and mutations of them.
#pragma once

#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/error.h"

namespace fathom::fuzz {

// Thrown when the code under test breaks a promise; no target catches it.
struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};
inline void require(bool holds, const char* promise) {
  if (!holds) throw Broken(fmt::format("broken promise: {}", promise));
}

using Function = void (*)(std::string_view input);
// Every target by name.
std::map<std::string_view, Function>& targets();

struct Target {
  Target(std::string_view name, Function run) { targets().emplace(name, run); }
};

// Runs `body`; an Error with one of `codes` is the documented refusal, any other code is a broken promise.
template <typename Body>
void refused_with(std::initializer_list<Exit> codes, Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    bool documented = false;
    for (const Exit code : codes) documented = documented || code == e.code();
    if (!documented) throw Broken(fmt::format("exit code {}: {}", static_cast<int>(e.code()), e.what()));
    require(*e.what() != '\0', "an error says what is wrong");
  }
}

// Cuts `input` at its first NUL: what a target needs besides the bytes under test.
inline std::pair<std::string_view, std::string_view> halves(std::string_view input) {
  const std::size_t nul = input.find('\0');
  if (nul == input.npos) return {input, {}};
  return {input.substr(0, nul), input.substr(nul + 1)};
}

}  // namespace fathom::fuzz
