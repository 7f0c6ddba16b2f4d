#include <doctest/doctest.h>

#include <barrier>
#include <cmath>
#include <thread>

#include "src/base/error.h"
#include "src/cpu/norm.h"
#include "src/cpu/router.h"
#include "tests/test_cpu_support.h"

using namespace fathom;
using namespace fathom::test;

namespace {

using Doubles = std::vector<double>;

std::size_t size(int n) { return static_cast<std::size_t>(n); }

// -- every stage again, in double and in the plainest way, from the values that the stage read --------------

Doubles to_double(std::span<const float> x) { return Doubles(x.begin(), x.end()); }

Doubles times(const Linear& w, std::span<const double> x) {
  Doubles y;
  for (std::size_t t = 0; t < x.size() / static_cast<std::size_t>(w.cols); ++t)
    for (std::int64_t r = 0; r < w.rows; ++r) {
      double sum = 0;
      for (std::int64_t c = 0; c < w.cols; ++c)
        sum += static_cast<double>(w.at(r, c)) *
               x[t * static_cast<std::size_t>(w.cols) + static_cast<std::size_t>(c)];
      y.push_back(sum);
    }
  return y;
}

Doubles normed(std::span<const double> x, std::span<const float> weight, double eps) {
  Doubles y(x.begin(), x.end());
  const std::size_t n = weight.size();
  for (std::size_t t = 0; t < x.size() / n; ++t) {
    double square = 0;
    for (std::size_t i = 0; i < n; ++i) square += x[t * n + i] * x[t * n + i];
    for (std::size_t i = 0; i < n; ++i)
      y[t * n + i] =
          x[t * n + i] / std::sqrt(square / static_cast<double>(n) + eps) * static_cast<double>(weight[i]);
  }
  return y;
}

void rotate(std::span<double> x, const Rope& rope, int position) {
  for (std::size_t i = 0; i < rope.frequency.size(); ++i) {
    const double angle = position * static_cast<double>(rope.frequency[i]);
    const double a = x[2 * i], b = x[2 * i + 1], m = static_cast<double>(rope.magnitude);
    x[2 * i] = m * (a * std::cos(angle) - b * std::sin(angle));
    x[2 * i + 1] = m * (a * std::sin(angle) + b * std::cos(angle));
  }
}

Doubles mlp(const Linear& gate, const Linear& up, const Linear& down, std::span<const double> x) {
  Doubles g = times(gate, x);
  const Doubles u = times(up, x);
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
  return times(down, g);
}

// Expanded attention: keys and values of every head are formed from the cached rows.
Doubles attention(const Config& c, const LayerWeights& w, CpuForward& f, int layer, const Activations& a) {
  const std::size_t nope = size(c.qk_nope_head_dim), rope = size(c.qk_rope_head_dim), v = size(c.v_head_dim);
  const std::size_t heads = size(c.num_attention_heads), latent = size(c.kv_lora_rank);
  Doubles out;
  for (std::size_t t = 0; t < a.rows.size(); ++t) {
    std::vector<Doubles> kv, pe;
    for (int p = 0; p <= a.rows[t].position; ++p) {
      std::vector<float> row(size(c.kv_row()));
      f.cache().read({RowKind::latent, layer}, a.rows[t].timeline, p, row);
      kv.push_back(times(w.kv_b_proj, to_double(std::span(row).first(latent))));
      pe.push_back(to_double(std::span(row).subspan(latent)));
    }
    for (std::size_t h = 0; h < heads; ++h) {
      const float* q = a.q.data() + (t * heads + h) * (nope + rope);
      Doubles p;
      for (std::size_t s = 0; s < kv.size(); ++s) {
        double score = 0;
        for (std::size_t i = 0; i < nope; ++i) score += static_cast<double>(q[i]) * kv[s][h * (nope + v) + i];
        for (std::size_t i = 0; i < rope; ++i) score += static_cast<double>(q[nope + i]) * pe[s][i];
        p.push_back(score * static_cast<double>(softmax_scale(c)));
      }
      const double top = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& s : p) sum += s = std::exp(s - top);
      for (std::size_t i = 0; i < v; ++i) {
        double value = 0;
        for (std::size_t s = 0; s < p.size(); ++s) value += p[s] / sum * kv[s][h * (nope + v) + nope + i];
        out.push_back(value);
      }
    }
  }
  return out;
}

// Compares what each step wrote with the same step in double, applied to what it read.
class StageCheck {
 public:
  StageCheck(const Model& model, CpuForward& f)
      : c_(model.config), w_(model.weights), f_(f), rope_(make_rope(c_)) {}

  void step(Step s, const Activations& a) {
    const auto stage = s.stage;
    const LayerWeights* w = s.layer < 0                      ? nullptr
                            : s.layer < c_.num_hidden_layers ? &w_.layers[size(s.layer)]
                                                             : &w_.mtp[0].layer;
    const auto eps = static_cast<double>(c_.rms_norm_eps);
    const auto n = size(c_.hidden_size);
    if (stage == Stage::Embed) expect(s, "x", a.x, embed(w_.embed_tokens, a.rows));
    if (stage == Stage::MtpInput) expect(s, "x", a.x, mtp_input(a));
    if (stage == Stage::AttnNorm)
      expect(s, "normed", a.normed, normed(to_double(before_.x), w->input_layernorm, eps));
    if (stage == Stage::Latents) latents(s, *w, a);
    if (stage == Stage::Query) {
      Doubles q = times(w->q_proj, to_double(c_.q_lora_rank > 0 ? before_.q_latent : before_.normed));
      const std::size_t head = size(c_.qk_head_dim());
      for (std::size_t i = 0; i < q.size() / head; ++i)
        rotate(std::span(q).subspan(i * head + size(c_.qk_nope_head_dim), size(c_.qk_rope_head_dim)), rope_,
               a.rows[i / size(c_.num_attention_heads)].position);
      expect(s, "q", a.q, q);
    }
    if (stage == Stage::Attend) expect(s, "attn", a.attn, attention(c_, *w, f_, s.layer, before_));
    if (stage == Stage::AttnOut) expect(s, "delta", a.delta, times(w->o_proj, to_double(before_.attn)));
    if (stage == Stage::FfnNorm)
      expect(s, "normed", a.normed, normed(to_double(before_.x), w->post_attention_layernorm, eps));
    if (stage == Stage::Dense)
      expect(s, "delta", a.delta,
             mlp(w->dense->gate, w->dense->up, w->dense->down, to_double(before_.normed)));
    if (stage == Stage::Route) route(s, *w, a);
    if (stage == Stage::Shared)
      expect(s, "shared", a.shared,
             mlp(w->shared->gate, w->shared->up, w->shared->down, to_double(before_.normed)));
    if (stage == Stage::Routed) {
      Doubles out;
      for (std::size_t i = 0; i < a.expert_ids.size(); ++i) {
        const Expert& e = w->experts.experts[size(a.expert_ids[i])];
        const auto row = std::span(before_.normed).subspan(i / size(c_.router.num_experts_per_tok) * n, n);
        const Doubles y = mlp(e.gate, e.up, e.down, to_double(row));
        out.insert(out.end(), y.begin(), y.end());
      }
      expect(s, "expert_out", a.expert_out, out);
    }
    if (stage == Stage::Combine) {
      Doubles delta(a.x.size(), 0.0);
      const std::size_t k = size(c_.router.num_experts_per_tok);
      for (std::size_t i = 0; i < a.expert_ids.size(); ++i)
        for (std::size_t d = 0; d < n; ++d)
          delta[i / k * n + d] +=
              static_cast<double>(a.expert_weights[i]) * static_cast<double>(a.expert_out[i * n + d]);
      for (std::size_t i = 0; c_.n_shared_experts > 0 && i < delta.size(); ++i)
        delta[i] += static_cast<double>(a.shared[i]);
      expect(s, "delta", a.delta, delta);
    }
    if (stage == Stage::AttnReduce || stage == Stage::FfnReduce) {
      Doubles x = to_double(before_.x);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += static_cast<double>(before_.delta[i]);
      expect(s, "x", a.x, x);
    }
    if (stage == Stage::FinalNorm) {
      Doubles rows;
      for (int r : a.wanted)
        for (std::size_t i = 0; i < n; ++i) rows.push_back(static_cast<double>(before_.x[size(r) * n + i]));
      expect(s, "normed", a.normed, normed(rows, a.stack == Stack::main ? w_.norm : w_.mtp[0].norm, eps));
    }
    if (stage == Stage::Logits)
      expect(s, "logits", a.logits,
             times(a.stack == Stack::main ? w_.lm_head : w_.mtp[0].head, to_double(before_.normed)));
    before_ = a;
    ++steps;
  }
  int steps = 0;

 private:
  void expect(Step s, const char* value, std::span<const float> got, const Doubles& want) {
    const double error = relative(got, want);
    CHECK_MESSAGE(error < 2e-6, row_of(s.stage).name, " of layer ", s.layer, ", ", value, ": error ", error);
  }

  Doubles embed(const Linear& table, std::span<const Row> rows) {
    Doubles x;
    for (const Row& r : rows)
      for (std::int64_t i = 0; i < table.cols; ++i) x.push_back(static_cast<double>(table.at(r.token, i)));
    return x;
  }

  Doubles mtp_input(const Activations& a) {
    const MtpWeights& m = w_.mtp[0];
    const auto eps = static_cast<double>(c_.rms_norm_eps);
    const auto n = size(c_.hidden_size);
    const Doubles e = normed(embed(m.embed_tokens, a.rows), m.enorm, eps),
                  h = normed(to_double(a.hidden_in), m.hnorm, eps);
    Doubles joined;
    for (std::size_t t = 0; t < a.rows.size(); ++t) {
      joined.insert(joined.end(), e.begin() + static_cast<std::ptrdiff_t>(t * n),
                    e.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
      joined.insert(joined.end(), h.begin() + static_cast<std::ptrdiff_t>(t * n),
                    h.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
    }
    return times(m.eh_proj, joined);
  }

  void latents(Step s, const LayerWeights& w, const Activations& a) {
    const auto eps = static_cast<double>(c_.rms_norm_eps);
    const Doubles x = to_double(before_.normed);
    if (c_.q_lora_rank > 0)
      expect(s, "q_latent", a.q_latent, normed(times(w.q_a_proj, x), w.q_a_layernorm, eps));
    Doubles kv = times(w.kv_a_proj, x);
    const auto n = size(c_.kv_row()), latent = size(c_.kv_lora_rank);
    for (std::size_t t = 0; t < a.rows.size(); ++t) {
      const auto row = std::span(kv).subspan(t * n, n);
      const Doubles l = normed(Doubles(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(latent)),
                               w.kv_a_layernorm, eps);
      std::copy(l.begin(), l.end(), row.begin());
      rotate(row.subspan(latent), rope_, a.rows[t].position);
      std::vector<float> stored(n);
      f_.cache().read({RowKind::latent, s.layer}, a.rows[t].timeline, a.rows[t].position, stored);
      for (std::size_t i = 0; i < n; ++i) {
        const float v = a.kv_row[t * n + i];
        CHECK(stored[i] == (f_.numerics().cache == CacheType::bf16 ? round_to_bf16(v) : v));
      }
      CHECK(f_.cache().tag({RowKind::latent, s.layer}, a.rows[t].timeline, a.rows[t].position) ==
            RowTag{a.rows[t].timeline, a.rows[t].position});
    }
    expect(s, "kv_row", a.kv_row, kv);
  }

  // Ids by repeated search for the largest, one expert and one group at a time.
  void route(Step s, const LayerWeights& w, const Activations& a) {
    const RouterRule& r = c_.router;
    const Doubles logit = times(w.router, to_double(before_.normed));
    const std::size_t E = size(r.n_routed_experts), k = size(r.num_experts_per_tok);
    Doubles weights;
    for (std::size_t t = 0; t < a.rows.size(); ++t) {
      Doubles score(E), choice;
      double sum = 0;
      for (std::size_t e = 0; e < E; ++e) {
        const double v = logit[t * E + e];
        score[e] = r.scoring_func == ScoringFunc::sigmoid ? 1 / (1 + std::exp(-v)) : std::exp(v);
        sum += score[e];
      }
      for (double& v : score) v /= r.scoring_func == ScoringFunc::sigmoid ? 1 : sum;
      choice = score;
      for (std::size_t e = 0; e < w.e_score_correction_bias.size(); ++e)
        choice[e] += static_cast<double>(w.e_score_correction_bias[e]);
      if (r.topk_method != TopkMethod::greedy) keep_groups(choice);
      std::vector<std::size_t> ids;
      for (std::size_t i = 0; i < k; ++i) {
        const auto best =
            static_cast<std::size_t>(std::max_element(choice.begin(), choice.end()) - choice.begin());
        ids.push_back(best);
        choice[best] = -INFINITY;
      }
      std::sort(ids.begin(), ids.end());
      double total = 0;
      for (std::size_t e : ids) total += score[e];
      for (std::size_t i = 0; i < k; ++i) {
        CHECK(a.expert_ids[t * k + i] == static_cast<int>(ids[i]));
        weights.push_back(score[ids[i]] / (r.norm_topk_prob ? total : 1) *
                          static_cast<double>(r.routed_scaling_factor));
      }
    }
    expect(s, "expert_weights", a.expert_weights, weights);
  }

  void keep_groups(Doubles& choice) {
    const RouterRule& r = c_.router;
    const std::size_t each = choice.size() / size(r.n_group);
    Doubles groups;
    for (std::size_t g = 0; g < size(r.n_group); ++g) {
      Doubles in(choice.begin() + static_cast<std::ptrdiff_t>(g * each),
                 choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * each));
      std::sort(in.rbegin(), in.rend());
      groups.push_back(r.topk_method == TopkMethod::noaux_tc ? in[0] + in[1] : in[0]);
    }
    std::vector<bool> kept(groups.size());
    for (int i = 0; i < r.topk_group; ++i) {
      const auto best = std::max_element(groups.begin(), groups.end()) - groups.begin();
      kept[static_cast<std::size_t>(best)] = true;
      groups[static_cast<std::size_t>(best)] = -INFINITY;
    }
    for (std::size_t e = 0; e < choice.size(); ++e)
      if (!kept[e / each]) choice[e] = -INFINITY;
  }

  const Config& c_;
  const Weights& w_;
  CpuForward& f_;
  Rope rope_;
  Activations before_;
};

CpuForwardOptions options_of(CacheType cache, std::optional<cpu::Isa> isa = std::nullopt) {
  CpuForwardOptions o;
  o.numerics.cache = cache;
  o.capacity = 256;
  o.isa = isa;
  return o;
}

Config group_limited_config() {
  Config c = plain_config();
  c.router = {ScoringFunc::softmax, TopkMethod::group_limited_greedy, 16, 3, 4, 2, false, 16.0f};
  c.moe_layer_freq = 1;
  c.n_shared_experts = 1;
  return c;
}

}  // namespace

TEST_CASE("cpu: every stage equals the same stage in double") {
  Threads threads(2);
  for (const Config& c : {ragged_config(), plain_config(), group_limited_config()})
    for (const WeightFormat& f : {formats::fp8_f32, formats::bf16})
      for (cpu::Isa isa : isas()) {
        const Model model(c, {.linear = f, .mtp = true});
        Exchange alone;
        CpuForwardOptions options = options_of(f == formats::bf16 ? CacheType::bf16 : CacheType::f32, isa);
        options.mtp = true;
        CpuForward pass(model.config, model.weights, options, threads, alone);
        StageCheck check(model, pass);
        pass.observer = [&](Step s, const Activations& a) { check.step(s, a); };
        const auto rows = make_rows(0, 9, c);
        all_logits(pass, std::span(rows).first(5), 5);
        all_logits(pass, std::span(rows).subspan(5), 1);
        CHECK(check.steps == 5 * static_cast<int>(stage_list(c, Stack::main).size()));
        if (c.num_nextn_predict_layers == 0) continue;
        std::vector<float> hidden(rows.size() * size(c.hidden_size));
        for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = std::sin(static_cast<float>(i));
        const std::vector<int> wanted{0, 8};
        ForwardCall call;
        call.stack = Stack::mtp;
        call.rows = rows;
        call.hidden_in = hidden;
        call.logit_rows = wanted;
        CHECK(pass.forward(call).logits.size() == 2 * size(c.vocab_size));
      }
}

TEST_CASE("cpu: the router's worked example of models.md section 11") {
  const RouterRule rule{ScoringFunc::sigmoid, TopkMethod::noaux_tc, 8, 2, 4, 2, true, 2.5f};
  const std::vector<float> s{.9f, .1f, .65f, .6f, .5f, .2f, .3f, .3f}, bias{0, 0, 0, 0, .4f, .4f, 0, 0};
  std::vector<float> logits, weights(2);
  for (float v : s) logits.push_back(std::log(v / (1 - v)));
  std::vector<std::int32_t> ids(2);
  cpu::route(rule, logits, bias, ids, weights);
  CHECK(ids == std::vector<std::int32_t>{2, 4});
  CHECK(weights[0] == doctest::Approx(1.4130435).epsilon(1e-6));
  CHECK(weights[1] == doctest::Approx(1.0869565).epsilon(1e-6));
}

TEST_CASE("cpu: router ties go to the lower id, masked groups never win, NaN never wins") {
  std::vector<std::int32_t> ids(2);
  std::vector<float> weights(2);
  const std::vector<float> equal(8, 0.0f);
  cpu::route({ScoringFunc::softmax, TopkMethod::greedy, 8, 2, 1, 1, false, 1}, equal, {}, ids, weights);
  CHECK(ids == std::vector<std::int32_t>{0, 1});
  // With large negative biases every score of a kept group is below zero: a mask of 0 would choose outside.
  const std::vector<float> bias{-9, -9, -9, -9, -8, -8, -20, -20};
  cpu::route({ScoringFunc::sigmoid, TopkMethod::noaux_tc, 8, 2, 4, 1, true, 1}, equal, bias, ids, weights);
  CHECK(ids == std::vector<std::int32_t>{4, 5});
  std::vector<float> poisoned{0, NAN, 3, 1, NAN, 0, 0, 0};
  cpu::route({ScoringFunc::sigmoid, TopkMethod::noaux_tc, 8, 2, 1, 1, true, 1}, poisoned,
             std::vector<float>(8), ids, weights);
  CHECK(ids == std::vector<std::int32_t>{2, 3});
}

TEST_CASE("cpu: a row's bits depend neither on the batch, nor on chunks, nor on the number of threads") {
  for (const Config& c : {ragged_config(), group_limited_config()})
    for (cpu::Isa isa : isas()) {
      const Model model(c);
      const auto rows = make_rows(0, 150, c);  // three tiles of keys
      const auto run = [&](int threads_count, std::size_t step, int chunk) {
        Threads threads(threads_count);
        Exchange alone;
        CpuForwardOptions options = options_of(CacheType::bf16, isa);
        options.chunk_rows = chunk;
        CpuForward f(model.config, model.weights, options, threads, alone);
        return all_logits(f, rows, step);
      };
      const auto whole = run(2, 150, 0);
      CHECK(whole == run(1, 150, 7));
      CHECK(whole == run(2, 64, 0));
      if (isa != cpu::best_isa()) continue;
      CHECK(whole == run(16, 150, 75));
      CHECK(whole == run(2, 1, 0));
      CHECK(whole == run(1, 3, 0));
    }
}

TEST_CASE("cpu: truncating and running again gives the same bits") {
  const Config c = ragged_config();
  const Model model(c);
  Threads threads(2);
  Exchange alone;
  CpuForward f(model.config, model.weights, options_of(CacheType::bf16), threads, alone);
  auto rows = make_rows(0, 80, c);
  const auto first = all_logits(f, rows, 80);
  auto other = rows;
  for (std::size_t i = 30; i < other.size(); ++i) other[i].token = (other[i].token + 1) % c.vocab_size;
  CHECK(all_logits(f, std::span(other).subspan(30), 25) !=
        std::vector<float>(first.begin() + 30 * c.vocab_size, first.end()));
  CHECK(all_logits(f, std::span(rows).subspan(30), 11) ==
        std::vector<float>(first.begin() + 30 * c.vocab_size, first.end()));
}

TEST_CASE("cpu: timelines do not see each other, and roles have their own rounding") {
  const Config c = ragged_config();
  const Model model(c);
  Threads threads(2);
  Exchange alone;
  CpuForwardOptions options = options_of(CacheType::f32);
  options.timelines = 2;
  options.numerics.prompt_activations = ActivationType::fp8;
  CpuForward f(model.config, model.weights, options, threads, alone);
  const auto prompt = make_rows(0, 6, c);
  const auto expected = all_logits(f, prompt, 6);
  std::vector<Row> mixed;
  for (Row r : prompt) {
    mixed.push_back(r);
    r.timeline = 1;
    r.role = Role::generated;
    r.token = (r.token + 5) % c.vocab_size;
    mixed.push_back(r);
  }
  const auto both = all_logits(f, mixed, mixed.size());
  const std::size_t v = size(c.vocab_size);
  std::vector<float> zero, one;
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    auto& to = mixed[i].timeline == 0 ? zero : one;
    to.insert(to.end(), both.begin() + static_cast<std::ptrdiff_t>(i * v),
              both.begin() + static_cast<std::ptrdiff_t>((i + 1) * v));
  }
  CHECK(zero == expected);
  std::vector<Row> generated = prompt;
  for (Row& r : generated) {
    r.role = Role::generated;
    r.token = (r.token + 5) % c.vocab_size;
  }
  CHECK(all_logits(f, generated, 6) == one);
}

TEST_CASE("cpu: 4-bit formats through the whole pass equal the same weights expanded to F32") {
  for (const WeightFormat& format : {formats::int4_bf16, formats::mxfp4}) {
    Config c = plain_config();
    c.intermediate_size = 320;
    c.n_shared_experts = 1;
    const Model packed(c, {.linear = format});
    Weights expanded = packed.weights;
    std::vector<std::vector<float>> memory;
    const auto expand = [&](Linear& l) {
      if (!l || l.format != format) return;
      auto& values = memory.emplace_back();
      for (std::int64_t r = 0; r < l.rows; ++r)
        for (std::int64_t k = 0; k < l.cols; ++k) values.push_back(l.at(r, k));
      const TensorView view{
          DType::f32, {l.rows, l.cols}, reinterpret_cast<const std::byte*>(values.data()), values.size() * 4};
      l = make_linear(view, nullptr, formats::f32);
    };
    int experts = 0;
    for (LayerWeights& w : expanded.layers) {
      for (Linear* l : {&w.q_proj, &w.kv_a_proj, &w.kv_b_proj, &w.o_proj}) expand(*l);
      for (auto* m : {&w.dense, &w.shared})
        if (*m) {
          expand((*m)->gate);
          expand((*m)->up);
          expand((*m)->down);
        }
      for (Expert& e : w.experts.experts) {
        expand(e.gate);
        expand(e.up);
        expand(e.down);
        ++experts;
      }
    }
    CHECK(experts > 0);
    Threads threads(2);
    Exchange alone;
    CpuForward a(packed.config, packed.weights, options_of(CacheType::f32), threads, alone);
    CpuForward b(packed.config, expanded, options_of(CacheType::f32), threads, alone);
    const auto rows = make_rows(0, 20, c);
    const auto logits = all_logits(a, rows, 7);
    CHECK(logits == all_logits(b, rows, 7));
    CHECK(logits == all_logits(a, rows, 1));
    for (float v : logits) CHECK(std::isfinite(v));
  }
}

TEST_CASE("cpu: only wanted rows come back, from whichever chunk") {
  const Config c = ragged_config();
  const Model model(c);
  Threads threads(2);
  Exchange alone;
  CpuForwardOptions options = options_of(CacheType::f32);
  options.chunk_rows = 4;
  CpuForward f(model.config, model.weights, options, threads, alone);
  const auto rows = make_rows(0, 11, c);
  const auto all = all_logits(f, rows, 11);
  const std::vector<int> logit_rows{1, 5, 10}, hidden_rows{0, 5, 6, 7};
  ForwardCall call;
  call.rows = rows;
  call.logit_rows = logit_rows;
  call.hidden_rows = hidden_rows;
  const ForwardResult r = f.forward(call);
  const std::size_t v = size(c.vocab_size), n = size(c.hidden_size);
  REQUIRE(r.logits.size() == 3 * v);
  REQUIRE(r.hidden.size() == 4 * n);
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(std::equal(r.logits.begin() + static_cast<std::ptrdiff_t>(i * v),
                     r.logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * v),
                     all.begin() + static_cast<std::ptrdiff_t>(size(logit_rows[i]) * v)));
  // Row 5 is in both lists: its logits are the head times its hidden row.
  const Doubles again = times(model.weights.lm_head, to_double(std::span(r.hidden).subspan(n, n)));
  CHECK(relative(std::span(r.logits).subspan(v, v), again) < 1e-6);
}

TEST_CASE("cpu: a long prompt can be stopped, and what is out of range is refused") {
  const Config c = ragged_config();
  const Model model(c);
  Threads threads(1);
  Exchange alone;
  CpuForward f(model.config, model.weights, options_of(CacheType::f32), threads, alone);
  const auto code = [&](std::span<const Row> rows) {
    ForwardCall call;
    call.rows = rows;
    try {
      f.forward(call);
    } catch (const Error& e) {
      return e.code();
    }
    return Exit::ok;
  };
  int asked = 0;
  f.stop_requested = [&] { return ++asked == 1; };
  // The observer makes every step slow enough that the question is due.
  f.observer = [](Step, const Activations&) { std::this_thread::sleep_for(std::chrono::milliseconds(11)); };
  CHECK(code(make_rows(0, 200, c)) == Exit::interrupted);
  CHECK(asked == 1);
  f.observer = nullptr;
  f.stop_requested = nullptr;
  CHECK(code(make_rows(250, 7, c)) == Exit::context);
  CHECK(code(std::vector<Row>{{.token = c.vocab_size}}) == Exit::usage);
  CHECK(code(std::vector<Row>{{.timeline = 1}}) == Exit::usage);
  CHECK(code(make_rows(0, 3, c)) == Exit::ok);
}

TEST_CASE("cpu: a NaN in a weight reaches the logits of the rows that meet it") {
  const Config c = ragged_config();
  Model model(c);
  Linear& up = model.weights.layers[0].dense->up;
  const_cast<std::byte*>(up.data)[5] = std::byte{0xff};
  Threads threads(2);
  Exchange alone;
  for (cpu::Isa isa : isas()) {
    CpuForward f(model.config, model.weights, options_of(CacheType::f32, isa), threads, alone);
    for (float v : all_logits(f, make_rows(0, 2, c), 1)) CHECK(std::isnan(v));
  }
}

namespace {

// Partners of a run that meet at a barrier; sums and slices go in rank order.
class Meeting : public Exchange {
 public:
  explicit Meeting(int count) : parts_(size(count)), barrier_(count) {}
  void reduce(Rank rank, std::span<float> values) override {
    parts_[size(rank.index)].assign(values.begin(), values.end());
    barrier_.arrive_and_wait();
    std::fill(values.begin(), values.end(), 0.0f);
    for (const auto& part : parts_)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += part[i];
    barrier_.arrive_and_wait();
  }
  void gather(Rank rank, std::span<const float> slice, std::int64_t rows,
              std::vector<float>& whole) override {
    parts_[size(rank.index)].assign(slice.begin(), slice.end());
    barrier_.arrive_and_wait();
    whole.clear();
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
      for (const auto& part : parts_) {
        const std::size_t n = part.size() / static_cast<std::size_t>(rows);
        whole.insert(whole.end(), part.begin() + static_cast<std::ptrdiff_t>(r * n),
                     part.begin() + static_cast<std::ptrdiff_t>((r + 1) * n));
      }
    barrier_.arrive_and_wait();
  }

 private:
  std::vector<std::vector<float>> parts_;
  std::barrier<> barrier_;
};

// Uneven on purpose, and off the scale grid: heads 1 + 2, rows of the MLPs about a third.
Weights slice(const Weights& whole, const Config& c, int rank) {
  const auto part = [&](std::int64_t n, std::int64_t first) {
    return rank == 0 ? Range{0, first} : Range{first, n};
  };
  Weights w = whole;
  const Range heads = part(c.num_attention_heads, 1), vocabulary = part(c.vocab_size, 70);
  const auto mlp = [&](Linear& gate, Linear& up, Linear& down) {
    const Range r = part(gate.rows, gate.rows / 3);
    gate = gate.rows_slice(r.begin, r.end);
    up = up.rows_slice(r.begin, r.end);
    down = down.cols_slice(r.begin, r.end);
  };
  const std::int64_t kv = c.qk_nope_head_dim + c.v_head_dim, qk = c.qk_head_dim(), v = c.v_head_dim;
  for (LayerWeights& l : w.layers) {
    l.q_proj = l.q_proj.rows_slice(heads.begin * qk, heads.end * qk);
    l.kv_b_proj = l.kv_b_proj.rows_slice(heads.begin * kv, heads.end * kv);
    l.o_proj = l.o_proj.cols_slice(heads.begin * v, heads.end * v);
    if (l.dense) mlp(l.dense->gate, l.dense->up, l.dense->down);
    if (l.shared) mlp(l.shared->gate, l.shared->up, l.shared->down);
    for (Expert& e : l.experts.experts) mlp(e.gate, e.up, e.down);
  }
  w.lm_head = w.lm_head.rows_slice(vocabulary.begin, vocabulary.end);
  return w;
}

std::vector<float> two_ranks(const Model& model, std::span<const Row> rows) {
  Meeting meeting(2);
  std::vector<float> logits[2];
  std::vector<std::jthread> ranks;
  for (int r = 0; r < 2; ++r)
    ranks.emplace_back([&, r] {
      const Weights w = slice(model.weights, model.config, r);
      Threads threads(1);
      CpuForwardOptions options = options_of(CacheType::f32);
      options.rank = {r, 2};
      CpuForward f(model.config, w, options, threads, meeting);
      logits[r] = all_logits(f, rows, 9);
    });
  ranks.clear();
  CHECK(logits[0] == logits[1]);
  return logits[0];
}

}  // namespace

TEST_CASE("cpu: two ranks equal one within 1e-5, and themselves to the bit") {
  for (const Config& c : {ragged_config(), group_limited_config()}) {
    const Model model(c);
    const auto rows = make_rows(0, 30, c);
    Threads threads(1);
    Exchange alone;
    CpuForward f(model.config, model.weights, options_of(CacheType::f32), threads, alone);
    const auto one = all_logits(f, rows, 9);
    const auto two = two_ranks(model, rows);
    CHECK(relative(two, one) < 1e-5);
    CHECK(two == two_ranks(model, rows));
  }
}

TEST_CASE("cpu: two engines with different instruction sets and caches live side by side") {
  const Config c = ragged_config();
  const Model model(c);
  Threads threads(2);
  Exchange alone;
  CpuForward a(model.config, model.weights, options_of(CacheType::f32, cpu::Isa::scalar), threads, alone);
  CpuForward b(model.config, model.weights, options_of(CacheType::f32), threads, alone);
  const auto rows = make_rows(0, 12, c);
  CHECK(relative(all_logits(b, rows, 5), all_logits(a, rows, 12)) < 1e-5);
  CHECK(a.describe() == "cpu scalar, 2 threads");
}
