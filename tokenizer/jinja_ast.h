// Syntax tree of a Jinja template. Nodes live in the Ast's arenas, so that a deep tree is freed without
// recursion.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tokenizer/jinja_text.h"

namespace fathom::jinja {

using NameId = int;  // index into Ast::names

struct Expr;

// name=value in a call.
struct NamedArg {
  NameId name = 0;
  Expr* value = nullptr;
};

struct Expr {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,  // literals
    name,  // name
    list,
    tuple,
    dict,       // items (dict: key, value, key, value ...)
    attribute,  // a . name
    item,       // a [ b ]
    slice,      // a [ items[0] : items[1] : items[2] ], null where absent
    call,       // a ( items, named )
    filter,
    test,         // a | name(items, named); a null in a filter block
    conditional,  // a if b else c (c may be null)
    logical_and,
    logical_or,
    logical_not,  // a, b
    negative,
    positive,  // a
    add,
    subtract,
    multiply,
    divide,
    floor_divide,
    modulo,
    power,    // a, b
    concat,   // items, joined as strings
    compare,  // a (operators[i] items[i])...
  };
  enum class Compare { eq, ne, lt, le, gt, ge, in, not_in };

  Kind kind = Kind::none;
  int line = 0;
  NameId name = 0;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  Text text;
  Expr* a = nullptr;
  Expr* b = nullptr;
  Expr* c = nullptr;
  std::vector<Expr*> items;
  std::vector<NamedArg> named;
  std::vector<Compare> operators;
};

struct Stmt;
using Block = std::vector<Stmt*>;

// A parameter of a macro or call block; fallback null: undefined when not given.
struct Parameter {
  NameId name = 0;
  Expr* fallback = nullptr;
};

struct Stmt {
  enum class Kind {
    text,          // template text
    output,        // {{ a }}
    assign,        // set target = a
    assign_block,  // set target %}body; a: the filters, or null
    for_loop,      // for target in a if b; body; otherwise
    branch,        // if a body else otherwise (an elif is a branch in otherwise)
    macro,         // name(parameters) body
    call_block,    // call(parameters) a: a call; body
    filter_block,  // filter a; body
    with,          // with targets[i] = values[i]; body
    body,          // generation: body alone
    break_loop,
    continue_loop,
  };
  Kind kind = Kind::text;
  int line = 0;
  NameId name = 0;
  Text text;
  Expr* target = nullptr;  // name, tuple of targets, or attribute of a name (a namespace)
  Expr* a = nullptr;
  Expr* b = nullptr;
  Block body, otherwise;
  std::vector<Parameter> parameters;
  std::vector<std::pair<Expr*, Expr*>> bindings;
};

class Ast {
 public:
  Block root;

  Expr* expr(Expr::Kind kind, int line);
  Stmt* stmt(Stmt::Kind kind, int line);
  NameId intern(std::string_view name);
  // -1 for a name the template does not use.
  NameId find_name(std::string_view name) const;
  const std::string& name(NameId id) const { return names_[static_cast<std::size_t>(id)]; }

 private:
  std::deque<Expr> exprs_;
  std::deque<Stmt> stmts_;
  std::deque<std::string> names_;
  std::map<std::string_view, NameId> ids_;
};

// Parses `source` with trim_blocks and lstrip_blocks set and keep_trailing_newline not, as Hugging Face does.
// Errors: bad_checkpoint for malformed syntax, unsupported for a construct outside the subset, both naming
// the line; unsupported for more than 1 MiB.
void parse(std::string_view source, std::string_view where, Ast& ast);

}  // namespace fathom::jinja
