// What fathom bench measured, and how it is printed: a table, CSV or JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fathom {

// Decoding at one depth of the context.
struct BenchDepth {
  std::int32_t context = 0;   // tokens in the cache when decoding begins
  double prefill_s = 0;       // of all of them, from an empty cache
  double decode_s = 0;        // per token
  std::int64_t bytes = 0;     // that one token at this depth must read: weights and cached rows
  double host_s = 0;          // of decode_s, spent on computing experts in host memory
};

// Experts that stay in host memory beside a GPU.
struct BenchHost {
  std::int64_t expert_bytes = 0;  // of `bytes`, those of routed experts
  double expert_rate = 0;         // bytes per second of the expert code alone
  double memory_rate = 0;         // bytes per second that host memory reads at
};

struct BenchStage {
  std::string stages;
  double milliseconds = 0;  // per token
  int launches = 0;
};

// Choosing one token from the logits of a step, by itself.
struct BenchDraw {
  std::string how;  // "greedy"
  double microseconds = 0;
  bool on_host = false;  // there is no GPU, or it leaves this distribution to the host, logits copied
};

struct BenchReport {
  std::string model, placement, numerics;
  std::int64_t bytes_total = 0;
  double read_rate = 0;  // bytes per second that the memory of the weights reads at, measured in this run
  std::vector<BenchDepth> depths;
  std::optional<BenchHost> host;
  std::vector<BenchStage> stages;       // at the deepest context; empty on the CPU
  std::vector<BenchDraw> draws;
  std::vector<std::int64_t> experts;    // how often each expert was chosen, all layers together
  std::int64_t expert_tokens = 0;       // tokens that were counted

  // Seconds that a token at `depth` needs at the rates measured: the roofline.
  double least_seconds(const BenchDepth& depth) const;
  // The same with host memory's own rate in place of the expert code's; only with `host`.
  double least_seconds_by_memory(const BenchDepth& depth) const;
};

std::string bench_text(const BenchReport& report);
std::string bench_csv(const BenchReport& report);
std::string bench_json(const BenchReport& report);

}  // namespace fathom
