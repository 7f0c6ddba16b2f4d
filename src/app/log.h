// The file that FATHOM_LOG names: what fathom says on stderr, with the time, whether it is shown there or not.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/file.h"

namespace fathom {

class Log {
 public:
  // Nothing: keeps nothing. The file (0600, appended to) is opened with the first line.
  explicit Log(std::optional<std::string> path) : path_(std::move(path)) {}
  // "2026-11-22T15:51:45Z 4711 warning: TEXT", control characters made visible, further lines indented. Times are UTC.
  // A log that cannot be written ends nothing: trouble() says why, once.
  void write(std::string_view kind, std::string_view text);
  // What went wrong since the last call; empty when nothing did.
  std::string trouble() { return std::exchange(trouble_, {}); }

 private:
  std::optional<std::string> path_;
  std::optional<AppendFile> file_;
  std::string trouble_;
};

}  // namespace fathom
