// config.json and generation_config.json: any bytes are either refused with an Error or give usable values.
#include <cmath>

#include "src/engine/generation_config.h"
#include "src/model/config.h"
#include "src/model/rope.h"
#include "src/stage.h"
#include "tests/fuzz/target.h"

using namespace fathom;
using fuzz::require;

namespace {

void config(std::string_view input) {
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
    const Config c = parse_config(input, "fuzz");
    require(c.hidden_size > 0 && c.num_hidden_layers > 0 && c.qk_rope_head_dim % 2 == 0, "sizes are usable");
    require(c.router.n_routed_experts == 0 || c.router.num_experts_per_tok <= c.router.n_routed_experts,
            "no more experts are chosen than there are");
    const Rope rope = make_rope(c);
    for (const float f : rope.frequency) require(f >= 0 && f <= 1, "rope frequencies lie in [0, 1]");
    require(softmax_scale(c) > 0 && std::isfinite(softmax_scale(c)), "the softmax scale is positive");
    require(!stage_list(c, Stack::main).empty(), "there is a list of stages");
  });
}
const fuzz::Target config_target("config", config);

void generation_config(std::string_view input) {
  constexpr int kVocabulary = 1000;
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
    const GenerationConfig g = parse_generation_config(input, "fuzz", kVocabulary);
    const SamplingParams p = default_sampling(g);
    require(p.temperature >= 0 && p.top_p >= 0 && p.top_p <= 1 && p.top_k >= 0 && p.repeat_penalty > 0,
            "sampling parameters are in range");
    for (const std::int32_t id : stop_ids(g, Config{}, nullptr))
      require(id >= 0 && id < kVocabulary, "stop ids are below vocab_size");
  });
}
const fuzz::Target generation_target("generation_config", generation_config);

}  // namespace
