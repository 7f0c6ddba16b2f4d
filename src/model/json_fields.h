// Typed, range-checked access to the members of a JSON object such as config.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/json.h"

namespace fathom {

// A view of one JSON object; the value must outlive it. A member that is null counts as absent, as it does
// for transformers. Every error is bad_checkpoint and names the file, the member, what was expected and what
// was found.
class JsonFields {
 public:
  // `where` names the object in messages: "config.json" or "config.json: rope_scaling". Errors: not an
  // object.
  JsonFields(const json::Value& object, std::string where);

  const std::string& where() const { return where_; }
  // The member, or nullptr when it is absent or null.
  const json::Value* get(std::string_view key) const;
  bool has(std::string_view key) const { return get(key) != nullptr; }
  // The member exists, be it null.
  bool mentions(std::string_view key) const { return object_.find(key) != nullptr; }

  // Integers in [lo, hi]; 61.0 and "61" are not integers.
  std::int64_t integer(std::string_view key, std::int64_t lo, std::int64_t hi) const;
  std::int64_t integer_or(std::string_view key, std::int64_t lo, std::int64_t hi, std::int64_t absent) const;
  // Finite numbers in [lo, hi]; integers are numbers.
  double number(std::string_view key, double lo, double hi) const;
  std::optional<double> number_if(std::string_view key, double lo, double hi) const;
  bool boolean(std::string_view key) const;
  bool boolean_or(std::string_view key, bool absent) const;
  std::optional<std::string> text_if(std::string_view key) const;
  std::optional<JsonFields> object_if(std::string_view key) const;

  // Throws: "WHERE: KEY: expected `expected`, found ...".
  [[noreturn]] void refuse(std::string_view key, std::string_view expected,
                           Exit code = Exit::bad_checkpoint) const;

 private:
  const json::Value& object_;
  std::string where_;
};

}  // namespace fathom
