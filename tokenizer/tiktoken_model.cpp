// tiktoken.model of Kimi-K2 and Moonlight: one token per line, base64 and rank. Pieces merge by the rank of
// the token that two neighbours make; control tokens stand in tokenizer_config.json.
#include <array>
#include <charconv>
#include <utility>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/json.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/loaders.h"

namespace fathom {
namespace {

constexpr std::size_t max_token = 512;  // bytes
constexpr std::size_t max_tokens = 1'000'000;

// The pattern of the publisher's tokenization_kimi.py. There it is written with class intersections,
//   U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]   L = [\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]],
// which PCRE2 lacks: here both are complements, of every other general category and of the script Han. S
// stands for white space.
//   \p{Han}+ | [^\r\n\p{L}\p{N}]? U* L+ suffix? | [^\r\n\p{L}\p{N}]? U+ L* suffix? | \p{N}{1,3}
//   | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
constexpr std::string_view pattern_template =
    R"(\p{sc:Han}+)"
    R"(|[^\r\n\p{L}\p{N}]?[^\p{Ll}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{sc:Han}]*[^\p{Lu}\p{Lt}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{sc:Han}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[^\p{Ll}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{sc:Han}]+[^\p{Lu}\p{Lt}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{sc:Han}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^%\p{L}\p{N}]+[\r\n]*|[%]*[\r\n]+|[%]+(?![^%])|[%]+)";

Pretokenizer kimi_pretokenizer() {
  std::string pattern;
  for (const char c : pattern_template) {
    if (c == '%') {
      pattern += unicode_white_space;
    } else {
      pattern += c;
    }
  }
  Pretokenizer p;
  p.add_split(Regex::pcre2(pattern), SplitBehavior::isolated, false);
  return p;
}

// Bytes of standard base64 with its padding; false for anything else.
bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  std::uint32_t group = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool padding = c == '=' && i + 2 >= text.size() && (c == text.back());
    const int digit = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                      : padding              ? 0
                                             : -1;
    if (digit < 0) return false;
    group = group << 6 | static_cast<std::uint32_t>(digit);
    if (i % 4 != 3) continue;
    for (const unsigned shift : {16u, 8u, 0u}) bytes += static_cast<char>(group >> shift & 0xFFu);
    group = 0;
  }
  bytes.resize(bytes.size() - (text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0));
  return true;
}

// Fills bytes, byte_token and whole_pieces from the lines of the file.
void read_lines(std::string_view file, Bpe& bpe) {
  const auto broken = [](std::size_t line, std::string_view what, std::string_view found) {
    fail(Exit::bad_checkpoint, "line {}: {}, found {}", line, what, json::quote(found.substr(0, 80)));
  };
  std::vector<std::pair<std::uint32_t, std::string>> tokens;
  std::string bytes;
  for (std::size_t line = 1; !file.empty(); ++line) {
    const std::string_view text = file.substr(0, file.find('\n'));
    file.remove_prefix(std::min(file.size(), text.size() + 1));
    if (text.empty()) continue;
    const std::size_t space = text.find(' ');
    std::uint32_t rank = 0;
    const std::string_view number = space == text.npos ? std::string_view() : text.substr(space + 1);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
    if (number.empty() || error != std::errc() || end != number.data() + number.size() ||
        !decode_base64(text.substr(0, space), bytes))
      broken(line, "expected a base64 token, a space and its rank", text);
    if (bytes.size() > max_token) broken(line, fmt::format("expected at most {} bytes", max_token), text);
    if (tokens.size() == max_tokens)
      broken(line, fmt::format("expected at most {} tokens", max_tokens), text);
    tokens.emplace_back(rank, bytes);
  }
  if (tokens.empty()) fail(Exit::bad_checkpoint, "expected lines of a base64 token and its rank, found none");
  bpe.bytes.resize(tokens.size());
  TextIndex& index = bpe.whole_pieces.emplace();
  index.reserve(tokens.size());
  std::vector<bool> taken(tokens.size());
  for (const auto& [rank, text] : tokens) {
    if (rank >= tokens.size() || taken[rank]) {
      fail(Exit::bad_checkpoint, "{} tokens: expected each rank from 0 to {} once, found {}", tokens.size(),
           tokens.size() - 1, rank);
    }
    taken[rank] = true;
    const auto id = static_cast<std::int32_t>(rank);
    bpe.bytes.set(id, text);
    if (!index.insert(bpe.bytes, id)) fail(Exit::bad_checkpoint, "token {} occurs twice", json::quote(text));
    if (text.size() == 1) bpe.byte_token[static_cast<unsigned char>(text[0])] = id;
  }
}

// Two neighbours merge when their concatenation is a token, by its rank: every cut of every token into two
// tokens.
void read_merges(Bpe& bpe) {
  bpe.merges.reserve(3 * bpe.bytes.size());
  for (std::size_t i = 0; i < bpe.bytes.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const std::string_view text = bpe.bytes[id];
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = bpe.whole_pieces->find(bpe.bytes, text.substr(0, cut));
      if (!left) continue;
      const auto right = bpe.whole_pieces->find(bpe.bytes, text.substr(cut));
      if (right) bpe.merges.insert(*left, *right, {static_cast<std::uint32_t>(i), id});
    }
  }
}

// Ids between those that tokenizer_config.json names are reserved tokens, named as the publisher's code names
// them.
AddedVocabulary read_added_tokens(std::vector<AddedToken> named, std::size_t ordinary) {
  AddedVocabulary added;
  std::int32_t highest = -1;
  for (AddedToken& t : named) {
    if (static_cast<std::size_t>(t.id) < ordinary || static_cast<std::size_t>(t.id) > ordinary + max_tokens) {
      fail(Exit::bad_checkpoint, "added token {} has the id {}, expected one from {} on",
           json::quote(t.content), t.id, ordinary);
    }
    highest = std::max(highest, t.id);
    added.add(std::move(t));
  }
  for (auto id = static_cast<std::int32_t>(ordinary); id < highest; ++id) {
    if (added.by_id(id) == nullptr) added.add({id, fmt::format("<|reserved_token_{}|>", id), true, false});
  }
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tiktoken_model(std::string_view file, TokenizerConfig config) {
  try {
    Bpe bpe;
    read_lines(file, bpe);
    read_merges(bpe);
    AddedVocabulary added = read_added_tokens(std::move(config.added_tokens), bpe.bytes.size());
    return std::make_unique<ByteBpe>(std::move(bpe), kimi_pretokenizer(), std::move(added),
                                     std::move(config.special), "tiktoken.model");
  } catch (Error& e) {
    if (e.file().empty()) e.at("tiktoken.model");
    throw;
  }
}

}  // namespace fathom
