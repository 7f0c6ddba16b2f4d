#include "src/app/verified.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "src/base/error.h"

namespace fathom {
namespace {

constexpr std::int64_t kSettled =
    2'000'000'000;  // ns; the coarsest clock of a file system (FAT) ticks every 2 s
constexpr std::size_t kMaxLineBytes = 5 * 21 + 65;
constexpr std::uint64_t kMaxFileBytes = 2 * VerifiedFiles::kMaxFiles * kMaxLineBytes;

// The number before the next space, which is taken off too; false when there is none.
template <typename T>
bool take_number(std::string_view& line, T& out) {
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), out);
  const auto used = static_cast<std::size_t>(end - line.data());
  if (error != std::errc() || used >= line.size() || line[used] != ' ') return false;
  line.remove_prefix(used + 1);
  return true;
}

std::optional<VerifiedFile> parse_line(std::string_view line) {
  VerifiedFile v;
  FileIdentity& f = v.file;
  const bool numbers = take_number(line, f.device) && take_number(line, f.inode) &&
                       take_number(line, f.size) && take_number(line, f.mtime_ns) &&
                       take_number(line, f.ctime_ns);
  if (!numbers || line.size() != 64 || line.find_first_not_of("0123456789abcdef") != line.npos)
    return std::nullopt;
  v.sha256 = line;
  return v;
}

}  // namespace

std::string verified_line(const VerifiedFile& v) {
  return fmt::format("{} {} {} {} {} {}\n", v.file.device, v.file.inode, v.file.size, v.file.mtime_ns,
                     v.file.ctime_ns, v.sha256);
}

std::vector<VerifiedFile> parse_verified(std::string_view text) {
  std::vector<VerifiedFile> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (auto entry = parse_line(text.substr(at, end - at))) out.push_back(std::move(*entry));
    at = end + 1;
  }
  return out;
}

VerifiedFiles::VerifiedFiles(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  try {
    load();
  } catch (const Error& e) {
    trouble_ = e.what();
    path_.clear();
  }
}

void VerifiedFiles::load() {
  make_directories(path_.substr(0, path_.rfind('/')));
  const AppendFile file(path_);
  if (!file.owned_by_us()) throw Error(Exit::io, fmt::format("{}: belongs to another user", path_)).at(path_);
  if (file.others_may_write())
    throw Error(Exit::io, fmt::format("{}: others may write to it", path_), "chmod 600").at(path_);
  const std::string text = file.tail(kMaxFileBytes);
  lines_ = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  entries_ = parse_verified(text);
}

std::optional<std::string> VerifiedFiles::find(const FileIdentity& file) const {
  const auto it =
      std::find_if(entries_.rbegin(), entries_.rend(), [&](const VerifiedFile& v) { return v.file == file; });
  return it == entries_.rend() ? std::nullopt : std::optional(it->sha256);
}

void VerifiedFiles::add(const VerifiedFile& entry, std::int64_t hashed_at) {
  if (std::max(entry.file.mtime_ns, entry.file.ctime_ns) > hashed_at - kSettled) return;
  if (find(entry.file) == entry.sha256) return;
  entries_.push_back(entry);
  if (path_.empty()) return;
  try {
    append(verified_line(entry));
  } catch (const Error& e) {
    trouble_ = e.what();
    path_.clear();
  }
}

void VerifiedFiles::append(const std::string& line) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    AppendFile file(path_);
    file.lock(true);
    if (!file.current()) continue;          // another fathom has just put a shorter file in its place
    const std::string last = file.tail(1);  // a crash may have left the last line without its end
    file.append((last.empty() || last == "\n" ? "" : "\n") + line, true);
    if (++lines_ <= 2 * kMaxFiles) return;
    std::vector<VerifiedFile> kept = parse_verified(file.tail(kMaxFileBytes));
    if (kept.size() > kMaxFiles) kept.erase(kept.begin(), kept.end() - static_cast<long>(kMaxFiles));
    AtomicFile fresh(path_, 0600);
    for (const VerifiedFile& v : kept) fresh.write(verified_line(v));
    fresh.commit();
    lines_ = kept.size();
    return;
  }
}

}  // namespace fathom
