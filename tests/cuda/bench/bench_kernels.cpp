// Speed of the CUDA kernels and of whole decode steps on random weights, without a checkpoint.
//
//   bench_kernels [read] [gemv] [attention] [prompt-attention] [prompt[:512|:4096]] [SHAPE[:CONTEXT,...] ...]
//
// SHAPE: v2-lite, v2-lite-bf16, v3-slice
//
// Every figure stands beside the bytes it had to read over the read bandwidth measured in the same run.
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>
#include <vector>

#include "cuda/forward.h"
#include "src/base/error.h"
#include "tests/cuda/bench/bench_prompt_attention.h"

using namespace fathom;
using namespace fathom::cuda;

namespace {

double bandwidth = 3.1e12;

Config config_of(const std::string& name) {
  const std::string yarn =
      R"("rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,)"
      R"("beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0},"max_position_embeddings":163840,)"
      R"("rms_norm_eps":1e-6,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,)"
      R"("hidden_act":"silu","moe_layer_freq":1,"attention_bias":false,"tie_word_embeddings":false,)";
  if (name == "v3-slice")
    return parse_config(
        "{" + yarn +
            R"("architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","hidden_size":7168,
        "num_hidden_layers":6,"num_attention_heads":128,"num_key_value_heads":128,"q_lora_rank":1536,
        "intermediate_size":18432,"moe_intermediate_size":2048,"n_routed_experts":256,"n_shared_experts":1,
        "num_experts_per_tok":8,"first_k_dense_replace":3,"n_group":8,"topk_group":4,"topk_method":"noaux_tc",
        "scoring_func":"sigmoid","norm_topk_prob":true,"routed_scaling_factor":2.5,"vocab_size":129280,
        "bos_token_id":0,"eos_token_id":1,"num_nextn_predict_layers":0})",
        name);
  return parse_config(
      "{" + yarn +
          R"("architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","hidden_size":2048,
        "num_hidden_layers":27,"num_attention_heads":16,"num_key_value_heads":16,"q_lora_rank":null,
        "intermediate_size":10944,"moe_intermediate_size":1408,"n_routed_experts":64,"n_shared_experts":2,
        "num_experts_per_tok":6,"first_k_dense_replace":1,"n_group":1,"topk_group":1,"topk_method":"greedy",
        "scoring_func":"softmax","norm_topk_prob":false,"routed_scaling_factor":1.0,"vocab_size":102400,
        "bos_token_id":100000,"eos_token_id":100001})",
      name);
}

double mlp_bytes(const Mlp& m) { return static_cast<double>(m.gate.bytes() + m.up.bytes() + m.down.bytes()); }

// Bytes of weights that one generated token reads.
double bytes_per_token(const Config& c, const Weights& w) {
  double sum = static_cast<double>(w.lm_head.bytes());
  for (const LayerWeights& l : w.layers) {
    for (const Linear* m : {&l.q_a_proj, &l.q_proj, &l.kv_a_proj, &l.kv_b_proj, &l.o_proj, &l.router})
      sum += static_cast<double>(m->bytes());
    if (l.dense) sum += mlp_bytes(*l.dense);
    if (l.shared) sum += mlp_bytes(*l.shared);
    if (!l.experts.experts.empty()) {
      const Expert& e = l.experts.experts.front();
      sum += c.router.num_experts_per_tok * mlp_bytes({e.gate, e.up, e.down});
    }
  }
  return sum;
}

float milliseconds(const Event& from, const Event& to) {
  float ms = 0;
  FATHOM_CUDA(cudaEventSynchronize(to.get()));
  FATHOM_CUDA(cudaEventElapsedTime(&ms, from.get(), to.get()));
  return ms;
}

// Microseconds per launch of `body(i)`, i < launches, replayed as a graph; median of five.
template <typename Body>
double time_launches(const Launch& on, int launches, Body&& body) {
  FATHOM_CUDA(cudaStreamBeginCapture(on.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) body(i);
  cudaGraph_t graph = nullptr;
  FATHOM_CUDA(cudaStreamEndCapture(on.stream, &graph));
  const Graph owner(graph);
  cudaGraphExec_t exec = nullptr;
  FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  const GraphExec exec_owner(exec);
  const Event begin = make_event(), end = make_event();
  std::vector<double> times;
  for (int i = 0; i < 6; ++i) {
    FATHOM_CUDA(cudaEventRecord(begin.get(), on.stream));
    FATHOM_CUDA(cudaGraphLaunch(exec, on.stream));
    FATHOM_CUDA(cudaEventRecord(end.get(), on.stream));
    times.push_back(static_cast<double>(milliseconds(begin, end)) * 1e3 / launches);
  }
  std::sort(times.begin() + 1, times.end());
  return times[3];
}

// What the blocks of the one launch of all layers do between hand-offs, averaged over the layers of experts.
void print_timeline(CudaForward& forward, std::int32_t position) {
  const Row row{1, position, 0, Role::generated};
  forward.set_rows({&row, 1});
  const std::vector<std::uint64_t> stamps = forward.persistent_stamps();
  const Config& c = forward.config();
  const auto handoffs = static_cast<std::size_t>(c.num_hidden_layers * kHandoffsPerLayer);
  const std::size_t blocks = stamps.size() / handoffs / 2;
  const char* names[kHandoffsPerLayer] = {"project", "absorb",  "attend", "value",
                                          "o_proj",  "gate_up", "down"};
  const int first = c.first_k_dense_replace + 1, last = c.num_hidden_layers - 1;
  for (int stage = 0; stage < kHandoffsPerLayer; ++stage) {
    double work = 0, most_work = 0, handoff = 0;
    for (int layer = first; layer < last; ++layer) {
      const auto h = static_cast<std::size_t>(layer * kHandoffsPerLayer + stage);
      std::uint64_t arrived = 0, through = 0;
      double most = 0;
      for (std::size_t b = 0; b < blocks; ++b) {
        const auto* at = &stamps[(b * handoffs + h) * 2];
        const auto worked = static_cast<double>(at[0] - at[-1]);
        work += worked / static_cast<double>(blocks);
        most = std::max(most, worked);
        arrived = std::max(arrived, at[0]), through = std::max(through, at[1]);
      }
      most_work += most, handoff += static_cast<double>(through - arrived);
    }
    const double per_layer = 1e-3 / std::max(last - first, 1);
    fmt::print("  {:8} work {:6.2f} us, of the slowest block {:6.2f}, hand-off behind the last {:5.2f}\n",
               names[stage], work * per_layer, most_work * per_layer, handoff * per_layer);
  }
}

void bench_shape(const std::string& argument) {
  const std::size_t colon = argument.find(':');
  const std::string name = argument.substr(0, colon);
  std::vector<std::int32_t> contexts{512, 4096, 32768};
  if (colon != std::string::npos) {
    contexts.clear();
    for (std::size_t at = colon; at != std::string::npos; at = argument.find(',', at + 1)) {
      std::int32_t n = 0;
      std::from_chars(argument.data() + at + 1, argument.data() + argument.size(), n);
      contexts.push_back(n);
    }
  }
  const Config config = config_of(name);
  const bool fp8 = name.find("bf16") == std::string::npos;
  const Weights weights = weights_of_shape(config, fp8);
  ForwardOptions o;
  o.numerics = {CacheType::bf16, ActivationType::bf16, ActivationType::bf16};
  o.capacity = *std::max_element(contexts.begin(), contexts.end()) + 512;
  o.random_weights = 1;
  const auto started = std::chrono::steady_clock::now();
  const auto forward = make_forward(config, weights, o);
  fmt::print("{}: ready in {:.2f} s; {}\n", name,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(),
             dynamic_cast<CudaForward&>(*forward).placement().text());
  const double weight_bytes = bytes_per_token(config, weights);
  for (std::int32_t context : contexts) {
    const double ms = decode_time(*forward, context, 200);
    const double bytes =
        weight_bytes + static_cast<double>(context) * config.num_hidden_layers * config.kv_row() * 2;
    fmt::print(
        "  decode at {:6}: {:8.1f} tok/s  {:.4f} ms/token  {:.3f} GB/token  {:.0f} GB/s  {:.1f} % of read "
        "bandwidth\n",
        context, 1e3 / ms, ms, bytes * 1e-9, bytes / ms * 1e-6, 100 * bytes / (ms * 1e-3) / bandwidth);
  }
  const std::int32_t at = contexts.size() > 1 ? contexts[1] : contexts[0];
  if (auto& cuda = dynamic_cast<CudaForward&>(*forward); cuda.persistent()) print_timeline(cuda, at);
  for (const StageTime& s : stage_times(*forward, at, 20))
    fmt::print("  {:24} at {}: {:.4f} ms, {} launches, {:.2f} us each\n", s.stages, at, s.milliseconds,
               s.launches, s.milliseconds * 1e3 / std::max(s.launches, 1));
}

// Prefill of FP8 weights with FP8 activations, and of BF16 weights with BF16 activations; given lengths, of
// the former alone.
void bench_prompt(const std::string& name, std::vector<int> lengths) {
  const bool all = lengths.empty();
  if (all) lengths = {64, 512, 512, 4096, 4096, 4096, 32768};
  const Config config = config_of(name);
  struct Setting {
    bool fp8;
    ActivationType activations;
  };
  // The last one has no kernels of Hopper's own.
  for (const auto& [fp8, activations] : {Setting{true, ActivationType::fp8}, {false, ActivationType::bf16},
                                         {true, ActivationType::bf16}}) {
    const bool mixed = fp8 && activations == ActivationType::bf16;
    if ((!fp8 || mixed) && !all) break;
    if (mixed) lengths = {512, 512, 4096};
    const Weights weights = weights_of_shape(config, fp8);
    ForwardOptions o;
    o.numerics = {CacheType::bf16, activations, ActivationType::bf16};
    o.capacity = *std::max_element(lengths.begin(), lengths.end()) + 64;
    o.random_weights = 1;
    const auto forward = make_forward(config, weights, o);
    for (int length : lengths) {
      std::vector<Row> rows;
      for (int i = 0; i < length; ++i)
        rows.push_back({(i * 7919 + 13) % config.vocab_size, i, 0, Role::prompt});
      const int last = length - 1;
      ForwardCall call;
      call.rows = rows;
      call.logit_rows = {&last, 1};
      const auto started = std::chrono::steady_clock::now();
      const ForwardResult r = forward->forward(call);
      const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
      fmt::print("  prompt of {:5}, weights {}, activations {}: {:8.0f} tok/s ({:.1f} ms)  logit[0] {:.4f}\n",
                 length, fp8 ? "fp8" : "bf16", fathom::name(activations), length / s, s * 1e3, r.logits[0]);
    }
  }
}

struct Bench {
  Bench() : stream(make_stream()), memory(std::uint64_t{1} << 30) {
    const auto list = devices();
    if (list.empty()) fail(Exit::unsupported, "no GPU");
    on = {stream.get(), list.front().multiprocessors, runs_hopper_code()};
    fill_cache(on, memory.data(), static_cast<std::int64_t>(memory.size() / 4), true, 5);
  }
  Stream stream;
  Arena memory;
  Launch on;
};

// Random codes of `copies` matrices of a shape, back to back, over at least 256 MB.
std::vector<Matrix> matrices(Bench& b, int rows, int cols, Code code) {
  Matrix m;
  m.rows = rows, m.cols = cols, m.code = code;
  m.row_bytes = (cols * code_bytes(code) + 15) / 16 * 16;
  m.scale_cols = (cols + 127) / 128;
  const std::uint64_t bytes =
      (static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(m.row_bytes) + 255) / 256 * 256;
  const std::uint64_t scale_bytes =
      static_cast<std::uint64_t>((rows + 127) / 128 * m.scale_cols * 4 + 255) / 256 * 256;
  std::vector<Matrix> list;
  std::uint64_t at = 0;
  const auto count = std::clamp<std::uint64_t>((256u << 20) / bytes + 1, 2, 400);
  for (std::uint64_t i = 0; i < count && at + bytes + scale_bytes < (std::uint64_t{900} << 20); ++i) {
    m.codes = b.memory.data() + at;
    at += bytes;
    m.scale = code == Code::e4m3 ? reinterpret_cast<const float*>(b.memory.data() + at) : nullptr;
    at += scale_bytes;
    fill_random(b.on, m, i + 1);
    list.push_back(m);
  }
  return list;
}

void bench_gemv(Bench& b) {
  struct Shape {
    const char* name;
    int rows, cols;
    Code code;
  };
  const Shape shapes[] = {{"V2-Lite q + kv_a", 3648, 2048, Code::e4m3},
                          {"V2-Lite o", 2048, 2048, Code::e4m3},
                          {"V2-Lite dense gate", 10944, 2048, Code::e4m3},
                          {"V2-Lite dense down", 2048, 10944, Code::e4m3},
                          {"V2-Lite router", 64, 2048, Code::bf16},
                          {"V2-Lite head", 102400, 2048, Code::bf16},
                          {"V3 q_a + kv_a", 2112, 7168, Code::e4m3},
                          {"V3 q_b", 24576, 1536, Code::e4m3},
                          {"V3 o", 7168, 16384, Code::e4m3},
                          {"V3 gate", 18432, 7168, Code::e4m3},
                          {"V3 down", 7168, 18432, Code::e4m3},
                          {"V3 expert gate", 2048, 7168, Code::e4m3},
                          {"V3 router", 256, 7168, Code::bf16}};
  float* x = reinterpret_cast<float*>(b.memory.data() + (std::uint64_t{960} << 20));
  float* out = x + (1 << 20);
  fmt::print(
      "GEMV, weights rotating over 256 MB, graph of launches; bound = bytes / bandwidth / 0.92 + 3 us\n");
  for (const Shape& s : shapes) {
    const std::vector<Matrix> list = matrices(b, s.rows, s.cols, s.code);
    const double bytes = static_cast<double>(s.rows) * s.cols * code_bytes(s.code);
    for (int rows : {1, 2, 4, 8}) {
      if (rows > 1 && bytes > 60e6) continue;
      const double us = time_launches(b.on, std::max<int>(64, static_cast<int>(list.size())), [&](int i) {
        GemvParams p;
        p.segment[0] = {list[static_cast<std::size_t>(i) % list.size()], out, s.rows, {}};
        p.input = {x, s.cols, s.cols, nullptr, 0, Round::bf16, nullptr};
        p.rows = rows;
        gemv(b.on, p);
      });
      fmt::print("  {:20} {:6} x {:5}, T {}: {:8.1f} MB {:8.2f} us {:6.0f} GB/s {:5.1f} %  bound {:.2f} us\n",
                 s.name, s.rows, s.cols, rows, bytes * 1e-6, us, bytes / us * 1e-3,
                 100 * bytes / (us * 1e-6) / bandwidth, bytes / bandwidth / 0.92 * 1e6 + 3);
    }
  }
}

void bench_attention(Bench& b) {
  fmt::print(
      "attention, 1 sequence, BF16 cache, FP8 kv_b, caches and kv_b rotating: us of absorb, split-KV, "
      "combine with W_UV, of the last two, of all three\n");
  for (int heads : {16, 128}) {
    const std::vector<Matrix> kv_b = matrices(b, heads * 256, 512, Code::e4m3);
    Arena work(std::uint64_t{1} << 30);
    Arena cache(std::uint64_t{1} << 30);
    fill_cache(b.on, cache.data(), std::int64_t{1} << 29, false, 9);
    auto* rows = reinterpret_cast<std::int32_t*>(work.take(1024));
    auto* query = reinterpret_cast<float*>(work.take(static_cast<std::uint64_t>(heads) * 192 * 4));
    auto* kv_row = reinterpret_cast<float*>(work.take(576 * 4));
    auto* norm = reinterpret_cast<float*>(work.take(512 * 4));
    auto* q = work.take(static_cast<std::uint64_t>(heads) * 576 * 2);
    fill_cache(b.on, query, heads * 192, true, 10);
    fill_cache(b.on, kv_row, 576, true, 11);
    fill_cache(b.on, norm, 512, true, 12);
    fill_cache(b.on, q, heads * 576, false, 10);
    auto* sums = reinterpret_cast<float*>(work.take(std::uint64_t{128} * 128 * 8));
    auto* outs = reinterpret_cast<float*>(work.take(std::uint64_t{128} * 128 * 2048));
    auto* attn = reinterpret_cast<float*>(work.take(128 * 128 * 4));
    for (std::int32_t keys : {1024, 4096, 32768, 131072}) {
      const std::int32_t row[2] = {keys - 1, 0};
      copy_to_device(rows, row, 8);
      const AttentionShape shape{heads, 128, 64, 128, 512, 576, 0.05f};
      const std::int64_t copies =
          std::max<std::int64_t>(1, (std::int64_t{1} << 29) / (std::int64_t{keys} * 576));
      const auto cache_at = [&](int i) { return cache.data() + i % copies * keys * 576 * 2; };
      const auto weights_at = [&](int i) { return kv_b[static_cast<std::size_t>(i) % kv_b.size()]; };
      const auto absorb = [&](int i) {
        AbsorbParams a{
            .shape = shape, .kv_b = weights_at(i), .q = query, .kv_row = kv_row, .norm_weight = norm};
        a.eps = 1e-6f, a.position = rows, a.timeline = rows + 1;
        a.cache = cache_at(i), a.capacity = keys, a.q_absorbed = q, a.rows = 1;
        absorb_query(b.on, a);
      };
      const int most = max_splits(heads);
      const auto attend = [&](int i) {
        AttendParams a;
        a.shape = shape, a.q_absorbed = q;
        a.cache = cache_at(i);
        a.capacity = a.cache_rows = keys;
        a.position = rows, a.timeline = rows + 1;
        a.kv_b = weights_at(i), a.max_splits = most, a.keys_per_round = least_split_keys(heads) * most;
        a.partial_sum = sums, a.partial_out = outs, a.rows = 1;
        attend_split_kv(b.on, a);
      };
      const auto value = [&](int i) {
        ValueParams v{.shape = shape, .kv_b = weights_at(i)};
        v.position = rows;
        v.max_splits = most, v.keys_per_round = least_split_keys(heads) * most;
        v.partial_sum = sums, v.partial_out = outs, v.attn = attn, v.rows = 1;
        combine_project_value(b.on, v);
      };
      const double absorbing = time_launches(b.on, 64, absorb), attending = time_launches(b.on, 64, attend);
      const double combining = time_launches(b.on, 64, value);
      const double two = time_launches(b.on, 64, [&](int i) { attend(i), value(i); });
      const double all = time_launches(b.on, 64, [&](int i) { absorb(i), attend(i), value(i); });
      const double bytes = static_cast<double>(keys) * 1152;
      fmt::print(
          "  {:3} heads, {:6} keys: {:6.2f} {:7.2f} {:6.2f}, {:7.2f} {:7.2f};  keys {:6.0f} GB/s, floor "
          "{:.2f} us\n",
          heads, keys, absorbing, attending, combining, two, all, bytes / attending * 1e-3,
          bytes / bandwidth * 1e6);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bandwidth = read_bandwidth(0);
    fmt::print("{}: read bandwidth {:.0f} GB/s\n", devices().front().name, bandwidth * 1e-9);
    for (int i = 1; i < argc; ++i) {
      const std::string what = argv[i];
      if (what == "read") continue;
      if (what == "prompt") {
        bench_prompt("v2-lite", {});
      } else if (what == "prompt-attention") {
        bench_prompt_attention();
      } else if (what == "prompt:512" || what == "prompt:4096") {
        bench_prompt("v2-lite", {what == "prompt:512" ? 512 : 4096});
      } else if (what == "gemv" || what == "attention") {
        Bench b;
        if (what == "gemv")
          bench_gemv(b);
        else
          bench_attention(b);
      } else {
        bench_shape(what);
      }
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n{}\n", e.what(), e.remedy());
    return static_cast<int>(e.code());
  }
}
