#include "tokenizer/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace fathom::jinja {

namespace {

constexpr int kMaxDepth = 100;  // of nested values: a cycle ends here
constexpr std::size_t kEntryCost = sizeof(std::pair<Value, Value>) + 80;  // with its index node

void check_depth(Meter& m, int depth) {
  if (depth > kMaxDepth) m.fail("values nested deeper than {}", kMaxDepth);
}

template <class... Ts>
struct Overload : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overload(Ts...) -> Overload<Ts...>;

}  // namespace

// -- Heap ---------------------------------------------------------------------------------------------------

List* Heap::list(std::vector<Value> items, List::Form form, bool message) {
  meter_.step(1 + items.size() / 4);
  meter_.take(sizeof(List) + items.capacity() * sizeof(Value));
  List& l = lists_.emplace_back();
  l.form = form;
  l.message = message;
  l.items = std::move(items);
  return &l;
}

Dict* Heap::dict() {
  meter_.take(sizeof(Dict));
  return &dicts_.emplace_back();
}

Callable* Heap::callable(Callable c) {
  meter_.take(sizeof(Callable) + c.items.size() * sizeof(Value));
  return &callables_.emplace_back(std::move(c));
}

Loop* Heap::loop() {
  meter_.take(sizeof(Loop));
  return &loops_.emplace_back();
}

const std::string* Heap::name(std::string_view text) {
  text = text.substr(0, 200);
  meter_.take(sizeof(std::string) + text.size());
  return &names_.emplace_back(text);
}

void Heap::set(Dict& dict, const Value& key, Value value) {
  std::optional<std::string> k = key_of(key);
  if (!k) meter_.fail("{} cannot be a key", type_name(key));
  meter_.handle(k->size());
  const auto it = dict.index.find(*k);
  if (it != dict.index.end()) {
    dict.entries[it->second].second = std::move(value);
    return;
  }
  meter_.take(kEntryCost + k->size());
  dict.index.emplace(std::move(*k), dict.entries.size());
  dict.entries.emplace_back(key, std::move(value));
}

void Heap::append(List& list, Value value) {
  meter_.take(2 * sizeof(Value));
  list.items.push_back(std::move(value));
}

// -- questions ----------------------------------------------------------------------------------------------

List* as_list(const Value& v) {
  const auto* p = std::get_if<List*>(&v);
  return p ? *p : nullptr;
}

Dict* as_dict(const Value& v) {
  const auto* p = std::get_if<Dict*>(&v);
  return p ? *p : nullptr;
}

std::optional<std::int64_t> as_integer(const Value& v) {
  if (const auto* i = std::get_if<std::int64_t>(&v)) return *i;
  if (const auto* b = std::get_if<bool>(&v)) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> as_number(const Value& v) {
  if (const auto* d = std::get_if<double>(&v)) return *d;
  if (const auto i = as_integer(v)) return static_cast<double>(*i);
  return std::nullopt;
}

std::string_view type_name(const Value& v) {
  static constexpr std::string_view kNames[] = {
      "an undefined value", "none",   "a boolean", "an integer", "a float",
      "a string",           "a list", "a mapping", "a function", "a loop"};
  if (const List* l = as_list(v)) {
    if (l->form == List::Form::tuple) return "a tuple";
    if (l->form == List::Form::generator) return "a generator";
  }
  if (const Dict* d = as_dict(v); d && d->space) return "a namespace";
  return kNames[v.index()];
}

bool truth(const Value& v) {
  return std::visit(
      Overload{[](Undefined) { return false; }, [](None) { return false; }, [](bool b) { return b; },
               [](std::int64_t i) { return i != 0; }, [](double d) { return d != 0; },
               [](const Text& t) { return !t.empty(); },
               [](const List* l) { return l->form == List::Form::generator || !l->items.empty(); },
               [](const Dict* d) { return d->space || !d->entries.empty(); },
               [](const Callable*) { return true; }, [](const Loop*) { return true; }},
      v);
}

std::optional<std::string> key_of(const Value& v) {
  if (const Text* t = as_text(v)) return std::string("s").append(t->view());
  if (const auto i = as_integer(v)) return "n" + std::to_string(*i);  // true and 1 are one key, and so is 1.0
  if (const auto* d = std::get_if<double>(&v)) {
    if (*d == std::floor(*d) && std::abs(*d) < 9e18)
      return "n" + std::to_string(static_cast<std::int64_t>(*d));
    return "n" + float_repr(*d);
  }
  if (is_none(v)) return "none";
  return std::nullopt;
}

const Value* find(const Dict& dict, const Value& key) {
  const auto k = key_of(key);
  if (!k) return nullptr;
  const auto it = dict.index.find(*k);
  return it == dict.index.end() ? nullptr : &dict.entries[it->second].second;
}

const Value* find(const Dict& dict, std::string_view key) {
  const auto it = dict.index.find(std::string("s").append(key));
  return it == dict.index.end() ? nullptr : &dict.entries[it->second].second;
}

namespace {

bool equal_at(Meter& m, const Value& a, const Value& b, int depth);

bool equal_lists(Meter& m, const List& a, const List& b, int depth) {
  if (&a == &b) return true;
  if (a.form != b.form || a.form == List::Form::generator || a.items.size() != b.items.size()) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i)
    if (!equal_at(m, a.items[i], b.items[i], depth + 1)) return false;
  return true;
}

bool equal_dicts(Meter& m, const Dict& a, const Dict& b, int depth) {
  if (&a == &b) return true;
  if (a.space || b.space || a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = find(b, key);
    if (!other || !equal_at(m, value, *other, depth + 1)) return false;
  }
  return true;
}

bool equal_at(Meter& m, const Value& a, const Value& b, int depth) {
  m.step();
  check_depth(m, depth);
  const auto ia = as_integer(a), ib = as_integer(b);
  if (ia && ib) return *ia == *ib;
  const auto na = as_number(a), nb = as_number(b);
  if (na && nb) return *na == *nb;
  if (a.index() != b.index()) return false;
  if (const Text* t = as_text(a)) {
    m.handle(t->size());
    return t->view() == as_text(b)->view();
  }
  if (const List* l = as_list(a)) return equal_lists(m, *l, *as_list(b), depth);
  if (const Dict* d = as_dict(a)) return equal_dicts(m, *d, *as_dict(b), depth);
  if (std::holds_alternative<Callable*>(a)) {
    const Callable *ca = std::get<Callable*>(a), *cb = std::get<Callable*>(b);
    // A function is made anew wherever it is named.
    const bool functions = ca->kind == Callable::Kind::function && cb->kind == Callable::Kind::function;
    return ca == cb || (functions && *ca->name == *cb->name);
  }
  return is_undefined(a) || is_none(a);
}

bool less_at(Meter& m, const Value& a, const Value& b, int depth) {
  m.step();
  check_depth(m, depth);
  const auto ia = as_integer(a), ib = as_integer(b);
  if (ia && ib) return *ia < *ib;
  const auto na = as_number(a), nb = as_number(b);
  if (na && nb) return *na < *nb;
  const Text *ta = as_text(a), *tb = as_text(b);
  if (ta && tb) {
    m.handle(ta->size());
    return ta->view() < tb->view();  // UTF-8 sorts by code point
  }
  const List *la = as_list(a), *lb = as_list(b);
  if (!la || !lb || la->form != lb->form || la->form == List::Form::generator || la->form == List::Form::view)
    m.fail("{} and {} have no order", type_name(a), type_name(b));
  for (std::size_t i = 0; i < std::min(la->items.size(), lb->items.size()); ++i)
    if (!equal_at(m, la->items[i], lb->items[i], depth + 1))
      return less_at(m, la->items[i], lb->items[i], depth + 1);
  return la->items.size() < lb->items.size();
}

}  // namespace

bool equal(Meter& m, const Value& a, const Value& b) { return equal_at(m, a, b, 0); }
bool less(Meter& m, const Value& a, const Value& b) { return less_at(m, a, b, 0); }

// -- str and repr -------------------------------------------------------------------------------------------

std::string float_repr(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v, std::chars_format::scientific).ptr;
  std::string_view s(buffer, static_cast<std::size_t>(end - buffer));
  const bool negative = s.starts_with('-');
  if (negative) s.remove_prefix(1);
  const std::size_t e = s.find('e');
  std::string digits(s.substr(0, e));
  std::erase(digits, '.');
  int exponent = 0;
  std::from_chars(s.data() + e + (s[e + 1] == '+' ? 2 : 1), s.data() + s.size(), exponent);
  std::string out;
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out = digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out = "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out = digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    const auto whole = static_cast<std::size_t>(exponent + 1);
    out = digits.substr(0, whole) + "." + digits.substr(whole);
  }
  return negative ? "-" + out : out;
}

namespace {

void print_at(Meter& m, const Value& v, TextBuilder& out, bool repr, int depth);

std::string escaped(std::string_view s, std::size_t i, char quote) {
  const std::uint32_t c = code_point(s, i);
  if (c == static_cast<unsigned char>(quote) || c == '\\') return {'\\', static_cast<char>(c)};
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  if (is_printable(c)) return {};
  if (c < 0x100) return fmt::format("\\x{:02x}", c);
  if (c < 0x10000) return fmt::format("\\u{:04x}", c);
  return fmt::format("\\U{:08x}", c);
}

void repr_text(Meter& m, const Text& t, TextBuilder& out) {
  const std::string_view s = t.view();
  const char quote = s.find('\'') != s.npos && s.find('"') == s.npos ? '"' : '\'';
  m.handle(s.size() * 4);
  out.add({&quote, 1}, false);
  std::size_t from = 0;
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t n = char_length(s, i);
    const std::string e = escaped(s, i, quote);
    if (!e.empty()) {
      out.add(t, from, i);
      out.add(e, t.message_at(i));
      from = i + n;
    }
    i += n;
  }
  out.add(t, from, s.size());
  out.add({&quote, 1}, false);
}

void repr_list(Meter& m, const List& l, TextBuilder& out, int depth) {
  if (l.form == List::Form::generator) return out.add("<generator object>", false);
  const bool tuple = l.form == List::Form::tuple;
  out.add(tuple ? "(" : "[", l.message);
  for (std::size_t i = 0; i < l.items.size(); ++i) {
    if (i > 0) out.add(", ", l.message);
    print_at(m, l.items[i], out, true, depth + 1);
  }
  if (tuple) {
    out.add(l.items.size() == 1 ? ",)" : ")", l.message);
  } else {
    out.add("]", l.message);
  }
}

void repr_dict(Meter& m, const Dict& d, TextBuilder& out, int depth) {
  if (d.space) out.add("<Namespace ", false);
  out.add("{", d.message);
  for (std::size_t i = 0; i < d.entries.size(); ++i) {
    if (i > 0) out.add(", ", d.message);
    print_at(m, d.entries[i].first, out, true, depth + 1);
    out.add(": ", d.message);
    print_at(m, d.entries[i].second, out, true, depth + 1);
  }
  out.add("}", d.message);
  if (d.space) out.add(">", false);
}

void print_at(Meter& m, const Value& v, TextBuilder& out, bool repr, int depth) {
  m.step();
  check_depth(m, depth);
  std::visit(
      Overload{
          [&](Undefined) { out.add(repr ? "Undefined" : "", false); }, [&](None) { out.add("None", false); },
          [&](bool b) { out.add(b ? "True" : "False", false); },
          [&](std::int64_t i) { out.add(std::to_string(i), false); },
          [&](double d) { out.add(float_repr(d), false); },
          [&](const Text& t) { repr ? repr_text(m, t, out) : out.add(t); },
          [&](const List* l) { repr_list(m, *l, out, depth); },
          [&](const Dict* d) { repr_dict(m, *d, out, depth); },
          [&](const Callable* c) { out.add(fmt::format("<function {}>", c->name ? *c->name : ""), false); },
          [&](const Loop* l) {
            if (l->items) out.add(fmt::format("<LoopContext {}/{}>", l->at + 1, l->items->size()), false);
          }},
      v);
}

}  // namespace

void print(Meter& m, const Value& v, TextBuilder& out) { print_at(m, v, out, false, 0); }
void print_repr(Meter& m, const Value& v, TextBuilder& out) { print_at(m, v, out, true, 0); }

Text to_text(Meter& m, const Value& v) {
  if (const Text* t = as_text(v)) return *t;
  TextBuilder out(m);
  print(m, v, out);
  return out.finish();
}

// -- JSON ---------------------------------------------------------------------------------------------------

namespace {

class JsonWriter {
 public:
  JsonWriter(Meter& m, const JsonStyle& style, TextBuilder& out) : m_(m), style_(style), out_(out) {}

  void value(const Value& v, bool message, int depth) {
    m_.step();
    check_depth(m_, depth);
    if (const Text* t = as_text(v)) return string(*t, message);
    if (const List* l = as_list(v); l && (l->form == List::Form::list || l->form == List::Form::tuple))
      return list(*l, depth);
    if (const Dict* d = as_dict(v); d && !d->space) return dict(*d, depth);
    const auto scalar = scalar_text(v);
    if (!scalar) m_.fail("{} cannot be written as JSON", type_name(v));
    out_.add(*scalar, message);
  }

 private:
  static std::optional<std::string> scalar_text(const Value& v) {
    if (is_none(v)) return "null";
    if (const auto* b = std::get_if<bool>(&v)) return *b ? "true" : "false";
    if (const auto* i = std::get_if<std::int64_t>(&v)) return std::to_string(*i);
    if (const auto* d = std::get_if<double>(&v)) {
      if (std::isnan(*d)) return "NaN";
      if (std::isinf(*d)) return *d < 0 ? "-Infinity" : "Infinity";
      return float_repr(*d);
    }
    return std::nullopt;
  }

  void newline(bool message, int depth) {
    if (!style_.indent) return;
    out_.add("\n", message);
    for (int i = 0; i < depth; ++i) out_.add(*style_.indent, message);
  }

  void list(const List& l, int depth) {
    if (l.items.empty()) return out_.add("[]", l.message);
    out_.add("[", l.message);
    for (std::size_t i = 0; i < l.items.size(); ++i) {
      if (i > 0) out_.add(style_.comma, l.message);
      newline(l.message, depth + 1);
      value(l.items[i], l.message, depth + 1);
    }
    newline(l.message, depth);
    out_.add("]", l.message);
  }

  void dict(const Dict& d, int depth) {
    if (d.entries.empty()) return out_.add("{}", d.message);
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& e : d.entries) order.push_back(&e);
    if (style_.sort_keys)
      std::stable_sort(order.begin(), order.end(),
                       [&](const auto* a, const auto* b) { return less(m_, a->first, b->first); });
    out_.add("{", d.message);
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_.add(style_.comma, d.message);
      newline(d.message, depth + 1);
      key(order[i]->first, d.message);
      out_.add(style_.colon, d.message);
      value(order[i]->second, d.message, depth + 1);
    }
    newline(d.message, depth);
    out_.add("}", d.message);
  }

  void key(const Value& k, bool message) {
    if (const Text* t = as_text(k)) return string(*t, message);
    const auto scalar = scalar_text(k);
    if (!scalar) m_.fail("{} cannot be a key in JSON", type_name(k));
    out_.add("\"" + *scalar + "\"", message);
  }

  std::string escape(std::string_view s, std::size_t i) const {
    const std::uint32_t c = code_point(s, i);
    switch (c) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\b':
        return "\\b";
      case '\f':
        return "\\f";
      default:
        break;
    }
    if (c < 0x20) return fmt::format("\\u{:04x}", c);
    if (!style_.ensure_ascii || (c < 0x7f)) return {};
    if (c < 0x10000) return fmt::format("\\u{:04x}", c);
    return fmt::format("\\u{:04x}\\u{:04x}", 0xD7C0 + (c >> 10), 0xDC00 + (c & 0x3FF));
  }

  void string(const Text& t, bool message) {
    const std::string_view s = t.view();
    m_.handle(s.size() * 4);
    out_.add("\"", message);
    std::size_t from = 0;
    for (std::size_t i = 0; i < s.size();) {
      const std::size_t n = char_length(s, i);
      const std::string e = escape(s, i);
      if (!e.empty()) {
        out_.add(t, from, i);
        out_.add(e, t.message_at(i));
        from = i + n;
      }
      i += n;
    }
    out_.add(t, from, s.size());
    out_.add("\"", message);
  }

  Meter& m_;
  const JsonStyle& style_;
  TextBuilder& out_;
};

}  // namespace

Text to_json(Meter& m, const Value& v, const JsonStyle& style) {
  TextBuilder out(m);
  JsonWriter(m, style, out).value(v, false, 0);
  return out.finish();
}

Value from_json(Heap& heap, const json::Value& v, bool message) {
  const auto text = [&](const std::string& s) { return Text(s, message); };
  return std::visit(
      Overload{[](std::nullptr_t) -> Value { return None{}; }, [](bool b) -> Value { return b; },
               [](std::int64_t i) -> Value { return i; },
               [](std::uint64_t u) -> Value {
                 if (u <= static_cast<std::uint64_t>(INT64_MAX)) return static_cast<std::int64_t>(u);
                 return static_cast<double>(u);
               },
               [](double d) -> Value { return d; }, [&](const std::string& s) -> Value { return text(s); },
               [&](const json::Array& a) -> Value {
                 std::vector<Value> items;
                 for (const json::Value& e : a) items.push_back(from_json(heap, e, message));
                 return heap.list(std::move(items), List::Form::list, message);
               },
               [&](const json::Object& o) -> Value {
                 Dict* d = heap.dict();
                 d->message = message;
                 for (const auto& [key, value] : o) heap.set(*d, text(key), from_json(heap, value, message));
                 return d;
               }},
      v.data());
}

}  // namespace fathom::jinja
