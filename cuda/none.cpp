// Answers for a build without CUDA.
#include "cuda/device.h"
#include "src/base/error.h"

namespace fathom::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error(Exit::unsupported, "this fathom was built without CUDA",
              "build with nvcc present, or use --backend cpu");
}

}  // namespace

bool built_with_cuda() { return false; }

std::vector<DeviceInfo> devices(NoDevice* none) {
  if (none != nullptr) *none = {"this fathom was built without CUDA", false};
  return {};
}

std::unique_ptr<Forward> make_forward(const Config&, const Weights&, const ForwardOptions&) { refuse(); }
double read_bandwidth(int, std::uint64_t) { refuse(); }
std::vector<StageTime> stage_times(Forward&, std::int32_t, int) { refuse(); }
double decode_time(Forward&, std::int32_t, int) { refuse(); }
ExpertUse expert_use(Forward&, std::int32_t, int) { refuse(); }
double host_expert_rate(Forward&, int) { refuse(); }
HostTimes take_host_times(Forward&) { refuse(); }

}  // namespace fathom::cuda
