// The filters and tests of the subset, each with Jinja's own meaning and parameter names.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "tokenizer/jinja_eval.h"

namespace fathom::jinja {

namespace {

// What a filter sees.
struct Call {
  Interpreter& i;
  Meter& m;
  const Value& value;
  const Args& args;
  Params p;

  Text text() const { return to_text(m, value); }
  Value list(std::vector<Value> items, List::Form form = List::Form::list) const {
    return i.heap().list(std::move(items), form);
  }
};

using Filter = Value (*)(Call&);

struct NamedFilter {
  std::string_view name;
  Filter run;
};

Value lowered(Meter& m, const Value& v) {
  const Text* t = as_text(v);
  return t ? Value(change_case(m, *t, Case::lower)) : v;
}

// Value's attribute along `dotted` when given (an integer is an index), lower case when strings compare
// without case.
class KeyOf {
 public:
  KeyOf(Interpreter& i, const Value* attribute, bool case_sensitive)
      : i_(i), attribute_(attribute && !is_none(*attribute) ? attribute : nullptr), fold_(!case_sensitive) {}
  Value operator()(const Value& v) const {
    Value key = v;
    if (attribute_) {
      const Text* name = as_text(*attribute_);
      key = name ? i_.path(v, name->view()) : i_.item(v, *attribute_);
    }
    return fold_ ? lowered(i_.meter(), key) : key;
  }

 private:
  Interpreter& i_;
  const Value* attribute_;
  bool fold_;
};

// -- strings ------------------------------------------------------------------------------------------------

Value string(Call& c) { return c.text(); }
Value upper(Call& c) { return change_case(c.m, c.text(), Case::upper); }
Value lower(Call& c) { return change_case(c.m, c.text(), Case::lower); }
Value title(Call& c) { return change_case(c.m, c.text(), Case::title_words); }
Value capitalize(Call& c) { return change_case(c.m, c.text(), Case::capitalize); }
Value escape(Call& c) { return html_escape(c.m, c.text()); }

Value trim(Call& c) {
  const Value* chars = c.p.take("chars");
  if (!chars || is_none(*chars)) return strip(c.m, c.text(), Side::both, nullptr);
  const Text set = to_text(c.m, *chars);
  const std::string_view view = set.view();
  return strip(c.m, c.text(), Side::both, &view);
}

Value replace_filter(Call& c) {
  const Text old = to_text(c.m, c.p.need("old")), to = to_text(c.m, c.p.need("new"));
  const Value* count = c.p.take("count");
  const bool all = !count || is_none(*count);
  if (!all && !as_integer(*count)) c.m.fail("replace: expected an integer as 'count'");
  return replace(c.m, c.text(), old.view(), to, all ? -1 : *as_integer(*count));
}

Value indent(Call& c) {
  const Value* width = c.p.take("width");
  const bool first = c.p.flag("first", false), blank = c.p.flag("blank", false);
  Text pad(std::string(4, ' '));
  if (width) {
    const auto n = as_integer(*width);
    if (n && (*n < 0 || *n > 1000)) c.m.fail("indent: a width outside 0 to 1000");
    pad = n ? Text(std::string(static_cast<std::size_t>(*n), ' ')) : to_text(c.m, *width);
  }
  TextBuilder out(c.m);
  // Jinja adds a line end first, so that a text that ends in one keeps it.
  const std::vector<Text> lines = split_lines(c.m, concat(c.m, c.text(), Text("\n")));
  for (std::size_t k = 0; k < lines.size(); ++k) {
    if (k > 0) out.add("\n", false);
    if (k == 0 ? first : blank || !lines[k].empty()) out.add(pad);
    out.add(lines[k]);
  }
  return out.finish();
}

Value join(Call& c) {
  const Value* d = c.p.take("d");
  const Text separator = d ? to_text(c.m, *d) : Text();
  const KeyOf key(c.i, c.p.take("attribute"), true);
  TextBuilder out(c.m);
  bool first = true;
  for (const Value& v : c.i.iterate(c.value)) {
    if (!std::exchange(first, false)) out.add(separator);
    print(c.m, key(v), out);
  }
  return out.finish();
}

Value format(Call& c) {
  std::vector<Value> values;
  while (const Value* v = c.p.take("")) values.push_back(*v);
  return c.i.format_percent(c.text(), values);
}

Value tojson(Call& c) {
  JsonStyle style;
  style.ensure_ascii = c.p.flag("ensure_ascii", false);
  if (const Value* v = c.p.take("indent"); v && !is_none(*v)) {
    const auto n = as_integer(*v);
    if (n && *n > 100) c.m.fail("tojson: an indent of more than 100");
    style.indent = n ? std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, *n)), ' ')
                     : std::string(to_text(c.m, *v).view());
    style.comma.assign(1, ',');
  }
  if (const Value* v = c.p.take("separators"); v && !is_none(*v)) {
    const std::vector<Value> both = c.i.iterate(*v);
    if (both.size() != 2) c.m.fail("tojson: expected two separators");
    style.comma = std::string(to_text(c.m, both[0]).view());
    style.colon = std::string(to_text(c.m, both[1]).view());
  }
  style.sort_keys = c.p.flag("sort_keys", false);
  return to_json(c.m, c.value, style);
}

// -- numbers ------------------------------------------------------------------------------------------------

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && is_space(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && is_space(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  return s;
}

// Python's float(): sign, digits with single underscores, exponent, inf, nan.
std::optional<double> parse_float(std::string_view s) {
  s = trimmed(s);
  if (s.starts_with('+')) {
    s.remove_prefix(1);
    if (s.starts_with('-')) return std::nullopt;
  }
  double v = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
  if (r.ec == std::errc::result_out_of_range || r.ec != std::errc{} || r.ptr != s.data() + s.size())
    return std::nullopt;
  return v;
}

std::optional<std::int64_t> parse_integer(Meter& m, std::string_view s, std::int64_t base) {
  s = trimmed(s);
  if (s.starts_with('+')) {
    s.remove_prefix(1);
    if (s.starts_with('-')) return std::nullopt;
  }
  if (base != 10 && base != 16 && base != 8 && base != 2) m.fail("int: the base {} is not supported", base);
  if (base == 16 && (s.starts_with("0x") || s.starts_with("0X"))) s.remove_prefix(2);
  std::int64_t v = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), v, static_cast<int>(base));
  if (r.ec == std::errc::result_out_of_range) m.fail("an integer of more than 64 bits");
  if (r.ec != std::errc{} || r.ptr != s.data() + s.size()) return std::nullopt;
  return v;
}

std::optional<std::int64_t> truncated(double v) {
  if (!(std::abs(v) < 9.2e18)) return std::nullopt;
  return static_cast<std::int64_t>(v);
}

Value int_filter(Call& c) {
  const Value* fallback = c.p.take("default");
  const std::int64_t base = c.p.integer("base", 10);
  const Value otherwise = fallback ? *fallback : Value(std::int64_t{0});
  if (const auto i = as_integer(c.value)) return *i;
  std::optional<double> real;
  if (const Text* t = as_text(c.value)) {
    if (const auto i = parse_integer(c.m, t->view(), base)) return *i;
    real = parse_float(t->view());
  } else {
    real = as_number(c.value);
  }
  if (real && std::isfinite(*real) && !truncated(*real)) c.m.fail("an integer of more than 64 bits");
  const auto i = real ? truncated(*real) : std::nullopt;
  return i ? Value(*i) : otherwise;
}

Value float_filter(Call& c) {
  const Value* fallback = c.p.take("default");
  if (const auto d = as_number(c.value)) return *d;
  const Text* t = as_text(c.value);
  const auto parsed = t ? parse_float(t->view()) : std::nullopt;
  if (parsed) return *parsed;
  return fallback ? *fallback : Value(0.0);
}

double rounded(double v, std::int64_t precision) {
  if (!std::isfinite(v)) return v;
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(v / scale) * scale;
  }
  char buffer[800];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, v, std::chars_format::fixed, static_cast<int>(precision))
          .ptr;
  double out = v;
  std::from_chars(buffer, end, out);
  return out;
}

// To a multiple of 10^-precision, a half to the even one; `precision` is negative.
std::int64_t rounded_integer(Meter& m, std::int64_t v, std::int64_t precision) {
  if (precision < -19) return 0;
  __int128 unit = 1;
  for (; precision < 0; ++precision) unit *= 10;
  const __int128 rest = ((v % unit) + unit) % unit, down = v - rest;
  const bool up = 2 * rest > unit || (2 * rest == unit && (down / unit) % 2 != 0);
  const __int128 out = up ? down + unit : down;
  if (out > INT64_MAX || out < INT64_MIN) m.fail("an integer of more than 64 bits");
  return static_cast<std::int64_t>(out);
}

Value round_filter(Call& c) {
  const std::int64_t precision = c.p.integer("precision", 0);
  const Value* given = c.p.take("method");
  const std::string method = given ? std::string(to_text(c.m, *given).view()) : "common";
  if (precision > 300 || precision < -300) c.m.fail("round: a precision outside -300 to 300");
  const auto v = as_number(c.value);
  if (!v) c.m.fail("round: expected a number, found {}", type_name(c.value));
  if (method == "common") {
    if (const auto i = as_integer(c.value)) return precision >= 0 ? *i : rounded_integer(c.m, *i, precision);
    return rounded(*v, precision);
  }
  if (method != "ceil" && method != "floor") c.m.fail("round: unknown method '{}'", method);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return (method == "ceil" ? std::ceil(*v * scale) : std::floor(*v * scale)) / scale;
}

Value abs_filter(Call& c) {
  if (const auto i = as_integer(c.value)) {
    if (*i == INT64_MIN) c.m.fail("an integer of more than 64 bits");
    return *i < 0 ? -*i : *i;
  }
  const auto* d = std::get_if<double>(&c.value);
  if (!d) c.m.fail("abs: expected a number, found {}", type_name(c.value));
  return std::abs(*d);
}

// -- sequences ----------------------------------------------------------------------------------------------

Value length(Call& c) { return c.i.length(c.value); }
Value list(Call& c) { return c.list(c.i.iterate(c.value)); }

Value first(Call& c) {
  const std::vector<Value> all = c.i.iterate(c.value);
  return all.empty() ? Value(Undefined{}) : all.front();
}

Value last(Call& c) {
  if (const List* l = as_list(c.value); l && l->form == List::Form::generator)
    c.m.fail("last: a generator has no last item");
  const std::vector<Value> all = c.i.iterate(c.value);
  return all.empty() ? Value(Undefined{}) : all.back();
}

Value reverse(Call& c) {
  if (const Text* t = as_text(c.value)) {
    const std::vector<Value> chars = c.i.iterate(c.value);
    TextBuilder out(c.m);
    for (auto it = chars.rbegin(); it != chars.rend(); ++it) out.add(*as_text(*it));
    return t->empty() ? Value(*t) : Value(out.finish());
  }
  std::vector<Value> all = c.i.iterate(c.value);
  std::reverse(all.begin(), all.end());
  return c.list(std::move(all), List::Form::generator);
}

Value unique(Call& c) {
  const bool exact = c.p.flag("case_sensitive", false);
  const KeyOf key(c.i, c.p.take("attribute"), exact);
  std::set<std::string> seen;
  std::vector<Value> out;
  for (const Value& v : c.i.iterate(c.value)) {
    const Value k = key(v);
    const auto id = is_undefined(k) ? std::optional<std::string>("undefined") : key_of(k);
    if (!id) c.m.fail("unique: {} cannot be compared", type_name(k));
    c.m.handle(id->size() * 8);
    if (seen.insert(*id).second) out.push_back(v);
  }
  return c.list(std::move(out), List::Form::generator);
}

std::vector<Value> sorted(Call& c, std::vector<Value> items, const KeyOf& key, bool descending) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& v : items) {
    Value k = key(v);
    keyed.emplace_back(std::move(k), std::move(v));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return descending ? less(c.m, b.first, a.first) : less(c.m, a.first, b.first);
  });
  for (std::size_t i = 0; i < keyed.size(); ++i) items[i] = std::move(keyed[i].second);
  return items;
}

Value sort(Call& c) {
  const bool descending = c.p.flag("reverse", false), exact = c.p.flag("case_sensitive", false);
  const Value* attribute = c.p.take("attribute");
  if (attribute && as_text(*attribute) && as_text(*attribute)->view().find(',') != std::string_view::npos)
    c.m.fail("sort: several attributes are not supported");
  return c.list(sorted(c, c.i.iterate(c.value), KeyOf(c.i, attribute, exact), descending));
}

Value extreme(Call& c, bool greatest) {
  const bool exact = c.p.flag("case_sensitive", false);
  const KeyOf key(c.i, c.p.take("attribute"), exact);
  const std::vector<Value> all = c.i.iterate(c.value);
  if (all.empty()) return Undefined{};
  std::size_t best = 0;
  Value best_key = key(all[0]);
  for (std::size_t i = 1; i < all.size(); ++i) {
    Value k = key(all[i]);
    if (!(greatest ? less(c.m, best_key, k) : less(c.m, k, best_key))) continue;
    best = i;
    best_key = std::move(k);
  }
  return all[best];
}

Value min(Call& c) { return extreme(c, false); }
Value max(Call& c) { return extreme(c, true); }

Value sum(Call& c) {
  const KeyOf key(c.i, c.p.take("attribute"), true);
  const Value* start = c.p.take("start");
  Value total = start ? *start : Value(std::int64_t{0});
  for (const Value& v : c.i.iterate(c.value)) {
    const Value term = key(v);
    if (as_text(total) || as_text(term)) c.m.fail("sum: strings cannot be summed");
    total = c.i.add(total, term);
  }
  return total;
}

Value pair_list(Call& c, const Dict& d, List::Form form) {
  std::vector<Value> pairs;
  for (const auto& [key, value] : d.entries)
    pairs.push_back(c.i.heap().list({key, value}, List::Form::tuple, d.message));
  return c.list(std::move(pairs), form);
}

Value items(Call& c) {
  if (is_undefined(c.value)) return c.list({}, List::Form::generator);
  const Dict* d = as_dict(c.value);
  if (!d || d->space) c.m.fail("items: expected a mapping, found {}", type_name(c.value));
  return pair_list(c, *d, List::Form::generator);
}

Value dictsort(Call& c) {
  const bool exact = c.p.flag("case_sensitive", false);
  const Value* by = c.p.take("by");
  const bool descending = c.p.flag("reverse", false);
  const Dict* d = as_dict(c.value);
  if (!d || d->space) c.m.fail("dictsort: expected a mapping, found {}", type_name(c.value));
  const std::string_view by_name = !by ? "key" : as_text(*by) ? as_text(*by)->view() : "";
  if (by_name != "key" && by_name != "value") c.m.fail("dictsort: by is 'key' or 'value'");
  const Value position = std::int64_t{by_name == "value" ? 1 : 0};
  const Value pairs = pair_list(c, *d, List::Form::list);
  return c.list(sorted(c, as_list(pairs)->items, KeyOf(c.i, &position, exact), descending));
}

Value default_filter(Call& c) {
  const Value* fallback = c.p.take("default_value");
  const bool boolean = c.p.flag("boolean", false);
  const bool use = is_undefined(c.value) || (boolean && !truth(c.value));
  if (!use) return c.value;
  return fallback ? *fallback : Value(Text());
}

Value attr(Call& c) { return c.i.attribute(c.value, std::string(c.p.text("name").view())); }
Value safe(Call& c) { return c.value; }

// The arguments behind the first `skip`.
Args rest(const Args& args, std::size_t skip) {
  Args out;
  for (std::size_t k = skip; k < args.items.size(); ++k) out.items.push_back(args.items[k]);
  return out;
}

Value map(Call& c) {
  std::vector<Value> out;
  const std::vector<Value> all = c.i.iterate(c.value);
  if (c.args.items.empty()) {
    const Value *attribute = nullptr, *fallback = nullptr;
    for (const auto& [name, value] : c.args.named) {
      if (*name == "attribute")
        attribute = &value;
      else if (*name == "default")
        fallback = &value;
      else
        c.m.fail("map: unexpected argument '{}'", *name);
    }
    if (!attribute) c.m.fail("map needs an attribute or a filter");
    const KeyOf key(c.i, attribute, true);
    for (const Value& v : all) {
      Value k = key(v);
      out.push_back(fallback && is_undefined(k) ? *fallback : std::move(k));
    }
  } else {
    const Text name = to_text(c.m, c.args.items[0]);
    Args inner = rest(c.args, 1);
    inner.named = c.args.named;
    for (const Value& v : all) out.push_back(c.i.filter(std::string(name.view()), v, inner));
  }
  return c.list(std::move(out), List::Form::generator);
}

// select, reject, selectattr, rejectattr: keeps items whose (attribute's) test equals `wanted`.
Value choose(Call& c, bool by_attribute, bool wanted) {
  std::size_t used = 0;
  const Value* attribute = nullptr;
  if (by_attribute) {
    if (c.args.items.empty()) c.m.fail("selectattr and rejectattr need an attribute");
    attribute = &c.args.items[used++];
  }
  const KeyOf key(c.i, attribute, true);
  const bool tested = c.args.items.size() > used;
  const Text name = tested ? to_text(c.m, c.args.items[used++]) : Text();
  Args inner = rest(c.args, used);
  inner.named = c.args.named;
  std::vector<Value> out;
  for (const Value& v : c.i.iterate(c.value)) {
    const Value k = key(v);
    const bool holds = tested ? c.i.test(std::string(name.view()), k, inner) : truth(k);
    if (holds == wanted) out.push_back(v);
  }
  return c.list(std::move(out), List::Form::generator);
}

Value select(Call& c) { return choose(c, false, true); }
Value reject(Call& c) { return choose(c, false, false); }
Value selectattr(Call& c) { return choose(c, true, true); }
Value rejectattr(Call& c) { return choose(c, true, false); }

constexpr NamedFilter kFilters[] = {
    {"abs", abs_filter},
    {"attr", attr},
    {"capitalize", capitalize},
    {"count", length},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", float_filter},
    {"format", format},
    {"indent", indent},
    {"int", int_filter},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", list},
    {"lower", lower},
    {"map", map},
    {"max", max},
    {"min", min},
    {"reject", reject},
    {"rejectattr", rejectattr},
    {"replace", replace_filter},
    {"reverse", reverse},
    {"round", round_filter},
    {"safe", safe},
    {"select", select},
    {"selectattr", selectattr},
    {"sort", sort},
    {"string", string},
    {"sum", sum},
    {"title", title},
    {"tojson", tojson},
    {"trim", trim},
    {"unique", unique},
    {"upper", upper},
};

// Filters that read all their arguments themselves.
bool reads_own_arguments(std::string_view name) {
  return name == "map" || name.starts_with("select") || name.starts_with("reject");
}

// -- tests --------------------------------------------------------------------------------------------------

bool is_case(Meter& m, const Value& v, Case to) {
  const Text t = to_text(m, v);
  if (change_case(m, t, to).view() != t.view()) return false;
  return change_case(m, t, to == Case::lower ? Case::upper : Case::lower).view() !=
         t.view();  // has a cased letter
}

bool same_object(const Value& a, const Value& b) {
  if (a.index() != b.index()) return false;
  if (as_list(a)) return as_list(a) == as_list(b);
  if (as_dict(a)) return as_dict(a) == as_dict(b);
  if (const auto* p = std::get_if<bool>(&a)) return *p == std::get<bool>(b);
  if (const auto* p = std::get_if<std::int64_t>(&a)) return *p == std::get<std::int64_t>(b);
  if (const Text* t = as_text(a)) return t->view() == as_text(b)->view();
  return is_none(a);
}

bool iterable(const Value& v) {
  const Dict* d = as_dict(v);
  return as_text(v) || as_list(v) || (d && !d->space) || is_undefined(v);
}

bool sequence(const Value& v) {
  const List* l = as_list(v);
  const Dict* d = as_dict(v);
  return as_text(v) || (l && (l->form == List::Form::list || l->form == List::Form::tuple)) ||
         (d && !d->space) || is_undefined(v);
}

std::int64_t integer_for(Meter& m, std::string_view name, const Value& v) {
  const auto i = as_integer(v);
  if (!i) m.fail("the test '{}' needs an integer, found {}", name, type_name(v));
  return *i;
}

// Tests without an argument; nothing for a name that is none of them.
std::optional<bool> plain_test(Meter& m, std::string_view name, const Value& v) {
  if (name == "defined") return !is_undefined(v);
  if (name == "undefined") return is_undefined(v);
  if (name == "none") return is_none(v);
  if (name == "string") return as_text(v) != nullptr;
  if (name == "number") return as_number(v).has_value();
  if (name == "integer") return std::holds_alternative<std::int64_t>(v);
  if (name == "float") return std::holds_alternative<double>(v);
  if (name == "boolean") return std::holds_alternative<bool>(v);
  if (name == "true") return std::holds_alternative<bool>(v) && std::get<bool>(v);
  if (name == "false") return std::holds_alternative<bool>(v) && !std::get<bool>(v);
  if (name == "mapping") return as_dict(v) && !as_dict(v)->space;
  if (name == "iterable") return iterable(v);
  if (name == "sequence") return sequence(v);
  if (name == "callable") {
    const auto* c = std::get_if<Callable*>(&v);
    return c ? (*c)->kind != Callable::Kind::cycler : is_undefined(v);
  }
  if (name == "odd") return integer_for(m, name, v) % 2 != 0;
  if (name == "even") return integer_for(m, name, v) % 2 == 0;
  if (name == "lower") return is_case(m, v, Case::lower);
  if (name == "upper") return is_case(m, v, Case::upper);
  return std::nullopt;
}

}  // namespace

Value Interpreter::filter(const std::string& name, const Value& value, const Args& args) {
  m_.step();
  const auto* it =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const auto& f) { return f.name == name; });
  if (it == std::end(kFilters)) m_.fail("the filter '{}' is not supported", name.substr(0, 40));
  Call call{*this, m_, value, args, Params(m_, name, args)};
  Value result = it->run(call);
  if (!reads_own_arguments(name)) call.p.finish();
  return result;
}

bool Interpreter::test(const std::string& name, const Value& value, const Args& args) {
  m_.step();
  if (const auto plain = plain_test(m_, name, value)) {
    if (!args.items.empty() || !args.named.empty()) m_.fail("the test '{}' takes no argument", name);
    return *plain;
  }
  static constexpr std::string_view kBinary[] = {
      "eq", "equalto", "==",          "ne", "!=", "lt", "lessthan", "<",           "le",
      "<=", "gt",      "greaterthan", ">",  "ge", ">=", "in",       "divisibleby", "sameas"};
  if (std::find(std::begin(kBinary), std::end(kBinary), name) == std::end(kBinary))
    m_.fail("the test '{}' is not supported", name.substr(0, 40));
  if (args.items.size() + args.named.size() != 1) m_.fail("the test '{}' takes one argument", name);
  const Value& other = args.items.empty() ? args.named[0].second : args.items[0];
  if (name == "eq" || name == "equalto" || name == "==") return equal(m_, value, other);
  if (name == "ne" || name == "!=") return !equal(m_, value, other);
  if (name == "lt" || name == "lessthan" || name == "<") return less(m_, value, other);
  if (name == "gt" || name == "greaterthan" || name == ">") return less(m_, other, value);
  if (name == "le" || name == "<=") return less(m_, value, other) || equal(m_, value, other);
  if (name == "ge" || name == ">=") return less(m_, other, value) || equal(m_, value, other);
  if (name == "in") return contains(other, value);
  if (name == "sameas") return same_object(value, other);
  const std::int64_t divisor = integer_for(m_, name, other), dividend = integer_for(m_, name, value);
  if (divisor == 0) m_.fail("division by zero");
  return divisor == -1 || dividend % divisor == 0;
}

Value Interpreter::format_percent(const Text& format, const std::vector<Value>& values) {
  const std::string_view f = format.view();
  TextBuilder out(m_);
  std::size_t used = 0, from = 0;
  for (std::size_t at; (at = f.find('%', from)) != f.npos;) {
    out.add(format, from, at);
    const char type = at + 1 < f.size() ? f[at + 1] : '\0';
    from = at + 2;
    if (type == '%') {
      out.add("%", format.message_at(at));
      continue;
    }
    if (type != 's' && type != 'd' && type != 'i' && type != 'r')
      m_.fail("a string format other than %s, %d, %r and %% is not supported");
    if (used >= values.size()) m_.fail("a string format with more places than values");
    const Value& v = values[used++];
    if (type == 's') {
      print(m_, v, out);
    } else if (type == 'r') {
      print_repr(m_, v, out);
    } else {
      const auto i = as_integer(v);
      const auto d = i ? std::nullopt : as_number(v);
      const auto whole = d ? truncated(*d) : i;
      if (!whole) m_.fail("%d needs a number, found {}", type_name(v));
      out.add(std::to_string(*whole), false);
    }
  }
  if (used < values.size()) m_.fail("a string format with fewer places than values");
  out.add(format, from, f.size());
  return out.finish();
}

}  // namespace fathom::jinja
