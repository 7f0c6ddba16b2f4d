#include "tests/support/mutations.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <iterator>
#include <vector>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/support/fake_model.h"
#include "tests/support/files.h"
#include "tests/support/tiny_checkpoint.h"

namespace fathom::test {
namespace {

// Where a parser goes wrong: borders of integer types, signs, other notations, other types, hostile strings.
constexpr std::array<std::string_view, 44> kValues{
    "0", "-1", "1", "2", "3", "7", "63", "64", "127", "128", "255", "256", "65536", "2147483647", "2147483648", "-2147483648",
    "4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775808", "1e999", "-0", "1.0", "0.5", "1e3", "-1e-9", "\"5\"", "\"\"", "null", "true", "false", "[]", "{}",
    "[0]", "[[[[]]]]", "{\"content\":\"x\"}", "\"../../x\"", "\"\\u0000\"", "\"\\u001b[2J\"", "\"a\\nb\"", "[18446744073709551615,2]"};

// Begin and end of every value in a JSON text, by a scan that needs no valid text.
struct Span {
  std::size_t begin, end;
};
std::vector<Span> values_of(std::string_view text) {
  std::vector<Span> out;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      std::size_t end = i + 1;
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
      out.push_back({i, end});
      i = end - 1;
    } else if (c == '{' || c == '[') {
      open.push_back(i);
    } else if ((c == '}' || c == ']') && !open.empty()) {
      out.push_back({open.back(), i + 1});
      open.pop_back();
    } else if (c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')) {
      std::size_t end = i;
      while (end < text.size() && std::string_view("{}[],:\" \n\r\t").find(text[end]) == std::string_view::npos) ++end;
      out.push_back({i, end});
      i = end - 1;
    }
  }
  return out;
}

std::uint64_t header_bytes(const std::string& file) {
  std::uint64_t n = 0;
  if (file.size() >= 8) std::memcpy(&n, file.data(), 8);
  return file.size() >= 8 && n <= file.size() - 8 ? n : 0;
}

}  // namespace

std::string Mutator::bytes(std::string& text) {
  constexpr std::string_view kTelling = "{}[]\",:\\\n\0 \x1b\xff\x80-0919.eE<>=|%";
  for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1), size = 1 + below(8);
    switch (below(5)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text.erase(at, size);
        break;
      case 2:
        text.insert(at, std::string(text, at, size * 8));
        break;
      case 3:
        text.insert(at, 1, kTelling[below(kTelling.size())]);
        break;
      default:
        if (at < text.size()) text[at] = kTelling[below(kTelling.size())];
    }
  }
  return "bytes";
}

std::string Mutator::json_text(std::string& text, int changes) {
  std::string what;
  for (; changes > 0; --changes) {
    const std::vector<Span> values = values_of(text);
    if (values.empty() || below(12) == 0) {
      what += bytes(text) + " ";
      continue;
    }
    const Span v = values[below(values.size())], other = values[below(values.size())];
    const std::string old = text.substr(v.begin, v.end - v.begin), its = text.substr(other.begin, other.end - other.begin);
    std::string now;
    switch (below(8)) {
      case 0:  // another value of the same text
        now = its.substr(0, 4096);
        break;
      case 1:  // a number nearby
        if (std::uint64_t n = 0; std::from_chars(old.data(), old.data() + old.size(), n).ec == std::errc())
          now = fmt::format("{}", n + below(17) - 8);
        else
          now = kValues[below(kValues.size())];
        break;
      case 2:  // twice
        now = old.substr(0, 65536) + "," + old.substr(0, 65536);
        break;
      case 3:  // nested
        now = "[" + old + "]";
        break;
      case 4:  // gone
        break;
      case 5:  // another case or spelling of a string
        now = old;
        if (now.size() > 2) now[1 + below(now.size() - 2)] = static_cast<char>('!' + below(90));
        break;
      default:
        now = kValues[below(kValues.size())];
    }
    text.replace(v.begin, v.end - v.begin, now);
    what += fmt::format("value {} -> {} ", old.substr(0, 40), now.substr(0, 40));
  }
  return what;
}

// One offset, dimension or type of a header.
std::string Mutator::header_field(std::string& header) {
  static constexpr std::array<std::string_view, 3> kFields{"\"data_offsets\":[", "\"shape\":[", "\"dtype\":\""};
  static constexpr std::array<std::string_view, 17> kTypes{"BOOL", "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
                                                           "BF16", "I32", "U32", "F32",     "F64",     "I64",     "U64", "F4"};
  const std::string_view field = kFields[below(kFields.size())];
  std::size_t at = header.find(field, below(header.size() + 1));
  if (at == header.npos) at = header.find(field);
  if (at == header.npos) return bytes(header);
  at += field.size();
  if (field == kFields[2]) {
    const std::size_t end = std::min(header.find('"', at), header.size());
    const std::string_view type = kTypes[below(kTypes.size())];
    header.replace(at, end - at, type);
    return fmt::format("dtype {}", type);
  }
  const std::size_t close = std::min(header.find(']', at), header.size());
  std::string list = header.substr(at, close - at);
  const std::string old = list;
  switch (below(4)) {
    case 0: {  // the second number before the first
      const std::size_t comma = list.find(',');
      if (comma != list.npos) list = list.substr(comma + 1) + "," + list.substr(0, comma);
      break;
    }
    case 1:
      list += list.empty() ? "1" : ",1";
      break;
    case 2:
      list = list.substr(0, list.rfind(',') == list.npos ? 0 : list.rfind(','));
      break;
    default:
      json_text(list);
  }
  header.replace(at, close - at, list);
  return fmt::format("{}{} -> {}", field, old, list);
}

std::string Mutator::header_length(std::string& file) {
  const std::uint64_t n = header_bytes(file);
  const std::array<std::uint64_t, 14> lengths{0, 1, 2, n - 1, n + 1, n + 8, file.size() - 8, file.size() - 7, file.size(),
                                              100'000'000, 100'000'001, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{7}};
  const std::uint64_t length = lengths[below(lengths.size())];
  if (file.size() >= 8) std::memcpy(file.data(), &length, 8);
  return fmt::format("header length {}", length);
}

std::string Mutator::safetensors(std::string& file) {
  const std::uint64_t n = header_bytes(file);
  if (n == 0) return bytes(file);
  std::string header = file.substr(8, n), data = file.substr(8 + n), what;
  switch (below(9)) {
    case 0:
      return header_length(file);
    case 1:
      data.resize(data.size() - std::min(data.size(), 1 + below(64)));
      what = "data cut";
      break;
    case 2:
      data.append(1 + below(64), 'x');
      what = "data longer";
      break;
    case 3:
      what = "header " + bytes(header);
      break;
    case 4:
    case 5:
      what = "header " + json_text(header);
      break;
    default:
      what = "header " + header_field(header);
  }
  if (below(4) == 0) header.append(below(16), ' ');
  file = raw_file(header, data);
  return what;
}

std::string Mutator::whole_file(Files& files, const std::string& name) {
  auto other = files.begin();
  std::advance(other, static_cast<long>(below(files.size())));
  switch (below(6)) {
    case 0:
      files.erase(name);
      return name + " removed";
    case 1:
      files[name] = other->second;
      return name + " is " + other->first;
    case 2:
      std::swap(files[name], other->second);
      return name + " swapped with " + other->first;
    case 3:
      files["model-00003-of-00002.safetensors"] = other->second;
      return other->first + " copied to a shard";
    case 4:
      files[name].resize(below(files[name].size() + 1));
      return name + " cut";
    default:
      files[name].clear();
      return name + " emptied";
  }
}

std::string Mutator::damage(Files& files) {
  std::string what;
  for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
    auto file = files.begin();
    std::advance(file, static_cast<long>(below(files.size())));
    const std::string name = file->first;
    what += name + ": ";
    if (below(12) == 0)
      what += whole_file(files, name);
    else if (name.ends_with(".safetensors"))
      what += safetensors(file->second);
    else
      what += json_text(file->second, static_cast<int>(1 + below(2)));
    what += "; ";
    if (files.empty()) break;
  }
  return what;
}

Files sound_checkpoint() {
  const TempDir dir;
  write_fake_checkpoint(dir.path());
  Files files;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) files[name] = read_file(dir.file(name), 1 << 24);
  ConfigText config = tiny_v3_config();
  config.set("vocab_size", "272").set("hidden_size", "32").set("moe_intermediate_size", "16").set("intermediate_size", "32");
  config.set("n_routed_experts", "4").set("num_hidden_layers", "2").set("bos_token_id", "0").set("eos_token_id", "1");
  config.set("n_group", "2").set("topk_group", "1").set("num_experts_per_tok", "2");
  TinyCheckpoint tiny(config);
  files["config.json"] = config.text();
  files["generation_config.json"] =
      R"({"bos_token_id":0,"eos_token_id":[1],"do_sample":true,"temperature":0.6,"top_p":0.95,"top_k":50,"repetition_penalty":1.05})";
  std::map<std::string, std::string> weight_map;
  std::uint64_t total = 0;
  std::vector<TestTensor> halves[2];
  for (std::size_t i = 0; i < tiny.tensors.size(); ++i) {
    const std::size_t half = i < tiny.tensors.size() / 2 ? 0 : 1;
    weight_map[tiny.tensors[i].name] = fmt::format("model-0000{}-of-00002.safetensors", half + 1);
    total += tiny.tensors[i].data.size();
    halves[half].push_back(std::move(tiny.tensors[i]));
  }
  for (std::size_t half : {0u, 1u}) files[fmt::format("model-0000{}-of-00002.safetensors", half + 1)] = safetensors_file(halves[half]);
  files["model.safetensors.index.json"] = index_text(weight_map, total);
  return files;
}

}  // namespace fathom::test
