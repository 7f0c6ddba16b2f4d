#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <optional>

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_lexer.h"

namespace fathom::jinja {

Expr* Ast::expr(Expr::Kind kind, int line) {
  Expr& e = exprs_.emplace_back();
  e.kind = kind;
  e.line = line;
  return &e;
}

Stmt* Ast::stmt(Stmt::Kind kind, int line) {
  Stmt& s = stmts_.emplace_back();
  s.kind = kind;
  s.line = line;
  return &s;
}

NameId Ast::intern(std::string_view name) {
  const auto it = ids_.find(name);
  if (it != ids_.end()) return it->second;
  const auto id = static_cast<NameId>(names_.size());
  ids_.emplace(names_.emplace_back(name), id);
  return id;
}

NameId Ast::find_name(std::string_view name) const {
  const auto it = ids_.find(name);
  return it == ids_.end() ? -1 : it->second;
}

namespace {

constexpr std::size_t kMaxSource = 1u << 20;
constexpr int kMaxDepth = 150;  // of nested expressions and blocks: each costs about 2 KB of stack

constexpr std::array<std::string_view, 6> kForeignTags = {"block",  "extends", "include",
                                                          "import", "from",    "autoescape"};

class Parser {
 public:
  Parser(std::string_view source, std::string_view where, Ast& ast)
      : where_(where), ast_(ast), tokens_(tokenize(source, where)) {}

  void run() {
    ast_.root = block({});
    if (!is(Token::Kind::end)) fail(fmt::format("unexpected {}", found()));
  }

 private:
  using Names = std::initializer_list<std::string_view>;
  using K = Expr::Kind;

  // -- tokens
  // ---------------------------------------------------------------------------------------------------

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  int line() const { return now().line; }
  Token next() { return std::move(tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]); }
  bool is(Token::Kind kind) const { return now().kind == kind; }
  bool is_op(std::string_view op) const { return is(Token::Kind::op) && now().text == op; }
  bool is_name(std::string_view name) const { return is(Token::Kind::name) && now().text == name; }
  bool is_name(Names names) const {
    return is(Token::Kind::name) && std::find(names.begin(), names.end(), now().text) != names.end();
  }
  bool skip_op(std::string_view op) { return is_op(op) && (next(), true); }
  bool skip_name(std::string_view name) { return is_name(name) && (next(), true); }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail(fmt::format("expected '{}', found {}", op, found()));
  }
  void expect_end(Token::Kind kind) {
    if (!is(kind)) fail(fmt::format("expected the end of the tag, found {}", found()));
    next();
  }
  std::string expect_name() {
    if (!is(Token::Kind::name)) fail(fmt::format("expected a name, found {}", found()));
    return next().text;
  }

  std::string found() const {
    switch (now().kind) {
      case Token::Kind::end:
        return "the end of the template";
      case Token::Kind::data:
        return "text";
      case Token::Kind::variable_end:
        return "'}}'";
      case Token::Kind::block_end:
        return "'%}'";
      case Token::Kind::string:
        return "a string";
      default:
        return fmt::format("'{}'", now().text.substr(0, 40));
    }
  }
  [[noreturn]] void fail(const std::string& message) const { syntax_error(false, where_, line(), message); }
  [[noreturn]] void unsupported(const std::string& message, int at) const {
    syntax_error(true, where_, at, message + " is not supported");
  }

  struct Nest {
    Parser& p;
    explicit Nest(Parser& parser) : p(parser) {
      if (++p.depth_ > kMaxDepth)
        syntax_error(true, p.where_, p.line(), fmt::format("nesting deeper than {}", kMaxDepth));
    }
    ~Nest() { --p.depth_; }
  };

  // -- statements
  // -----------------------------------------------------------------------------------------------

  // Statements up to a tag named in `ends` (its name is the current token), or to the end of the template.
  Block block(Names ends) {
    const Nest nest(*this);
    Block out;
    for (;;) {
      const int at = line();
      if (is(Token::Kind::data)) {
        Stmt* s = ast_.stmt(Stmt::Kind::text, at);
        s->text = Text(next().text);
        out.push_back(s);
      } else if (is(Token::Kind::variable_begin)) {
        next();
        Stmt* s = ast_.stmt(Stmt::Kind::output, at);
        s->a = tuple({});
        expect_end(Token::Kind::variable_end);
        out.push_back(s);
      } else if (is(Token::Kind::block_begin)) {
        next();
        if (is_name(ends)) return out;
        out.push_back(statement());
      } else {
        if (ends.size() > 0) fail(fmt::format("expected '{{% {} %}}', found {}", *(ends.end() - 1), found()));
        return out;
      }
    }
  }

  // The body of a tag that ends with `end`; consumes both tags' ends.
  Block body_until(std::string_view end) {
    expect_end(Token::Kind::block_end);
    Block out = block({end});
    next();
    expect_end(Token::Kind::block_end);
    return out;
  }

  Stmt* statement() {
    const int at = line();
    const std::string tag = expect_name();
    if (tag == "for") return for_loop(at);
    if (tag == "if") return branch(at);
    if (tag == "set") return set(at);
    if (tag == "macro") return macro(at);
    if (tag == "call") return call_block(at);
    if (tag == "filter") return filter_block(at);
    if (tag == "with") return with(at);
    if (tag == "generation") {
      Stmt* s = ast_.stmt(Stmt::Kind::body, at);
      s->body = body_until("endgeneration");
      return s;
    }
    if (tag == "break" || tag == "continue") return jump(tag == "break", at);
    if (std::find(kForeignTags.begin(), kForeignTags.end(), tag) != kForeignTags.end())
      unsupported(fmt::format("the tag '{}'", tag), at);
    if (tag.starts_with("end") || tag == "else" || tag == "elif")
      syntax_error(false, where_, at, fmt::format("'{}' without its beginning", tag.substr(0, 40)));
    unsupported(fmt::format("the tag '{}'", tag.substr(0, 40)), at);
  }

  Stmt* jump(bool is_break, int at) {
    if (loops_ == 0) syntax_error(false, where_, at, "break or continue outside a loop");
    expect_end(Token::Kind::block_end);
    return ast_.stmt(is_break ? Stmt::Kind::break_loop : Stmt::Kind::continue_loop, at);
  }

  Stmt* for_loop(int at) {
    Stmt* s = ast_.stmt(Stmt::Kind::for_loop, at);
    s->target = assign_target(false);
    if (!skip_name("in")) fail(fmt::format("expected 'in', found {}", found()));
    s->a = tuple({.conditional = false, .stop = "recursive"});
    if (skip_name("if")) s->b = expression();
    if (is_name("recursive")) unsupported("a recursive loop", at);
    expect_end(Token::Kind::block_end);
    ++loops_;
    s->body = block({"else", "endfor"});
    --loops_;
    if (next().text == "else") {
      s->otherwise = body_until("endfor");
    } else {
      expect_end(Token::Kind::block_end);
    }
    return s;
  }

  Stmt* branch(int at) {
    Stmt* first = ast_.stmt(Stmt::Kind::branch, at);
    for (Stmt* s = first;;) {
      s->a = tuple({.conditional = false});
      expect_end(Token::Kind::block_end);
      s->body = block({"elif", "else", "endif"});
      const int here = line();
      const std::string tag = next().text;
      if (tag == "elif") {
        Stmt* chained = ast_.stmt(Stmt::Kind::branch, here);
        s->otherwise.push_back(chained);
        s = chained;
        continue;
      }
      if (tag == "else") {
        s->otherwise = body_until("endif");
      } else {
        expect_end(Token::Kind::block_end);
      }
      return first;
    }
  }

  Stmt* set(int at) {
    Expr* target = assign_target(true);
    if (skip_op("=")) {
      Stmt* s = ast_.stmt(Stmt::Kind::assign, at);
      s->target = target;
      s->a = tuple({});
      expect_end(Token::Kind::block_end);
      return s;
    }
    Stmt* s = ast_.stmt(Stmt::Kind::assign_block, at);
    s->target = target;
    if (is_op("|")) s->a = filters(nullptr);
    s->body = body_until("endset");
    return s;
  }

  Stmt* macro(int at) {
    Stmt* s = ast_.stmt(Stmt::Kind::macro, at);
    s->name = ast_.intern(expect_name());
    parameters(*s);
    const int loops = std::exchange(loops_, 0);
    s->body = body_until("endmacro");
    loops_ = loops;
    return s;
  }

  Stmt* call_block(int at) {
    Stmt* s = ast_.stmt(Stmt::Kind::call_block, at);
    if (is_op("(")) parameters(*s);
    s->a = expression();
    if (s->a->kind != K::call) syntax_error(false, where_, at, "expected a call");
    const int loops = std::exchange(loops_, 0);
    s->body = body_until("endcall");
    loops_ = loops;
    return s;
  }

  Stmt* filter_block(int at) {
    Stmt* s = ast_.stmt(Stmt::Kind::filter_block, at);
    s->a = named_filter(nullptr);
    if (is_op("|")) s->a = filters(s->a);
    s->body = body_until("endfilter");
    return s;
  }

  Stmt* with(int at) {
    Stmt* s = ast_.stmt(Stmt::Kind::with, at);
    while (!is(Token::Kind::block_end)) {
      if (!s->bindings.empty()) expect_op(",");
      Expr* target = assign_target(false);
      expect_op("=");
      s->bindings.emplace_back(target, expression());
    }
    s->body = body_until("endwith");
    return s;
  }

  void parameters(Stmt& s) {
    expect_op("(");
    while (!is_op(")")) {
      if (!s.parameters.empty()) expect_op(",");
      Parameter p;
      p.name = ast_.intern(assignable(expect_name()));
      if (skip_op("=")) {
        p.fallback = expression();
      } else if (!s.parameters.empty() && s.parameters.back().fallback) {
        fail("a parameter without a default behind one with a default");
      }
      s.parameters.push_back(p);
    }
    next();
  }

  std::string assignable(std::string name) const {
    for (const char* word : {"true", "false", "none", "True", "False", "None"})
      if (name == word) fail(fmt::format("cannot assign to '{}'", name));
    return name;
  }

  // A name, a tuple of names, or (with_namespace) name.attribute.
  Expr* assign_target(bool with_namespace) {
    Expr* first = one_target(with_namespace);
    if (!is_op(",")) return first;
    Expr* all = ast_.expr(K::tuple, first->line);
    all->items.push_back(first);
    while (skip_op(",")) {
      if (is_name("in") || is_op("=") || is(Token::Kind::block_end)) break;
      all->items.push_back(one_target(with_namespace));
    }
    return all;
  }

  Expr* one_target(bool with_namespace) {
    const Nest nest(*this);
    const int at = line();
    if (skip_op("(")) {
      Expr* inner = assign_target(with_namespace);
      expect_op(")");
      return inner;
    }
    Expr* e = ast_.expr(K::name, at);
    e->name = ast_.intern(assignable(expect_name()));
    if (!with_namespace || !skip_op(".")) return e;
    Expr* field = ast_.expr(K::attribute, at);
    field->a = e;
    field->name = ast_.intern(expect_name());
    return field;
  }

  // -- expressions
  // ----------------------------------------------------------------------------------------------

  struct TupleRules {
    bool conditional = true;     // items may be inline ifs
    std::string_view stop = {};  // a name that ends the tuple
    bool parentheses = false;    // may be empty
  };

  bool tuple_ends(const TupleRules& rules) const {
    return is(Token::Kind::variable_end) || is(Token::Kind::block_end) || is_op(")") ||
           (!rules.stop.empty() && is_name(rules.stop));
  }

  Expr* tuple(const TupleRules& rules) {
    const int at = line();
    std::vector<Expr*> items;
    bool comma = false;
    while (!tuple_ends(rules)) {
      items.push_back(rules.conditional ? expression() : logical_or());
      if (!skip_op(",")) break;
      comma = true;
    }
    if (!comma && !items.empty()) return items[0];
    if (items.empty() && !rules.parentheses) fail(fmt::format("expected an expression, found {}", found()));
    Expr* e = ast_.expr(K::tuple, at);
    e->items = std::move(items);
    return e;
  }

  Expr* expression() {
    const Nest nest(*this);
    const int at = line();
    Expr* value = logical_or();
    while (skip_name("if")) {
      Expr* e = ast_.expr(K::conditional, at);
      e->a = value;
      e->b = logical_or();
      if (skip_name("else")) e->c = expression();
      value = e;
    }
    return value;
  }

  Expr* binary(K kind, Expr* a, Expr* b, int at) {
    Expr* e = ast_.expr(kind, at);
    e->a = a;
    e->b = b;
    return e;
  }

  Expr* logical_or() {
    Expr* e = logical_and();
    for (int at = line(); skip_name("or"); at = line()) e = binary(K::logical_or, e, logical_and(), at);
    return e;
  }

  Expr* logical_and() {
    Expr* e = logical_not();
    for (int at = line(); skip_name("and"); at = line()) e = binary(K::logical_and, e, logical_not(), at);
    return e;
  }

  Expr* logical_not() {
    const Nest nest(*this);
    const int at = line();
    if (!skip_name("not")) return compare();
    Expr* e = ast_.expr(K::logical_not, at);
    e->a = logical_not();
    return e;
  }

  bool comparison(Expr::Compare& op) {
    static constexpr std::pair<std::string_view, Expr::Compare> kOps[] = {
        {"==", Expr::Compare::eq}, {"!=", Expr::Compare::ne}, {"<", Expr::Compare::lt},
        {"<=", Expr::Compare::le}, {">", Expr::Compare::gt},  {">=", Expr::Compare::ge}};
    for (const auto& [text, kind] : kOps) {
      if (!skip_op(text)) continue;
      op = kind;
      return true;
    }
    if (skip_name("in")) {
      op = Expr::Compare::in;
      return true;
    }
    if (is_name("not") && ahead().kind == Token::Kind::name && ahead().text == "in") {
      next();
      next();
      op = Expr::Compare::not_in;
      return true;
    }
    return false;
  }

  Expr* compare() {
    const int at = line();
    Expr* first = sum();
    Expr* chain = nullptr;
    Expr::Compare op;
    while (comparison(op)) {
      if (!chain) {
        chain = ast_.expr(K::compare, at);
        chain->a = first;
      }
      chain->operators.push_back(op);
      chain->items.push_back(sum());
    }
    return chain ? chain : first;
  }

  Expr* sum() {
    Expr* e = concat();
    for (;;) {
      const int at = line();
      if (skip_op("+")) {
        e = binary(K::add, e, concat(), at);
      } else if (skip_op("-")) {
        e = binary(K::subtract, e, concat(), at);
      } else {
        return e;
      }
    }
  }

  Expr* concat() {
    const int at = line();
    Expr* first = product();
    if (!is_op("~")) return first;
    Expr* e = ast_.expr(K::concat, at);
    e->items.push_back(first);
    while (skip_op("~")) e->items.push_back(product());
    return e;
  }

  Expr* product() {
    Expr* e = power();
    for (;;) {
      const int at = line();
      if (skip_op("*")) {
        e = binary(K::multiply, e, power(), at);
      } else if (skip_op("/")) {
        e = binary(K::divide, e, power(), at);
      } else if (skip_op("//")) {
        e = binary(K::floor_divide, e, power(), at);
      } else if (skip_op("%")) {
        e = binary(K::modulo, e, power(), at);
      } else {
        return e;
      }
    }
  }

  Expr* power() {
    Expr* e = unary(true);
    for (int at = line(); skip_op("**"); at = line()) e = binary(K::power, e, unary(true), at);
    return e;
  }

  Expr* unary(bool with_filters) {
    const Nest nest(*this);
    const int at = line();
    Expr* e = nullptr;
    if (is_op("-") || is_op("+")) {
      e = ast_.expr(next().text == "-" ? K::negative : K::positive, at);
      e->a = unary(false);
    } else {
      e = primary();
    }
    e = postfix(e);
    return with_filters ? filters_and_tests(e) : e;
  }

  Expr* boolean(bool value, int at) {
    Expr* e = ast_.expr(K::boolean, at);
    e->boolean = value;
    return e;
  }

  Expr* primary() {
    const int at = line();
    if (is(Token::Kind::name)) {
      const std::string name = next().text;
      if (name == "true" || name == "True") return boolean(true, at);
      if (name == "false" || name == "False") return boolean(false, at);
      if (name == "none" || name == "None") return ast_.expr(K::none, at);
      Expr* e = ast_.expr(K::name, at);
      e->name = ast_.intern(name);
      return e;
    }
    if (is(Token::Kind::string)) {
      std::string joined;
      while (is(Token::Kind::string)) joined += next().text;
      Expr* e = ast_.expr(K::text, at);
      e->text = Text(std::move(joined));
      return e;
    }
    if (is(Token::Kind::integer) || is(Token::Kind::real)) return number(at);
    if (skip_op("(")) {
      Expr* e = tuple({.parentheses = true});
      expect_op(")");
      return e;
    }
    if (skip_op("[")) {
      Expr* e = ast_.expr(K::list, at);
      items_until("]", *e);
      return e;
    }
    if (skip_op("{")) return dict(at);
    fail(fmt::format("unexpected {}", found()));
  }

  Expr* number(int at) {
    const Token t = next();
    const char* end = t.text.data() + t.text.size();
    if (t.kind == Token::Kind::integer) {
      Expr* e = ast_.expr(K::integer, at);
      if (std::from_chars(t.text.data(), end, e->integer).ec != std::errc{})
        unsupported("an integer of more than 64 bits", at);
      return e;
    }
    Expr* e = ast_.expr(K::real, at);
    if (std::from_chars(t.text.data(), end, e->real).ec == std::errc::result_out_of_range)
      e->real = t.text.find('-') == t.text.npos && !t.text.starts_with("0.") ? HUGE_VAL : 0;
    return e;
  }

  void items_until(std::string_view close, Expr& e) {
    while (!is_op(close)) {
      if (!e.items.empty()) expect_op(",");
      if (is_op(close)) break;
      e.items.push_back(expression());
    }
    expect_op(close);
  }

  Expr* dict(int at) {
    Expr* e = ast_.expr(K::dict, at);
    while (!is_op("}")) {
      if (!e->items.empty()) expect_op(",");
      if (is_op("}")) break;
      e->items.push_back(expression());
      expect_op(":");
      e->items.push_back(expression());
    }
    expect_op("}");
    return e;
  }

  Expr* postfix(Expr* e) {
    for (;;) {
      if (is_op(".") || is_op("[")) {
        e = subscript(e);
      } else if (is_op("(")) {
        e = call(e);
      } else {
        return e;
      }
    }
  }

  Expr* subscript(Expr* object) {
    const int at = line();
    if (skip_op(".")) {
      if (is(Token::Kind::integer)) {
        Expr* e = ast_.expr(K::item, at);
        e->a = object;
        e->b = number(at);
        return e;
      }
      Expr* e = ast_.expr(K::attribute, at);
      e->a = object;
      e->name = ast_.intern(expect_name());
      return e;
    }
    next();
    Expr* e = is_op(":") ? nullptr : expression();
    if (is_op(":")) return slice(object, e, at);
    if (is_op(",")) unsupported("a subscript with several values", at);
    expect_op("]");
    return binary(K::item, object, e, at);
  }

  Expr* slice(Expr* object, Expr* start, int at) {
    Expr* e = ast_.expr(K::slice, at);
    e->a = object;
    e->items = {start, nullptr, nullptr};
    for (std::size_t i = 1; i < 3 && skip_op(":"); ++i)
      if (!is_op(":") && !is_op("]")) e->items[i] = expression();
    expect_op("]");
    return e;
  }

  // Arguments in parentheses.
  void arguments(Expr& e) {
    expect_op("(");
    for (bool first = true; !is_op(")"); first = false) {
      if (!first) expect_op(",");
      if (is_op(")")) break;
      if (is_op("*") || is_op("**")) unsupported("a call with unpacked arguments", line());
      if (is(Token::Kind::name) && ahead().kind == Token::Kind::op && ahead().text == "=") {
        const NameId name = ast_.intern(next().text);
        for (const NamedArg& other : e.named)
          if (other.name == name) fail(fmt::format("the argument '{}' is given twice", ast_.name(name)));
        next();
        e.named.push_back({name, expression()});
      } else {
        if (!e.named.empty()) fail("a positional argument behind a named one");
        e.items.push_back(expression());
      }
    }
    next();
  }

  Expr* call(Expr* callee) {
    Expr* e = ast_.expr(K::call, line());
    e->a = callee;
    arguments(*e);
    return e;
  }

  Expr* filters_and_tests(Expr* e) {
    for (;;) {
      if (is_op("|")) {
        e = filters(e);
      } else if (is_name("is")) {
        e = test(e);
      } else if (is_op("(")) {
        e = call(e);
      } else {
        return e;
      }
    }
  }

  Expr* filters(Expr* e) {
    while (skip_op("|")) e = named_filter(e);
    return e;
  }

  Expr* named_filter(Expr* value) {
    Expr* e = ast_.expr(K::filter, line());
    e->a = value;
    e->name = ast_.intern(dotted_name());
    if (is_op("(")) arguments(*e);
    return e;
  }

  std::string dotted_name() {
    std::string name = expect_name();
    while (skip_op(".")) name += "." + expect_name();
    return name;
  }

  Expr* test(Expr* value) {
    const int at = line();
    next();
    const bool negated = skip_name("not");
    Expr* e = ast_.expr(K::test, at);
    e->a = value;
    e->name = ast_.intern(dotted_name());
    if (is_op("(")) {
      arguments(*e);
    } else if (test_argument_follows()) {
      if (is_name("is")) fail("tests cannot be chained with 'is'");
      e->items.push_back(postfix(primary()));
    }
    if (!negated) return e;
    Expr* inverse = ast_.expr(K::logical_not, at);
    inverse->a = e;
    return inverse;
  }

  bool test_argument_follows() const {
    if (is(Token::Kind::name)) return !is_name({"else", "or", "and"});
    return is(Token::Kind::string) || is(Token::Kind::integer) || is(Token::Kind::real) || is_op("[") ||
           is_op("{");
  }

  std::string_view where_;
  Ast& ast_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

void parse(std::string_view source, std::string_view where, Ast& ast) {
  if (source.size() > kMaxSource)
    syntax_error(true, where, 1,
                 fmt::format("a template of {} bytes (at most {})", source.size(), kMaxSource));
  Parser(source, where, ast).run();
}

}  // namespace fathom::jinja
