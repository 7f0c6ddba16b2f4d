#include "src/app/version.h"

#include <fmt/format.h>

#include "src/base/json.h"

#ifdef FATHOM_CUDA_BUILD
#include <cuda_runtime_api.h>
#endif

namespace fathom {
namespace {

#ifdef FATHOM_CUDA_BUILD
// What the Makefile's GENCODE compiles for.
constexpr std::string_view kArchitectures[] = {"sm_90a", "compute_80"};
std::string cuda_version() { return fmt::format("{}.{}", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10); }
#else
constexpr std::string_view kArchitectures[] = {""};
std::string cuda_version() { return {}; }
#endif

}  // namespace

std::string_view version_number() { return "0.1.0"; }
std::string_view version_commit() { return FATHOM_COMMIT; }

std::string version_line() {
  const std::string cuda = cuda_version();
  if (cuda.empty()) return fmt::format("fathom {} ({}, without CUDA)", version_number(), version_commit());
  return fmt::format("fathom {} ({}, CUDA {}: {})", version_number(), version_commit(), cuda,
                     fmt::join(kArchitectures, ", "));
}

std::string version_json() {
  json::Array architectures;
  for (std::string_view a : kArchitectures)
    if (!a.empty()) architectures.emplace_back(std::string(a));
  const std::string cuda = cuda_version();
  return json::dump(json::Value(json::Object{
      {"schema", json::Value(std::string("fathom.version/1"))},
      {"version", json::Value(std::string(version_number()))},
      {"commit", json::Value(std::string(version_commit()))},
      {"cuda", cuda.empty() ? json::Value() : json::Value(cuda)},
      {"gpu_architectures", json::Value(std::move(architectures))},
  }));
}

}  // namespace fathom
