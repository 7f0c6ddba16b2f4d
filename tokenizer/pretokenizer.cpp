#include "tokenizer/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "src/base/error.h"
#include "src/base/utf8.h"
#include "tokenizer/unicode_additions.h"

namespace fathom {
namespace {

// ByteLevel's pattern under use_regex: the one of GPT-2 (encoder.py of its release).
constexpr std::string_view byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

const json::Value& member(const json::Value& object, std::string_view key) {
  static const json::Value null;
  const json::Value* found = object.find(key);
  return found == nullptr ? null : *found;
}

std::string_view type_of(const json::Value& value) {
  const json::Value& type = member(value, "type");
  if (!type.is_string()) {
    fail(Exit::bad_checkpoint, "pre_tokenizer: expected an object with a string \"type\", found {}",
         value.describe());
  }
  return type.as_string();
}

bool flag(const json::Value& value, std::string_view key, bool if_absent) {
  const json::Value& v = member(value, key);
  if (v.is_null()) return if_absent;
  if (!v.is_bool())
    fail(Exit::bad_checkpoint, "pre_tokenizer: expected {} true or false, found {}", key, v.describe());
  return v.as_bool();
}

SplitBehavior behavior_of(const json::Value& value) {
  using enum SplitBehavior;
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> names = {
      {{"Isolated", isolated},
       {"Removed", removed},
       {"MergedWithPrevious", merged_with_previous},
       {"MergedWithNext", merged_with_next},
       {"Contiguous", contiguous}}};
  const json::Value& v = member(value, "behavior");
  if (v.is_string()) {
    for (const auto& [name, behavior] : names)
      if (v.as_string() == name) return behavior;
  }
  fail(Exit::unsupported,
       "pre_tokenizer Split: expected the behavior Isolated, Removed, MergedWithPrevious, MergedWithNext or "
       "Contiguous, found {}",
       v.describe());
}

Regex pattern_of(const json::Value& value) {
  const json::Value& pattern = member(value, "pattern");
  if (const json::Value& regex = member(pattern, "Regex"); regex.is_string())
    return Regex::oniguruma(regex.as_string());
  if (const json::Value& text = member(pattern, "String"); text.is_string())
    return Regex::literal(text.as_string());
  fail(Exit::bad_checkpoint,
       "pre_tokenizer Split: expected a pattern {{\"Regex\": ...}} or {{\"String\": ...}}, found {}",
       pattern.describe());
}

// A stretch of text, matched by the pattern or between two matches.
struct Part {
  std::size_t begin, end;
  bool matched;
};

// Calls on_part for matches and gaps, which cover the text in order. Oniguruma's iteration: an empty match
// right behind the last match is passed over.
void for_each_part(const Regex& pattern, std::string_view text, MatchState& state,
                   FunctionRef<void(Part)> on_part) {
  std::size_t from = 0, done = 0;
  bool after_match = false;
  while (from <= text.size()) {
    const auto match = pattern.find(text, from, state);
    if (!match) break;
    if (match->end == match->begin && after_match && match->end == done) {
      from = match->end == text.size() ? text.size() + 1
                                       : match->end + utf8_sequence(text.substr(match->end)).size;
      continue;
    }
    if (match->begin > done) on_part({done, match->begin, false});
    on_part({match->begin, match->end, true});
    from = done = match->end;
    after_match = true;
  }
  if (done < text.size()) on_part({done, text.size(), false});
}

// Joins parts as the behaviour says; removed parts are gone, the rest are pieces.
std::vector<Part> join(const std::vector<Part>& parts, SplitBehavior behavior) {
  std::vector<Part> pieces;
  bool previous = false;
  switch (behavior) {
    case SplitBehavior::isolated:
      return parts;
    case SplitBehavior::removed:
      for (const Part& p : parts)
        if (!p.matched) pieces.push_back(p);
      return pieces;
    case SplitBehavior::contiguous:
      for (const Part& p : parts) {
        if (!pieces.empty() && p.matched == previous) {
          pieces.back().end = p.end;
        } else {
          pieces.push_back(p);
        }
        previous = p.matched;
      }
      return pieces;
    case SplitBehavior::merged_with_previous:
      for (const Part& p : parts) {
        if (p.matched && !previous && !pieces.empty()) {
          pieces.back().end = p.end;
        } else {
          pieces.push_back(p);
        }
        previous = p.matched;
      }
      return pieces;
    case SplitBehavior::merged_with_next:
      for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
        if (p->matched && !previous && !pieces.empty()) {
          pieces.back().begin = p->begin;
        } else {
          pieces.push_back(*p);
        }
        previous = p->matched;
      }
      return {pieces.rbegin(), pieces.rend()};
  }
  return parts;
}

// One bit for each 64 code points that hold an addition.
constexpr auto addition_blocks = [] {
  std::array<std::uint64_t, (0x110000 >> 12) + 1> bits{};
  for (const UnicodeAddition& a : unicode_additions)
    for (char32_t block = a.first >> 6; block <= a.last >> 6; ++block)
      bits[block >> 6] |= std::uint64_t{1} << (block & 63);
  return bits;
}();

const UnicodeAddition* addition_at(char32_t c) {
  if ((addition_blocks[c >> 12] >> (c >> 6 & 63) & 1) == 0) return nullptr;
  const auto at = std::ranges::lower_bound(unicode_additions, c, {}, &UnicodeAddition::last);
  return at != std::end(unicode_additions) && at->first <= c ? at : nullptr;
}

// The text as the patterns see it: characters that are newer than PCRE2's tables give way to older ones of
// their kind. That is the text itself, but for one in many thousands.
std::string_view with_stand_ins(std::string_view text, std::deque<std::string>& made) {
  std::string* changed = nullptr;
  std::string stand_in;
  for (std::size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0xE0) {  // one or two bytes: no additions there
      ++i;
      continue;
    }
    const std::size_t size = static_cast<unsigned char>(text[i]) < 0xF0 ? 3 : 4;
    if (const UnicodeAddition* a = addition_at(utf8_decode(text.substr(i, size)))) {
      if (changed == nullptr) changed = &made.emplace_back(text);
      stand_in.clear();
      utf8_append(stand_in, a->stand_in);
      changed->replace(i, size, stand_in);
    }
    i += size;
  }
  return changed == nullptr ? text : std::string_view(*changed);
}

}  // namespace

Pretokenizer Pretokenizer::from_json(const json::Value& value) {
  Pretokenizer p;
  if (type_of(value) != "Sequence") {
    p.add_step(value, true);
    return p;
  }
  const json::Value& steps = member(value, "pretokenizers");
  if (!steps.is_array() || steps.as_array().size() > 64) {
    fail(Exit::bad_checkpoint,
         "pre_tokenizer Sequence: expected an array of at most 64 pretokenizers, found {}", steps.describe());
  }
  const json::Array& list = steps.as_array();
  if (list.empty())
    fail(Exit::unsupported, "pre_tokenizer: expected a ByteLevel step, found an empty Sequence");
  for (const json::Value& step : list) p.add_step(step, &step == &list.back());
  return p;
}

void Pretokenizer::add_step(const json::Value& value, bool last) {
  const std::string_view type = type_of(value);
  if ((type == "ByteLevel") != last && (type == "ByteLevel" || type == "Split" || type == "Digits")) {
    fail(Exit::unsupported, "pre_tokenizer: expected ByteLevel as the last step and only there, found {}{}",
         json::quote(type), last ? " at the end" : " before the end");
  }
  if (type == "ByteLevel") {
    add_byte_level(value);
  } else if (type == "Split") {
    add_split(pattern_of(value), behavior_of(value), flag(value, "invert", false));
  } else if (type == "Digits") {
    add_split(Regex::oniguruma("\\p{N}"),
              flag(value, "individual_digits", false) ? SplitBehavior::isolated : SplitBehavior::contiguous,
              false);
  } else {
    fail(Exit::unsupported, "pre_tokenizer: expected Split, Digits or ByteLevel, found {}",
         json::quote(type.substr(0, 60)));
  }
}

void Pretokenizer::add_byte_level(const json::Value& value) {
  if (flag(value, "add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
  if (flag(value, "use_regex", true))
    add_split(Regex::oniguruma(byte_level_pattern), SplitBehavior::isolated, false);
}

void Pretokenizer::add_split(Regex pattern, SplitBehavior behavior, bool invert) {
  steps_.emplace_back(Split{std::move(pattern), behavior, invert});
}

void Pretokenizer::split(std::string_view text, State& state,
                         FunctionRef<void(std::string_view)> on_piece) const {
  run(0, {text, with_stand_ins(text, state.made)}, state, on_piece);
}

void Pretokenizer::run(std::size_t step, Subject subject, State& state, OnPiece& on_piece) const {
  if (subject.text.empty()) return;
  if (step == steps_.size()) {
    on_piece(subject.text);
  } else if (const Split* split = std::get_if<Split>(&steps_[step])) {
    run_split(*split, step, subject, state, on_piece);
  } else if (subject.text.front() == ' ') {
    run(step + 1, subject, state, on_piece);
  } else {
    const std::string& text = state.made.emplace_back(" ").append(subject.text);
    const std::string& seen = state.made.emplace_back(" ").append(subject.seen);
    run(step + 1, {text, seen}, state, on_piece);
  }
}

void Pretokenizer::run_split(const Split& split, std::size_t step, Subject subject, State& state,
                             OnPiece& on_piece) const {
  const auto emit = [&](const Part& p) { run(step + 1, subject.part(p.begin, p.end), state, on_piece); };
  if (split.behavior == SplitBehavior::isolated) {
    for_each_part(split.pattern, subject.seen, state.match, emit);
    return;
  }
  std::vector<Part> parts;
  for_each_part(split.pattern, subject.seen, state.match, [&](Part p) {
    parts.push_back({p.begin, p.end, p.matched != split.invert});
  });
  for (const Part& p : join(parts, split.behavior)) emit(p);
}

}  // namespace fathom
