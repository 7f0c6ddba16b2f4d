#include "src/app/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>

#include "src/app/sanitiser.h"
#include "src/base/error.h"

namespace fathom {
namespace {

constexpr std::string_view kPasteOn = "\x1b[?2004h", kPasteOff = "\x1b[?2004l";
constexpr std::string_view kFence = "\"\"\"";

using KeyFunction = unsigned char (*)(EditLine*, wint_t);

// -- what signal handlers reach -----------------------------------------------------------------------------------

// The terminal is one per process, and so is its state as it was found.
struct Found {
  std::atomic<int> terminal{-1};
  termios modes{};
  std::atomic<bool> paste{false};
};
Found found;

void remember(int terminal) {
  if (found.terminal.load() >= 0) return;
  if (::tcgetattr(terminal, &found.modes) == 0) found.terminal.store(terminal);
}

// The modes between lines while a QuietKeys is alive.
std::atomic<bool> quiet{false};
termios quiet_modes{};

// Window size and job control arrive as flags and a byte in a pipe, as all signals do.
std::atomic<bool> resized{false}, continued{false}, suspend_asked{false};
int job_pipe[2] = {-1, -1};

void on_job_signal(int signal) {
  const int e = errno;
  (signal == SIGWINCH ? resized : signal == SIGCONT ? continued : suspend_asked).store(true);
  const char byte = 0;
  if (::write(job_pipe[1], &byte, 1) < 0) errno = 0;  // full: a wake-up is pending anyway
  errno = e;
}

// Handlers for the time of one line.
class JobSignals {
 public:
  JobSignals() {
    if (job_pipe[0] < 0 && ::pipe2(job_pipe, O_NONBLOCK | O_CLOEXEC) != 0) return;
    struct sigaction a {};
    a.sa_handler = on_job_signal;
    a.sa_flags = SA_RESTART;
    ::sigemptyset(&a.sa_mask);
    for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &a, &before_[i]);
  }
  ~JobSignals() {
    for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  }

 private:
  static constexpr int kSignals[3] = {SIGWINCH, SIGCONT, SIGTSTP};
  struct sigaction before_[3] {};
};

// Stops this process group the way Ctrl-Z does, and returns when it goes on.
void stop_here() {
  struct sigaction standard {}, before {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGTSTP, &standard, &before);
  ::kill(0, SIGTSTP);
  ::sigaction(SIGTSTP, &before, nullptr);
}

void write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return;
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

// -- text ---------------------------------------------------------------------------------------------------------

std::wstring to_wide(std::string_view s) {
  std::wstring out;
  const auto* p = reinterpret_cast<const utf8proc_uint8_t*>(s.data());
  auto left = static_cast<utf8proc_ssize_t>(s.size());
  while (left > 0) {
    utf8proc_int32_t c = 0;
    utf8proc_ssize_t n = utf8proc_iterate(p, left, &c);
    if (n <= 0 || c < 0) n = 1, c = 0xFFFD;
    // A NUL would end the line for libedit.
    out += static_cast<wchar_t>(c == 0 ? 0xFFFD : c);
    p += n, left -= n;
  }
  return out;
}

void append_utf8(std::string& out, wchar_t c) {
  utf8proc_uint8_t bytes[4];
  const auto code = static_cast<utf8proc_int32_t>(c);
  const bool scalar = code >= 0 && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  const auto n = utf8proc_encode_char(scalar ? code : 0xFFFD, bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(n));
}

std::string to_narrow(const wchar_t* begin, const wchar_t* end) {
  std::string out;
  for (; begin != end; ++begin) append_utf8(out, *begin);
  return out;
}

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\n')) s.remove_suffix(1);
  return s;
}

// libedit draws through wcrtomb: without a UTF-8 locale it would show octal escapes.
void use_utf8_locale() {
  if (std::setlocale(LC_CTYPE, "") == nullptr || std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0)
    std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

void restore_terminal() {
  const int terminal = found.terminal.load();
  if (terminal < 0) return;
  const int e = errno;
  if (found.paste.exchange(false) && ::write(terminal, kPasteOff.data(), kPasteOff.size()) < 0) errno = 0;
  ::tcsetattr(terminal, TCSADRAIN, &found.modes);
  errno = e;
}

int display_width(std::string_view text) {
  int width = 0;
  for (const wchar_t c : to_wide(text)) width += utf8proc_charwidth(static_cast<utf8proc_int32_t>(c));
  return width;
}

std::string clean_paste(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '\r') {
      if (i + 1 == text.size() || text[i + 1] != '\n') out += '\n';
    } else if (c == 0xC2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xE0) == 0x80) {
      ++i;  // C1
    } else if ((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t') {
      out += text[i];
    }
  }
  return out;
}

// -- the editor ---------------------------------------------------------------------------------------------------

struct LineEditor::Impl {
  Impl(fathom::History& lines, LineEditorOptions o) : history(lines), options(std::move(o)) {}

  fathom::History& history;
  LineEditorOptions options;
  std::unique_ptr<FILE, int (*)(FILE*)> in{nullptr, std::fclose}, out{nullptr, std::fclose}, sink{nullptr, std::fclose};
  std::unique_ptr<EditLine, void (*)(EditLine*)> el{nullptr, el_end};
  std::unique_ptr<HistoryW, void (*)(HistoryW*)> past{nullptr, history_wend};
  std::wstring prompt;
  std::string buffer;  // bytes read and not yet taken
  std::size_t taken = 0;
  Status status = Status::message;
  bool plain_terminal = false;  // TERM is unset, dumb or unknown: no paste mode, no attributes

  static Impl& of(EditLine* e) {
    void* self = nullptr;
    el_wget(e, EL_CLIENTDATA, &self);
    return *static_cast<Impl*>(self);
  }

  void set_up();
  void bind_keys();
  void load_history();
  void begin();
  void end();
  Result read_line(std::string_view text, std::string_view initial);

  bool fill();
  bool handle_signals();
  void go_to_prompt();
  void suspend();
  wchar_t leave_line(Status why);
  int next(wchar_t* c);
  std::string read_paste();
  std::string line_to_cursor() const;
  unsigned char insert_newline();
  unsigned char control_d();
  unsigned char vertical(bool up);
  unsigned char complete();
  void list(const std::vector<std::string>& words);
};

// More bytes from the terminal; false when the line is to be left (status says why).
bool LineEditor::Impl::fill() {
  for (;;) {
    if (handle_signals()) return false;
    pollfd fds[3] = {{options.input, POLLIN, 0}, {options.wake_descriptor, POLLIN, 0}, {job_pipe[0], POLLIN, 0}};
    if (::poll(fds, 3, -1) < 0 && errno != EINTR) {
      status = Status::hangup;
      return false;
    }
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
    buffer.resize(1 << 16);
    taken = 0;
    const ssize_t n = ::read(options.input, buffer.data(), buffer.size());
    buffer.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    if (n > 0) return true;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    status = Status::hangup;  // end of file, or the terminal has gone
    return false;
  }
}

// True when the line is to be left.
bool LineEditor::Impl::handle_signals() {
  char drain[64];
  while (job_pipe[0] >= 0 && ::read(job_pipe[0], drain, sizeof drain) > 0) {}
  if (suspend_asked.exchange(false)) suspend();
  if (continued.exchange(false)) {
    // Whoever had the terminal meanwhile may have changed its modes.
    begin();
    el_wset(el.get(), EL_REFRESH);
  }
  if (resized.exchange(false)) {
    go_to_prompt();
    el_resize(el.get());
    el_wset(el.get(), EL_REFRESH);
  }
  if (options.wake_descriptor < 0 || !options.on_wake) return false;
  pollfd wake{options.wake_descriptor, POLLIN, 0};
  if (::poll(&wake, 1, 0) <= 0) return false;
  const Wake meaning = options.on_wake();
  if (meaning == Wake::nothing) return false;
  status = meaning == Wake::interrupt ? Status::interrupt : Status::leave;
  return true;
}

// Moves the cursor to where the prompt begins and clears from there. The terminal has just broken the lines anew for its
// new width, as nearly all do, so the rows between are counted at that width.
void LineEditor::Impl::go_to_prompt() {
  winsize size{};
  if (plain_terminal || ::ioctl(options.output, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return;
  const LineInfoW* line = el_wline(el.get());
  int row = 0, column = 0;
  for (const wchar_t c : prompt + std::wstring(line->buffer, line->cursor)) {
    const int width = c == L'\n' ? 0 : utf8proc_charwidth(static_cast<utf8proc_int32_t>(c));
    if (c == L'\n' || column + width > size.ws_col) ++row, column = 0;
    column += width;
  }
  if (column == size.ws_col) ++row;
  write_all(options.output, row == 0 ? std::string("\r\x1b[J") : fmt::format("\r\x1b[{}A\x1b[J", row));
}

void LineEditor::Impl::suspend() {
  el_wset(el.get(), EL_PREP_TERM, 0);
  restore_terminal();
  write_all(options.output, "\n");
  stop_here();
  continued.store(true);
}

void LineEditor::Impl::begin() {
  // Before the prompt is seen: keys typed at once must not be echoed by the terminal.
  el_wset(el.get(), EL_PREP_TERM, 1);
  if (plain_terminal) return;
  found.paste.store(true);
  write_all(options.output, kPasteOn);
}

void LineEditor::Impl::end() {
  el_wset(el.get(), EL_PREP_TERM, 0);
  if (!quiet.load()) return restore_terminal();
  if (found.paste.exchange(false)) write_all(options.output, kPasteOff);
  ::tcsetattr(options.input, TCSADRAIN, &quiet_modes);
}

// One character for libedit. A line that is to be left ends like one that was typed, so that the cursor moves below it.
int LineEditor::Impl::next(wchar_t* c) {
  // At most 4 bytes make a character; they may arrive in pieces.
  std::string bytes;
  for (;;) {
    if (taken == buffer.size() && !fill()) {
      *c = L'\r';
      return 1;
    }
    bytes += buffer[taken++];
    utf8proc_int32_t code = 0;
    const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()),
                                    static_cast<utf8proc_ssize_t>(bytes.size()), &code);
    const auto lead = static_cast<unsigned char>(bytes[0]);
    const std::size_t want = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
    if (n > 0) {
      *c = static_cast<wchar_t>(code);
      return 1;
    }
    const bool tail = bytes.size() == 1 || (static_cast<unsigned char>(bytes.back()) & 0xC0) == 0x80;
    if (tail && bytes.size() < want) continue;
    if (bytes.size() > 1 && !tail) --taken;  // it begins the next one
    *c = 0xFFFD;
    return 1;
  }
}

std::string LineEditor::Impl::read_paste() {
  static constexpr std::string_view kEnd = "\x1b[201~";
  std::string text;
  for (;;) {
    if (taken == buffer.size() && !fill()) return text;
    // Looked for from a little before what is new: the mark may be split.
    const std::size_t from = text.size() < kEnd.size() ? 0 : text.size() - kEnd.size();
    text.append(buffer, taken);
    taken = buffer.size();
    const std::size_t end = text.find(kEnd, from);
    if (end == text.npos) continue;
    taken = buffer.size() - (text.size() - end - kEnd.size());
    text.resize(end);
    return text;
  }
}

std::string LineEditor::Impl::line_to_cursor() const {
  const LineInfoW* line = el_wline(el.get());
  return to_narrow(line->buffer, line->cursor);
}

unsigned char LineEditor::Impl::insert_newline() {
  return el_winsertstr(el.get(), L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

unsigned char LineEditor::Impl::control_d() {
  const LineInfoW* line = el_wline(el.get());
  if (line->buffer == line->lastchar) {
    status = Status::end;
    el_wpush(el.get(), L"\r");
    return CC_NORM;
  }
  if (line->cursor == line->lastchar) return CC_ERROR;
  el_cursor(el.get(), 1);
  el_deletestr(el.get(), 1);
  return CC_REFRESH;
}

// Up and down move inside a message of several lines, and beyond its ends through history.
unsigned char LineEditor::Impl::vertical(bool up) {
  const LineInfoW* line = el_wline(el.get());
  const std::wstring_view text(line->buffer, static_cast<std::size_t>(line->lastchar - line->buffer));
  const auto cursor = static_cast<std::size_t>(line->cursor - line->buffer);
  const std::size_t before = cursor == 0 ? text.npos : text.rfind(L'\n', cursor - 1);
  const std::size_t start = before == text.npos ? 0 : before + 1, column = cursor - start;
  std::size_t target;
  if (up) {
    if (before == text.npos) return el_wpush(el.get(), L"\x10"), static_cast<unsigned char>(CC_NORM);
    const std::size_t previous = before == 0 ? text.npos : text.rfind(L'\n', before - 1);
    target = std::min(before, (previous == text.npos ? 0 : previous + 1) + column);
  } else {
    const std::size_t next_line = text.find(L'\n', cursor);
    if (next_line == text.npos) return el_wpush(el.get(), L"\x0e"), static_cast<unsigned char>(CC_NORM);
    target = std::min(std::min(text.find(L'\n', next_line + 1), text.size()), next_line + 1 + column);
  }
  el_cursor(el.get(), static_cast<int>(target) - static_cast<int>(cursor));
  return CC_CURSOR;
}

void LineEditor::Impl::list(const std::vector<std::string>& words) {
  constexpr std::size_t kMost = 100;
  winsize size{};
  const int columns = ::ioctl(options.output, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  int widest = 1;
  for (const std::string& w : words) widest = std::max(widest, display_width(w));
  const int across = std::max(1, columns / (widest + 2));
  std::string text = "\r\n";
  for (std::size_t i = 0; i < std::min(words.size(), kMost); ++i) {
    const std::string shown = sanitise(words[i], false);
    const bool last = (i + 1) % static_cast<std::size_t>(across) == 0 || i + 1 == words.size();
    text += shown + (last ? "\r\n" : std::string(static_cast<std::size_t>(std::max(1, widest + 2 - display_width(shown))), ' '));
  }
  if (words.size() > kMost) text += fmt::format("\r\n({} more)\r\n", words.size() - kMost);
  write_all(options.output, text);
}

unsigned char LineEditor::Impl::complete() {
  if (!options.complete) return CC_ERROR;
  const std::string line = line_to_cursor();
  const Completion found_words = options.complete(line);
  if (found_words.words.empty() || found_words.begin > line.size()) return CC_ERROR;
  std::string common = found_words.words.front();
  for (const std::string& w : found_words.words)
    common.resize(static_cast<std::size_t>(std::mismatch(common.begin(), common.end(), w.begin(), w.end()).first - common.begin()));
  const std::string typed = line.substr(found_words.begin);
  const bool sole = found_words.words.size() == 1;
  if (!common.starts_with(typed)) return CC_ERROR;
  std::string add = common.substr(typed.size());
  if (sole && found_words.finished) add += ' ';
  if (!add.empty()) return el_winsertstr(el.get(), to_wide(add).c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  if (sole) return CC_ERROR;
  list(found_words.words);
  return CC_REDISPLAY;
}

void LineEditor::Impl::bind_keys() {
  const auto add = [&](const wchar_t* name, KeyFunction fn) { el_wset(el.get(), EL_ADDFN, name, name, fn); };
  add(L"fathom-newline", [](EditLine* e, wint_t) { return of(e).insert_newline(); });
  add(L"fathom-end", [](EditLine* e, wint_t) { return of(e).control_d(); });
  add(L"fathom-up", [](EditLine* e, wint_t) { return of(e).vertical(true); });
  add(L"fathom-down", [](EditLine* e, wint_t) { return of(e).vertical(false); });
  add(L"fathom-complete", [](EditLine* e, wint_t) { return of(e).complete(); });
  add(L"fathom-interrupt", [](EditLine* e, wint_t) -> unsigned char {
    of(e).status = Status::interrupt;
    el_wpush(e, L"\r");
    return CC_NORM;
  });
  add(L"fathom-suspend", [](EditLine* e, wint_t) -> unsigned char {
    of(e).suspend();
    return of(e).handle_signals() ? CC_NORM : CC_REDISPLAY;
  });
  add(L"fathom-paste", [](EditLine* e, wint_t) -> unsigned char {
    Impl& self = of(e);
    const std::wstring text = to_wide(clean_paste(self.read_paste()));
    if (self.status != Status::message) el_wpush(e, L"\r");
    return el_winsertstr(e, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  });
  static constexpr const wchar_t* kKeys[][2] = {
      {L"^C", L"fathom-interrupt"}, {L"^D", L"fathom-end"},        {L"^Z", L"fathom-suspend"},
      {L"^J", L"fathom-newline"},   {L"\\e\\r", L"fathom-newline"}, {L"\\e\\n", L"fathom-newline"},
      {L"^M", L"ed-newline"},       {L"^I", L"fathom-complete"},   {L"\\e[200~", L"fathom-paste"},
      {L"\\e[A", L"fathom-up"},     {L"\\eOA", L"fathom-up"},      {L"\\e[B", L"fathom-down"},
      {L"\\eOB", L"fathom-down"},   {L"^P", L"ed-prev-history"},   {L"^N", L"ed-next-history"},
      {L"^R", L"em-inc-search-prev"}, {L"^W", L"ed-delete-prev-word"}, {L"^\\", L"ed-ignore"},
      {L"\\e[3~", L"ed-delete-next-char"}, {L"\\e[H", L"ed-move-to-beg"}, {L"\\e[F", L"ed-move-to-end"},
      {L"\\eOH", L"ed-move-to-beg"}, {L"\\eOF", L"ed-move-to-end"}, {L"\\e[1~", L"ed-move-to-beg"},
      {L"\\e[4~", L"ed-move-to-end"}, {L"\\e[1;5C", L"em-next-word"}, {L"\\e[1;5D", L"ed-prev-word"},
      {L"\\e[C", L"ed-next-char"},  {L"\\e[D", L"ed-prev-char"},   {L"\\eOC", L"ed-next-char"},
      {L"\\eOD", L"ed-prev-char"},
  };
  for (const auto& key : kKeys) el_wset(el.get(), EL_BIND, key[0], key[1], nullptr);
}

void LineEditor::Impl::set_up() {
  use_utf8_locale();
  remember(options.input);
  const auto open = [](int fd, const char* mode) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    FILE* f = copy < 0 ? nullptr : ::fdopen(copy, mode);
    if (f == nullptr) throw Error(Exit::io, fmt::format("cannot open the terminal: {}", std::strerror(errno)));
    return f;
  };
  in.reset(open(options.input, "r"));
  out.reset(open(options.output, "w"));
  // libedit's remarks on an unknown TERM.
  sink.reset(std::fopen("/dev/null", "we"));
  const char* term = std::getenv("TERM");
  plain_terminal = term == nullptr || *term == '\0' || std::strcmp(term, "dumb") == 0;
  el.reset(el_init_fd("fathom", in.get(), out.get(), sink ? sink.get() : out.get(), options.input, options.output,
                      sink ? ::fileno(sink.get()) : options.output));
  past.reset(history_winit());
  if (!el || !past) throw Error(Exit::failure, "the line editor cannot use this terminal");
  el_wset(el.get(), EL_CLIENTDATA, this);
  el_wset(el.get(), EL_SIGNAL, 0);
  el_wset(el.get(), EL_EDITOR, L"emacs");
  el_wset(el.get(), EL_GETCFN, +[](EditLine* e, wchar_t* c) { return of(e).next(c); });
  el_wset(el.get(), EL_PROMPT, +[](EditLine* e) { return of(e).prompt.data(); });
  // Enter is CR and Ctrl-J is LF; Ctrl-C, Ctrl-Z and Ctrl-\ are keys, so that none of them can leave the terminal raw.
  el_wset(el.get(), EL_SETTY, L"-d", L"-icrnl", L"-inlcr", L"-isig", nullptr);
  HistEventW event;
  history_w(past.get(), &event, H_SETSIZE, static_cast<int>(fathom::History::kMaxLines));
  el_wset(el.get(), EL_HIST, history_w, past.get());
  bind_keys();
  load_history();
}

void LineEditor::Impl::load_history() {
  HistEventW event;
  history_w(past.get(), &event, H_CLEAR);
  for (const std::string& line : history.lines()) history_w(past.get(), &event, H_ENTER, to_wide(clean_paste(line)).c_str());
}

LineEditor::Result LineEditor::Impl::read_line(std::string_view text, std::string_view initial) {
  const JobSignals job_signals;
  prompt = to_wide(text);
  status = Status::message;
  el_reset(el.get());
  begin();
  if (!initial.empty()) el_wpush(el.get(), to_wide(clean_paste(initial)).c_str());
  int count = 0;
  const wchar_t* line = el_wgets(el.get(), &count);
  end();
  Result r{status, {}};
  if (line == nullptr) return r.status = r.status == Status::message ? Status::hangup : r.status, r;
  r.text = to_narrow(line, line + count);
  if (!r.text.empty() && (r.text.back() == '\n' || r.text.back() == '\r')) r.text.pop_back();
  return r;
}

LineEditor::LineEditor(fathom::History& history, LineEditorOptions options)
    : impl_(std::make_unique<Impl>(history, std::move(options))) {
  impl_->set_up();
}

LineEditor::~LineEditor() {
  impl_->el.reset();
  // libedit has put its own idea of the first modes there.
  if (quiet.load())
    ::tcsetattr(impl_->options.input, TCSADRAIN, &quiet_modes);
  else
    restore_terminal();
}

LineEditor::Result LineEditor::read(std::string_view prompt, std::string_view initial) {
  Result r = impl_->read_line(prompt, initial);
  if (r.status != Status::message) return r;
  const std::string_view first = trimmed(r.text);
  const bool fenced = first.starts_with(kFence) && (first.size() < 6 || !first.ends_with(kFence));
  if (first.starts_with(kFence) && !fenced) {
    r.text = std::string(trimmed(first.substr(3, first.size() - 6)));
  } else if (fenced) {
    std::string text(first.substr(3));
    for (;;) {
      const Result more = impl_->read_line("... ", {});
      if (more.status != Status::message) return {more.status, text};
      std::string_view line = more.text;
      const std::string_view end = trimmed(line);
      const bool closing = end.ends_with(kFence);
      if (closing) line = end.substr(0, end.size() - 3);
      if (!text.empty() && !(closing && line.empty())) text += '\n';
      text += line;
      if (closing) break;
    }
    r.text = std::move(text);
  }
  impl_->history.add(r.text);
  impl_->load_history();
  return r;
}

// -- keys during an answer ----------------------------------------------------------------------------------------

struct QuietKeys::State {
  int terminal;
  struct sigaction before_stop {}, before_continue {};
};

namespace {

void on_continue(int) {
  const int e = errno;
  if (quiet.load()) ::tcsetattr(found.terminal.load(), TCSADRAIN, &quiet_modes);
  errno = e;
}

// Ctrl-Z during an answer: the shell gets the terminal as it was, and we take it again when we go on.
void on_stop(int) {
  const int e = errno;
  restore_terminal();
  struct sigaction standard {}, ours {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGTSTP, &standard, &ours);
  sigset_t stop, before;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTSTP);
  ::raise(SIGTSTP);
  ::pthread_sigmask(SIG_UNBLOCK, &stop, &before);  // stops here
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::sigaction(SIGTSTP, &ours, nullptr);
  on_continue(0);
  errno = e;
}

}  // namespace

QuietKeys::QuietKeys(int terminal) : state_(std::make_unique<State>(State{terminal, {}, {}})) {
  remember(terminal);
  quiet_modes = found.modes;
  quiet_modes.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  quiet_modes.c_lflag |= ISIG;
  // Enter typed ahead stays Enter for the line that is read next.
  quiet_modes.c_iflag &= ~static_cast<tcflag_t>(ICRNL | INLCR);
  quiet_modes.c_cc[VMIN] = 1;
  quiet_modes.c_cc[VTIME] = 0;
  resume();
  struct sigaction a {};
  a.sa_flags = SA_RESTART;
  ::sigemptyset(&a.sa_mask);
  a.sa_handler = on_stop;
  ::sigaction(SIGTSTP, &a, &state_->before_stop);
  a.sa_handler = on_continue;
  ::sigaction(SIGCONT, &a, &state_->before_continue);
}

void QuietKeys::pause() {
  quiet.store(false);
  restore_terminal();
}

void QuietKeys::resume() {
  if (found.terminal.load() < 0) return;
  quiet.store(true);
  ::tcsetattr(state_->terminal, TCSADRAIN, &quiet_modes);
}

QuietKeys::~QuietKeys() {
  pause();
  ::sigaction(SIGTSTP, &state_->before_stop, nullptr);
  ::sigaction(SIGCONT, &state_->before_continue, nullptr);
}

}  // namespace fathom
