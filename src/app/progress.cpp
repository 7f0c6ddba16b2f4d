#include "src/app/progress.h"

#include <fmt/format.h>

#include "src/base/text.h"

namespace fathom {
namespace {

// What ends sooner needs no sign; what changes more often cannot be read.
constexpr auto kMoment = std::chrono::milliseconds(300), kInterval = std::chrono::milliseconds(100);

}  // namespace

std::string duration_text(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  return fmt::format("{}:{:02} min", whole / 60, whole % 60);
}

Progress::Progress(Terminal& terminal, std::string what, bool now) : terminal_(terminal), what_(std::move(what)) {
  if (!now) return;
  visible_ = true;
  terminal_.progress(what_);
}

Progress::~Progress() {
  if (visible_) terminal_.progress("");
}

bool Progress::due(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (done >= total || total == 0 || now - shown_ < kInterval || (!visible_ && now - begin_ < kMoment)) return false;
  shown_ = now;
  return visible_ = true;
}

std::string Progress::left(std::uint64_t done, std::uint64_t total) const {
  const double spent = std::chrono::duration<double>(Clock::now() - begin_).count();
  if (done == 0 || spent < 1) return {};
  const auto seconds = static_cast<long>(spent * static_cast<double>(total - done) / static_cast<double>(done) + 0.5);
  return fmt::format(", {}:{:02} left", seconds / 60, seconds % 60);
}

std::string Progress::bar(std::uint64_t done, std::uint64_t total) const {
  constexpr std::uint64_t kCells = 20;
  if (terminal_.err().width() < 72) return {};
  const auto filled = static_cast<std::size_t>(static_cast<double>(done) / static_cast<double>(total) * kCells);
  return fmt::format(" [{}{}]", std::string(filled, '#'), std::string(kCells - filled, '.'));
}

void Progress::count(std::uint64_t done, std::uint64_t total, std::string_view unit) {
  if (!due(done, total)) return;
  terminal_.progress(fmt::format("{}{} {}/{} {}, {:.0f} %{}", what_, bar(done, total), grouped(done), grouped(total), unit,
                                 100.0 * static_cast<double>(done) / static_cast<double>(total), left(done, total)));
}

void Progress::bytes(std::uint64_t done, std::uint64_t total) {
  if (!due(done, total)) return;
  const double gb = 1e9, spent = std::chrono::duration<double>(Clock::now() - begin_).count();
  terminal_.progress(fmt::format("{}{} {:.1f}/{:.1f} GB, {:.1f} GB/s{}", what_, bar(done, total), static_cast<double>(done) / gb,
                                 static_cast<double>(total) / gb, static_cast<double>(done) / gb / spent, left(done, total)));
}

}  // namespace fathom
