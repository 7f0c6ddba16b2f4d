#include "tests/fuzz/target.h"

namespace fathom::fuzz {

std::map<std::string_view, Function>& targets() {
  static std::map<std::string_view, Function> all;
  return all;
}

}  // namespace fathom::fuzz
