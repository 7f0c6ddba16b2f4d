// The contract between the two forward passes: the stages a layer goes through and the values at their boundaries.
//
// The CPU pass (src/cpu/forward.cpp, the executable specification) and the CUDA pass (cuda/) share no tensor
// interface; they share this list. It is data, built per layer from the config. A parity test walks it, feeds both
// sides the same inputs and compares what each stage writes; a kernel that fuses across a boundary says so next to
// it, and the test then checks the next visible value.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/model/config.h"

namespace fathom {

enum class Stack : std::uint8_t { main, mtp };

enum class Stage : std::uint8_t {
  Embed,
  MtpInput,
  AttnNorm,
  Latents,
  Query,
  Attend,
  AttnOut,
  AttnReduce,
  FfnNorm,
  Route,
  Shared,
  Dense,
  Routed,
  Combine,
  FfnReduce,
  FinalNorm,
  Logits,
};
inline constexpr int kStages = static_cast<int>(Stage::Logits) + 1;

// How a stage's output looks to one rank of a tensor-parallel run.
enum class RankView : std::uint8_t { replicated, by_heads, by_vocabulary, partial_sum };

// One row of the contract. `gpu` is the element type at the boundary on a GPU; on the CPU every value is FP32.
struct StageRow {
  Stage stage;
  std::string_view name;      // "AttnNorm"
  std::string_view writes;    // value names: "normed"
  std::string_view shape;     // T rows of the call, in config.json's words
  std::string_view gpu;       // dtype on the GPU where it differs from FP32
  std::string_view rounding;  // where rounding happens, beyond FP32 arithmetic
  RankView view;
};

// The whole table, by Stage.
std::span<const StageRow> stage_table();
inline const StageRow& row_of(Stage s) { return stage_table()[static_cast<unsigned>(s)]; }

// One step of a forward pass. layer is -1 outside layers; for the MTP stack it counts from num_hidden_layers.
struct Step {
  Stage stage;
  int layer = -1;
  bool operator==(const Step&) const = default;
};

// The steps of a stack in order: what a pass executes and what the parity test walks.
// mtp_index: which MTP module (0 for all published models).
std::vector<Step> stage_list(const Config& config, Stack stack, int mtp_index = 0);

}  // namespace fathom
