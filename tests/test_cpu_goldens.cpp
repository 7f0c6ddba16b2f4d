// The CPU pass against values from transformers (float32) and NumPy (float64): scripts/goldens/README.md.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>

#include "src/model/checkpoint.h"
#include "tests/test_cpu_support.h"

using namespace fathom;
using namespace fathom::test;

namespace {

constexpr double kTolerance = 1e-4;  // ||a - b|| / ||b|| of a stage's tensor (issue: From an empty folder)

// goldens.safetensors read as a checkpoint of its own.
class Goldens {
 public:
  explicit Goldens(const std::string& directory)
      : bytes_(read_file(directory + "/goldens.safetensors", 64 << 20)),
        file_(Checkpoint::open(FileSet::memory("goldens", {{"model.safetensors", as_bytes_of(bytes_)}}))) {}

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<float> values(const std::string& name) const {
    const TensorView& t = *file_.find(name);
    std::vector<float> out;
    for (std::size_t i = 0; i < t.bytes / 4; ++i)
      out.push_back(t.dtype == DType::i32 ? static_cast<float>(load<std::int32_t>(t.data + 4 * i))
                                          : load<float>(t.data + 4 * i));
    return out;
  }
  std::vector<std::int32_t> ids(const std::string& name) const {
    std::vector<std::int32_t> out;
    for (float v : values(name)) out.push_back(static_cast<std::int32_t>(v));
    return out;
  }
  // Names under "CASE/" that a pass writes.
  std::vector<std::string> stages(const std::string& kase) const {
    std::vector<std::string> out;
    for (const auto& [name, view] : file_.tensors())
      if (name.starts_with(kase + "/") && !name.ends_with("/gap") && !name.ends_with("top2_gap") &&
          !name.ends_with("argmax") && !name.ends_with("input_ids") && !name.ends_with("hidden_in"))
        out.push_back(name.substr(kase.size() + 1));
    return out;
  }

 private:
  std::string bytes_;
  Checkpoint file_;
};

// Collects what every step writes, rows of later calls behind those of earlier ones.
class Collector {
 public:
  void operator()(Step s, const Activations& a) {
    const auto put = [&](const char* value, const auto& data) {
      auto& to = values[fmt::format("{}/{}/{}", row_of(s.stage).name, s.layer, value)];
      for (auto v : data) to.push_back(static_cast<float>(v));
    };
    switch (s.stage) {
      case Stage::Embed:
      case Stage::MtpInput:
      case Stage::AttnReduce:
      case Stage::FfnReduce:
        return put("x", a.x);
      case Stage::AttnNorm:
      case Stage::FfnNorm:
      case Stage::FinalNorm:
        return put("normed", a.normed);
      case Stage::Latents:
        return put("q_latent", a.q_latent), put("kv_row", a.kv_row), put("kv_stored", stored(a.kv_row));
      case Stage::Query:
        return put("q", a.q);
      case Stage::Attend:
        return put("attn", a.attn);
      case Stage::AttnOut:
      case Stage::Dense:
      case Stage::Combine:
        return put("delta", a.delta);
      case Stage::Route:
        return put("expert_ids", a.expert_ids), put("expert_weights", a.expert_weights);
      case Stage::Shared:
        return put("shared", a.shared);
      case Stage::Routed:
        return put("expert_out", a.expert_out);
      case Stage::Logits:
        return put("logits", a.logits);
    }
  }
  std::map<std::string, std::vector<float>> values;

 private:
  static std::vector<float> stored(std::vector<float> row) {
    for (float& v : row) v = round_to_bf16(v);
    return row;
  }
};

struct Golden {
  explicit Golden(const std::string& name)
      : directory("tests/goldens/" + name),
        files(FileSet::directory(directory)),
        config(read_config(files)),
        checkpoint(Checkpoint::open(files)),
        goldens(directory) {}
  std::string directory;
  FileSet files;
  Config config;
  Checkpoint checkpoint;
  Goldens goldens;
};

struct Case {
  std::string name;
  Numerics numerics;
};

// Runs a case in calls of `step` rows and compares every value of it.
void compare(const Golden& g, const Weights& weights, const Case& kase, std::size_t step, cpu::Isa isa) {
  const auto tokens = g.goldens.ids(kase.name + "/input_ids");
  const bool mtp = kase.name == "mtp";
  std::vector<float> hidden;
  if (mtp) hidden = g.goldens.values("mtp/hidden_in");
  Threads threads(2);
  Exchange alone;
  CpuForwardOptions options;
  options.numerics = kase.numerics;
  options.capacity = 512;
  options.mtp = mtp;
  options.isa = isa;
  CpuForward pass(g.config, weights, options, threads, alone);
  Collector collector;
  pass.observer = [&](Step s, const Activations& a) { collector(s, a); };
  for (std::size_t begin = 0; begin < tokens.size(); begin += step) {
    std::vector<Row> rows;
    std::vector<int> wanted;
    for (std::size_t i = begin; i < std::min(begin + step, tokens.size()); ++i) {
      wanted.push_back(static_cast<int>(rows.size()));
      rows.push_back({tokens[i], static_cast<std::int32_t>(i), 0, Role::prompt});
    }
    ForwardCall call;
    call.stack = mtp ? Stack::mtp : Stack::main;
    call.rows = rows;
    call.logit_rows = wanted;
    const auto n = static_cast<std::size_t>(g.config.hidden_size);
    if (mtp) call.hidden_in = std::span<const float>(hidden).subspan(begin * n, rows.size() * n);
    pass.forward(call);
  }
  for (const std::string& value : g.goldens.stages(kase.name)) {
    const auto expected = g.goldens.values(kase.name + "/" + value);
    auto got = collector.values[value];
    REQUIRE_MESSAGE(got.size() >= expected.size(), value);
    got.erase(got.begin(), got.end() - static_cast<std::ptrdiff_t>(expected.size()));  // the last rows
    const double error = relative(got, expected);
    CHECK_MESSAGE((value.ends_with("expert_ids") ? got == expected : error <= kTolerance), g.directory, " ",
                  kase.name, " in calls of ", step, " rows, ", cpu::name(isa), ": ", value, " is off by ",
                  error);
  }

  const auto gaps = g.goldens.values(kase.name + "/Logits/-1/top2_gap");
  const auto best = g.goldens.ids(kase.name + "/Logits/-1/argmax");
  const auto& logits = collector.values["Logits/-1/logits"];
  const std::size_t vocabulary = static_cast<std::size_t>(g.config.vocab_size);
  for (std::size_t i = 0; i < gaps.size(); ++i) {
    const auto row = logits.end() - static_cast<std::ptrdiff_t>((gaps.size() - i) * vocabulary);
    const auto top = std::max_element(row, row + static_cast<std::ptrdiff_t>(vocabulary)) - row;
    if (gaps[i] > 10 * kTolerance)
      CHECK(top == best[i]);
    else
      MESSAGE(g.directory, " ", kase.name, " row ", i, ": top-2 gap ", gaps[i],
              " is too small to demand the same id");
  }
}

}  // namespace

TEST_CASE("cpu: every stage agrees with the golden values to 1e-4") {
  const ActivationType fp8 = ActivationType::fp8;
  const std::vector<Case> cases{{"f32", {.cache = CacheType::f32}},
                                {"bf16", {.cache = CacheType::bf16}},
                                {"fp8", {CacheType::f32, fp8, fp8}},
                                {"mtp", {.cache = CacheType::f32}},
                                {"long", {.cache = CacheType::f32}}};
  for (const char* name : {"v3", "v3-e8m0", "v2-lite", "v2", "moonlight", "kimi"}) {
    const Golden g(name);
    const bool mtp = g.goldens.has("mtp/input_ids");
    const Weights weights = bind_weights(g.checkpoint, g.config, {.mtp = mtp});
    int found = 0;
    for (const Case& kase : cases) {
      if (!g.goldens.has(kase.name + "/input_ids")) continue;
      ++found;
      const std::size_t all = 1000, chunk = kase.name == "long" ? 100 : 5;
      for (std::size_t step : {all, chunk, std::size_t{1}}) compare(g, weights, kase, step, cpu::best_isa());
      for (cpu::Isa isa : isas()) compare(g, weights, kase, chunk, isa);
    }
    CHECK(found >= 2);
  }
}
