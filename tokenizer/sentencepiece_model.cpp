#include "tokenizer/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <unordered_set>
#include <utility>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

constexpr std::size_t max_pieces = 1'000'000;
constexpr std::size_t max_piece = 256;  // bytes

// Field numbers of sentencepiece_model.proto.
namespace field {
constexpr std::uint32_t pieces = 1, trainer_spec = 2, normalizer_spec = 3,
                        denormalizer_spec = 5;                                              // ModelProto
constexpr std::uint32_t piece = 1, score = 2, type = 3;                                     // SentencePiece
constexpr std::uint32_t model_type = 3, whitespace_as_suffix = 24, byte_fallback = 35;      // TrainerSpec
constexpr std::uint32_t unk_id = 40;                                                        // TrainerSpec
constexpr std::uint32_t charsmap = 2, dummy_prefix = 3, extra_whitespaces = 4, escape = 5;  // NormalizerSpec
}  // namespace field

constexpr std::uint64_t bpe = 2;  // TrainerSpec.ModelType

// One field of a message: a number or bytes.
struct Field {
  std::uint32_t number = 0;
  std::uint32_t wire = 0;   // 0 varint, 1 fixed 64 bits, 2 bytes, 5 fixed 32 bits
  std::uint64_t value = 0;  // of wire types 0, 1 and 5
  std::string_view bytes;   // of wire type 2
};

// Walks the fields of one message. Sub-messages are walked by further walkers over their bytes: no recursion
// here.
class Walker {
 public:
  // `origin`: the byte offset of `message` in the file, for errors.
  explicit Walker(std::string_view message, std::size_t origin = 0) : message_(message), origin_(origin) {}

  // The next field; nothing at the end.
  std::optional<Field> next() {
    if (at_ == message_.size()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field f;
    f.wire = static_cast<std::uint32_t>(tag & 7u);
    if (tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFFu) broken("a field number out of range");
    f.number = static_cast<std::uint32_t>(tag >> 3);
    switch (f.wire) {
      case 0:
        f.value = varint();
        break;
      case 1:
        f.value = fixed(8);
        break;
      case 2:
        f.bytes = take(varint());
        break;
      case 5:
        f.value = fixed(4);
        break;
      default:
        broken("an unknown wire type");
    }
    return f;
  }
  // Where the last field's bytes begin in the file.
  std::size_t origin_of(const Field& f) const {
    return origin_ + static_cast<std::size_t>(f.bytes.data() - message_.data());
  }
  [[noreturn]] void broken(std::string_view what) const {
    throw Error(Exit::bad_checkpoint,
                fmt::format("not a SentencePiece model: {} at byte {}", what, origin_ + at_))
        .at("tokenizer.model", origin_ + at_);
  }

 private:
  std::uint64_t varint() {
    std::uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == message_.size()) broken("a number cut off");
      const auto b = static_cast<unsigned char>(message_[at_++]);
      if (shift == 63 && b > 1) broken("a number beyond 64 bits");
      v |= std::uint64_t{b & 0x7Fu} << shift;
      if (b < 0x80) return v;
    }
    broken("a number beyond 64 bits");
  }
  std::string_view take(std::uint64_t size) {
    if (size > message_.size() - at_) broken("a field longer than what holds it");
    const std::string_view bytes = message_.substr(at_, static_cast<std::size_t>(size));
    at_ += bytes.size();
    return bytes;
  }
  std::uint64_t fixed(std::size_t size) {
    std::uint64_t v = 0;
    std::size_t i = 0;
    for (const char c : take(size)) v |= std::uint64_t{static_cast<unsigned char>(c)} << (8 * i++);
    return v;
  }

  std::string_view message_;
  std::size_t origin_, at_ = 0;
};

SentencePieceModel::Piece read_piece(std::string_view message, std::size_t origin, std::size_t id) {
  SentencePieceModel::Piece p;
  Walker walker(message, origin);
  while (const auto f = walker.next()) {
    if (f->number == field::piece && f->wire == 2) {
      p.text = f->bytes.substr(0, max_piece + 1);
    } else if (f->number == field::score && f->wire == 5) {
      p.score = std::bit_cast<float>(static_cast<std::uint32_t>(f->value));
    } else if (f->number == field::type && f->wire == 0) {
      if (f->value < 1 || f->value > 6)
        walker.broken(fmt::format("piece {} of the unknown type {}", id, f->value));
      p.type = static_cast<SentencePieceModel::Type>(f->value);
    } else if (f->number <= field::type) {
      walker.broken("a piece's field of the wrong type");
    }
  }
  if (p.text.empty() || p.text.size() > max_piece)
    walker.broken(fmt::format("piece {} is not of 1 to {} bytes, but {}", id, max_piece, p.text.size()));
  if (p.text.find('\0') != p.text.npos) walker.broken(fmt::format("piece {} contains NUL", id));
  for (std::string_view rest = p.text; !rest.empty(); rest.remove_prefix(utf8_sequence(rest).size)) {
    if (utf8_sequence(rest).kind != Utf8Sequence::character)
      walker.broken(fmt::format("piece {} is not valid UTF-8", id));
  }
  if (!std::isfinite(p.score))
    walker.broken(fmt::format("piece {} has a score that is no finite number", id));
  return p;
}

// The settings that decide how text is cut; the defaults are the format's.
struct Settings {
  std::uint64_t model_type = 1, whitespace_as_suffix = 0, byte_fallback = 0;
  std::uint64_t dummy_prefix = 1, extra_whitespaces = 1, escape = 1;
  bool charsmap = false;

  void read_trainer(std::string_view message, std::size_t origin) {
    Walker walker(message, origin);
    while (const auto f = walker.next()) {
      if (f->wire != 0) continue;
      if (f->number == field::model_type) model_type = f->value;
      if (f->number == field::whitespace_as_suffix) whitespace_as_suffix = f->value;
      if (f->number == field::byte_fallback) byte_fallback = f->value;
    }
  }
  void read_normalizer(std::string_view message, std::size_t origin) {
    Walker walker(message, origin);
    while (const auto f = walker.next()) {
      if (f->number == field::charsmap && f->wire == 2 && !f->bytes.empty()) charsmap = true;
      if (f->wire != 0) continue;
      if (f->number == field::dummy_prefix) dummy_prefix = f->value;
      if (f->number == field::extra_whitespaces) extra_whitespaces = f->value;
      if (f->number == field::escape) escape = f->value;
    }
  }
  void check() const {
    const auto refuse = [](std::string_view what) {
      fail(Exit::unsupported,
           "SentencePiece model: expected BPE with byte fallback and the text taken as it is, found {}",
           what);
    };
    if (model_type != bpe)
      refuse(model_type == 1 ? "type unigram" : fmt::format("model type {}", model_type));
    if (byte_fallback == 0) refuse("byte_fallback off");
    if (charsmap) refuse("a precompiled_charsmap (a normaliser)");
    if (dummy_prefix != 0) refuse("add_dummy_prefix on");
    if (extra_whitespaces != 0) refuse("remove_extra_whitespaces on");
    if (escape == 0) refuse("escape_whitespaces off");
    if (whitespace_as_suffix != 0) refuse("treat_whitespace_as_suffix on");
  }
};

void check_pieces(const std::vector<SentencePieceModel::Piece>& pieces) {
  using Type = SentencePieceModel::Type;
  std::unordered_set<std::string_view> seen;
  std::size_t bytes = 0, unknown = 0;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const auto& p = pieces[id];
    const std::string shown = json::quote(p.text);
    if (!seen.insert(p.text).second)
      fail(Exit::bad_checkpoint, "piece {} occurs twice, the second time as {}", shown, id);
    if (p.type == Type::byte && !sentencepiece_byte(p.text))
      fail(Exit::bad_checkpoint, "byte piece {}: expected <0x00> to <0xFF>, found {}", id, shown);
    bytes += p.type == Type::byte ? 1 : 0;
    unknown += p.type == Type::unknown ? 1 : 0;
    // The library would give the character this id.
    if ((p.type == Type::control || p.type == Type::unknown) && utf8_sequence(p.text).size == p.text.size())
      fail(Exit::bad_checkpoint, "control piece {} is the single character {}", id, shown);
  }
  if (bytes != 256) fail(Exit::bad_checkpoint, "expected a piece for each of 256 bytes, found {}", bytes);
  if (unknown != 1) fail(Exit::bad_checkpoint, "expected one piece of the type unknown, found {}", unknown);
}

class Writer {
 public:
  void number(std::uint32_t field, std::uint64_t value) {
    varint(std::uint64_t{field} << 3);
    varint(value);
  }
  void real(std::uint32_t field, float value) {
    varint(std::uint64_t{field} << 3 | 5u);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (unsigned i = 0; i < 4; ++i) out += static_cast<char>(bits >> (8 * i) & 0xFFu);
  }
  void bytes(std::uint32_t field, std::string_view value) {
    varint(std::uint64_t{field} << 3 | 2u);
    varint(value.size());
    out += value;
  }
  std::string out;

 private:
  void varint(std::uint64_t v) {
    for (; v >= 0x80; v >>= 7) out += static_cast<char>((v & 0x7Fu) | 0x80u);
    out += static_cast<char>(v);
  }
};

}  // namespace

std::optional<unsigned> sentencepiece_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : text.substr(3, 2)) {
    const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                                                  : 16;
    if (digit == 16) return std::nullopt;
    value = value * 16 + digit;
  }
  return value;
}

SentencePieceModel SentencePieceModel::parse(std::string_view file) {
  SentencePieceModel model;
  Settings settings;
  Walker walker(file);
  while (const auto f = walker.next()) {
    if (f->number > field::denormalizer_spec) continue;
    if (f->wire != 2) walker.broken("a field of the wrong type");
    const std::size_t origin = walker.origin_of(*f);
    if (f->number == field::pieces) {
      if (model.pieces.size() == max_pieces) walker.broken(fmt::format("more than {} pieces", max_pieces));
      model.pieces.push_back(read_piece(f->bytes, origin, model.pieces.size()));
    } else if (f->number == field::trainer_spec) {
      settings.read_trainer(f->bytes, origin);
    } else if (f->number == field::normalizer_spec) {
      settings.read_normalizer(f->bytes, origin);
    }
  }
  if (model.pieces.empty()) walker.broken("no pieces");
  settings.check();
  check_pieces(model.pieces);
  return model;
}

std::string SentencePieceModel::serialize() const {
  Writer model;
  std::size_t unknown = 0;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    Writer piece;
    piece.bytes(field::piece, pieces[id].text);
    piece.real(field::score, pieces[id].score);
    piece.number(field::type, static_cast<std::uint64_t>(pieces[id].type));
    model.bytes(field::pieces, piece.out);
    if (pieces[id].type == Type::unknown) unknown = id;
  }
  Writer trainer;
  trainer.number(field::model_type, bpe);
  trainer.number(field::byte_fallback, 1);
  trainer.number(field::unk_id, unknown);
  model.bytes(field::trainer_spec, trainer.out);
  Writer normalizer;
  normalizer.number(field::dummy_prefix, 0);
  normalizer.number(field::extra_whitespaces, 0);
  normalizer.number(field::escape, 1);
  model.bytes(field::normalizer_spec, normalizer.out);
  return std::move(model.out);
}

}  // namespace fathom
