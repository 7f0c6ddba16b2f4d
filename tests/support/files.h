// A directory of its own for a test, removed afterwards.
#pragma once

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fathom::test {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "fathom-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, std::string_view content) const {
    std::FILE* f = std::fopen(file(name).c_str(), "wb");
    if (f == nullptr || std::fwrite(content.data(), 1, content.size(), f) != content.size() ||
        std::fclose(f) != 0)
      throw std::runtime_error("cannot write " + file(name));
  }
  // Cuts the file to `size` bytes, or extends it with a hole.
  void resize(const std::string& name, std::uintmax_t size) const {
    std::filesystem::resize_file(file(name), size);
  }

 private:
  std::string path_;
};

}  // namespace fathom::test
