#include "src/app/answer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "src/base/descriptor.h"
#include "src/base/error.h"
#include "src/app/progress.h"
#include "src/app/wrap.h"
#include "src/base/file.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

class StandardOutput : public Output {
 public:
  explicit StandardOutput(Screen& screen) : screen_(screen) {}
  void write(std::string_view bytes) override { screen_.raw(bytes); }

 private:
  Screen& screen_;
};

// A regular file that appears whole or not at all. Held in memory until then: a Ctrl-C while the model loads leaves
// nothing behind.
class WholeFile : public Output {
 public:
  explicit WholeFile(std::string path) : path_(std::move(path)) {
    const auto slash = path_.rfind('/');
    const std::string parent = slash == path_.npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
    if (::access(parent.c_str(), W_OK | X_OK) != 0)
      throw Error(Exit::io, fmt::format("{}: cannot write into the directory {}", path_, parent)).at(path_);
  }
  void write(std::string_view bytes) override { text_ += bytes; }
  void commit() override {
    AtomicFile file(path_);
    file.write(text_);
    file.commit();
  }

 private:
  std::string path_, text_;
};

// A FIFO, a device or a terminal: there is nothing to rename.
class DirectFile : public Output {
 public:
  explicit DirectFile(const std::string& path) : path_(path), fd_(open_for_writing(path)) {}
  ~DirectFile() override {
    if (fd_ >= 0) ::close(fd_);
  }
  void write(std::string_view bytes) override { write_descriptor(fd_, bytes, path_); }
  void commit() override { close_descriptor(std::exchange(fd_, -1), path_); }

 private:
  std::string path_;
  int fd_;
};

// The file that a link leads to, so that renaming replaces the file and not the link.
std::string link_target(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;
  std::string target = resolved;
  std::free(resolved);
  return target;
}

std::string seconds_text(Clock::duration d) { return duration_text(std::chrono::duration<double>(d).count()); }

ThinkingDisplay resolve(ThinkingDisplay wanted, bool terminal) {
  if (wanted != ThinkingDisplay::automatic) return wanted;
  return terminal ? ThinkingDisplay::full : ThinkingDisplay::hidden;
}

// Counts the thinking and says at its end how long it was.
class ThinkingClock {
 public:
  void begin() {
    if (!begun_) started_ = Clock::now();
    begun_ = true;
  }
  bool running() const { return begun_ && !ended_; }
  // "thought for 12 s, 418 tokens"
  std::string end(std::size_t tokens) {
    ended_ = true;
    return fmt::format("thought for {}, {}", seconds_text(Clock::now() - started_), counted(tokens, "token"));
  }
  std::string so_far(std::size_t tokens) const {
    return fmt::format("thinking: {}, {}", seconds_text(Clock::now() - started_), counted(tokens, "token"));
  }

 private:
  bool begun_ = false, ended_ = false;
  Clock::time_point started_;
};

class TerminalView : public AnswerView {
 public:
  TerminalView(const Options& options, Terminal& terminal)
      : terminal_(terminal), mode_(resolve(options.show_thinking, true)), stream_(!options.no_stream) {}

  void reasoning(std::string_view text) override {
    thinking_.begin();
    if (mode_ == ThinkingDisplay::full && stream_) terminal_.out().text(text, Style::dim);
  }
  void content(std::string_view text) override {
    end_thinking();
    if (stream_) terminal_.out().text(text);
  }
  void step(std::size_t tokens, bool in_thinking) override {
    tokens_ = tokens;
    if (in_thinking) thinking_.begin();
    if (!in_thinking) return;
    thinking_tokens_ = tokens;
    if (mode_ == ThinkingDisplay::summary) terminal_.progress(thinking_.so_far(tokens));
  }
  void finish(const GenerationResult& result) override {
    Screen& out = terminal_.out();
    thinking_tokens_ = result.reasoning_tokens;
    if (!stream_ && mode_ == ThinkingDisplay::full && !result.reasoning.empty()) out.text(result.reasoning, Style::dim);
    end_thinking();
    if (!stream_) out.text(result.content);
    out.end_text();
    const bool nothing_shown = result.content.empty() && !summary_shown_;
    if (!out.at_line_start() || nothing_shown) out.raw("\n");
  }

 private:
  void end_thinking() {
    if (!thinking_.running()) return;
    const std::string summary = thinking_.end(thinking_tokens_);
    terminal_.progress("");
    if (mode_ == ThinkingDisplay::hidden) return;
    if (mode_ == ThinkingDisplay::summary) {
      terminal_.notice(summary);
      return;
    }
    Screen& out = terminal_.out();
    out.end_text();
    if (!out.at_line_start()) out.raw("\n");
    out.text(summary + "\n", Style::dim);
    out.end_text();
    out.raw("\n");
    summary_shown_ = true;
  }

  Terminal& terminal_;
  ThinkingDisplay mode_;
  bool stream_, summary_shown_ = false;
  ThinkingClock thinking_;
  std::size_t tokens_ = 0, thinking_tokens_ = 0;
};

class PlainView : public AnswerView {
 public:
  PlainView(const Options& options, Terminal& terminal, Output& output)
      : terminal_(terminal), output_(output), mode_(resolve(options.show_thinking, false)),
        stream_(!options.no_stream) {}

  void reasoning(std::string_view text) override {
    thinking_.begin();
    if (mode_ == ThinkingDisplay::full && stream_) terminal_.err().text(text, Style::dim);
  }
  void content(std::string_view text) override {
    end_thinking();
    if (stream_) write(text);
  }
  void step(std::size_t tokens, bool in_thinking) override {
    if (!in_thinking) return;
    thinking_.begin();
    thinking_tokens_ = tokens;
    if (mode_ == ThinkingDisplay::summary) terminal_.progress(thinking_.so_far(tokens));
  }
  void finish(const GenerationResult& result) override {
    thinking_tokens_ = result.reasoning_tokens;
    if (!stream_ && mode_ == ThinkingDisplay::full) terminal_.err().text(result.reasoning, Style::dim);
    end_thinking();
    if (!stream_) write(result.content);
    output_.write("\n");
  }

 private:
  // Newlines wait until something follows them: the answer ends with exactly one.
  void write(std::string_view text) {
    const std::size_t end = text.find_last_not_of('\n') + 1;
    if (end != 0) {
      output_.write(std::string(newlines_, '\n') + std::string(text.substr(0, end)));
      newlines_ = 0;
    }
    newlines_ += text.size() - end;
  }
  void end_thinking() {
    if (!thinking_.running()) return;
    const std::string summary = thinking_.end(thinking_tokens_);
    terminal_.progress("");
    if (mode_ == ThinkingDisplay::full) {
      terminal_.err().end_text();
      if (!terminal_.err().at_line_start()) terminal_.err().raw("\n");
    }
    if (mode_ == ThinkingDisplay::full || mode_ == ThinkingDisplay::summary) terminal_.notice(summary);
  }

  Terminal& terminal_;
  Output& output_;
  ThinkingDisplay mode_;
  bool stream_;
  ThinkingClock thinking_;
  std::size_t thinking_tokens_ = 0, newlines_ = 0;
};

}  // namespace

std::unique_ptr<Output> make_output(const Options& options, Terminal& terminal) {
  if (!options.output) return std::make_unique<StandardOutput>(terminal.out());
  const std::string path = link_target(*options.output);
  struct stat s {};
  if (::stat(path.c_str(), &s) == 0) {
    if (S_ISDIR(s.st_mode)) throw Error(Exit::io, fmt::format("{}: expected a file, found a directory", path)).at(path);
    if (!S_ISREG(s.st_mode)) return std::make_unique<DirectFile>(path);
  }
  return std::make_unique<WholeFile>(path);
}

std::unique_ptr<AnswerView> make_terminal_view(const Options& options, Terminal& terminal) {
  return std::make_unique<TerminalView>(options, terminal);
}

std::unique_ptr<AnswerView> make_plain_view(const Options& options, Terminal& terminal, Output& output) {
  return std::make_unique<PlainView>(options, terminal, output);
}

}  // namespace fathom
