// tokenizer.json: byte-level BPE, its pre-tokenizers, added tokens and what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tests/support/tokenizer_json.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/tokenizer.h"

using namespace fathom;
using namespace fathom::test;
using Ids = std::vector<std::int32_t>;

namespace {

const Tokenizer& deepseek_v3() {
  static const std::unique_ptr<Tokenizer> t = Tokenizer::load(FileSet::directory("tests/data/deepseek-v3"));
  return *t;
}

std::string decode(const Tokenizer& t, const Ids& ids) {
  std::string bytes;
  for (const std::int32_t id : ids) bytes += t.token_bytes(id);
  return bytes;
}

std::string repeated(std::string_view s, std::size_t bytes) {
  std::string r;
  while (r.size() < bytes) r += s;
  return r;
}

// Lines of {"text", "ids"}.
void check_sample(const Tokenizer& t, const std::string& path, int texts) {
  const std::string lines = read_file(path, 1u << 20);
  for (std::size_t at = 0; at < lines.size(); --texts) {
    const std::size_t end = lines.find('\n', at);
    const json::Value sample = json::parse(lines.substr(at, end - at), path);
    at = end + 1;
    Ids ids;
    for (const json::Value& id : sample.find("ids")->as_array())
      ids.push_back(static_cast<std::int32_t>(id.as_number()));
    CAPTURE(sample.find("text")->describe());
    CHECK(t.encode(sample.find("text")->as_string(), AddedTokens::match) == ids);
  }
  CHECK(texts == 0);
}

}  // namespace

TEST_CASE("tokenizer: DeepSeek-V3's golden ids") {
  const std::vector<std::pair<std::string, Ids>> golden = {
      {"Hello, world!", {19923, 14, 2058, 3}},
      {"hello world", {33310, 2058}},
      {" leading", {6646}},
      {" \n\n \t x", {1004, 49293, 1527}},
      {"123456789", {6895, 18009, 25744}},
      {"1234567", {6895, 18009, 25}},
      {"a1b22c333", {67, 19, 68, 1302, 69, 11722}},
      {"The year 2025.", {671, 1141, 223, 939, 23, 16}},
      {"你好，世界！", {30594, 303, 3427, 1175}},
      {"日本語テスト", {88768, 109288}},
      {"don't I'm we'll", {20385, 1664, 342, 4571, 579, 5922}},
      {"foo_bar(baz)", {40897, 100869, 7011, 1521, 11}},
      {"  two  spaces  ", {223, 1234, 223, 13564, 262}},
      {"line1\nline2\r\nline3", {1836, 19, 201, 1836, 20, 204, 201, 1836, 21}},
      {"\n\n\n", {6328}},
      {"🙂👍🏽", {80300, 227, 92526, 40965, 124}},
      {"naïve café", {2720, 91223, 57664}},
      {"if (x > 0) { return -1; }", {394, 343, 90, 1955, 223, 18, 11, 680, 1354, 565, 19, 29, 837}},
      {"<｜User｜>hi<｜Assistant｜>", {128803, 6366, 128804}},
      {"<think>\n", {30, 37947, 1018}},
      {"</think>", {1718, 37947, 32}},
      {"@user #tag $5", {34, 5265, 1823, 24164, 957, 23}},
      {"a  b\n  c", {67, 223, 291, 201, 223, 274}},
      {"한국어", {5634, 17564, 9227}},
      {"Ünïcödé\xcc\x81"
       "",
       {52526, 80, 16709, 69, 54879, 619, 17793}},
      {"<｜begin▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜>", {0, 128803, 19, 13, 19, 127252, 128804}},
      {"x\xc2\xa0"
       "y",
       {90, 2162, 91}},
      {"\xe2\x80\x8b"
       "zero",
       {35020, 20692}},
      {"def f(x):\n    return x**2\n", {3465, 285, 4042, 3395, 361, 1354, 1527, 666, 20, 201}},
      {"ABCD", {51453}},
      {"Ⅷ ½ ²", {23603, 103, 223, 23951, 223, 1628}},
      {"٣٤٥", {127056, 152, 100, 152, 101}},
      {"tab\tsep", {14278, 200, 88351}},
      {"   ", {361}},
      {"a\n\n  b", {67, 271, 223, 291}},
      {"—dash…", {965, 70, 1844, 1248}},
      {"price: $1,234.56", {18785, 28, 957, 19, 14, 14456, 16, 3661}},
      {"<｜User｜> spaced <｜Assistant｜>\n", {128803, 48914, 223, 128804, 201}},
      {"<|EOT|>x", {128805, 90}},
      {"<｜place▁holder▁no▁798｜>", {128798}},
  };
  for (const auto& [text, ids] : golden) {
    const std::string& shown = text;
    CAPTURE(shown);
    CHECK(deepseek_v3().encode(text, AddedTokens::match) == ids);
    CHECK(decode(deepseek_v3(), ids) == text);
  }
}

TEST_CASE("tokenizer: a sample of ids from Hugging Face's tokenizers") {
  check_sample(deepseek_v3(), "tests/data/deepseek-v3/sample.jsonl", 240);
}

TEST_CASE("tokenizer: a file by the rules of DeepSeek-V2") {
  const auto t = Tokenizer::load(FileSet::directory("tests/data/deepseek-v2-style"));
  check_sample(*t, "tests/data/deepseek-v2-style/sample.jsonl", 156);
  const std::string text = "Führer naïve Àé ÿ\r\n";
  CHECK(decode(*t, t->encode(text, AddedTokens::plain)) == text);
  CHECK(t->encode(text, AddedTokens::plain) == t->encode(text, AddedTokens::match));
  CHECK(decode(*t, t->encode("a\xff", AddedTokens::plain)) == "a\uFFFD");
  const std::string spaces = std::string(1'000'000, ' ') + "1";
  CHECK(decode(*t, t->encode(spaces, AddedTokens::plain)) == spaces);
}

TEST_CASE("tokenizer: characters newer than PCRE2's tables are cut by their category") {
  // From the tokenizers package: an emoji of Unicode 15, an ideograph of 15, a digit of 16.
  const std::vector<std::pair<std::string, Ids>> golden = {
      {"x  \U0001fabf.", {90, 223, 7351, 106, 126, 16}},
      {"  \U00031350a", {223, 86387, 112, 238, 241, 67}},
      {"ab \U00010d47 \U00010d481", {425, 223, 120577, 116, 232, 223, 120577, 116, 233, 19}},
      {"a \U00001c89\U00001c8a ", {67, 8751, 113, 234, 160, 113, 235, 223}},
  };
  for (const auto& [text, ids] : golden) {
    const std::string& shown = text;
    CAPTURE(shown);
    CHECK(deepseek_v3().encode(text, AddedTokens::plain) == ids);
  }
}

TEST_CASE("tokenizer: DeepSeek-V3's properties") {
  const Tokenizer& t = deepseek_v3();
  CHECK(t.vocab_size() == 128815);
  CHECK(t.describe() == "tokenizer.json (BPE, 128000 + 815)");
  CHECK(t.special().bos_token == "<｜begin▁of▁sentence｜>");
  CHECK(t.special().eos_token == "<｜end▁of▁sentence｜>");
  CHECK(t.special().add_bos_token);
  CHECK(t.find_added("<｜User｜>") == 128803);
  CHECK(!t.find_added("<think>"));
  CHECK(t.is_control(0));
  CHECK(t.is_control(128803));
  CHECK(!t.is_control(3));
  CHECK(t.token_bytes(128803) == "<｜User｜>");
  CHECK(t.token_bytes(3) == "!");
  CHECK(t.token_bytes(-1).empty());
  CHECK(t.token_bytes(128815).empty());
}

TEST_CASE("tokenizer: control tokens in plain text stay characters") {
  const Tokenizer& t = deepseek_v3();
  for (std::int32_t id = 0; id < t.vocab_size(); ++id) {
    if (!t.is_control(id)) continue;
    const std::string text = "x" + std::string(t.token_bytes(id)) + "y";
    const Ids ids = t.encode(text, AddedTokens::plain);
    CHECK(decode(t, ids) == text);
    for (const std::int32_t i : ids) CHECK(!t.is_control(i));
  }
  // Two passes: tokens matched on raw text first, so the longer one here loses its middle.
  CHECK(t.encode("<｜User<｜begin▁of▁sentence｜>", AddedTokens::match).back() == 0);
  const Ids nested = t.encode("<｜<｜User｜>｜>", AddedTokens::match);
  CHECK(std::ranges::count(nested, 128803) == 1);
}

TEST_CASE("tokenizer: every token and every pair of bytes comes back") {
  const Tokenizer& t = deepseek_v3();
  int wrong = 0;
  for (std::int32_t id = 0; id < 128000; ++id) {
    const std::string_view bytes = t.token_bytes(id);
    if (bytes.empty() || decode(t, t.encode(bytes, AddedTokens::plain)) != bytes) ++wrong;
  }
  CHECK(wrong == 0);
  for (int i = 0; i < 65536; ++i) {
    const std::string bytes = {static_cast<char>(i >> 8), static_cast<char>(i & 0xFF)};
    if (decode(t, t.encode(bytes, AddedTokens::match)) != bytes) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("tokenizer: bytes that are no UTF-8 are encoded as they are") {
  const Tokenizer& t = deepseek_v3();
  for (const std::string_view bytes :
       {"\xff",
        "a\xc0\xaf"
        "b",
        "\xed\xa0\x80 x", "caf\xc3", "\xf4\x90\x80\x80", "\xe4\xbd", "<｜User\xef\xbd"}) {
    CHECK(decode(t, t.encode(bytes, AddedTokens::match)) == bytes);
  }
  CHECK(t.encode({}, AddedTokens::match).empty());
  const std::string_view nul("a\0b\0", 4);
  CHECK(decode(t, t.encode(nul, AddedTokens::match)) == nul);
}

TEST_CASE("tokenizer: ten megabytes without a word border take bounded time") {
  const Tokenizer& t = deepseek_v3();
  const auto start = std::chrono::steady_clock::now();
  const auto check = [&](std::string_view unit, std::size_t bytes) {
    const std::string text = repeated(unit, bytes);
    CAPTURE(unit);
    CHECK(decode(t, t.encode(text, AddedTokens::match)) == text);
  };
  for (const std::string_view unit : {" ", "a", "!", "漢"}) check(unit, 10'000'000);
  for (const std::string_view unit : {"\t", "\r", "\r\n", "한", "abcdefgh", " \u00a0", "\u0301", "<"})
    check(unit, 1'000'000);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CHECK(seconds.count() <
        60);  // 3 s where it is measured; a busy machine or a sanitizer gets twenty times that
}

TEST_CASE("tokenizer: streams emit whole characters") {
  const Tokenizer& t = deepseek_v3();
  const std::string text = "🙂👍🏽 naïve 漢字 \u0301";
  StreamDecoder stream(t);
  std::string out;
  for (const std::int32_t id : t.encode(text, AddedTokens::plain)) {
    const std::string part = stream.feed(id);
    for (std::string_view rest = part; !rest.empty(); rest.remove_prefix(utf8_sequence(rest).size))
      CHECK(utf8_sequence(rest).kind == Utf8Sequence::character);
    out += part;
  }
  CHECK(out + stream.finish() == text);

  const auto decoded = [&](std::initializer_list<std::string_view> parts) {
    StreamDecoder d(t);
    std::string s;
    for (const std::string_view p : parts) s += d.feed_bytes(p);
    return s + d.finish();
  };
  CHECK(decoded({"\xf0", "\x9f", "\x99", "\x82"}) == "🙂");
  CHECK(decoded({"\xf0\x9f\x99"}) == "\uFFFD");
  CHECK(decoded({"\xf0\x9f", "x"}) == "\uFFFDx");
  CHECK(decoded({"\xe0\x80\x80"}) == "\uFFFD\uFFFD\uFFFD");      // overlong: each byte by itself
  CHECK(decoded({"\xed", "\xa0\x80"}) == "\uFFFD\uFFFD\uFFFD");  // surrogate
  CHECK(decoded({"\xf4\x90", "\x80\x80"}) == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(decoded({"a\xff"
                 "b"}) ==
        "a\uFFFD"
        "b");
  CHECK(decoded({"\xe2\x82", "\xe2\x82\xac"}) == "\uFFFD€");
}

TEST_CASE("tokenizer: merges in both spellings, in any order of keys") {
  for (const bool pairs : {false, true}) {
    TinyTokenizer file;
    file.merges = {{"a", "b"}, {"ab", "c"}, {"Ġ", "ab"}, {"c", "d"}};
    file.merges_as_pairs = pairs;
    for (const bool merges_first : {false, true}) {
      file.merges_first = merges_first;
      const auto t = load_tiny(file);
      const std::int32_t ab = 256, abc = 257, space_ab = 258;
      CHECK(t->encode("ab", AddedTokens::plain) == Ids{ab});
      CHECK(t->encode("abc", AddedTokens::plain) == Ids{abc});
      CHECK(t->encode("abcd", AddedTokens::plain) == Ids{abc, file.byte_id('d')});
      CHECK(t->encode(" ab", AddedTokens::plain) == Ids{space_ab});
    }
  }
}

TEST_CASE("tokenizer: short, middle and long pieces merge alike") {
  // Merges whose results merge earlier than themselves: the order no training makes.
  TinyTokenizer file;
  file.merges = {{"abc", "d"}, {"ab", "c"}, {"a", "b"}, {"d", "a"}, {"da", "b"}, {"abcd", "abcd"}};
  const auto t = load_tiny(file);
  const auto encode_whole = [&](std::size_t units) {
    Ids ids;
    for (std::size_t i = 0; i < units; ++i) {
      const Ids one = t->encode("abcd", AddedTokens::plain);
      ids.insert(ids.end(), one.begin(), one.end());
    }
    return ids;
  };
  CHECK(t->encode("abcd", AddedTokens::plain).size() == 1);
  for (const std::size_t units : {3u, 100u, 9000u}) {
    const std::string text = repeated("abcd", 4 * units);
    // By rank: every ab first, then abc, abcd; then pairs of abcd from the left.
    const Ids ids = t->encode(text, AddedTokens::plain);
    CHECK(ids.size() == (units + 1) / 2);
    CHECK(decode(*t, ids) == text);
    CHECK(encode_whole(units).size() == units);
  }
}

TEST_CASE("tokenizer: ignore_merges takes a whole piece") {
  TinyTokenizer file;
  file.extra_tokens = {"abcde"};
  CHECK(load_tiny(file)->encode("abcde", AddedTokens::plain).size() == 5);
  file.model_extra = R"("ignore_merges": true,)";
  CHECK(load_tiny(file)->encode("abcde", AddedTokens::plain) == Ids{256});
  CHECK(load_tiny(file)->encode("abcdef", AddedTokens::plain).size() == 6);
}

TEST_CASE("tokenizer: a letter added as a token is text") {
  TinyTokenizer file;
  file.missing_bytes = {0xFC, 0xFD, 0xFE, 0xFF};
  file.added = R"([{"id": 252, "content": "ü", "special": false, "normalized": true},
                   {"id": 253, "content": "<x>", "special": false, "normalized": true},
                   {"id": 254, "content": "<xy>", "special": true, "normalized": false}])";
  const auto t = load_tiny(file);
  CHECK(t->encode("Fü", AddedTokens::plain) == Ids{file.byte_id('F'), 252});
  CHECK(!t->is_control(252));
  CHECK(t->encode("<x>", AddedTokens::plain).size() == 3);
  CHECK(t->encode("<x><xy>", AddedTokens::match) == Ids{253, 254});
  CHECK(t->token_bytes(252) == "ü");
}

TEST_CASE("tokenizer: a vocabulary without the bytes that UTF-8 never has takes U+FFFD for them") {
  TinyTokenizer file;
  file.missing_bytes = {0xC0, 0xC1, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF};
  const auto t = load_tiny(file);
  CHECK(decode(*t, t->encode("a\xff"
                             "b",
                             AddedTokens::plain)) ==
        "a\uFFFD"
        "b");
  file.missing_bytes = {'q'};
  CHECK(refusal_of(file).code == Exit::bad_checkpoint);
}

TEST_CASE("tokenizer: pre-tokenizers cut as Hugging Face's") {
  const auto pieces = [](std::string_view pre_tokenizer, std::string_view text) {
    const Pretokenizer p = Pretokenizer::from_json(json::parse(pre_tokenizer, "test"));
    Pretokenizer::State state;
    std::string joined;
    p.split(text, state,
            [&](std::string_view piece) { joined.append(joined.empty() ? "" : "|").append(piece); });
    return joined;
  };
  const auto split = [&](std::string_view pattern, std::string_view behavior, bool invert,
                         std::string_view text) {
    return pieces(
        fmt::format(R"({{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{},"behavior":"{}",
                                 "invert":{}}},{{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}}]}})",
                    pattern, behavior, invert),
        text);
  };
  constexpr std::string_view dash = R"({"String":"-"})";
  CHECK(split(dash, "Isolated", false, "the-final--countdown") == "the|-|final|-|-|countdown");
  CHECK(split(dash, "Removed", false, "the-final--countdown") == "the|final|countdown");
  CHECK(split(dash, "MergedWithPrevious", false, "the-final--countdown") == "the-|final-|-|countdown");
  CHECK(split(dash, "MergedWithNext", false, "the-final--countdown") == "the|-final|-|-countdown");
  CHECK(split(dash, "Contiguous", false, "the-final--countdown") == "the|-|final|--|countdown");
  CHECK(split(R"({"Regex":"\\d+"})", "Removed", true, "a12b3") == "12|3");
  CHECK(split(R"({"Regex":"\\s+$"})", "Isolated", false, "a  b  ") == "a  b|  ");
  CHECK(split(R"({"Regex":"\\s+$"})", "Isolated", false, "a \n b ") == "a| |\n b| ");
  CHECK(split(R"({"Regex":"\\s+$"})", "Isolated", false, "a \n\n  \n b \n") == "a| \n\n  |\n b| \n");
  CHECK(split(R"({"Regex":"x*"})", "Isolated", false, "axxb") == "a|xx|b");
  CHECK(split(R"({"String":"."})", "Isolated", false, "a.b") == "a|.|b");
  CHECK(split(R"({"String":""})", "Isolated", false, "a.b") == "a|.|b");
  CHECK(split(R"({"Regex":"x*"})", "MergedWithPrevious", false, "axxbc") == "axx|b|c");
  CHECK(split(R"({"Regex":"x*"})", "MergedWithNext", false, "axxbc") == "a|xxb|c");

  const auto digits = [&](std::string_view before, std::string_view after, std::string_view text) {
    return pieces(
        fmt::format(R"({{"type":"Sequence","pretokenizers":[{}{{"type":"Digits","individual_digits":true}}{},
                                 {{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}}]}})",
                    before, after),
        text);
  };
  // The order of the steps is the file's: letters with their space before or after digits.
  constexpr std::string_view letters =
      R"({"type":"Split","pattern":{"Regex":"\\s?\\p{L}+"},"behavior":"Isolated"})";
  CHECK(digits("", fmt::format(",{}", letters), "x 12 ab3½") == "x| |1|2| ab|3|½");
  constexpr std::string_view words = R"({"type":"Split","pattern":{"Regex":"\\w+"},"behavior":"Isolated"},)";
  CHECK_THROWS_AS(digits(words, "", "x"), Error);
  CHECK(digits(fmt::format("{},", letters), "", "x 12 ab3") == "x| |1|2| ab|3");

  // ByteLevel's own pattern, and its prefix space for each text.
  constexpr std::string_view gpt2 = R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})";
  CHECK(pieces(gpt2, "Hello's  world 12!") == " Hello|'s| | world| 12|!");
  CHECK(pieces(gpt2, " x") == " x");
}

TEST_CASE("tokenizer: patterns keep Oniguruma's meaning") {
  MatchState state;
  const auto first = [&](std::string_view pattern, std::string_view text) {
    const auto m = Regex::oniguruma(pattern).find(text, 0, state);
    return m ? std::string(text.substr(m->begin, m->end - m->begin)) : std::string("none");
  };
  CHECK(first("\\s+",
              "a\u180e\u00a0\u3000\u0085"
              "b") == "\u00a0\u3000\u0085");  // U+180E is no white space
  CHECK(first("[^\\S\\n]+", "\n \t\n") == " \t");
  CHECK(first("\\p{Han}+", "、漢字。") == "漢字");
  CHECK(first("[\\p{^L}]", "a1") == "1");
  CHECK(first("(?i:'S|'t)", "x's") == "'s");
  CHECK(first("b$", "ab\nb") == "b");
  CHECK(first("a(?!b)", "abac") == "a");
  CHECK(first("[a\\-z]+", "b-a") == "-a");
  CHECK(first("[一-龥]+", "a漢b") == "漢");
  CHECK(first("x{2,3}", "xxxx") == "xxx");
  CHECK(first("a|", "b").empty());
  for (const std::string_view pattern :
       {"\\w",     "\\bx",    "(a)\\1", "[a&&b]", "[[:alpha:]]", "[a[b]]", "a{2}+", "a{,3}", "\\p{Greek}",
        "(?<n>a)", "(?x: a)", "\\h",    "\\R",    "a**",         "*a",     "[]a]",  "[a",    "(a",
        "a)",      "\\",      "a{2}?",  "(?m)a",  "\\xff",       "{",      "\\p{L", "[z-a]"}) {
    CAPTURE(pattern);
    CHECK(code_of([&] { (void)Regex::oniguruma(pattern); }) == Exit::unsupported);
  }
  // A pattern that backs up without end gives up with an error.
  const Regex hostile = Regex::oniguruma("(?:a|aa|aaa)+(?:b|c)");
  CHECK(code_of([&] { (void)hostile.find(std::string(5000, 'a'), 0, state); }) == Exit::unsupported);
  // The white space before a line's end, in linear time.
  const Regex trailing = Regex::oniguruma("\\s+$");
  CHECK(!trailing.find(std::string(1'000'000, ' ') + "1", 0, state));
}

TEST_CASE("tokenizer: files that are refused, and why") {
  struct Case {
    Exit code;
    std::string_view word;  // in the message
    std::function<void(TinyTokenizer&)> spoil;
  };
  const std::vector<Case> cases = {
      {Exit::bad_checkpoint, "not in the vocabulary", [](auto& f) { f.raw_merges = R"(["a b", "zz q"])"; }},
      {Exit::bad_checkpoint, "not in the vocabulary", [](auto& f) { f.raw_merges = R"(["a b"])"; }},
      {Exit::bad_checkpoint, "one space", [](auto& f) { f.raw_merges = R"(["ab"])"; }},
      {Exit::bad_checkpoint, "one space", [](auto& f) { f.raw_merges = R"(["a b c"])"; }},
      {Exit::bad_checkpoint, "parts", [](auto& f) { f.raw_merges = R"([["a"]])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = R"([["a","b","c"], "a b"])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = R"([["","a"]])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = "[1]"; }},
      {Exit::bad_checkpoint, "repeats",
       [](auto& f) {
         f.merges = {{"a", "b"}, {"a", "b"}};
       }},
      {Exit::bad_checkpoint, "gap", [](auto& f) { f.raw_tokens = R"("gap": 300)"; }},
      {Exit::bad_checkpoint, "count from 0", [](auto& f) { f.raw_tokens = R"("minus": -1)"; }},
      {Exit::bad_checkpoint, "same id", [](auto& f) { f.raw_tokens = R"("twice": 7)"; }},
      {Exit::bad_checkpoint, "occurs twice", [](auto& f) { f.raw_tokens = R"("a": 256)"; }},
      {Exit::bad_checkpoint, "integer id", [](auto& f) { f.raw_tokens = R"("float": 256.0)"; }},
      {Exit::bad_checkpoint, "integer id", [](auto& f) { f.raw_tokens = R"("text": "256")"; }},
      {Exit::bad_checkpoint, "id", [](auto& f) { f.raw_tokens = R"("huge": 18446744073709551615)"; }},
      {Exit::bad_checkpoint, "bytes",
       [](auto& f) { f.raw_tokens = "\"" + std::string(10'000'000, 'x') + "\": 256"; }},
      {Exit::bad_checkpoint, "byte 0x71", [](auto& f) { f.missing_bytes = {'q'}; }},
      {Exit::bad_checkpoint, "contradicts", [](auto& f) { f.added = R"([{"id": 5, "content": "<x>"}])"; }},
      {Exit::bad_checkpoint, "contradicts", [](auto& f) { f.added = R"([{"id": 256, "content": "a"}])"; }},
      {Exit::bad_checkpoint, "same id",
       [](auto& f) { f.added = R"([{"id": 256, "content": "<x>"}, {"id": 256, "content": "<y>"}])"; }},
      {Exit::bad_checkpoint, "content", [](auto& f) { f.added = R"([{"id": 256, "content": ""}])"; }},
      {Exit::bad_checkpoint, "content", [](auto& f) { f.added = R"([{"id": 256}])"; }},
      {Exit::bad_checkpoint, "no token has the id 256",
       [](auto& f) { f.added = R"([{"id": 257, "content": "<x>"}])"; }},
      {Exit::bad_checkpoint, "which is an added token",
       [](auto& f) {
         f.merges = {{"a", "b"}};
         f.added = R"([{"id": 256, "content": "ab", "special": true}])";
       }},
      {Exit::unsupported, "lstrip",
       [](auto& f) { f.added = R"([{"id": 256, "content": "<x>", "lstrip": true}])"; }},
      {Exit::unsupported, "rstrip",
       [](auto& f) { f.added = R"([{"id": 256, "content": "<x>", "rstrip": true}])"; }},
      {Exit::unsupported, "single_word",
       [](auto& f) { f.added = R"([{"id": 256, "content": "<x>", "single_word": true}])"; }},
      {Exit::unsupported, "WordPiece", [](auto& f) { f.type = "WordPiece"; }},
      {Exit::unsupported, "Unigram", [](auto& f) { f.type = "Unigram"; }},
      {Exit::unsupported, "NFC", [](auto& f) { f.normalizer = R"({"type": "NFC"})"; }},
      {Exit::unsupported, "Lowercase",
       [](auto& f) { f.normalizer = R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})"; }},
      {Exit::unsupported, "Metaspace", [](auto& f) { f.pre_tokenizer = R"({"type": "Metaspace"})"; }},
      {Exit::unsupported, "ByteLevel",
       [](auto& f) { f.pre_tokenizer = R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}]})"; }},
      {Exit::bad_checkpoint, "type", [](auto& f) { f.pre_tokenizer = "null"; }},
      {Exit::unsupported, "pattern",
       [](auto& f) {
         f.pre_tokenizer =
             R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a"},
                              "behavior": "Isolated"}, {"type": "ByteLevel"}]})";
       }},
      {Exit::unsupported, "behavior",
       [](auto& f) {
         f.pre_tokenizer =
             R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"String": "a"},
                              "behavior": "Odd"}, {"type": "ByteLevel"}]})";
       }},
      {Exit::unsupported, "byte_fallback", [](auto& f) { f.model_extra = R"("byte_fallback": true,)"; }},
      {Exit::unsupported, "dropout", [](auto& f) { f.model_extra = R"("dropout": 0.1,)"; }},
      {Exit::unsupported, "unk_token", [](auto& f) { f.model_extra = R"("unk_token": "<unk>",)"; }},
      {Exit::unsupported, "decoder", [](auto& f) { f.decoder = R"({"type": "Metaspace"})"; }},
      {Exit::bad_checkpoint, "duplicate key", [](auto& f) { f.model_extra = R"("type": "BPE",)"; }},
      {Exit::bad_checkpoint, "duplicate key", [](auto& f) { f.decoder = R"({"type": "ByteLevel", "type": "x"})"; }},
      {Exit::bad_checkpoint, "merges is missing",
       [](auto& f) { f.model_extra = R"("vocab": {"a": 0}}, "x": {)"; }},
      {Exit::unsupported, "unk_token", [](auto& f) { f.model_extra = R"("unk_token": true,)"; }},
      {Exit::unsupported, "end_of_word_suffix", [](auto& f) { f.model_extra = R"("end_of_word_suffix": [],)"; }},
      {Exit::bad_checkpoint, "ignore_merges", [](auto& f) { f.model_extra = R"("ignore_merges": "no",)"; }},
      {Exit::unsupported, "normalizer", [](auto& f) { f.normalizer = "5"; }},
      {Exit::unsupported, "normalizer", [](auto& f) { f.normalizer = R"({"type": "Sequence"})"; }},
      {Exit::unsupported, "normalizer", [](auto& f) { f.normalizer = R"({"type": 5, "normalizers": []})"; }},
      {Exit::unsupported, "normalizer", [](auto& f) { f.normalizer = R"({"type": "Sequence", "normalizers": 5})"; }},
      {Exit::unsupported, "decoder", [](auto& f) { f.decoder = "null"; }},
      {Exit::unsupported, "decoder", [](auto& f) { f.decoder = "{}"; }},
      {Exit::unsupported, "decoder", [](auto& f) { f.decoder = R"({"type": 5})"; }},
      {Exit::bad_checkpoint, "added_tokens: expected an array", [](auto& f) { f.added = "{}"; }},
      {Exit::bad_checkpoint, "objects with an id", [](auto& f) { f.added = "[5]"; }},
      {Exit::bad_checkpoint, "objects with an id", [](auto& f) { f.added = R"([{"content": "<x>"}])"; }},
      {Exit::bad_checkpoint, "objects with an id", [](auto& f) { f.added = R"([{"id": -1, "content": "<x>"}])"; }},
      {Exit::bad_checkpoint, "objects with an id", [](auto& f) { f.added = R"([{"id": "1", "content": "<x>"}])"; }},
      {Exit::bad_checkpoint, "content", [](auto& f) { f.added = R"([{"id": 256, "content": 5}])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = R"([" a"])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = R"(["a "])"; }},
      {Exit::bad_checkpoint, "merge 0", [](auto& f) { f.raw_merges = "[[]]"; }},
      {Exit::bad_checkpoint, "merge", [](auto& f) { f.raw_merges = R"([[["a"], "b"]])"; }},
      {Exit::bad_checkpoint, "merge", [](auto& f) { f.raw_merges = R"([{"a": "b"}])"; }},
      {Exit::bad_checkpoint, "merge", [](auto& f) { f.raw_merges = R"([[true, "b"]])"; }},
      {Exit::bad_checkpoint, "", [](auto& f) { f.raw_merges = R"({"a": "b"})"; }},
      {Exit::bad_checkpoint, "", [](auto& f) { f.raw_tokens = R"("nested": {"a": 1})"; }},
      {Exit::bad_checkpoint, "", [](auto& f) { f.raw_tokens = R"("nested": [1])"; }},
      {Exit::bad_checkpoint, "", [](auto& f) { f.raw_tokens = R"("none": null)"; }},
  };
  for (const Case& c : cases) {
    TinyTokenizer file;
    c.spoil(file);
    const Outcome refusal = refusal_of(file);
    CAPTURE(c.word);
    CAPTURE(refusal.message.substr(0, 300));
    CHECK(refusal.code == c.code);
    CHECK(refusal.message.find(c.word) != std::string::npos);
    CHECK(refusal.file == "tokenizer.json");
    CHECK(refusal.message.size() < 1000);
  }
  const auto load = [](std::string_view text) {
    return code_of([&] {
      (void)Tokenizer::load(FileSet::memory("test", {{"tokenizer.json", as_bytes_of(text)}}));
    });
  };
  CHECK(load("") == Exit::bad_checkpoint);
  CHECK(load("[]") == Exit::bad_checkpoint);
  CHECK(load("{}") == Exit::bad_checkpoint);
  CHECK(load("version https://git-lfs.github.com/spec/v1") == Exit::bad_checkpoint);
  CHECK(load(R"({"model": {"type": "Unigram", "vocab": [["a", -1.5]]}})") == Exit::unsupported);
  CHECK(code_of([] { (void)Tokenizer::load(FileSet::memory("test", {})); }) == Exit::not_found);
}

TEST_CASE("tokenizer: tokenizer_config.json in its spellings") {
  const TinyTokenizer file;
  const std::string text = file.text();
  const auto load = [&](std::string_view config) {
    return Tokenizer::load(FileSet::memory(
        "test", {{"tokenizer.json", as_bytes_of(text)}, {"tokenizer_config.json", as_bytes_of(config)}}));
  };
  const auto t =
      load(R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": true}, "pad_token": null,
                          "add_bos_token": true, "tokenizer_class": "LlamaTokenizerFast"})");
  CHECK(t->special().bos_token == "<s>");
  CHECK(t->special().eos_token == "</s>");
  CHECK(t->special().pad_token.empty());
  CHECK(t->special().add_bos_token);
  CHECK(code_of([&] { (void)load("[]"); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)load(R"({"bos_token": 3})"); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)load(R"({"add_bos_token": "yes"})"); }) == Exit::bad_checkpoint);
  CHECK(code_of([&] { (void)load(R"({"added_tokens_decoder": {"x": {"content": "a"}}})"); }) ==
        Exit::bad_checkpoint);
}

TEST_CASE("tokenizer: escapes of a pattern") {
  MatchState state;
  const auto first = [&](const char* pattern, std::string_view text) {
    const auto m = Regex::oniguruma(pattern).find(text, 0, state);
    return m ? std::string(text.substr(m->begin, m->end - m->begin)) : std::string("none");
  };
  CHECK(first("\\D+", "12ab3") == "ab");
  CHECK(first("[\\D]+", "12ab3") == "ab");
  CHECK(first("\\x{4A}+", "IJJ") == "JJ");
  CHECK(first("\\x4a", "IJj") == "J");
  CHECK(first("[\\u004a-\\u004C]+", "IJKLM") == "JKL");
}
