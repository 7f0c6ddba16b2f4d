#include "tokenizer/jinja.h"

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_eval.h"

namespace fathom::jinja {

struct Template::Impl {
  std::string where;
  Ast ast;
};

Template::Template(std::string_view source, std::string_view where) : impl_(std::make_unique<Impl>()) {
  impl_->where = where;
  parse(source, where, impl_->ast);
}

Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

namespace {

// Values and bytes of the context: the work a template may do grows with them.
struct Extent {
  std::size_t values = 0, bytes = 0;
  void add(const json::Value& v) {
    ++values;
    if (v.is_string()) bytes += v.as_string().size();
    if (v.is_array())
      for (const json::Value& e : v.as_array()) add(e);
    if (v.is_object()) {
      for (const auto& [key, value] : v.as_object()) {
        bytes += key.size();
        add(value);
      }
    }
  }
};

}  // namespace

Rendered Template::render(std::span<const Variable> variables, std::int64_t now, const Limits& limits) const {
  Extent extent;
  for (const Variable& v : variables) extent.add(v.value);
  Meter meter;
  meter.where = impl_->where;
  meter.max_steps = limits.steps + 2000 * extent.values + extent.bytes;
  meter.max_live = limits.live_bytes + 1000 * extent.values + 16 * extent.bytes;
  meter.max_text = limits.text_bytes + 8 * extent.bytes;
  Heap heap(meter);
  Interpreter interpreter(impl_->ast, heap, static_cast<std::time_t>(now));
  const auto context = std::make_shared<Scope>(nullptr);
  for (const Variable& v : variables) {
    const NameId name = impl_->ast.find_name(v.name);
    if (name >= 0) context->set(name, from_json(heap, v.value, v.from_message));
  }
  const Text out = interpreter.run(context);
  return {std::string(out.view()), {out.runs().begin(), out.runs().end()}};
}

}  // namespace fathom::jinja
