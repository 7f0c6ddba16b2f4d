// The safetensors header: any bytes are either refused with an Error or obey every rule of the format.
#include <cstdlib>
#include <vector>

#include "src/base/error.h"
#include "src/model/checkpoint.h"

using namespace fathom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const SafetensorsHeader h = parse_safetensors_header(file, size, "fuzz");
    std::uint64_t end = 0;
    for (const TensorEntry& t : h.tensors) {
      if (t.begin > t.end || h.data_offset + t.end > size) std::abort();
      end = std::max(end, t.end);
    }
    if (h.data_offset + end != size) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
