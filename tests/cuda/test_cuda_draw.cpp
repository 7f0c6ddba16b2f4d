// Tokens drawn on the device against src/engine/sampler.cpp, rows of the cache taken out and put back, and
// the first bad stage.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "cuda/forward.h"
#include "src/base/error.h"
#include "src/engine/generate.h"
#include "src/model/checkpoint.h"
#include "tests/cuda/golden_model.h"
#include "tests/cuda/gpu.h"

using namespace fathom;
using fathom::test::gpu_present;
using fathom::test::Model;

namespace {

cuda::ForwardOptions options(CacheType cache = CacheType::bf16) {
  cuda::ForwardOptions o;
  o.numerics = {cache, ActivationType::f32, ActivationType::f32};
  o.capacity = 300;
  return o;
}

// The kernels alone, on any logits.
class Sampler {
 public:
  explicit Sampler(std::size_t vocab)
      : memory_(vocab * 4 + kSamplingBytes + 1024),
        logits_(reinterpret_cast<float*>(memory_.take(vocab * 4))),
        scratch_(memory_.take(kSamplingBytes)),
        stream_(cuda::make_stream()) {}
  cuda::SampleResult draw(std::span<const float> logits, std::int32_t valid, const SamplingParams& s,
                          std::int64_t position, std::optional<int> logprobs) {
    // On the stream of the kernels, which does not wait for the default one.
    FATHOM_CUDA(
        cudaMemcpyAsync(logits_, logits.data(), logits.size_bytes(), cudaMemcpyHostToDevice, stream_.get()));
    FATHOM_CUDA(cudaMemsetAsync(scratch_, 0xff, kSamplingBytes, stream_.get()));
    cuda::SampleParams p;
    p.logits = logits_;
    p.valid = valid;
    p.greedy = s.temperature == 0.0f || s.top_k == 1;
    p.temperature = p.greedy ? 1.0 : static_cast<double>(s.temperature);
    p.top_p = static_cast<double>(s.top_p), p.min_p = static_cast<double>(s.min_p), p.top_k = s.top_k;
    p.uniform = static_cast<double>(uniform(s.seed, static_cast<std::uint64_t>(position), 0));
    p.log_probability = logprobs.has_value(), p.top = logprobs.value_or(0);
    p.scratch = reinterpret_cast<cuda::SampleScratch*>(scratch_);
    p.result = reinterpret_cast<cuda::SampleResult*>(scratch_ + sizeof(cuda::SampleScratch));
    cuda::sample_token({stream_.get(), 1, false}, p);
    cuda::SampleResult r;
    FATHOM_CUDA(cudaStreamSynchronize(stream_.get()));
    FATHOM_CUDA(cudaMemcpy(&r, p.result, sizeof r, cudaMemcpyDeviceToHost));
    return r;
  }

 private:
  cuda::Arena memory_;
  float* logits_;
  std::byte* scratch_;
  cuda::Stream stream_;
};

std::vector<SamplingParams> some_params() {
  std::vector<SamplingParams> all;
  const auto add = [&](float temperature, int top_k, float top_p, float min_p) {
    SamplingParams p;
    p.temperature = temperature, p.top_k = top_k, p.top_p = top_p, p.min_p = min_p;
    all.push_back(p);
  };
  add(0.0f, 0, 1.0f, 0.0f);
  add(0.6f, 0, 0.95f, 0.0f);
  add(1.0f, 0, 1.0f, 0.0f);
  add(1.3f, 40, 1.0f, 0.0f);
  add(0.7f, 20, 0.8f, 0.0f);
  add(1.0f, 0, 1.0f, 0.05f);
  add(0.3f, 1000, 0.9f, 0.01f);
  add(5.0f, 0, 0.99f, 0.0f);
  add(0.01f, 0, 1.0f, 0.0f);
  add(1.0f, 1, 1.0f, 0.0f);
  return all;
}

}  // namespace

TEST_CASE("cuda: tokens drawn on the device are those of the CPU sampler") {
  if (!gpu_present()) return;
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  int undecided = 0, compared = 0;
  for (int vocab : {1, 5, 300, 2048, 2049, 129280}) {
    Sampler device(static_cast<std::size_t>(vocab));
    for (int shape = 0; shape < 5; ++shape) {
      std::vector<float> logits(static_cast<std::size_t>(vocab));
      // 0: peaked, as a trained model's; 1: flat; 2: ties everywhere; 3: some impossible; 4: equal, both
      // zeros
      for (float& l : logits) {
        const float v = normal(random);
        l = shape == 0   ? v * v * v
            : shape == 1 ? 0.1f * v
            : shape == 2 ? std::round(v * 2) / 2
            : shape == 3 ? (v > 0 ? 4 * v : -std::numeric_limits<float>::infinity())
                         : (v > 0 ? 0.0f : -0.0f);
      }
      if (shape == 3) logits[0] = 1.0f;  // at least one is possible
      const std::int32_t valid = vocab > 100 ? vocab - 7 : vocab;
      for (SamplingParams params : some_params())
        for (std::int64_t position : {3, 4, 1000}) {
          params.seed = 99 + static_cast<std::uint64_t>(shape);
          const bool with = position == 4;
          const int top = std::min(8, valid);
          const cuda::SampleResult r =
              device.draw(logits, valid, params, position, with ? std::optional<int>(top) : std::nullopt);
          if (r.status == cuda::SampleStatus::undecided) {
            ++undecided;
            // Left to the host: more ids than candidates, or more alternatives asked for than there are
            // possible ids.
            const auto possible = std::count_if(logits.begin(), logits.begin() + valid, [](float l) {
              return l > -std::numeric_limits<float>::infinity();
            });
            CHECK_MESSAGE((valid > cuda::kSampleCandidates || (with && top > possible)),
                          "undecided among " << valid);
            continue;
          }
          REQUIRE(r.status == cuda::SampleStatus::drawn);
          ++compared;
          const std::int32_t want = sample(logits, valid, {}, params, position);
          CHECK_MESSAGE(r.id == want, "vocabulary " << vocab << " shape " << shape << " temperature "
                                                    << params.temperature << " top_k " << params.top_k
                                                    << " top_p " << params.top_p << ": " << r.id
                                                    << " instead of " << want);
          if (!with) continue;
          const double norm = static_cast<double>(r.best) + std::log(r.plain_sum);
          CHECK(std::abs(static_cast<double>(r.logit) - norm - log_probability(logits, valid, want)) < 1e-9);
          const auto expected = top_logprobs(logits, valid, top);
          for (std::size_t i = 0; i < expected.size(); ++i) {
            CHECK(r.top_id[i] == expected[i].id);
            const double got = static_cast<double>(r.top_logit[i]) - norm;
            CHECK((got == expected[i].logprob || std::abs(got - expected[i].logprob) < 1e-9));
          }
        }
    }
  }
  MESSAGE("compared " << compared << ", undecided " << undecided);
  CHECK(compared > 700);
}

TEST_CASE("cuda: a peaked distribution over a large vocabulary is always decided on the device") {
  if (!gpu_present()) return;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  Sampler device(129280);
  std::vector<float> logits(129280);
  for (float& l : logits) l = 2.5f * normal(random);
  for (int i = 0; i < 30; ++i) logits[random() % logits.size()] = 12.0f + normal(random);
  for (int i = 0; i < 200; ++i) {
    SamplingParams p;
    p.temperature = 0.6f, p.top_p = 0.95f, p.seed = static_cast<std::uint64_t>(i);
    const cuda::SampleResult r = device.draw(logits, 129280, p, i, std::nullopt);
    REQUIRE(r.status == cuda::SampleStatus::drawn);
    REQUIRE(r.id == sample(logits, 129280, {}, p, i));
  }
}

TEST_CASE("cuda: nothing is drawn from NaN, +inf or all -inf") {
  if (!gpu_present()) return;
  Sampler device(5000);
  const float inf = std::numeric_limits<float>::infinity();
  for (float bad : {std::nanf(""), inf})
    for (std::size_t at : {std::size_t{0}, std::size_t{4321}}) {
      std::vector<float> logits(5000, 1.0f);
      logits[at] = bad;
      for (const SamplingParams& p : some_params())
        CHECK(device.draw(logits, 5000, p, 1, std::nullopt).status == cuda::SampleStatus::bad_logits);
      // Behind the valid ids it does not matter.
      if (at > 4000)
        CHECK(device.draw(logits, 4000, some_params()[0], 1, std::nullopt).status ==
              cuda::SampleStatus::drawn);
    }
  const std::vector<float> none(5000, -inf);
  CHECK(device.draw(none, 5000, some_params()[1], 1, std::nullopt).status == cuda::SampleStatus::bad_logits);
}

TEST_CASE("cuda: generate draws the same tokens as sampling from copied logits") {
  if (!gpu_present()) return;
  for (const char* name : {"v3", "v2-lite"}) {
    const Model m(name);
    cuda::CudaForward f(m.config, m.weights, options());
    std::vector<std::int32_t> prompt;
    for (int i = 0; i < 50; ++i) prompt.push_back((i * 7919 + 13) % m.config.vocab_size);
    for (const SamplingParams& sampling : some_params()) {
      GenerationRequest request;
      request.prompt.ids = prompt;
      request.sampling = sampling;
      request.max_tokens = 30;
      request.ignore_eos = true;
      request.logprobs = 3;
      TextModel model;
      model.valid_ids = m.config.vocab_size;
      Timeline t(f);
      const GenerationResult got = generate(t, model, request, {});
      // The oracle: logits copied for every token.
      Timeline u(f);
      std::vector<std::int32_t> history = prompt;
      std::vector<float> logits = u.sync(prompt);
      for (std::size_t i = 0; i < got.ids.size(); ++i) {
        const std::int32_t id =
            sample(logits, model.valid_ids, history, sampling, static_cast<std::int64_t>(history.size()) - 1);
        REQUIRE(got.ids[i] == id);
        CHECK(std::abs(got.logprobs[i].logprob - log_probability(logits, model.valid_ids, id)) < 1e-9);
        CHECK(got.logprobs[i].top.front().id == top_logprobs(logits, model.valid_ids, 1).front().id);
        history.push_back(id);
        logits = u.append(id);
      }
      CHECK(got.ids.size() == 30);
    }
  }
}

TEST_CASE("cuda: a NaN stops the generation and names position and stage") {
  if (!gpu_present()) return;
  const Model m("v3");
  for (const auto& [stage, damage] :
       {std::pair<std::string, std::function<void(LayerWeights&)>>(
            "Latents", [](LayerWeights& l) { l.kv_a_layernorm[3] = std::nanf(""); }),
        {"FfnReduce", [](LayerWeights& l) { l.post_attention_layernorm[5] = std::nanf(""); }}}) {
    Weights broken = m.weights;
    damage(broken.layers.front());  // dense: a NaN in its FFN's input reaches x
    cuda::CudaForward f(m.config, broken, options());
    Timeline t(f);
    GenerationRequest request;
    request.prompt.ids = {1, 2, 3, 4};
    request.max_tokens = 3;
    TextModel model;
    model.valid_ids = m.config.vocab_size;
    try {
      (void)generate(t, model, request, {});
      FAIL("sampled from NaN");
    } catch (const Error& e) {
      CHECK(e.code() == Exit::compute);
      CHECK(std::string(e.what()).find("position 3") != std::string::npos);
      CHECK_MESSAGE(std::string(e.what()).find("layer 0, " + stage) != std::string::npos, e.what());
    }
  }
  cuda::CudaForward good(m.config, m.weights, options());
  Timeline t(good);
  (void)t.sync(std::vector<std::int32_t>{1, 2, 3});
  CHECK(t.first_bad_stage().empty());
}

TEST_CASE("cuda: cached rows that are taken out and put back give the same bits") {
  if (!gpu_present()) return;
  for (const char* name : {"v3", "v2-lite", "kimi"})
    for (CacheType cache : {CacheType::bf16, CacheType::f32}) {
      const Model m(name);
      cuda::CudaForward a(m.config, m.weights, options(cache)), b(m.config, m.weights, options(cache));
      std::vector<std::int32_t> ids;
      for (int i = 0; i < 77; ++i) ids.push_back((i * 31 + 5) % m.config.vocab_size);
      Timeline x(a), y(b);
      (void)x.sync(ids);
      const std::vector<std::byte> rows = x.save();
      REQUIRE(rows.size() == a.position_bytes() * ids.size());
      REQUIRE(y.restore(ids, rows));
      CHECK(y.save() == rows);
      const std::vector<float> one = x.append(9), two = y.append(9);
      CHECK(std::memcmp(one.data(), two.data(), one.size() * sizeof(float)) == 0);
      // As the CPU has them: its cache holds the same values.
      std::vector<float> row(static_cast<std::size_t>(m.config.kv_row()));
      a.read_cache(1, 0, 40, row);
      const std::size_t width = row.size() * (cache == CacheType::f32 ? 4 : 2);
      const std::byte* stored = rows.data() + (ids.size() + 40) * width;
      bool same = true;
      for (std::size_t i = 0; i < row.size(); ++i)
        same =
            same && row[i] == element_as_float(cache == CacheType::f32 ? DType::f32 : DType::bf16, stored, i);
      CHECK(same);
    }
}
