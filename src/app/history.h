// Lines typed in chat, kept between runs: one message per line, newline and control bytes escaped.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

class AppendFile;

class History {
 public:
  static constexpr std::size_t kMaxLines = 1000;
  static constexpr std::size_t kMaxFileBytes = 8u << 20;
  // A longer message is not remembered (a pasted file is no history).
  static constexpr std::size_t kMaxLineBytes = 64u << 10;

  // Reads the newest kMaxLines messages of `path`; an absent, unreadable or odd file (a directory, a link, another
  // owner's) gives an empty history and a warning, never an error. Empty path: kept in memory only.
  explicit History(std::string path);

  const std::vector<std::string>& lines() const { return lines_; }
  // What could not be read or written and why, for one warning on stderr; empty if nothing.
  const std::string& warning() const { return warning_; }

  // Remembers a message: appended with one write under a lock, so that two chats lose none. Not stored: an empty one,
  // one that begins with a space, one that repeats the newest, one longer than kMaxLineBytes.
  void add(std::string_view message);

 private:
  void load();
  // The file with only its newest lines, when it has grown to twice of them.
  void trim(const AppendFile& file);
  std::string path_, warning_;
  std::vector<std::string> lines_;
  std::size_t file_lines_ = 0;
};

// A message as a history line without its end: `\n`, `\t`, `\\`, `\xNN` for control bytes.
std::string escape_history(std::string_view message);
// The inverse; an unknown escape stays as it is.
std::string unescape_history(std::string_view line);

}  // namespace fathom
