#include "src/engine/timeline.h"

#include <algorithm>
#include <numeric>

#include "src/base/error.h"

namespace fathom {
namespace {

void check_room(std::size_t needed, std::int32_t capacity) {
  if (needed > static_cast<std::size_t>(capacity))
    throw Error(Exit::context, fmt::format("{} tokens do not fit the context of {}", needed, capacity),
                "shorten the prompt or give a larger --ctx");
}

}  // namespace

std::vector<float> Timeline::extend(std::span<const std::int32_t> ids, Role role, std::span<const int> wanted, bool keep,
                                    const std::function<void(int, std::span<const float>)>& take) {
  std::vector<Row> rows(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    rows[i] = {ids[i], static_cast<std::int32_t>(ids_.size() + i), index_, role};
  ForwardCall call;
  call.rows = rows;
  call.logit_rows = wanted;
  call.keep_logits = keep && !wanted.empty() && forward_->can_draw();
  call.take_logits = take;
  ForwardResult result = forward_->forward(call);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  last_role_ = role;
  return std::move(result.logits);
}

std::string Timeline::first_bad_stage() {
  if (ids_.empty()) return {};
  return forward_->first_bad_stage({ids_.back(), static_cast<std::int32_t>(ids_.size()) - 1, index_, last_role_});
}

std::size_t Timeline::common_prefix(std::span<const std::int32_t> ids) const {
  const auto first_difference = std::mismatch(ids_.begin(), ids_.end(), ids.begin(), ids.end()).first;
  const auto same = static_cast<std::size_t>(first_difference - ids_.begin());
  // The last token runs again even when it is cached: its logits are wanted, and they are not kept.
  return ids.empty() ? 0 : std::min(same, ids.size() - 1);
}

std::vector<float> Timeline::sync(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress) {
  return bring_to(ids, progress, false);
}

void Timeline::sync_to_draw(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress) {
  logits_ = bring_to(ids, progress, true);
}

void Timeline::append_to_draw(std::int32_t id) {
  check_room(ids_.size() + 1, capacity());
  const int wanted[] = {0};
  logits_ = extend(std::span(&id, 1), Role::generated, wanted, true);
}

Drawn Timeline::draw(const SamplingParams& sampling, std::int32_t valid_ids, std::span<const std::int32_t> history,
                     std::optional<int> logprobs) {
  const auto position = static_cast<std::int64_t>(history.size()) - 1;
  if (logits_.empty() && !has_penalties(sampling))
    if (auto drawn = forward_->draw({sampling, valid_ids, position, logprobs})) return std::move(*drawn);
  const std::span<const float> all = logits();
  Drawn drawn;
  drawn.id = sample(all, valid_ids, history, sampling, position);
  if (!logprobs) return drawn;
  drawn.logprob = log_probability(all, valid_ids, drawn.id);
  drawn.top = top_logprobs(all, valid_ids, *logprobs);
  return drawn;
}

std::span<const float> Timeline::logits() {
  if (logits_.empty()) logits_ = forward_->kept_logits();
  return logits_;
}

std::vector<float> Timeline::bring_to(std::span<const std::int32_t> ids, const std::function<void(std::size_t)>& progress,
                                      bool keep) {
  if (ids.empty()) throw Error(Exit::usage, "the prompt has no tokens", "give a prompt");
  check_room(ids.size(), capacity());
  ids_.resize(common_prefix(ids));
  std::vector<float> logits;
  while (ids_.size() < ids.size()) {
    if (progress) progress(ids_.size());
    const auto chunk = ids.subspan(ids_.size(), std::min(forward_->prompt_chunk(), ids.size() - ids_.size()));
    const int last[] = {static_cast<int>(chunk.size()) - 1};
    const bool final = ids_.size() + chunk.size() == ids.size();
    logits = extend(chunk, Role::prompt, final ? std::span<const int>(last) : std::span<const int>(), keep);
  }
  if (progress) progress(ids.size());
  return logits;
}

std::vector<float> Timeline::append(std::int32_t id) {
  check_room(ids_.size() + 1, capacity());
  const int wanted[] = {0};
  return extend(std::span(&id, 1), Role::generated, wanted);
}

std::vector<std::byte> Timeline::save() const {
  std::vector<std::byte> rows(forward_->position_bytes() * ids_.size());
  if (!rows.empty()) forward_->export_rows(index_, static_cast<std::int32_t>(ids_.size()), rows);
  return rows;
}

bool Timeline::restore(std::span<const std::int32_t> ids, std::span<const std::byte> rows) {
  const std::size_t bytes = forward_->position_bytes();
  if (bytes == 0 || ids.empty() || rows.size() != bytes * ids.size()) return false;
  if (ids.size() > static_cast<std::size_t>(capacity())) return false;
  forward_->import_rows(index_, static_cast<std::int32_t>(ids.size()), rows);
  ids_.assign(ids.begin(), ids.end());
  return true;
}

void Timeline::score(std::span<const std::int32_t> ids,
                     const std::function<void(std::size_t, std::span<const float>)>& visit) {
  check_room(ids.size(), capacity());
  ids_.clear();
  // In the pass's own chunks: where keys and values of the whole context are made for each of them, shorter ones
  // cost more.
  while (ids_.size() < ids.size()) {
    const std::size_t begin = ids_.size();
    const auto chunk = ids.subspan(begin, std::min(forward_->prompt_chunk(), ids.size() - begin));
    std::vector<int> wanted(chunk.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    extend(chunk, Role::prompt, wanted, false,
           [&](int row, std::span<const float> logits) { visit(begin + static_cast<std::size_t>(row), logits); });
  }
}

}  // namespace fathom
