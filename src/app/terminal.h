// The only owner of raw output: what is a terminal, how wide, in colour or not, and the sanitising of what goes there.
// Knows nothing of models.
#pragma once

#include <string>
#include <string_view>

#include "src/app/environment.h"
#include "src/app/log.h"
#include "src/app/sanitiser.h"

namespace fathom {

struct TerminalOptions {
  std::string color = "auto";  // auto, always, never
  bool unsafe_output = false;  // pass control bytes to a terminal unchanged
  bool quiet = false;
  int verbose = 0;
  Log* log = nullptr;  // gets every line that is meant for stderr; must outlive the terminal
};

// How a run of text looks. fathom uses few looks, and none carries meaning alone.
enum class Style { plain, dim, bold, warning };

// One of stdout and stderr.
class Screen {
 public:
  Screen(int fd, std::string name, bool colour, bool unsafe);

  bool is_terminal() const { return terminal_; }
  bool colour() const { return colour_; }
  // Columns: of the window, else COLUMNS, else 80. Read again at every call.
  int width() const;
  // Lines of the window, else 24.
  int height() const;

  // Untrusted text as a stream: sanitised on a terminal, unchanged bytes elsewhere. Written at once.
  // Errors: broken_pipe, io (disk full), interrupted.
  void text(std::string_view untrusted, Style style = Style::plain);
  // Ends a stream of text(): what the sanitiser held back, then our own reset of all attributes.
  void end_text();
  // Bytes of fathom's own, as they are.
  void raw(std::string_view bytes);
  // True when nobody will ever read what is written: the other end of the pipe is closed.
  bool reader_gone() const;
  // True when the last thing written ended a line, or nothing was written.
  bool at_line_start() const { return line_start_; }

 private:
  void set_style(Style style, std::string& out);
  int fd_;
  std::string name_;
  bool terminal_, colour_, unsafe_;
  bool line_start_ = true;
  Style style_ = Style::plain;
  Sanitiser sanitiser_;
};

// The three standard descriptors and what to say on them.
class Terminal {
 public:
  Terminal(const Environment& environment, const TerminalOptions& options);

  bool stdin_is_terminal() const { return stdin_terminal_; }
  Screen& out() { return out_; }
  Screen& err() { return err_; }
  int verbose() const { return options_.verbose; }
  bool quiet() const { return options_.quiet; }

  // A progress note or a notice: on stderr, when it is a terminal or -v was given, and never with -q.
  void notice(std::string_view untrusted);
  // What --stats or -v asked for: on stderr, terminal or not.
  void stats(std::string_view untrusted);
  // With -v only.
  void detail(std::string_view untrusted);
  // A warning: on stderr unless -q.
  void warning(std::string_view untrusted);
  // An error, always: "fathom: ..." and the lines of what to do.
  void error(std::string_view message, std::string_view remedy);
  // A counter that replaces itself on one line of a terminal; nothing elsewhere. Empty clears it.
  void progress(std::string_view untrusted);

 private:
  void line(std::string_view untrusted, Style style);
  void log(std::string_view kind, std::string_view untrusted);
  TerminalOptions options_;
  bool stdin_terminal_;
  Screen out_, err_;
  bool progress_shown_ = false;
};

}  // namespace fathom
