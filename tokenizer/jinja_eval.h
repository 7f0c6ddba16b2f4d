// The evaluator: walks the tree of a template and writes its output. Internal to the interpreter.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_value.h"

namespace fathom::jinja {

// Variables of one block; lookups go on in the parent.
class Scope : public std::enable_shared_from_this<Scope> {
 public:
  explicit Scope(std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {}
  void set(NameId name, Value value);
  const Value* find_here(NameId name) const;
  std::size_t size() const { return variables_.size(); }
  const Scope* parent() const { return parent_.get(); }

 private:
  std::shared_ptr<Scope> parent_;
  std::vector<std::pair<NameId, Value>> variables_;
};

// The arguments of a call, evaluated.
struct Args {
  std::vector<Value> items;
  std::vector<std::pair<const std::string*, Value>> named;
};

// Reads arguments in the order of the callee's declaration, each by position or by name.
class Params {
 public:
  Params(Meter& meter, std::string_view callee, const Args& args)
      : meter_(meter), callee_(callee), args_(args) {}
  // Null when not given.
  const Value* take(std::string_view name);
  // Errors: unsupported when absent.
  const Value& need(std::string_view name);
  Text text(std::string_view name);
  std::int64_t integer(std::string_view name, std::int64_t fallback);
  bool flag(std::string_view name, bool fallback);
  // Errors: unsupported for arguments that nothing took.
  void finish() const;

 private:
  Meter& meter_;
  std::string_view callee_;
  const Args& args_;
  std::size_t position_ = 0, named_taken_ = 0;
};

class Interpreter {
 public:
  Interpreter(const Ast& ast, Heap& heap, std::time_t now)
      : ast_(ast), heap_(heap), m_(heap.meter()), now_(now) {}

  // Renders the template in `context`.
  Text run(std::shared_ptr<Scope> context);

  Heap& heap() { return heap_; }
  Meter& meter() { return m_; }
  const Ast& ast() const { return ast_; }

  // obj.name and obj[key] as Jinja looks them up. Errors: unsupported when obj is undefined.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  // item() along "a.b.0".
  Value path(const Value& object, std::string_view dotted);
  // What a for loop over v sees. Errors: unsupported when v cannot be iterated.
  std::vector<Value> iterate(const Value& v);
  bool contains(const Value& container, const Value& element);
  std::int64_t length(const Value& v);
  Value call(const Value& callee, const Args& args);
  Value add(const Value& a, const Value& b);

  // tokenizer/jinja_filters.cpp
  Value filter(const std::string& name, const Value& value, const Args& args);
  bool test(const std::string& name, const Value& value, const Args& args);
  // "%s of %d" % values
  Value format_percent(const Text& format, const std::vector<Value>& values);

  // tokenizer/jinja_methods.cpp
  // True when Python has the method. Errors: unsupported for one that Python has and the subset does not.
  bool has_method(const Value& self, const std::string& name) const;
  Value call_method(const Value& self, const std::string& name, const Args& args);

 private:
  enum class Flow { normal, break_loop, continue_loop };
  struct Depth;

  Flow run_block(const Block& block);
  Flow run_stmt(const Stmt& s);
  Flow run_for(const Stmt& s);
  Flow run_branch(const Stmt& s);
  void run_call_block(const Stmt& s);
  void run_with(const Stmt& s);
  Text capture(const Block& block);
  void assign(const Expr& target, const Value& value);
  std::vector<Value> loop_items(const Stmt& s);
  std::shared_ptr<Scope> push_scope();
  Scope* keep_scope();

  Value eval(const Expr& e);
  Value lookup(NameId name);
  Value eval_items(const Expr& e, List::Form form);
  Value eval_dict(const Expr& e);
  Value eval_slice(const Expr& e);
  Value eval_call(const Expr& e);
  Value eval_filter(const Expr& e, const Value* block);
  Value eval_compare(const Expr& e);
  Value eval_concat(const Expr& e);
  Value eval_sign(const Expr& e);
  Value arithmetic(const Expr& e);
  Value integer_arithmetic(Expr::Kind kind, std::int64_t a, std::int64_t b);
  Value power(std::int64_t a, std::int64_t b);
  Value real_arithmetic(Expr::Kind kind, double a, double b);
  Value multiply_sequence(const Value& sequence, std::int64_t count);
  Args eval_args(const Expr& e);

  Value loop_attribute(Loop& loop, const std::string& name);
  Value call_function(const std::string& name, const Args& args);
  Value call_macro(const Callable& macro, const Args& args);
  Value call_range(const Args& args);
  Value strftime_now(const Text& format);
  [[noreturn]] void undefined_error(const Value& v) const;

  const Ast& ast_;
  Heap& heap_;
  Meter& m_;
  std::time_t now_;
  TextBuilder* out_ = nullptr;
  std::shared_ptr<Scope> scope_;
  std::vector<std::shared_ptr<Scope>> kept_;  // scopes that macros refer to
  int depth_ = 0;
};

}  // namespace fathom::jinja
