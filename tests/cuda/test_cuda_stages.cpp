// The CUDA pass against the CPU pass, stage by stage and as sequences, on the tiny checkpoints.
//
// Without a GPU every case says so and passes, unless FATHOM_TEST_CUDA is set: then it fails.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "cuda/forward.h"
#include "src/base/error.h"
#include "src/cpu/forward.h"
#include "src/model/checkpoint.h"
#include "tests/cuda/golden_model.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using test::gpu_present;
using fathom::test::kCheckpoints;
using fathom::test::Model;

namespace {

struct Passes {
  Passes(const Model& m, Numerics numerics, std::int32_t capacity, bool mtp = false)
      : cpu(m.config, m.weights, cpu_options(numerics, capacity, mtp), threads, exchange),
        gpu(m.config, m.weights, gpu_options(numerics, capacity, mtp)) {}
  static CpuForwardOptions cpu_options(Numerics numerics, std::int32_t capacity, bool mtp) {
    CpuForwardOptions o;
    o.numerics = numerics, o.capacity = capacity, o.timelines = 2, o.mtp = mtp;
    return o;
  }
  static cuda::ForwardOptions gpu_options(Numerics numerics, std::int32_t capacity, bool mtp) {
    cuda::ForwardOptions o;
    o.numerics = numerics, o.capacity = capacity, o.timelines = 2, o.mtp = mtp;
    return o;
  }
  Threads threads{2};
  Exchange exchange;
  CpuForward cpu;
  cuda::CudaForward gpu;
};

// Bounds on ||gpu - cpu|| / ||cpu|| with the same inputs and Numerics.
struct Bounds {
  double linear;   // FP32 sums of the same rounded inputs; a value at a rounding tie may fall to either side:
                   // about 1e-4 of the values for BF16 (2^-9 each), more and coarser for e4m3
  double product;  // the same where nothing is rounded on the way from the inputs fed to the product: codes
                   // of equal inputs are equal but for ties of normed values
  double attend;   // BF16 cache: q' and probabilities are BF16 on the GPU, 2^-9 each, averaged over columns
                   // and keys
  double ffn;      // prompt rows on tensor cores: expert_out is BF16, 2^-9
};
Bounds bounds(const Numerics& n, Role role) {
  const ActivationType a = role == Role::prompt ? n.prompt_activations : n.generated_activations;
  Bounds b;
  b.linear = a == ActivationType::f32 ? 1e-5 : a == ActivationType::bf16 ? 5e-4 : 1e-2;
  b.product = std::min(b.linear, 1e-3);
  b.attend = n.cache == CacheType::f32 ? std::max(b.linear, 2e-5) : std::max(b.linear, 6e-3);
  b.ffn = role == Role::prompt && a != ActivationType::f32 ? std::max(b.linear, 4e-3) : b.linear;
  return b;
}

struct Difference {
  double relative = 0;
  std::size_t worst = 0;
  float got = 0, want = 0;
};
Difference compare(std::span<const float> got, std::span<const float> want) {
  Difference d;
  double square = 0, norm = 0, most = -1;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    square += e * e;
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    if (!(std::abs(e) <= most)) most = std::abs(e), d.worst = i, d.got = got[i], d.want = want[i];
  }
  d.relative = got.size() == want.size() ? std::sqrt(square) / std::max(std::sqrt(norm), 1e-30) : 1e30;
  return d;
}

// Compares and prints the worst coordinate when the bound is exceeded; NaN exceeds every bound.
void check(const std::string& where, std::span<const float> got, std::span<const float> want, double bound) {
  const Difference d = compare(got, want);
  CHECK_MESSAGE(d.relative <= bound, where << ": relative error " << d.relative << " > " << bound
                                           << ", worst at " << d.worst << ": " << d.got << " instead of "
                                           << d.want);
}

std::vector<float> read(cuda::CudaForward& gpu, Work w, std::size_t n) {
  std::vector<float> v(n);
  gpu.read(w, std::span<float>(v));
  return v;
}

std::vector<Row> make_rows(const Config& c, int count, std::int32_t first, std::uint32_t timeline, Role role,
                           unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i)
    rows.push_back({static_cast<std::int32_t>(random() % static_cast<unsigned>(c.vocab_size - 10)) + 2,
                    first + i, timeline, role});
  return rows;
}

// The same random rows in both caches, as keys 0 .. count - 1 of a timeline.
void fill_caches(Passes& p, int layers, std::uint32_t timeline, std::int32_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<std::size_t>(p.cpu.config().kv_row()));
  for (int layer = 0; layer < layers; ++layer)
    for (std::int32_t position = 0; position < count; ++position) {
      for (float& v : row) v = normal(random);
      p.cpu.cache().store({RowKind::latent, layer}, {timeline, position}, row);
      p.gpu.write_cache(layer, timeline, position, row);
    }
}

// Walks the stage list: before each fused group the GPU gets what the CPU has, behind it both are compared.
void walk(Passes& p, Stack stack, const std::vector<Row>& rows, const std::string& name) {
  const Config& c = p.cpu.config();
  const Role role = rows.front().role;
  const Bounds bound = bounds(p.cpu.numerics(), role);
  Activations a;
  a.stack = stack;
  a.rows = rows;
  for (int i = 0; i < std::min(static_cast<int>(rows.size()), kLogitRows); ++i) a.wanted.push_back(i);
  if (stack == Stack::mtp) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    a.hidden_in.resize(rows.size() * static_cast<std::size_t>(c.hidden_size));
    for (float& v : a.hidden_in) v = normal(random);
  }
  p.gpu.set_rows(rows);
  if (stack == Stack::mtp) p.gpu.write(Work::delta, std::span<const float>(a.hidden_in));
  for (const Step& step : stage_list(c, stack)) {
    const std::string where = fmt::format("{} layer {} {}, {} rows from {}", name, step.layer,
                                          row_of(step.stage).name, rows.size(), rows.front().position);
    p.cpu.run(step, a);
    if (!p.gpu.run(stack, step, role)) continue;
    switch (step.stage) {
      case Stage::Embed:
      case Stage::MtpInput:
        check(where, read(p.gpu, Work::x, a.x.size()), a.x, 1e-6);
        break;
      case Stage::Attend: {
        check(where + " kv_row", read(p.gpu, Work::kv_row, a.kv_row.size()), a.kv_row, bound.linear);
        check(where + " q", read(p.gpu, Work::q, a.q.size()), a.q, bound.linear);
        check(where + " attn", read(p.gpu, Work::attn, a.attn.size()), a.attn, bound.attend);
        std::vector<float> ours(static_cast<std::size_t>(c.kv_row())), theirs(ours.size());
        for (const Row& r : rows) {
          p.gpu.read_cache(step.layer, r.timeline, r.position, ours);
          p.cpu.cache().read({RowKind::latent, step.layer}, r.timeline, r.position, theirs);
          check(where + " cache", ours, theirs, std::max(bound.linear, 1e-3));
          p.gpu.write_cache(step.layer, r.timeline, r.position, theirs);
        }
        p.gpu.write(Work::attn, std::span<const float>(a.attn));
        break;
      }
      case Stage::Route: {
        std::vector<std::int32_t> ids(a.expert_ids.size());
        p.gpu.read(Work::expert_ids, std::span<std::int32_t>(ids));
        CHECK_MESSAGE(ids == a.expert_ids, where << ": expert ids differ");
        check(where, read(p.gpu, Work::expert_weights, a.expert_weights.size()), a.expert_weights, 1e-5);
        p.gpu.write(Work::expert_ids, std::span<const std::int32_t>(a.expert_ids));
        p.gpu.write(Work::expert_weights, std::span<const float>(a.expert_weights));
        break;
      }
      case Stage::AttnReduce:
        check(where, read(p.gpu, Work::x, a.x.size()), a.x, bound.product);
        break;
      case Stage::FfnReduce:
        check(where, read(p.gpu, Work::x, a.x.size()), a.x, bound.ffn);
        break;
      case Stage::Logits:
        check(where, read(p.gpu, Work::logits, a.logits.size()), a.logits, 1e-5);
        break;
      default:
        FAIL("a stage became visible that this test does not know");
    }
    p.gpu.write(Work::x, std::span<const float>(a.x));
  }
}

std::string name_of(const Numerics& n) {
  return fmt::format("cache {}, prompt {}, generated {}", name(n.cache), name(n.prompt_activations),
                     name(n.generated_activations));
}

// Runs rows, all logits wanted.
std::vector<float> logits_of(Forward& f, const std::vector<Row>& rows) {
  std::vector<int> all;
  for (int i = 0; i < static_cast<int>(rows.size()); ++i) all.push_back(i);
  ForwardCall call;
  call.rows = rows;
  call.logit_rows = all;
  return f.forward(call).logits;
}

std::vector<float> last(const std::vector<float>& logits, const Config& c) {
  return {logits.end() - c.vocab_size, logits.end()};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr Numerics kMixed{CacheType::bf16, ActivationType::bf16, ActivationType::f32};

}  // namespace

TEST_CASE("cuda: every stage agrees with the CPU pass") {
  if (!gpu_present()) return;
  for (const char* checkpoint : kCheckpoints) {
    const Model m(checkpoint);
    std::vector<Numerics> all{{CacheType::f32, ActivationType::f32, ActivationType::f32},
                              {CacheType::bf16, ActivationType::bf16, ActivationType::f32},
                              {CacheType::bf16, ActivationType::bf16, ActivationType::bf16}};
    if (m.config.fp8) all.push_back({CacheType::bf16, ActivationType::fp8, ActivationType::fp8});
    for (const Numerics& numerics : all) {
      Passes p(m, numerics, 320);
      const std::string label = fmt::format("{} ({})", checkpoint, name_of(numerics));
      fill_caches(p, m.config.num_hidden_layers, 1, 140, 5);
      for (int rows = 1; rows <= kGeneratedRows; ++rows)
        for (std::int32_t first : {0, 31, 32, 63, 129}) {
          if (rows > 3 && first != 31 && rows != 8) continue;
          walk(p, Stack::main, make_rows(m.config, rows, first, 1, Role::generated, 3), label + " generated");
        }
      fill_caches(p, m.config.num_hidden_layers, 1, 140, 5);
      for (int rows : {1, 2, 7, 8, 9, 17, 64, 200})
        walk(p, Stack::main, make_rows(m.config, rows, 33, 1, Role::prompt, 4), label + " prompt");
    }
  }
}

TEST_CASE("cuda: a thousand prompt rows agree with the CPU pass") {
  if (!gpu_present()) return;
  for (const char* checkpoint : {"v3", "v2-lite"}) {
    const Model m(checkpoint);
    const ActivationType activations = m.config.fp8 ? ActivationType::fp8 : ActivationType::bf16;
    Passes p(m, {CacheType::bf16, activations, ActivationType::bf16}, 1088);
    fill_caches(p, m.config.num_hidden_layers, 0, 65, 5);
    walk(p, Stack::main, make_rows(m.config, 1000, 65, 0, Role::prompt, 4),
         fmt::format("{} ({})", checkpoint, name(activations)));
  }
}

TEST_CASE("cuda: attention over more keys than one tile a split agrees with the CPU pass") {
  if (!gpu_present()) return;
  for (const char* checkpoint : {"v2", "kimi"}) {
    const Model m(checkpoint);
    Passes p(m, kMixed, 8300);
    fill_caches(p, 1, 0, 8250, 6);
    Activations a;
    for (std::int32_t first : {4094, 4096, 8191, 8200}) {
      a.rows = make_rows(m.config, 2, first, 0, Role::generated, 7);
      p.gpu.set_rows(a.rows);
      for (const Step& step : stage_list(m.config, Stack::main)) {
        p.cpu.run(step, a);
        p.gpu.run(Stack::main, step, Role::generated);
        if (step.stage == Stage::Attend) break;
      }
      check(fmt::format("{} attn at {}", checkpoint, first), read(p.gpu, Work::attn, a.attn.size()), a.attn,
            1e-2);
    }
  }
}

TEST_CASE("cuda: the MTP stack agrees with the CPU pass") {
  if (!gpu_present()) return;
  for (const char* checkpoint : {"v3"}) {
    const Model m(checkpoint, true);
    REQUIRE(m.weights.mtp.size() == 1);
    Passes p(m, kMixed, 256, true);
    fill_caches(p, m.config.num_hidden_layers + 1, 0, 80, 8);
    for (int rows : {1, 3})
      walk(p, Stack::mtp, make_rows(m.config, rows, 64, 0, Role::generated, 9),
           std::string(checkpoint) + " mtp");
    walk(p, Stack::mtp, make_rows(m.config, 40, 20, 0, Role::prompt, 9),
         std::string(checkpoint) + " mtp prompt");
  }
}

// Rows [begin, end) of the CPU's cache, all layers, as the GPU's.
void copy_cache(Passes& p, std::int32_t begin, std::int32_t end) {
  std::vector<float> row(static_cast<std::size_t>(p.cpu.config().kv_row()));
  for (int layer = 0; layer < p.cpu.config().num_hidden_layers; ++layer)
    for (std::int32_t position = begin; position < end; ++position) {
      p.cpu.cache().read({RowKind::latent, layer}, 0, position, row);
      p.gpu.write_cache(layer, 0, position, row);
    }
}

// Feeds both passes a prompt and the CPU's own greedy tokens; the worst relative difference of logits. With
// `shared_cache` the GPU reads the CPU's cache, except for the row of the step itself.
double greedy_difference(const Model& m, const std::string& where, Numerics numerics, bool shared_cache) {
  Passes p(m, numerics, 256);
  const auto prompt = make_rows(m.config, 70, 0, 0, Role::prompt, 21);
  std::vector<float> cpu = last(logits_of(p.cpu, prompt), m.config),
                     gpu = last(logits_of(p.gpu, prompt), m.config);
  double worst = 0;
  for (std::int32_t position = 70; position < 110; ++position) {
    const bool compared =
        !shared_cache || position > 70;  // the prompt's own logits came from the GPU's cache
    if (compared) worst = std::max(worst, compare(gpu, cpu).relative);
    const auto token = static_cast<std::int32_t>(std::max_element(cpu.begin(), cpu.end()) - cpu.begin());
    const float top = cpu[static_cast<std::size_t>(token)];
    const auto theirs = static_cast<std::size_t>(std::max_element(gpu.begin(), gpu.end()) - gpu.begin());
    // A different choice is allowed only where the CPU's own two logits are nearly tied.
    CHECK_MESSAGE(top - cpu[theirs] <= 2e-2f * std::abs(top),
                  where << " position " << position << ": token " << theirs << " instead of " << token);
    if (shared_cache) copy_cache(p, position == 70 ? 0 : position - 1, position);
    const std::vector<Row> row{{token, position, 0, Role::generated}};
    cpu = logits_of(p.cpu, row), gpu = logits_of(p.gpu, row);
  }
  return worst;
}

TEST_CASE("cuda: greedy tokens are those of the CPU pass") {
  if (!gpu_present()) return;
  constexpr Numerics kFull{CacheType::f32, ActivationType::f32, ActivationType::f32};
  constexpr Numerics kBf16Cache{CacheType::bf16, ActivationType::f32, ActivationType::f32};
  for (const char* checkpoint : kCheckpoints) {
    const Model m(checkpoint);
    const double full = greedy_difference(m, checkpoint, kFull, false);
    const double shared = greedy_difference(m, checkpoint, kBf16Cache, true);
    const double own = greedy_difference(m, checkpoint, kBf16Cache, false);
    const double mixed = greedy_difference(m, checkpoint, kMixed, false);
    MESSAGE(checkpoint << ": worst relative difference of logits: all f32 " << full
                       << ", BF16 cache, the CPU's " << shared << ", its own " << own
                       << ", BF16 prompt activations too " << mixed);
    CHECK(full < 1e-4);
    CHECK(mixed < 2e-2);
  }
}

TEST_CASE(
    "cuda: a row's bits depend neither on its neighbours nor on chunks, graphs, runs or what was undone") {
  if (!gpu_present()) return;
  for (const char* checkpoint : kCheckpoints) {
    const Model m(checkpoint);
    const Config& c = m.config;
    for (const Numerics& numerics :
         {kMixed, Numerics{CacheType::bf16, ActivationType::f32, ActivationType::bf16},
          Numerics{CacheType::f32, ActivationType::bf16, ActivationType::f32}}) {
      const auto make = [&](bool graph) {
        cuda::ForwardOptions o = Passes::gpu_options(numerics, 1200, false);
        o.graph = graph;
        return std::make_unique<cuda::CudaForward>(c, m.weights, o);
      };
      const std::string label = fmt::format("{} ({})", checkpoint, name_of(numerics));
      const auto prompt = make_rows(c, 700, 0, 0, Role::prompt, 31);
      const auto drafted = make_rows(c, 8, 700, 0, Role::generated, 32);
      const auto a = make(true), b = make(false);
      const std::vector<float> whole = last(logits_of(*a, prompt), c);
      // The same prompt in uneven pieces, in a pass without graphs.
      std::vector<float> pieces;
      for (std::size_t begin = 0; begin < prompt.size();) {
        const std::size_t end = std::min(prompt.size(), begin + (begin < 10 ? 3 : 129));
        pieces = logits_of(*b, {prompt.begin() + static_cast<std::ptrdiff_t>(begin),
                                prompt.begin() + static_cast<std::ptrdiff_t>(end)});
        begin = end;
      }
      CHECK_MESSAGE(same_bits(whole, last(pieces, c)), label << ": chunks change a prompt's bits");
      // Eight rows at once, one by one, and in threes.
      const std::vector<float> eight = logits_of(*a, drafted);
      std::vector<float> single;
      for (const Row& r : drafted) {
        const auto one = logits_of(*b, {r});
        single.insert(single.end(), one.begin(), one.end());
      }
      CHECK_MESSAGE(same_bits(eight, single), label << ": rows change each other's bits");
      std::vector<float> threes;
      for (std::size_t i = 0; i < 8; i += 3) {
        const auto some =
            logits_of(*a, {drafted.begin() + static_cast<std::ptrdiff_t>(i),
                           drafted.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(8, i + 3))});
        threes.insert(threes.end(), some.begin(), some.end());
      }
      CHECK_MESSAGE(same_bits(eight, threes), label << ": truncating and redoing rows changes bits");
      // Another timeline's rows beside them, and the same again.
      auto mixed = drafted;
      mixed.resize(4);
      (void)logits_of(*a, make_rows(c, 40, 0, 1, Role::prompt, 33));
      for (const Row& r : make_rows(c, 4, 40, 1, Role::generated, 34)) mixed.push_back(r);
      auto both = logits_of(*a, mixed);
      both.resize(static_cast<std::size_t>(4 * c.vocab_size));
      CHECK_MESSAGE(same_bits(both, {eight.begin(), eight.begin() + 4 * c.vocab_size}),
                    label << ": another timeline changes a row's bits");
      CHECK_MESSAGE(same_bits(last(logits_of(*a, prompt), c), whole), label << ": two runs differ");
    }
  }
}

TEST_CASE("cuda: a context that cannot fit is refused with the numbers") {
  if (!gpu_present()) return;
  const Model m("v3");
  cuda::ForwardOptions o = Passes::gpu_options({}, 2'000'000'000, false);
  try {
    const cuda::CudaForward f(m.config, m.weights, o);
    FAIL("a cache of terabytes was accepted");
  } catch (const Error& e) {
    CHECK(e.code() == Exit::out_of_memory);
    CHECK(std::string(e.what()).find("available") != std::string::npos);
    CHECK(e.remedy().find("--ctx") != std::string::npos);
  }
}
