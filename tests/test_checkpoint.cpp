#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/base/sha256.h"
#include "src/model/checkpoint.h"
#include "tests/support/errors.h"
#include "tests/support/files.h"
#include "tests/support/safetensors_text.h"

using namespace fathom;
using test::Outcome;
using test::outcome_of;
using test::TempDir;
using test::TestTensor;

namespace {

const std::string kShard1 = "model-00001-of-000003.safetensors",
                  kShard2 = "model-00002-of-000003.safetensors",
                  kShard3 = "model-00003-of-000003.safetensors", kIndex = "model.safetensors.index.json";

TestTensor tensor(const std::string& name, char fill) { return {name, DType::u8, {4}, std::string(4, fill)}; }

// Three shards with one tensor each, a, b and c, and their index.
void write_three(const TempDir& dir) {
  dir.write(kShard1, test::safetensors_file({tensor("a", '1')}));
  dir.write(kShard2, test::safetensors_file({tensor("b", '2')}));
  dir.write(kShard3, test::safetensors_file({tensor("c", '3')}));
  dir.write(kIndex, test::index_text({{"a", kShard1}, {"b", kShard2}, {"c", kShard3}}, 12));
}

Checkpoint open(const TempDir& dir, bool mmap = true) {
  return Checkpoint::open(FileSet::directory(dir.path()), {.mmap = mmap, .progress = {}});
}
Outcome open_outcome(const TempDir& dir) {
  return outcome_of([&] { open(dir); });
}

void check_open(const TempDir& dir, Exit code, const std::string& fragment) {
  const Outcome o = open_outcome(dir);
  INFO(o.message);
  CHECK(o.code == code);
  CHECK(o.says(fragment));
}

bool notes_say(const Checkpoint& c, const std::string& fragment) {
  for (const std::string& n : c.notes())
    if (n.find(fragment) != std::string::npos) return true;
  return false;
}

std::string bytes_of(const Checkpoint& c, std::string_view name) {
  const TensorView* t = c.find(name);
  return t == nullptr ? "absent" : std::string(as_text({t->data, t->bytes}));
}

}  // namespace

TEST_CASE("checkpoint: shards by index, mapped or read, or in memory") {
  TempDir dir;
  write_three(dir);
  for (const bool mmap : {true, false}) {
    const Checkpoint c = open(dir, mmap);
    CHECK(bytes_of(c, "a") == "1111");
    CHECK(bytes_of(c, "c") == "3333");
    CHECK(c.find("d") == nullptr);
    CHECK(c.tensors().size() == 3);
    REQUIRE(c.shards().size() == 3);
    CHECK(c.shards()[1].name == kShard2);
    CHECK(c.shard_of("c") == 2);
    CHECK(c.notes().empty());
    c.check_unchanged();
  }
  const std::string file = test::safetensors_file({tensor("a", '1')}), config = "{}";
  const Checkpoint m = Checkpoint::open(FileSet::memory(
      "built-in", {{"model.safetensors", as_bytes_of(file)}, {"config.json", as_bytes_of(config)}}));
  CHECK(bytes_of(m, "a") == "1111");
  CHECK(m.shards()[0].blob.bytes().data() == as_bytes_of(file).data());
}

TEST_CASE("checkpoint: without an index the headers say what is where") {
  TempDir dir;
  write_three(dir);
  std::remove(dir.file(kIndex).c_str());
  const Checkpoint c = open(dir);
  CHECK(c.shards().size() == 3);
  CHECK(bytes_of(c, "b") == "2222");
  // model.safetensors alone is the whole model; a file beside it is not part of it.
  TempDir single;
  single.write("model.safetensors", test::safetensors_file({tensor("a", '1')}));
  single.write("extra.safetensors", "not even a safetensors file");
  const Checkpoint s = open(single);
  CHECK(s.shards().size() == 1);
  CHECK(notes_say(s, "extra.safetensors: not part of the checkpoint"));
}

TEST_CASE("checkpoint: every bad shard is listed at once") {
  TempDir dir;
  write_three(dir);
  const std::string whole = test::safetensors_file({tensor("a", '1')});
  dir.write(kShard1, whole.substr(0, whole.size() - 1));
  dir.write(kShard2, "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4302350824\n");
  std::remove(dir.file(kShard3).c_str());
  dir.write(kShard3 + ".incomplete", "x");
  const Outcome o = open_outcome(dir);
  CHECK(o.code == Exit::bad_checkpoint);
  CHECK(o.message == fmt::format("cannot use {}: 3 of 3 shards are incomplete\n"
                                 "  {}   {} bytes, header needs {} (1 missing)\n"
                                 "  {}   73 bytes: a Git LFS pointer, not weights\n"
                                 "  {}   missing (named by {}); its download is unfinished",
                                 dir.path(), kShard1, whole.size() - 1, whole.size(), kShard2, kShard3,
                                 kIndex));
  CHECK(o.remedy ==
        fmt::format("To repair:  hf download ORG/NAME --local-dir {} {} {} {}", dir.path(), kShard1, kShard2, kShard3));
  CHECK(o.file == kShard1);
}

TEST_CASE("checkpoint: a snapshot of the Hub cache is named by its repository") {
  TempDir cache;
  const std::string repository = cache.file("models--deepseek-ai--DeepSeek-R1");
  const std::string snapshot = repository + "/snapshots/0123";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(repository + "/blobs");
  const std::string whole = test::safetensors_file({tensor("a", '1')});
  cache.write("models--deepseek-ai--DeepSeek-R1/blobs/abcd", whole);
  std::filesystem::create_symlink("../../blobs/abcd", snapshot + "/model.safetensors");
  CHECK(bytes_of(Checkpoint::open(FileSet::directory(snapshot)), "a") == "1111");
  cache.resize("models--deepseek-ai--DeepSeek-R1/blobs/abcd", whole.size() / 2);
  const Outcome o = outcome_of([&] { Checkpoint::open(FileSet::directory(snapshot)); });
  CHECK(o.says("cannot use deepseek-ai/DeepSeek-R1: 1 of 1 shards is incomplete"));
  CHECK(o.remedy == "To repair:  hf download deepseek-ai/DeepSeek-R1 model.safetensors");
}

TEST_CASE("checkpoint: truncation anywhere is refused") {
  TempDir dir;
  const std::string whole =
      test::safetensors_file({tensor("a", '1'), {"big", DType::u8, {9000}, std::string(9000, 'x')}});
  for (const std::size_t size : {whole.size() - 1, whole.size() - 4096, whole.size() / 2, whole.size() - 9000,
                                 std::size_t{60}, std::size_t{8}, std::size_t{3}}) {
    dir.write("model.safetensors", whole.substr(0, size));
    check_open(dir, Exit::bad_checkpoint, "1 of 1 shards is incomplete\n");
  }
  dir.write("model.safetensors", whole + "x");
  check_open(dir, Exit::bad_checkpoint, "(1 too many)");
  dir.write("model.safetensors", whole);
  CHECK(open_outcome(dir).code == Exit::ok);
}

TEST_CASE("checkpoint: index and headers must agree") {
  TempDir dir;
  write_three(dir);
  const auto with_index = [&](const std::string& text, Exit code, const std::string& fragment) {
    dir.write(kIndex, text);
    check_open(dir, code, fragment);
  };
  with_index(test::index_text({{"a", kShard1}, {"b", kShard3}, {"c", kShard3}, {"d", kShard2}}, 12),
             Exit::bad_checkpoint, "the shards disagree about 2 tensors");
  with_index(test::index_text({{"a", kShard1}, {"b", kShard3}, {"c", kShard3}, {"d", kShard2}}, 12),
             Exit::bad_checkpoint,
             "b: model.safetensors.index.json says it is in model-00003-of-000003.safetensors, it is in "
             "model-00002");
  with_index(test::index_text({{"a", kShard1}, {"b", kShard2}, {"d", kShard2}, {"c", kShard3}}, 12),
             Exit::bad_checkpoint, "says it is in model-00002-of-000003.safetensors, it is nowhere");
  dir.write(kIndex, test::index_text({{"a", kShard1}, {"c", kShard3}}, 13));
  const Checkpoint c = open(dir);
  CHECK(notes_say(c, "model-00002-of-000003.safetensors: not part of the checkpoint"));
  CHECK(notes_say(c, "total_size is 13, the tensors hold 8"));
  dir.write(kShard3, test::safetensors_file({tensor("a", '1'), tensor("c", '3')}));
  with_index(test::index_text({{"a", kShard1}, {"b", kShard2}, {"c", kShard3}}, 16), Exit::bad_checkpoint,
             "a: in model-00001-of-000003.safetensors and in model-00003-of-000003.safetensors");
  std::remove(dir.file(kIndex).c_str());
  check_open(dir, Exit::bad_checkpoint, "a: in model-00001");
}

TEST_CASE("checkpoint: the index names plain files of its own directory") {
  TempDir dir;
  write_three(dir);
  for (const char* name : {"../../x.safetensors", "/etc/passwd", "/x.safetensors", "a\\u0000.safetensors",
                           "a\\n.safetensors", "\\u001b[2J.safetensors", "", ".safetensors", "..",
                           "model.bin", "sub/x.safetensors", "\\u00e9.safetensors"}) {
    dir.write(kIndex, fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name));
    const Outcome o = open_outcome(dir);
    INFO(o.message);
    CHECK(o.code == Exit::bad_checkpoint);
    CHECK(o.says("expected the plain name of a .safetensors file"));
    CHECK(o.message.find('\x1b') == std::string::npos);
    CHECK(o.message.find('\n') == std::string::npos);
  }
  for (const char* text :
       {"", "[]", "{}", "not JSON", R"({"weight_map":[]})", R"({"weight_map":{}})",
        R"({"weight_map":{"a":1}})", R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})",
        R"({"metadata":3,"weight_map":{}})"}) {
    dir.write(kIndex, text);
    check_open(dir, Exit::bad_checkpoint, kIndex);
  }
  dir.write(kIndex, "{}");
  dir.resize(kIndex, 200u << 20);
  check_open(dir, Exit::bad_checkpoint, "expected at most 67108864 bytes");
  write_three(dir);
  dir.write("other.safetensors.index.json", test::index_text({{"a", kShard1}}, 4));
  check_open(dir, Exit::bad_checkpoint, "a second index beside model.safetensors.index.json");
}

TEST_CASE("checkpoint: files that are no regular files never block") {
  const auto check_special = [](auto make, const std::string& fragment) {
    TempDir dir;
    make(dir.file("model.safetensors"));
    check_open(dir, Exit::bad_checkpoint, fragment);
  };
  check_special([](const std::string& p) { std::filesystem::create_directory(p); },
                "expected a regular file");
  check_special([](const std::string& p) { REQUIRE(::mkfifo(p.c_str(), 0600) == 0); },
                "expected a regular file");
  check_special([](const std::string& p) { std::filesystem::create_symlink("/dev/zero", p); },
                "out of the directory");
  check_special([](const std::string& p) { std::filesystem::create_symlink("/etc/passwd", p); },
                "out of the directory");
  check_special([](const std::string& p) { std::filesystem::create_symlink("nowhere", p); }, "leads nowhere");
  check_special([](const std::string& p) { std::filesystem::create_symlink("model.safetensors", p); },
                "leads nowhere");
  check_special(
      [](const std::string& p) {
        const int s = ::socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un a{};
        a.sun_family = AF_UNIX;
        REQUIRE(p.size() < sizeof a.sun_path);
        std::copy(p.begin(), p.end(), a.sun_path);
        REQUIRE(::bind(s, reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
        ::close(s);
      },
      "cannot open");
}

TEST_CASE("checkpoint: an unreadable shard is not a broken one") {
  if (::geteuid() == 0) return;  // root reads everything
  TempDir dir;
  write_three(dir);
  ::chmod(dir.file(kShard2).c_str(), 0);
  check_open(dir, Exit::not_found, "1 of 3 shards are unreadable");
}

TEST_CASE("checkpoint: a directory without safetensors") {
  TempDir dir;
  check_open(dir, Exit::not_found, "no *.safetensors");
  dir.write("model.Q4_K_M.gguf", "GGUF");
  check_open(dir, Exit::unsupported, "but model.Q4_K_M.gguf");
  TempDir pickled;
  pickled.write("pytorch_model-00001-of-00002.bin", "PK");
  check_open(pickled, Exit::unsupported, "reads safetensors only");
  TempDir half;
  half.write("model.safetensors.incomplete", "x");
  check_open(half, Exit::bad_checkpoint, "an unfinished download");
  TempDir gguf;
  gguf.write("model.safetensors", std::string("GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16));
  check_open(gguf, Exit::unsupported, "1 of 1 shards is unsupported");
}

TEST_CASE("checkpoint: more than 4 GiB in one tensor") {
  TempDir dir;
  const std::uint64_t bytes = (std::uint64_t{5} << 30) + 1;
  const std::string header =
      fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})", bytes, bytes);
  dir.write("model.safetensors", test::raw_file(header));
  dir.resize("model.safetensors", 8 + header.size() + bytes);  // a hole: no disk is used
  const Checkpoint c = open(dir);
  REQUIRE(c.find("a") != nullptr);
  CHECK(c.find("a")->bytes == bytes);
  CHECK(c.find("a")->data[bytes - 1] == std::byte{0});
}

TEST_CASE("checkpoint: a file that changes while in use is noticed") {
  TempDir dir;
  write_three(dir);
  const Checkpoint c = open(dir);
  dir.write(kShard2, test::safetensors_file({tensor("b", 'z')}));
  const Outcome o = outcome_of([&] { c.check_unchanged(); });
  CHECK(o.code == Exit::io);
  CHECK(o.says(kShard2 + ": the file was changed while in use"));
  std::remove(dir.file(kShard2).c_str());
  CHECK(outcome_of([&] { c.check_unchanged(); }).code == Exit::io);
}

TEST_CASE("checkpoint: the fingerprint covers config, headers and sizes") {
  TempDir dir;
  write_three(dir);
  dir.write("config.json", "{}");
  const std::string first = open(dir).fingerprint();
  CHECK(first.size() == 64);
  CHECK(open(dir, false).fingerprint() == first);
  dir.write("config.json", "{ }");
  CHECK(open(dir).fingerprint() != first);
  dir.write("config.json", "{}");
  dir.write(kShard1, test::safetensors_file({tensor("a", '9')}));  // data are not covered
  CHECK(open(dir).fingerprint() == first);
  dir.write(kShard1, test::safetensors_file({tensor("a", '1')}, 128));
  CHECK(open(dir).fingerprint() != first);
}

TEST_CASE("checkpoint: the golden checkpoints open") {
  for (const char* name : {"v3", "v3-e8m0", "v2", "v2-lite", "moonlight", "kimi"}) {
    const Checkpoint c = Checkpoint::open(FileSet::directory(std::string("tests/goldens/") + name));
    CHECK(c.find("model.embed_tokens.weight") != nullptr);
    CHECK(c.tensors().contains("model.norm.weight"));
  }
}

TEST_CASE("SHA-256 equals the standard's examples") {
  CHECK(sha256_hex({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex(as_bytes_of("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex(as_bytes_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  const char* const expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  CHECK(sha256_hex(as_bytes_of(million)) == expected);
  for (const std::size_t piece : {1u, 55u, 56u, 63u, 64u, 65u, 1000u, 1001u}) {
    Sha256 hash(piece % 2 == 0);  // both implementations
    for (std::size_t i = 0; i < million.size(); i += piece)
      hash.update(as_bytes_of(std::string_view(million).substr(i, piece)));
    CHECK(hash.hex_digest() == expected);
  }
}

// Two releases of one model have the same names and shapes (DeepSeek-V3 and R1).
TEST_CASE("checkpoint: shards downloaded from different commits are noted") {
  test::TempDir dir;
  dir.write("model-00001-of-00002.safetensors", test::safetensors_file({{"a", DType::f32, {1}, "aaaa"}}));
  dir.write("model-00002-of-00002.safetensors", test::safetensors_file({{"b", DType::f32, {1}, "bbbb"}}));
  const auto downloaded = [&](const char* shard, const std::string& commit) {
    std::filesystem::create_directories(dir.file(".cache/huggingface/download"));
    dir.write(fmt::format(".cache/huggingface/download/{}.metadata", shard), commit + "\netag\n1.5\n");
  };
  const auto noted = [&] {
    const Checkpoint c = Checkpoint::open(FileSet::directory(dir.path()));
    for (const std::string& note : c.notes())
      if (note.find("downloaded from 2 commits") != note.npos) {
        CHECK(note.find("1 shard of 111111111111") != note.npos);
        CHECK(note.find('\x1b') == note.npos);
        return true;
      }
    return false;
  };
  CHECK_FALSE(noted());
  downloaded("model-00001-of-00002.safetensors", std::string(40, '1'));
  CHECK_FALSE(noted());
  downloaded("model-00002-of-00002.safetensors", std::string(40, '1'));
  CHECK_FALSE(noted());
  downloaded("model-00002-of-00002.safetensors", std::string(40, '2'));
  CHECK(noted());
  // Whatever the file holds.
  downloaded("model-00002-of-00002.safetensors", "\x1b[2J");
  CHECK(noted());
}
