// The subset of Oniguruma's syntax, construct by construct: what matches, and what is refused with its name.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "src/base/error.h"
#include "tests/support/errors.h"
#include "tokenizer/piece_cache.h"
#include "tokenizer/regex.h"

using namespace fathom;

namespace {

// All matches, joined by '|'.
std::string matches(std::string_view pattern, std::string_view text) {
  const Regex regex = Regex::oniguruma(pattern);
  MatchState state;
  std::string out;
  for (std::size_t from = 0; from <= text.size();) {
    const auto m = regex.find(text, from, state);
    if (!m) break;
    out += std::string(text.substr(m->begin, m->end - m->begin)) + "|";
    from = m->end > m->begin ? m->end : m->end + 1;
  }
  return out;
}

}  // namespace

TEST_CASE("regex: escapes, code points and classes") {
  CHECK(matches("[\\r\\n]+", "a\r\n\nb") == "\r\n\n|");
  CHECK(matches("\\t|\\f|\\v|\\n|\\r", "\t\f\v\n\r") == "\t|\f|\v|\n|\r|");
  CHECK(matches("\\D+", "1a2b") == "a|b|");
  CHECK(matches("\\d+", "1a٢3") == "1|٢3|");
  CHECK(matches("\\S+", " ab c") == "ab|c|");
  CHECK(matches("\\P{L}+", "a1b-") == "1|-|");
  CHECK(matches("\\p{^L}+", "a1b-") == "1|-|");
  CHECK(matches("\\P{^L}+", "a1b-") == "a|b|");
  CHECK(matches("\\p{Lu}\\p{Ll}*", "AbC") == "Ab|C|");
  CHECK(matches("\\x41\\x{42}\\u0043", "xABCx") == "ABC|");
  CHECK(matches("\\x{e9}\\x{1F600}\\u4F60", "é😀你") == "é😀你|");
  CHECK(matches("\\x{aF}", "\u00af") == "\u00af|");
  CHECK(matches("\\.\\*\\$\\^\\|\\-", ".*$^|-") == ".*$^|-|");
  CHECK(matches("a.c", "abc a\nc") == "abc|");
  CHECK(matches("[^a-c]", "abcd") == "d|");
  CHECK(matches("[a-]+", "a-b") == "a-|");
  CHECK(matches("[\\s\\S]+", "a\n") == "a\n|");
  CHECK(matches("[\\d\\-]+", "1-2") == "1-2|");
  CHECK(matches("[\\p{L}-]+", "a-b") == "a-b|");
  CHECK(matches("[\\u0041-\\u0043]+", "xABCD") == "ABC|");
  CHECK(matches("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", " Hello,World") == " Hello|,World|");
}

TEST_CASE("regex: groups, borders and quantifiers") {
  CHECK(matches("(ab)+", "ababx") == "abab|");
  CHECK(matches("(?:ab|c)+?", "abc") == "ab|c|");
  CHECK(matches("(?i)ab", "xAB") == "AB|");
  CHECK(matches("(?i:a)b", "Ab AB") == "Ab|");
  CHECK(matches("(?<=x)a", "xa a") == "a|");
  CHECK(matches("(?<!x)a", "xa a") == "a|");
  CHECK(matches("(?>a+)b", "aab") == "aab|");
  CHECK(matches("a(?=b)", "ab ac") == "a|");
  CHECK(matches("^a|b$", "a\nab\n") == "a|a|b|");
  CHECK(matches("a*+b", "aab") == "aab|");
  CHECK(matches("a??b", "aab") == "ab|");
  CHECK(matches("a++", "aaa") == "aaa|");
  CHECK(matches("a{2}", "aaaaa") == "aa|aa|");
  CHECK(matches("a{2,}", "aaaaa") == "aaaaa|");
  CHECK(matches("a{1,2}?", "aa") == "a|a|");
  CHECK(matches("a{1,3}", "aaaa") == "aaa|a|");
}

TEST_CASE("regex: what is outside the subset is refused by its name") {
  const std::vector<std::pair<std::string, const char*>> kRefused = {
      {"+a", "nothing to repeat"},       {"?", "nothing to repeat"},
      {"a{", "no quantifier"},           {"a{1", "no quantifier"},
      {"a{}", "no quantifier"},          {"a{x}", "no quantifier"},
      {"a{,2}", "no quantifier"},        {"a{1,x}", "no quantifier"},
      {"a{123456}", "no quantifier"},    {"a{1,2,3}", "no quantifier"},
      {"a{2}+", "behind a quantifier"},  {"a{2}?", "behind a quantifier"},
      {"a{1,2}+", "behind a quantifier"}, {"a{1,2}{3}", "behind a quantifier"},
      {"a+*", "behind a quantifier"},    {"a??+", "behind a quantifier"},
      {"a+?{2}", "behind a quantifier"}, {"x(?i)a", "group of this kind"},
      {"(?#c)", "group of this kind"},   {"\\w", "\\w"},
      {"\\B", "\\B"},                    {"\\1", "\\1"},
      {"\\Z", "\\Z"},                    {"\\x4", "code point"},
      {"\\xg1", "code point"},           {"\\x80", "code point"},
      {"\\x{}", "code point"},           {"\\x{41", "code point"},
      {"\\x{110000}", "code point"},     {"\\uD800", "code point"},
      {"\\x{dfff}", "code point"},       {"\\u12", "code point"},
      {"\\pL", "without braces"},        {"\\p{L", "closing brace"},
      {"\\p{Script=Han}", "property"},   {"[", "closing bracket"},
      {"[a-", "closing bracket"},        {"[]", "empty class"},
      {"[^]", "empty class"},            {"[[a]", "within a class"},
      {"[a&&b]", "intersection"},        {"[\\d-z]", "starts with a class"},
      {"[a-\\d]", "ends with a class"},  {"[b-a]", "before it starts"},
      {"\xff", "UTF-8"},                 {"[\xc3]", "UTF-8"},
      {std::string(70'000, 'a'), "at most"}, {"(a", "does not compile"},
      {"a\\", "backslash at the end"},
  };
  for (const auto& [refused, why] : kRefused) {
    const std::string& pattern = refused;
    CAPTURE(pattern.substr(0, 40));
    const test::Outcome o = test::outcome_of([&] { (void)Regex::oniguruma(pattern); });
    CHECK(o.code == Exit::unsupported);
    CHECK(o.says(why));
  }
  CHECK(matches("a&b", "a&b") == "a&b|");
}

// More pieces than the cache holds: it grows, starts over, and always gives what encoding gives.
TEST_CASE("piece cache: every piece has its ids, whatever came before") {
  constexpr int kPieces = 100'000;
  std::vector<std::string> pieces;
  for (int i = 0; i < kPieces; ++i) pieces.push_back("piece " + std::to_string(i));
  pieces.emplace_back(PieceCache::max_piece + 1, 'x');
  std::size_t encoded = 0;
  const auto encode = [&](std::string_view piece, std::vector<std::int32_t>& out) {
    ++encoded;
    for (const char c : piece) out.push_back(c);
  };
  PieceCache cache;
  for (int round = 0; round < 2; ++round)
    for (const std::string& piece : pieces) {
      std::vector<std::int32_t> once, again{7};
      cache.append(piece, once, encode);
      cache.append(piece, again, encode);
      bool same = once.size() == piece.size() && again.size() == piece.size() + 1;
      for (std::size_t i = 0; same && i < piece.size(); ++i) same = once[i] == piece[i] && again[i + 1] == piece[i];
      if (!same) FAIL_CHECK("wrong ids for " << piece.substr(0, 20));
    }
  CHECK(encoded >= 2 * pieces.size());      // it cannot hold them all
  CHECK(encoded < 3 * pieces.size());       // but the last one it can
}
