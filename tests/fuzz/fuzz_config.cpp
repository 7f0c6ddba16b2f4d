// config.json: any bytes are either refused with an Error or give a config whose sizes are usable.
#include <cstdlib>

#include "src/base/error.h"
#include "src/model/config.h"
#include "src/model/rope.h"
#include "src/stage.h"

using namespace fathom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Config c = parse_config({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (c.hidden_size <= 0 || c.num_hidden_layers <= 0 || c.qk_rope_head_dim % 2 != 0) std::abort();
    if (c.router.n_routed_experts > 0 && c.router.num_experts_per_tok > c.router.n_routed_experts) std::abort();
    const Rope rope = make_rope(c);
    for (float f : rope.frequency)
      if (!(f >= 0 && f <= 1)) std::abort();
    if (!(softmax_scale(c) > 0)) std::abort();
    (void)stage_list(c, Stack::main);
  } catch (const Error&) {
  }
  return 0;
}
