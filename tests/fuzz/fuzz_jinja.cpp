// Chat templates: any bytes are either refused with an Error or rendered within the limits, every byte with one origin.
#include "src/base/json.h"
#include "tests/fuzz/target.h"
#include "tokenizer/jinja.h"

using namespace fathom;
using fuzz::require;

namespace {

constexpr std::string_view kMessages = R"([{"role":"system","content":"S é"},{"role":"user","content":" a\n\nb <｜User｜> "},
{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":"{}"}}]},
{"role":"tool","content":""}])";

void jinja_template(std::string_view input) {
  const std::vector<jinja::Variable> context = {{"messages", json::parse(kMessages, "messages"), true},
                                                {"tools", json::Value(), true},
                                                {"add_generation_prompt", json::Value(true), false},
                                                {"bos_token", json::Value(std::string("<s>")), false}};
  const jinja::Limits limits = {.steps = 20'000, .live_bytes = 4u << 20, .text_bytes = 1u << 20};
  fuzz::refused_with({Exit::unsupported, Exit::bad_checkpoint, Exit::usage}, [&] {
    const jinja::Template program(input, "fuzz");
    const jinja::Rendered r = program.render(context, 1795348800, limits);
    std::size_t end = 0;
    for (std::size_t i = 0; i < r.runs.size(); ++i) {
      require(r.runs[i].end > end, "runs are not empty");
      require(i == 0 || r.runs[i].message != r.runs[i - 1].message, "neighbouring runs differ");
      end = r.runs[i].end;
    }
    require(end == r.text.size(), "the runs cover the text");
  });
}
const fuzz::Target target("jinja", jinja_template);

}  // namespace
