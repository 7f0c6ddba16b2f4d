// Parameters and launchers of every kernel: what cuda/forward.cpp and the kernels' own files share.
//
// Shapes: T rows of the call, all row-major. Pointers are device memory. A launcher enqueues on `on.stream`
// and never waits. Every kernel begins with cudaGridDependencySynchronize (where the GPU has it) before it
// reads what an earlier kernel wrote; before that it touches weights only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fathom::cuda {

// How a stored code becomes a number.
enum class Code : std::uint8_t { e4m3, bf16, f32 };
constexpr int code_bytes(Code c) { return c == Code::e4m3 ? 1 : c == Code::bf16 ? 2 : 4; }

// A weight matrix on the device: W(r, c) = decode(codes(r, c)) * scale((r + row_shift) / 128, (c + col_shift)
// / 128).
struct Matrix {
  const std::byte* codes =
      nullptr;  // (rows, row_bytes): rows zero-padded to a multiple of 16 bytes, 256-byte aligned
  const float* scale = nullptr;  // (.., scale_cols); null without block scales
  int rows = 0, cols = 0;
  int row_bytes = 0;
  int scale_cols = 0;
  int row_shift = 0,
      col_shift = 0;  // origin of this (slice of a) matrix in its first scale block; col_shift % 16 == 0
  Code code = Code::f32;
};

// Where one expert's matrices are; shapes and formats are the layer's.
struct ExpertPointers {
  const std::byte *gate, *up, *down;
  const float *gate_scale, *up_scale, *down_scale;
};

// Rounding of the input of a linear, Numerics.*_activations.
enum class Round : std::uint8_t { none, bf16, fp8, fp8_ue8m0 };

struct Launch {
  cudaStream_t stream = nullptr;
  int multiprocessors = 1;
  bool dependent = false;  // Hopper code: programmatic dependent launch (a kernel may start before its
                           // predecessor has ended) and thread block clusters
};
// True if the kernels that run on the current device were compiled for Hopper, rather than from portable PTX.
bool runs_hopper_code();

// -- linear.cu: products of weights with a few rows, on CUDA cores, memory-bound ----------------------------

// What becomes of the input rows before the product: optional RMS norm, then rounding.
struct Input {
  const float* x = nullptr;  // (T, stride), first `cols` of each row are used
  std::int64_t stride = 0;
  int cols = 0;
  const float* norm_weight = nullptr;  // (cols); null: no norm
  float eps = 0;
  Round round = Round::none;
  const int* row_index = nullptr;  // (T): row t of the product reads row row_index[t] of x; null: t
};

// Rotation of adjacent output pairs (2i, 2i + 1) of each head's last `dims` outputs.
struct Rotation {
  const std::int32_t* position = nullptr;  // (T); null: no rotation
  const float* frequency = nullptr;        // (dims / 2)
  float magnitude = 1;
  int head_dim = 0;  // outputs per head
  int dims = 0;      // rotated, at the end of each head; even, as is head_dim - dims
};

struct Segment {
  Matrix w;
  float* out = nullptr;  // (T, stride)
  std::int64_t stride = 0;
  Rotation rotation;
};

// out(t, n) = (add ? out(t, n) : 0) + sum_k W(n, k) input(t, k), for one or two matrices that share the
// input.
struct GemvParams {
  Segment segment[2];
  int segments = 1;
  Input input;
  int rows = 0;  // T
  bool add = false;
};
void gemv(const Launch& on, const GemvParams& p);

// -- experts.cu ---------------------------------------------------------------------------------------------

struct RouterParams {
  const float* logits = nullptr;  // (T, experts)
  const float* bias = nullptr;    // (experts); null: none
  int experts = 0, chosen = 0;    // n_routed_experts <= 1024, num_experts_per_tok <= 32
  int groups = 1, groups_kept = 1;
  bool sigmoid = false;    // else softmax
  bool group_sum = false;  // group score: sum of the two largest, else the largest
  bool normalise = false;
  float factor = 1;
  std::int32_t* ids = nullptr;  // (T, chosen), ascending
  float* weights = nullptr;     // (T, chosen)
};
// Scores, groups, top-k (ties to the lower id) and weights, for T rows.
void choose_experts(const Launch& on, const RouterParams& p, int rows);

// hidden(t, slot, j) = silu(gate_j x_t) * (up_j x_t) for the chosen experts' slots, then the shared (or
// dense) MLP's j.
struct GateUpParams {
  Matrix gate, up;  // of one expert: shape, format; no pointers
  const ExpertPointers* experts = nullptr;
  int expert_count = 0;
  const std::int32_t* ids = nullptr;  // (T, slots)
  int slots = 0;                      // 0: the shared or dense MLP alone
  RouterParams router;  // logits set: this kernel chooses first and block 0 of each row writes the choice
  Matrix shared_gate, shared_up;  // rows 0: none
  Input input;
  float* hidden = nullptr;  // (T, hidden_stride): slots * gate.rows values, then shared_gate.rows
  std::int64_t hidden_stride = 0;
  int rows = 0;
};
void gate_up(const Launch& on, const GateUpParams& p);

// out(t, n) = (add ? out : 0) + sum over slots of weight * down_n hidden(t, slot), then shared down_n
// hidden(t, shared).
struct DownParams {
  Matrix down;
  const ExpertPointers* experts = nullptr;
  int expert_count = 0;
  const std::int32_t* ids = nullptr;  // (T, slots)
  const float* weights = nullptr;     // (T, slots)
  int slots = 0;
  Matrix shared_down;             // rows 0: none
  const float* hidden = nullptr;  // as GateUpParams
  std::int64_t hidden_stride = 0;
  Round round = Round::none;  // of hidden, the input of down
  float* out = nullptr;       // (T, out_stride)
  std::int64_t out_stride = 0;
  bool add = false;
  int rows = 0;
};
void down_combine(const Launch& on, const DownParams& p);

// -- attention.cu: absorbed multi-head latent attention -----------------------------------------------------

struct AttentionShape {
  int heads = 0, nope = 0, rope = 0, v = 0;  // per head
  int latent = 0;                            // kv_lora_rank
  int row = 0;                               // values between cache rows: latent + rope rounded up to 8
  float scale = 1;                           // of scores
};

// Finishes the latent row (norm over the latent part; the key part arrives rotated), appends it to the cache,
// and turns q into q W_UK, rotated part copied: q_absorbed (T, heads, row), in the cache's type.
struct AbsorbParams {
  AttentionShape shape;
  Matrix kv_b;                         // (heads (nope + v), latent)
  const float* q = nullptr;            // (T, heads, nope + rope), rotated
  float* kv_row = nullptr;             // (T, latent + rope): raw latent and rotated key in, normed latent out
  const float* norm_weight = nullptr;  // (latent)
  float eps = 0;
  const std::int32_t* position = nullptr;  // (T)
  const std::int32_t* timeline = nullptr;  // (T)
  void* cache = nullptr;                   // (timelines, capacity, row) of this layer
  std::int64_t capacity = 0;
  bool cache_f32 = false;
  void* q_absorbed = nullptr;
  int rows = 0;
};
void absorb_query(const Launch& on, const AbsorbParams& p);

// Keys of one split of the row at `position`: a multiple of keys_per_round / max_splits, the least, so that
// no row needs more than max_splits of them; all keys with keys_per_round 0.
__host__ __device__ constexpr int keys_of_split(int position, int max_splits, int keys_per_round) {
  return keys_per_round == 0 ? position + 1 : keys_per_round / max_splits * (position / keys_per_round + 1);
}

// Per row, split and head: scores over the split's keys, softmax, weighted sum of latents.
struct AttendParams {
  AttentionShape shape;
  Matrix kv_b;  // only to bring W_UV into L2; no codes: not wanted
  const void* q_absorbed = nullptr;
  const void* cache = nullptr;
  std::int64_t capacity = 0;
  std::int64_t cache_rows = 0;  // timelines * capacity
  bool cache_f32 = false;
  const std::int32_t* position = nullptr;
  const std::int32_t* timeline = nullptr;
  int max_splits = 1;      // splits allotted per row
  int keys_per_round = 0;  // see keys_of_split; 0: one split per row
  // (T, max_splits, heads, 2): a reference exponent (of 2), and the sum of probabilities relative to it
  float* partial_sum = nullptr;
  float* partial_out = nullptr;  // (T, max_splits, heads, latent), relative to the same reference
  int rows = 0;
};
void attend_split_kv(const Launch& on, const AttendParams& p);
// The first key that kernels of this step may still be writing when this one begins: of generated rows the
// first row's; the rows of a prompt come in several calls of one step, so there any.
__host__ __device__ constexpr int first_unwritten(const AttendParams& p, int position) {
  return p.keys_per_round == 0 ? 0 : position - p.rows + 1;
}
// The same on Hopper, for rows of 512 + 64 BF16 values (attend_hopper.cu); attend_split_kv chooses it.
bool hopper_attends(const AttendParams& p);
void attend_hopper(const Launch& on, const AttendParams& p);

// Combines the splits in ascending order and applies W_UV: attn (T, heads, v).
struct ValueParams {
  AttentionShape shape;
  Matrix kv_b;
  const std::int32_t* position = nullptr;
  int max_splits = 1, keys_per_round = 0;
  const float* partial_sum = nullptr;
  const float* partial_out = nullptr;
  float* attn = nullptr;
  int rows = 0;
};
void combine_project_value(const Launch& on, const ValueParams& p);

// -- prompt_attention.cu: expanded multi-head latent attention of prompt rows, on Hopper --------------------

// Appends finished latent rows to the cache: normed latent (in place in kv_row too), rotated key as it is.
struct AppendParams {
  int latent = 0, rope = 0, row = 0;   // as AttentionShape
  float* kv_row = nullptr;             // (T, latent + rope): raw latent and rotated key in, normed latent out
  const float* norm_weight = nullptr;  // (latent)
  float eps = 0;
  const std::int32_t* position = nullptr;  // (T)
  const std::int32_t* timeline = nullptr;  // (T)
  void* cache = nullptr;                   // (timelines, capacity, row) BF16 of this layer
  std::int64_t capacity = 0;
  int rows = 0;
};
void append_latents(const Launch& on, const AppendParams& p);

// Keys of one tile: tiles begin at multiples of it from position 0, whatever the chunk.
inline constexpr int kPromptKeyTile = 128;

// Rows of a prompt at consecutive positions of one timeline against every key up to their own:
//   k(s, h) = [kv_b's nope rows of h times latent(s); rope(s)], v(s, h) = kv_b's v rows of h times latent(s)
//   attn(t, h) = sum_s softmax_s(scale q(t, h) k(s, h)) v(s, h), s <= first_position + t
// Sums FP32; q, k, v and probabilities F16 (clamped to its range): as fast as BF16 and eight times as exact.
struct PromptAttendParams {
  AttentionShape shape;         // 128 + 64, 128; latent 512
  Matrix kv_b;                  // (heads (nope + v), latent), e4m3 or BF16
  const float* q = nullptr;     // (rows, heads, nope + rope), rotated; null: `query` holds all heads already
  const void* cache = nullptr;  // (keys, row) BF16: this timeline's rows, these rows' own included
  int first_position = 0, rows = 0;
  float* attn = nullptr;          // (rows, heads, v)
  // Instead of attn: o_proj's operand, rounded as make_operand rounds attn. e4m3 codes with a scale per row
  // and head (heads, scale_stride), or BF16 values; both (rows, heads, v).
  std::uint8_t* codes = nullptr;
  float* scale = nullptr;
  std::int64_t scale_stride = 0;
  bool ue8m0 = false;
  __nv_bfloat16* rounded = nullptr;
  int first_head = 0, heads = 0;  // computed by this call: as many as the workspace holds
  // Workspace, sized by src/engine/gpu_placement.h.
  std::byte* expanded = nullptr;  // F16 tiles (heads, key tiles, [k: 2, v: 2][128][64])
  std::byte* rope = nullptr;      // F16 tiles (key tiles, [128][64])
  std::byte* query = nullptr;     // F16 tiles of q (heads, row tiles of 128, 2, [3][64][64])
  std::byte* decoded = nullptr;   // BF16 tiles of kv_b (heads, 2, [8][128][64])
  int* counter = nullptr;         // (4 (2 + heads * row tiles)): next piece of work, and behind it the pieces
};
// The keys and values of positions [0, first_position + rows) into the workspace; `rope` with head 0 only.
void expand_keys(const Launch& on, const PromptAttendParams& p);
// attn of these heads, from the workspace.
void attend_expanded(const Launch& on, const PromptAttendParams& p);

// -- norm.cu: row-wise work ---------------------------------------------------------------------------------

// x(t) = row token[t] of the embedding.
struct EmbedParams {
  Matrix embedding;
  const std::int32_t* token = nullptr;
  float* x = nullptr;  // (T, stride)
  std::int64_t stride = 0;
  int rows = 0;
};
void embed(const Launch& on, const EmbedParams& p);

// out(t) = norm(x(row_index[t])) * weight, FP32.
struct NormParams {
  Input input;           // round is ignored
  float* out = nullptr;  // (T, stride)
  std::int64_t stride = 0;
  int rows = 0;
};
void rms_norm(const Launch& on, const NormParams& p);

// The operand of a prompt GEMM: optional RMS norm, then BF16, or e4m3 values held as BF16 with a scale per
// 128 columns.
struct OperandParams {
  Input input;                   // round: bf16, fp8 or fp8_ue8m0
  __nv_bfloat16* out = nullptr;  // (T, cols rounded up to 16, zero-padded)
  float* scale = nullptr;        // (T, ceil(cols / 128)); fp8 only
  // Instead, for gemm_fp8: codes (T, cols rounded up to 16, zero-padded), scale (ceil(cols / 128),
  // scale_stride).
  std::uint8_t* codes = nullptr;
  std::int64_t scale_stride = 0;
  int rows = 0;
};
void make_operand(const Launch& on, const OperandParams& p);

// Row i of the output = row sorted[i] / divisor of the input: an operand in the order of its experts.
struct GatherParams {
  const std::byte* in = nullptr;  // (.., row_bytes)
  std::byte* out = nullptr;       // (rows, row_bytes)
  int row_bytes = 0;              // a multiple of 16
  const float* scale = nullptr;   // (scale_rows, scale_stride); null: none
  float* out_scale = nullptr;     // (scale_rows, out_scale_stride)
  int scale_rows = 0;
  std::int64_t scale_stride = 0, out_scale_stride = 0;
  const int* sorted = nullptr;  // (rows)
  int divisor = 1;
  int rows = 0;
};
void gather_operand(const Launch& on, const GatherParams& p);

// Rotates adjacent pairs in place: see Rotation.
void rotate(const Launch& on, float* x, std::int64_t stride, int columns, const Rotation& r, int rows);
// out(t, i), (rows, dims / 2): cosine and sine of what `rotate` turns pair i of row t's heads by, times the
// magnitude.
void rotation_table(const Launch& on, const Rotation& r, float2* out, int rows);
// x += delta.
void add(const Launch& on, float* x, const float* delta, std::int64_t n);
// delta = sum over slots in order of weight * expert_out, then shared; x += delta.
struct CombineParams {
  const __nv_bfloat16* expert_out = nullptr;  // (T, slots, hidden)
  const float* weights = nullptr;             // (T, slots)
  int slots = 0;
  const float* shared = nullptr;  // (T, hidden); null: none
  float* x = nullptr;             // (T, hidden), added to
  int hidden = 0;
  int rows = 0;
};
void combine(const Launch& on, const CombineParams& p);

// Fills a matrix with random valid codes of standard deviation about 1 / sqrt(cols), scales included.
void fill_random(const Launch& on, const Matrix& m, std::uint64_t seed);
// Random BF16 or F32 values of standard deviation 1.
void fill_cache(const Launch& on, void* cache, std::int64_t values, bool f32, std::uint64_t seed);
// token[0] = (a hash of token[0] and position[0]) % vocab; position[0] += 1: the next row of a decode
// benchmark.
void next_row(const Launch& on, std::int32_t* token, std::int32_t* position, int vocab);

// -- gemm.cu, gemm_fp8.cu, gemm_bf16.cu: products of weights with many rows, on tensor cores
// -----------------

// out(m, n) = (add ? out : 0) + sum_k W(n, k) a(m, k), for one matrix or two that share the operand, for all
// rows or one expert per tile of rows.
//
// The operand is BF16, or e4m3 values held as BF16 with row-major scales (gemm); or e4m3 codes with scales in
// columns, one per row (gemm_fp8). Two matrices and out_codes are for gemm_fp8 and gemm_bf16 only.
struct GemmParams {
  Matrix w;                             // with experts gemm_fp8 and gemm_bf16 take the codes of expert 0
  const __nv_bfloat16* a = nullptr;     // (rows of the operand, a_stride)
  const std::uint8_t* codes = nullptr;  // the same as e4m3 codes
  std::int64_t a_stride = 0;            // in values
  const float* a_scale = nullptr;       // (rows of the operand, scale_stride) beside `a`; null: none;
                                        // (blocks of 128 columns, scale_stride) beside `codes`
  std::int64_t scale_stride = 0;        // a multiple of 4
  int rows = 0;                         // of the operand
  float* out = nullptr;                 // (rows, out_stride) FP32
  __nv_bfloat16* out_bf16 = nullptr;    // instead of `out`
  std::int64_t out_stride = 0;
  bool add = false;
  // Gate and up at once: out(m, n) = silu(gate) * up, with w the gate. With out2: a second matrix.
  Matrix up;              // rows 0: none
  float* out2 = nullptr;  // (rows, out2_stride) FP32
  std::int64_t out2_stride = 0;
  // Gate and up of gemm_fp8: the rounded operand of `down`, rows in sorted order: e4m3 codes (.., out_stride)
  // and scales (blocks of 128 columns, out_scale_stride).
  std::uint8_t* out_codes = nullptr;
  float* out_scale = nullptr;
  std::int64_t out_scale_stride = 0;
  bool ue8m0 = false;
  // gemm_fp8 and gemm_bf16: the product with `w` is q of heads of 128 + 64 columns and goes, rotated, into the
  // F16 tiles of PromptAttendParams::query instead of to `out`; tiles' rows behind the last keep what they hold.
  std::byte* query = nullptr;
  const float2* rotation = nullptr;  // of rotation_table
  // Experts: tile i holds rows [tile_begin[i], + tile_count[i]) of the sorted order for expert
  // tile_expert[i]. gemm gathers a row of the operand per pair; for gemm_fp8 and gemm_bf16 the operand's rows
  // are in sorted order already.
  const ExpertPointers* experts = nullptr;
  int expert_count = 0;
  std::int64_t expert_bytes = 0;  // between the codes of neighbouring experts (gemm_fp8, gemm_bf16)
  int which = 0;                  // 0: gate (and up), 2: down
  const int *tile_expert = nullptr, *tile_begin = nullptr, *tile_count = nullptr;
  const int* tile_total = nullptr;  // number of tiles in use
  int tiles = 0;                    // upper bound; tiles with count 0 return at once
  const int* sorted = nullptr;  // (T * slots): pair index t * slots + slot in sorted order; null: rows of the
                                // output are in sorted order
  int input_divisor = 1;        // operand row of a pair = pair / input_divisor
};
void gemm(const Launch& on, const GemmParams& p);

// Tiles of gemm_fp8 and gemm_bf16: rows by weight rows, and blocks that share weights.
enum class GemmTile : std::uint8_t {
  automatic,
  rows128_columns256,
  rows128_columns256_alone,
  rows128_columns192,
  rows128_columns128,
  rows128_columns128_alone,
  rows128_columns64,
  rows64_columns256,
  rows64_columns32
};
// The same on Hopper: e4m3 by e4m3, and BF16 by BF16. Bits depend neither on the tile nor on the number of
// rows. Preconditions: runs_hopper_code(); no row_shift, no col_shift; rows of weights and strides even;
// experts evenly spaced.
void gemm_fp8(const Launch& on, const GemmParams& p, GemmTile tile = GemmTile::automatic);
void gemm_bf16(const Launch& on, const GemmParams& p, GemmTile tile = GemmTile::automatic);

// out(m, n) = sum_k w(n, k) x(m, k) in FP32: gemm_f32.cu. w: BF16 or F32, without scales.
struct GemmF32Params {
  Matrix w;
  const float* x = nullptr;  // (rows, stride); rows 16-byte aligned, w.cols a multiple of 4
  std::int64_t stride = 0;
  float* out = nullptr;  // (rows, out_stride)
  std::int64_t out_stride = 0;
  int rows = 0;
};
void gemm_f32(const Launch& on, const GemmF32Params& p);

// Rows of a tile of gemm_fp8 and gemm_bf16 when `pairs` rows are sorted by expert.
constexpr int grouped_tile_rows(int pairs, int experts) { return pairs <= 64 * experts ? 64 : 128; }

// Sorts the (row, slot) pairs by expert and cuts each expert's pairs into tiles of tile_rows.
struct TilesParams {
  const std::int32_t* ids = nullptr;  // (T, slots)
  int pairs = 0, experts = 0;
  int* sorted = nullptr;  // (pairs)
  int *tile_expert = nullptr, *tile_begin = nullptr, *tile_count = nullptr;
  int* tile_total = nullptr;  // number of tiles in use; null: not wanted
  int tile_rows = 64;
  int tiles = 0;  // allotted: ceil(pairs / tile_rows) + experts
};
void sort_by_expert(const Launch& on, const TilesParams& p);

// -- sample.cu ----------------------------------------------------------------------------------------------

inline constexpr int kSampleBlocks = 64, kSampleBins = 1024, kSampleCandidates = 2048, kSampleTop = 32;

struct SamplePart {
  double sum, plain;  // of weights, and of exp(logit - best)
  float best;
  int best_id, bad;
};
// In device memory; needs no initial value.
struct SampleScratch {
  SamplePart part[kSampleBlocks];
  int bins[kSampleBins];
};
// undecided: the candidates do not settle it; bad_logits: NaN, +inf, or all -inf.
enum class SampleStatus : std::int32_t { drawn, undecided, bad_logits };
struct SampleResult {
  SampleStatus status;
  std::int32_t id;
  float logit, best;  // of the id and of the most probable one
  double plain_sum;   // sum of exp(logit - best); like `top`, only with log_probability
  std::int32_t top_id[kSampleTop];
  float top_logit[kSampleTop];
};
// One token from one row of logits; src/engine/sampler.h defines the parameters.
struct SampleParams {
  const float* logits = nullptr;  // (valid)
  int valid = 0;                  // ids that may be drawn
  bool greedy = false;
  double temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
  double uniform = 0;            // in [0, 1)
  bool log_probability = false;  // wanted of the token, and of the `top` most probable ones
  int top = 0;                   // <= kSampleTop
  SampleScratch* scratch = nullptr;
  SampleResult* result = nullptr;
};
void sample_token(const Launch& on, const SampleParams& p);

// -- host_experts.cu: the hand-off to experts in host memory (cuda/host_experts.h) ----------------------------

// In device memory, zero at first.
struct HandOffCounters {
  unsigned long long number;  // of hand-overs so far
  unsigned arrived;           // blocks of the hand-over that is under way
};
// x_out(t) = norm(x(t)) * weight, FP32, and the row's ids, to pinned memory; then *request = ++number.
struct HandOverParams {
  Input input;                        // round and row_index are ignored
  const std::int32_t* ids = nullptr;  // (T, slots)
  int slots = 0;
  float* x_out = nullptr;            // pinned: (T, cols)
  std::int32_t* ids_out = nullptr;   // pinned: (T, slots)
  HandOffCounters* counters = nullptr;
  std::uint64_t* request = nullptr;  // pinned
  int rows = 0;
};
void hand_over(const Launch& on, const HandOverParams& p);
// Waits until *answer >= number, or until the time is over: then *timed_out = 1.
struct AwaitParams {
  const HandOffCounters* counters = nullptr;
  const std::uint64_t* answer = nullptr;  // pinned
  std::uint32_t* timed_out = nullptr;     // pinned
  std::uint64_t most_nanoseconds = 0;
};
void await_answer(const Launch& on, const AwaitParams& p);
// out(t) = (add ? out(t) : 0) + sum over slots in order of weight * expert_out, then shared.
struct CombineAnswerParams {
  const float* expert_out = nullptr;  // pinned: (T, slots, hidden)
  const float* weights = nullptr;     // (T, slots)
  int slots = 0;
  const float* shared = nullptr;  // (T, hidden); null: none; may be `out`
  float* out = nullptr;           // (T, hidden)
  bool add = false;
  int hidden = 0;
  int rows = 0;
};
void combine_answer(const Launch& on, const CombineAnswerParams& p);

// -- device.cu ----------------------------------------------------------------------------------------------

// Sums `bytes` of memory with 16-byte loads, eight in flight per thread; `sink` keeps the loads alive.
void read_all(const Launch& on, const void* data, std::uint64_t bytes, float* sink);

}  // namespace fathom::cuda
