// The safetensors header: any bytes are either refused with an Error or obey every rule of the format.
#include <algorithm>
#include <set>
#include <vector>

#include "src/base/checked.h"
#include "src/model/checkpoint.h"
#include "tests/fuzz/target.h"

using namespace fathom;
using fuzz::require;

namespace {

void safetensors(std::string_view input) {
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
    const SafetensorsHeader h = parse_safetensors_header(as_bytes_of(input), input.size(), "fuzz");
    std::vector<TensorEntry> sorted = h.tensors;
    std::ranges::stable_sort(sorted, {}, [](const TensorEntry& t) { return std::pair(t.begin, t.end); });
    std::set<std::string> names;
    std::uint64_t end = 0;
    for (const TensorEntry& t : sorted) {
      require(t.begin == end && t.begin <= t.end, "tensors lie end to end");
      Size bytes = dtype_size(t.dtype);
      for (const std::int64_t d : t.shape) {
        require(d >= 0, "no dimension is negative");
        bytes = bytes * Size(d);
      }
      require(bytes.value() == t.end - t.begin, "shape and range agree");
      require(names.insert(t.name).second, "names are unique");
      end = t.end;
    }
    require(h.data_offset + end == input.size(), "the data end with the file");
  });
}
const fuzz::Target target("safetensors", safetensors);

}  // namespace
