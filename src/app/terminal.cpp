#include "src/app/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/base/error.h"

namespace fathom {
namespace {

bool wants_colour(int fd, const Environment& environment, const TerminalOptions& options) {
  if (options.color != "auto") return options.color == "always";
  if (environment.no_color) return false;
  if (environment.force_color) return true;
  return ::isatty(fd) == 1 && environment.term != "dumb";
}

std::string_view sgr(Style style) {
  switch (style) {
    case Style::plain: return "\x1b[0m";
    case Style::dim: return "\x1b[0;2m";
    case Style::bold: return "\x1b[0;1m";
    case Style::warning: return "\x1b[0;33m";
  }
  return "\x1b[0m";
}

}  // namespace

Screen::Screen(int fd, std::string name, bool colour, bool unsafe)
    : fd_(fd), name_(std::move(name)), terminal_(::isatty(fd) == 1), colour_(colour), unsafe_(unsafe) {}

int Screen::width() const {
  winsize w{};
  if (::ioctl(fd_, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
  return read_environment().columns.value_or(80);
}

int Screen::height() const {
  winsize w{};
  return ::ioctl(fd_, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 ? w.ws_row : 24;
}

void Screen::set_style(Style style, std::string& out) {
  if (style == style_ || !colour_) return;
  out += sgr(style);
  style_ = style;
}

void Screen::text(std::string_view untrusted, Style style) {
  if (untrusted.empty()) return;
  std::string out;
  set_style(style, out);
  out += terminal_ && !unsafe_ ? sanitiser_.feed(untrusted) : std::string(untrusted);
  raw(out);
}

void Screen::end_text() {
  std::string out = terminal_ && !unsafe_ ? sanitiser_.finish() : std::string();
  if (!out.empty()) line_start_ = false;
  // On a terminal our own reset follows every answer, whatever the text has done to it.
  if (colour_ && (terminal_ || style_ != Style::plain)) out += sgr(Style::plain);
  style_ = Style::plain;
  write_descriptor(fd_, out, name_, signals::stop_requested);
}

bool Screen::reader_gone() const {
  pollfd p{fd_, 0, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0;
}

void Screen::raw(std::string_view bytes) {
  if (bytes.empty()) return;
  line_start_ = bytes.back() == '\n';
  write_descriptor(fd_, bytes, name_, signals::stop_requested);
}

Terminal::Terminal(const Environment& environment, const TerminalOptions& options)
    : options_(options),
      stdin_terminal_(::isatty(STDIN_FILENO) == 1),
      out_(STDOUT_FILENO, "standard output", wants_colour(STDOUT_FILENO, environment, options),
           options.unsafe_output),
      err_(STDERR_FILENO, "standard error", wants_colour(STDERR_FILENO, environment, options), false) {}

void Terminal::line(std::string_view untrusted, Style style) {
  progress("");
  std::string text = err_.is_terminal() ? sanitise(untrusted) : std::string(untrusted);
  if (style != Style::plain && err_.colour()) text = fmt::format("{}{}{}", sgr(style), text, sgr(Style::plain));
  try {
    // An answer that is being typed keeps its line.
    if (out_.is_terminal() && err_.is_terminal() && !out_.at_line_start()) out_.raw("\n");
    err_.raw(text + "\n");
  } catch (const Error&) {
    // Nobody reads stderr: there is no better place to say so.
  }
}

void Terminal::log(std::string_view kind, std::string_view untrusted) {
  if (options_.log == nullptr) return;
  options_.log->write(kind, untrusted);
  if (const std::string trouble = options_.log->trouble(); !trouble.empty() && !options_.quiet)
    line(fmt::format("fathom: {}", trouble), Style::warning);
}

void Terminal::notice(std::string_view untrusted) {
  log("notice", untrusted);
  if (!options_.quiet && (err_.is_terminal() || options_.verbose > 0)) line(untrusted, Style::dim);
}

void Terminal::stats(std::string_view untrusted) {
  log("stats", untrusted);
  line(untrusted, Style::dim);
}

void Terminal::detail(std::string_view untrusted) {
  log("detail", untrusted);
  if (options_.verbose > 0) line(untrusted, Style::dim);
}

void Terminal::warning(std::string_view untrusted) {
  log("warning", untrusted);
  if (!options_.quiet) line(fmt::format("fathom: {}", untrusted), Style::warning);
}

void Terminal::error(std::string_view message, std::string_view remedy) {
  log("error", remedy.empty() ? std::string(message) : fmt::format("{}\n{}", message, remedy));
  line(fmt::format("fathom: {}", message), Style::plain);
  if (!remedy.empty()) line(remedy, Style::plain);
}

void Terminal::progress(std::string_view untrusted) {
  if (!err_.is_terminal() || options_.quiet || (untrusted.empty() && !progress_shown_)) return;
  std::string text = sanitise(untrusted, false);
  // One line only: a wrapped counter could not be erased. Cutting by bytes is safe, text here is fathom's own ASCII.
  const auto width = static_cast<std::size_t>(err_.width());
  if (text.size() >= width) text.resize(width - 1);
  try {
    err_.raw(fmt::format("\r{}{}", text, "\x1b[K"));
  } catch (const Error&) {
  }
  progress_shown_ = !untrusted.empty();
}

}  // namespace fathom
