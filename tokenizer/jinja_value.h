// Values of the Jinja interpreter, with Python's meaning of truth, equality, order, str() and repr().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "src/base/json.h"
#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_text.h"

namespace fathom::jinja {

struct List;
struct Dict;
struct Callable;
struct Loop;
class Scope;

// A name or attribute that is not there: prints as '', is false and empty, and refuses everything else.
struct Undefined {
  const std::string* name = nullptr;  // for messages; lives in the Ast or the Heap
};
struct None {};

// Containers and callables belong to the Heap of their rendering.
using Value = std::variant<Undefined, None, bool, std::int64_t, double, Text, List*, Dict*, Callable*, Loop*>;

struct List {
  // view: dict.items() and the like; generator: what Jinja's lazy filters give (always true, no length).
  enum class Form { list, tuple, generator, view };
  Form form = Form::list;
  bool message = false;  // came from messages or tools
  std::vector<Value> items;
};

struct Dict {
  bool space = false;  // a namespace: attributes may be set
  bool message = false;
  std::vector<std::pair<Value, Value>> entries;        // in order of insertion
  std::unordered_map<std::string, std::size_t> index;  // key_of(key) to entry
};

// The state behind `loop`.
struct Loop {
  const std::vector<Value>* items = nullptr;  // null when the loop has ended
  std::size_t at = 0;
  std::optional<Value> changed;
};

struct Callable {
  enum class Kind { function, method, macro, cycler, joiner };
  Kind kind = Kind::function;
  const std::string* name = nullptr;
  Value self;                   // method
  const Stmt* macro = nullptr;  // macro or call block
  Scope* scope = nullptr;       // where the macro was defined
  std::vector<Value> items;     // cycler's values, joiner's separator
  std::size_t at = 0;
};

// Owns what a rendering allocates; everything is freed with it, cycles included.
class Heap {
 public:
  explicit Heap(Meter& meter) : meter_(meter) {}
  List* list(std::vector<Value> items, List::Form form = List::Form::list, bool message = false);
  Dict* dict();
  Callable* callable(Callable c);
  Loop* loop();
  const std::string* name(std::string_view text);
  // Errors: unsupported for a key that Python cannot hash.
  void set(Dict& dict, const Value& key, Value value);
  void append(List& list, Value value);
  Meter& meter() { return meter_; }

 private:
  Meter& meter_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Callable> callables_;
  std::deque<Loop> loops_;
  std::deque<std::string> names_;
};

inline const Text* as_text(const Value& v) { return std::get_if<Text>(&v); }
inline bool is_undefined(const Value& v) { return std::holds_alternative<Undefined>(v); }
inline bool is_none(const Value& v) { return std::holds_alternative<None>(v); }
List* as_list(const Value& v);
Dict* as_dict(const Value& v);
// A Python int: a boolean is one too.
std::optional<std::int64_t> as_integer(const Value& v);
// An int or a float.
std::optional<double> as_number(const Value& v);

// "a string", "none": for messages.
std::string_view type_name(const Value& v);
bool truth(const Value& v);
// Nothing when key cannot be one in Python.
std::optional<std::string> key_of(const Value& v);
const Value* find(const Dict& dict, const Value& key);
const Value* find(const Dict& dict, std::string_view key);
bool equal(Meter& m, const Value& a, const Value& b);
// a < b. Errors: unsupported for types without an order.
bool less(Meter& m, const Value& a, const Value& b);
// Python's str() and repr(), appended.
void print(Meter& m, const Value& v, TextBuilder& out);
void print_repr(Meter& m, const Value& v, TextBuilder& out);
Text to_text(Meter& m, const Value& v);
// A float as Python writes it: shortest form that reads back.
std::string float_repr(double v);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level's
  std::string comma = ", ", colon = ": ";
};
// json.dumps with Hugging Face's defaults.
Text to_json(Meter& m, const Value& v, const JsonStyle& style);
// The value of JSON; `message`: it came with messages, and so did all its strings and keys.
Value from_json(Heap& heap, const json::Value& v, bool message);

}  // namespace fathom::jinja
