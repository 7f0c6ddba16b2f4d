// model.safetensors.index.json beside two sound shards: any bytes are either refused with an Error or agree with them.
#include <string>

#include "src/model/checkpoint.h"
#include "tests/fuzz/target.h"
#include "tests/support/safetensors_text.h"

using namespace fathom;
using fuzz::require;

namespace {

void index(std::string_view input) {
  static const std::string first = test::safetensors_file({{"a", DType::f32, {2}, std::string(8, 'a')}});
  static const std::string second = test::safetensors_file({{"b", DType::bf16, {2}, std::string(4, 'b')}});
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported, Exit::not_found}, [&] {
    const Checkpoint c =
        Checkpoint::open(FileSet::memory("fuzz", {{"model-00001-of-00002.safetensors", as_bytes_of(first)},
                                                  {"model-00002-of-00002.safetensors", as_bytes_of(second)},
                                                  {"model.safetensors.index.json", as_bytes_of(input)}}));
    for (const char* name : {"a", "b"})
      if (const TensorView* t = c.find(name))
        require(t->bytes == (*name == 'a' ? 8u : 4u), "a tensor is that of its shard");
  });
}
const fuzz::Target target("index", index);

}  // namespace
