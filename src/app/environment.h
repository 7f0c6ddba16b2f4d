// The environment variables that cli.md lists, read in one place and at one time.
#pragma once

#include <optional>
#include <string>

namespace fathom {

// Empty strings count as not set, except NO_COLOR whose mere presence counts when it is not empty (no-color.org).
// Relative XDG paths are ignored, as their specification says.
struct Environment {
  std::optional<std::string> model;       // FATHOM_MODEL
  std::optional<std::string> config;      // FATHOM_CONFIG
  std::optional<std::string> log;         // FATHOM_LOG
  bool no_color = false;                  // FATHOM_NO_COLOR or NO_COLOR
  bool force_color = false;               // CLICOLOR_FORCE, unless "0"
  bool no_history = false;                // FATHOM_NO_HISTORY
  std::string term;                       // TERM
  std::optional<int> columns;             // COLUMNS, when it is a sane number
  std::optional<std::string> visual, editor, pager;
  std::string tmpdir = "/tmp";
  std::optional<std::string> home;
  std::optional<std::string> hf_cache;    // HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or under HOME
  std::optional<std::string> config_dir;  // XDG_CONFIG_HOME/fathom or ~/.config/fathom
  std::optional<std::string> state_dir;   // XDG_STATE_HOME/fathom or ~/.local/state/fathom
  std::optional<std::string> cache_dir;   // XDG_CACHE_HOME/fathom or ~/.cache/fathom
  std::optional<std::string> runtime_dir; // XDG_RUNTIME_DIR/fathom
};

Environment read_environment();

}  // namespace fathom
