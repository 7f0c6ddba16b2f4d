// What a user's programs give: messages, lines of a batch, an earlier output of one, arguments, ids.
#include <string>
#include <vector>

#include "src/app/batch.h"
#include "src/app/input.h"
#include "src/app/options.h"
#include "tests/fuzz/target.h"

using namespace fathom;
using fuzz::require;

namespace {

void messages(std::string_view input) {
  fuzz::refused_with({Exit::usage, Exit::unsupported}, [&] {
    for (const Message& m : parse_messages(input, "fuzz")) require(!m.role.empty(), "every message has a role");
  });
}
const fuzz::Target messages_target("messages", messages);

void batch(std::string_view input) {
  require(!batch_id(input, 7).empty(), "every line has a name");
  fuzz::refused_with({Exit::usage, Exit::unsupported}, [&] {
    const BatchRequest r = parse_batch_line(input, 7, {});
    require(r.custom_id == batch_id(input, 7), "a line has one name");
    require(r.sampling.temperature >= 0 && r.sampling.top_p >= 0 && r.sampling.top_p <= 1, "sampling is in range");
    require(!r.max_tokens || *r.max_tokens >= 0, "max_tokens is in range");
  });
}
const fuzz::Target batch_target("batch", batch);

void batch_output(std::string_view input) {
  const BatchDone done = parse_batch_output(input);
  require(done.good_bytes <= input.size(), "no more is good than there is");
  require(done.good_bytes == 0 || input[done.good_bytes - 1] == '\n', "good bytes are whole lines");
  const BatchDone again = parse_batch_output(input.substr(0, done.good_bytes));
  require(again.good_bytes == done.good_bytes && again.ids == done.ids, "a cut output says the same");
}
const fuzz::Target output_target("batch_output", batch_output);

// Arguments, each ended by NUL.
void arguments(std::string_view input) {
  std::vector<std::string> args;
  for (std::size_t at = 0; at <= input.size();) {
    const std::size_t end = std::min(input.find('\0', at), input.size());
    args.emplace_back(input.substr(at, end - at));
    at = end + 1;
  }
  fuzz::refused_with({Exit::usage, Exit::unsupported}, [&] {
    const Options o = make_options(parse_args(args));
    require(!o.temp || (*o.temp >= 0 && *o.temp <= 1e6f), "the temperature is in range");
    require(!o.ctx || *o.ctx > 0, "the context is positive");
    require(!o.threads || *o.threads > 0, "the number of threads is positive");
  });
}
const fuzz::Target arguments_target("arguments", arguments);

void ids(std::string_view input) {
  if (input.starts_with('@')) return;  // names a file
  fuzz::refused_with({Exit::usage}, [&] {
    for (const std::int32_t id : parse_ids(input, 1 << 20)) require(id >= 0, "ids are not negative");
  });
}
const fuzz::Target ids_target("ids", ids);

}  // namespace
