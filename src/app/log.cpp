#include "src/app/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <ctime>

#include "src/app/sanitiser.h"
#include "src/base/error.h"

namespace fathom {
namespace {

std::string utc_time() {
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  ::gmtime_r(&now, &t);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec);
}

std::string indented(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "  ";
  }
  return out;
}

}  // namespace

void Log::write(std::string_view kind, std::string_view text) {
  if (!path_) return;
  try {
    if (!file_) file_.emplace(*path_, 0600, AppendFile::Links::follow);
    file_->append(fmt::format("{} {} {}: {}\n", utc_time(), ::getpid(), kind, indented(sanitise(text))), false);
  } catch (const Error& e) {
    trouble_ = fmt::format("FATHOM_LOG: {}", e.what());
    path_.reset();
  }
}

}  // namespace fathom
