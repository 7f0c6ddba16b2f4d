// What this executable is: version, commit, how it was built.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

std::string_view version_number();  // "0.1.0"
std::string_view version_commit();
// "fathom 0.1.0 (1a2b3c4d5e6f, CUDA 13.0: sm_90a, compute_80)"
std::string version_line();
std::string version_json();

}  // namespace fathom
