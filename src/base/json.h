// JSON for untrusted input: parsed through nlohmann's SAX interface into a small ordered tree, with duplicate keys,
// depth and size refused while parsing. Also the one place that writes JSON strings.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "src/base/error.h"

namespace fathom::json {

struct Limits {
  std::size_t depth = 64;
  std::size_t nodes = 4'000'000;    // values in all
  std::size_t bytes = 256u << 20;   // of the text
};

class Value;
using Array = std::vector<Value>;
using Member = std::pair<std::string, Value>;
using Object = std::vector<Member>;  // in file order; keys are unique

// A JSON value. Integers keep their exactness: a literal without '.', 'e' is int64 or uint64, never double.
class Value {
 public:
  using Data = std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object>;
  Value() : data_(nullptr) {}
  template <typename T>
  explicit Value(T v) : data_(std::move(v)) {}

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const {
    return std::holds_alternative<std::int64_t>(data_) || std::holds_alternative<std::uint64_t>(data_);
  }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(data_); }
  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_array() const { return std::holds_alternative<Array>(data_); }
  bool is_object() const { return std::holds_alternative<Object>(data_); }

  // Preconditions: the matching is_...().
  bool as_bool() const { return std::get<bool>(data_); }
  double as_number() const;
  const std::string& as_string() const { return std::get<std::string>(data_); }
  const Array& as_array() const { return std::get<Array>(data_); }
  const Object& as_object() const { return std::get<Object>(data_); }
  // The integer if it is one and lies in [lo, hi]; nothing otherwise (61.0 and "61" are not integers).
  std::optional<std::int64_t> integer_in(std::int64_t lo, std::int64_t hi) const;
  std::optional<std::uint64_t> as_u64() const;
  // Member of an object; nullptr when absent or when this is no object.
  const Value* find(std::string_view key) const;
  // "an object", "the string \"61\"", "61.0": for messages, at most about 60 bytes.
  std::string describe() const;
  const Data& data() const { return data_; }
  Data& data() { return data_; }

 private:
  Data data_;
};

// Parses the whole of `text` (UTF-8, no BOM). Errors: `code`, naming `where` and the byte offset.
Value parse(std::string_view text, std::string_view where, Exit code = Exit::bad_checkpoint, const Limits& limits = {});

// Receives events of a document too large for a tree (a safetensors header, a tokenizer.json). Return false to stop;
// parse_events then returns false. Throwing is allowed too.
class Events {
 public:
  virtual ~Events() = default;
  virtual bool null() = 0;
  virtual bool boolean(bool v) = 0;
  virtual bool integer(std::int64_t v) = 0;
  virtual bool unsigned_integer(std::uint64_t v) = 0;
  virtual bool number(double v) = 0;
  virtual bool string(std::string&& v) = 0;
  virtual bool key(std::string&& v) = 0;
  virtual bool start_object() = 0;
  virtual bool end_object() = 0;
  virtual bool start_array() = 0;
  virtual bool end_array() = 0;
};
// Errors: malformed text or depth over the limit throw `code`. Duplicate keys are the handler's to refuse.
bool parse_events(std::string_view text, std::string_view where, Events& events, Exit code = Exit::bad_checkpoint,
                  const Limits& limits = {});

// Events that build a tree: what parse() uses, for handlers that keep only a part of a document.
class TreeBuilder final : public Events {
 public:
  bool null() override { return add(Value(nullptr)); }
  bool boolean(bool v) override { return add(Value(v)); }
  bool integer(std::int64_t v) override { return add(Value(v)); }
  bool unsigned_integer(std::uint64_t v) override;
  bool number(double v) override { return add(Value(v)); }
  bool string(std::string&& v) override { return add(Value(std::move(v))); }
  bool key(std::string&& v) override;
  bool start_object() override { return push(Value(Object{})); }
  bool end_object() override { return pop(); }
  bool start_array() override { return push(Value(Array{})); }
  bool end_array() override { return pop(); }

  // The finished value. Complete when no object or array is open.
  Value root;
  // The key that made key() return false.
  std::optional<std::string> duplicate;

 private:
  struct Open {
    Value value;
    std::string key;
    std::unordered_set<std::string> keys;
  };
  bool push(Value v);
  bool pop();
  bool add(Value v);
  std::vector<Open> open_;
};

// `s` as a JSON string with its quotes: control bytes and DEL escaped, invalid UTF-8 replaced by U+FFFD.
std::string quote(std::string_view s);
// Compact text of a value, keys in order.
std::string dump(const Value& v);

}  // namespace fathom::json
