#include "tests/cuda/bench/bench_prompt_attention.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"

namespace fathom {
namespace {

using namespace cuda;

struct Case {
  int heads, cached, rows, heads_at_a_time;
};

// Milliseconds, median of seven after a warm-up.
template <typename Body>
double median_ms(const Stream& stream, Body&& body) {
  const Event begin = make_event(), end = make_event();
  std::vector<float> times;
  for (int i = 0; i < 8; ++i) {
    FATHOM_CUDA(cudaEventRecord(begin.get(), stream.get()));
    body();
    FATHOM_CUDA(cudaEventRecord(end.get(), stream.get()));
    float ms = 0;
    FATHOM_CUDA(cudaEventSynchronize(end.get()));
    FATHOM_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    times.push_back(ms);
  }
  std::sort(times.begin() + 1, times.end());
  return static_cast<double>(times[4]);
}

void bench_case(const Case& c) {
  const Stream stream = make_stream();
  const Launch on{stream.get(), devices().front().multiprocessors, true};
  const auto heads = static_cast<std::uint64_t>(c.heads), rows = static_cast<std::uint64_t>(c.rows);
  const auto some = static_cast<std::uint64_t>(c.heads_at_a_time);
  const std::uint64_t keys = static_cast<std::uint64_t>(c.cached) + rows, tiles = (keys + 127) / 128;
  const std::uint64_t row_tiles = (rows + 127) / 128;
  Arena memory(rows * heads * (192 + 128) * 4 + keys * 1152 + heads * 256 * 513 + some * tiles * 65536 +
               tiles * 16384 + some * row_tiles * 49152 + some * 262144 + 16 * (some * row_tiles) + 16 * 512);
  PromptAttendParams p;
  p.shape = {c.heads, 128, 64, 128, 512, 576, 0.0722f};
  p.kv_b.rows = c.heads * 256, p.kv_b.cols = 512, p.kv_b.row_bytes = 512, p.kv_b.scale_cols = 4;
  p.kv_b.code = Code::e4m3;
  p.kv_b.codes = memory.take(heads * 256 * 512);
  p.kv_b.scale = reinterpret_cast<float*>(memory.take(heads * 32));
  fill_random(on, p.kv_b, 1);
  auto* q = memory.take(rows * heads * 768);
  fill_cache(on, q, static_cast<std::int64_t>(rows * heads * 192), true, 2);
  auto* cache = memory.take(keys * 1152);
  fill_cache(on, cache, static_cast<std::int64_t>(keys * 576), false, 3);
  p.q = reinterpret_cast<float*>(q), p.cache = cache;
  p.first_position = c.cached, p.rows = c.rows;
  p.attn = reinterpret_cast<float*>(memory.take(rows * heads * 512));
  p.expanded = memory.take(some * tiles * 65536), p.rope = memory.take(tiles * 16384);
  p.query = memory.take(some * row_tiles * 49152), p.decoded = memory.take(some * 262144);
  p.counter = reinterpret_cast<int*>(memory.take(16 * (2 + some * row_tiles)));

  const auto groups = [&](auto&& body) {
    for (p.first_head = 0; p.first_head < c.heads; p.first_head += p.heads) {
      p.heads = std::min(c.heads_at_a_time, c.heads - p.first_head);
      body();
    }
  };
  const auto expand = [&] { groups([&] { expand_keys(on, p); }); };
  const auto attend = [&] { groups([&] { attend_expanded(on, p); }); };
  const auto both = [&] { groups([&] { expand_keys(on, p), attend_expanded(on, p); }); };
  both();
  const double expand_ms = median_ms(stream, expand), attend_ms = median_ms(stream, attend),
               both_ms = median_ms(stream, both);
  const double pairs = static_cast<double>(c.rows) * (c.cached + 0.5 * (c.rows + 1));
  const double attend_flops = 640.0 * c.heads * pairs;
  const double expand_flops = 2.0 * 512 * 256 * c.heads * static_cast<double>(keys);
  fmt::print(
      "  {:3} heads, {:5} rows behind {:5}, {:3} heads at a time: attention {:8.3f} ms {:5.0f} TFLOP/s, "
      "expansion {:7.3f} ms {:5.0f} TFLOP/s, both {:8.3f} ms {:5.0f} TFLOP/s of attention\n",
      c.heads, c.rows, c.cached, c.heads_at_a_time, attend_ms, attend_flops / attend_ms * 1e-9, expand_ms,
      expand_flops / expand_ms * 1e-9, both_ms, attend_flops / both_ms * 1e-9);
  std::fflush(stdout);
}

}  // namespace

void bench_prompt_attention() {
  fmt::print("prompt attention, expanded form, FP8 kv_b; FLOPs of unmasked pairs only\n");
  for (const Case& c :
       {Case{128, 0, 1024, 128}, Case{128, 0, 8192, 128}, Case{128, 0, 8192, 32}, Case{128, 0, 32768, 16},
        Case{128, 4096, 4096, 64}, Case{16, 0, 1024, 16}, Case{16, 0, 4096, 16}, Case{16, 4096, 4096, 16},
        Case{16, 28672, 4096, 16}, Case{16, 28672, 512, 16}, Case{16, 126976, 4096, 4}})
    bench_case(c);
}

}  // namespace fathom
