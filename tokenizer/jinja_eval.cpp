#include "tokenizer/jinja_eval.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace fathom::jinja {

namespace {

constexpr int kMaxDepth = 500;                // of evaluation, macro calls included: bounds the stack
constexpr std::int64_t kMaxRange = 100'000;   // as Jinja's sandbox
constexpr std::size_t kMaxItems = 4'000'000;  // of one list made by multiplication or addition

constexpr std::array<std::string_view, 7> kFunctions = {
    "range", "namespace", "dict", "raise_exception", "strftime_now", "cycler", "joiner"};

}  // namespace

// -- Scope and Params ---------------------------------------------------------------------------------------

void Scope::set(NameId name, Value value) {
  for (auto& [id, old] : variables_) {
    if (id != name) continue;
    old = std::move(value);
    return;
  }
  variables_.emplace_back(name, std::move(value));
}

const Value* Scope::find_here(NameId name) const {
  for (const auto& [id, value] : variables_)
    if (id == name) return &value;
  return nullptr;
}

const Value* Params::take(std::string_view name) {
  const std::size_t at = position_++;
  if (at < args_.items.size()) return &args_.items[at];
  for (const auto& [given, value] : args_.named) {
    if (*given != name) continue;
    ++named_taken_;
    return &value;
  }
  return nullptr;
}

const Value& Params::need(std::string_view name) {
  const Value* v = take(name);
  if (!v) meter_.fail("{} needs the argument '{}'", callee_, name);
  return *v;
}

Text Params::text(std::string_view name) {
  const Value& v = need(name);
  const Text* t = as_text(v);
  if (!t) meter_.fail("{}: expected a string as '{}', found {}", callee_, name, type_name(v));
  return *t;
}

std::int64_t Params::integer(std::string_view name, std::int64_t fallback) {
  const Value* v = take(name);
  if (!v) return fallback;
  const auto i = as_integer(*v);
  if (!i) meter_.fail("{}: expected an integer as '{}', found {}", callee_, name, type_name(*v));
  return *i;
}

bool Params::flag(std::string_view name, bool fallback) {
  const Value* v = take(name);
  return v ? truth(*v) : fallback;
}

void Params::finish() const {
  if (args_.items.size() > position_)
    meter_.fail("{} takes at most {} arguments here, found {}", callee_, position_, args_.items.size());
  if (named_taken_ < args_.named.size())
    meter_.fail("{}: an argument it does not know among '{}' ...", callee_, *args_.named.back().first);
}

// -- statements ---------------------------------------------------------------------------------------------

struct Interpreter::Depth {
  Interpreter& i;
  explicit Depth(Interpreter& interpreter) : i(interpreter) {
    if (++i.depth_ > kMaxDepth) {
      --i.depth_;
      i.m_.fail("evaluation nested deeper than {}", kMaxDepth);
    }
  }
  ~Depth() { --i.depth_; }
};

namespace {

// Puts a value back when its block ends, by an exception too.
template <typename T>
class Restore {
 public:
  explicit Restore(T& place) : place_(place), old_(place) {}
  ~Restore() { place_ = std::move(old_); }

 private:
  T& place_;
  T old_;
};

}  // namespace

Text Interpreter::run(std::shared_ptr<Scope> context) {
  TextBuilder out(m_);
  out_ = &out;
  scope_ = std::move(context);
  scope_ = push_scope();
  run_block(ast_.root);
  out_ = nullptr;
  return out.finish();
}

std::shared_ptr<Scope> Interpreter::push_scope() { return std::make_shared<Scope>(scope_); }

Scope* Interpreter::keep_scope() {
  if (kept_.empty() || kept_.back() != scope_) {
    m_.take(sizeof(Scope) + 64);
    kept_.push_back(scope_);
  }
  return scope_.get();
}

Interpreter::Flow Interpreter::run_block(const Block& block) {
  const Depth depth(*this);
  for (const Stmt* s : block) {
    const Flow flow = run_stmt(*s);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_stmt(const Stmt& s) {
  m_.line = s.line;
  m_.step();
  switch (s.kind) {
    case Stmt::Kind::text:
      out_->add(s.text);
      break;
    case Stmt::Kind::output: {
      const Value v = eval(*s.a);
      m_.line = s.line;
      print(m_, v, *out_);
      break;
    }
    case Stmt::Kind::assign:
      assign(*s.target, eval(*s.a));
      break;
    case Stmt::Kind::assign_block: {
      Value v = capture(s.body);
      if (s.a) v = eval_filter(*s.a, &v);
      assign(*s.target, v);
      break;
    }
    case Stmt::Kind::for_loop:
      return run_for(s);
    case Stmt::Kind::branch:
      return run_branch(s);
    case Stmt::Kind::macro: {
      Callable c;
      c.kind = Callable::Kind::macro;
      c.name = &ast_.name(s.name);
      c.macro = &s;
      c.scope = keep_scope();
      scope_->set(s.name, heap_.callable(std::move(c)));
      break;
    }
    case Stmt::Kind::call_block:
      run_call_block(s);
      break;
    case Stmt::Kind::filter_block: {
      const Value body = capture(s.body);
      print(m_, eval_filter(*s.a, &body), *out_);
      break;
    }
    case Stmt::Kind::with:
      run_with(s);
      break;
    case Stmt::Kind::body: {
      const Restore restore(scope_);
      scope_ = push_scope();
      return run_block(s.body);
    }
    case Stmt::Kind::break_loop:
      return Flow::break_loop;
    case Stmt::Kind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_branch(const Stmt& first) {
  for (const Stmt* s = &first;;) {
    if (truth(eval(*s->a))) return run_block(s->body);
    const bool chained = s->otherwise.size() == 1 && s->otherwise[0]->kind == Stmt::Kind::branch;
    if (!chained) return run_block(s->otherwise);
    s = s->otherwise[0];
  }
}

std::vector<Value> Interpreter::loop_items(const Stmt& s) {
  std::vector<Value> all = iterate(eval(*s.a));
  if (!s.b) return all;
  const Restore restore(scope_);
  const std::shared_ptr<Scope> outer = scope_;
  std::vector<Value> kept;
  for (const Value& v : all) {
    scope_ = std::make_shared<Scope>(outer);
    assign(*s.target, v);
    if (truth(eval(*s.b))) kept.push_back(v);
  }
  return kept;
}

Interpreter::Flow Interpreter::run_for(const Stmt& s) {
  const std::vector<Value> items = loop_items(s);
  if (items.empty()) return run_block(s.otherwise);
  const NameId loop_name = ast_.find_name("loop");
  Loop* loop = loop_name < 0 ? nullptr : heap_.loop();
  if (loop) loop->items = &items;
  // A loop object kept by the template outlives the loop; its items do not.
  struct End {
    Loop* loop;
    ~End() {
      if (loop) loop->items = nullptr;
    }
  } const end{loop};
  const Restore restore(scope_);
  const std::shared_ptr<Scope> outer = scope_;
  for (std::size_t i = 0; i < items.size(); ++i) {
    m_.step();
    scope_ = std::make_shared<Scope>(outer);
    if (loop) {
      loop->at = i;
      scope_->set(loop_name, loop);
    }
    assign(*s.target, items[i]);
    if (run_block(s.body) == Flow::break_loop) break;
  }
  return Flow::normal;
}

void Interpreter::run_call_block(const Stmt& s) {
  Callable c;
  c.kind = Callable::Kind::macro;
  c.name = heap_.name("caller");
  c.macro = &s;
  c.scope = keep_scope();
  const Value caller = heap_.callable(std::move(c));
  const Value callee = eval(*s.a->a);
  Args args = eval_args(*s.a);
  args.named.emplace_back(std::get<Callable*>(caller)->name, caller);
  m_.line = s.line;
  print(m_, call(callee, args), *out_);
}

void Interpreter::run_with(const Stmt& s) {
  std::vector<Value> values;
  for (const auto& [target, value] : s.bindings) values.push_back(eval(*value));
  const Restore restore(scope_);
  scope_ = push_scope();
  for (std::size_t i = 0; i < values.size(); ++i) assign(*s.bindings[i].first, values[i]);
  run_block(s.body);
}

Text Interpreter::capture(const Block& block) {
  TextBuilder inner(m_);
  const Restore restore_out(out_);
  const Restore restore_scope(scope_);
  out_ = &inner;
  scope_ = push_scope();
  run_block(block);
  return inner.finish();
}

void Interpreter::assign(const Expr& target, const Value& value) {
  m_.line = target.line;
  if (target.kind == Expr::Kind::name) {
    m_.step(1 + scope_->size() / 8);
    scope_->set(target.name, value);
    return;
  }
  if (target.kind == Expr::Kind::attribute) {
    const Value space = lookup(target.a->name);
    Dict* d = as_dict(space);
    if (!d || !d->space)
      m_.fail("cannot set '{}': {} is no namespace", ast_.name(target.name), type_name(space));
    heap_.set(*d, Text(ast_.name(target.name)), value);
    return;
  }
  const std::vector<Value> parts = iterate(value);
  if (parts.size() != target.items.size())
    m_.fail("cannot unpack {} values into {} names", parts.size(), target.items.size());
  for (std::size_t i = 0; i < parts.size(); ++i) assign(*target.items[i], parts[i]);
}

// -- expressions --------------------------------------------------------------------------------------------

void Interpreter::undefined_error(const Value& v) const {
  const std::string* name = std::get<Undefined>(v).name;
  m_.fail("'{}' is undefined", name ? *name : "a value");
}

Value Interpreter::lookup(NameId name) {
  for (const Scope* s = scope_.get(); s; s = s->parent()) {
    m_.step(s->size() / 8);
    if (const Value* v = s->find_here(name)) return *v;
  }
  const std::string& text = ast_.name(name);
  if (std::find(kFunctions.begin(), kFunctions.end(), text) != kFunctions.end()) {
    Callable c;
    c.name = &text;
    return heap_.callable(std::move(c));
  }
  if (text == "lipsum") m_.fail("the function 'lipsum' is not supported");
  return Undefined{&text};
}

Value Interpreter::eval(const Expr& e) {
  using K = Expr::Kind;
  const Depth depth(*this);
  m_.line = e.line;
  m_.step();
  switch (e.kind) {
    case K::none:
      return None{};
    case K::boolean:
      return e.boolean;
    case K::integer:
      return e.integer;
    case K::real:
      return e.real;
    case K::text:
      return e.text;
    case K::name:
      return lookup(e.name);
    case K::list:
      return eval_items(e, List::Form::list);
    case K::tuple:
      return eval_items(e, List::Form::tuple);
    case K::dict:
      return eval_dict(e);
    case K::attribute: {
      const Value object = eval(*e.a);
      m_.line = e.line;
      return attribute(object, ast_.name(e.name));
    }
    case K::item: {
      const Value object = eval(*e.a), key = eval(*e.b);
      m_.line = e.line;
      return item(object, key);
    }
    case K::slice:
      return eval_slice(e);
    case K::call:
      return eval_call(e);
    case K::filter:
      return eval_filter(e, nullptr);
    case K::test: {
      const Value value = eval(*e.a);
      const Args args = eval_args(e);
      m_.line = e.line;
      return test(ast_.name(e.name), value, args);
    }
    case K::conditional:
      if (truth(eval(*e.b))) return eval(*e.a);
      return e.c ? eval(*e.c) : Value(Undefined{});
    case K::logical_and: {
      Value a = eval(*e.a);
      return truth(a) ? eval(*e.b) : a;
    }
    case K::logical_or: {
      Value a = eval(*e.a);
      return truth(a) ? a : eval(*e.b);
    }
    case K::logical_not:
      return !truth(eval(*e.a));
    case K::negative:
    case K::positive:
      return eval_sign(e);
    case K::concat:
      return eval_concat(e);
    case K::compare:
      return eval_compare(e);
    default:
      return arithmetic(e);
  }
}

Value Interpreter::eval_items(const Expr& e, List::Form form) {
  std::vector<Value> items;
  items.reserve(e.items.size());
  for (const Expr* i : e.items) items.push_back(eval(*i));
  return heap_.list(std::move(items), form);
}

Value Interpreter::eval_dict(const Expr& e) {
  Dict* d = heap_.dict();
  for (std::size_t i = 0; i < e.items.size(); i += 2) {
    const Value key = eval(*e.items[i]);
    heap_.set(*d, key, eval(*e.items[i + 1]));
  }
  return d;
}

Args Interpreter::eval_args(const Expr& e) {
  Args args;
  args.items.reserve(e.items.size());
  for (const Expr* i : e.items) args.items.push_back(eval(*i));
  for (const NamedArg& n : e.named) args.named.emplace_back(&ast_.name(n.name), eval(*n.value));
  return args;
}

Value Interpreter::eval_filter(const Expr& e, const Value* block) {
  const Depth depth(*this);
  const Value value = !e.a ? *block : e.a->kind == Expr::Kind::filter ? eval_filter(*e.a, block) : eval(*e.a);
  const Args args = eval_args(e);
  m_.line = e.line;
  m_.step();
  return filter(ast_.name(e.name), value, args);
}

Value Interpreter::eval_call(const Expr& e) {
  if (e.a->kind == Expr::Kind::attribute) {
    const Value self = eval(*e.a->a);
    const std::string& name = ast_.name(e.a->name);
    m_.line = e.line;
    const bool method = has_method(self, name);
    const Value callee = method ? Value(None{}) : attribute(self, name);
    const Args args = eval_args(e);
    m_.line = e.line;
    return method ? call_method(self, name, args) : call(callee, args);
  }
  const Value callee = eval(*e.a);
  const Args args = eval_args(e);
  m_.line = e.line;
  return call(callee, args);
}

Value Interpreter::eval_concat(const Expr& e) {
  TextBuilder out(m_);
  for (const Expr* i : e.items) {
    const Value v = eval(*i);
    print(m_, v, out);
  }
  return out.finish();
}

Value Interpreter::eval_compare(const Expr& e) {
  Value left = eval(*e.a);
  for (std::size_t i = 0; i < e.items.size(); ++i) {
    Value right = eval(*e.items[i]);
    m_.line = e.line;
    bool holds = false;
    switch (e.operators[i]) {
      case Expr::Compare::eq:
        holds = equal(m_, left, right);
        break;
      case Expr::Compare::ne:
        holds = !equal(m_, left, right);
        break;
      case Expr::Compare::lt:
        holds = less(m_, left, right);
        break;
      case Expr::Compare::gt:
        holds = less(m_, right, left);
        break;
      case Expr::Compare::le:
        holds = less(m_, left, right) || equal(m_, left, right);
        break;
      case Expr::Compare::ge:
        holds = less(m_, right, left) || equal(m_, left, right);
        break;
      case Expr::Compare::in:
        holds = contains(right, left);
        break;
      case Expr::Compare::not_in:
        holds = !contains(right, left);
        break;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::eval_sign(const Expr& e) {
  const Value v = eval(*e.a);
  m_.line = e.line;
  if (is_undefined(v)) undefined_error(v);
  const bool minus = e.kind == Expr::Kind::negative;
  if (const auto i = as_integer(v)) {
    std::int64_t r = *i;
    if (minus && __builtin_sub_overflow(std::int64_t{0}, *i, &r)) m_.fail("an integer of more than 64 bits");
    return r;
  }
  const auto* d = std::get_if<double>(&v);
  if (!d) m_.fail("a sign before {}", type_name(v));
  return minus ? -*d : *d;
}

Value Interpreter::eval_slice(const Expr& e) {
  const Value object = eval(*e.a);
  std::optional<std::int64_t> bounds[3];
  for (std::size_t i = 0; i < 3; ++i) {
    if (!e.items[i]) continue;
    const Value v = eval(*e.items[i]);
    m_.line = e.line;
    bounds[i] = as_integer(v);
    if (!bounds[i] && !is_none(v)) m_.fail("expected an integer in a slice, found {}", type_name(v));
  }
  if (is_undefined(object)) undefined_error(object);
  const Text* text = as_text(object);
  const List* list = as_list(object);
  if (list && list->form != List::Form::list && list->form != List::Form::tuple) list = nullptr;
  if (!text && !list) m_.fail("{} cannot be sliced", type_name(object));
  const std::int64_t step = bounds[2].value_or(1);
  if (step == 0) m_.fail("a slice of step 0");
  if (text) m_.handle(text->size() * 8);
  const auto n = static_cast<std::int64_t>(text ? count_chars(text->view()) : list->items.size());
  const auto clip = [&](std::optional<std::int64_t> v, std::int64_t fallback) {
    if (!v) return fallback;
    const std::int64_t at = *v < 0 ? (*v < -n ? -1 : *v + n) : *v;
    return step > 0 ? std::clamp<std::int64_t>(at, 0, n) : std::clamp<std::int64_t>(at, -1, n - 1);
  };
  const std::int64_t start = clip(bounds[0], step > 0 ? 0 : n - 1), stop = clip(bounds[1], step > 0 ? n : -1);
  if (text && step == 1) {
    const std::size_t from = char_offset(text->view(), static_cast<std::size_t>(start));
    if (stop <= start) return Text();
    if (stop == n) return slice(m_, *text, from, text->size());
    return slice(m_, *text, from,
                 from + char_offset(text->view().substr(from), static_cast<std::size_t>(stop - start)));
  }
  std::vector<std::size_t> offsets;
  if (text)
    for (std::size_t i = 0; i <= text->size(); i += i < text->size() ? char_length(text->view(), i) : 1)
      offsets.push_back(i);
  TextBuilder out(m_);
  std::vector<Value> items;
  const std::int64_t stride = std::clamp<std::int64_t>(step, -n - 1, n + 1);
  for (std::int64_t i = start; stride > 0 ? i < stop : i > stop; i += stride) {
    m_.step();
    const auto at = static_cast<std::size_t>(i);
    if (text) {
      out.add(*text, offsets[at], offsets[at + 1]);
    } else {
      items.push_back(list->items[at]);
    }
  }
  if (text) return out.finish();
  return heap_.list(std::move(items), list->form, list->message);
}

// -- arithmetic ---------------------------------------------------------------------------------------------

Value Interpreter::add(const Value& a, const Value& b) {
  const Text *ta = as_text(a), *tb = as_text(b);
  if (ta && tb) return concat(m_, *ta, *tb);
  const List *la = as_list(a), *lb = as_list(b);
  if (la && lb && la->form == lb->form && (la->form == List::Form::list || la->form == List::Form::tuple)) {
    if (la->items.size() + lb->items.size() > kMaxItems) m_.fail("a list of more than {} items", kMaxItems);
    std::vector<Value> items;
    items.reserve(la->items.size() + lb->items.size());
    items.insert(items.end(), la->items.begin(), la->items.end());
    items.insert(items.end(), lb->items.begin(), lb->items.end());
    return heap_.list(std::move(items), la->form, la->message && lb->message);
  }
  const auto ia = as_integer(a), ib = as_integer(b);
  if (ia && ib) return integer_arithmetic(Expr::Kind::add, *ia, *ib);
  const auto na = as_number(a), nb = as_number(b);
  if (na && nb) return *na + *nb;
  if (is_undefined(a)) undefined_error(a);
  if (is_undefined(b)) undefined_error(b);
  m_.fail("cannot add {} and {}", type_name(a), type_name(b));
}

Value Interpreter::arithmetic(const Expr& e) {
  using K = Expr::Kind;
  const Value a = eval(*e.a), b = eval(*e.b);
  m_.line = e.line;
  if (e.kind == K::add) return add(a, b);
  if (is_undefined(a)) undefined_error(a);
  if (is_undefined(b)) undefined_error(b);
  const auto ia = as_integer(a), ib = as_integer(b);
  if (ia && ib) return integer_arithmetic(e.kind, *ia, *ib);
  const auto na = as_number(a), nb = as_number(b);
  if (na && nb) return real_arithmetic(e.kind, *na, *nb);
  if (e.kind == K::multiply && ib) return multiply_sequence(a, *ib);
  if (e.kind == K::multiply && ia) return multiply_sequence(b, *ia);
  if (const Text* format = as_text(a); format && e.kind == K::modulo) {
    const List* many = as_list(b);
    return format_percent(*format,
                          many && many->form == List::Form::tuple ? many->items : std::vector<Value>{b});
  }
  m_.fail("arithmetic between {} and {}", type_name(a), type_name(b));
}

Value Interpreter::multiply_sequence(const Value& sequence, std::int64_t count) {
  if (const Text* t = as_text(sequence)) return repeat(m_, *t, count);
  const List* l = as_list(sequence);
  if (!l || (l->form != List::Form::list && l->form != List::Form::tuple))
    m_.fail("cannot multiply {} by an integer", type_name(sequence));
  const std::size_t n = l->items.size();
  if (n > 0 && count > 0 && static_cast<std::uint64_t>(count) > kMaxItems / n)
    m_.fail("a list of more than {} items", kMaxItems);
  m_.step(count > 0 ? static_cast<std::uint64_t>(count) * n / 4 : 0);
  std::vector<Value> items;
  for (std::int64_t i = 0; n > 0 && i < count; ++i)
    items.insert(items.end(), l->items.begin(), l->items.end());
  return heap_.list(std::move(items), l->form, l->message);
}

Value Interpreter::power(std::int64_t a, std::int64_t b) {
  if (b < 0) {
    if (a == 0) m_.fail("0 to a negative power");
    return std::pow(static_cast<double>(a), static_cast<double>(b));
  }
  std::int64_t r = 1;
  if (a == 0 || a == 1) return b == 0 ? 1 : a;
  if (a == -1) return b % 2 == 0 ? std::int64_t{1} : std::int64_t{-1};
  for (; b > 0; --b)
    if (__builtin_mul_overflow(r, a, &r)) m_.fail("an integer of more than 64 bits");
  return r;
}

Value Interpreter::integer_arithmetic(Expr::Kind kind, std::int64_t a, std::int64_t b) {
  using K = Expr::Kind;
  std::int64_t r = 0;
  bool overflow = false;
  switch (kind) {
    case K::add:
      overflow = __builtin_add_overflow(a, b, &r);
      break;
    case K::subtract:
      overflow = __builtin_sub_overflow(a, b, &r);
      break;
    case K::multiply:
      overflow = __builtin_mul_overflow(a, b, &r);
      break;
    case K::power:
      return power(a, b);
    default:
      if (b == 0) m_.fail("division by zero");
      if (kind == K::divide) return static_cast<double>(a) / static_cast<double>(b);
      if (b == -1) {  // INT64_MIN / -1 does not fit
        overflow = kind == K::floor_divide && __builtin_sub_overflow(std::int64_t{0}, a, &r);
        break;
      }
      r = kind == K::floor_divide ? a / b : a % b;
      if (a % b != 0 && (a < 0) != (b < 0)) r += kind == K::floor_divide ? -1 : b;  // towards minus infinity
  }
  if (overflow) m_.fail("an integer of more than 64 bits");
  return r;
}

Value Interpreter::real_arithmetic(Expr::Kind kind, double a, double b) {
  using K = Expr::Kind;
  switch (kind) {
    case K::subtract:
      return a - b;
    case K::multiply:
      return a * b;
    case K::power: {
      if (a == 0 && b < 0) m_.fail("0 to a negative power");
      if (a < 0 && b != std::floor(b)) m_.fail("a negative number to a fractional power");
      return std::pow(a, b);
    }
    default:
      break;
  }
  if (b == 0) m_.fail("division by zero");
  if (kind == K::divide) return a / b;
  double mod = std::fmod(a, b);
  if (mod != 0 && (mod < 0) != (b < 0)) mod += b;
  if (mod == 0) mod = std::copysign(0.0, b);
  if (kind == K::modulo) return mod;
  const double quotient = (a - mod) / b;
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1;
  if (quotient == 0) whole = std::copysign(0.0, a / b);
  return whole;
}

// -- containers ---------------------------------------------------------------------------------------------

std::vector<Value> Interpreter::iterate(const Value& v) {
  if (const List* l = as_list(v)) {
    m_.step(l->items.size() / 4);
    return l->items;
  }
  if (is_undefined(v)) return {};
  std::vector<Value> out;
  if (const Dict* d = as_dict(v); d && !d->space) {
    m_.step(d->entries.size() / 4);
    for (const auto& [key, value] : d->entries) out.push_back(key);
    return out;
  }
  const Text* t = as_text(v);
  if (!t) m_.fail("{} cannot be iterated", type_name(v));
  const std::string_view s = t->view();
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t n = char_length(s, i);
    m_.step();
    out.push_back(slice(m_, *t, i, i + n));
    i += n;
  }
  return out;
}

bool Interpreter::contains(const Value& container, const Value& element) {
  if (const Text* t = as_text(container)) {
    const Text* part = as_text(element);
    if (!part) m_.fail("expected a string on the left of 'in', found {}", type_name(element));
    m_.handle(t->size());
    return find(t->view(), part->view()) != std::string_view::npos;
  }
  if (const Dict* d = as_dict(container); d && !d->space) {
    if (!key_of(element) && !is_undefined(element)) m_.fail("{} cannot be a key", type_name(element));
    return find(*d, element) != nullptr;
  }
  if (const List* l = as_list(container)) {
    for (const Value& v : l->items)
      if (equal(m_, v, element)) return true;
    return false;
  }
  if (is_undefined(container)) return false;
  m_.fail("'in' needs a string or a container on its right, found {}", type_name(container));
}

std::int64_t Interpreter::length(const Value& v) {
  if (const Text* t = as_text(v)) {
    m_.handle(t->size());
    return static_cast<std::int64_t>(count_chars(t->view()));
  }
  if (const List* l = as_list(v); l && l->form != List::Form::generator)
    return static_cast<std::int64_t>(l->items.size());
  if (const Dict* d = as_dict(v); d && !d->space) return static_cast<std::int64_t>(d->entries.size());
  if (is_undefined(v)) return 0;
  m_.fail("{} has no length", type_name(v));
}

Value Interpreter::loop_attribute(Loop& loop, const std::string& name) {
  if (!loop.items) m_.fail("'loop' is used after its loop");
  const auto n = static_cast<std::int64_t>(loop.items->size()), at = static_cast<std::int64_t>(loop.at);
  if (name == "index") return at + 1;
  if (name == "index0") return at;
  if (name == "revindex") return n - at;
  if (name == "revindex0") return n - at - 1;
  if (name == "first") return at == 0;
  if (name == "last") return at == n - 1;
  if (name == "length") return n;
  if (name == "depth") return std::int64_t{1};  // loops are not recursive
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem") return at > 0 ? (*loop.items)[loop.at - 1] : Value(Undefined{heap_.name(name)});
  if (name == "nextitem") return at + 1 < n ? (*loop.items)[loop.at + 1] : Value(Undefined{heap_.name(name)});
  return Undefined{heap_.name(name)};
}

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (is_undefined(object)) undefined_error(object);
  if (has_method(object, name)) {
    Callable c;
    c.kind = Callable::Kind::method;
    c.name = heap_.name(name);
    c.self = object;
    return heap_.callable(std::move(c));
  }
  if (const auto* loop = std::get_if<Loop*>(&object)) return loop_attribute(**loop, name);
  if (const Dict* d = as_dict(object))
    if (const Value* v = find(*d, std::string_view(name))) return *v;
  if (const auto* c = std::get_if<Callable*>(&object);
      c && name == "current" && (*c)->kind == Callable::Kind::cycler)
    return (*c)->items[(*c)->at];
  if (name.starts_with("__")) m_.fail("access to '{}' is not supported", name);
  return Undefined{heap_.name(name)};
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (is_undefined(object)) undefined_error(object);
  if (const Dict* d = as_dict(object); d && !d->space) {
    if (const Value* v = find(*d, key)) return *v;
  }
  if (const Text* name = as_text(key)) return attribute(object, std::string(name->view()));
  const auto index = as_integer(key);
  const List* l = as_list(object);
  const Text* t = as_text(object);
  if (!index || (!l && !t) || (l && l->form != List::Form::list && l->form != List::Form::tuple))
    return Undefined{};
  if (t) m_.handle(t->size());
  const auto n = static_cast<std::int64_t>(l ? l->items.size() : count_chars(t->view()));
  if (*index >= n || *index < -n) return Undefined{};
  const auto at = static_cast<std::size_t>(*index < 0 ? *index + n : *index);
  if (l) return l->items[at];
  const std::size_t from = char_offset(t->view(), at);
  return slice(m_, *t, from, from + char_length(t->view(), from));
}

Value Interpreter::path(const Value& object, std::string_view dotted) {
  Value v = object;
  for (std::size_t from = 0; from <= dotted.size();) {
    const std::size_t dot = std::min(dotted.find('.', from), dotted.size());
    const std::string_view part = dotted.substr(from, dot - from);
    const bool digits =
        !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
    std::int64_t index = 0;
    for (const char c : part) index = digits ? index * 10 + (c - '0') : 0;
    m_.step();
    v = item(v, digits ? Value(index) : Value(Text(std::string(part))));
    from = dot + 1;
  }
  return v;
}

// -- calls --------------------------------------------------------------------------------------------------

Value Interpreter::call(const Value& callee, const Args& args) {
  m_.step();
  if (is_undefined(callee)) undefined_error(callee);
  const auto* p = std::get_if<Callable*>(&callee);
  if (!p) m_.fail("{} cannot be called", type_name(callee));
  Callable& c = **p;
  switch (c.kind) {
    case Callable::Kind::function:
      return call_function(*c.name, args);
    case Callable::Kind::method:
      return call_method(c.self, *c.name, args);
    case Callable::Kind::macro:
      return call_macro(c, args);
    case Callable::Kind::joiner: {
      if (c.at++ == 0) return Text();
      return c.items[0];
    }
    case Callable::Kind::cycler:
      break;
  }
  m_.fail("a cycler cannot be called");
}

Value Interpreter::call_macro(const Callable& macro, const Args& args) {
  const Depth depth(*this);
  const Stmt& s = *macro.macro;
  TextBuilder out(m_);
  const Restore restore_out(out_);
  const Restore restore_scope(scope_);
  out_ = &out;
  scope_ = std::make_shared<Scope>(macro.scope->shared_from_this());
  if (args.items.size() > s.parameters.size())
    m_.fail("the macro '{}' takes at most {} arguments, found {}", *macro.name, s.parameters.size(),
            args.items.size());
  std::size_t named_used = 0;
  for (std::size_t i = 0; i < s.parameters.size(); ++i) {
    const Parameter& p = s.parameters[i];
    const std::string& name = ast_.name(p.name);
    const auto given =
        std::find_if(args.named.begin(), args.named.end(), [&](const auto& n) { return *n.first == name; });
    if (given != args.named.end()) {
      if (i < args.items.size()) m_.fail("the macro '{}' gets '{}' twice", *macro.name, name);
      ++named_used;
      scope_->set(p.name, given->second);
    } else if (i < args.items.size()) {
      scope_->set(p.name, args.items[i]);
    } else {
      scope_->set(p.name, p.fallback ? eval(*p.fallback) : Value(Undefined{&name}));
    }
  }
  for (const auto& [name, value] : args.named) {
    if (*name != "caller") continue;
    if (const NameId id = ast_.find_name("caller"); id >= 0) scope_->set(id, value);
    ++named_used;
  }
  if (named_used < args.named.size())
    m_.fail("the macro '{}' gets an argument it does not name", *macro.name);
  run_block(s.body);
  return out.finish();
}

Value Interpreter::call_function(const std::string& name, const Args& args) {
  Params p(m_, name, args);
  if (name == "range") return call_range(args);
  if (name == "raise_exception") {
    const Text message = to_text(m_, p.need("message"));
    p.finish();
    m_.fail_text(Exit::usage, fmt::format("the template refuses these messages: {}", message.view()));
  }
  if (name == "strftime_now") {
    const Text format = p.text("format");
    p.finish();
    return strftime_now(format);
  }
  if (name == "cycler" || name == "joiner") {
    Callable c;
    c.kind = name == "cycler" ? Callable::Kind::cycler : Callable::Kind::joiner;
    c.items = args.items;
    if (c.kind == Callable::Kind::joiner && c.items.empty()) c.items.push_back(Text(", "));
    if (c.items.empty() || !args.named.empty()) m_.fail("{} needs positional values", name);
    return heap_.callable(std::move(c));
  }
  Dict* d = heap_.dict();  // namespace, dict
  d->space = name == "namespace";
  if (args.items.size() > 1) m_.fail("{} takes at most one positional argument", name);
  if (!args.items.empty()) {
    if (const Dict* from = as_dict(args.items[0]); from && !from->space) {
      d->message = from->message && !d->space;
      for (const auto& [key, value] : from->entries) heap_.set(*d, key, value);
    } else {
      for (const Value& pair : iterate(args.items[0])) {
        const std::vector<Value> both = iterate(pair);
        if (both.size() != 2) m_.fail("{} needs pairs of key and value", name);
        heap_.set(*d, both[0], both[1]);
      }
    }
  }
  for (const auto& [key, value] : args.named) heap_.set(*d, Text(*key), value);
  return d;
}

Value Interpreter::call_range(const Args& args) {
  Params p(m_, "range", args);
  std::int64_t first = p.integer("start", 0), stop = 0;
  if (args.items.empty()) m_.fail("range needs a number");
  if (args.items.size() == 1) {
    stop = std::exchange(first, 0);
  } else {
    stop = p.integer("stop", 0);
  }
  const std::int64_t step = p.integer("step", 1);
  if (args.items.size() > 1) p.finish();
  if (step == 0) m_.fail("range with step 0");
  std::vector<Value> items;
  for (std::int64_t i = first; step > 0 ? i < stop : i > stop;) {
    if (static_cast<std::int64_t>(items.size()) >= kMaxRange)
      m_.fail("a range of more than {} items", kMaxRange);
    items.push_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return heap_.list(std::move(items));
}

Value Interpreter::strftime_now(const Text& format) {
  if (format.size() > 256) m_.fail("a date format of more than 256 bytes");
  if (format.empty()) return Text();
  std::tm local{};
  localtime_r(&now_, &local);
  const std::string text(format.view());
  std::string out(4096, '\0');
  out.resize(std::strftime(out.data(), out.size(), text.c_str(), &local));
  return Text(std::move(out));
}

}  // namespace fathom::jinja
