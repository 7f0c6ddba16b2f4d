// A model that says what a test tells it to: a forward pass whose logits prefer the next id of a script, and a
// tokenizer over a small table of byte strings.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/engine/forward.h"
#include "tokenizer/tokenizer.h"

namespace fathom::test {

// Token i of the vocabulary stands for pieces[i]; those named as control are added tokens.
class TableTokenizer : public Tokenizer {
 public:
  explicit TableTokenizer(std::vector<std::string> pieces, std::vector<std::int32_t> control = {})
      : pieces_(std::move(pieces)), control_(std::move(control)) {}

  // Greedy longest match; enough for tests. Throws for text outside the table.
  std::vector<std::int32_t> encode(std::string_view text, AddedTokens added) const override {
    std::vector<std::int32_t> ids;
    while (!text.empty()) {
      std::int32_t best = -1;
      for (std::int32_t id = 0; id < vocab_size(); ++id) {
        const std::string& p = pieces_[static_cast<std::size_t>(id)];
        if (p.empty() || !text.starts_with(p) || (added == AddedTokens::plain && is_control(id))) continue;
        if (best < 0 || p.size() > pieces_[static_cast<std::size_t>(best)].size()) best = id;
      }
      if (best < 0) fail(Exit::failure, "the test's vocabulary lacks {:?}", text);
      ids.push_back(best);
      text.remove_prefix(pieces_[static_cast<std::size_t>(best)].size());
    }
    return ids;
  }
  std::string_view token_bytes(std::int32_t id) const override { return pieces_[static_cast<std::size_t>(id)]; }
  bool is_control(std::int32_t id) const override {
    for (std::int32_t c : control_)
      if (c == id) return true;
    return false;
  }
  std::optional<std::int32_t> find_added(std::string_view content) const override {
    for (std::int32_t c : control_)
      if (pieces_[static_cast<std::size_t>(c)] == content) return c;
    return std::nullopt;
  }
  std::int32_t vocab_size() const override { return static_cast<std::int32_t>(pieces_.size()); }
  std::string describe() const override { return "a table"; }

 private:
  std::vector<std::string> pieces_;
  std::vector<std::int32_t> control_;
};

// After the last prompt row the script's first id is the most probable, then one more per generated row; behind its
// end the last one repeats. Records every row it was given.
class ScriptedForward : public Forward {
 public:
  ScriptedForward(int vocab_size, std::int32_t capacity, std::vector<std::int32_t> script)
      : capacity_(capacity), script_(std::move(script)) {
    config_.vocab_size = vocab_size;
  }

  ForwardResult forward(const ForwardCall& call) override {
    if (stop_requested && stop_requested()) throw Error(Exit::interrupted, "stopped");
    ForwardResult result;
    ++calls;
    for (const Row& row : call.rows) {
      rows.push_back(row);
      if (row.role == Role::generated) ++step_;
    }
    for ([[maybe_unused]] int wanted : call.logit_rows) {
      std::vector<float> logits(static_cast<std::size_t>(config_.vocab_size), 0.0f);
      logits[static_cast<std::size_t>(script_[std::min(step_, script_.size() - 1)])] = 50.0f;
      if (nan_at_step == static_cast<int>(step_)) logits[0] = __builtin_nanf("");
      result.logits.insert(result.logits.end(), logits.begin(), logits.end());
    }
    return result;
  }
  std::int32_t capacity() const override { return capacity_; }
  const Config& config() const override { return config_; }
  Numerics numerics() const override { return {}; }
  std::string describe() const override { return "scripted"; }

  std::vector<Row> rows;
  int calls = 0;
  int nan_at_step = -1;

 private:
  Config config_;
  std::int32_t capacity_;
  std::vector<std::int32_t> script_;
  std::size_t step_ = 0;
};

}  // namespace fathom::test
