// What a model would take of this machine, and how fast it could be: fathom inspect --plan.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/app/app.h"
#include "src/app/model_path.h"
#include "src/base/json.h"

namespace fathom {

struct PlanReport {
  std::string backend;       // "cpu" or "cuda"; empty when it does not fit
  std::string where;         // of a GPU's memory what goes where; else what is mapped
  std::string why, remedy;   // why it does not fit
  std::int32_t context = 0;  // positions
  std::uint64_t weights_bytes = 0, cache_bytes = 0, bytes_per_token = 0;
  std::optional<std::uint64_t> available_bytes;
  double read_bytes_per_s = 0;  // measured now, of the memory that holds the weights
  bool from_disk = false;       // the weights exceed the memory: mapped pages are read again and again
  std::optional<double> predicted_decode;  // tok/s with experts in host memory beside a GPU
  bool fits() const { return why.empty(); }
  // Tokens per second that reading the weights once and `positions` of the cache allows at most; nothing when a disk
  // decides.
  std::optional<double> most_tokens_per_s(std::int32_t positions) const;
};

// Plans exactly as a run with these flags would, without reading weights, and measures the memory's read bandwidth.
// Errors: those of loading, but out_of_memory and unsupported devices are part of the report.
PlanReport plan_here(App& app, const ResolvedModel& model);

// "plan" of fathom.inspect/1.
json::Value plan_value(const PlanReport& report);
// The lines of it, each "  key   value\n".
std::string plan_text(const PlanReport& report);

}  // namespace fathom
