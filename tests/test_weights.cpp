#include <doctest/doctest.h>

#include <system_error>

#include "src/model/weights.h"
#include "tests/support/cpu_time.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_checkpoint.h"

using namespace fathom;
using test::ConfigText;
using test::Outcome;
using test::outcome_of;
using test::TinyCheckpoint;

namespace {

struct Bound {
  Checkpoint checkpoint;
  Config config;
  Weights weights;
  std::vector<std::string> unknown;
};

Bound bind(TinyCheckpoint& tiny, bool mtp = false) {
  const FileSet files = tiny.files();
  Bound b{Checkpoint::open(files), read_config(files), {}, {}};
  b.weights = bind_weights(b.checkpoint, b.config, {.mtp = mtp}, &b.unknown);
  return b;
}

Outcome bind_outcome(TinyCheckpoint& tiny, bool mtp = false) {
  return outcome_of([&] { bind(tiny, mtp); });
}

// Damages a fresh tiny V3 checkpoint and checks what binding says.
template <typename Damage>
void check_damaged(Damage damage, Exit code, const std::string& fragment) {
  TinyCheckpoint tiny(test::tiny_v3_config());
  damage(tiny);
  const Outcome o = bind_outcome(tiny);
  INFO(o.message);
  CHECK(o.code == code);
  CHECK(o.says(fragment));
}

const std::string kL1 = "model.layers.1.";

}  // namespace

TEST_CASE("weights: a V3-shaped FP8 checkpoint binds") {
  TinyCheckpoint tiny(test::tiny_v3_config());
  const Bound b = bind(tiny);
  const Weights& w = b.weights;
  REQUIRE(w.layers.size() == 3);
  CHECK(b.unknown.empty());
  CHECK(w.mtp.empty());
  CHECK(w.heads == 4);
  CHECK(w.embed_tokens.format == formats::bf16);
  CHECK(w.layers[0].dense);
  CHECK_FALSE(w.layers[0].router);
  const LayerWeights& l = w.layers[1];
  CHECK_FALSE(l.dense);
  CHECK(l.q_a_proj.rows == 24);
  CHECK(l.q_proj.rows == 96);
  CHECK(l.kv_b_proj.cols == 32);
  CHECK(l.o_proj.format == formats::fp8_f32);
  CHECK(l.experts.experts.size() == 8);
  CHECK(l.experts.experts[7].down.cols == 48);
  CHECK(l.e_score_correction_bias.size() == 8);
  CHECK(l.shared->gate.rows == 48);
  // Values are those of the file: code times the scale of its block.
  const auto& codes = tiny.at("model.layers.0.mlp.down_proj.weight").data;
  const auto& scales = tiny.at("model.layers.0.mlp.down_proj.weight_scale_inv").data;
  const Linear& down = w.layers[0].dense->down;  // (64, 160): two blocks, the second ragged
  for (const std::int64_t c : {0, 127, 128, 159}) {
    const auto code = static_cast<std::uint8_t>(codes[static_cast<std::size_t>(5 * 160 + c)]);
    CHECK(down.at(5, c) == e4m3_to_float(code) * load<float>(scales.data() + 4 * (c / 128)));
  }
}

TEST_CASE("weights: every variant of the family binds") {
  ConfigText lite = test::tiny_v3_config();
  lite.set("model_type", "\"deepseek_v2\"")
      .set("architectures", R"(["DeepseekV2ForCausalLM"])")
      .set("q_lora_rank", "null");
  lite.set("scoring_func", "\"softmax\"").set("topk_method", "\"greedy\"").set("norm_topk_prob", "false");
  lite.erase("quantization_config").erase("num_nextn_predict_layers");
  TinyCheckpoint v2(lite);
  const Bound b = bind(v2);
  CHECK_FALSE(b.weights.layers[1].q_a_proj);
  CHECK(b.weights.layers[1].q_proj.cols == 64);
  CHECK(b.weights.layers[1].e_score_correction_bias.empty());
  CHECK(b.weights.layers[1].o_proj.format == formats::bf16);
  TinyCheckpoint e8m0(test::tiny_v3_config(), DType::f8_e8m0);
  CHECK(bind(e8m0).weights.layers[1].o_proj.format == formats::fp8_e8m0);
  TinyCheckpoint dense(
      test::tiny_v3_config().set("n_routed_experts", "null").set("num_nextn_predict_layers", "0"));
  CHECK(bind(dense).weights.layers[2].dense);
  for (const char* name : {"v3", "v3-e8m0", "v2", "v2-lite", "moonlight", "kimi"}) {
    const FileSet files = FileSet::directory(std::string("tests/goldens/") + name);
    const Config config = read_config(files);
    std::vector<std::string> unknown;
    const Checkpoint checkpoint = Checkpoint::open(files);
    const Weights w = bind_weights(checkpoint, config, {.mtp = true}, &unknown);
    CAPTURE(std::string(name));
    CHECK(unknown.empty());
    CHECK(w.layers.size() == static_cast<std::size_t>(config.num_hidden_layers));
    CHECK(w.mtp.size() == (std::string_view(name) == "v3" ? 1 : 0));
  }
}

TEST_CASE("weights: types beside FP8") {
  const auto accept = [](DType type) {
    TinyCheckpoint tiny(test::tiny_v3_config());
    const std::string name = kL1 + "self_attn.o_proj.weight";
    tiny.replace(name, type, {64, 64});
    tiny.erase(name + "_scale_inv");
    return bind(tiny).weights.layers[1].o_proj.format.decode;
  };
  CHECK(accept(DType::bf16) == Decode::bf16);  // a BF16 weight where FP8 is declared
  CHECK(accept(DType::f16) == Decode::f16);
  CHECK(accept(DType::f32) == Decode::f32);
  TinyCheckpoint norms(test::tiny_v3_config());
  norms.replace("model.norm.weight", DType::f32, {64});
  norms.replace(kL1 + "mlp.gate.e_score_correction_bias", DType::bf16, {8});
  norms.replace(kL1 + "mlp.gate.weight", DType::f32, {8, 64});
  CHECK(bind(norms).weights.layers[1].router.format == formats::f32);
  check_damaged(
      [](auto& t) {
        t.replace(kL1 + "self_attn.o_proj.weight", DType::f8_e5m2, {64, 64});
      },
      Exit::unsupported, "o_proj.weight: expected F8_E4M3, BF16, F16 or F32, found (64, 64) F8_E5M2");
  check_damaged(
      [](auto& t) {
        t.replace(kL1 + "mlp.gate.weight", DType::f8_e4m3, {8, 64});
      },
      Exit::unsupported, "mlp.gate.weight: expected BF16, F16 or F32");
  check_damaged([](auto& t) { t.replace("model.norm.weight", DType::i32, {64}); }, Exit::unsupported,
                "model.norm.weight");
  check_damaged(
      [](auto& t) {
        t.replace(kL1 + "self_attn.o_proj.weight_scale_inv", DType::f16, {1, 1});
      },
      Exit::unsupported, "expected F32 or F8_E8M0");
}

TEST_CASE("weights: what is missing or of another shape is named") {
  check_damaged([](auto& t) { t.erase(kL1 + "mlp.experts.7.up_proj.weight_scale_inv"); },
                Exit::bad_checkpoint, "model.layers.1.mlp.experts.7.up_proj.weight_scale_inv: missing");
  check_damaged([](auto& t) { t.erase(kL1 + "mlp.experts.7.up_proj.weight"); }, Exit::bad_checkpoint,
                "model.layers.1.mlp.experts.7.up_proj.weight: missing");
  check_damaged(
      [](auto& t) {
        t.replace("model.layers.0.mlp.down_proj.weight_scale_inv", DType::f32, {1, 1});
      },
      Exit::bad_checkpoint, "expected (1, 2) F32, found (1, 1) F32");
  check_damaged(
      [](auto& t) {
        t.replace("model.layers.0.mlp.down_proj.weight_scale_inv", DType::f32, {2, 2});
      },
      Exit::bad_checkpoint, "expected (1, 2) F32, found (2, 2) F32");
  check_damaged(
      [](auto& t) {
        t.replace(kL1 + "mlp.gate.weight", DType::bf16, {64, 8});
      },
      Exit::bad_checkpoint, "model.layers.1.mlp.gate.weight: expected (8, 64) BF16, found (64, 8) BF16");
  check_damaged(
      [](auto& t) {
        t.replace("model.embed_tokens.weight", DType::bf16, {95, 64});
      },
      Exit::bad_checkpoint, "expected (96, 64) BF16, found (95, 64) BF16");
  check_damaged([](auto& t) { t.replace("model.norm.weight", DType::bf16, {0}); }, Exit::bad_checkpoint,
                "found (0) BF16");
  check_damaged([](auto& t) { t.replace("model.norm.weight", DType::bf16, {}); }, Exit::bad_checkpoint,
                "found () BF16");
  check_damaged([](auto& t) { t.replace(kL1 + "mlp.gate.e_score_correction_bias", DType::f32, {7}); },
                Exit::bad_checkpoint, "expected (8) F32, found (7) F32");
  check_damaged([](auto& t) { t.erase(kL1 + "mlp.gate.e_score_correction_bias"); }, Exit::bad_checkpoint,
                "missing");
  check_damaged([](auto& t) { t.config.set("num_hidden_layers", "5"); }, Exit::bad_checkpoint,
                "model.layers.4.");
  check_damaged([](auto& t) { t.config.erase("quantization_config"); }, Exit::bad_checkpoint,
                "config.json has no quantization_config");
  check_damaged(
      [](auto& t) {
        t.replace(kL1 + "self_attn.o_proj.weight", DType::bf16, {64, 64});
      },
      Exit::bad_checkpoint, "BF16 with a scale grid");
  check_damaged(
      [](auto& t) {
        for (int e = 0; e < 8; ++e)
          for (const char* p : {"gate", "up", "down"})
            t.erase(fmt::format("{}mlp.experts.{}.{}_proj.weight", kL1, e, p));
      },
      Exit::bad_checkpoint,
      "tiny: 24 tensors do not fit config.json\n  model.layers.1.mlp.experts.0.gate_proj.weight: missing\n");
  check_damaged(
      [](auto& t) {
        for (int e = 0; e < 8; ++e)
          for (const char* p : {"gate", "up", "down"})
            t.erase(fmt::format("{}mlp.experts.{}.{}_proj.weight", kL1, e, p));
      },
      Exit::bad_checkpoint, "\n  and 4 more");
}

TEST_CASE("weights: a config of millions of experts is refused at once") {
  TinyCheckpoint tiny(test::tiny_v3_config());
  tiny.config.set("num_hidden_layers", "1000").set("n_routed_experts", "16384");
  const double begin = test::cpu_seconds();
  const Outcome o = bind_outcome(tiny);
  CHECK(o.code == Exit::bad_checkpoint);
  CHECK(o.says("at least 1000 tensors do not fit"));
  CHECK(test::cpu_seconds() - begin < 1);
}

TEST_CASE("weights: other naming schemes are recognised") {
  const auto renamed = [](const std::string& from, const std::string& to) {
    return [=](TinyCheckpoint& t) { t.at(from).name = to; };
  };
  check_damaged(renamed("model.embed_tokens.weight", "embed.weight"), Exit::unsupported,
                "the original DeepSeek names");
  check_damaged(renamed("model.embed_tokens.weight", "tok_embeddings.weight"), Exit::unsupported,
                "Mistral's own names");
  check_damaged(renamed("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
                Exit::unsupported, "multimodal");
  check_damaged(
      [](auto& t) {
        t.add(kL1 + "mlp.experts.gate_up_proj", DType::bf16, {8, 96, 64});
      },
      Exit::unsupported, "experts fused by transformers 5");
  check_damaged(
      [](auto& t) {
        t.add(kL1 + "mlp.experts.0.up_proj.weight_packed", DType::i32, {48, 8});
      },
      Exit::unsupported, "compressed-tensors");
  check_damaged(
      [](auto& t) {
        t.add(kL1 + "mlp.experts.0.up_proj.qweight", DType::i32, {48, 8});
      },
      Exit::unsupported, "AWQ or GPTQ");
  check_damaged(renamed(kL1 + "self_attn.o_proj.weight_scale_inv", kL1 + "self_attn.o_proj.weight_scale"),
                Exit::unsupported, "scales per tensor");
}

TEST_CASE("weights: MTP layers present, absent, half present") {
  TinyCheckpoint tiny(test::tiny_v3_config());
  const std::int64_t without = bind(tiny).weights.bytes_total;
  const Bound b = bind(tiny, true);
  REQUIRE(b.weights.mtp.size() == 1);
  const MtpWeights& m = b.weights.mtp[0];
  CHECK(m.eh_proj.cols == 128);
  CHECK(m.enorm.size() == 64);
  CHECK(m.layer.experts.experts.size() == 8);
  CHECK(m.head.data != b.weights.lm_head.data);
  CHECK(b.weights.bytes_total > without);
  CHECK(b.unknown.empty());
  // Without copies of embedding and head the main ones serve.
  tiny.erase("model.layers.3.embed_tokens.weight");
  tiny.erase("model.layers.3.shared_head.head.weight");
  const Bound shared = bind(tiny, true);
  CHECK(shared.weights.mtp[0].head.data == shared.weights.lm_head.data);
  CHECK(shared.weights.mtp[0].embed_tokens.data == shared.weights.embed_tokens.data);
  // Half of it is a damaged checkpoint, wanted or not.
  tiny.erase("model.layers.3.eh_proj.weight");
  for (const bool mtp : {false, true}) {
    const Outcome o = bind_outcome(tiny, mtp);
    CHECK(o.code == Exit::bad_checkpoint);
    CHECK(o.says("model.layers.3.eh_proj.weight: missing"));
  }
  std::erase_if(tiny.tensors, [](const auto& t) { return t.name.starts_with("model.layers.3."); });
  CHECK(bind(tiny, true).weights.mtp.empty());
}

TEST_CASE("weights: tied embeddings and unknown tensors") {
  TinyCheckpoint tiny(test::tiny_v3_config());
  tiny.erase("lm_head.weight");
  CHECK(bind_outcome(tiny).says("lm_head.weight: missing"));
  tiny.config.set("tie_word_embeddings", "true");
  const Bound tied = bind(tiny);
  CHECK(tied.weights.lm_head.data == tied.weights.embed_tokens.data);
  CHECK(tied.weights.first_vocab_row == 0);
  tiny.add("model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {4});
  tiny.add("vision.patch_embed", DType::f32, {4});
  tiny.add("lm_head.weight", DType::bf16, {96, 64});
  const Bound b = bind(tiny);
  CHECK(b.unknown == std::vector<std::string>{"vision.patch_embed"});
  CHECK(b.weights.lm_head.data == b.weights.embed_tokens.data);
}

// -- tensor parallelism -------------------------------------------------------------------------------------

namespace {

// The parts of all ranks, put together again, are the whole.
void check_partition(const Weights& whole, const Config& config, int count) {
  std::int64_t head = 0, row = 0, width = 0, expert = 0;
  for (int i = 0; i < count; ++i) {
    const Weights s = slice_weights(whole, config, {i, count});
    CHECK(s.first_head == head);
    CHECK(s.first_vocab_row == row);
    CHECK(s.heads > 0);
    head += s.heads;
    row += s.lm_head.rows;
    for (std::size_t l = 0; l < s.layers.size(); ++l) {
      const LayerWeights &part = s.layers[l], &all = whole.layers[l];
      CHECK(part.q_proj.rows == s.heads * config.qk_head_dim());
      CHECK(part.o_proj.cols == s.heads * config.v_head_dim);
      CHECK(part.kv_b_proj.rows == s.heads * (config.qk_nope_head_dim + config.v_head_dim));
      CHECK(part.o_proj.at(1, 0) == all.o_proj.at(1, s.first_head * config.v_head_dim));
      CHECK(part.kv_a_proj.rows == all.kv_a_proj.rows);
      if (part.dense) {
        CHECK(part.dense->gate.at(0, 3) == all.dense->gate.at(width, 3));
        CHECK(part.dense->down.at(3, 0) == all.dense->down.at(3, width));
        CHECK(part.dense->down.cols == part.dense->up.rows);
        width += part.dense->gate.rows;
      }
      if (l + 1 == s.layers.size()) expert += part.experts.experts[2].up.rows;
    }
  }
  CHECK(head == config.num_attention_heads);
  CHECK(row == config.vocab_size);
  CHECK(width == config.intermediate_size);
  CHECK(expert == config.moe_intermediate_size);
}

}  // namespace

TEST_CASE("weights: slices of all ranks make the whole") {
  for (const char* name : {"v3", "v3-e8m0", "v2", "v2-lite", "moonlight", "kimi"}) {
    CAPTURE(std::string(name));
    const FileSet files = FileSet::directory(std::string("tests/goldens/") + name);
    const Config config = read_config(files);
    const Checkpoint checkpoint = Checkpoint::open(files);
    const Weights whole = bind_weights(checkpoint, config, {.mtp = true});
    check_partition(whole, config, 2);
    check_partition(whole, config, 1);
  }
  TinyCheckpoint tiny(test::tiny_v3_config());
  const Bound b = bind(tiny, true);
  for (const int count : {2, 3, 4}) check_partition(b.weights, b.config, count);
  CHECK(outcome_of([&] { slice_weights(b.weights, b.config, {0, 5}); }).code == Exit::unsupported);
  const Weights one = slice_weights(b.weights, b.config, {0, 1});
  CHECK(one.bytes_total == b.weights.bytes_total);
}

TEST_CASE("weights: FP8 slices fall on the 128 grid, the larger parts first") {
  ConfigText text = test::tiny_v3_config();
  text.set("num_attention_heads", "8").set("num_key_value_heads", "8").set("v_head_dim", "128");
  TinyCheckpoint tiny(text.set("moe_intermediate_size", "1408")
                          .set("num_nextn_predict_layers", "0")
                          .set("n_group", "1")
                          .set("topk_group", "1"));
  const Bound b = bind(tiny);
  std::vector<std::int64_t> blocks;
  for (int i = 0; i < 8; ++i) {
    const Weights s = slice_weights(b.weights, b.config, {i, 8});
    const Expert& e = s.layers[1].experts.experts[0];
    CHECK(e.gate.row0 % 128 == 0);
    CHECK(e.down.col0 == e.gate.row0);
    CHECK(s.layers[1].o_proj.col0 % 128 == 0);
    CHECK(e.gate.rows % 128 == 0);
    blocks.push_back(e.gate.rows / 128);
  }
  CHECK(blocks == std::vector<std::int64_t>{2, 2, 2, 1, 1, 1, 1, 1});
}

// -- byte counts --------------------------------------------------------------------------------------------

TEST_CASE("weights: published configs have the published sizes") {
  struct Case {
    const char* name;
    ConfigText config;
    double total_gb, token_gb;
  };
  // models.md section 9, without the MTP layer.
  for (const Case& k :
       {Case{"V3", test::v3_config(), 673.2, 37.67}, Case{"V2-Lite", test::v2_lite_config(), 31.4, 4.9},
        Case{"Kimi-K2", test::kimi_k2_config(), 1029, 33.0}}) {
    CAPTURE(std::string(k.name));
    const Config config = parse_config(k.config.text(), "config.json");
    // A whole model in a file of holes: no disk is used, headers and shapes are real.
    std::string header = "{";
    std::uint64_t at = 0;
    const auto add = [&](const std::string& name, DType type, const std::vector<std::int64_t>& shape) {
      std::uint64_t bytes = dtype_size(type);
      for (const std::int64_t d : shape) bytes *= static_cast<std::uint64_t>(d);
      header +=
          fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", at == 0 ? "" : ",",
                      name, dtype_name(type), fmt::join(shape, ","), at, at + bytes);
      at += bytes;
    };
    for (const test::TensorPlan& p : test::plan_tensors(config)) {
      const bool fp8 = config.fp8 && p.kind == test::TensorPlan::Kind::linear;
      add(p.name,
          fp8                                      ? DType::f8_e4m3
          : p.kind == test::TensorPlan::Kind::bias ? DType::f32
                                                   : DType::bf16,
          p.shape);
      if (fp8) add(p.name + "_scale_inv", DType::f32, {(p.shape[0] + 127) / 128, (p.shape[1] + 127) / 128});
    }
    header += "}";
    test::TempDir dir;
    dir.write("model.safetensors", test::raw_file(header));
    try {
      dir.resize("model.safetensors", 8 + header.size() + at);
    } catch (const std::filesystem::filesystem_error& e) {
      MESSAGE("this file system holds no file of " << at << " bytes: " << e.what());
      continue;
    }
    const double begin = test::cpu_seconds();
    const Checkpoint checkpoint = Checkpoint::open(FileSet::directory(dir.path()));
    std::vector<std::string> unknown;
    const Weights w = bind_weights(checkpoint, config, {}, &unknown);
    const double took = test::cpu_seconds() - begin;
    MESSAGE(std::string(k.name) << ": " << checkpoint.tensors().size() << " tensors opened and bound in "
                                << took << " s");
    CHECK(unknown.empty());
    CHECK(static_cast<double>(w.bytes_total) / 1e9 == doctest::Approx(k.total_gb).epsilon(1e-3));
    CHECK(static_cast<double>(w.bytes_per_token) / 1e9 == doctest::Approx(k.token_gb).epsilon(5e-3));
    std::int64_t sliced = 0;
    for (int i = 0; i < 8; ++i) sliced = std::max(sliced, slice_weights(w, config, {i, 8}).bytes_total);
    CHECK(sliced < w.bytes_total / 5);
  }
}
