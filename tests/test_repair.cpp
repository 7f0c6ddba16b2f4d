// A stranger's damaged checkpoint, file by file, through the binary: what is wrong, in which file, and the command that
// repairs it.
#include <doctest/doctest.h>

#include <filesystem>

#include "src/base/file.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

using namespace fathom;
namespace fs = std::filesystem;

namespace {

// A copy of Minnow with one file replaced.
void damage(const test::TempDir& dir, const std::string& name, const std::string& content) {
  fs::remove_all(dir.file("m"));
  fs::create_directory(dir.file("m"));
  for (const auto& entry : fs::directory_iterator("models/minnow")) {
    const fs::path to = dir.file("m/" + entry.path().filename().string());
    if (entry.path().filename() != name) fs::copy_file(entry.path(), to);
  }
  dir.write("m/" + name, content);
}

}  // namespace

TEST_CASE("repair: every small file of a checkpoint that is damaged is named with the command that brings it back") {
  const test::TempDir dir;
  const std::string config = read_file("models/minnow/config.json", 1 << 20),
                    tokenizer = read_file("models/minnow/tokenizer.model", 1 << 24);
  struct Case {
    const char* file;
    std::string content;
  };
  const std::vector<Case> cases = {
      {"config.json", ""},
      {"config.json", "<!DOCTYPE html>"},
      {"config.json", config.substr(0, config.size() / 2)},
      {"config.json", "{\"hidden_size\": 1}"},
      {"model.safetensors.index.json", "[]"},
      {"model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../x.safetensors\"}}"},
      {"model.safetensors.index.json", "{\"weight_map\": "},
      {"generation_config.json", "{\"temperature\": -1}"},
      {"generation_config.json", "{"},
      {"tokenizer.model", tokenizer.substr(0, tokenizer.size() / 2)},
      {"tokenizer.model", ""},
      {"tokenizer_config.json", "{"},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.file));
    CAPTURE(c.content.substr(0, 60));
    damage(dir, c.file, c.content);
    for (const char* command : {"verify m", "run -m m --backend cpu -n 1 hi"}) {
      const test::Outcome r = test::shell("cd " + dir.path() + "; \"$FATHOM\" " + command);
      CAPTURE(r.err);
      CHECK((r.code == 4 || r.code == 5));
      CHECK(r.err.find(c.file) != r.err.npos);
      if (r.code == 4) CHECK(r.err.find(std::string("To repair:  hf download ORG/NAME --local-dir ./m ") + c.file) != r.err.npos);
    }
  }
  damage(dir, "README.md", "changed");
  CHECK(test::shell("cd " + dir.path() + "; \"$FATHOM\" verify m").out.find("tokenizer: ") != std::string::npos);
}

TEST_CASE("repair: a conversation of another program is left alone, and the way round it is said") {
  const test::TempDir dir;
  dir.write("notes", "my notes\n");
  const test::Outcome r = test::shell("\"$FATHOM\" run -m models/minnow --backend cpu -n 1 --session " + dir.file("notes") + " hi");
  CHECK(r.code == 4);
  CHECK(r.err.find("name another file with --session") != r.err.npos);
  CHECK(read_file(dir.file("notes"), 100) == "my notes\n");
}
