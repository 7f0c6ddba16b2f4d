// Attention of prompt rows in the expanded form: keys and values of the whole context are made from the
// cached latents, as many heads at a time as the workspace holds.
#include <algorithm>

#include "cuda/forward.h"

namespace fathom::cuda {

void CudaForward::attend_expanded_form(const Pass& pass, int index) {
  const DeviceLayer& l = layer(index);
  const std::int32_t* position = work<std::int32_t>(Work::rows) + kPromptChunk;
  append_latents(on_, {.latent = config_.kv_lora_rank,
                       .rope = config_.qk_rope_head_dim,
                       .row = device_row_values(config_),
                       .kv_row = work<float>(Work::kv_row),
                       .norm_weight = l.kv_a_layernorm,
                       .eps = config_.rms_norm_eps,
                       .position = position,
                       .timeline = position + kPromptChunk,
                       .cache = cache_of(index),
                       .capacity = options_.capacity,
                       .rows = pass.rows});
  PromptAttendParams p;
  p.shape = attention_shape();
  p.kv_b = l.kv_b_proj;
  p.expanded = work<std::byte>(Work::expanded_keys);
  p.rope = work<std::byte>(Work::expanded_rope);
  p.query = work<std::byte>(Work::prompt_query);
  p.decoded = work<std::byte>(Work::kv_b_tiles);
  p.counter = work<int>(Work::counter);
  if (pass.fused) p.query = work<std::byte>(Work::q);
  const OperandPlace place = operand_place(pass, heads_ * config_.v_head_dim, true);
  p.scale_stride = place.scale_stride;
  p.ue8m0 = pass.round == Round::fp8_ue8m0;
  const std::int64_t row_bytes = std::int64_t{p.shape.row} * 2;
  const int groups = (heads_ + placement_.expanded_heads - 1) / placement_.expanded_heads;
  const int most = (heads_ + groups - 1) / groups;
  for (const Run& run : runs_) {
    if (pass.fused) {  // one run
      if (place.scale != nullptr)
        p.codes = reinterpret_cast<std::uint8_t*>(place.values), p.scale = place.scale;
      else
        p.rounded = reinterpret_cast<__nv_bfloat16*>(place.values);
    } else {
      p.q = work<float>(Work::q) + std::int64_t{run.first} * heads_ * config_.qk_head_dim();
    }
    p.attn = work<float>(Work::attn) + std::int64_t{run.first} * heads_ * config_.v_head_dim;
    p.cache =
        static_cast<std::byte*>(cache_of(index)) + std::int64_t{run.timeline} * options_.capacity * row_bytes;
    p.first_position = run.position;
    p.rows = run.rows;
    for (p.first_head = 0; p.first_head < heads_; p.first_head += p.heads) {
      p.heads = std::min(most, heads_ - p.first_head);
      expand_keys(on_, p);
      attend_expanded(on_, p);
    }
  }
}

}  // namespace fathom::cuda
