// Signs of life on one line of stderr while something takes long; nothing where stderr is no terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/app/terminal.h"

namespace fathom {

class Progress {
 public:
  // `what`: "reading the prompt", "checking". Shown at once with `now`, else when it has taken a moment.
  Progress(Terminal& terminal, std::string what, bool now = false);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Removes the line.
  ~Progress();

  // "reading [##..................] 1,024/8,192 tokens, 12 %, 0:05 left"; `unit` "tokens". Without the bar where the
  // terminal is narrow.
  void count(std::uint64_t done, std::uint64_t total, std::string_view unit);
  // "uploading [###########.........] 412.0/688.0 GB, 3.1 GB/s, 1:29 left"
  void bytes(std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  bool due(std::uint64_t done, std::uint64_t total);
  std::string bar(std::uint64_t done, std::uint64_t total) const;
  std::string left(std::uint64_t done, std::uint64_t total) const;
  Terminal& terminal_;
  std::string what_;
  Clock::time_point begin_ = Clock::now(), shown_{};
  bool visible_ = false;
};

// "0.4 s", "12 s", "1:05 min".
std::string duration_text(double seconds);

}  // namespace fathom
