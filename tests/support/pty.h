// A pseudo-terminal with a program behind it, for tests of what a person would type and see.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

namespace fathom::test {

class Pty {
 public:
  // Runs `child` in a new process whose controlling terminal is the pseudo-terminal; its result is the exit status.
  explicit Pty(const std::function<int()>& child, int rows = 24, int columns = 80);
  Pty(const Pty&) = delete;
  Pty& operator=(const Pty&) = delete;
  // Kills what still runs.
  ~Pty();

  // Types `keys`, reading meanwhile what the program prints so that neither side blocks.
  void send(std::string_view keys);
  // Waits until `text` has been printed since the last expect() that found something; false after `timeout`.
  bool expect(std::string_view text, std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // Reads until nothing has come for `silence`; all that has been printed since the last expect().
  std::string settle(std::chrono::milliseconds silence = std::chrono::milliseconds(100));
  // All that was ever printed.
  const std::string& transcript() const { return transcript_; }
  // The terminal's modes as they are now.
  termios modes() const;
  void resize(int rows, int columns);
  void signal(int number) const;
  pid_t pid() const { return pid_; }
  // The exit status (128 + signal when killed by one), or -1 when it still runs after `timeout`.
  int wait(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // Takes the terminal away, as closing its window does.
  void hang_up();

 private:
  bool read_some(std::chrono::milliseconds timeout);
  int master_ = -1, slave_ = -1;
  pid_t pid_ = -1;
  std::string transcript_;
  std::size_t seen_ = 0;
  int status_ = -1;
};

// True when both describe the same behaviour.
bool same_modes(const termios& a, const termios& b);

// `text` without escape sequences and carriage returns: what a person reads (cursor movement is not followed).
std::string plain(std::string_view text);

}  // namespace fathom::test
