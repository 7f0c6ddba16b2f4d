// Prompt rows on Hopper, stage by stage: the CPU pass is fed the GPU's own operands (codes and scales), so
// that what is compared is arithmetic and not on which side of a tie a value fell; and end to end.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/base/tensor.h"
#include "src/cpu/linear.h"
#include "tests/cuda/gpu.h"
#include "tests/cuda/small_model.h"

using namespace fathom;
using test::Both;
using test::prompt_rows;

namespace {

// ||got - want|| / ||want||.
// kFed: FP32 sums of the same operands; tensor cores keep about 14 bits of a block of 128 e4m3 products, F16
// keeps 11 of q, keys, values and probabilities. expert_out counts as the FP32 value that was rounded to
// BF16.
constexpr double kFed = 1e-3;
// kFlipped: each side rounds its own values. What differs by 1e-7 before it is rounded falls to another side
// of a tie in few cases; what differs by kFed does so in some per cent, by 2^-4 at most: 4e-2 times the root
// of their share.
constexpr double kFlipped = 1e-2;

double difference(std::span<const float> got, std::span<const float> want) {
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    square += e * e, norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  const double d = got.size() == want.size() ? std::sqrt(square / norm) : 1e30;
  return d == d ? d : 1e30;
}

std::size_t area(int rows, int cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}
int padded(int cols) { return (cols + 15) / 16 * 16; }
int blocks(int cols) { return (cols + 127) / 128; }

// One setting's passes and what its checks share.
class Parity {
 public:
  Parity(const test::SmallModel& model, std::int32_t capacity)
      : fp8_(model.fp8),
        both({CacheType::bf16, model.fp8 ? ActivationType::fp8 : ActivationType::bf16, ActivationType::f32},
             model, capacity),
        name_(fmt::format("{}{}{}", model.fp8 ? "fp8" : "bf16", model.ue8m0 ? " ue8m0" : "",
                          model.q_lora_rank > 0 ? " q_lora" : "")) {}

  // All stages of attention in `layer`: `count` rows behind `cached` ones that are in both caches.
  void attention(int layer, std::int32_t cached, int count);
  // The stages behind it.
  void feed_forward(int layer, int count);

 private:
  const bool fp8_;

 public:
  Both both;

 private:
  void check(const std::string& what, std::span<const float> got, std::span<const float> want, double bound) {
    const double d = difference(got, want);
    CHECK_MESSAGE(d <= bound, name_ << ", " << what << where_ << ": relative error " << d << " > " << bound);
  }
  void begin(int layer, std::int32_t first, int count) {
    where_ = fmt::format(" of layer {}, {} rows from {}", layer, count, first);
    a_.rows = prompt_rows(count, first, 1);
    a_.x.resize(area(count, both.config.hidden_size));
    for (float& v : a_.x) v = normal_(random_);
    both.gpu_pass.set_rows(a_.rows);
    both.gpu_pass.write(Work::x, std::span<const float>(a_.x));
  }
  void cpu(Stage stage, int layer) { both.cpu_pass.run({stage, layer}, a_); }
  void gpu(Stage stage, int layer) { CHECK(both.gpu_pass.run(Stack::main, {stage, layer}, Role::prompt)); }
  std::vector<float> read(Work w, std::size_t n) {
    std::vector<float> v(n);
    both.gpu_pass.read(w, std::span<float>(v));
    return v;
  }
  // What the GPU added to x.
  std::vector<float> added() {
    std::vector<float> x = read(Work::x, a_.x.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] -= a_.x[i];
    return x;
  }
  std::vector<float> operand(int rows, int cols, bool second, int slots = 1);
  std::vector<float> rounded(std::vector<float> x, int cols) const;
  std::vector<float> product(const Linear& w, std::span<const float> x) const;
  std::vector<float> swiglu(const Mlp& m, std::span<const float> x) const;
  void routed(int layer, const std::vector<float>& shared);

  std::string name_, where_;
  Activations a_;
  std::mt19937 random_{12};
  std::normal_distribution<float> normal_;
};

// The operand that the last product of a place read, decoded. `slots`: rows of the place per row of the
// chunk.
std::vector<float> Parity::operand(int rows, int cols, bool second, int slots) {
  const auto chunk = static_cast<std::size_t>(both.gpu_pass.placement().prompt_rows);
  const auto hidden = static_cast<std::size_t>(both.config.hidden_size);
  const std::size_t pitch = static_cast<std::size_t>(padded(cols)) * (fp8_ ? 1 : 2);
  const std::size_t first = second ? chunk * hidden * 2 : 0,
                    bytes = first + static_cast<std::size_t>(rows) * pitch;
  std::vector<std::int32_t> words(bytes / 4 + 1);
  both.gpu_pass.read(Work::input, std::span<std::int32_t>(words));
  const auto* codes = reinterpret_cast<const std::uint8_t*>(words.data()) + first;
  const std::size_t stride = chunk * static_cast<std::size_t>(slots),
                    first_scale =
                        second ? chunk * static_cast<std::size_t>(blocks(both.config.hidden_size)) : 0;
  std::vector<float> scale;
  if (fp8_) scale = read(Work::input_scale, first_scale + stride * static_cast<std::size_t>(blocks(cols)));
  std::vector<float> values;
  bool powers = true;
  for (std::size_t t = 0; t < static_cast<std::size_t>(rows); ++t)
    for (std::size_t c = 0; c < static_cast<std::size_t>(cols); ++c) {
      if (fp8_) {
        const float s = scale[first_scale + c / 128 * stride + t];
        int exponent = 0;
        if (both.config.ue8m0_activations) powers = powers && std::frexp(s, &exponent) == 0.5f;
        values.push_back(e4m3_to_float(codes[t * pitch + c]) * s);
      } else {
        std::uint16_t half;
        std::memcpy(&half, codes + t * pitch + c * 2, 2);
        values.push_back(bf16_to_float(half));
      }
    }
  CHECK_MESSAGE(powers, name_ << ": a scale" << where_ << " is no power of two");
  return values;
}

// Of the values that round to the BF16 value `rounded` the one nearest to `exact`.
float before_rounding(float rounded, float exact) {
  int exponent = 0;
  std::frexp(rounded, &exponent);
  const float half = std::ldexp(1.0f, exponent - 9);  // of the last place of eight bits
  return std::clamp(exact, rounded - half, rounded + half);
}

// As the CPU pass rounds a linear's input.
std::vector<float> Parity::rounded(std::vector<float> x, int cols) const {
  for (std::size_t row = 0; row < x.size(); row += static_cast<std::size_t>(cols))
    for (int c = 0; c < cols; c += 128) {
      const std::span<float> block = std::span(x).subspan(row + static_cast<std::size_t>(c),
                                                          static_cast<std::size_t>(std::min(128, cols - c)));
      if (fp8_) {
        const float s = cpu::quantise_block(block, both.config.ue8m0_activations);
        for (float& v : block) v *= s;
      } else {
        for (float& v : block) v = bf16_to_float(float_to_bf16(v));
      }
    }
  return x;
}

// W x in float64, of the operand as it is.
std::vector<float> Parity::product(const Linear& w, std::span<const float> x) const {
  std::vector<double> weights;
  for (std::int64_t r = 0; r < w.rows; ++r)
    for (std::int64_t c = 0; c < w.cols; ++c) weights.push_back(static_cast<double>(w.at(r, c)));
  const auto cols = static_cast<std::size_t>(w.cols);
  std::vector<float> y;
  for (std::size_t t = 0; t < x.size(); t += cols)
    for (std::size_t r = 0; r < weights.size(); r += cols) {
      double sum = 0;
      for (std::size_t c = 0; c < cols; ++c) sum += weights[r + c] * static_cast<double>(x[t + c]);
      y.push_back(static_cast<float>(sum));
    }
  return y;
}

std::vector<float> Parity::swiglu(const Mlp& m, std::span<const float> x) const {
  std::vector<float> gate = product(m.gate, x);
  const std::vector<float> up = product(m.up, x);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  return gate;
}

void Parity::attention(int layer, std::int32_t cached, int count) {
  const Config& c = both.config;
  begin(layer, cached, count);
  cpu(Stage::AttnNorm, layer);
  gpu(Stage::Attend, layer);
  const std::vector<float> normed = operand(count, c.hidden_size, false);
  check("AttnNorm, rounded,", normed, rounded(a_.normed, c.hidden_size), kFed);
  a_.normed = normed;
  cpu(Stage::Latents, layer);
  if (c.q_lora_rank > 0) {
    const std::vector<float> latent = operand(count, c.q_lora_rank, true);
    check("q_latent, rounded,", latent, rounded(a_.q_latent, c.q_lora_rank), kFlipped);
    a_.q_latent = latent;
  }
  check("Latents", read(Work::kv_row, a_.kv_row.size()), a_.kv_row, kFed);
  cpu(Stage::Query, layer);
  const std::vector<float> q = read(Work::q, a_.q.size());
  check("Query", q, a_.q, kFed);
  a_.q = q;
  std::vector<float> row(static_cast<std::size_t>(c.kv_row())), theirs(row.size());
  std::vector<float> rows, wanted;
  for (const Row& r : a_.rows) {  // as stored: BF16
    both.gpu_pass.read_cache(layer, r.timeline, r.position, row);
    both.cpu_pass.cache().read({RowKind::latent, layer}, r.timeline, r.position, theirs);
    rows.insert(rows.end(), row.begin(), row.end()),
        wanted.insert(wanted.end(), theirs.begin(), theirs.end());
    both.cpu_pass.cache().store({RowKind::latent, layer}, {r.timeline, r.position}, row);
  }
  check("the cache", rows, wanted, kFed);
  cpu(Stage::Attend, layer);
  check("Attend", read(Work::attn, a_.attn.size()), a_.attn, kFed);
  both.gpu_pass.write(Work::attn, std::span<const float>(a_.attn));
  gpu(Stage::AttnReduce, layer);
  cpu(Stage::AttnOut, layer);
  check("AttnOut", added(), a_.delta, kFed);
}

void Parity::feed_forward(int layer, int count) {
  const Config& c = both.config;
  const LayerWeights& w = both.layer(layer);
  begin(layer, 0, count);
  cpu(Stage::FfnNorm, layer);
  const std::vector<float> exact = a_.normed;
  if (w.dense) {
    gpu(Stage::FfnReduce, layer);
    a_.normed = operand(count, c.hidden_size, false);
    check("FfnNorm, rounded,", a_.normed, rounded(exact, c.hidden_size), kFed);
    const std::vector<float> hidden = operand(count, c.intermediate_size, true);
    check("gate and up, rounded,", hidden, rounded(swiglu(*w.dense, a_.normed), c.intermediate_size),
          kFlipped);
    check("Dense, fed its codes,", added(), product(w.dense->down, hidden), kFed);
    a_.normed = exact;
    cpu(Stage::Dense, layer);
    check("Dense", added(), a_.delta, kFlipped);
    return;
  }
  cpu(Stage::Route, layer);
  both.gpu_pass.write(Work::expert_ids, std::span<const std::int32_t>(a_.expert_ids));
  both.gpu_pass.write(Work::expert_weights, std::span<const float>(a_.expert_weights));
  gpu(Stage::FfnReduce, layer);
  // The shared expert's codes are gone, overwritten by the routed ones'; its kernels are those of Dense.
  cpu(Stage::Shared, layer);
  const std::vector<float> shared = read(Work::delta, a_.x.size());
  check("Shared", shared, a_.shared, kFlipped);
  routed(layer, shared);
  cpu(Stage::Routed, layer);
  cpu(Stage::Combine, layer);
  check("Routed to Combine", added(), a_.delta, kFlipped);
}

void Parity::routed(int layer, const std::vector<float>& shared) {
  const Config& c = both.config;
  const int slots = c.router.num_experts_per_tok, pairs = static_cast<int>(a_.expert_ids.size());
  const auto hidden = static_cast<std::size_t>(c.hidden_size),
             inner = static_cast<std::size_t>(c.moe_intermediate_size);
  const std::vector<float> normed = operand(static_cast<int>(a_.rows.size()), c.hidden_size, false);
  const std::vector<float> codes = operand(pairs, c.moe_intermediate_size, true, slots);
  std::vector<std::int32_t> sorted(static_cast<std::size_t>(pairs)),
      halves(static_cast<std::size_t>(pairs) * hidden / 2);
  both.gpu_pass.read(Work::tiles, std::span<std::int32_t>(sorted));
  both.gpu_pass.read(Work::expert_out, std::span<std::int32_t>(halves));
  std::vector<float> out;
  for (std::int32_t two : halves)
    for (int i : {0, 16})
      out.push_back(bf16_to_float(static_cast<std::uint16_t>(static_cast<std::uint32_t>(two) >> i)));
  std::vector<float> want_hidden, want_out, got_out;
  CHECK(std::set<std::int32_t>(sorted.begin(), sorted.end()).size() == sorted.size());
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const auto pair = static_cast<std::size_t>(sorted[i]);
    const auto row = pair / static_cast<std::size_t>(slots);
    const Expert& e = both.layer(layer).experts.experts[static_cast<std::size_t>(a_.expert_ids[pair])];
    const auto h = swiglu({e.gate, e.up, e.down}, std::span(normed).subspan(row * hidden, hidden));
    want_hidden.insert(want_hidden.end(), h.begin(), h.end());
    const std::vector<float> sums = product(e.down, std::span(codes).subspan(i * inner, inner));
    want_out.insert(want_out.end(), sums.begin(), sums.end());
    for (std::size_t k = 0; k < hidden; ++k)
      got_out.push_back(before_rounding(out[pair * hidden + k], sums[k]));
  }
  check("the experts' gate and up, rounded,", codes, rounded(want_hidden, c.moe_intermediate_size), kFlipped);
  check("Routed, fed its codes,", got_out, want_out, kFed);
  std::vector<float> sum = shared;
  for (std::size_t pair = 0; pair < static_cast<std::size_t>(pairs); ++pair)
    for (std::size_t i = 0; i < hidden; ++i)
      sum[pair / static_cast<std::size_t>(slots) * hidden + i] +=
          a_.expert_weights[pair] * out[pair * hidden + i];
  check("Combine", added(), sum, 1e-5);
}

constexpr int kRows[] = {1, 2, 7, 8, 9, 17, 64, 200, 1000};
constexpr test::SmallModel kModels[] = {
    {}, {.ue8m0 = true, .q_lora_rank = 192}, {.fp8 = false, .q_lora_rank = 192}};

}  // namespace

TEST_CASE("cuda: every prompt stage agrees with the CPU pass fed the GPU's operands") {
  if (!test::hopper_present()) return;
  for (const test::SmallModel& model : kModels) {
    Parity parity(model, 2048);
    REQUIRE(parity.both.gpu_pass.placement().expanded_heads > 0);
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<std::size_t>(parity.both.config.kv_row()));
    for (std::int32_t position = 0; position < 1000; ++position) {
      for (float& v : row) v = normal(random);
      parity.both.cpu_pass.cache().store({RowKind::latent, 0}, {1, position}, row);
      parity.both.gpu_pass.write_cache(0, 1, position, row);
    }
    for (std::int32_t cached : {1000, 65, 64, 63, 1, 0})  // rows behind the cached ones are overwritten
      for (int rows : kRows) parity.attention(0, cached, rows);
    for (int layer : {0, 1})
      for (int rows : kRows) parity.feed_forward(layer, rows);
  }
}

TEST_CASE("cuda: a whole step of prompt rows has the bits of its stages") {
  if (!test::hopper_present()) return;
  for (const test::SmallModel& model : kModels) {
    Both both({CacheType::bf16, model.fp8 ? ActivationType::fp8 : ActivationType::bf16, ActivationType::f32},
              model, 2048);
    for (std::int32_t first : {0, 65})  // the first case fills the context of the second
      for (int count : {1000, 200, 129, 64, 9, 1}) {
        const std::vector<Row> rows = prompt_rows(count, first, 0);
        std::vector<int> wanted;
        for (int i = 0; i < std::min(count, kLogitRows); ++i) wanted.push_back(i);
        ForwardCall call;
        call.rows = rows;
        call.logit_rows = wanted;
        const std::vector<float> whole = both.gpu_pass.forward(call).logits;
        both.gpu_pass.set_rows(rows);
        for (const Step& step : stage_list(both.config, Stack::main))
          (void)both.gpu_pass.run(Stack::main, step, Role::prompt);
        std::vector<float> steps(whole.size());
        both.gpu_pass.read(Work::logits, std::span<float>(steps));
        CHECK_MESSAGE(std::memcmp(whole.data(), steps.data(), whole.size() * 4) == 0,
                      count << " rows from " << first);
      }
  }
}
