#include "src/stage.h"

#include <array>

namespace fathom {
namespace {

constexpr std::array<StageRow, kStages> kTable{{
    {Stage::Embed, "Embed", "x", "(T, hidden_size)", "f32",
     "none: the stored embedding row, exactly decoded", RankView::replicated},
    {Stage::MtpInput, "MtpInput", "x", "(T, hidden_size)", "f32",
     "none: x = eh_proj [RMS(embed(token); enorm); RMS(hidden_in; hnorm)], inputs of eh_proj in FP32",
     RankView::replicated},
    {Stage::AttnNorm, "AttnNorm", "normed", "(T, hidden_size)", "f32", "none: RMS norm in FP32",
     RankView::replicated},
    {Stage::Latents, "Latents", "q_latent, kv_row", "(T, q_lora_rank), (T, kv_lora_rank + qk_rope_head_dim)", "f32",
     "normed per Numerics.*_activations on input of q_a and kv_a; kv_row is then appended to the cache in "
     "Numerics.cache; kv_row itself is stated before that rounding",
     RankView::replicated},
    {Stage::Query, "Query", "q", "(T, heads, qk_nope_head_dim + qk_rope_head_dim)", "f32",
     "q_latent (or normed) per Numerics.*_activations on input of q_b (or q); rotated, nope first",
     RankView::by_heads},
    {Stage::Attend, "Attend", "attn", "(T, heads, v_head_dim)", "f32",
     "every key, the call's own rows too, is read from the cache as stored; GPU: absorbed q, probabilities and "
     "expanded K/V are BF16",
     RankView::by_heads},
    {Stage::AttnOut, "AttnOut", "delta", "(T, hidden_size)", "f32",
     "attn per Numerics.*_activations on input of o", RankView::partial_sum},
    {Stage::AttnReduce, "AttnReduce", "x", "(T, hidden_size)", "f32",
     "none: x += delta, ranks summed in ascending order", RankView::replicated},
    {Stage::FfnNorm, "FfnNorm", "normed", "(T, hidden_size)", "f32", "none: RMS norm in FP32", RankView::replicated},
    {Stage::Route, "Route", "expert_ids, expert_weights", "(T, num_experts_per_tok) each, ids ascending", "i32, f32",
     "none: router logits, scores and weights in FP32; ties go to the lower id", RankView::replicated},
    {Stage::Shared, "Shared", "shared", "(T, hidden_size)", "f32",
     "normed per Numerics.*_activations on input of gate and up, silu(gate) * up on input of down",
     RankView::partial_sum},
    {Stage::Dense, "Dense", "delta", "(T, hidden_size)", "f32", "as Shared", RankView::partial_sum},
    {Stage::Routed, "Routed", "expert_out", "(T, num_experts_per_tok, hidden_size), each expert's own output",
     "f32 for generated rows, bf16 for prompt rows", "as Shared", RankView::partial_sum},
    {Stage::Combine, "Combine", "delta", "(T, hidden_size)", "f32",
     "none: FP32 sum over slots in order of weight times expert_out, then shared", RankView::partial_sum},
    {Stage::FfnReduce, "FfnReduce", "x", "(T, hidden_size)", "f32",
     "none: x += delta, ranks summed in ascending order", RankView::replicated},
    {Stage::FinalNorm, "FinalNorm", "normed", "(rows wanted, hidden_size)", "f32", "none: RMS norm in FP32",
     RankView::replicated},
    {Stage::Logits, "Logits", "logits", "(rows wanted, vocab_size)", "f32", "none: FP32 input, stored head weights",
     RankView::by_vocabulary},
}};

void add_layer(std::vector<Step>& list, const Config& config, int layer) {
  for (Stage s : {Stage::AttnNorm, Stage::Latents, Stage::Query, Stage::Attend, Stage::AttnOut, Stage::AttnReduce,
                  Stage::FfnNorm})
    list.push_back({s, layer});
  if (config.is_moe(layer)) {
    list.push_back({Stage::Route, layer});
    if (config.n_shared_experts > 0) list.push_back({Stage::Shared, layer});
    list.push_back({Stage::Routed, layer});
    list.push_back({Stage::Combine, layer});
  } else {
    list.push_back({Stage::Dense, layer});
  }
  list.push_back({Stage::FfnReduce, layer});
}

}  // namespace

std::span<const StageRow> stage_table() { return kTable; }

std::vector<Step> stage_list(const Config& config, Stack stack, int mtp_index) {
  std::vector<Step> list;
  if (stack == Stack::main) {
    list.push_back({Stage::Embed, -1});
    for (int layer = 0; layer < config.num_hidden_layers; ++layer) add_layer(list, config, layer);
  } else {
    list.push_back({Stage::MtpInput, -1});
    add_layer(list, config, config.num_hidden_layers + mtp_index);
  }
  list.push_back({Stage::FinalNorm, -1});
  list.push_back({Stage::Logits, -1});
  return list;
}

}  // namespace fathom
