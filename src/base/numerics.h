// The rounding policy of a run: a value handed to both forward passes.
#pragma once

#include <string_view>

namespace fathom {

enum class CacheType { f32, bf16, fp8 };
enum class ActivationType { f32, bf16, fp8 };

// `*_activations` names the rounding of the *input* of q_a, q, q_b, kv_a, o, gate, up and down, and nothing else:
//   f32   none;
//   bf16  round to nearest even;
//   fp8   e4m3 with one scale per row and 128 columns: scale = max(max|x|, 1e-4) / 448 (rounded up to a power of two
//         when the checkpoint says scale_fmt ue8m0), code = e4m3(x / scale), products summed over 128 columns in FP32
//         and then multiplied by both scales.
// x, delta, norms, scores, logits and the inputs of router, head and eh_proj are FP32 at every stage boundary.
// `cache` is the type of the stored latent row (kv_lora_rank + qk_rope_head_dim values); every key is read back as
// stored, the call's own rows too. Which role a row has is said by the caller, never derived from the batch size.
struct Numerics {
  CacheType cache = CacheType::bf16;
  ActivationType prompt_activations = ActivationType::f32;
  ActivationType generated_activations = ActivationType::f32;
  bool operator==(const Numerics&) const = default;
};

constexpr std::string_view name(CacheType t) {
  return t == CacheType::f32 ? "f32" : t == CacheType::bf16 ? "bf16" : "fp8";
}
constexpr std::string_view name(ActivationType t) {
  return t == ActivationType::f32 ? "f32" : t == ActivationType::bf16 ? "bf16" : "fp8";
}

}  // namespace fathom
