// A scripted model: a tiny checkpoint with a byte-level tokenizer, and a forward pass whose logits make the sampler
// emit given bytes, whatever the weights say. For tests of everything between the sampler and the screen.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/forward.h"
#include "tokenizer/tokenizer.h"

namespace fathom::test {

// Writes config.json, weights of zeros, tokenizer files and a chat template of R1's shape into `folder`.
// Ids: 0 begin, 1 end of sentence, 2 <｜User｜>, 3 <｜Assistant｜>, 4 <think>, 5 </think>, 8 + b for byte b.
// `thinks`: the template opens the thinking block (unless thinking=false); otherwise it has no markers.
void write_fake_checkpoint(const std::string& folder, bool thinks = true);

struct Script {
  // One answer per prompt, begun anew after the last. Every byte is a token of its own; the control tokens above are
  // written out, and \x1f between two bytes keeps them from being read as one.
  std::vector<std::string> answers;
  bool endless = false;  // the last token of an answer is repeated instead of an end-of-sentence token
  std::chrono::microseconds per_prompt_token{0}, per_token{0};
};

class FakeForward : public Forward {
 public:
  // `config` outlives it.
  FakeForward(const Config& config, const Tokenizer& tokenizer, Script script, std::int32_t capacity);
  ForwardResult forward(const ForwardCall& call) override;
  std::int32_t capacity() const override { return capacity_; }
  const Config& config() const override { return config_; }
  Numerics numerics() const override { return {}; }
  std::string describe() const override { return "script"; }

 private:
  std::int32_t next_token(Role role);
  void wait(std::chrono::microseconds time) const;
  const Config& config_;
  Script script_;
  std::int32_t capacity_;
  std::vector<std::vector<std::int32_t>> answers_;  // as ids
  std::size_t answer_ = 0, at_ = 0;
  bool begun_ = false;
};

// Reads the script that $FATHOM_FAKE_SCRIPT names: answers separated by \x1e; $FATHOM_FAKE_DELAY_US per token,
// $FATHOM_FAKE_PREFILL_US per prompt token, $FATHOM_FAKE_ENDLESS. With $FATHOM_FAKE_GPU_FREE there is a GPU with so
// many bytes of free memory, which is planned for and locked like a real one; with $FATHOM_FAKE_GPU_BROKEN one that cannot
// be used, for that reason.
Script script_from_environment();
void write_script(const std::string& path, const std::vector<std::string>& answers);

// fathom itself with the scripted forward pass in place of the real one: `tests/all --as-fathom ARGS`.
int fake_main(int argc, char** argv);

// The path of this test program, to run it so.
std::string self_path();

}  // namespace fathom::test
