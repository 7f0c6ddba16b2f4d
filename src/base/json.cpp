#include "src/base/json.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "src/base/utf8.h"

namespace fathom::json {
namespace {

// Checks the shape of the document (depth, number of values, finite numbers) and forwards events.
class Guard {
 public:
  Guard(Events& events, const Limits& limits) : events_(events), limits_(limits) {}

  bool null() { return count() && events_.null(); }
  bool boolean(bool v) { return count() && events_.boolean(v); }
  bool number_integer(std::int64_t v) { return count() && events_.integer(v); }
  bool number_unsigned(std::uint64_t v) { return count() && events_.unsigned_integer(v); }
  bool number_float(double v, const std::string& literal) {
    // The library turns an integer beyond 64 bits into a double: a value nobody wrote.
    if (literal.find_first_of(".eE") == std::string::npos) return refuse("integer " + literal.substr(0, 40) + " does not fit 64 bits");
    return count() && events_.number(v);
  }
  bool string(std::string& v) { return count() && events_.string(std::move(v)); }
  bool binary(nlohmann::json::binary_t&) { return refuse("binary value"); }
  bool key(std::string& v) { return events_.key(std::move(v)); }
  bool start_object(std::size_t) { return enter() && events_.start_object(); }
  bool end_object() { return leave() && events_.end_object(); }
  bool start_array(std::size_t) { return enter() && events_.start_array(); }
  bool end_array() { return leave() && events_.end_array(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& e) {
    offset = position;
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..." -> from "syntax"/"parse".
    std::string_view what = e.what();
    if (const auto bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
    if (const auto colon = what.find(": "); colon != what.npos) what.remove_prefix(colon + 2);
    return refuse(std::string(what.substr(0, 200)));
  }

  std::string problem;
  std::optional<std::size_t> offset;

 private:
  bool refuse(std::string why) {
    if (problem.empty()) problem = std::move(why);
    return false;
  }
  bool count() {
    return ++nodes_ <= limits_.nodes || refuse(fmt::format("more than {} values", limits_.nodes));
  }
  bool enter() {
    return count() && (++depth_ <= limits_.depth || refuse(fmt::format("nested deeper than {}", limits_.depth)));
  }
  bool leave() {
    --depth_;
    return true;
  }

  Events& events_;
  const Limits& limits_;
  std::size_t depth_ = 0, nodes_ = 0;
};

[[noreturn]] void fail_at(std::string_view where, Exit code, const std::string& problem,
                          std::optional<std::size_t> offset) {
  std::string message = offset ? fmt::format("{}: not valid JSON at byte {}: {}", where, *offset, problem)
                               : fmt::format("{}: not acceptable JSON: {}", where, problem);
  throw Error(code, std::move(message)).at(std::string(where), offset);
}

// Length of the well-formed UTF-8 sequence at s[i], 0 if there is none.
std::size_t utf8_length(std::string_view s, std::size_t i) {
  const Utf8Sequence sequence = utf8_sequence(s.substr(i));
  return sequence.kind == Utf8Sequence::character ? sequence.size : 0;
}

void dump_to(const Value& v, std::string& out) {
  struct Writer {
    std::string& out;
    void operator()(std::nullptr_t) { out += "null"; }
    void operator()(bool b) { out += b ? "true" : "false"; }
    void operator()(std::int64_t i) { out += fmt::format("{}", i); }
    void operator()(std::uint64_t i) { out += fmt::format("{}", i); }
    void operator()(double d) {
      if (!std::isfinite(d)) {
        out += "null";
        return;
      }
      const std::string text = fmt::format("{}", d);
      out += text;
      if (text.find_first_of(".e") == std::string::npos) out += ".0";  // 61.0 must not read back as an integer
    }
    void operator()(const std::string& s) { out += quote(s); }
    void operator()(const Array& a) {
      out += '[';
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (i != 0) out += ',';
        dump_to(a[i], out);
      }
      out += ']';
    }
    void operator()(const Object& o) {
      out += '{';
      for (std::size_t i = 0; i < o.size(); ++i) {
        if (i != 0) out += ',';
        out += quote(o[i].first);
        out += ':';
        dump_to(o[i].second, out);
      }
      out += '}';
    }
  };
  std::visit(Writer{out}, v.data());
}

}  // namespace

double Value::as_number() const {
  if (const auto* i = std::get_if<std::int64_t>(&data_)) return static_cast<double>(*i);
  if (const auto* u = std::get_if<std::uint64_t>(&data_)) return static_cast<double>(*u);
  return std::get<double>(data_);
}

std::optional<std::int64_t> Value::integer_in(std::int64_t lo, std::int64_t hi) const {
  const auto* i = std::get_if<std::int64_t>(&data_);
  if (i == nullptr || *i < lo || *i > hi) return std::nullopt;
  return *i;
}

std::optional<std::uint64_t> Value::as_u64() const {
  if (const auto* u = std::get_if<std::uint64_t>(&data_)) return *u;
  if (const auto* i = std::get_if<std::int64_t>(&data_); i != nullptr && *i >= 0) return static_cast<std::uint64_t>(*i);
  return std::nullopt;
}

const Value* Value::find(std::string_view key) const {
  const auto* object = std::get_if<Object>(&data_);
  if (object == nullptr) return nullptr;
  for (const Member& m : *object)
    if (m.first == key) return &m.second;
  return nullptr;
}

std::string Value::describe() const {
  if (is_object()) return "an object";
  if (is_array()) return "an array";
  std::string text = dump(*this);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return is_string() ? "the string " + text : text;
}

bool parse_events(std::string_view text, std::string_view where, Events& events, Exit code, const Limits& limits) {
  if (text.size() > limits.bytes)
    fail_at(where, code, fmt::format("{} bytes, more than {}", text.size(), limits.bytes), std::nullopt);
  // The library skips a byte order mark; JSON forbids writers one, and the reference reader refuses it.
  if (text.starts_with("\xEF\xBB\xBF")) fail_at(where, code, "begins with a byte order mark", 0);
  Guard guard(events, limits);
  const bool done = nlohmann::json::sax_parse(text.begin(), text.end(), &guard);
  if (!guard.problem.empty()) fail_at(where, code, guard.problem, guard.offset);
  return done;
}

bool TreeBuilder::unsigned_integer(std::uint64_t v) {
  if (v <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return add(Value(static_cast<std::int64_t>(v)));
  return add(Value(v));
}

bool TreeBuilder::key(std::string&& v) {
  if (!open_.back().keys.insert(v).second) {
    duplicate = std::move(v);
    return false;
  }
  open_.back().key = std::move(v);
  return true;
}

bool TreeBuilder::push(Value v) {
  open_.push_back({std::move(v), {}, {}});
  return true;
}

bool TreeBuilder::pop() {
  Value done = std::move(open_.back().value);
  open_.pop_back();
  return add(std::move(done));
}

bool TreeBuilder::add(Value v) {
  if (open_.empty()) {
    root = std::move(v);
    return true;
  }
  Open& o = open_.back();
  if (auto* object = std::get_if<Object>(&o.value.data())) {
    object->emplace_back(std::move(o.key), std::move(v));
  } else {
    std::get<Array>(o.value.data()).push_back(std::move(v));
  }
  return true;
}

Value parse(std::string_view text, std::string_view where, Exit code, const Limits& limits) {
  TreeBuilder tree;
  const bool done = parse_events(text, where, tree, code, limits);
  if (tree.duplicate) fail_at(where, code, "duplicate key " + quote(tree.duplicate->substr(0, 80)), std::nullopt);
  if (!done) fail_at(where, code, "parsing stopped", std::nullopt);
  return std::move(tree.root);
}

std::string quote(std::string_view s) {
  std::string out = "\"";
  for (std::size_t i = 0; i < s.size();) {
    const auto c = static_cast<unsigned char>(s[i]);
    const std::size_t n = utf8_length(s, i);
    if (n == 0) {
      out += "\\ufffd";
      ++i;
    } else if (n == 2 && c == 0xC2 && static_cast<unsigned char>(s[i + 1]) < 0xA0) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(s[i + 1]));  // C1 controls
      i += 2;
    } else if (n > 1) {
      out += s.substr(i, n);
      i += n;
    } else {
      switch (c) {
        case '"': out += "\\\""; break;
        case '\\': out += "\\\\"; break;
        case '\n': out += "\\n"; break;
        case '\r': out += "\\r"; break;
        case '\t': out += "\\t"; break;
        default:
          if (c < 0x20 || c == 0x7f) {
            out += fmt::format("\\u{:04x}", c);
          } else {
            out += static_cast<char>(c);
          }
      }
      ++i;
    }
  }
  out += '"';
  return out;
}

std::string dump(const Value& v) {
  std::string out;
  dump_to(v, out);
  return out;
}

}  // namespace fathom::json
