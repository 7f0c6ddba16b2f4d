// libFuzzer's entry: FATHOM_FUZZ_TARGET names the target. `fuzz --targets` lists them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/fuzz/target.h"

namespace {

fathom::fuzz::Function target = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const auto& all = fathom::fuzz::targets();
  if (*argc > 1 && std::strcmp((*argv)[1], "--targets") == 0) {
    for (const auto& [name, run] : all) std::printf("%.*s\n", static_cast<int>(name.size()), name.data());
    std::exit(0);
  }
  const char* name = std::getenv("FATHOM_FUZZ_TARGET");
  const auto found = name == nullptr ? all.end() : all.find(name);
  if (found == all.end()) {
    std::fputs("set FATHOM_FUZZ_TARGET to one of those that --targets lists\n", stderr);
    std::exit(2);
  }
  target = found->second;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  target({reinterpret_cast<const char*>(data), size});
  return 0;
}
