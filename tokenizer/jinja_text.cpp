#include "tokenizer/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

namespace fathom::jinja {

void Meter::fail_text(Exit code, const std::string& message) const {
  Error error(code, fmt::format("{}, line {}: {}", where, line, message),
              "choose another template with --template NAME|FILE");
  throw error.at(where);
}

// -- Text ---------------------------------------------------------------------------------------------------

Text::Text(std::string bytes, bool message) {
  if (bytes.empty()) return;
  auto rep = std::make_shared<Rep>();
  rep->runs.push_back({bytes.size(), message});
  rep->bytes = std::move(bytes);
  rep_ = std::move(rep);
}

bool Text::message_at(std::size_t i) const {
  const auto all = runs();
  const auto it =
      std::upper_bound(all.begin(), all.end(), i, [](std::size_t at, const Run& r) { return at < r.end; });
  return it != all.end() && it->message;
}

void TextBuilder::pay(std::size_t bytes) {
  meter_.check_text(rep_->bytes.size() + std::uint64_t{bytes});
  meter_.handle(bytes);
  const std::size_t cost = bytes + sizeof(Run);
  meter_.take(cost);
  rep_->paid += cost;
}

void TextBuilder::add(std::string_view bytes, bool message) {
  if (bytes.empty()) return;
  pay(bytes.size());
  rep_->bytes += bytes;
  if (!rep_->runs.empty() && rep_->runs.back().message == message) {
    rep_->runs.back().end = rep_->bytes.size();
  } else {
    rep_->runs.push_back({rep_->bytes.size(), message});
  }
}

void TextBuilder::add(const Text& text, std::size_t begin, std::size_t end) {
  const auto all = text.runs();
  auto it = std::upper_bound(all.begin(), all.end(), begin,
                             [](std::size_t at, const Run& r) { return at < r.end; });
  for (; begin < end; ++it) {
    const std::size_t stop = std::min(it->end, end);
    add(text.view().substr(begin, stop - begin), it->message);
    begin = stop;
  }
}

TextBuilder::TextBuilder(Meter& meter) : rep_(std::make_shared<Text::Rep>()), meter_(meter) {
  constexpr std::size_t kOverhead =
      sizeof(Text::Rep) + 3 * sizeof(void*);  // with the control block and allocator
  meter_.take(kOverhead);
  rep_->meter = &meter_;
  rep_->paid = kOverhead;
}

Text TextBuilder::finish() {
  Text text;
  if (!rep_->bytes.empty()) text.rep_ = std::move(rep_);
  rep_.reset();
  return text;
}

// -- characters ---------------------------------------------------------------------------------------------

std::size_t char_length(std::string_view s, std::size_t i) {
  if (static_cast<unsigned char>(s[i]) < 0x80) return 1;
  utf8proc_int32_t c = 0;
  const auto left = static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, s.size() - i));
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(s.data() + i), left, &c);
  return n > 0 ? static_cast<std::size_t>(n) : 1;
}

std::uint32_t code_point(std::string_view s, std::size_t i) {
  const auto first = static_cast<unsigned char>(s[i]);
  if (first < 0x80) return first;
  utf8proc_int32_t c = 0;
  const auto left = static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, s.size() - i));
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(s.data() + i), left, &c);
  return n > 0 ? static_cast<std::uint32_t>(c) : 0xDC00u + first;
}

std::size_t count_chars(std::string_view s) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < s.size(); i += char_length(s, i)) ++n;
  return n;
}

std::size_t char_offset(std::string_view s, std::size_t n) {
  std::size_t i = 0;
  for (; n > 0 && i < s.size(); --n) i += char_length(s, i);
  return i;
}

void append_utf8(std::string& out, std::uint32_t c) {
  if (c >= 0xDC80 && c <= 0xDCFF) {  // an invalid byte, kept
    out += static_cast<char>(c - 0xDC00);
    return;
  }
  utf8proc_uint8_t buffer[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), buffer);
  out.append(reinterpret_cast<const char*>(buffer),
             static_cast<std::size_t>(std::max<utf8proc_ssize_t>(0, n)));
}

bool is_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_printable(std::uint32_t c) {
  if (c == ' ') return true;
  if (c >= 0xDC80 && c <= 0xDCFF) return false;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

// -- operations ---------------------------------------------------------------------------------------------

std::size_t find(std::string_view s, std::string_view needle, std::size_t from) {
  if (from > s.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  if (from == s.size()) return std::string_view::npos;  // memmem takes no null
  const void* hit = memmem(s.data() + from, s.size() - from, needle.data(), needle.size());
  return hit ? static_cast<std::size_t>(static_cast<const char*>(hit) - s.data()) : std::string_view::npos;
}

Text slice(Meter& m, const Text& s, std::size_t begin, std::size_t end) {
  if (begin == 0 && end >= s.size()) return s;
  TextBuilder out(m);
  if (begin < end) out.add(s, begin, end);
  return out.finish();
}

Text concat(Meter& m, const Text& a, const Text& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  TextBuilder out(m);
  out.add(a);
  out.add(b);
  return out.finish();
}

namespace {

// Start of the character that ends before byte `end`.
std::size_t previous_char(std::string_view s, std::size_t end) {
  std::size_t back = 1;
  while (back < 4 && back < end && (static_cast<unsigned char>(s[end - back]) & 0xC0) == 0x80) ++back;
  return char_length(s, end - back) == back ? end - back : end - 1;
}

bool strips(std::string_view s, std::size_t at, std::size_t n, const std::string_view* chars) {
  if (!chars) return is_space(code_point(s, at));
  for (std::size_t i = 0; i < chars->size();) {
    const std::size_t k = char_length(*chars, i);
    if (chars->substr(i, k) == s.substr(at, n)) return true;
    i += k;
  }
  return false;
}

std::size_t skip_space(std::string_view s, std::size_t i) {
  while (i < s.size() && is_space(code_point(s, i))) i += char_length(s, i);
  return i;
}

std::size_t skip_word(std::string_view s, std::size_t i) {
  while (i < s.size() && !is_space(code_point(s, i))) i += char_length(s, i);
  return i;
}

std::size_t skip_space_back(std::string_view s, std::size_t end) {
  while (end > 0) {
    const std::size_t at = previous_char(s, end);
    if (!is_space(code_point(s, at))) break;
    end = at;
  }
  return end;
}

std::size_t skip_word_back(std::string_view s, std::size_t end) {
  while (end > 0) {
    const std::size_t at = previous_char(s, end);
    if (is_space(code_point(s, at))) break;
    end = at;
  }
  return end;
}

void keep(Meter& m, std::vector<Text>& parts, const Text& s, std::size_t begin, std::size_t end) {
  m.step();
  parts.push_back(slice(m, s, begin, end));
}

std::uint32_t upper(std::uint32_t c) {
  return static_cast<std::uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
std::uint32_t lower(std::uint32_t c) {
  return static_cast<std::uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
std::uint32_t title(std::uint32_t c) {
  return static_cast<std::uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

bool is_cased(std::uint32_t c) {
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

// Jinja's title filter starts a word after these.
bool parts_words(std::uint32_t c) {
  return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

}  // namespace

Text strip(Meter& m, const Text& s, Side side, const std::string_view* chars) {
  const std::string_view v = s.view();
  std::size_t begin = 0, end = v.size();
  const std::uint64_t each = chars ? 1 + chars->size() / 8 : 1;
  while (side != Side::right && begin < end) {
    const std::size_t n = char_length(v, begin);
    if (!strips(v, begin, n, chars)) break;
    begin += n;
    m.handle(each * 64 / 8);
  }
  while (side != Side::left && begin < end) {
    const std::size_t at = previous_char(v, end);
    if (!strips(v, at, end - at, chars)) break;
    end = at;
    m.handle(each * 64 / 8);
  }
  return slice(m, s, begin, end);
}

std::vector<Text> split(Meter& m, const Text& s, const std::string_view* sep, std::int64_t limit) {
  const std::string_view v = s.view();
  std::vector<Text> parts;
  m.handle(v.size());
  if (sep) {
    std::size_t from = 0;
    for (std::size_t at; limit != 0 && (at = find(v, *sep, from)) != v.npos; --limit) {
      keep(m, parts, s, from, at);
      from = at + sep->size();
    }
    keep(m, parts, s, from, v.size());
    return parts;
  }
  for (std::size_t i = skip_space(v, 0); i < v.size(); --limit) {
    const std::size_t end = limit == 0 ? v.size() : skip_word(v, i);
    keep(m, parts, s, i, end);
    i = skip_space(v, end);
  }
  return parts;
}

std::vector<Text> rsplit(Meter& m, const Text& s, const std::string_view* sep, std::int64_t limit) {
  if (limit < 0) return split(m, s, sep, limit);
  const std::string_view v = s.view();
  std::vector<Text> parts;
  if (sep) {
    std::size_t end = v.size();
    for (; limit != 0; --limit) {
      // The reverse search is bounded by what it pays for.
      const std::size_t at = end < sep->size() ? v.npos : v.rfind(*sep, end - sep->size());
      m.step(1 + (end - (at == v.npos ? 0 : at)) / 64 * (1 + sep->size()));
      if (at == v.npos) break;
      keep(m, parts, s, at + sep->size(), end);
      end = at;
    }
    keep(m, parts, s, 0, end);
  } else {
    m.handle(v.size());
    for (std::size_t end = skip_space_back(v, v.size()); end > 0; --limit) {
      const std::size_t begin = limit == 0 ? 0 : skip_word_back(v, end);
      keep(m, parts, s, begin, end);
      end = skip_space_back(v, begin);
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Text> split_lines(Meter& m, const Text& s) {
  const std::string_view v = s.view();
  std::vector<Text> parts;
  m.handle(v.size());
  std::size_t from = 0;
  for (std::size_t i = 0; i < v.size();) {
    const std::uint32_t c = code_point(v, i);
    std::size_t n = char_length(v, i);
    const bool ends =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (c == '\r' && i + 1 < v.size() && v[i + 1] == '\n') n = 2;
    if (ends) {
      keep(m, parts, s, from, i);
      from = i + n;
    }
    i += n;
  }
  if (from < v.size()) keep(m, parts, s, from, v.size());
  return parts;
}

Text replace(Meter& m, const Text& s, std::string_view old, const Text& replacement, std::int64_t limit) {
  const std::string_view v = s.view();
  m.handle(v.size());
  TextBuilder out(m);
  std::size_t from = 0;
  if (old.empty()) {  // between all characters
    while (limit != 0) {
      m.step();
      out.add(replacement);
      --limit;
      if (from >= v.size()) return out.finish();
      const std::size_t n = char_length(v, from);
      out.add(s, from, from + n);
      from += n;
    }
  } else {
    for (std::size_t at; limit != 0 && (at = find(v, old, from)) != v.npos; --limit) {
      m.step();
      out.add(s, from, at);
      out.add(replacement);
      from = at + old.size();
    }
    if (from == 0) return s;
  }
  out.add(s, from, v.size());
  return out.finish();
}

Text change_case(Meter& m, const Text& s, Case to) {
  const std::string_view v = s.view();
  TextBuilder out(m);
  std::string mapped;
  std::size_t begin = 0;
  bool start = true;  // of the string, or of a word
  for (const Run& run : s.runs()) {
    mapped.clear();
    std::size_t i = begin;  // a character may reach over the run's end if its bytes came from two places
    while (i < run.end) {
      const std::uint32_t c = code_point(v, i);
      const std::size_t n = char_length(v, i);
      const bool raise = to == Case::upper || (to != Case::lower && start);
      if (to == Case::capitalize || to == Case::lower || to == Case::upper) {
        start = false;
      } else {
        start = to == Case::title ? !is_cased(c) : parts_words(c);
      }
      if (raise && c == 0xDF) {  // sharp s has no single capital
        mapped += to == Case::upper || to == Case::title_words ? "SS" : "Ss";
      } else if (n == 1 && c >= 0x80) {
        mapped += v[i];
      } else {
        append_utf8(mapped, !raise                                         ? lower(c)
                            : to == Case::upper || to == Case::title_words ? upper(c)
                                                                           : title(c));
      }
      i += n;
    }
    begin = i;
    m.handle(mapped.size() * 8);
    out.add(mapped, run.message);
  }
  return out.finish();
}

Text repeat(Meter& m, const Text& s, std::int64_t count) {
  if (count <= 0 || s.empty()) return {};
  if (static_cast<std::uint64_t>(count) > m.max_text / s.size())
    m.fail("a string of more than {} bytes", m.max_text);
  // Short strings are repeated in larger units, so that the number of steps follows the bytes.
  const std::int64_t per_unit = std::min(count, static_cast<std::int64_t>(1 + 4096 / s.size()));
  TextBuilder unit_builder(m);
  for (std::int64_t i = 0; i < per_unit; ++i) unit_builder.add(s);
  const Text unit = unit_builder.finish();
  TextBuilder out(m);
  for (; count >= per_unit; count -= per_unit) out.add(unit);
  for (; count > 0; --count) out.add(s);
  return out.finish();
}

Text html_escape(Meter& m, const Text& s) {
  static constexpr struct {
    char c;
    std::string_view to;
  } kEscapes[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&#34;"}, {'\'', "&#39;"}};
  TextBuilder out(m);
  const std::string_view v = s.view();
  std::size_t from = 0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    for (const auto& e : kEscapes) {
      if (v[i] != e.c) continue;
      out.add(s, from, i);
      out.add(e.to, s.message_at(i));
      from = i + 1;
    }
  }
  out.add(s, from, v.size());
  return out.finish();
}

}  // namespace fathom::jinja
