// Where an answer goes: a terminal, a pipe, a file, JSON.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "src/app/options.h"
#include "src/app/terminal.h"
#include "src/engine/generate.h"

namespace fathom {

// Bytes of an answer on their way out.
class Output {
 public:
  virtual ~Output() = default;
  virtual void write(std::string_view bytes) = 0;
  // Everything was written: only now does a file appear under its name.
  virtual void commit() {}
};

// Standard output, or the file of -o: written beside it and renamed when complete; a FIFO or device as it is.
// Errors: io, at once when the place cannot be written.
std::unique_ptr<Output> make_output(const Options& options, Terminal& terminal);

// Shows thinking and content as they come, as one of the modes of cli.md.
class AnswerView {
 public:
  virtual ~AnswerView() = default;
  virtual void reasoning(std::string_view text) = 0;
  virtual void content(std::string_view text) = 0;
  virtual void step(std::size_t tokens, bool in_thinking) = 0;
  // After the last delta, also of an interrupted answer.
  virtual void finish(const GenerationResult& result) = 0;
};

// Dim thinking and sanitised content on a terminal.
std::unique_ptr<AnswerView> make_terminal_view(const Options& options, Terminal& terminal);
// Content alone, its trailing newlines replaced by exactly one; thinking on stderr when asked for in full.
std::unique_ptr<AnswerView> make_plain_view(const Options& options, Terminal& terminal, Output& output);

}  // namespace fathom
