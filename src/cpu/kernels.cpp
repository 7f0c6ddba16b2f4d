#include "src/cpu/kernels.h"

#include <array>

#include "src/base/error.h"

namespace fathom::cpu {
namespace {

constexpr std::array kNames{std::string_view("scalar"), std::string_view("avx2"), std::string_view("avx512"),
                            std::string_view("avx512vbmi")};

}  // namespace

bool has_isa(Isa isa) {
  // Every processor with AVX2 has F16C; clang's builtin does not know that name.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512vbmi:
      return avx512 && __builtin_cpu_supports("avx512vbmi");
  }
  return false;
}

Isa best_isa() {
  for (Isa isa : {Isa::avx512vbmi, Isa::avx512, Isa::avx2})
    if (has_isa(isa)) return isa;
  return Isa::scalar;
}

std::string_view name(Isa isa) { return kNames[static_cast<std::size_t>(isa)]; }

std::optional<Isa> isa_from_name(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Isa>(i);
  return std::nullopt;
}

const Kernels& kernels_for(Isa isa) {
  if (!has_isa(isa))
    fail(Exit::usage, "this processor cannot run {} code; it has {}", name(isa), name(best_isa()));
  switch (isa) {
    case Isa::avx2:
      return avx2_kernels();
    case Isa::avx512:
      return avx512_kernels();
    case Isa::avx512vbmi:
      return avx512vbmi_kernels();
    case Isa::scalar:
      break;
  }
  return scalar_kernels();
}

}  // namespace fathom::cpu
