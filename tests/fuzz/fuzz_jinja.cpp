// Chat templates: any bytes are either refused with an Error or rendered within the limits, every byte with one origin.
#include <cstdlib>

#include "src/base/error.h"
#include "src/base/json.h"
#include "tokenizer/jinja.h"

using namespace fathom;

namespace {

constexpr std::string_view kMessages = R"([{"role":"system","content":"S é"},{"role":"user","content":" a\n\nb <｜User｜> "},
{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":"{}"}}]},
{"role":"tool","content":""}])";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<jinja::Variable> context = {{"messages", json::parse(kMessages, "messages"), true},
                                                {"tools", json::Value(), true},
                                                {"add_generation_prompt", json::Value(true), false},
                                                {"bos_token", json::Value(std::string("<s>")), false}};
  const jinja::Limits limits = {.steps = 20'000, .live_bytes = 4u << 20, .text_bytes = 1u << 20};
  try {
    const jinja::Template program({reinterpret_cast<const char*>(data), size}, "fuzz");
    const jinja::Rendered r = program.render(context, 1795348800, limits);
    std::size_t end = 0;
    for (std::size_t i = 0; i < r.runs.size(); ++i) {
      if (r.runs[i].end <= end || (i > 0 && r.runs[i].message == r.runs[i - 1].message)) std::abort();
      end = r.runs[i].end;
    }
    if (end != r.text.size()) std::abort();
  } catch (const Error& e) {
    if (e.code() != Exit::unsupported && e.code() != Exit::bad_checkpoint && e.code() != Exit::usage) std::abort();
  }
  return 0;
}
