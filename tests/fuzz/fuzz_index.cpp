// model.safetensors.index.json beside two sound shards: any bytes are either refused with an Error or agree with them.
#include <cstdlib>
#include <string>

#include "src/base/error.h"
#include "src/model/checkpoint.h"
#include "tests/support/safetensors_text.h"

using namespace fathom;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string first = test::safetensors_file({{"a", DType::f32, {2}, std::string(8, 'a')}});
  static const std::string second = test::safetensors_file({{"b", DType::bf16, {2}, std::string(4, 'b')}});
  const Bytes index(reinterpret_cast<const std::byte*>(data), size);
  try {
    const Checkpoint c = Checkpoint::open(FileSet::memory("fuzz", {{"model-00001-of-00002.safetensors", as_bytes_of(first)},
                                                                   {"model-00002-of-00002.safetensors", as_bytes_of(second)},
                                                                   {"model.safetensors.index.json", index}}));
    for (const char* name : {"a", "b"})
      if (const TensorView* t = c.find(name); t != nullptr && t->bytes != (*name == 'a' ? 8u : 4u)) std::abort();
  } catch (const Error& e) {
    if (e.code() != Exit::bad_checkpoint && e.code() != Exit::unsupported && e.code() != Exit::not_found) std::abort();
  }
  return 0;
}
