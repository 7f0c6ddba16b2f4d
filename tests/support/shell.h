// Small helpers for tests that run programs and need scratch files.
#pragma once

#include <stdlib.h>

#include <array>
#include <cstdio>
#include <string>

#include "tests/support/files.h"

namespace fathom::test {

// Standard output of a shell command; its exit status in *status when given.
inline std::string capture(const std::string& command, int* status = nullptr) {
  std::string out;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return out;
  std::array<char, 4096> buffer;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) out.append(buffer.data(), n);
  const int code = ::pclose(pipe);
  if (status != nullptr) *status = code;
  return out;
}

inline bool has_program(const std::string& name) { return !capture("command -v " + name).empty(); }

// A folder of this process, removed when it ends.
inline const std::string& scratch_folder() {
  static const TempDir folder;
  return folder.path();
}

inline std::string scratch(const std::string& name) { return scratch_folder() + "/" + name; }

}  // namespace fathom::test
