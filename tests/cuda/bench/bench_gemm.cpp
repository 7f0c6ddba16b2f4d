// Our Hopper GEMMs beside cuBLASLt's block-scaled FP8 GEMM (and its BF16 GEMM) in one process.
//
//   bench_gemm [fp8] [bf16] [grouped] [sustained] [tiles] [only:NxKxM ...]
//
// tiles: every tile of ours, not only the chosen one; only: these shapes.
//
// One timing method for both: a CUDA graph of launches that rotate over copies of all inputs and outputs (at
// least 200 MB together, where one is small), replayed after a warm-up and after 10 ms of rest, since the
// chip lowers its clock within milliseconds of full load. The library and ours take turns, three each;
// medians. Ours are launched as the engine launches them, each allowed to start its prologue before the end
// of its predecessor. Data is random; both write BF16.
#include <cublasLt.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "src/base/error.h"

using namespace fathom;
using namespace fathom::cuda;

namespace {

void check_lt(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS) fail(Exit::compute, "{}: {}", what, cublasLtGetStatusString(s));
}

int blocks(int n) { return (n + 127) / 128; }

struct Bench {
  Bench() : stream(make_stream()), memory(std::uint64_t{24} << 30) {
    on = {stream.get(), devices().front().multiprocessors, runs_hopper_code()};
    check_lt(cublasLtCreate(&lt), "cublasLtCreate");
    workspace = memory.take(kWorkspace);
    pool = memory.take(memory.size() - kWorkspace - 4096);
  }
  ~Bench() { cublasLtDestroy(lt); }
  static constexpr std::uint64_t kWorkspace = std::uint64_t{64} << 20;
  Stream stream;
  Arena memory;
  Launch on;
  cublasLtHandle_t lt = nullptr;
  std::byte *workspace = nullptr, *pool = nullptr;
};

// One copy of what a product reads and writes.
struct Problem {
  Matrix w;
  Matrix a;  // codes of the operand; its scale grid is not used
  float* a_scale = nullptr;
  __nv_bfloat16* out = nullptr;
};

struct Problems {
  int m, n, k;
  bool fp8;
  std::vector<Problem> list;
};

Problems make_problems(Bench& b, int m, int n, int k, bool fp8) {
  Problems all{m, n, k, fp8, {}};
  std::byte* at = b.pool;
  const auto take = [&](std::size_t bytes) {
    std::byte* p = at;
    at += (bytes + 1023) / 1024 * 1024;
    return p;
  };
  const auto matrix = [&](int rows, unsigned seed) {
    Matrix x;
    x.rows = rows, x.cols = k, x.code = fp8 ? Code::e4m3 : Code::bf16;
    x.row_bytes = k * code_bytes(x.code);
    x.scale_cols = blocks(k);
    x.codes = take(static_cast<std::size_t>(rows) * static_cast<std::size_t>(x.row_bytes));
    if (fp8) x.scale = reinterpret_cast<float*>(take(static_cast<std::size_t>(blocks(rows) * blocks(k)) * 4));
    fill_random(b.on, x, seed);
    return x;
  };
  const std::size_t bytes = static_cast<std::size_t>(n + m) * static_cast<std::size_t>(k) * (fp8 ? 1 : 2) +
                            static_cast<std::size_t>(m) * static_cast<std::size_t>(n) * 2;
  const std::size_t copies = std::clamp<std::size_t>((std::size_t{200} << 20) / bytes + 1, 2, 64);
  for (std::size_t i = 0; i < copies; ++i) {
    Problem p;
    p.w = matrix(n, static_cast<unsigned>(2 * i + 1));
    p.a = matrix(m, static_cast<unsigned>(2 * i + 2));
    const std::size_t scales = static_cast<std::size_t>(m) * static_cast<std::size_t>(blocks(k));
    p.a_scale = reinterpret_cast<float*>(take(scales * 4));
    // Positive and of ordinary size: scales of the weights' fill, repeated.
    if (fp8) {
      Matrix s;
      s.rows = 128 * m, s.cols = k, s.scale_cols = blocks(k), s.scale = p.a_scale, s.code = Code::e4m3;
      s.row_bytes = 0;
      fill_random(b.on, s, static_cast<unsigned>(i + 99));
    }
    p.out =
        reinterpret_cast<__nv_bfloat16*>(take(static_cast<std::size_t>(m) * static_cast<std::size_t>(n) * 2));
    all.list.push_back(p);
  }
  FATHOM_CUDA(cudaStreamSynchronize(b.stream.get()));
  if (static_cast<std::uint64_t>(at - b.pool) > b.memory.size() - Bench::kWorkspace - 4096)
    fail(Exit::failure, "the pool is too small");
  return all;
}

// Launches as a graph.
class Replay {
 public:
  template <typename Body>
  Replay(Bench& b, int launches, Body&& body) : stream_(b.stream.get()), launches_(launches) {
    FATHOM_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; ++i) body(static_cast<std::size_t>(i));
    cudaGraph_t graph = nullptr;
    FATHOM_CUDA(cudaStreamEndCapture(stream_, &graph));
    const Graph owner(graph);
    cudaGraphExec_t exec = nullptr;
    FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    exec_ = GraphExec(exec);
    run();
  }
  // Rests, then times three replays.
  void measure() {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    for (int i = 0; i < 3; ++i) times_.push_back(run());
  }
  // Runs for a while without rest; the mean of the last half of it.
  double sustain(double seconds) {
    const auto start = std::chrono::steady_clock::now();
    const auto since = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    double sum = 0;
    int count = 0;
    while (since() < seconds) {
      const double us = run();
      if (since() > seconds / 2) sum += us, ++count;
    }
    return sum / std::max(count, 1);
  }
  double median() {
    std::sort(times_.begin(), times_.end());
    return times_[times_.size() / 2];
  }

 private:
  // Microseconds per launch.
  double run() {
    FATHOM_CUDA(cudaEventRecord(begin_.get(), stream_));
    FATHOM_CUDA(cudaGraphLaunch(exec_.get(), stream_));
    FATHOM_CUDA(cudaEventRecord(end_.get(), stream_));
    FATHOM_CUDA(cudaEventSynchronize(end_.get()));
    float ms = 0;
    FATHOM_CUDA(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    return static_cast<double>(ms) * 1e3 / launches_;
  }
  cudaStream_t stream_;
  int launches_;
  GraphExec exec_;
  Event begin_ = make_event(), end_ = make_event();
  std::vector<double> times_;
};
template <typename Body>
double microseconds(Bench& b, int launches, Body&& body) {
  Replay replay(b, launches, body);
  for (int i = 0; i < 3; ++i) replay.measure();
  return replay.median();
}

int launches(const Problems& all) {
  const double us = 2.0 * all.m * all.n * all.k / 1e9 + 3;
  return std::clamp(static_cast<int>(4000 / us), static_cast<int>(all.list.size()), 400);
}

GemmParams params(const Problems& all, std::size_t i) {
  const Problem& one = all.list[i % all.list.size()];
  GemmParams p;
  p.w = one.w;
  p.rows = all.m;
  p.a_stride = all.k;
  if (all.fp8) {
    p.codes = reinterpret_cast<const std::uint8_t*>(one.a.codes);
    p.a_scale = one.a_scale;
    p.scale_stride = all.m;
  } else {
    p.a = reinterpret_cast<const __nv_bfloat16*>(one.a.codes);
  }
  p.out_bf16 = one.out;
  p.out_stride = all.n;
  return p;
}

void ours(Bench& b, const Problems& all, std::size_t i, GemmTile tile) {
  if (all.fp8)
    gemm_fp8(b.on, params(all, i), tile);
  else
    gemm_bf16(b.on, params(all, i), tile);
}

// cuBLASLt, column-major: out^T (n, m) = w (k, n)^T a (k, m). The first algorithm its heuristic offers.
class Library {
 public:
  Library(Bench& b, const Problems& all) : b_(b), all_(all) {
    check_lt(cublasLtMatmulDescCreate(&op_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
    const cublasOperation_t yes = CUBLAS_OP_T, no = CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, yes);
    set(CUBLASLT_MATMUL_DESC_TRANSB, no);
    if (all.fp8) {
      const std::int32_t weights = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                         rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, weights);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, rows);
      point(0);
    }
    const cudaDataType_t type = all.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    const auto n = static_cast<std::uint64_t>(all.n), m = static_cast<std::uint64_t>(all.m),
               k = static_cast<std::uint64_t>(all.k);
    check_lt(cublasLtMatrixLayoutCreate(&w_, type, k, n, all.k), "layout");
    check_lt(cublasLtMatrixLayoutCreate(&a_, type, k, m, all.k), "layout");
    check_lt(cublasLtMatrixLayoutCreate(&d_, CUDA_R_16BF, n, m, all.n), "layout");
    check_lt(cublasLtMatmulPreferenceCreate(&preference_), "preference");
    const std::size_t bytes = Bench::kWorkspace;
    check_lt(cublasLtMatmulPreferenceSetAttribute(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &bytes, sizeof bytes),
             "preference");
    int found = 0;
    if (cublasLtMatmulAlgoGetHeuristic(b.lt, op_, w_, a_, d_, d_, preference_, 1, &result_, &found) !=
            CUBLAS_STATUS_SUCCESS ||
        found == 0)
      usable_ = false;
  }
  ~Library() {
    cublasLtMatmulPreferenceDestroy(preference_);
    for (cublasLtMatrixLayout_t l : {w_, a_, d_}) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulDescDestroy(op_);
  }
  bool usable() const { return usable_; }
  void run(std::size_t i) {
    const Problem& p = all_.list[i % all_.list.size()];
    if (all_.fp8) point(i);
    const float one = 1, zero = 0;
    check_lt(cublasLtMatmul(b_.lt, op_, &one, p.w.codes, w_, p.a.codes, a_, &zero, p.out, d_, p.out, d_,
                            &result_.algo, b_.workspace, Bench::kWorkspace, b_.stream.get()),
             "cublasLtMatmul");
  }

 private:
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t name, const T& value) {
    check_lt(cublasLtMatmulDescSetAttribute(op_, name, &value, sizeof value), "attribute");
  }
  void point(std::size_t i) {
    const Problem& p = all_.list[i % all_.list.size()];
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(p.w.scale));
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(p.a_scale));
  }
  Bench& b_;
  const Problems& all_;
  cublasLtMatmulDesc_t op_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, a_ = nullptr, d_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulHeuristicResult_t result_{};
  bool usable_ = true;
};

// ||library - ours|| / ||ours|| of the first copy. The library's scale grids are read as (row blocks, blocks
// of columns rounded up to 4) and (blocks of columns, rows): where K has no multiple of 512 columns ours
// differ.
double disagreement(Bench& b, const Problems& all, Library& lib) {
  const std::size_t n = static_cast<std::size_t>(all.m) * static_cast<std::size_t>(all.n);
  std::vector<std::uint16_t> x(n), y(n);
  lib.run(0);
  FATHOM_CUDA(cudaStreamSynchronize(b.stream.get()));
  FATHOM_CUDA(cudaMemcpy(x.data(), all.list[0].out, n * 2, cudaMemcpyDeviceToHost));
  ours(b, all, 0, GemmTile::automatic);
  FATHOM_CUDA(cudaStreamSynchronize(b.stream.get()));
  FATHOM_CUDA(cudaMemcpy(y.data(), all.list[0].out, n * 2, cudaMemcpyDeviceToHost));
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < n; i += 7) {
    const auto value = [](std::uint16_t h) {
      const std::uint32_t bits = std::uint32_t{h} << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return static_cast<double>(f);
    };
    const double e = value(x[i]) - value(y[i]);
    square += e * e, norm += value(y[i]) * value(y[i]);
  }
  return std::sqrt(square / norm);
}

struct Shape {
  const char* name;
  int n, k;
};

constexpr const char* kTileNames[] = {"chosen",  "128x256 pair", "128x256", "128x192 pair", "128x128 pair",
                                      "128x128", "128x64",       "64x256",  "64x32"};
// Tiles worth comparing for so many rows.
bool worth_timing(GemmTile tile, int m) {
  if (tile == GemmTile::automatic) return true;
  if (m <= 64) return tile >= GemmTile::rows128_columns64;
  return tile < GemmTile::rows64_columns256 && (m < 4096 || tile != GemmTile::rows128_columns64);
}

void bench_dense(Bench& b, bool fp8, bool all_tiles, const std::vector<std::string>& only) {
  const Shape shapes[] = {
      {"V3 q_a + kv_a", 2112, 7168},   {"V3 q_b", 24576, 1536},   {"V3 o", 7168, 16384},
      {"V3 gate + up", 4096, 7168},    {"V3 down", 7168, 2048},   {"V3 dense", 36864, 7168},
      {"Lite q + kv_a", 3648, 2048},   {"Lite q", 3072, 2048},    {"Lite o", 2048, 2048},
      {"Lite gate + up", 2816, 2048},  {"Lite down", 2048, 1408}, {"Lite dense", 21888, 2048},
      {"Lite dense down", 2048, 10944}};
  double log_sum = 0, worst = 1e9;
  int count = 0;
  fmt::print("{} GEMM against cuBLASLt, both to BF16: microseconds, TFLOP/s, TB/s of weights\n",
             fp8 ? "FP8" : "BF16");
  for (const Shape& s : shapes) {
    for (int m : {64, 128, 512, 4096}) {
      if (!only.empty() && std::ranges::find(only, fmt::format("{}x{}x{}", s.n, s.k, m)) == only.end())
        continue;
      const Problems all = make_problems(b, m, s.n, s.k, fp8);
      const int n = launches(all);
      const double flops = 2.0 * m * s.n * s.k, bytes = static_cast<double>(s.n) * s.k * (fp8 ? 1 : 2);
      const auto print = [&](const char* who, double us) {
        fmt::print("  {:16} {:5} x {:5}, M {:4}  {:13} {:9.2f} us {:7.0f} TFLOP/s {:5.2f} TB/s", s.name, s.n,
                   s.k, m, who, us, flops / us * 1e-6, bytes / us * 1e-6);
      };
      Library lib(b, all);
      std::vector<std::pair<const char*, std::unique_ptr<Replay>>> runs;
      if (lib.usable())
        runs.emplace_back("cuBLASLt", std::make_unique<Replay>(b, n, [&](std::size_t i) { lib.run(i); }));
      else
        fmt::print("  {:16} {:5} x {:5}, M {:4}  cuBLASLt offers no algorithm\n", s.name, s.n, s.k, m);
      for (int t = 0; t <= (all_tiles ? static_cast<int>(GemmTile::rows64_columns32) : 0); ++t) {
        const auto tile = static_cast<GemmTile>(t);
        if (!worth_timing(tile, m)) continue;
        runs.emplace_back(kTileNames[t],
                          std::make_unique<Replay>(b, n, [&](std::size_t i) { ours(b, all, i, tile); }));
      }
      for (int turn = 0; turn < 3; ++turn)
        for (auto& [who, run] : runs) run->measure();
      const double theirs = lib.usable() ? runs.front().second->median() : 0;
      if (lib.usable()) {
        const double factor = theirs / runs[1].second->median();
        log_sum += std::log(factor);
        worst = std::min(worst, factor);
        ++count;
      }
      for (auto& [who, run] : runs) {
        print(who, run->median());
        if (lib.usable() && run == runs.front().second)
          fmt::print("  difference {:.1e}\n", disagreement(b, all, lib));
        else
          fmt::print("  {:5.2f} x\n", theirs / run->median());
      }
      std::fflush(stdout);
    }
  }
  if (count > 0)
    fmt::print("{} shapes: geometric mean {:.3f} x cuBLASLt, worst {:.2f} x\n", count,
               std::exp(log_sum / count), worst);
}

// What full load for a second leaves of the chip's clock (watch nvidia-smi beside it).
void bench_sustained(Bench& b) {
  for (const Shape& s : {Shape{"V3 o", 7168, 16384}, Shape{"V3 dense", 36864, 7168}}) {
    const Problems all = make_problems(b, 4096, s.n, s.k, true);
    Library lib(b, all);
    Replay theirs(b, 4, [&](std::size_t i) { lib.run(i); });
    Replay ours_256(b, 4, [&](std::size_t i) { ours(b, all, i, GemmTile::rows128_columns256); });
    Replay ours_128(b, 4, [&](std::size_t i) { ours(b, all, i, GemmTile::rows128_columns128); });
    for (auto [who, run] :
         {std::pair{"cuBLASLt", &theirs}, {"128x256 pair", &ours_256}, {"128x128 pair", &ours_128}})
      fmt::print("  {:10} {:13} {:6.0f} TFLOP/s after a second of full load\n", s.name, who,
                 2.0 * 4096 * s.n * s.k / run->sustain(1.0) * 1e-6);
    std::fflush(stdout);
  }
}

// Gate and up, then down, of experts with the same number of rows each.
void bench_grouped(Bench& b) {
  struct Case {
    int experts, rows, hidden, inner;
  };
  fmt::print("grouped FP8: gate + up with SwiGLU and rounding; down to BF16\n");
  for (const Case& c :
       {Case{32, 256, 7168, 2048}, {256, 128, 7168, 2048}, {64, 384, 2048, 1408}, {64, 48, 2048, 1408}}) {
    std::byte* at = b.pool;
    const auto take = [&](std::size_t bytes) {
      std::byte* p = at;
      at += (bytes + 1023) / 1024 * 1024;
      return p;
    };
    const auto size = [](int x, int y) { return static_cast<std::size_t>(x) * static_cast<std::size_t>(y); };
    const int total = c.experts * c.rows;
    std::vector<ExpertPointers> pointers;
    Matrix gate, up, down;
    std::int64_t apart = 0;
    for (int e = 0; e < c.experts; ++e) {
      const auto matrix = [&](int rows, int cols) {
        Matrix x;
        x.rows = rows, x.cols = cols, x.code = Code::e4m3, x.row_bytes = cols, x.scale_cols = blocks(cols);
        x.codes = take(size(rows, cols));
        x.scale = reinterpret_cast<float*>(take(size(blocks(rows), blocks(cols)) * 4));
        fill_random(b.on, x, static_cast<unsigned>(at - b.pool));
        return x;
      };
      const Matrix g = matrix(c.inner, c.hidden), u = matrix(c.inner, c.hidden),
                   d = matrix(c.hidden, c.inner);
      if (e == 0) gate = g, up = u, down = d;
      apart = e == 1 ? g.codes - gate.codes : apart;
      pointers.push_back({g.codes, u.codes, d.codes, g.scale, u.scale, d.scale});
    }
    const int tile_rows = c.rows <= 64 ? 64 : 128;
    std::vector<int> expert, begin, count, sorted;
    for (int e = 0; e < c.experts; ++e)
      for (int r = 0; r < c.rows; r += tile_rows)
        expert.push_back(e), begin.push_back(e * c.rows + r),
            count.push_back(std::min(tile_rows, c.rows - r));
    for (int i = 0; i < total; ++i) sorted.push_back(static_cast<int>(std::int64_t{i} * 7919 % total));
    const auto put = [&](const auto& v) {
      using T = typename std::decay_t<decltype(v)>::value_type;
      auto* p = reinterpret_cast<T*>(take(v.size() * sizeof(T)));
      copy_to_device(p, v.data(), v.size() * sizeof(T));
      return p;
    };
    GemmParams g;
    g.experts = put(pointers);
    g.expert_count = c.experts, g.expert_bytes = apart;
    g.tile_expert = put(expert), g.tile_begin = put(begin), g.tile_count = put(count);
    const std::vector<int> tiles{static_cast<int>(expert.size())};
    g.tile_total = put(tiles), g.tiles = tiles[0];
    g.rows = total;
    Matrix a;
    a.rows = total, a.cols = c.hidden, a.code = Code::e4m3, a.row_bytes = c.hidden,
    a.scale_cols = blocks(c.hidden);
    a.codes = take(size(total, c.hidden));
    fill_random(b.on, a, 5);
    Matrix s = a;
    float* scales = reinterpret_cast<float*>(take(size(total, blocks(c.hidden)) * 4));
    s.rows = 128 * total, s.row_bytes = 0, s.scale = scales;
    fill_random(b.on, s, 6);
    g.w = gate, g.up = up;
    g.codes = reinterpret_cast<const std::uint8_t*>(a.codes), g.a_stride = c.hidden;
    g.a_scale = scales, g.scale_stride = total;
    g.out_codes = reinterpret_cast<std::uint8_t*>(take(size(total, c.inner)));
    g.out_stride = c.inner;
    g.out_scale = reinterpret_cast<float*>(take(size(total, blocks(c.inner)) * 4));
    g.out_scale_stride = total;
    GemmParams d = g;
    d.which = 2, d.w = down, d.up = {};
    d.codes = g.out_codes, d.a_stride = c.inner, d.a_scale = g.out_scale;
    d.out_codes = nullptr, d.out_scale = nullptr;
    d.out_bf16 = reinterpret_cast<__nv_bfloat16*>(take(size(total, c.hidden) * 2));
    d.out_stride = c.hidden;
    d.sorted = put(sorted);
    if (static_cast<std::uint64_t>(at - b.pool) > b.memory.size() - Bench::kWorkspace - 4096)
      fail(Exit::failure, "the pool is too small");
    FATHOM_CUDA(cudaDeviceSynchronize());
    const double gate_us = microseconds(b, 10, [&](std::size_t) { gemm_fp8(b.on, g); });
    const double down_us = microseconds(b, 10, [&](std::size_t) { gemm_fp8(b.on, d); });
    const double flops = 2.0 * total * c.inner * c.hidden,
                 bytes = static_cast<double>(c.experts) * c.inner * c.hidden;
    fmt::print(
        "  {:3} experts x {:3} rows, {} x {}: gate + up {:8.1f} us {:6.0f} TFLOP/s {:.2f} TB/s;  down "
        "{:8.1f} us {:6.0f} TFLOP/s {:.2f} TB/s\n",
        c.experts, c.rows, c.inner, c.hidden, gate_us, 2 * flops / gate_us * 1e-6, 2 * bytes / gate_us * 1e-6,
        down_us, flops / down_us * 1e-6, bytes / down_us * 1e-6);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bool tiles = false;
    std::vector<std::string> only;
    for (int i = 1; i < argc; ++i) {
      const std::string what = argv[i];
      tiles = tiles || what == "tiles";
      if (what.starts_with("only:")) only.push_back(what.substr(5));
    }
    Bench b;
    fmt::print("{}, cuBLASLt {}\n", devices().front().name, cublasLtGetVersion());
    for (int i = 1; i < argc; ++i) {
      const std::string what = argv[i];
      if (what == "fp8" || what == "bf16") bench_dense(b, what == "fp8", tiles, only);
      if (what == "grouped") bench_grouped(b);
      if (what == "sustained") bench_sustained(b);
    }
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n{}\n", e.what(), e.remedy());
    return static_cast<int>(e.code());
  }
}
