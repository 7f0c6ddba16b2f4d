// Damaged and malicious checkpoint directories, given to the real binary as a stranger would: the documented exit code,
// a message that says what is wrong, no output, no more than a second of processor time.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>

#include "src/base/file.h"
#include "tests/support/fake_model.h"
#include "tests/support/files.h"
#include "tests/support/safetensors_text.h"
#include "tests/support/subprocess.h"
#include "tests/support/tiny_checkpoint.h"

using namespace fathom;
namespace fs = std::filesystem;

namespace {

double children_cpu() {
  rusage u{};
  ::getrusage(RUSAGE_CHILDREN, &u);
  const auto s = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return s(u.ru_utime) + s(u.ru_stime);
}

// A copy of a sound checkpoint with a tokenizer and a chat template, to be damaged.
class Victim {
 public:
  explicit Victim(const std::string& sound) { fs::copy(sound, path(), fs::copy_options::recursive); }
  const std::string& path() const { return dir_.path(); }
  std::string at(const std::string& name) const { return dir_.file(name); }
  std::string read(const std::string& name) const { return read_file(at(name), 1u << 28); }
  void write(const std::string& name, std::string_view text) const { dir_.write(name, text); }
  void remove(const std::string& name) const { fs::remove(at(name)); }
  void cut(const std::string& name, std::uintmax_t bytes) const { dir_.resize(name, fs::file_size(at(name)) - bytes); }
  // Replaces the first `from` in a file; it must be there.
  void edit(const std::string& name, std::string_view from, std::string_view to) const {
    std::string text = read(name);
    const auto i = text.find(from);
    if (i == text.npos) throw std::runtime_error(name + " lacks " + std::string(from));
    write(name, text.replace(i, from.size(), to));
  }
  // The value of a key of config.json, replaced.
  void config(const std::string& key, const std::string& value) const {
    std::string text = read("config.json");
    const std::string name = "\"" + key + "\":";
    const auto i = text.find(name);
    if (i == text.npos) {
      text.insert(text.find('{') + 1, name + value + ",");
    } else {
      auto end = i + name.size();
      int depth = 0;
      for (; end < text.size(); ++end) {
        const char c = text[end];
        if (depth == 0 && (c == ',' || c == '}')) break;
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
      }
      text.replace(i, end - i, name + value);
    }
    write("config.json", text);
  }

 private:
  test::TempDir dir_;
};

constexpr const char* kShard = "model.safetensors";

struct Damage {
  const char* what;
  int code;
  const char* fragment;
  std::function<void(const Victim&)> apply;
};

std::string link_out(const Victim& v, const char* target) {
  v.remove(kShard);
  fs::create_symlink(target, v.at(kShard));
  return {};
}

// The shard as raw bytes, its header edited without a change of its length where `to` is as long as `from`.
void edit_header(const Victim& v, std::string_view from, std::string_view to) {
  std::string file = v.read(kShard);
  std::uint64_t n = 0;
  std::memcpy(&n, file.data(), 8);
  std::string header = file.substr(8, n);
  const auto i = header.find(from);
  if (i == header.npos) throw std::runtime_error("the header lacks " + std::string(from));
  header.replace(i, from.size(), to);
  v.write(kShard, test::raw_file(header, std::string_view(file).substr(8 + n)));
}

void run_all(const std::vector<Damage>& damages) {
  const test::TempDir sound;
  test::write_fake_checkpoint(sound.path());
  const auto run = [](const std::string& path) {
    test::Process p;
    p.args = {"run", "-m", path, "--backend", "cpu", "--threads", "1", "--greedy", "-n", "1", "hi"};
    p.timeout_s = 20;
    return test::run(p);
  };
  const test::Outcome good = run(sound.path());
  REQUIRE_MESSAGE(good.code == 0, good.err);
  for (const Damage& d : damages) {
    const Victim victim(sound.path());
    d.apply(victim);
    const double before = children_cpu();
    const test::Outcome r = run(victim.path());
    const double cpu = children_cpu() - before;
    CAPTURE(std::string(d.what));
    CAPTURE(r.err);
    CHECK(r.code == d.code);
    if (d.code != 0) CHECK(r.out.empty());
    CHECK(r.err.find(d.fragment) != r.err.npos);
    CHECK(r.err.find('\x1b') == r.err.npos);
    CHECK(cpu < 1.0);
  }
  MESSAGE(damages.size() << " damaged directories");
}

}  // namespace

TEST_CASE("hostile directories: the safetensors container") {
  run_all({
      {"LFS pointer", 4, "LFS", [](const Victim& v) {
         v.write(kShard, "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 123\n");
       }},
      {"empty", 4, kShard, [](const Victim& v) { v.write(kShard, ""); }},
      {"seven bytes", 4, kShard, [](const Victim& v) { v.write(kShard, "1234567"); }},
      {"short by one byte", 4, kShard, [](const Victim& v) { v.cut(kShard, 1); }},
      {"short by one page", 4, kShard, [](const Victim& v) { v.cut(kShard, 4096); }},
      {"cut in half", 4, kShard, [](const Victim& v) { v.cut(kShard, fs::file_size(v.at(kShard)) / 2); }},
      {"cut in the header", 4, kShard, [](const Victim& v) { v.cut(kShard, fs::file_size(v.at(kShard)) - 100); }},
      {"cut behind the header", 4, kShard, [](const Victim& v) {
         const std::string text = v.read(kShard);
         std::uint64_t n = 0;
         std::memcpy(&n, text.data(), 8);
         v.write(kShard, text.substr(0, 8 + n));
       }},
      {"a byte too many", 4, kShard, [](const Victim& v) { v.write(kShard, v.read(kShard) + "x"); }},
      {"polyglot", 4, kShard, [](const Victim& v) { v.write(kShard, v.read(kShard) + std::string("PK\x03\x04") + std::string(100, 'z')); }},
      {"length 2^63", 4, kShard, [](const Victim& v) { v.write(kShard, test::raw_file_with_length(1ull << 63, "{}")); }},
      {"length 2^64-8", 4, kShard, [](const Victim& v) { v.write(kShard, test::raw_file_with_length(~7ull, "{}")); }},
      {"length 10^8, sparse", 4, kShard, [](const Victim& v) {
         v.write(kShard, test::raw_file_with_length(100'000'000, "{"));
         fs::resize_file(v.at(kShard), 100'000'008);
       }},
      {"length 10^8+1", 4, kShard, [](const Victim& v) {
         v.write(kShard, test::raw_file_with_length(100'000'001, "{"));
         fs::resize_file(v.at(kShard), 100'000'009);
       }},
      {"brackets", 4, kShard, [](const Victim& v) { v.write(kShard, test::raw_file("{\"a\":" + std::string(1'000'000, '['))); }},
      {"HTML", 4, kShard, [](const Victim& v) { v.write(kShard, "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"); }},
      {"gzip", 4, kShard, [](const Victim& v) { v.write(kShard, "\x1f\x8b\x08" + std::string(200, 'q')); }},
      {"GGUF", 5, "GGUF", [](const Victim& v) { v.write(kShard, "GGUF" + std::string(200, '\0')); }},
      {"pickle in a zip", 5, kShard, [](const Victim& v) { v.write(kShard, std::string("PK\x03\x04") + std::string(200, '\0')); }},
      {"unknown dtype", 5, "F4", [](const Victim& v) { edit_header(v, "\"BF16\"", "\"F4\""); }},
      {"lower case dtype", 5, "bf16", [](const Victim& v) { edit_header(v, "\"BF16\"", "\"bf16\""); }},
      {"FP8 e5m2", 4, kShard, [](const Victim& v) { edit_header(v, "\"BF16\"", "\"F8_E5M2\""); }},
      {"negative offset", 4, kShard, [](const Victim& v) { edit_header(v, "\"data_offsets\":[0,", "\"data_offsets\":[-1,"); }},
      {"offset 2^64", 4, kShard, [](const Victim& v) { edit_header(v, "\"data_offsets\":[0,", "\"data_offsets\":[18446744073709551616,"); }},
      {"shape wraps", 4, kShard, [](const Victim& v) { edit_header(v, "\"shape\":[", "\"shape\":[4294967296,4294967296,"); }},
      {"duplicate dtype", 4, kShard, [](const Victim& v) { edit_header(v, "\"dtype\":", "\"dtype\":\"BF16\",\"dtype\":"); }},
      {"escape in a tensor's name", 4, "", [](const Victim& v) { edit_header(v, "\"model.norm.weight\"", "\"\\u001b]0;owned\\u0007\""); }},
      {"directory", 4, kShard, [](const Victim& v) { v.remove(kShard); fs::create_directory(v.at(kShard)); }},
      {"FIFO", 4, kShard, [](const Victim& v) { v.remove(kShard); REQUIRE(::mkfifo(v.at(kShard).c_str(), 0600) == 0); }},
      {"link to /etc/passwd", 4, "symbolic link", [](const Victim& v) { link_out(v, "/etc/passwd"); }},
      {"link to a device", 4, "symbolic link", [](const Victim& v) { link_out(v, "/dev/zero"); }},
      {"link to itself", 4, "symbolic link", [](const Victim& v) { link_out(v, kShard); }},
      {"link to nowhere", 4, "symbolic link", [](const Victim& v) { link_out(v, "nowhere"); }},
      {"no shard", 3, "", [](const Victim& v) { v.remove(kShard); }},
      {"half a download", 4, "incomplete", [](const Victim& v) { fs::rename(v.at(kShard), v.at(std::string(kShard) + ".incomplete")); }},
  });
}

TEST_CASE("hostile directories: index, config, tokenizer, template") {
  const auto index = [](const std::string& file) {
    return [file](const Victim& v) {
      v.write("model.safetensors.index.json", test::index_text({{"model.norm.weight", file}}, 64));
    };
  };
  const auto config = [](const char* what, int code, const char* fragment, const char* key, const char* value) {
    return Damage{what, code, fragment, [=](const Victim& v) { v.config(key, value); }};
  };
  const auto text = [](const char* what, int code, const char* fragment, const char* file, std::string content) {
    return Damage{what, code, fragment, [=](const Victim& v) { v.write(file, content); }};
  };
  const char *c = "config.json", *t = "tokenizer.json", *g = "generation_config.json", *i = "model.safetensors.index.json";
  run_all({
      {"index names what is missing", 4, "model-00007.safetensors", index("model-00007.safetensors")},
      {"index escapes upwards", 4, "../x.safetensors", index("../x.safetensors")},
      {"index escapes absolutely", 4, "/etc/passwd", index("/etc/passwd")},
      {"index with ESC", 4, "", index("\x1b[2J.safetensors")},
      {"index with NUL", 4, "", index(std::string("a\0b.safetensors", 15))},
      text("index is an array", 4, i, i, "[]"),
      text("index is no JSON", 4, i, i, "{"),
      text("index is a number", 4, i, i, R"({"weight_map":{"a":1}})"),
      {"no config", 3, c, [](const Victim& v) { v.remove("config.json"); }},
      text("empty config", 4, c, c, ""),
      text("config is UTF-16", 4, c, c, std::string("\xff\xfe{\0}\0", 6)),
      text("config is a list", 4, c, c, "[1]"),
      text("config is brackets", 4, c, c, std::string(1'000'000, '[')),
      {"duplicate key", 4, "hidden_size", [](const Victim& v) { v.edit("config.json", "{", "{\"hidden_size\":4,"); }},
      config("distilled Qwen", 5, "distil", "model_type", "\"qwen2\""),
      config("distilled Llama", 5, "distil", "model_type", "\"llama\""),
      config("no layers", 4, "num_hidden_layers", "num_hidden_layers", "0"),
      config("a billion layers", 4, "num_hidden_layers", "num_hidden_layers", "1000000000"),
      config("layers as text", 4, "num_hidden_layers", "num_hidden_layers", "\"2\""),
      config("layers as a fraction", 4, "num_hidden_layers", "num_hidden_layers", "2.5"),
      config("more layers than there are", 4, "model.layers.", "num_hidden_layers", "9"),
      config("odd rotary size", 4, "qk_rope_head_dim", "qk_rope_head_dim", "7"),
      config("another vocabulary", 4, "embed_tokens", "vocab_size", "300"),
      config("eos out of range", 4, "eos_token_id", "eos_token_id", "99999999"),
      config("negative bos", 4, "bos_token_id", "bos_token_id", "-1"),
      {"ids of another tokenizer", 4, "different models", [](const Victim& v) {
         v.config("bos_token_id", "7");
         v.config("eos_token_id", "6");
       }},
      config("context of 2^63", 4, "max_position_embeddings", "max_position_embeddings", "9223372036854775808"),
      config("rope factor 0", 4, "rope_scaling", "rope_scaling", R"({"type":"yarn","factor":0,"original_max_position_embeddings":4096})"),
      config("eps beyond double", 4, "1e999", "rms_norm_eps", "1e999"),
      config("AWQ", 5, "awq", "quantization_config", R"({"quant_method":"awq","bits":4})"),
      config("blocks of 64", 5, "weight_block_size", "quantization_config",
             R"({"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[64,64]})"),
      text("temperature -1", 4, "temperature", g, R"({"temperature":-1})"),
      text("temperature in words", 4, "temperature", g, R"({"temperature":"hot"})"),
      text("temperature 1e999", 4, g, g, R"({"temperature":1e999})"),
      text("eos list with text", 4, "eos_token_id", g, R"({"eos_token_id":["x"]})"),
      {"no tokenizer", 3, "tokenizer", [](const Victim& v) { v.remove("tokenizer.json"); }},
      text("empty tokenizer", 4, t, t, ""),
      text("tokenizer is brackets", 4, t, t, std::string(1'000'000, '[')),
      {"WordPiece", 5, "WordPiece", [](const Victim& v) { v.edit("tokenizer.json", "\"BPE\"", "\"WordPiece\""); }},
      {"id of two tokens", 4, t, [](const Victim& v) { v.edit("tokenizer.json", ":9,", ":10,"); }},
      {"negative id", 4, t, [](const Victim& v) { v.edit("tokenizer.json", ":9,", ":-9,"); }},
      {"merge of what is not there", 4, t, [](const Victim& v) { v.edit("tokenizer.json", "\"merges\":[]", "\"merges\":[\"zq qz\"]"); }},
      text("tokenizer is an LFS pointer", 4, t, t, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
      text("template with include", 5, "include", "chat_template.jinja", "{% include '/etc/passwd' %}"),
      text("template with import", 5, "import", "chat_template.jinja", "{% import 'os' as os %}"),
      text("template that climbs", 5, "", "chat_template.jinja", "{{ messages.__class__.__mro__ }}"),
      text("template without an end", 5, "", "chat_template.jinja",
           "{% for a in range(1000000) %}{% for b in range(1000000) %}{{ a }}{% endfor %}{% endfor %}"),
      text("template of 50 MB", 5, "", "chat_template.jinja", std::string(50'000'000, 'x')),
  });
}

TEST_CASE("hostile directories: the set of tensors") {
  struct Case {
    const char* what;
    int code;
    const char* fragment;
    std::function<void(test::TinyCheckpoint&)> apply;
  };
  const std::string expert = "model.layers.1.mlp.experts.5.up_proj.weight", scale = expert + "_scale_inv";
  const std::string mtp = "model.layers.3.eh_proj.weight", bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  const Case cases[] = {
      {"missing scale", 4, "experts.5.up_proj.weight_scale_inv", [&](auto& k) { k.erase(scale); }},
      {"scale of another grid", 4, "experts.5.up_proj.weight_scale_inv", [&](auto& k) { k.replace(scale, DType::f32, {2, 1}); }},
      {"missing expert", 4, "experts.5.up_proj.weight", [&](auto& k) { k.erase(expert), k.erase(scale); }},
      {"half an MTP layer", 4, "model.layers.3.eh_proj", [&](auto& k) { k.erase(mtp); }},
      {"no router bias", 4, "e_score_correction_bias", [&](auto& k) { k.erase(bias); }},
      {"router bias of another length", 4, "e_score_correction_bias", [&](auto& k) { k.replace(bias, DType::f32, {7}); }},
      {"e5m2", 5, "F8_E5M2", [&](auto& k) { k.replace(expert, DType::f8_e5m2, {48, 64}); }},
      {"transposed", 4, "(48, 64)", [&](auto& k) { k.replace(expert, DType::f8_e4m3, {64, 48}); }},
      {"no head", 4, "lm_head.weight", [&](auto& k) { k.erase("lm_head.weight"); }},
      {"a dimension of 0", 4, "model.norm.weight", [&](auto& k) { k.replace("model.norm.weight", DType::bf16, {0}); }},
      {"more experts per token than there are", 4, "num_experts_per_tok", [&](auto& k) { k.config.set("num_experts_per_tok", "9"); }},
      {"names of the original release", 5, "embed.weight", [&](auto& k) {
         k.tensors.clear();
         for (const char* n : {"embed.weight", "layers.0.attn.wq_a.weight", "head.weight"}) k.add(n, DType::bf16, {2, 2});
       }},
  };
  for (const Case& c : cases) {
    test::TinyCheckpoint tiny(test::tiny_v3_config().set("bos_token_id", "0").set("eos_token_id", "1"));
    c.apply(tiny);
    const test::TempDir dir;
    tiny.write(dir);
    const double before = children_cpu();
    const test::Outcome r = test::run({"run", "-m", dir.path(), "--backend", "cpu", "--ids", "1,2", "-n", "1"});
    CAPTURE(std::string(c.what));
    CAPTURE(r.err);
    CHECK(r.code == c.code);
    CHECK(r.out.empty());
    CHECK(r.err.find(c.fragment) != r.err.npos);
    CHECK(children_cpu() - before < 1.0);
  }
}
