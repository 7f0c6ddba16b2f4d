// Who uses a GPU: an advisory lock per device, so that a second fathom can name the one that holds the
// memory.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cuda/device.h"
#include "src/base/error.h"
#include "src/base/file.h"

namespace fathom {

struct App;

// Taken without waiting and held as long as this object lives; the system gives it up when the process ends,
// however it ends. The file is `folder`/gpu-ADDRESS.lock, by PCI address: an ordinal means another GPU under
// another CUDA_VISIBLE_DEVICES. It holds the process id and is never removed: an old one is unlocked and
// means nothing. Nothing of this ever fails a run: where no lock can be kept, none is.
class GpuLock {
 public:
  // folder: $XDG_RUNTIME_DIR/fathom, which only its user can write to; nothing: no lock is kept. There is no
  // fallback: in the shared temporary folder anybody could create the file first.
  GpuLock(const std::optional<std::string>& folder, const cuda::DeviceInfo& device);

  bool taken() const { return taken_; }
  // True when another process has the lock.
  bool in_use() const { return in_use_; }
  // The process that has it; nothing when that cannot be told.
  std::optional<int> holder() const { return holder_; }
  // "GPU 0 is also used by another fathom (process 4711)"; empty unless in_use().
  std::string text() const;
  // Why no lock is kept; empty when one is, or when there is no folder for it.
  const std::string& trouble() const { return trouble_; }

 private:
  void take(const std::string& folder, const std::string& path);
  int ordinal_;
  bool taken_ = false, in_use_ = false;
  std::optional<int> holder_;
  std::string trouble_;
  std::optional<AppendFile> file_;
};

// The process id that a lock file holds: "4711\n" and nothing else. Nothing for any other text and for a
// process that is gone, which has left the text of an earlier lock.
std::optional<int> holder_in(std::string_view text);

// Takes the lock of the GPU that a run will use, before its memory is planned, for the rest of the command.
void lock_gpu(App& app, const cuda::DeviceInfo& device);
// After the plan: a warning if another fathom uses the same GPU.
void warn_of_shared_gpu(App& app);
// The same fact in an error that says memory is short; other errors come back unchanged.
Error with_gpu_holder(const App& app, const Error& error);

}  // namespace fathom
