#include "src/model/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "src/base/checked.h"
#include "src/base/json.h"
#include "src/base/text.h"
#include "src/model/checkpoint.h"

namespace fathom {
namespace {

constexpr std::size_t kMaxName = 4096;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxTensors =
    500'000;  // the largest published model has about 140,000 in all its shards

// -- not a safetensors file at all --------------------------------------------------------------------------

// What a file that is no safetensors file begins with. Git LFS pointers and error pages are what a failed
// download leaves behind; the other containers are well-formed files that fathom does not read.
struct Lookalike {
  std::string_view magic, name;
  Exit code;
};
constexpr std::array<Lookalike, 9> kLookalikes{{
    {"version https://git-lfs", "a Git LFS pointer, not weights", Exit::bad_checkpoint},
    {"<", "an HTML or XML page, not weights: the download failed", Exit::bad_checkpoint},
    {"\x1f\x8b", "gzip data, not safetensors", Exit::bad_checkpoint},
    {"\x7f"
     "ELF",
     "an executable, not weights", Exit::bad_checkpoint},
    {"GGUF", "a GGUF file; fathom reads safetensors as Hugging Face publishes them", Exit::unsupported},
    {"GGJT", "a GGML file; fathom reads safetensors as Hugging Face publishes them", Exit::unsupported},
    {"PK\x03\x04", "a zip file, such as a PyTorch .bin; fathom reads safetensors", Exit::unsupported},
    {"\x80\x02", "a Python pickle; fathom never executes code from a checkpoint and reads safetensors",
     Exit::unsupported},
    {"\x93NUMPY", "a NumPy file; fathom reads safetensors", Exit::unsupported},
}};

void refuse_lookalike(std::string_view head, std::uint64_t file_size, std::string_view where) {
  const std::size_t text = std::min(head.find_first_not_of(" \t\r\n"), head.size());
  for (const Lookalike& l : kLookalikes) {
    const std::string_view from = l.magic == "<" ? head.substr(text) : head;
    if (!from.starts_with(l.magic)) continue;
    std::string message = fmt::format("{}: {} bytes: {}", where, grouped(file_size), l.name);
    const bool download = l.magic.front() == 'v' || l.magic.front() == '<';
    if (download) throw IncompleteFile(std::move(message), where, 0);
    throw Error(l.code, std::move(message)).at(std::string(where), 0);
  }
}

// -- the header's JSON --------------------------------------------------------------------------------------

// Collects tensors and metadata while the header streams past: nothing is kept but what they hold.
class HeaderEvents : public json::Events {
 public:
  HeaderEvents(SafetensorsHeader& header, std::string_view where) : header_(header), where_(where) {}

  // Set when a tensor has a type that fathom does not know; the rest is checked first.
  std::string unknown_dtype;

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  // Only a literal with a minus sign arrives here, be it -0.
  bool integer(std::int64_t) override { return scalar("a negative number"); }
  bool number(double) override { return scalar("a number with a point or exponent"); }
  bool unsigned_integer(std::uint64_t v) override {
    if (at_ == At::shape) return add_dimension(v);
    if (at_ == At::offsets) return add_offset(v);
    return scalar("a number");
  }
  bool string(std::string&& v) override;
  bool key(std::string&& v) override;
  bool start_object() override;
  bool end_object() override;
  bool start_array() override;
  bool end_array() override;

 private:
  enum class At {
    document,
    names,
    metadata,
    metadata_value,
    tensor,
    fields,
    dtype,
    shape_start,
    shape,
    offsets_start,
    offsets,
    skip
  };

  [[noreturn]] void fail_here(std::string_view problem) const {
    const std::string subject = name_.empty() ? "header" : printable(name_);
    throw Error(Exit::bad_checkpoint, fmt::format("{}: {}: {}", where_, subject, problem))
        .at(std::string(where_), 8);
  }
  bool scalar(std::string_view found) {
    if (at_ == At::skip) return leave_if_skipped();
    fail_here(fmt::format("expected {}, found {}", expected(), found));
  }
  std::string_view expected() const;
  bool leave_if_skipped() {
    if (skip_depth_ == 0) at_ = At::fields;
    return true;
  }
  void check_name(const std::string& v) {
    if (v.size() > kMaxName) {
      name_.clear();
      fail_here(fmt::format("a name of {} bytes, {}: expected at most {}", grouped(v.size()),
                            printable(v, 40), kMaxName));
    }
    if (v.find('\0') != v.npos) fail_here(fmt::format("name {} holds a NUL", printable(v)));
  }
  void start_tensor(std::string&& v);
  bool field(const std::string& v);
  bool add_dimension(std::uint64_t v);
  bool add_offset(std::uint64_t v);
  void finish_tensor();

  SafetensorsHeader& header_;
  std::string_view where_;
  At at_ = At::document;
  std::string name_;  // of the tensor at hand, for messages
  std::size_t skip_depth_ = 0;
  bool metadata_seen_ = false;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, dtype_known_ = false;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t offset_count_ = 0;
  std::vector<std::string> extra_;  // unknown fields of the tensor at hand
};

std::string_view HeaderEvents::expected() const {
  switch (at_) {
    case At::document:
    case At::names:
    case At::tensor:
      return "an object";
    case At::metadata:
      return "an object of strings";
    case At::metadata_value:
      return "a string";
    case At::dtype:
      return "dtype as a string";
    case At::shape_start:
      return "shape as an array";
    case At::shape:
      return "shape of integers from 0";
    case At::offsets_start:
      return "data_offsets as an array";
    case At::offsets:
      return "data_offsets of two integers from 0";
    case At::fields:
    case At::skip:
      break;
  }
  return "a tensor's fields";
}

bool HeaderEvents::key(std::string&& v) {
  if (at_ == At::skip) return true;
  if (at_ == At::names) {
    check_name(v);
    if (v != "__metadata__") return start_tensor(std::move(v)), true;
    name_ = v;
    if (std::exchange(metadata_seen_, true)) fail_here("given twice");
    at_ = At::metadata;
  } else if (at_ == At::metadata_value) {
    for (const auto& m : header_.metadata)
      if (m.first == v) fail_here(fmt::format("duplicate key {}", printable(v)));
    if (header_.metadata.size() >= 10'000) fail_here("more than 10,000 entries");
    header_.metadata.emplace_back(std::move(v), "");
  } else {
    return field(v);
  }
  return true;
}

void HeaderEvents::start_tensor(std::string&& v) {
  if (header_.tensors.size() >= kMaxTensors)
    fail_here(fmt::format("more than {} tensors", grouped(kMaxTensors)));
  name_ = v;
  header_.tensors.push_back({.name = std::move(v), .shape = {}});
  has_dtype_ = has_shape_ = has_offsets_ = false;
  offset_count_ = 0;
  extra_.clear();
  at_ = At::tensor;
}

bool HeaderEvents::field(const std::string& v) {
  const auto once = [&](bool& seen) {
    if (std::exchange(seen, true)) fail_here(fmt::format("{} given twice", v));
  };
  if (v == "dtype") {
    once(has_dtype_);
    at_ = At::dtype;
  } else if (v == "shape") {
    once(has_shape_);
    at_ = At::shape_start;
  } else if (v == "data_offsets") {
    once(has_offsets_);
    at_ = At::offsets_start;
  } else {
    if (std::find(extra_.begin(), extra_.end(), v) != extra_.end() || extra_.size() >= 16)
      fail_here(fmt::format("field {} given twice, or too many unknown fields", printable(v, 40)));
    extra_.push_back(v.substr(0, kMaxName));
    if (header_.notes.size() < 20)
      header_.notes.push_back(
          fmt::format("{}: {}: unknown field {}", where_, printable(name_), printable(v, 40)));
    skip_depth_ = 0;
    at_ = At::skip;
  }
  return true;
}

bool HeaderEvents::string(std::string&& v) {
  if (at_ == At::metadata_value) {
    header_.metadata.back().second = std::move(v);
    return true;
  }
  if (at_ != At::dtype) return scalar("a string");
  const auto type = dtype_from_name(v);
  dtype_known_ = type.has_value();
  if (type) header_.tensors.back().dtype = *type;
  if (!type && unknown_dtype.empty())
    unknown_dtype =
        fmt::format("{}: {}: dtype {} is none that fathom knows", where_, printable(name_), printable(v, 40));
  at_ = At::fields;
  return true;
}

bool HeaderEvents::start_object() {
  switch (at_) {
    case At::document:
      at_ = At::names;
      return true;
    case At::metadata:
      at_ = At::metadata_value;
      return true;
    case At::tensor:
      at_ = At::fields;
      return true;
    case At::skip:
      ++skip_depth_;
      return true;
    default:
      return scalar("an object");
  }
}

bool HeaderEvents::end_object() {
  if (at_ == At::skip) {
    --skip_depth_;
    return leave_if_skipped();
  }
  if (at_ == At::fields) finish_tensor();
  at_ = At::names;  // the document's own end comes here too, and nothing follows it
  return true;
}

bool HeaderEvents::start_array() {
  switch (at_) {
    case At::shape_start:
      at_ = At::shape;
      return true;
    case At::offsets_start:
      at_ = At::offsets;
      return true;
    case At::skip:
      ++skip_depth_;
      return true;
    default:
      return scalar("an array");
  }
}

bool HeaderEvents::end_array() {
  if (at_ == At::skip) {
    --skip_depth_;
    return leave_if_skipped();
  }
  if (at_ == At::offsets && offset_count_ != 2) fail_here("expected two data_offsets");
  at_ = At::fields;
  return true;
}

bool HeaderEvents::add_dimension(std::uint64_t v) {
  auto& shape = header_.tensors.back().shape;
  if (shape.size() == kMaxRank) fail_here(fmt::format("expected a shape of at most {} dimensions", kMaxRank));
  if (v > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    fail_here(fmt::format("dimension {} is too large", v));
  shape.push_back(static_cast<std::int64_t>(v));
  return true;
}

bool HeaderEvents::add_offset(std::uint64_t v) {
  if (offset_count_ == 2) fail_here("expected two data_offsets");
  offsets_[offset_count_++] = v;
  return true;
}

void HeaderEvents::finish_tensor() {
  if (!has_dtype_ || !has_shape_ || !has_offsets_)
    fail_here(fmt::format("no {}", !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : "data_offsets"));
  TensorEntry& t = header_.tensors.back();
  t.begin = offsets_[0];
  t.end = offsets_[1];
  if (t.begin > t.end) fail_here(fmt::format("data_offsets [{}, {}] end before they begin", t.begin, t.end));
  if (dtype_known_) {
    Size bytes = dtype_size(t.dtype);
    try {
      Size elements = 1;
      for (const std::int64_t d : t.shape) elements = elements * Size(d);
      bytes = bytes * elements;
    } catch (const Error&) {
      fail_here("the product of its shape does not fit 64 bits");
    }
    if (bytes != Size(t.end - t.begin))
      fail_here(fmt::format("shape and dtype need {} bytes, data_offsets [{}, {}] hold {}",
                            grouped(bytes.value()), t.begin, t.end, grouped(t.end - t.begin)));
  }
  name_.clear();
}

// -- what the tensors must keep among each other ------------------------------------------------------------

std::vector<std::uint32_t> sorted_tensors(const SafetensorsHeader& h, auto less) {
  std::vector<std::uint32_t> order(h.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return less(h.tensors[a], h.tensors[b]); });
  return order;
}

void check_unique_names(const SafetensorsHeader& h, std::string_view where) {
  const auto order = sorted_tensors(h, [](const auto& a, const auto& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (h.tensors[order[i]].name == h.tensors[order[i - 1]].name)
      throw Error(Exit::bad_checkpoint,
                  fmt::format("{}: {}: given twice", where, printable(h.tensors[order[i]].name)))
          .at(std::string(where), 8);
}

// No overlap, no hole, nothing behind the last tensor.
void check_layout(const SafetensorsHeader& h, std::uint64_t file_size, std::string_view where) {
  const auto order = sorted_tensors(
      h, [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t position = 0;
  for (const std::uint32_t i : order) {
    const TensorEntry& t = h.tensors[i];
    if (t.begin != position)
      throw Error(
          Exit::bad_checkpoint,
          fmt::format("{}: {}: begins at {}, expected {}: {}", where, printable(t.name), t.begin, position,
                      t.begin < position ? "it overlaps the tensor before it" : "a hole before it"))
          .at(std::string(where), h.data_offset + std::min(t.begin, position));
    position = t.end;
  }
  const std::uint64_t present = file_size - h.data_offset;
  if (position > present) {
    const Size needed = Size(h.data_offset) + Size(position);
    throw IncompleteFile(fmt::format("{}: {} bytes, header needs {} ({} missing)", where, grouped(file_size),
                                     grouped(needed.value()), grouped(position - present)),
                         where, file_size);
  }
  if (position < present)
    throw Error(Exit::bad_checkpoint,
                fmt::format("{}: {} bytes, header needs {} ({} too many)", where, grouped(file_size),
                            grouped(h.data_offset + position), grouped(present - position)))
        .at(std::string(where), h.data_offset + position);
}

}  // namespace

std::uint64_t safetensors_header_length(Bytes head, std::uint64_t file_size, std::string_view where) {
  if (file_size == 0) throw IncompleteFile(fmt::format("{}: 0 bytes: an empty file", where), where, 0);
  const bool has_length = file_size >= 8 && head.size() >= 8;
  const std::uint64_t n = has_length ? load<std::uint64_t>(head.data()) : 0;
  const bool opens = head.size() > 8 && head[8] == std::byte{'{'};
  if (!has_length || n > kMaxSafetensorsHeader || n < 2 || !opens)
    refuse_lookalike(as_text(head), file_size, where);
  if (!has_length)
    throw IncompleteFile(fmt::format("{}: {} bytes, expected at least 8", where, file_size), where, 0);
  const auto bad = [&](std::string problem, std::uint64_t offset) {
    throw Error(Exit::bad_checkpoint, fmt::format("{}: {}", where, problem)).at(std::string(where), offset);
  };
  if (n > kMaxSafetensorsHeader)
    bad(fmt::format("a header of {} bytes, expected at most {}: not a safetensors file", grouped(n),
                    grouped(kMaxSafetensorsHeader)),
        0);
  if (n < 2) bad(fmt::format("a header of {} bytes, expected at least 2", n), 0);
  if (n > file_size - 8)
    throw IncompleteFile(fmt::format("{}: {} bytes, its header alone needs {} ({} missing)", where,
                                     grouped(file_size), grouped(n + 8), grouped(n + 8 - file_size)),
                         where, file_size);
  if (!opens) bad("the header does not begin with '{'", 8);
  return n;
}

SafetensorsHeader parse_safetensors_header(Bytes prefix, std::uint64_t file_size, std::string_view where) {
  const std::uint64_t n = safetensors_header_length(prefix, file_size, where);
  if (prefix.size() < 8 + n)
    fail(Exit::failure, "{}: only {} bytes of the header were read", where, prefix.size());
  const std::string_view text = as_text(prefix.subspan(8, n));
  if (const auto last = text.find_last_not_of(' '); text[last] != '}')
    throw Error(Exit::bad_checkpoint, fmt::format("{}: the header does not end with '}}' and spaces", where))
        .at(std::string(where), 8 + last);
  SafetensorsHeader header;
  header.data_offset = 8 + n;
  HeaderEvents events(header, where);
  json::parse_events(text, where, events, Exit::bad_checkpoint,
                     {.depth = 16, .nodes = kMaxSafetensorsHeader, .bytes = kMaxSafetensorsHeader});
  check_unique_names(header, where);
  check_layout(header, file_size, where);
  if (!events.unknown_dtype.empty())
    throw Error(Exit::unsupported, events.unknown_dtype).at(std::string(where), 8);
  return header;
}

}  // namespace fathom
