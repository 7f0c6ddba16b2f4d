#include "src/model/save.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "src/base/checked.h"
#include "src/base/json.h"

namespace fathom {
namespace {

// The order of types in the format's library; files hold the later ones first.
int type_rank(DType t) {
  constexpr std::array kOrder{DType::boolean, DType::u8,  DType::i8,  DType::f8_e5m2, DType::f8_e4m3,
                              DType::f8_e8m0, DType::i16, DType::f16, DType::bf16,    DType::i32,
                              DType::f32,     DType::f64, DType::i64};
  return static_cast<int>(std::find(kOrder.begin(), kOrder.end(), t) - kOrder.begin());
}

std::vector<TensorEntry> lay_out(std::vector<TensorInfo> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    const int ra = type_rank(a.dtype), rb = type_rank(b.dtype);
    return ra != rb ? ra > rb : a.name < b.name;
  });
  std::vector<TensorEntry> entries;
  Size at = 0;
  for (TensorInfo& t : tensors) {
    Size bytes = dtype_size(t.dtype);
    for (const std::int64_t d : t.shape) bytes = bytes * Size(d);
    const Size end = at + bytes;
    entries.push_back({std::move(t.name), t.dtype, std::move(t.shape), at.value(), end.value()});
    at = end;
  }
  return entries;
}

std::string header_text(const std::vector<TensorEntry>& tensors) {
  std::string out = R"({"__metadata__":{"format":"pt"})";
  for (const TensorEntry& t : tensors)
    out += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json::quote(t.name),
                       dtype_name(t.dtype), fmt::join(t.shape, ","), t.begin, t.end);
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}

}  // namespace

ShardWriter::ShardWriter(std::string path, std::vector<TensorInfo> tensors)
    : file_(path), path_(std::move(path)), tensors_(lay_out(std::move(tensors))) {
  const std::string header = header_text(tensors_);
  std::array<std::byte, 8> length;
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(header.size() >> (8 * i));
  file_.write(length);
  file_.write(header);
  data_offset_ = 8 + header.size();
  data_bytes_ = tensors_.empty() ? 0 : tensors_.back().end;
}

void ShardWriter::write(std::size_t index, std::uint64_t offset, Bytes bytes) {
  const TensorEntry& t = tensors_.at(index);
  if (offset + bytes.size() > t.end - t.begin)
    fail(Exit::failure, "{}: {} bytes too many", t.name, bytes.size());
  file_.write_at(data_offset_ + t.begin + offset, bytes);
  written_ += bytes.size();
}

void ShardWriter::commit() {
  if (written_ != data_bytes_)
    fail(Exit::failure, "{}: {} of {} bytes were written", path_, written_, data_bytes_);
  file_.commit();
}

void write_index(const std::string& path, const std::map<std::string, std::string>& weight_map,
                 std::uint64_t total_size) {
  std::string text =
      fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total_size);
  const char* separator = "\n";
  for (const auto& [tensor, name] : weight_map) {
    text += fmt::format("{}    {}: {}", separator, json::quote(tensor), json::quote(name));
    separator = ",\n";
  }
  text += "\n  }\n}\n";
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace fathom
