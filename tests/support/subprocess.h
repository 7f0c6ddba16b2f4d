// Runs the real binary: arguments, environment and standard input in; exit code, standard output and error out.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fathom::test {

struct Process {
  std::vector<std::string> args;                // after the program's name
  std::optional<std::string> input;             // bytes on a pipe; nothing: /dev/null
  std::map<std::string, std::string> variables;  // added to a clean environment (PATH, HOME=/proc/nonexistent)
  std::string shell;                            // when set, `sh -c` runs this instead; $FATHOM is the program
  double timeout_s = 60;
  int signal = 0;  // sent to the program after signal_after_s
  double signal_after_s = 0;
};

struct Outcome {
  int code = -1;  // exit code, 128 + signal when killed, -1 on timeout
  std::string out, err;
  double seconds = 0;
};

// The program under test: $FATHOM_BINARY, else the `fathom` beside the test program's directory.
std::string program();
Outcome run(const Process& process);
inline Outcome run(std::vector<std::string> args) {
  Process p;
  p.args = std::move(args);
  return run(p);
}
inline Outcome shell(std::string command) {
  Process p;
  p.shell = std::move(command);
  return run(p);
}

// A directory that is removed with its files at the end of the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }
  // Writes a file into it and returns its path.
  std::string file(const std::string& name, std::string_view content) const;

 private:
  std::string path_;
};

}  // namespace fathom::test
