// Experts in host memory beside a GPU: the same answers as with experts on the GPU and as the CPU pass, with
// every format, through graphs, prompts and errors.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "cuda/forward.h"
#include "src/base/error.h"
#include "src/engine/engine.h"
#include "src/engine/timeline.h"
#include "tests/cuda/golden_model.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using fathom::test::gpu_present;
using fathom::test::kCheckpoints;
using fathom::test::Model;

namespace {

cuda::ForwardOptions options_for(const Numerics& numerics, Threads* host_experts) {
  cuda::ForwardOptions o;
  o.numerics = numerics;
  o.capacity = 700;
  o.host_experts = host_experts;
  return o;
}

std::vector<std::int32_t> some_ids(const Config& c, int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 7919 + 13) % (c.vocab_size - 10) + 2);
  return ids;
}

double relative_difference(std::span<const float> got, std::span<const float> want) {
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    square += e * e;
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return got.size() == want.size() && norm > 0 ? std::sqrt(square / norm) : INFINITY;
}

}  // namespace

TEST_CASE("cuda: experts in host memory give the logits of experts on the GPU") {
  if (!gpu_present()) return;
  Threads threads(3);
  for (const char* name : kCheckpoints) {
    const Model m(name);
    // With f32 both compute FP32 sums of the same values, in different orders. With bf16 a value at a
    // rounding tie may fall to either side, and on tensor cores expert_out of prompts is BF16.
    for (const auto& [activations, bound] :
         {std::pair(ActivationType::f32, 1e-4), std::pair(ActivationType::bf16, 1e-2)}) {
      const Numerics numerics{CacheType::bf16, activations, activations};
      cuda::CudaForward host(m.config, m.weights, options_for(numerics, &threads));
      cuda::CudaForward gpu(m.config, m.weights, options_for(numerics, nullptr));
      CHECK(host.placement().host_experts > 0);
      CHECK(host.placement().weights + host.placement().host_experts < gpu.placement().weights + 65536);
      Timeline a(host), b(gpu);
      const auto prompt = some_ids(m.config, 530);  // two chunks
      std::vector<float> got = a.sync(prompt), want = b.sync(prompt);
      double worst = relative_difference(got, want);
      for (int step = 0; step < 24; ++step) {
        const auto id = static_cast<std::int32_t>(std::max_element(want.begin(), want.end()) - want.begin());
        got = a.append(id), want = b.append(id);
        worst = std::max(worst, relative_difference(got, want));
      }
      MESSAGE(std::string(name) << " " << std::string(fathom::name(activations))
                                << ": worst relative difference of logits " << worst);
      CHECK(worst < bound);
    }
  }
}

TEST_CASE("cuda: rows of a step, graphs and repetition change no bit with experts in host memory") {
  if (!gpu_present()) return;
  Threads threads(3);
  for (const char* name : {"v3", "v2-lite"}) {
    const Model m(name, true);
    cuda::ForwardOptions options =
        options_for({CacheType::bf16, ActivationType::bf16, ActivationType::bf16}, &threads);
    options.mtp = !m.weights.mtp.empty();
    cuda::CudaForward a(m.config, m.weights, options);
    options.graph = false;
    cuda::CudaForward b(m.config, m.weights, options);
    const auto ids = some_ids(m.config, 90);
    std::vector<Row> rows;
    std::vector<int> all;
    for (int i = 0; i < 8; ++i)
      rows.push_back({ids[static_cast<std::size_t>(i)], i, 0, Role::generated}), all.push_back(i);
    const auto logits = [&](Forward& f, std::span<const Row> some) {
      ForwardCall call;
      call.rows = some;
      call.logit_rows = std::span(all).first(some.size());
      return f.forward(call).logits;
    };
    const std::vector<float> eight = logits(a, rows);
    std::vector<float> single;
    for (const Row& row : rows) {
      const auto one = logits(b, {&row, 1});
      single.insert(single.end(), one.begin(), one.end());
    }
    CHECK(std::memcmp(eight.data(), single.data(), eight.size() * sizeof(float)) == 0);
    for (int i = 0; i < 20; ++i) {
      const std::vector<float> again = logits(a, rows);
      REQUIRE(std::memcmp(eight.data(), again.data(), eight.size() * sizeof(float)) == 0);
    }
    if (!options.mtp) continue;
    // The MTP stack's experts too.
    ForwardCall call;
    call.stack = Stack::mtp;
    call.rows = std::span(rows).first(2);
    std::vector<float> hidden(static_cast<std::size_t>(2 * m.config.hidden_size), 0.25f);
    call.hidden_in = hidden;
    call.logit_rows = std::span(all).first(2);
    options.host_experts = nullptr;
    cuda::CudaForward gpu(m.config, m.weights, options);
    CHECK(relative_difference(a.forward(call).logits, gpu.forward(call).logits) < 1e-2);
  }
}

TEST_CASE("cuda: a prompt stopped while the host computes leaves a pass that works") {
  if (!gpu_present()) return;
  Threads threads(2);
  const Model m("v3");
  const Numerics numerics{CacheType::bf16, ActivationType::f32, ActivationType::f32};
  cuda::CudaForward f(m.config, m.weights, options_for(numerics, &threads));
  Timeline t(f);
  const auto prompt = some_ids(m.config, 40);
  const std::vector<float> before = t.sync(prompt);
  f.stop_requested = [] { return true; };
  const std::vector<Row> row{{5, 40, 0, Role::generated}};
  ForwardCall call;
  call.rows = row;
  bool stopped = false;
  try {
    (void)f.forward(call);  // a graph: the kernels behind the first hand-over wait when the host gives up
  } catch (const Error& e) {
    stopped = e.code() == Exit::interrupted;
  }
  CHECK(stopped);
  f.stop_requested = {};
  Timeline again(f);
  const std::vector<float> after = again.sync(prompt);
  CHECK(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0);
}

TEST_CASE("cuda: the engine puts experts where it is told, and to the host when the GPU is too small") {
  if (!gpu_present()) return;
  const auto load = [](const EngineOptions& o) {
    return Engine::load(FileSet::directory("tests/goldens/v3"), o);
  };
  EngineOptions o;
  o.backend = BackendChoice::cuda;
  o.tokenizer_required = false;
  o.context = 512;
  o.threads = 2;
  o.activations = ActivationType::f32;
  const auto gpu = load(o);
  CHECK(gpu->gpu_plan().find("host memory") == std::string::npos);
  o.experts = ExpertPlace::host;
  const auto host = load(o);
  CHECK(host->gpu_plan().find("in host memory, at most ") != std::string::npos);
  CHECK(host->gpu_plan().find("tok/s") != std::string::npos);
  // Between the two plans' bytes only the one with experts on the host fits.
  const Placement p = place(gpu->config(), gpu->weights(), {.numerics = gpu->numerics(), .capacity = 512});
  o.experts = ExpertPlace::automatic;
  o.gpu_memory = p.total() - 1;
  const auto small = load(o);
  CHECK(small->gpu_plan().find("in host memory") != std::string::npos);
  o.experts = ExpertPlace::gpu;
  CHECK_THROWS_AS(load(o), Error);
  const auto a = gpu->make_forward(), b = small->make_forward();
  Timeline x(*a), y(*b);
  const auto prompt = some_ids(gpu->config(), 100);
  CHECK(relative_difference(y.sync(prompt), x.sync(prompt)) < 1e-4);
}

TEST_CASE("cuda: random weights give the same values wherever the experts live") {
  if (!gpu_present()) return;
  Threads threads(2);
  for (const char* name : {"v3", "v2-lite"}) {
    const Model m(name);
    const Weights shapes = weights_of_shape(m.config, true);
    const Numerics numerics{CacheType::f32, ActivationType::f32, ActivationType::f32};
    cuda::ForwardOptions o = options_for(numerics, &threads);
    o.random_weights = 3;
    cuda::CudaForward host(m.config, shapes, o);
    o.host_experts = nullptr;
    cuda::CudaForward gpu(m.config, shapes, o);
    Timeline a(host), b(gpu);
    const auto prompt = some_ids(m.config, 20);
    CHECK(relative_difference(a.sync(prompt), b.sync(prompt)) < 1e-4);
    CHECK(relative_difference(a.append(7), b.append(7)) < 1e-4);
    CHECK(host.host_expert_rate(1) > 0);
  }
}
