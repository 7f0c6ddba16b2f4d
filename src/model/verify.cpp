#include "src/model/verify.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>

#include "src/base/error.h"
#include "src/base/sha256.h"
#include "src/base/text.h"
#include "src/model/shards.h"

namespace fathom {
namespace {

constexpr std::uint64_t kPiece = 8u << 20;  // bytes of one unit of work
constexpr std::size_t kListed = 20;

// -- scanning -----------------------------------------------------------------------------------------------

// A value is NaN or infinite when all bits of `mask` are set: adding `one` then carries into `top`.
struct LaneTest {
  std::uint64_t mask, one, top;
};
std::optional<LaneTest> lane_test(DType t) {
  switch (t) {
    case DType::f8_e4m3:
      return LaneTest{0x7f7f7f7f7f7f7f7f, 0x0101010101010101, 0x8080808080808080};
    case DType::f8_e5m2:
      return LaneTest{0x7c7c7c7c7c7c7c7c, 0x0404040404040404, 0x8080808080808080};
    case DType::bf16:
      return LaneTest{0x7f807f807f807f80, 0x0080008000800080, 0x8000800080008000};
    case DType::f16:
      return LaneTest{0x7c007c007c007c00, 0x0400040004000400, 0x8000800080008000};
    case DType::f32:
      return LaneTest{0x7f8000007f800000, 0x0080000000800000, 0x8000000080000000};
    case DType::f64:
      return LaneTest{0x7ff0000000000000, 0x0010000000000000, 0x8000000000000000};
    default:
      return std::nullopt;
  }
}

bool is_scale(std::string_view name) { return name.ends_with("_scale_inv"); }

struct PieceResult {
  std::uint64_t bad = 0, first = ~std::uint64_t{0};  // elements of the tensor
  bool nonzero = false;
};

// Whether any lane of the bytes is NaN or infinite, and whether any bit is set: eight bytes at a time.
std::pair<bool, bool> scan_words(Bytes bytes, const LaneTest& test) {
  std::uint64_t flagged = 0, seen = 0;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const auto w = load<std::uint64_t>(bytes.data() + i);
    flagged |= (w & test.mask) + test.one;
    seen |= w;
  }
  std::uint64_t last = 0;
  std::memcpy(&last, bytes.data() + i, bytes.size() - i);
  flagged |= (last & test.mask) + test.one;
  return {(flagged & test.top) != 0, (seen | last) != 0};
}

bool unsound_scale(float s) { return !(s > 0) || !std::isnormal(s) || !std::isfinite(s * 448.0f); }

bool unsound_value(DType type, const std::byte* data, std::size_t i) {
  if (type == DType::f64) return !std::isfinite(load<double>(data + 8 * i));
  if (type == DType::f8_e5m2) return (load<std::uint8_t>(data + i) & 0x7c) == 0x7c;
  return !std::isfinite(element_as_float(type, data, i));
}

PieceResult scan_piece(const TensorView& t, bool scale, std::uint64_t begin, std::uint64_t end) {
  PieceResult r;
  const Bytes bytes(t.data + begin, end - begin);
  const auto test = lane_test(t.dtype);
  // Integers and E8M0 have no lane test; only "any bit set" is asked of them then.
  const auto [flagged, nonzero] = scan_words(bytes, test.value_or(LaneTest{0, 0, 0}));
  r.nonzero = nonzero;
  if (!flagged && !scale) return r;
  const std::size_t size = dtype_size(t.dtype);
  for (std::uint64_t i = begin / size; i < end / size; ++i) {
    const bool bad =
        scale ? unsound_scale(element_as_float(t.dtype, t.data, i)) : unsound_value(t.dtype, t.data, i);
    if (!bad) continue;
    ++r.bad;
    r.first = std::min(r.first, i);
  }
  return r;
}

struct Piece {
  std::size_t tensor;
  std::uint64_t begin, end;
};

std::string coordinates(const TensorView& t, std::uint64_t element) {
  std::vector<std::string> at(t.shape.size());
  for (std::size_t d = t.shape.size(); d-- > 0;) {
    const auto n = static_cast<std::uint64_t>(t.shape[d]);
    at[d] = fmt::format("{}", element % n);
    element /= n;
  }
  std::string out = "(";
  for (const std::string& s : at) out += (out.size() == 1 ? "" : ", ") + s;
  return out + ")";
}

std::string describe_errors(const std::string& name, const TensorView& t, const PieceResult& r) {
  const std::string what = is_scale(name) ? "zero, negative, denormal, too large or NaN" : "NaN or infinite";
  return fmt::format("{} of {} values {} {}, the first at {}", r.bad, t.bytes / dtype_size(t.dtype),
                     r.bad == 1 ? "is" : "are", what, coordinates(t, r.first));
}

// -- expected hashes ----------------------------------------------------------------------------------------

bool is_sha256(std::string_view s) {
  return s.size() == 64 && s.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// "<64 hex> [ *]NAME" lines, as sha256sum writes them.
std::optional<std::string> from_sums(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find_first_of("\r\n"));
    if (line.size() > 66 && is_sha256(line.substr(0, 64)) && line.substr(66) == name)
      return std::string(line.substr(0, 64));
    const auto end = text.find('\n');
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return std::nullopt;
}

}  // namespace

ValueReport scan_values(const Checkpoint& checkpoint, Threads& threads, const VerifyProgress& progress) {
  ValueReport report;
  std::vector<std::pair<const std::string*, const TensorView*>> tensors;
  std::vector<Piece> pieces;
  for (const auto& [name, view] : checkpoint.tensors()) {
    for (std::uint64_t at = 0; at < view.bytes; at += kPiece)
      pieces.push_back({tensors.size(), at, std::min<std::uint64_t>(view.bytes, at + kPiece)});
    tensors.emplace_back(&name, &view);
    report.bytes += view.bytes;
  }
  report.tensors = tensors.size();
  // In file order, so that a disk is read forwards.
  std::sort(pieces.begin(), pieces.end(), [&](const Piece& a, const Piece& b) {
    return tensors[a.tensor].second->data + a.begin < tensors[b.tensor].second->data + b.begin;
  });
  std::vector<PieceResult> results(tensors.size());
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::uint64_t done = 0;
  threads.run([&](int) {
    for (std::size_t i = next++; i < pieces.size(); i = next++) {
      const Piece& p = pieces[i];
      const auto& [name, view] = tensors[p.tensor];
      const PieceResult r = scan_piece(*view, is_scale(*name), p.begin, p.end);
      const std::lock_guard lock(mutex);
      PieceResult& sum = results[p.tensor];
      sum = {sum.bad + r.bad, std::min(sum.first, r.first), sum.nonzero || r.nonzero};
      done += p.end - p.begin;
      if (progress) progress(done, report.bytes);
    }
  });
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, view] = tensors[i];
    const PieceResult& r = results[i];
    if (r.bad > 0) report.errors.push_back({*name, describe_errors(*name, *view, r), r.first, r.bad});
    if (!r.nonzero && view->bytes > 0)
      report.notes.push_back({*name, "holds nothing but zeros", 0, view->bytes / dtype_size(view->dtype)});
  }
  return report;
}

void require_sound(const ValueReport& report, const Checkpoint& checkpoint) {
  if (report.ok()) return;
  std::string message = fmt::format("{}: {} of {} tensors hold values that no model has",
                                    checkpoint.files().label(), report.errors.size(), report.tensors);
  for (std::size_t i = 0; i < std::min(report.errors.size(), kListed); ++i)
    message += fmt::format("\n  {}: {}", printable(report.errors[i].tensor), report.errors[i].problem);
  if (report.errors.size() > kListed)
    message += fmt::format("\n  and {} more", report.errors.size() - kListed);
  throw Error(Exit::bad_checkpoint, std::move(message),
              "download the shards that hold them again, or run verify --hash")
      .at(checkpoint.shards()[checkpoint.shard_of(report.errors[0].tensor)].name);
}

std::string hash_file(const FileSet& files, const std::string& name, const VerifyProgress& progress) {
  Sha256 hash;
  if (const auto bytes = files.memory_bytes(name)) {
    hash.update(*bytes);
    return hash.hex_digest();
  }
  const File file = files.open(name);
  std::vector<std::byte> buffer(std::min<std::uint64_t>(file.size(), kPiece));
  for (std::uint64_t at = 0; at < file.size(); at += buffer.size()) {
    const std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(buffer.size(), file.size() - at));
    file.read_at(at, part);
    hash.update(part);
    if (progress) progress(at + part.size(), file.size());
  }
  return hash.hex_digest();
}

std::optional<ExpectedHash> expected_hash(const FileSet& files, const std::string& name) {
  if (!files.on_disk()) return std::nullopt;
  if (const auto target = files.link_target(name)) {
    const std::string blob = target->substr(target->rfind('/') + 1);
    if (is_sha256(blob)) return ExpectedHash{blob, "the name of its blob in the Hub cache"};
  }
  if (const auto record = download_record(files, name))
    if (is_sha256(record->etag)) return ExpectedHash{record->etag, "its download metadata"};
  for (const char* sums : {"SHA256SUMS", "SHA256SUMS.txt"})
    if (const auto text = files.read_below(sums, 1u << 20))
      if (const auto hex = from_sums(*text, name)) return ExpectedHash{*hex, sums};
  return std::nullopt;
}

}  // namespace fathom
