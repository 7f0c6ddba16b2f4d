// Typing a message at a terminal: libedit with UTF-8, history, bracketed paste as one message, several lines, completion.
//
// The terminal's modes are changed only while a line is read (raw) or an answer is written (no echo) and are put back
// exactly as they were found, also when a signal ends the process or suspends it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/app/history.h"

namespace fathom {

// What a wake-up of LineEditorOptions::wake_descriptor means.
enum class Wake { nothing, interrupt, leave };

// A completion: `words` may stand for the text from byte `begin` of the line to the cursor.
struct Completion {
  std::size_t begin = 0;
  std::vector<std::string> words;  // sorted
  bool finished = true;            // a space follows a sole word (not after a folder)
};

struct LineEditorOptions {
  int input = 0, output = 1;  // descriptors of one terminal
  bool colour = true;
  // Becomes readable when a signal has arrived; on_wake then says what to do and clears it. -1: none.
  int wake_descriptor = -1;
  std::function<Wake()> on_wake;
  // For Tab: the line up to the cursor.
  std::function<Completion(std::string_view)> complete;
};

class LineEditor {
 public:
  enum class Status {
    message,      // text holds it; it may be empty
    interrupt,    // Ctrl-C; text holds what stood on the line and was thrown away
    end,          // Ctrl-D on an empty line
    leave,        // a signal that ends the program
    hangup,       // the terminal is gone
  };
  struct Result {
    Status status = Status::message;
    std::string text;  // UTF-8; newlines inside are kept
  };

  // Errors: failure when the terminal cannot be set up.
  LineEditor(History& history, LineEditorOptions options);
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  ~LineEditor();

  // Reads a message: one line, or several by paste, Alt-Enter, Ctrl-J, or between two `"""`. `prompt` is printable
  // text; `initial` stands on the line to begin with.
  Result read(std::string_view prompt, std::string_view initial = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// While alive: between lines keys are not echoed and wait unchanged for the next line; Ctrl-C still signals. For the
// whole of a chat, so that what is typed ahead, while a model loads or answers, arrives as it was typed.
class QuietKeys {
 public:
  explicit QuietKeys(int terminal);
  QuietKeys(const QuietKeys&) = delete;
  QuietKeys& operator=(const QuietKeys&) = delete;
  ~QuietKeys();
  // The terminal as it was found, for another program; and back.
  void pause();
  void resume();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Gives the terminal back as it was found before the first LineEditor or QuietKeys. Async-signal-safe.
void restore_terminal();

// Columns that `text` takes on a terminal: wide characters two, combining ones none (utf8proc's table).
int display_width(std::string_view text);

// Text of a paste or a file as a message: line ends become \n, control bytes other than \n and \t are removed.
std::string clean_paste(std::string_view text);

}  // namespace fathom
