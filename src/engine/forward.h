// The one interface to a forward pass, whoever computes it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/numerics.h"
#include "src/engine/sampler.h"
#include "src/stage.h"

namespace fathom {

// Numerics follow the role of a row, never the number of rows: prompt = eval, --ids input, templates, resumed and
// edited text; generated = sampled and drafted tokens.
enum class Role : std::uint8_t { prompt, generated };

struct Row {
  std::int32_t token = 0;
  std::int32_t position = 0;
  std::uint32_t timeline = 0;
  Role role = Role::prompt;
};

struct ForwardCall {
  Stack stack = Stack::main;
  // Any number of rows; within a timeline in ascending, gapless position, right behind what is cached before the first.
  // Mixed roles are split by role inside the pass.
  std::span<const Row> rows;
  // MTP stack only: (rows, hidden_size), the main stack's rows after FinalNorm (or the un-normed x of a draft chain).
  std::span<const float> hidden_in;
  // Indices into `rows`, ascending, whose logits (hidden rows after FinalNorm) are wanted.
  std::span<const int> logit_rows;
  std::span<const int> hidden_rows;
  // Asks a pass that can draw to keep the logits instead of returning them: exactly one logit row, one call at a time.
  bool keep_logits = false;
  // Where set: takes the logits of logit_rows one by one, in order, with their index into `rows`, as they are
  // computed; none are returned. So that the logits of a long text need no room.
  std::function<void(int row, std::span<const float> logits)> take_logits;
};

struct ForwardResult {
  std::vector<float> logits;  // (logit_rows, vocab_size)
  std::vector<float> hidden;  // (hidden_rows, hidden_size)
};

// Asks for the token that follows kept logits; see src/engine/sampler.h. Penalties are not applied.
struct DrawRequest {
  SamplingParams sampling;
  std::int32_t valid_ids = 0;
  std::int64_t position = 0;
  std::optional<int> logprobs;  // how many alternatives are wanted with the token's log-probability
};
struct Drawn {
  std::int32_t id = 0;
  double logprob = 0;  // this and `top` only where logprobs were asked for
  std::vector<TokenLogprob> top;
};

class Forward {
 public:
  virtual ~Forward() = default;
  // Writes the rows' latents into the cache at their positions and returns what was wanted.
  // Overwriting a position truncates: rows behind it are stale and are never read before they are written again.
  // Errors: compute (a fault of the machine), out_of_memory.
  virtual ForwardResult forward(const ForwardCall& call) = 0;
  virtual std::int32_t capacity() const = 0;  // positions per timeline
  virtual const Config& config() const = 0;
  virtual Numerics numerics() const = 0;
  // Rows of a long prompt that one call should take: enough for blocked matrix products, few enough that activations
  // stay small (the experts' outputs above all: num_experts_per_tok rows per token) and progress is seen to move.
  virtual std::size_t prompt_chunk() const { return 512; }
  // "cpu avx512, 2 threads" or "NVIDIA H100 80GB HBM3": for plan lines and records.
  virtual std::string describe() const = 0;
  // Bytes of one position's cached rows over all layers of the main stack; 0 where they cannot be taken out.
  virtual std::size_t position_bytes() const { return 0; }
  // Copies the rows of positions [0, count) out of and into a timeline, exactly as stored, layer after layer:
  // position_bytes() * count bytes. Precondition: position_bytes() > 0; count rows are cached, or fit capacity().
  virtual void export_rows(std::uint32_t timeline, std::int32_t count, std::span<std::byte> out) const {
    (void)timeline, (void)count, (void)out;
  }
  virtual void import_rows(std::uint32_t timeline, std::int32_t count, std::span<const std::byte> rows) {
    (void)timeline, (void)count, (void)rows;
  }
  // Whether this pass honours keep_logits. Kept logits stay until the next call of forward().
  virtual bool can_draw() const { return false; }
  // The token that sample() would choose from the kept logits, chosen where they are, so that they need not be copied.
  // Nothing where the device leaves it to the host: an unusually flat distribution, or logits that are not numbers.
  // Errors: compute.
  virtual std::optional<Drawn> draw(const DrawRequest& request) {
    (void)request;
    return std::nullopt;
  }
  // A copy of the kept logits, (vocab_size). Errors: compute.
  virtual std::vector<float> kept_logits() { return {}; }
  // Runs a row that has just run once more, to name the first stage that writes a NaN or an infinity: "layer 3, Attend".
  // Empty when there is none, or where the stages cannot be looked at.
  virtual std::string first_bad_stage(const Row& row) {
    (void)row;
    return {};
  }
  // Set between calls: a long prompt asks it about every 100 ms and stops with Error(interrupted) when it says true.
  std::function<bool()> stop_requested;
};

}  // namespace fathom
