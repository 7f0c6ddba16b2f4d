// The one error type of fathom and the documented exit codes.
//
// An error says what was expected, what was found and what to do. It is thrown where the fact is known and
// caught once, in main(), which prints it and returns its exit code.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace fathom {

// Exit codes of the process; `fathom help exit-codes` prints this list.
enum class Exit : int {
  ok = 0,
  failure = 1,         // anything not below: a bug
  usage = 2,           // flags, config file, environment, missing prompt
  not_found = 3,       // the path or a required file is absent or unreadable
  bad_checkpoint = 4,  // present, but contradicts its format or itself
  unsupported = 5,     // well-formed, but outside what fathom runs
  out_of_memory = 6,   // host or device
  context = 7,         // prompt longer than the context
  compute = 8,         // CUDA fault, NaN or all -inf logits
  io = 9,              // stdin, output file, disk full, SIGBUS
  partial = 10,        // --batch: some lines were answered with errors
  timeout = 124,
  hangup = 129,
  interrupted = 130,
  broken_pipe = 141,
  terminated = 143,
};

// "bad-checkpoint" and so on, as `error.name` in JSON. Unknown values give "failure".
std::string_view exit_name(Exit code);

class Error : public std::runtime_error {
 public:
  // message: what was expected and what was found, one or more lines. remedy: what to do, empty if nothing.
  Error(Exit code, std::string message, std::string remedy = {})
      : std::runtime_error(std::move(message)), code_(code), remedy_(std::move(remedy)) {}

  Exit code() const { return code_; }
  const std::string& remedy() const { return remedy_; }
  const std::string& file() const { return file_; }
  std::optional<std::uint64_t> offset() const { return offset_; }

  // Names the file (and the byte offset in it) that the error is about.
  Error& at(std::string file, std::optional<std::uint64_t> offset = std::nullopt) {
    file_ = std::move(file);
    offset_ = offset;
    return *this;
  }

 private:
  Exit code_;
  std::string remedy_;
  std::string file_;
  std::optional<std::uint64_t> offset_;
};

// Throws Error{code, formatted message}.
template <typename... Args>
[[noreturn]] void fail(Exit code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom
