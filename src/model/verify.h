// Proving that the values of a checkpoint are sound: `--check=values`, `verify --values`, `verify --hash`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/base/threads.h"
#include "src/model/checkpoint.h"

namespace fathom {

// What one tensor's values are found guilty of.
struct ValueFinding {
  std::string tensor;
  std::string problem;      // "3 values are NaN or infinite, the first at (5, 17)"
  std::uint64_t first = 0;  // element
  std::uint64_t count = 0;
};

struct ValueReport {
  std::vector<ValueFinding>
      errors;  // NaN or infinite weights; scales that are zero, negative, denormal or too large
  std::vector<ValueFinding> notes;  // tensors that hold nothing but zeros
  std::uint64_t tensors = 0, bytes = 0;
  bool ok() const { return errors.empty(); }
};

// Called now and then, from one thread at a time, with bytes done and in all.
using VerifyProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

// Reads every value of every tensor once. The report is the same for any number of threads, in order of
// tensor name. A scale s is sound if it is positive, normal and 448 s is finite.
ValueReport scan_values(const Checkpoint& checkpoint, Threads& threads, const VerifyProgress& progress = {});

// Throws bad_checkpoint listing the errors of a report, if it has any.
void require_sound(const ValueReport& report, const Checkpoint& checkpoint);

// SHA-256 of a file of the set, streamed, as 64 hex digits. Errors: not_found, io.
std::string hash_file(const FileSet& files, const std::string& name, const VerifyProgress& progress = {});

// What the SHA-256 of a file should be, and who says so.
struct ExpectedHash {
  std::string hex, source;
};
// From the name of its blob in the Hub cache, the download metadata of a local directory, or a SHA256SUMS
// file beside it; nothing if none of them knows.
std::optional<ExpectedHash> expected_hash(const FileSet& files, const std::string& name);

}  // namespace fathom
