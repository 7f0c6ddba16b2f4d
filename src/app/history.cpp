#include "src/app/history.h"

#include <algorithm>
#include <cctype>

#include "src/base/error.h"
#include "src/base/file.h"

namespace fathom {
namespace {

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 32);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

std::string escape_history(std::string_view message) {
  std::string out;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\\')
      out += "\\\\";
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

std::string unescape_history(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char next = i + 1 < line.size() ? line[i + 1] : '\0';
    if (line[i] != '\\') {
      out += line[i];
    } else if (next == 'n' || next == 't' || next == '\\') {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
      ++i;
    } else if (next == 'x' && i + 3 < line.size() && hex_digit(line[i + 2]) >= 0 && hex_digit(line[i + 3]) >= 0) {
      out += static_cast<char>(hex_digit(line[i + 2]) * 16 + hex_digit(line[i + 3]));
      i += 3;
    } else {
      out += '\\';
    }
  }
  return out;
}

History::History(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  try {
    load();
  } catch (const Error& e) {
    warning_ = fmt::format("history is not kept: {}", e.what());
    path_.clear();
  }
}

void History::load() {
  make_directories(parent_of(path_));
  const AppendFile file(path_);
  if (!file.owned_by_us()) throw Error(Exit::io, fmt::format("{}: belongs to another user", path_));
  std::string text = file.tail(kMaxFileBytes);
  // The first line of a cut is not whole.
  if (file.size() > kMaxFileBytes) text.erase(0, text.find('\n') == text.npos ? text.size() : text.find('\n') + 1);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    ++file_lines_;
    if (!line.empty() && line.size() <= 4 * kMaxLineBytes) lines_.push_back(unescape_history(line));
    at = end + 1;
  }
  if (lines_.size() > kMaxLines) lines_.erase(lines_.begin(), lines_.end() - static_cast<long>(kMaxLines));
}

void History::add(std::string_view message) {
  if (message.empty() || message.front() == ' ' || message.size() > kMaxLineBytes) return;
  if (!lines_.empty() && lines_.back() == message) return;
  lines_.emplace_back(message);
  if (lines_.size() > kMaxLines) lines_.erase(lines_.begin());
  if (path_.empty()) return;
  try {
    for (int attempt = 0; attempt < 10; ++attempt) {
      AppendFile file(path_);
      file.lock(true);
      if (!file.current()) continue;  // another chat has just put a shorter file in its place
      // A crash, or another program, may have left the last line without its end.
      const std::string last = file.tail(1);
      file.append((last.empty() || last == "\n" ? "" : "\n") + escape_history(message) + "\n", false);
      if (++file_lines_ > 2 * kMaxLines) trim(file);
      return;
    }
  } catch (const Error& e) {
    warning_ = fmt::format("history is not kept: {}", e.what());
    path_.clear();
  }
}

void History::trim(const AppendFile& file) {
  const std::string text = file.tail(kMaxFileBytes);
  std::size_t at = text.size(), lines = 0;
  while (at > 0 && lines <= kMaxLines) {
    at = text.rfind('\n', at - 1);
    if (at == text.npos) break;
    ++lines;
    if (at == 0) break;
  }
  AtomicFile fresh(path_, 0600);
  fresh.write(at == text.npos ? std::string_view(text) : std::string_view(text).substr(at + 1));
  fresh.commit();
  file_lines_ = kMaxLines;
}

}  // namespace fathom
