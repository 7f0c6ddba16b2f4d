// A bounded interpreter for Jinja templates, with the settings Hugging Face renders chat templates with:
// trim_blocks and lstrip_blocks on, a sandbox, json.dumps behind `tojson`. No I/O, no host objects; the clock
// is the caller's.
//
// The subset: set, for, if, macro, call, filter, with, raw, generation, break, continue; all expressions of
// Jinja but unpacked arguments; the filters, tests and methods listed in jinja_filters.cpp and
// jinja_methods.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/json.h"
#include "tokenizer/jinja_text.h"

namespace fathom::jinja {

// A variable of the context. from_message marks its text as typed by someone, not written by the template's
// author.
struct Variable {
  std::string name;
  json::Value value;
  bool from_message = false;
};

struct Limits {
  std::uint64_t steps = 10'000'000;     // about 1 per node evaluated and per 64 bytes handled
  std::size_t live_bytes = 256u << 20;  // of strings and containers at once
  std::size_t text_bytes = 64u << 20;   // of one string, the output included
};

// Text and the origin of its bytes: neighbouring runs differ, the last ends at text.size().
struct Rendered {
  std::string text;
  std::vector<Run> runs;
};

class Template {
 public:
  // `where` names the template in messages. Errors: bad_checkpoint for malformed syntax, unsupported for a
  // construct outside the subset or a source of more than 1 MiB; both name the line.
  Template(std::string_view source, std::string_view where);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  // `now`: seconds since the epoch, for strftime_now (local time). The limits grow with the size of the
  // variables. Errors: unsupported (a construct outside the subset, an operation Python refuses, a limit),
  // usage when the template calls raise_exception; all name the line.
  Rendered render(std::span<const Variable> variables, std::int64_t now, const Limits& limits = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::jinja
