// Built-in chat templates for --template NAME: reconstructions from the published rules of each model family,
// for checkpoints that ship none or one that cannot be rendered. They differ from the published files where
// those are known to be faulty: every tool call is closed, every assistant turn opened.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace fathom {

// The Jinja source of deepseek-v2, deepseek-v3, deepseek-r1, deepseek-v3.1 or kimi-k2; nothing for other
// names.
std::optional<std::string_view> builtin_template(std::string_view name);
std::vector<std::string_view> builtin_template_names();

}  // namespace fathom
