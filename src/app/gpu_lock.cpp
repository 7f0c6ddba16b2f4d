#include "src/app/gpu_lock.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "src/app/app.h"

namespace fathom {
namespace {

// A process id has 7 digits at most.
constexpr std::uint64_t kMostBytes = 16;

std::string lock_name(const cuda::DeviceInfo& device) {
  return fmt::format("gpu-{}.lock",
                     device.pci_address.empty() ? std::to_string(device.ordinal) : device.pci_address);
}

}  // namespace

std::optional<int> holder_in(std::string_view text) {
  int pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  const bool whole = error == std::errc() && end + 1 == text.data() + text.size() && *end == '\n';
  if (!whole || pid <= 0) return std::nullopt;
  if (::kill(pid, 0) != 0 && errno == ESRCH) return std::nullopt;
  return pid;
}

GpuLock::GpuLock(const std::optional<std::string>& folder, const cuda::DeviceInfo& device)
    : ordinal_(device.ordinal) {
  if (!folder) return;
  try {
    take(*folder, *folder + "/" + lock_name(device));
  } catch (const Error& e) {
    trouble_ = e.what();
    file_.reset();
  }
}

void GpuLock::take(const std::string& folder, const std::string& path) {
  // Of another user after `sudo -E`: what we leave there would be in their way.
  const std::string parent = folder.substr(0, folder.rfind('/'));
  if (!owned_by_us(parent))
    throw Error(Exit::io, fmt::format("{}: absent, or of another user", parent)).at(parent);
  make_directory(folder, 0700);
  file_.emplace(path);
  if (!file_->owned_by_us()) throw Error(Exit::io, fmt::format("{}: belongs to another user", path)).at(path);
  if (!file_->lock(false)) {
    in_use_ = true;
    if (file_->size() <= kMostBytes) holder_ = holder_in(file_->tail(kMostBytes));
    file_.reset();
    return;
  }
  taken_ = true;
  file_->truncate(0);
  file_->append(fmt::format("{}\n", ::getpid()), false);
}

std::string GpuLock::text() const {
  if (!in_use_) return {};
  return fmt::format("GPU {} is also used by another fathom{}", ordinal_,
                     holder_ ? fmt::format(" (process {})", *holder_) : std::string());
}

void lock_gpu(App& app, const cuda::DeviceInfo& device) {
  if (app.gpu_lock) return;
  app.gpu_lock = std::make_shared<GpuLock>(app.environment.runtime_dir, device);
  if (!app.gpu_lock->trouble().empty())
    app.terminal.detail(fmt::format("the GPU is not locked: {}", app.gpu_lock->trouble()));
}

void warn_of_shared_gpu(App& app) {
  if (app.gpu_lock && app.gpu_lock->in_use())
    app.terminal.warning(app.gpu_lock->text() + ": both are slower");
}

Error with_gpu_holder(const App& app, const Error& error) {
  if (error.code() != Exit::out_of_memory || !app.gpu_lock || !app.gpu_lock->in_use()) return error;
  Error named(error.code(), fmt::format("{}\n  {}", error.what(), app.gpu_lock->text()),
              fmt::format("{}{}wait until the other one ends", error.remedy(),
                          error.remedy().empty() ? "" : "\nor "));
  return named.at(error.file(), error.offset());
}

}  // namespace fathom
