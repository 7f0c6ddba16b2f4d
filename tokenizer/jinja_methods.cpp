// The methods of strings, lists and mappings in the subset, with Python's meaning.
#include <algorithm>
#include <charconv>

#include "tokenizer/jinja_eval.h"

namespace fathom::jinja {

namespace {

using Names = std::initializer_list<std::string_view>;

const Names kTextMethods = {
    "capitalize", "center",  "count",      "endswith",  "find",         "format",       "index",
    "isalnum",    "isalpha", "isdigit",    "islower",   "isspace",      "isupper",      "join",
    "ljust",      "lower",   "lstrip",     "partition", "removeprefix", "removesuffix", "replace",
    "rfind",      "rjust",   "rpartition", "rsplit",    "rstrip",       "split",        "splitlines",
    "startswith", "strip",   "title",      "upper",     "zfill"};
const Names kForeignTextMethods = {"casefold",  "encode",       "expandtabs", "format_map",  "isascii",
                                   "isdecimal", "isidentifier", "isnumeric",  "isprintable", "istitle",
                                   "maketrans", "rindex",       "swapcase",   "translate"};
const Names kListMethods = {"append", "count", "extend", "index", "insert", "pop"};
const Names kForeignListMethods = {"clear", "copy", "remove", "reverse", "sort"};
const Names kDictMethods = {"get", "items", "keys", "pop", "update", "values"};
const Names kForeignDictMethods = {"clear", "copy", "fromkeys", "popitem", "setdefault"};
const Names kTupleMethods = {"count", "index"};

bool among(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

struct TextCall {
  Interpreter& i;
  Meter& m;
  const Text& s;
  Params p;

  Value tuple(std::vector<Value> items) const { return i.heap().list(std::move(items), List::Form::tuple); }
  Value texts(std::vector<Text> parts) const {
    return i.heap().list(std::vector<Value>(parts.begin(), parts.end()));
  }
};

Value split_method(TextCall& c, bool from_right) {
  const Value* sep = c.p.take("sep");
  const std::int64_t limit = c.p.integer("maxsplit", -1);
  const auto run = from_right ? rsplit : split;
  if (!sep || is_none(*sep)) return c.texts(run(c.m, c.s, nullptr, limit));
  const Text* t = as_text(*sep);
  if (!t || t->empty()) c.m.fail("split needs a separator that is a string and not empty");
  const std::string_view view = t->view();
  return c.texts(run(c.m, c.s, &view, limit));
}

Value strip_method(TextCall& c, Side side) {
  const Value* chars = c.p.take("chars");
  if (!chars || is_none(*chars)) return strip(c.m, c.s, side, nullptr);
  const Text* t = as_text(*chars);
  if (!t) c.m.fail("strip: expected a string, found {}", type_name(*chars));
  const std::string_view view = t->view();
  return strip(c.m, c.s, side, &view);
}

Value affix_method(TextCall& c, bool prefix) {
  const Value& v = c.p.need("prefix");
  const auto matches = [&](const Value& affix) {
    const Text* t = as_text(affix);
    if (!t) c.m.fail("startswith and endswith: expected a string, found {}", type_name(affix));
    c.m.handle(t->size());
    return prefix ? c.s.view().starts_with(t->view()) : c.s.view().ends_with(t->view());
  };
  const List* many = as_list(v);
  if (!many) return matches(v);
  return std::any_of(many->items.begin(), many->items.end(), matches);
}

Value find_method(TextCall& c, bool from_right, bool required) {
  const Text part = c.p.text("sub");
  const std::string_view s = c.s.view();
  c.m.step(1 + s.size() / 64 * (from_right ? 1 + part.size() : 1));
  const std::size_t at = from_right ? s.rfind(part.view()) : find(s, part.view());
  if (at != s.npos) return static_cast<std::int64_t>(count_chars(s.substr(0, at)));
  if (required) c.m.fail("index: the part is not in the string");
  return std::int64_t{-1};
}

Value count_method(TextCall& c) {
  const Text part = c.p.text("sub");
  const std::string_view s = c.s.view();
  c.m.handle(s.size());
  if (part.empty()) return static_cast<std::int64_t>(count_chars(s)) + 1;
  std::int64_t n = 0;
  for (std::size_t at = 0; (at = find(s, part.view(), at)) != s.npos; at += part.size()) ++n;
  return n;
}

Value partition_method(TextCall& c, bool from_right) {
  const Text sep = c.p.text("sep");
  if (sep.empty()) c.m.fail("partition needs a separator that is not empty");
  const std::string_view s = c.s.view();
  c.m.step(1 + s.size() / 64 * (from_right ? 1 + sep.size() : 1));
  const std::size_t at = from_right ? s.rfind(sep.view()) : find(s, sep.view());
  if (at == s.npos) return from_right ? c.tuple({Text(), Text(), c.s}) : c.tuple({c.s, Text(), Text()});
  return c.tuple({slice(c.m, c.s, 0, at), slice(c.m, c.s, at, at + sep.size()),
                  slice(c.m, c.s, at + sep.size(), s.size())});
}

Value join_method(TextCall& c) {
  TextBuilder out(c.m);
  bool first = true;
  for (const Value& v : c.i.iterate(c.p.need("iterable"))) {
    const Text* t = as_text(v);
    if (!t) c.m.fail("join: expected strings, found {}", type_name(v));
    if (!std::exchange(first, false)) out.add(c.s);
    out.add(*t);
  }
  return out.finish();
}

Value pad_method(TextCall& c, std::string_view name) {
  const std::int64_t width = c.p.integer("width", 0);
  const Value* fill = c.p.take("fillchar");
  const Text pad = fill ? to_text(c.m, *fill) : Text(name == "zfill" ? "0" : " ");
  if (count_chars(pad.view()) != 1) c.m.fail("{}: expected one character to fill with", name);
  c.m.handle(c.s.size());
  const auto missing = width - static_cast<std::int64_t>(count_chars(c.s.view()));
  if (missing <= 0) return c.s;
  std::int64_t left = 0;
  if (name == "rjust" || name == "zfill") left = missing;
  if (name == "center") left = missing / 2 + (missing & width & 1);
  const bool sign = name == "zfill" && (c.s.view().starts_with('-') || c.s.view().starts_with('+'));
  TextBuilder out(c.m);
  if (sign) out.add(c.s, 0, 1);
  out.add(repeat(c.m, pad, left));
  out.add(c.s, sign ? 1 : 0, c.s.size());
  out.add(repeat(c.m, pad, missing - left));
  return out.finish();
}

bool is_class(std::uint32_t ch, std::string_view name) {
  const bool digit = ch >= '0' && ch <= '9';
  const bool upper = ch >= 'A' && ch <= 'Z', lower = ch >= 'a' && ch <= 'z';
  if (name == "isdigit") return digit;
  if (name == "isspace") return is_space(ch);
  if (name == "isalpha") return upper || lower;
  return upper || lower || digit;
}

Value class_method(TextCall& c, std::string_view name) {
  const std::string_view s = c.s.view();
  c.m.handle(s.size() * 8);
  if (name == "isupper" || name == "islower") {
    Args none;
    return c.i.test(name == "isupper" ? "upper" : "lower", c.s, none);
  }
  for (std::size_t i = 0; i < s.size(); i += char_length(s, i)) {
    const std::uint32_t ch = code_point(s, i);
    if (ch >= 0x80 && name != "isspace") c.m.fail("{} of a letter outside ASCII is not supported", name);
    if (!is_class(ch, name)) return false;
  }
  return !s.empty();
}

// "{} {0} {name} {{": no format specifications.
Value format_method(TextCall& c, const Args& args) {
  const std::string_view f = c.s.view();
  TextBuilder out(c.m);
  std::size_t next = 0, from = 0;
  for (std::size_t at; (at = f.find_first_of("{}", from)) != f.npos;) {
    out.add(c.s, from, at);
    if (at + 1 < f.size() && f[at + 1] == f[at]) {
      out.add(c.s, at, at + 1);
      from = at + 2;
      continue;
    }
    const std::size_t end = f.find('}', at);
    if (f[at] == '}' || end == f.npos) c.m.fail("format: a single '{}'", f[at]);
    const std::string_view field = f.substr(at + 1, end - at - 1);
    std::size_t index = next;
    const bool number =
        !field.empty() && field.size() < 9 && field.find_first_not_of("0123456789") == field.npos;
    if (number) std::from_chars(field.data(), field.data() + field.size(), index);
    if (field.empty()) ++next;
    const Value* v = nullptr;
    if ((field.empty() || number) && index < args.items.size()) v = &args.items[index];
    for (const auto& [name, value] : args.named)
      if (*name == field) v = &value;
    if (!v)
      c.m.fail("format: no value for the field '{}', or one with a format, which is not supported",
               field.substr(0, 40));
    print(c.m, *v, out);
    from = end + 1;
  }
  out.add(c.s, from, f.size());
  return out.finish();
}

Value text_method(TextCall& c, const std::string& name, const Args& args) {
  if (name == "format") return format_method(c, args);
  Value result = [&]() -> Value {
    if (name == "split") return split_method(c, false);
    if (name == "rsplit") return split_method(c, true);
    if (name == "strip") return strip_method(c, Side::both);
    if (name == "lstrip") return strip_method(c, Side::left);
    if (name == "rstrip") return strip_method(c, Side::right);
    if (name == "startswith") return affix_method(c, true);
    if (name == "endswith") return affix_method(c, false);
    if (name == "find") return find_method(c, false, false);
    if (name == "rfind") return find_method(c, true, false);
    if (name == "index") return find_method(c, false, true);
    if (name == "count") return count_method(c);
    if (name == "partition") return partition_method(c, false);
    if (name == "rpartition") return partition_method(c, true);
    if (name == "join") return join_method(c);
    if (name == "upper") return change_case(c.m, c.s, Case::upper);
    if (name == "lower") return change_case(c.m, c.s, Case::lower);
    if (name == "title") return change_case(c.m, c.s, Case::title);
    if (name == "capitalize") return change_case(c.m, c.s, Case::capitalize);
    if (name == "splitlines") return c.texts(split_lines(c.m, c.s));
    if (name == "removeprefix" || name == "removesuffix") {
      const Text affix = c.p.text("affix");
      const bool prefix = name == "removeprefix";
      const std::string_view s = c.s.view();
      if (!(prefix ? s.starts_with(affix.view()) : s.ends_with(affix.view()))) return c.s;
      return prefix ? slice(c.m, c.s, affix.size(), s.size()) : slice(c.m, c.s, 0, s.size() - affix.size());
    }
    if (name == "replace") {
      const Text old = c.p.text("old"), to = c.p.text("new");
      return replace(c.m, c.s, old.view(), to, c.p.integer("count", -1));
    }
    if (name.starts_with("is")) return class_method(c, name);
    return pad_method(c, name);
  }();
  c.p.finish();
  return result;
}

Value list_method(Interpreter& i, List& l, const std::string& name, Params p) {
  Meter& m = i.meter();
  if (name == "append") {
    i.heap().append(l, p.need("object"));
    p.finish();
    return None{};
  }
  if (name == "extend") {
    for (const Value& v : i.iterate(p.need("iterable"))) i.heap().append(l, v);
    p.finish();
    return None{};
  }
  if (name == "insert" || name == "pop") {
    const auto n = static_cast<std::int64_t>(l.items.size());
    const std::int64_t given = p.integer("index", -1);
    std::int64_t at = given < 0 ? given + n : given;
    m.step(l.items.size() / 16);
    if (name == "insert") {
      const Value v = p.need("object");
      p.finish();
      at = std::clamp<std::int64_t>(at, 0, n);
      i.heap().append(l, v);
      std::rotate(l.items.begin() + at, l.items.end() - 1, l.items.end());
      return None{};
    }
    p.finish();
    if (at < 0 || at >= n) m.fail("pop: index {} is outside a list of {} items", given, n);
    Value v = l.items[static_cast<std::size_t>(at)];
    l.items.erase(l.items.begin() + at);
    return v;
  }
  const Value& wanted = p.need("value");
  p.finish();
  std::int64_t count = 0;
  for (std::size_t k = 0; k < l.items.size(); ++k) {
    if (!equal(m, l.items[k], wanted)) continue;
    if (name == "index") return static_cast<std::int64_t>(k);
    ++count;
  }
  if (name == "index") m.fail("index: the value is not in the list");
  return count;
}

Value dict_pop(Interpreter& i, Dict& d, const Value& key, const Value* fallback) {
  const auto id = key_of(key);
  const auto it = id ? d.index.find(*id) : d.index.end();
  if (it == d.index.end()) {
    if (!fallback) i.meter().fail("pop: the key is not in the mapping");
    return *fallback;
  }
  const std::size_t at = it->second;
  Value v = d.entries[at].second;
  d.index.erase(it);
  d.entries.erase(d.entries.begin() + static_cast<std::ptrdiff_t>(at));
  i.meter().step(d.entries.size() / 4);
  for (auto& [name, position] : d.index)
    if (position > at) --position;
  return v;
}

Value dict_view(Interpreter& i, const Dict& d, const std::string& name) {
  std::vector<Value> out;
  for (const auto& [key, value] : d.entries) {
    if (name == "keys") out.push_back(key);
    if (name == "values") out.push_back(value);
    if (name == "items") out.push_back(i.heap().list({key, value}, List::Form::tuple, d.message));
  }
  return i.heap().list(std::move(out), List::Form::view, d.message);
}

Value dict_method(Interpreter& i, Dict& d, const std::string& name, const Args& args, Params p) {
  if (name == "get" || name == "pop") {
    const Value& key = p.need("key");
    const Value* fallback = p.take("default");
    p.finish();
    if (name == "pop") return dict_pop(i, d, key, fallback);
    if (!key_of(key) && !is_undefined(key)) i.meter().fail("{} cannot be a key", type_name(key));
    if (const Value* v = find(d, key)) return *v;
    return fallback ? *fallback : Value(None{});
  }
  if (name == "update") {
    if (args.items.size() > 1) i.meter().fail("update takes one mapping");
    if (!args.items.empty()) {
      const Dict* from = as_dict(args.items[0]);
      if (!from || from->space)
        i.meter().fail("update: expected a mapping, found {}", type_name(args.items[0]));
      const auto entries = from->entries;
      for (const auto& [key, value] : entries) i.heap().set(d, key, value);
    }
    for (const auto& [key, value] : args.named) i.heap().set(d, Text(*key), value);
    return None{};
  }
  p.finish();
  return dict_view(i, d, name);
}

Value loop_method(Interpreter& i, Loop& loop, const std::string& name, const Args& args) {
  if (!args.named.empty()) i.meter().fail("loop.{} takes positional values", name);
  if (name == "cycle") {
    if (args.items.empty()) i.meter().fail("loop.cycle needs values");
    return args.items[loop.at % args.items.size()];
  }
  const Value now = i.heap().list(args.items, List::Form::tuple);
  const bool same = loop.changed && equal(i.meter(), *loop.changed, now);
  loop.changed = now;
  return !same;
}

Value cycler_method(Callable& c, const std::string& name) {
  if (name == "reset") {
    c.at = 0;
    return None{};
  }
  const Value v = c.items[c.at];
  c.at = (c.at + 1) % c.items.size();
  return v;
}

}  // namespace

bool Interpreter::has_method(const Value& self, const std::string& name) const {
  const auto known = [&](const Names& ours, const Names& foreign) {
    if (among(foreign, name)) m_.fail("the method '{}' of {} is not supported", name, type_name(self));
    return among(ours, name);
  };
  if (as_text(self)) return known(kTextMethods, kForeignTextMethods);
  if (const List* l = as_list(self)) {
    if (l->form == List::Form::list) return known(kListMethods, kForeignListMethods);
    return l->form == List::Form::tuple && among(kTupleMethods, name);
  }
  if (const Dict* d = as_dict(self)) return !d->space && known(kDictMethods, kForeignDictMethods);
  if (std::holds_alternative<Loop*>(self)) return name == "cycle" || name == "changed";
  const auto* c = std::get_if<Callable*>(&self);
  return c && (*c)->kind == Callable::Kind::cycler && (name == "next" || name == "reset");
}

Value Interpreter::call_method(const Value& self, const std::string& name, const Args& args) {
  m_.step();
  const Params p(m_, name, args);
  if (const Text* t = as_text(self)) {
    TextCall call{*this, m_, *t, p};
    return text_method(call, name, args);
  }
  if (List* l = as_list(self)) return list_method(*this, *l, name, p);
  if (Dict* d = as_dict(self)) return dict_method(*this, *d, name, args, p);
  if (const auto* loop = std::get_if<Loop*>(&self)) return loop_method(*this, **loop, name, args);
  return cycler_method(*std::get<Callable*>(self), name);
}

}  // namespace fathom::jinja
