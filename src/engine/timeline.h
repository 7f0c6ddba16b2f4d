// One sequence of tokens and how much of it the cache already holds.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "src/engine/forward.h"

namespace fathom {

class Timeline {
 public:
  // `forward` outlives the timeline; `index` names its rows in the cache and is used by one timeline only.
  explicit Timeline(Forward& forward, std::uint32_t index = 0) : forward_(&forward), index_(index) {}

  // The tokens whose rows are cached, in order.
  std::span<const std::int32_t> ids() const { return ids_; }
  std::int32_t capacity() const { return forward_->capacity(); }

  // How many tokens of `ids` sync() would keep: the cached prefix, but never the last token.
  std::size_t common_prefix(std::span<const std::int32_t> ids) const;

  // Makes the sequence exactly `ids`: the cached prefix that equals it is kept, the rest goes through the model as
  // prompt rows, in chunks that change nothing but the memory needed. Returns the logits after the last token.
  // `progress` is told how many of ids.size() tokens are done. Stopped in the middle (Error(interrupted)), the chunks
  // done stay. Errors: context when ids exceed the capacity, usage when ids is empty, those of Forward.
  std::vector<float> sync(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress = {});

  // One sampled token more. Returns the logits after it. Errors: context when full.
  std::vector<float> append(std::int32_t id);

  // As sync and append, for draw(): the logits stay with the forward pass where it can keep them.
  void sync_to_draw(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress = {});
  void append_to_draw(std::int32_t id);
  // The token that follows, after sync_to_draw or append_to_draw: chosen on the device where it can be, otherwise by
  // sample() from a copy of the logits. `history`: ids() and, for penalties, nothing else. Errors: those of sample().
  Drawn draw(const SamplingParams& sampling, std::int32_t valid_ids, std::span<const std::int32_t> history,
             std::optional<int> logprobs);
  // The logits that draw() chooses from.
  std::span<const float> logits();

  // After logits that hold a NaN: the first stage of the last row that wrote one; empty if it cannot be told.
  std::string first_bad_stage();

  // The cached rows of ids() as bytes, to be given to restore() later; empty where the forward pass cannot.
  std::vector<std::byte> save() const;
  // Takes `ids` as the sequence and `rows` as its cache, in place of running the model. False, and nothing changed,
  // where the forward pass cannot or the sizes do not fit. The rows are believed: check where they come from.
  bool restore(std::span<const std::int32_t> ids, std::span<const std::byte> rows);

  // Logits after every token of `ids`, in order, as prompt rows from an empty sequence: visit(i, logits after ids[i]).
  void score(std::span<const std::int32_t> ids, const std::function<void(std::size_t, std::span<const float>)>& visit);

 private:
  // Appends rows of one role and returns the logits of the wanted ones (indices into `ids`), or hands them to `take`.
  std::vector<float> extend(std::span<const std::int32_t> ids, Role role, std::span<const int> wanted, bool keep = false,
                            const std::function<void(int, std::span<const float>)>& take = {});
  std::vector<float> bring_to(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress, bool keep);
  Forward* forward_;
  std::uint32_t index_;
  std::vector<std::int32_t> ids_;
  Role last_role_ = Role::prompt;
  std::vector<float> logits_;  // for draw(); empty while the pass keeps them
};

}  // namespace fathom
