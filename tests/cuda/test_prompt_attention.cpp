// Expanded attention of prompt rows: the kernels against float64, the stage against the CPU pass.
#include <cuda_fp16.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/forward.h"
#include "src/base/error.h"
#include "src/base/tensor.h"
#include "src/base/threads.h"
#include "tests/cuda/gpu.h"
#include "tests/cuda/small_model.h"

using namespace fathom;
using test::Both;
using test::last_logits;
using test::prompt_rows;

namespace {

constexpr int kNope = 128, kRope = 64, kValue = 128, kLatent = 512, kRow = kLatent + kRope;
constexpr int kHeads = 3, kPositions = 2000;

double to_f16(double x) { return static_cast<double>(__half2float(__float2half_rn(static_cast<float>(x)))); }

// A layer of random weights and cached rows on the device, and its keys and values in float64 on the host.
class Layer {
 public:
  Layer(cuda::Code code, int heads, unsigned seed) : heads_(heads) {
    const auto list = cuda::devices();
    on = {stream_.get(), list.front().multiprocessors, true};
    kv_b.rows = heads * (kNope + kValue), kv_b.cols = kLatent, kv_b.code = code;
    kv_b.row_bytes = kLatent * cuda::code_bytes(code);
    kv_b.scale_cols = kLatent / 128;
    const std::uint64_t codes =
        static_cast<std::uint64_t>(kv_b.rows) * static_cast<std::uint64_t>(kv_b.row_bytes);
    std::byte* memory = take(codes);
    kv_b.codes = memory;
    if (code == cuda::Code::e4m3)
      kv_b.scale = reinterpret_cast<float*>(take(static_cast<std::uint64_t>(kv_b.rows) / 32 * 4));
    cuda::fill_random(on, kv_b, seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    rows_.resize(std::size_t{kPositions} * kRow);
    std::vector<std::uint16_t> stored(rows_.size());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      stored[i] = float_to_bf16(normal(random));
      const std::uint32_t bits = std::uint32_t{stored[i]} << 16;
      std::memcpy(&rows_[i], &bits, 4);
    }
    cache = take(stored.size() * 2);
    upload(cache, stored.data(), stored.size() * 2);
    q_host.resize(std::size_t{kPositions} * static_cast<std::size_t>(heads) * (kNope + kRope));
    for (float& v : q_host) v = 1.5f * normal(random);
    q = reinterpret_cast<float*>(take(q_host.size() * 4));
    upload(q, q_host.data(), q_host.size() * 4);
    out_bytes_ = std::size_t{kPositions} * static_cast<std::size_t>(heads) * kValue * 4;
    attn = reinterpret_cast<float*>(take(out_bytes_));
    const std::uint64_t tiles = (kPositions + 127) / 128;
    const auto h = static_cast<std::uint64_t>(heads);
    expanded = take(h * tiles * 65536), rope = take(tiles * 16384), query = take(h * tiles * 49152);
    decoded = take(h * 262144), counter = take(16 * (2 + h * tiles));
    expand_on_host();
  }

  // Attention of rows [first, first + count) of q, `at_a_time` heads in one call, into attn.
  void attend(int first, int count, int at_a_time) {
    cuda::PromptAttendParams p;
    p.shape = {heads_, kNope, kRope, kValue, kLatent, kRow, scale};
    p.kv_b = kv_b;
    p.q = q + static_cast<std::int64_t>(first) * heads_ * (kNope + kRope);
    p.cache = cache;
    p.first_position = first, p.rows = count;
    p.attn = attn + static_cast<std::int64_t>(first) * heads_ * kValue;
    p.expanded = expanded, p.rope = rope, p.query = query, p.decoded = decoded;
    p.counter = reinterpret_cast<int*>(counter);
    for (p.first_head = 0; p.first_head < heads_; p.first_head += p.heads) {
      p.heads = std::min(at_a_time, heads_ - p.first_head);
      cuda::expand_keys(on, p);
      cuda::attend_expanded(on, p);
    }
  }
  void poison() { FATHOM_CUDA(cudaMemsetAsync(attn, 0xff, out_bytes_, stream_.get())); }
  std::vector<float> result(int first, int count) {
    std::vector<float> v(static_cast<std::size_t>(count) * static_cast<std::size_t>(heads_) * kValue);
    FATHOM_CUDA(cudaStreamSynchronize(stream_.get()));
    FATHOM_CUDA(cudaMemcpy(v.data(), attn + static_cast<std::int64_t>(first) * heads_ * kValue, v.size() * 4,
                           cudaMemcpyDeviceToHost));
    return v;
  }

  // The same in float64. `rounded`: q, k, v and probabilities rounded to F16 as the kernel says.
  std::vector<double> reference(int first, int count, bool rounded) {
    const auto heads = static_cast<std::size_t>(heads_);
    std::vector<double> out(static_cast<std::size_t>(count) * heads * kValue);
    threads_.for_range(count * heads_, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> score(kPositions);
      for (std::int64_t i = begin; i < end; ++i) {
        const auto t = static_cast<std::size_t>(i) / heads, h = static_cast<std::size_t>(i) % heads;
        row(first + static_cast<int>(t), h, rounded, score, out.data() + (t * heads + h) * kValue);
      }
    });
    return out;
  }

  cuda::Launch on;
  cuda::Matrix kv_b;
  std::byte *cache, *expanded, *rope, *query, *decoded, *counter;
  float *q, *attn;
  std::vector<float> q_host;
  float scale = 0.0722f;  // about 1 / sqrt(192): scores of standard deviation 1.5

 private:
  std::byte* take(std::uint64_t bytes) {
    arenas_.emplace_back(bytes + 256);
    return arenas_.back().take(bytes);
  }
  static void upload(void* to, const void* from, std::size_t bytes) {
    cuda::copy_to_device(to, from, bytes);
  }

  void expand_on_host() {
    FATHOM_CUDA(cudaStreamSynchronize(stream_.get()));
    std::vector<std::byte> codes(static_cast<std::size_t>(kv_b.rows) *
                                 static_cast<std::size_t>(kv_b.row_bytes));
    FATHOM_CUDA(cudaMemcpy(codes.data(), kv_b.codes, codes.size(), cudaMemcpyDeviceToHost));
    std::vector<float> scales(static_cast<std::size_t>(kv_b.rows / 128 * 4), 1.0f);
    if (kv_b.scale != nullptr)
      FATHOM_CUDA(cudaMemcpy(scales.data(), kv_b.scale, scales.size() * 4, cudaMemcpyDeviceToHost));
    const DType type = kv_b.code == cuda::Code::e4m3 ? DType::f8_e4m3 : DType::bf16;
    const auto rows = static_cast<std::size_t>(kv_b.rows);
    std::vector<double> w(rows * kLatent);
    for (std::size_t i = 0; i < w.size(); ++i)
      w[i] = static_cast<double>(element_as_float(type, codes.data(), i)) *
             static_cast<double>(scales[i / kLatent / 128 * 4 + i % kLatent / 128]);
    expanded_.resize(std::size_t{kPositions} * rows);
    threads_.for_range(kPositions, 8, [&](std::int64_t begin, std::int64_t end) {
      for (auto s = static_cast<std::size_t>(begin); s < static_cast<std::size_t>(end); ++s)
        for (std::size_t r = 0; r < rows; ++r) {
          double sum = 0;
          for (std::size_t c = 0; c < kLatent; ++c)
            sum += w[r * kLatent + c] * static_cast<double>(rows_[s * kRow + c]);
          expanded_[s * rows + r] = sum;
        }
    });
    rounded_ = expanded_;
    for (double& v : rounded_) v = to_f16(v);
  }

  void row(int position, std::size_t head, bool rounded, std::vector<double>& score, double* out) const {
    const std::vector<double>& kv = rounded ? rounded_ : expanded_;
    const auto rows = static_cast<std::size_t>(kv_b.rows);
    double q_row[kNope + kRope];
    for (std::size_t c = 0; c < kNope + kRope; ++c) {
      const auto v = static_cast<double>(
          q_host[(static_cast<std::size_t>(position) * static_cast<std::size_t>(heads_) + head) *
                     (kNope + kRope) +
                 c]);
      q_row[c] = rounded ? to_f16(v) : v;
    }
    const double unit = static_cast<double>(scale) * 1.4426950408889634;
    double maximum = -INFINITY, sum = 0;
    std::fill(out, out + kValue, 0.0);
    const auto keys = static_cast<std::size_t>(position) + 1;
    for (std::size_t first = 0; first < keys; first += cuda::kPromptKeyTile) {
      const std::size_t end = std::min<std::size_t>(keys, first + cuda::kPromptKeyTile);
      double most = maximum;
      for (std::size_t s = first; s < end; ++s) {
        const double* k = kv.data() + s * rows + head * (kNope + kValue);
        double dot = 0;
        for (std::size_t c = 0; c < kNope; ++c) dot += q_row[c] * k[c];
        for (std::size_t c = 0; c < kRope; ++c)
          dot += q_row[kNope + c] * static_cast<double>(rows_[s * kRow + kLatent + c]);
        score[s - first] = dot * unit;
        most = std::max(most, score[s - first]);
      }
      const double factor = std::exp2(maximum - most);
      maximum = most, sum *= factor;
      for (std::size_t c = 0; c < kValue; ++c) out[c] *= factor;
      for (std::size_t s = first; s < end; ++s) {
        double p = std::exp2(score[s - first] - maximum + 15);
        sum += p;
        if (rounded) p = to_f16(p);
        const double* v = kv.data() + s * rows + head * (kNope + kValue) + kNope;
        for (std::size_t c = 0; c < kValue; ++c) out[c] += p * v[c];
      }
    }
    for (std::size_t c = 0; c < kValue; ++c) out[c] /= sum;
  }

  int heads_;
  cuda::Stream stream_ = cuda::make_stream();
  std::vector<cuda::Arena> arenas_;
  std::vector<float> rows_;  // cached rows
  std::vector<double> expanded_, rounded_;
  std::size_t out_bytes_ = 0;
  Threads threads_{usable_cores()};
};

// ||got - want|| / ||want||; NaN counts as infinite.
double difference(const std::vector<float>& got, const std::vector<double>& want) {
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - want[i];
    square += e * e, norm += want[i] * want[i];
  }
  const double d = std::sqrt(square / norm);
  return std::isnan(d) ? INFINITY : d;
}

}  // namespace

TEST_CASE("cuda: prompt attention agrees with float64") {
  if (!test::hopper_present()) return;
  for (cuda::Code code : {cuda::Code::e4m3, cuda::Code::bf16}) {
    Layer layer(code, kHeads, code == cuda::Code::e4m3 ? 3 : 4);
    double worst = 0, worst_exact = 0;
    for (int cached : {0, 1, 63, 64, 65, 1000})
      for (int rows : {1, 2, 7, 8, 9, 17, 64, 200, 1000}) {
        // The float64 sums take their time: long calls at two cache lengths only.
        if (rows == 1000 && cached != 0 && cached != 1000) continue;
        layer.poison();
        layer.attend(cached, rows, kHeads);
        const std::vector<float> got = layer.result(cached, rows);
        // FP32 sums of the same F16 values; a value at a tie may be rounded to either side.
        const double same = difference(got, layer.reference(cached, rows, true));
        // q, k, v and probabilities in F16: 2^-11 at most, 2.1e-4 each in the mean.
        const double exact = difference(got, layer.reference(cached, rows, false));
        CHECK_MESSAGE(same <= 1e-4,
                      rows << " rows behind " << cached << ": " << same << " from the rounded reference");
        CHECK_MESSAGE(exact <= 1e-3,
                      rows << " rows behind " << cached << ": " << exact << " from the exact reference");
        worst = std::max(worst, same), worst_exact = std::max(worst_exact, exact);
      }
    MESSAGE("worst relative error " << worst << " with the same rounding, " << worst_exact << " without any");
  }
}

TEST_CASE("cuda: prompt attention's bits depend on neither chunks nor heads at a time nor the run") {
  if (!test::hopper_present()) return;
  Layer layer(cuda::Code::e4m3, kHeads, 5);
  layer.attend(0, kPositions, kHeads);
  const std::vector<float> whole = layer.result(0, kPositions);
  for (int at_a_time : {1, 2, 3})
    for (int run = 0; run < 3; ++run) {
      layer.poison();
      int first = 0;
      for (int rows : {1, 127, 3, 190, 512, 700}) layer.attend(first, rows, at_a_time), first += rows;
      layer.attend(first, kPositions - first, at_a_time);
      const std::vector<float> pieces = layer.result(0, kPositions);
      CHECK_MESSAGE(std::memcmp(whole.data(), pieces.data(), whole.size() * 4) == 0,
                    at_a_time << " heads at a time");
    }
}

TEST_CASE("cuda: prompt attention writes its own rows only and clamps what F16 cannot hold") {
  if (!test::hopper_present()) return;
  Layer layer(cuda::Code::bf16, kHeads, 6);
  layer.poison();
  layer.attend(65, 130, 2);
  const std::vector<float> before = layer.result(0, 65), after = layer.result(195, 100);
  CHECK(std::all_of(before.begin(), before.end(), [](float v) { return std::isnan(v); }));
  CHECK(std::all_of(after.begin(), after.end(), [](float v) { return std::isnan(v); }));
  const std::vector<float> inside = layer.result(65, 130);
  CHECK(std::all_of(inside.begin(), inside.end(), [](float v) { return std::isfinite(v); }));
  // A latent row whose keys and values exceed 65504.
  std::vector<std::uint16_t> row(kRow, float_to_bf16(1e6f));
  cuda::copy_to_device(layer.cache, row.data(), row.size() * 2);
  layer.attend(0, 200, 3);
  const std::vector<float> clamped = layer.result(0, 200);
  CHECK(std::all_of(clamped.begin(), clamped.end(),
                    [](float v) { return std::isfinite(v) && std::abs(v) < 65600; }));
}

namespace {

double difference(const std::vector<float>& got, const std::vector<float>& want) {
  return difference(got, std::vector<double>(want.begin(), want.end()));
}

}  // namespace

TEST_CASE("cuda: the expanded form agrees with the CPU pass behind every length of context") {
  if (!test::hopper_present()) return;
  struct Setting {
    bool fp8;
    ActivationType activations;
    double bound;  // of attn: F16's rounding, and that of q where its input falls to the other side of a tie
  };
  for (const Setting& s :
       {Setting{false, ActivationType::f32, 1e-3}, Setting{true, ActivationType::bf16, 1e-3},
        Setting{true, ActivationType::fp8, 1e-2}}) {
    Both both({CacheType::bf16, s.activations, ActivationType::f32}, {.fp8 = s.fp8}, 2048);
    REQUIRE(both.gpu_pass.placement().expanded_heads > 0);
    std::mt19937 random(12);
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<std::size_t>(both.config.kv_row()));
    for (std::int32_t position = 0; position < 1000; ++position) {
      for (float& v : row) v = normal(random);
      both.cpu_pass.cache().store({RowKind::latent, 0}, {1, position}, row);
      both.gpu_pass.write_cache(0, 1, position, row);
    }
    double worst = 0;
    for (std::int32_t cached : {1000, 65, 64, 63, 1, 0})  // rows behind the cached ones are overwritten
      for (int count : {1, 2, 7, 8, 9, 17, 64, 200, 1000}) {
        Activations a;
        a.rows = prompt_rows(count, cached, 1);
        both.gpu_pass.set_rows(a.rows);
        for (const Step& step : stage_list(both.config, Stack::main)) {
          both.cpu_pass.run(step, a);
          both.gpu_pass.run(Stack::main, step, Role::prompt);
          if (step.stage == Stage::Attend) break;
        }
        std::vector<float> attn(a.attn.size()), kv_row(a.kv_row.size());
        both.gpu_pass.read(Work::attn, std::span<float>(attn));
        both.gpu_pass.read(Work::kv_row, std::span<float>(kv_row));
        const double d = difference(attn, a.attn), k = difference(kv_row, a.kv_row);
        CHECK_MESSAGE(d <= s.bound, count << " rows behind " << cached << ", activations "
                                          << name(s.activations) << ": relative error of attn " << d);
        CHECK_MESSAGE(k <= s.bound, "kv_row: " << k);
        worst = std::max(worst, d);
      }
    MESSAGE("activations " << name(s.activations) << ": worst relative error of attn " << worst);
  }
}

TEST_CASE("cuda: the expanded form's bits depend on neither chunks nor other timelines") {
  if (!test::hopper_present()) return;
  Both both({CacheType::bf16, ActivationType::bf16, ActivationType::f32}, {}, 2048);
  cuda::CudaForward& gpu = both.gpu_pass;
  const std::vector<float> whole = last_logits(gpu, prompt_rows(1500, 0, 0));
  std::vector<float> pieces;
  int first = 0;
  for (int count : {1, 300, 129, 570, 500})
    pieces = last_logits(gpu, prompt_rows(count, first, 1)), first += count;
  REQUIRE(whole.size() == pieces.size());
  CHECK(std::memcmp(whole.data(), pieces.data(), whole.size() * 4) == 0);
  // The end of one timeline and the beginning of another in one call.
  std::vector<Row> mixed = prompt_rows(70, 1430, 0);
  for (const Row& r : prompt_rows(200, 0, 1)) mixed.push_back(r);
  const int wanted[] = {69, 269};
  ForwardCall call;
  call.rows = mixed;
  call.logit_rows = wanted;
  const std::vector<float> two = gpu.forward(call).logits, other = last_logits(gpu, prompt_rows(200, 0, 0));
  CHECK(std::memcmp(whole.data(), two.data(), whole.size() * 4) == 0);
  CHECK(std::memcmp(other.data(), two.data() + whole.size(), whole.size() * 4) == 0);
}

TEST_CASE("cuda: a long prompt stops between layers when asked to, and can be run again") {
  if (!test::hopper_present()) return;
  Both both({CacheType::bf16, ActivationType::bf16, ActivationType::f32}, {}, 4096);
  const std::vector<float> whole = last_logits(both.gpu_pass, prompt_rows(3000, 0, 0));
  int asked = 0;
  both.gpu_pass.stop_requested = [&] { return ++asked == 2; };
  try {
    (void)last_logits(both.gpu_pass, prompt_rows(3000, 0, 0));
    FAIL("ran to the end");
  } catch (const Error& e) {
    CHECK(e.code() == Exit::interrupted);
  }
  both.gpu_pass.stop_requested = nullptr;
  const std::vector<float> again = last_logits(both.gpu_pass, prompt_rows(3000, 0, 0));
  CHECK(std::memcmp(whole.data(), again.data(), whole.size() * 4) == 0);
}

namespace {

// Six dense layers of DeepSeek-V3's size and a small vocabulary.
Config large_layers() {
  return parse_config(
      R"({"rope_theta":10000,"rope_scaling":null,"max_position_embeddings":163840,"rms_norm_eps":1e-6,"kv_lora_rank":512,
      "qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,"hidden_act":"silu","moe_layer_freq":1,
      "attention_bias":false,"tie_word_embeddings":false,"architectures":["DeepseekV3ForCausalLM"],
      "model_type":"deepseek_v3","hidden_size":7168,"num_hidden_layers":6,"num_attention_heads":128,
      "num_key_value_heads":128,"q_lora_rank":1536,"intermediate_size":18432,"moe_intermediate_size":2048,
      "n_routed_experts":8,"n_shared_experts":1,"num_experts_per_tok":2,"first_k_dense_replace":6,"n_group":1,
      "topk_group":1,"topk_method":"noaux_tc","scoring_func":"sigmoid","norm_topk_prob":true,
      "routed_scaling_factor":2.5,"vocab_size":1000,"bos_token_id":0,"eos_token_id":1,
      "quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",
      "weight_block_size":[128,128]}})",
      "large");
}

}  // namespace

TEST_CASE("cuda: a request to stop a long prompt is seen within 200 ms") {
  if (!test::hopper_present()) return;
  const Config config = large_layers();
  const Weights weights = weights_of_shape(config, true);
  cuda::ForwardOptions o;
  o.numerics = {CacheType::bf16, ActivationType::fp8, ActivationType::bf16};
  o.capacity = 32768, o.timelines = 1, o.random_weights = 1;
  cuda::CudaForward gpu(config, weights, o);
  for (const int milliseconds : {100, 250}) {
    std::atomic<bool> stop{false};
    std::chrono::steady_clock::time_point asked;
    gpu.stop_requested = [&] { return stop.load(); };
    std::thread user([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
      asked = std::chrono::steady_clock::now();
      stop = true;
    });
    bool stopped = false;
    try {
      (void)last_logits(gpu, prompt_rows(32768, 0, 0));
    } catch (const Error& e) {
      stopped = e.code() == Exit::interrupted;
    }
    const auto seen = std::chrono::steady_clock::now();
    user.join();
    const double seconds = std::chrono::duration<double>(seen - asked).count();
    CHECK(stopped);
    CHECK(seconds < 0.2);
    MESSAGE("asked after " << milliseconds << " ms, seen " << seconds * 1e3 << " ms later");
  }
}
