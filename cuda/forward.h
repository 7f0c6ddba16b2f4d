// The CUDA forward pass: the stage list as kernels. Private to cuda/ and its tests; src/ sees cuda/device.h.
//
// Stages are run in fused groups; what the stages inside a group would write is not visible, its end is:
//
//   group (run() executes it at its last stage)            visible afterwards                reads
//   Embed                                                  x                                 rows
//   MtpInput                                               x                                 rows, hidden_in
//   AttnNorm, Latents, Query, Attend                       kv_row, cache, q, attn            x, cache
//   AttnOut, AttnReduce                                    x                                 attn, x
//   FfnNorm, Route                                         expert_ids, expert_weights        x
//   Shared, Routed, Combine, FfnReduce                     x                                 x, ids, weights
//                                                          (Routed is the host's where experts stay there)
//   Dense, FfnReduce                                       x                                 x
//   FinalNorm, Logits                                      logits                            x
//
// Generated rows (and prompt rows whose activations are f32, or whose weights have no tensor-core form) go
// through GEMV kernels: FP32 products of the rounded inputs, any number of rows, a row's bits independent of
// the others. Other prompt rows go through tensor-core GEMMs. A whole step chooses experts inside gate_up;
// run() step by step uses the ids in memory, so that a test can feed them. Both choose by the same device
// code. In the same way a whole step of prompt rows leaves out q and attn in FP32 between kernels; its bits are
// those of the steps.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "cuda/device.h"
#include "cuda/host_experts.h"
#include "cuda/memory.h"
#include "cuda/persistent.h"
#include "cuda/weights.h"
#include "src/engine/gpu_placement.h"
#include "src/model/rope.h"

namespace fathom::cuda {

// How partners of a tensor-parallel run meet on their devices; a run of one has none.
class DeviceExchange {
 public:
  virtual ~DeviceExchange() = default;
  // values := the sum of every rank's `values`, added in ascending order of ranks. Enqueued on `stream`.
  virtual void reduce(cudaStream_t stream, Rank rank, float* values, std::int64_t count) = 0;
};

class CudaForward final : public Forward {
 public:
  CudaForward(const Config& config, const Weights& weights, const ForwardOptions& options);
  ~CudaForward() override;

  ForwardResult forward(const ForwardCall& call) override;
  std::int32_t capacity() const override { return options_.capacity; }
  const Config& config() const override { return config_; }
  Numerics numerics() const override { return options_.numerics; }
  std::size_t prompt_chunk() const override { return static_cast<std::size_t>(placement_.prompt_rows); }
  std::string describe() const override;
  const Placement& placement() const { return placement_; }

  std::size_t position_bytes() const override;
  void export_rows(std::uint32_t timeline, std::int32_t count, std::span<std::byte> out) const override;
  void import_rows(std::uint32_t timeline, std::int32_t count, std::span<const std::byte> rows) override;
  bool can_draw() const override { return true; }
  std::optional<Drawn> draw(const DrawRequest& request) override;
  std::vector<float> kept_logits() override;
  std::string first_bad_stage(const Row& row) override;

  // -- step by step, for tests and profiles
  // --------------------------------------------------------------------------- Uploads rows (at most
  // Placement::prompt_rows, one role). Errors: context when a position exceeds the cache.
  void set_rows(std::span<const Row> rows);
  // Runs the fused group that ends with `step`; nothing for a step inside a group. True if something became
  // visible.
  bool run(Stack stack, Step step, Role role);
  // Device pointer of a workspace buffer, and synchronous copies of `count` elements from its start.
  template <typename T>
  T* work(Work w) const {
    return reinterpret_cast<T*>(work_[static_cast<std::size_t>(w)]);
  }
  void read(Work w, std::span<float> out) { read_bytes(work<std::byte>(w), out.data(), out.size_bytes()); }
  void read(Work w, std::span<std::int32_t> out) {
    read_bytes(work<std::byte>(w), out.data(), out.size_bytes());
  }
  void write(Work w, std::span<const float> in) {
    write_bytes(work<std::byte>(w), in.data(), in.size_bytes());
  }
  void write(Work w, std::span<const std::int32_t> in) {
    write_bytes(work<std::byte>(w), in.data(), in.size_bytes());
  }
  // One row of the cache, as stored. layer counts MTP layers from num_hidden_layers.
  void read_cache(int layer, std::uint32_t timeline, std::int32_t position, std::span<float> out);
  void write_cache(int layer, std::uint32_t timeline, std::int32_t position, std::span<const float> row);

  // See cuda/device.h.
  std::vector<StageTime> stage_times(std::int32_t position, int repeats);
  double decode_time(std::int32_t position, int tokens);
  // True if single generated rows of the main stack go through one cooperative launch (cuda/persistent.h).
  bool persistent() const { return persistent_ != nullptr; }
  // Layers [begin, end) of the row set, from and to Work::x. Precondition: persistent().
  void run_layers_at_once(int begin, int end);
  // The launch of all layers for the row set, and nanoseconds since its first hand-off at which each block arrived
  // at each hand-off and was through: (blocks, kHandoffsPerLayer * layers, 2). Precondition: persistent().
  std::vector<std::uint64_t> persistent_stamps();
  double host_expert_rate(int repeats);
  HostTimes take_host_times();
  ExpertUse expert_use(std::int32_t position, int tokens);

 private:
  // How a chunk of rows is computed: the numerics of its role and the path.
  struct Pass {
    int rows = 0;
    Round round = Round::none;
    bool tensor_cores = false;  // products as GEMMs
    bool hopper = false;        // by gemm_fp8 or gemm_bf16
    bool expanded = false;  // the form of attention
    int splits = 1, keys_per_round = 0;
    bool choose_inside = false;  // gate_up chooses the experts
    // Expanded form: q's product writes attention's tiles and attention o_proj's operand; q and attn are not visible.
    bool fused = false;
  };

  void check_shapes() const;
  Pass pass_for(Role role, int rows) const;
  const DeviceLayer& layer(int index) const;
  void* cache_of(int layer) const;
  AttentionShape attention_shape() const;
  Rotation rotation(int head_dim) const;
  RouterParams router_params(const DeviceLayer& l) const;
  Input normed(const float* weight, Round round) const;

  void embed_rows(const Pass& pass, Stack stack);
  void mtp_input(const Pass& pass);
  void attend(const Pass& pass, int layer);
  void attend_absorbed(const Pass& pass, int layer, int first, int count);
  void attend_expanded_form(const Pass& pass, int layer);  // forward_expanded.cpp
  void project(const Pass& pass, const DeviceLayer& l);
  void project_gemm(const Pass& pass, const DeviceLayer& l);
  void attn_out(const Pass& pass, const DeviceLayer& l);
  void route(const Pass& pass, const DeviceLayer& l);
  void experts(const Pass& pass, const DeviceLayer& l);
  void experts_gemm(const Pass& pass, const DeviceLayer& l);
  void experts_on_host(const Pass& pass, const DeviceLayer& l);
  void serve_experts(const Pass& pass, const DeviceLayer& l);
  void serve_graph(const Pass& pass, Stack stack);
  void mlp(const Pass& pass, const DeviceLayer& l, const DeviceMlp& m, bool to_x);
  void reduce_into_x(const Pass& pass);
  void logits(const Pass& pass, Stack stack, int rows, bool indexed);
  void all_layers(const Pass& pass, Stack stack);
  void pace(int layer);
  void plan_persistent_layers();

  // forward_prompt.cpp
  struct OperandPlace {
    std::byte* values = nullptr;  // e4m3 codes, or BF16
    float* scale = nullptr;       // null without
    std::int64_t scale_stride = 0;
  };
  OperandPlace operand_place(const Pass& pass, int cols, bool second) const;
  void operand(const Pass& pass, const Input& in, bool second, int rows = 0);
  GemmParams gemm_params(const Pass& pass, const Matrix& w, bool second) const;
  void multiply(const Pass& pass, const GemmParams& p);
  void into_tiles(const Pass& pass, GemmParams& p) const;
  void gate_up_gemm(const Pass& pass, GemmParams& p, int rows);
  void mlp_gemm(const Pass& pass, const DeviceMlp& m, bool to_x);

  void chunk(const ForwardCall& call, int begin, int end, ForwardResult& result, std::size_t& logit,
             std::size_t& hidden);
  // What `enqueue` puts on the stream, as a graph.
  GraphExec capture(const std::function<void()>& enqueue);
  void run_layers(const Pass& pass, const ForwardCall& call, bool all_logits);
  void collect_logits(const Pass& pass, const ForwardCall& call, int begin, std::span<const int> wanted, bool computed,
                      ForwardResult& result);
  void collect_hidden(const Pass& pass, Stack stack, std::span<const int> wanted, ForwardResult& result);
  void set_wanted(std::span<const int> rows);
  bool wrote_finite(const Step& step, std::string* name);
  void copy_rows(std::uint32_t timeline, std::int32_t count, std::byte* host, bool out) const;
  void settle();
  void read_bytes(const std::byte* from, void* to, std::size_t bytes);
  void write_bytes(std::byte* to, const void* from, std::size_t bytes);
  void synchronize();

  const Config& config_;
  ForwardOptions options_;
  Rope rope_;
  float softmax_scale_;
  int heads_ = 0;
  Placement placement_;
  DeviceInfo device_;
  DeviceWeights weights_;
  Arena cache_, workspace_;
  std::array<std::byte*, kWorkBuffers> work_{};
  std::uint64_t cache_layer_bytes_ = 0;
  Pinned staging_;
  Stream stream_;
  Launch on_;
  DeviceExchange* exchange_ = nullptr;
  std::unique_ptr<HostExperts> host_experts_;        // null: routed experts are on the GPU
  bool capturing_ = false;                           // a graph: its hand-overs are served after its launch
  std::chrono::steady_clock::time_point last_poll_;  // of stop_requested, while experts are computed on the host
  Pinned drawn_;          // a SampleResult
  bool pending_ = false;  // the last forward() kept its logits and did not wait
  // Rows at consecutive positions of one timeline.
  struct Run {
    int first, rows;
    std::int32_t position;
    std::uint32_t timeline;
  };
  std::array<Event, 2> layer_done_;
  std::vector<Run> runs_;  // as set_rows left them
  int rows_ = 0;
  std::unique_ptr<PersistentPlan> persistent_;  // null: not asked for, or the model does not suit
  Role role_ = Role::prompt;
  std::map<std::tuple<Stack, int, bool>, GraphExec> graphs_;  // stack, rows, logits of all rows
};

}  // namespace fathom::cuda
