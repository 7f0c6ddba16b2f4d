#include "src/app/environment.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace fathom {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* v = std::getenv(name);
  if (v == nullptr || *v == '\0') return std::nullopt;
  return v;
}

std::optional<std::string> absolute(const char* name) {
  auto v = variable(name);
  if (v && v->front() != '/') return std::nullopt;
  return v;
}

// $XDG/leaf, else $HOME/fallback/leaf.
std::optional<std::string> xdg(const std::optional<std::string>& base, const std::optional<std::string>& home,
                               std::string_view fallback, std::string_view leaf) {
  if (base) return *base + "/" + std::string(leaf);
  if (home) return *home + "/" + std::string(fallback) + "/" + std::string(leaf);
  return std::nullopt;
}

std::optional<int> sane_columns() {
  const auto v = variable("COLUMNS");
  if (!v) return std::nullopt;
  int n = 0;
  const auto [end, error] = std::from_chars(v->data(), v->data() + v->size(), n);
  if (error != std::errc() || end != v->data() + v->size() || n < 1 || n > 10000) return std::nullopt;
  return n;
}

}  // namespace

Environment read_environment() {
  Environment e;
  e.model = variable("FATHOM_MODEL");
  e.config = variable("FATHOM_CONFIG");
  e.log = variable("FATHOM_LOG");
  e.no_color = variable("FATHOM_NO_COLOR").has_value() || variable("NO_COLOR").has_value();
  e.force_color = variable("CLICOLOR_FORCE").value_or("0") != "0";
  e.no_history = variable("FATHOM_NO_HISTORY").has_value();
  e.term = variable("TERM").value_or("dumb");
  e.columns = sane_columns();
  e.visual = variable("VISUAL");
  e.editor = variable("EDITOR");
  e.pager = variable("PAGER");
  e.tmpdir = absolute("TMPDIR").value_or("/tmp");
  e.home = absolute("HOME");
  const auto cache_home = absolute("XDG_CACHE_HOME");
  if (const auto hub = variable("HF_HUB_CACHE")) {
    e.hf_cache = hub;
  } else if (const auto hf = variable("HF_HOME")) {
    e.hf_cache = *hf + "/hub";
  } else {
    e.hf_cache = xdg(cache_home, e.home, ".cache", "huggingface/hub");
  }
  e.config_dir = xdg(absolute("XDG_CONFIG_HOME"), e.home, ".config", "fathom");
  e.state_dir = xdg(absolute("XDG_STATE_HOME"), e.home, ".local/state", "fathom");
  e.cache_dir = xdg(cache_home, e.home, ".cache", "fathom");
  e.runtime_dir = xdg(absolute("XDG_RUNTIME_DIR"), std::nullopt, "", "fathom");
  return e;
}

}  // namespace fathom
