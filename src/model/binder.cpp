#include "src/model/binder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "src/base/checked.h"
#include "src/base/text.h"

namespace fathom {
namespace {

constexpr std::size_t kListed = 20;     // lines of one error
constexpr std::size_t kGiveUp = 1'000;  // problems

std::optional<WeightFormat> plain_format(DType t) {
  switch (t) {
    case DType::f32:
      return formats::f32;
    case DType::f16:
      return formats::f16;
    case DType::bf16:
      return formats::bf16;
    default:
      return std::nullopt;
  }
}

std::int64_t blocks_of(std::int64_t n) { return Size(n).ceil_div(128).to<std::int64_t>(); }

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

// A naming scheme that is not Hugging Face's, told by one tensor that only it has.
struct Scheme {
  std::string_view prefix, suffix;
  std::string_view what, remedy;
};
constexpr std::array<Scheme, 9> kSchemes{{
    {"embed.weight", "", "the original DeepSeek names, not Hugging Face's",
     "use the checkpoint as deepseek-ai publishes it on the Hub, before its conversion for inference/"},
    {"tok_embeddings.weight", "", "Mistral's own names",
     "fathom runs DeepSeek-V2/V3-shaped Hugging Face checkpoints"},
    {"language_model.", "", "a multimodal checkpoint, its text model nested", "fathom runs text models"},
    {"model.language_model.", "", "a multimodal checkpoint, its text model nested",
     "fathom runs text models"},
    {"model.layers.", ".mlp.experts.gate_up_proj", "experts fused by transformers 5",
     "use the checkpoint as first published, one tensor per expert and projection"},
    {"model.layers.", ".weight_packed", "packed 4-bit weights (compressed-tensors)",
     "use the FP8 or BF16 checkpoint"},
    {"model.layers.", ".qweight", "packed 4-bit weights (AWQ or GPTQ)", "use the FP8 or BF16 checkpoint"},
    {"model.layers.", ".weight_scale", "FP8 weights with scales per tensor or channel, or NVFP4",
     "use the checkpoint with 128x128 block scales (weight_scale_inv)"},
    {"model.layers.", ".weight_scale_2", "NVFP4 weights", "use the FP8 or BF16 checkpoint"},
}};

}  // namespace

void check_naming(const Checkpoint& checkpoint) {
  for (const auto& [name, view] : checkpoint.tensors()) {
    for (const Scheme& s : kSchemes) {
      const bool whole = s.suffix.empty() && !s.prefix.ends_with('.');
      if (whole ? name != s.prefix : !name.starts_with(s.prefix) || !name.ends_with(s.suffix)) continue;
      throw Error(Exit::unsupported, fmt::format("{}: {}", printable(name), s.what), std::string(s.remedy))
          .at(checkpoint.shards()[checkpoint.shard_of(name)].name);
    }
  }
}

const TensorView* Binder::take(const std::string& name) {
  const TensorView* t = checkpoint_.find(name);
  if (t == nullptr) {
    wrong(name, "missing");
  } else if (taken_.insert(t).second) {
    bytes_ += static_cast<std::int64_t>(t->bytes);
  }
  return t;
}

void Binder::wrong(const std::string& name, std::string problem) {
  problems_.push_back(name + ": " + std::move(problem));
  if (problems_.size() == kGiveUp) check();
}

void Binder::know(const std::string& name) {
  if (const TensorView* t = checkpoint_.find(name)) taken_.insert(t);
}

bool Binder::check_shape(const std::string& name, const TensorView& t,
                         const std::vector<std::int64_t>& shape) {
  if (t.shape == shape) return true;
  wrong(name, fmt::format("expected {} {}, found {}", shape_text(shape), dtype_name(t.dtype), describe(t)));
  return false;
}

std::vector<float> Binder::vector(const std::string& name, std::int64_t n) {
  const TensorView* t = take(name);
  if (t == nullptr || !check_shape(name, *t, {n})) return {};
  if (!plain_format(t->dtype)) {
    unsupported_.push_back(fmt::format("{}: expected BF16, F16 or F32, found {}", name, describe(*t)));
    return {};
  }
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = element_as_float(t->dtype, t->data, i);
  return values;
}

Linear Binder::matrix(const std::string& name, std::int64_t rows, std::int64_t cols,
                      Quantisable quantisable) {
  const TensorView* t = take(name);
  if (t == nullptr || !check_shape(name, *t, {rows, cols})) return {};
  if (t->dtype == DType::f8_e4m3 && quantisable == Quantisable::yes) return fp8_matrix(name, *t);
  const auto format = plain_format(t->dtype);
  if (!format) {
    unsupported_.push_back(fmt::format(
        "{}: expected {}, found {}", name,
        quantisable == Quantisable::yes ? "F8_E4M3, BF16, F16 or F32" : "BF16, F16 or F32", describe(*t)));
    return {};
  }
  if (has(name + "_scale_inv"))
    wrong(name, fmt::format("{} with a scale grid: expected F8_E4M3", dtype_name(t->dtype)));
  return make_linear(*t, nullptr, *format);
}

const TensorView* Binder::take_scale(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const TensorView* scale = take(name + "_scale_inv");
  if (scale == nullptr || !check_shape(name + "_scale_inv", *scale, {blocks_of(rows), blocks_of(cols)}))
    return nullptr;
  if (scale->dtype == DType::f32 || scale->dtype == DType::f8_e8m0) return scale;
  unsupported_.push_back(
      fmt::format("{}_scale_inv: expected F32 or F8_E8M0, found {}", name, describe(*scale)));
  return nullptr;
}

Linear Binder::fp8_matrix(const std::string& name, const TensorView& weight) {
  if (!config_.fp8) wrong(name, "F8_E4M3, but config.json has no quantization_config");
  const TensorView* scale = take_scale(name, weight.shape[0], weight.shape[1]);
  if (scale == nullptr) return {};
  return make_linear(weight, scale, scale->dtype == DType::f32 ? formats::fp8_f32 : formats::fp8_e8m0);
}

void Binder::check() const {
  const bool bad = !problems_.empty();
  std::vector<std::string> lines = bad ? problems_ : unsupported_;
  if (lines.empty()) return;
  const std::size_t count = lines.size();
  lines.resize(std::min(count, kListed));
  std::string message =
      count == 1 ? lines[0]
                 : fmt::format("{}: {}{} tensors do not fit config.json\n  {}", checkpoint_.files().label(),
                               count < kGiveUp ? "" : "at least ", count, fmt::join(lines, "\n  "));
  if (count > kListed) message += fmt::format("\n  and {} more", count - kListed);
  throw Error(bad ? Exit::bad_checkpoint : Exit::unsupported, std::move(message),
              bad ? "config.json and weights of one revision belong together: download the checkpoint again"
                  : "use the checkpoint as its makers published it in FP8 or BF16");
}

std::vector<std::string> Binder::unknown() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : checkpoint_.tensors())
    if (!taken_.contains(&view) && !name.ends_with(".rotary_emb.inv_freq")) names.push_back(name);
  return names;
}

}  // namespace fathom
