#include "src/base/utf8.h"
#include "tokenizer/tokenizer.h"

namespace fathom {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string StreamDecoder::feed(std::int32_t id) { return feed_bytes(tokenizer_->token_bytes(id)); }

std::string StreamDecoder::feed_bytes(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Sequence s = utf8_sequence(rest);
    if (s.kind == Utf8Sequence::incomplete) break;
    out += s.kind == Utf8Sequence::character ? rest.substr(0, s.size) : replacement;
    rest.remove_prefix(s.size);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string StreamDecoder::finish() {
  const bool incomplete = !pending_.empty();
  pending_.clear();
  return incomplete ? std::string(replacement) : std::string();
}

}  // namespace fathom
