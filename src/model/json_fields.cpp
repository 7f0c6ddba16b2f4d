#include "src/model/json_fields.h"

#include <cmath>

namespace fathom {

JsonFields::JsonFields(const json::Value& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object())
    throw Error(Exit::bad_checkpoint,
                fmt::format("{}: expected an object, found {}", where_, object.describe()))
        .at(where_);
}

const json::Value* JsonFields::get(std::string_view key) const {
  const json::Value* v = object_.find(key);
  return v == nullptr || v->is_null() ? nullptr : v;
}

void JsonFields::refuse(std::string_view key, std::string_view expected, Exit code) const {
  const json::Value* v = object_.find(key);
  const std::string found = v == nullptr ? "nothing" : v->describe();
  const std::string file = where_.substr(0, where_.find(':'));
  throw Error(code, fmt::format("{}: {}: expected {}, found {}", where_, key, expected, found)).at(file);
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t lo, std::int64_t hi) const {
  const json::Value* v = get(key);
  const auto i = v == nullptr ? std::nullopt : v->integer_in(lo, hi);
  if (!i) refuse(key, fmt::format("an integer from {} to {}", lo, hi));
  return *i;
}

std::int64_t JsonFields::integer_or(std::string_view key, std::int64_t lo, std::int64_t hi,
                                    std::int64_t absent) const {
  return has(key) ? integer(key, lo, hi) : absent;
}

double JsonFields::number(std::string_view key, double lo, double hi) const {
  const json::Value* v = get(key);
  const double x = v != nullptr && v->is_number() ? v->as_number() : std::nan("");
  if (!(x >= lo && x <= hi)) refuse(key, fmt::format("a number from {} to {}", lo, hi));
  return x;
}

std::optional<double> JsonFields::number_if(std::string_view key, double lo, double hi) const {
  if (!has(key)) return std::nullopt;
  return number(key, lo, hi);
}

bool JsonFields::boolean(std::string_view key) const {
  const json::Value* v = get(key);
  if (v == nullptr || !v->is_bool()) refuse(key, "true or false");
  return v->as_bool();
}

bool JsonFields::boolean_or(std::string_view key, bool absent) const {
  return has(key) ? boolean(key) : absent;
}

std::optional<std::string> JsonFields::text_if(std::string_view key) const {
  const json::Value* v = get(key);
  if (v == nullptr) return std::nullopt;
  if (!v->is_string()) refuse(key, "a string");
  return v->as_string();
}

std::optional<JsonFields> JsonFields::object_if(std::string_view key) const {
  const json::Value* v = get(key);
  if (v == nullptr) return std::nullopt;
  if (!v->is_object()) refuse(key, "an object");
  return JsonFields(*v, fmt::format("{}: {}", where_, key));
}

}  // namespace fathom
