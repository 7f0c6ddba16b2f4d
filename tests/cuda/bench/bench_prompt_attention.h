// Speed of the expanded attention of prompt rows.
#pragma once

namespace fathom {

// Prints times and TFLOP/s of whole prompts and of chunks behind a long context, 16 and 128 heads, FP8 kv_b.
// FLOPs counted: 2 (192 + 128) per head and unmasked (row, key) pair; of expansion 2 * 512 * 256 per head and
// key.
void bench_prompt_attention();

}  // namespace fathom
