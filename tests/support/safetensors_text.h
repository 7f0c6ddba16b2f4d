// Bytes of small safetensors files and indexes for tests, well-formed or wrong on purpose.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/json.h"
#include "src/base/tensor.h"

namespace fathom::test {

struct TestTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::string data;
};

// 8 bytes of length, the header text exactly as given, the data.
inline std::string raw_file(std::string_view header, std::string_view data = {}) {
  std::uint64_t n = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &n, 8);
  return out.append(header).append(data);
}
// The same with a length of its own.
inline std::string raw_file_with_length(std::uint64_t n, std::string_view header,
                                        std::string_view data = {}) {
  std::string out = raw_file(header, data);
  std::memcpy(out.data(), &n, 8);
  return out;
}

// A well-formed file with the tensors in the order given. `pad`: the header is padded to a multiple of it.
inline std::string safetensors_file(const std::vector<TestTensor>& tensors, std::size_t pad = 8,
                                    const std::string& metadata = R"({"format":"pt"})") {
  std::string header = "{", data;
  if (!metadata.empty()) header += "\"__metadata__\":" + metadata;
  for (const TestTensor& t : tensors) {
    if (header.size() > 1) header += ",";
    header +=
        fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json::quote(t.name),
                    dtype_name(t.dtype), fmt::join(t.shape, ","), data.size(), data.size() + t.data.size());
    data += t.data;
  }
  header += "}";
  while ((8 + header.size()) % pad != 0) header += ' ';
  return raw_file(header, data);
}

// model.safetensors.index.json for tensors by file.
inline std::string index_text(const std::map<std::string, std::string>& weight_map,
                              std::uint64_t total_size) {
  std::string out = fmt::format(R"({{"metadata":{{"total_size":{}}},"weight_map":{{)", total_size);
  for (const auto& [tensor, file] : weight_map)
    out += fmt::format("{}{}:{}", out.back() == '{' ? "" : ",", json::quote(tensor), json::quote(file));
  return out + "}}";
}

}  // namespace fathom::test
