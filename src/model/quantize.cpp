#include "src/model/quantize.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/model/config.h"
#include "src/model/save.h"
#include "src/model/weights.h"

namespace fathom {
namespace {

constexpr std::int64_t kBlock = 128;
constexpr std::uint64_t kCopyPiece = 8u << 20;
constexpr std::uint64_t kMaxOtherFile = 256u << 20;  // tokenizers have up to 20 MB

std::int64_t blocks_of(std::int64_t n) { return (n + kBlock - 1) / kBlock; }

// -- reading the source -------------------------------------------------------------------------------------

// One shard of the source, read piece by piece: mapping it would count every page read as memory in use.
class Source {
 public:
  Source(const FileSet& files, const Checkpoint::Shard& shard) : shard_(shard) {
    if (files.on_disk()) file_.emplace(files.open(shard.name));
  }
  void read(const TensorView& t, std::uint64_t offset, std::span<std::byte> out) const {
    const auto at = static_cast<std::uint64_t>(t.data - shard_.blob.bytes().data()) + offset;
    if (file_) return file_->read_at(at, out);
    const Bytes piece = shard_.blob.bytes().subspan(at, out.size());
    std::copy(piece.begin(), piece.end(), out.begin());
  }

 private:
  const Checkpoint::Shard& shard_;
  std::optional<File> file_;
};

// -- one shard ----------------------------------------------------------------------------------------------

struct Job {
  const Checkpoint& checkpoint;
  const std::string& destination;
  Threads& threads;
  const std::function<void(const QuantizeProgress&)>& progress;
  QuantizeProgress state;
  QuantizeReport report;
  std::map<std::string, std::string> weight_map;

  void advance(std::uint64_t bytes) {
    state.done += bytes;
    if (progress) progress(state);
  }
};

void copy_tensor(Job& job, const Source& source, const TensorView& t, ShardWriter& writer,
                 std::size_t index) {
  std::vector<std::byte> buffer(std::min<std::uint64_t>(t.bytes, kCopyPiece));
  for (std::uint64_t at = 0; at < t.bytes; at += kCopyPiece) {
    const std::span<std::byte> part(buffer.data(), std::min(kCopyPiece, t.bytes - at));
    source.read(t, at, part);
    writer.write(index, at, part);
    job.advance(part.size());
  }
  ++job.report.copied;
}

void to_float(const TensorView& t, const std::vector<std::byte>& raw, std::vector<float>& out,
              Threads& threads) {
  threads.for_range(static_cast<std::int64_t>(out.size()), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      out[i] = element_as_float(t.dtype, raw.data(), i);
  });
}

void quantise_tensor(Job& job, const Source& source, const std::string& name, const TensorView& t,
                     ShardWriter& writer, std::size_t codes_index, std::size_t scales_index) {
  const std::int64_t rows = t.shape[0], cols = t.shape[1], grid_cols = blocks_of(cols);
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * dtype_size(t.dtype);
  for (std::int64_t row = 0; row < rows; row += kBlock) {
    const std::int64_t band = std::min(kBlock, rows - row);
    const auto count = static_cast<std::size_t>(band * cols);
    std::vector<std::byte> raw(static_cast<std::size_t>(band) * row_bytes);
    std::vector<float> values(count), scales(static_cast<std::size_t>(grid_cols));
    std::vector<std::uint8_t> codes(count);
    source.read(t, static_cast<std::uint64_t>(row) * row_bytes, raw);
    to_float(t, raw, values, job.threads);
    if (!quantize_band(values.data(), band, cols, codes.data(), scales.data(), job.threads))
      throw Error(Exit::bad_checkpoint, fmt::format("{}: rows {} to {} hold a value that is NaN or infinite",
                                                    name, row, row + band - 1));
    writer.write(codes_index, static_cast<std::uint64_t>(row * cols), std::as_bytes(std::span(codes)));
    writer.write(scales_index, static_cast<std::uint64_t>(row / kBlock * grid_cols) * sizeof(float),
                 std::as_bytes(std::span(scales)));
    job.advance(raw.size());
  }
  ++job.report.quantised;
}

// By name, and only what can be: a stray tensor of another rank or type is copied.
bool quantises(const std::string& name, const TensorView& t) {
  const bool floating = t.dtype == DType::bf16 || t.dtype == DType::f16 || t.dtype == DType::f32;
  return is_quantised_weight(name) && floating && t.shape.size() == 2;
}

std::vector<TensorInfo> plan_shard(const std::vector<std::pair<std::string, const TensorView*>>& tensors) {
  std::vector<TensorInfo> plan;
  for (const auto& [name, t] : tensors) {
    const bool quantised = quantises(name, *t);
    plan.push_back({name, quantised ? DType::f8_e4m3 : t->dtype, t->shape});
    if (quantised)
      plan.push_back({name + "_scale_inv", DType::f32, {blocks_of(t->shape[0]), blocks_of(t->shape[1])}});
  }
  return plan;
}

void write_shard(Job& job, const Checkpoint::Shard& shard,
                 const std::vector<std::pair<std::string, const TensorView*>>& tensors) {
  job.state.shard = shard.name;
  ShardWriter writer(job.destination + "/" + shard.name, plan_shard(tensors));
  std::map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < writer.tensors().size(); ++i) {
    index.emplace(writer.tensors()[i].name, i);
    job.weight_map.emplace(writer.tensors()[i].name, shard.name);
  }
  const Source source(job.checkpoint.files(), shard);
  for (const auto& [name, t] : tensors) {
    if (quantises(name, *t)) {
      quantise_tensor(job, source, name, *t, writer, index.at(name), index.at(name + "_scale_inv"));
    } else {
      copy_tensor(job, source, *t, writer, index.at(name));
    }
  }
  writer.commit();
  job.report.bytes_after += writer.data_bytes();
}

// -- the other files ----------------------------------------------------------------------------------------

void write_config(const FileSet& source, const std::string& path) {
  const Blob text = source.read("config.json", 4u << 20);
  const json::Value root = json::parse(text.text(), "config.json");
  std::string out = "{";
  for (const auto& [key, value] : root.as_object())
    if (key != "quantization_config")
      out += fmt::format("{}\n  {}: {}", out.size() == 1 ? "" : ",", json::quote(key), json::dump(value));
  out += fmt::format(
      "{}\n  \"quantization_config\": {}\n}}\n", out.size() == 1 ? "" : ",",
      R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8","weight_block_size":[128,128]})");
  AtomicFile file(path);
  file.write(out);
  file.commit();
}

// Tokenizer, template, generation settings, licence: what a user of the checkpoint needs beside the weights.
bool is_companion(std::string_view name) {
  constexpr std::array<std::string_view, 8> kSuffixes{".json", ".jinja", ".model",    ".txt",
                                                      ".md",   ".py",    ".tiktoken", ".jsonl"};
  if (name.starts_with('.') || name == "config.json" || name.ends_with(".index.json")) return false;
  return name.starts_with("LICENSE") || std::any_of(kSuffixes.begin(), kSuffixes.end(),
                                                    [&](std::string_view s) { return name.ends_with(s); });
}

void copy_companions(const FileSet& source, const std::string& destination) {
  for (const std::string& name : source.list()) {
    if (!is_companion(name)) continue;
    AtomicFile file(destination + "/" + name);
    file.write(source.read(name, kMaxOtherFile).bytes());
    file.commit();
  }
}

void require_empty(const std::string& destination) {
  make_directory(destination);
  const std::vector<std::string> present = FileSet::directory(destination).list();
  if (!present.empty())
    throw Error(
        Exit::usage,
        fmt::format("{}: expected an empty or new directory, found {} files", destination, present.size()),
        "name another directory; nothing is overwritten")
        .at(destination);
}

}  // namespace

bool is_quantised_weight(std::string_view name) {
  constexpr std::array<std::string_view, 9> kLinear{
      ".q_proj.weight",    ".q_a_proj.weight", ".q_b_proj.weight",  ".kv_a_proj_with_mqa.weight",
      ".kv_b_proj.weight", ".o_proj.weight",   ".gate_proj.weight", ".up_proj.weight",
      ".down_proj.weight"};
  return name.starts_with("model.layers.") &&
         std::any_of(kLinear.begin(), kLinear.end(), [&](std::string_view s) { return name.ends_with(s); });
}

bool quantize_band(const float* values, std::int64_t rows, std::int64_t cols, std::uint8_t* codes,
                   float* scales, Threads& threads) {
  std::atomic<bool> finite{true};
  threads.for_range(cols, kBlock, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c0 = begin; c0 < end; c0 += kBlock) {
      const std::int64_t c1 = std::min(c0 + kBlock, end);
      float amax = 0;
      bool sound = true;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = c0; c < c1; ++c) {
          const float a = std::fabs(values[r * cols + c]);
          sound &= a <= std::numeric_limits<float>::max();
          amax = std::max(amax, a);
        }
      if (!sound) finite = false;
      // A block too small for a normal scale is stored as zeros of scale 2^-126.
      const float scale = amax == 0 ? 1.0f : std::max(amax / 448.0f, std::numeric_limits<float>::min());
      scales[c0 / kBlock] = scale;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = c0; c < c1; ++c)
          codes[r * cols + c] = float_to_e4m3(values[r * cols + c] / scale);
    }
  });
  return finite;
}

QuantizeReport quantize_checkpoint(const FileSet& source, const std::string& destination, Threads& threads,
                                   const std::function<void(const QuantizeProgress&)>& progress) {
  const Config config = read_config(source);
  if (config.fp8)
    throw Error(Exit::unsupported, fmt::format("{}: already an FP8 checkpoint", source.label()))
        .at("config.json");
  const Checkpoint checkpoint = Checkpoint::open(source);
  bind_weights(checkpoint, config, {.mtp = true});  // a source that would not load is not worth quantising
  require_empty(destination);
  Job job{checkpoint, destination, threads, progress, {}, {}, {}};
  std::vector<std::vector<std::pair<std::string, const TensorView*>>> by_shard(checkpoint.shards().size());
  for (const auto& [name, t] : checkpoint.tensors()) {
    by_shard[checkpoint.shard_of(name)].emplace_back(name, &t);
    job.state.total += t.bytes;
  }
  job.report.bytes_before = job.state.total;
  for (std::size_t i = 0; i < by_shard.size(); ++i) write_shard(job, checkpoint.shards()[i], by_shard[i]);
  if (by_shard.size() > 1 || source.has("model.safetensors.index.json"))
    write_index(destination + "/model.safetensors.index.json", job.weight_map, job.report.bytes_after);
  copy_companions(source, destination);
  checkpoint.check_unchanged();
  write_config(source, destination + "/config.json");
  return job.report;
}

}  // namespace fathom
