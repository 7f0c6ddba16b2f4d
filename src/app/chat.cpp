#include "src/app/chat.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>

#include "src/app/answer.h"
#include "src/app/chat_commands.h"
#include "src/app/history.h"
#include "src/app/input.h"
#include "src/app/line_editor.h"
#include "src/app/load.h"
#include "src/app/progress.h"
#include "src/app/run_session.h"
#include "src/app/session.h"
#include "src/app/session_cache.h"
#include "src/app/signals.h"
#include "src/app/wrap.h"
#include "src/base/sigbus.h"
#include "src/base/text.h"
#include "src/base/utf8.h"
#include "src/engine/engine.h"
#include "src/engine/generate.h"
#include "src/engine/prompt.h"
#include "src/engine/timeline.h"

namespace fathom {
namespace {

// What one answer took, for /stats.
struct TurnStats {
  std::size_t prompt_tokens = 0, cached_tokens = 0, tokens = 0, reasoning_tokens = 0;
  double prefill_s = 0, decode_s = 0;
};

class Chat {
 public:
  Chat(App& app, const LoadedModel& model, Forward& forward, QuietKeys& keys);
  Exit run();

 private:
  Exit loop();
  void greet();
  void open_session();
  void restore_latents();
  void save_latents();
  void show_last_exchange();
  std::string prompt_text() const;
  // Handles one message; nothing to go on, else the exit code to leave with.
  std::optional<Exit> handle(const std::string& message);
  std::optional<Exit> command(Slash command, const std::string& argument);
  std::optional<Exit> ask(std::string text);
  std::optional<Exit> answer();
  void keep(SessionMessage message);
  void rewrite();
  void stop_saving(const Error& e);
  void say(std::string_view text);

  GenerationRequest request() const;
  Prompt prompt() const;
  bool fits(std::size_t tokens);
  void finish_turn(const GenerationResult& result);
  void drop_turn();

  void system_command(const std::string& argument);
  void set_system(std::optional<std::string> text);
  void set_thinking(bool on);
  void attach(const std::string& path);
  void set(const std::string& argument);
  void show_settings();
  void show_stats();
  void undo();
  std::optional<Exit> retry();
  std::optional<std::string> edit();
  void load(const std::string& path);
  SessionHeader header() const;
  std::string expand(const std::string& path) const;

  App& app_;
  std::string model_;  // as the user knows it
  SessionHeader header_;
  const Engine& engine_;
  Forward& forward_;
  QuietKeys& keys_;
  Timeline timeline_;
  Terminal& terminal_;
  Options settings_;  // as /set and /think have changed them
  History history_;
  std::optional<Session> session_;
  std::string sessions_folder_;
  bool warned_history_ = false;
  std::vector<SessionMessage> messages_;  // the system prompt first, if there is one
  // While /retry waits for another answer: the one there was, which stays the answer if none comes.
  std::optional<std::vector<SessionMessage>> retried_;
  std::string attached_;                  // text of /file, before the next message
  std::optional<TurnStats> stats_;
};


constexpr std::string_view kInterrupted = "interrupted";

// A file of the user's state; empty when nothing is to be kept.
std::string state_file(const App& app, std::string_view name) {
  const bool none = app.options.no_history || app.environment.no_history || !app.environment.state_dir;
  return none ? std::string() : *app.environment.state_dir + std::string(name);
}

// Runs the user's editor on `path` and waits. False when it could not be run or failed.
bool run_editor(const std::string& editor, const std::string& path) {
  const pid_t child = ::fork();
  if (child == 0) {
    // Through the shell: $VISUAL may carry arguments.
    const std::string script = editor + " \"$1\"";
    ::execl("/bin/sh", "sh", "-c", script.c_str(), "sh", path.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A file of our own in the temporary folder, removed at the end.
class ScratchFile {
 public:
  ScratchFile(const std::string& folder, std::string_view text) : path_(folder + "/fathom-XXXXXX.md") {
    const int fd = ::mkstemps(path_.data(), 3);
    if (fd < 0) throw Error(Exit::io, fmt::format("{}: cannot create a file to edit", folder));
    const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(fd);
    if (!written) throw Error(Exit::io, fmt::format("{}: cannot write", path_));
  }
  ~ScratchFile() { ::unlink(path_.c_str()); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The user's own errors and those of one turn: said, and the chat goes on.
bool forgivable(const Error& e) {
  switch (e.code()) {
    case Exit::usage:
    case Exit::not_found:
    case Exit::bad_checkpoint:
    case Exit::unsupported:
    case Exit::context: return true;
    default: return false;
  }
}

Chat::Chat(App& app, const LoadedModel& model, Forward& forward, QuietKeys& keys)
    : app_(app),
      model_(model.name),
      header_(session_header(model)),
      engine_(*model.engine),
      forward_(forward),
      keys_(keys),
      timeline_(forward),
      terminal_(app.terminal),
      settings_(app.options),
      history_(state_file(app, "/history")),
      sessions_folder_(state_file(app, "/sessions")) {
  settings_.seed = sampling_of(settings_, engine_.generation_config()).seed;
}

void Chat::say(std::string_view text) {
  Screen& out = terminal_.out();
  out.text(text, Style::dim);
  out.end_text();
  out.raw("\n");
}

SessionHeader Chat::header() const { return header_; }

std::string Chat::expand(const std::string& path) const {
  if (path.starts_with("~/") && app_.environment.home) return *app_.environment.home + path.substr(1);
  return path;
}

void Chat::greet() {
  if (terminal_.quiet()) return;
  say(fmt::format("{} on {}, context {}\n/help lists the commands, Ctrl-D leaves", model_,
                  forward_.describe(), grouped(static_cast<std::uint64_t>(timeline_.capacity()))));
}

// -- saved conversations --------------------------------------------------------------------------------------------

void Chat::open_session() {
  std::string path = settings_.session.value_or("");
  if (path.empty() && settings_.resume) {
    path = newest_session(sessions_folder_).value_or("");
    if (path.empty()) throw Error(Exit::not_found, "there is no conversation to continue", "leave out -c to begin one");
  }
  const std::string system = system_text(settings_, terminal_).value_or("");
  if (!path.empty()) {
    session_.emplace(Session::open(expand(path), header()));
    for (const std::string& note : session_->notes()) terminal_.warning(note);
    if (session_->header().model != header().model || session_->header().fingerprint != header().fingerprint)
      terminal_.warning(fmt::format("the conversation was held with {}; it goes on with {}", session_->header().model, model_));
    messages_ = session_->messages();
  }
  if (session_) restore_latents();
  if (!system.empty()) set_system(system);
  if (messages_.size() > 1) show_last_exchange();
}

// The rows of an earlier run spare reading the conversation again. Without them it only takes longer.
void Chat::restore_latents() {
  if (forward_.position_bytes() == 0) return;
  std::string why;
  const auto saved = read_latents(latent_path(session_->path()), latent_key(engine_, forward_), &why);
  if (!why.empty()) terminal_.detail(fmt::format("the saved latent cache is not used: {}", why));
  if (saved && timeline_.restore(saved->ids, saved->rows))
    terminal_.detail(fmt::format("{} tokens from the saved latent cache", saved->ids.size()));
}

void Chat::save_latents() {
  if (!session_ || timeline_.ids().size() < kLatentsWorthSaving || forward_.position_bytes() == 0) return;
  try {
    write_latents(latent_path(session_->path()), latent_key(engine_, forward_), timeline_.ids(), timeline_.save());
  } catch (const std::exception& e) {
    terminal_.detail(fmt::format("the latent cache is not saved: {}", e.what()));
  }
}

void Chat::show_last_exchange() {
  say(fmt::format("{} so far", counted(messages_.size(), "message")));
  Screen& out = terminal_.out();
  for (std::size_t i = messages_.size() >= 2 ? messages_.size() - 2 : 0; i < messages_.size(); ++i) {
    const Message& m = messages_[i].message;
    if (m.role == "system") continue;
    out.text((m.role == "user" ? "> " : "") + m.content, m.role == "user" ? Style::bold : Style::plain);
    out.end_text();
    out.raw("\n");
  }
}

// A conversation is saved from its first exchange on; a disk that fails costs the saving, not the talk.
void Chat::keep(SessionMessage message) {
  messages_.push_back(message);
  try {
    if (session_) {
      session_->append(std::move(message));
    } else if (!sessions_folder_.empty()) {
      session_.emplace(Session::open(new_session_path(sessions_folder_, std::time(nullptr)), header()));
      session_->replace(messages_, header());
    }
  } catch (const Error& e) {
    stop_saving(e);
  }
}

void Chat::stop_saving(const Error& e) {
  terminal_.warning(fmt::format("the conversation is no longer saved: {}", e.what()));
  session_.reset();
  sessions_folder_.clear();
}

// After a change of what was said before.
void Chat::rewrite() {
  if (!session_) return;
  try {
    session_->replace(messages_, header());
  } catch (const Error& e) {
    stop_saving(e);
  }
}

void Chat::load(const std::string& path) {
  SessionText text = load_session(expand(path));
  for (const std::string& note : text.notes) terminal_.warning(note);
  if (text.header.fingerprint != header().fingerprint)
    terminal_.warning(fmt::format("the conversation was held with {}; it goes on with {}", text.header.model, model_));
  session_.reset();  // what follows is a conversation of its own
  messages_ = std::move(text.messages);
  show_last_exchange();
}

// -- one turn -------------------------------------------------------------------------------------------------------

Prompt Chat::prompt() const {
  std::vector<Message> messages;
  for (const SessionMessage& m : messages_) messages.push_back(m.message);
  return chat_prompt(engine_, messages, settings_.think);
}

GenerationRequest Chat::request() const {
  GenerationRequest r;
  r.sampling = sampling_of(settings_, engine_.generation_config());
  r.max_tokens = settings_.max_tokens;
  r.stop = settings_.stop;
  r.ignore_eos = settings_.ignore_eos;
  r.think_budget = settings_.think_budget;
  return r;
}

// Nothing is ever dropped unasked: a turn that leaves no room for an answer is refused.
bool Chat::fits(std::size_t tokens) {
  const auto capacity = static_cast<std::size_t>(timeline_.capacity());
  if (tokens < capacity) return true;
  terminal_.error(fmt::format("this turn does not fit: the conversation would have {} tokens, the context holds {}",
                              grouped(tokens), grouped(capacity)),
                  attached_.empty() ? "/new begins a new conversation, /undo drops the last exchange"
                                    : fmt::format("/undo drops the attached text of {}", counted(attached_.size(), "byte")));
  return false;
}

std::optional<Exit> Chat::ask(std::string text) {
  if (!attached_.empty()) text = attached_ + "\n\n" + text;
  SessionMessage message;
  message.message.role = "user";
  message.message.content = to_utf8(text);
  messages_.push_back(message);
  try {
    const bool fitting = fits(prompt().ids.size());
    messages_.pop_back();
    if (!fitting) return std::nullopt;
  } catch (const Error&) {
    messages_.pop_back();
    throw;
  }
  attached_.clear();
  keep(std::move(message));
  return answer();
}

std::optional<Exit> Chat::answer() {
  GenerationRequest r = request();
  r.prompt = prompt();
  const std::unique_ptr<AnswerView> view = make_terminal_view(settings_, terminal_);
  std::optional<Progress> reading(std::in_place, terminal_, "reading");
  GenerationEvents events;
  events.prefill = [&](std::size_t done, std::size_t total) {
    if (done < total) return reading->count(done, total, "tokens");
    reading.reset();
  };
  events.reasoning = [&](std::string_view t) { view->reasoning(t); };
  events.content = [&](std::string_view t) { view->content(t); };
  events.step = [&](std::size_t n, bool thinking) { view->step(n, thinking); };
  events.poll = []() -> std::optional<FinishReason> {
    return signals::stop_requested() ? std::optional(FinishReason::interrupted) : std::nullopt;
  };
  signals::set_mode(signals::Mode::stop);
  const TextModel model{engine_.tokenizer(), engine_.stop_ids(), engine_.valid_ids()};
  GenerationResult result;
  try {
    result = generate(timeline_, model, r, events);
    reading.reset();
    view->finish(result);
  } catch (const Error& e) {
    // A Ctrl-C that met a blocked terminal: what was generated is lost with the screen it was meant for.
    if (e.code() != Exit::interrupted) throw;
    result.finish_reason = FinishReason::interrupted;
  }
  reading.reset();
  signals::set_mode(signals::Mode::ask);
  finish_turn(result);
  const auto signal = signals::received();
  if (signal && *signal != Exit::interrupted) return signal;
  signals::clear();
  return std::nullopt;
}

void Chat::finish_turn(const GenerationResult& result) {
  stats_ = TurnStats{result.prompt_tokens, result.cached_tokens, result.ids.size(), result.reasoning_tokens, result.prefill_s,
                     result.decode_s};
  SessionMessage message;
  message.message.role = "assistant";
  message.message.content = result.content;
  message.message.reasoning_content = result.reasoning;
  if (result.loop_tokens != 0)
    say(fmt::format("[the thinking repeated the same {} tokens over and over and was ended]", result.loop_tokens));
  if (result.finish_reason == FinishReason::interrupted) {
    message.finish_reason = kInterrupted;
    say("[interrupted]");
  } else if (result.finish_reason == FinishReason::length) {
    message.finish_reason = "length";
    const bool asked = settings_.max_tokens && result.ids.size() >= static_cast<std::size_t>(*settings_.max_tokens);
    say(asked ? fmt::format("[stopped: reached --max-tokens {}]", *settings_.max_tokens)
              : fmt::format("[stopped: the context of {} tokens is full]", timeline_.capacity()));
  }
  const bool nothing = result.content.empty() && result.reasoning.empty();
  if (nothing && result.finish_reason == FinishReason::interrupted) return drop_turn();
  if (nothing) say("[the model ended its answer at once]");
  if (retried_) rewrite();
  retried_.reset();
  keep(std::move(message));
  if (settings_.stats) show_stats();
}

// Stopped before the first word. A new question is dropped too, and is there to be asked again (up arrow); after
// /retry all is as it was.
void Chat::drop_turn() {
  if (retried_) {
    messages_.insert(messages_.end(), retried_->begin(), retried_->end());
    retried_.reset();
    return;
  }
  messages_.pop_back();
  rewrite();
}

// -- commands -------------------------------------------------------------------------------------------------------

void Chat::system_command(const std::string& argument) {
  const bool present = !messages_.empty() && messages_.front().message.role == "system";
  if (argument.empty()) return say(present ? messages_.front().message.content : "no system prompt");
  const bool removed = argument == "-";
  set_system(removed ? std::nullopt : std::optional(argument));
  say(removed ? "the system prompt is removed" : "the system prompt is set");
}

// Nothing: no system prompt from here on.
void Chat::set_system(std::optional<std::string> text) {
  if (!messages_.empty() && messages_.front().message.role == "system") messages_.erase(messages_.begin());
  if (text) {
    SessionMessage m;
    m.message.role = "system";
    m.message.content = to_utf8(*text);
    messages_.insert(messages_.begin(), std::move(m));
  }
  rewrite();
}

// The model is asked through its template; one that cannot be asked says why.
void Chat::set_thinking(bool on) {
  Message probe;
  probe.role = "user";
  probe.content = "?";
  chat_prompt(engine_, std::span(&probe, 1), on);
  settings_.think = on;
  say(on ? "thinking on" : "thinking off");
}

void Chat::attach(const std::string& path) {
  const std::string text = read_prompt_file(expand(path), settings_.max_input, terminal_);
  if (!attached_.empty()) attached_ += "\n\n";
  attached_ += text;
  say(fmt::format("{}: {} before your next message", path, counted(text.size(), "byte")));
}

void Chat::set(const std::string& argument) {
  if (argument.empty()) return show_settings();
  const std::size_t blank = std::min(argument.find_first_of(" \t"), argument.size());
  const std::string key = argument.substr(0, blank);
  const auto keys = set_keys();
  if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
    const std::string near = nearest_word(key, keys);
    throw Error(Exit::usage, fmt::format("/set: unknown key {:?}", key),
                near.empty() ? "Tab lists the keys" : fmt::format("did you mean {}?", near));
  }
  const std::size_t value = argument.find_first_not_of(" \t", blank);
  if (value == argument.npos) throw Error(Exit::usage, fmt::format("/set {}: expected a value", key));
  // The same checks as on the command line.
  const std::string arguments[] = {"chat", fmt::format("--{}={}", key, argument.substr(value))};
  const Options o = make_options(parse_args(arguments));
  const auto take = [](auto& to, const auto& from) {
    if (from) to = from;
  };
  take(settings_.temp, o.temp), take(settings_.top_p, o.top_p), take(settings_.top_k, o.top_k);
  take(settings_.min_p, o.min_p), take(settings_.repeat_penalty, o.repeat_penalty);
  take(settings_.presence_penalty, o.presence_penalty), take(settings_.frequency_penalty, o.frequency_penalty);
  take(settings_.max_tokens, o.max_tokens), take(settings_.think_budget, o.think_budget);
  take(settings_.seed, o.seed);
  if (!o.stop.empty()) settings_.stop = o.stop;
  show_settings();
}

void Chat::show_settings() {
  const GenerationRequest r = request();
  const SamplingParams& s = r.sampling;
  std::string text = fmt::format("temp {}, top-p {}, top-k {}, min-p {}\n"
                                 "repeat-penalty {}, presence-penalty {}, frequency-penalty {}\nseed {}",
                                 s.temperature, s.top_p, s.top_k, s.min_p, s.repeat_penalty, s.presence_penalty,
                                 s.frequency_penalty, s.seed);
  if (r.max_tokens) text += fmt::format(", max-tokens {}", *r.max_tokens);
  if (r.think_budget) text += fmt::format(", think-budget {}", *r.think_budget);
  for (const std::string& stop : r.stop) text += fmt::format(", stop {:?}", stop);
  if (settings_.think) text += *settings_.think ? ", think on" : ", think off";
  say(text);
}

void Chat::show_stats() {
  if (!stats_) return say("no answer yet");
  const TurnStats& s = *stats_;
  const auto rate = [](std::size_t n, double t) { return t > 0 ? static_cast<double>(n) / t : 0.0; };
  const std::size_t read = s.prompt_tokens - std::min(s.cached_tokens, s.prompt_tokens);
  say(fmt::format("prompt {} tokens ({} cached) {}, {:.0f}/s; answer {} ({} thinking) {}, {:.1f}/s",
                  grouped(s.prompt_tokens), grouped(s.cached_tokens), duration_text(s.prefill_s), rate(read, s.prefill_s),
                  grouped(s.tokens), grouped(s.reasoning_tokens), duration_text(s.decode_s), rate(s.tokens, s.decode_s)));
}

void Chat::undo() {
  if (!attached_.empty()) {
    say(fmt::format("dropped: the attached text of {}", counted(attached_.size(), "byte")));
    return attached_.clear();
  }
  const auto spoken = [](const SessionMessage& m) { return m.message.role != "system"; };
  if (messages_.empty() || !spoken(messages_.back())) return say("there is nothing to undo");
  std::string dropped;
  while (!messages_.empty() && spoken(messages_.back())) {
    const bool question = messages_.back().message.role == "user";
    dropped = messages_.back().message.content;
    messages_.pop_back();
    if (question) break;
  }
  rewrite();
  if (dropped.size() > 60) {
    dropped.resize(57);
    dropped = to_utf8(dropped) + "...";
  }
  say(fmt::format("dropped: {}", sanitise(dropped, false)));
}

std::optional<Exit> Chat::retry() {
  const auto said = [](const SessionMessage& m) { return m.message.role == "assistant"; };
  const auto question = std::find_if_not(messages_.rbegin(), messages_.rend(), said);
  if (question == messages_.rend() || question->message.role != "user") {
    say("there is nothing to answer again");
    return std::nullopt;
  }
  retried_.emplace(question.base(), messages_.end());
  messages_.erase(question.base(), messages_.end());
  *settings_.seed += std::uint64_t{1} << 32;  // draws of another sequence at every position
  try {
    return answer();
  } catch (const Error&) {
    if (retried_) drop_turn();
    throw;
  }
}

std::optional<std::string> Chat::edit() {
  const Environment& e = app_.environment;
  const std::string editor = e.visual ? *e.visual : e.editor ? *e.editor : "vi";
  const ScratchFile file(e.tmpdir, "");
  keys_.pause();
  const bool edited = run_editor(editor, file.path());
  keys_.resume();
  if (!edited) {
    terminal_.warning(fmt::format("the editor {:?} failed; nothing was sent", editor));
    return std::nullopt;
  }
  std::string text = clean_paste(read_file(file.path(), settings_.max_input));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (text.empty()) return say("an empty message is not sent"), std::nullopt;
  history_.add(text);
  Screen& out = terminal_.out();
  out.text(text, Style::bold);
  out.end_text();
  out.raw("\n");
  return text;
}

std::optional<Exit> Chat::command(Slash command, const std::string& argument) {
  switch (command) {
    case Slash::help: terminal_.out().raw(wrap(slash_help(), static_cast<std::size_t>(terminal_.out().width()))); break;
    case Slash::exit: return Exit::ok;
    case Slash::new_conversation:
      std::erase_if(messages_, [](const SessionMessage& m) { return m.message.role != "system"; });
      session_.reset();
      attached_.clear();
      say("a new conversation");
      break;
    case Slash::system: system_command(argument); break;
    case Slash::file: attach(argument); break;
    case Slash::edit:
      if (auto text = edit()) return ask(std::move(*text));
      break;
    case Slash::retry: return retry();
    case Slash::undo: undo(); break;
    case Slash::think: set_thinking(argument == "on"); break;
    case Slash::show_thinking:
      settings_.show_thinking = argument == "full"      ? ThinkingDisplay::full
                                : argument == "summary" ? ThinkingDisplay::summary
                                : argument == "hidden"  ? ThinkingDisplay::hidden
                                                        : ThinkingDisplay::automatic;
      say(fmt::format("thinking is shown: {}", argument));
      break;
    case Slash::set: set(argument); break;
    case Slash::stats: show_stats(); break;
    case Slash::tokens:
      say(fmt::format("{} of {} tokens are used", grouped(timeline_.ids().size()), grouped(static_cast<std::uint64_t>(timeline_.capacity()))));
      break;
    case Slash::save:
      save_session(expand(argument), header(), messages_);
      say(fmt::format("{} saved to {}", counted(messages_.size(), "message"), argument));
      break;
    case Slash::load: load(argument); break;
  }
  return std::nullopt;
}

// -- the loop -------------------------------------------------------------------------------------------------------

// Past three quarters of the context the prompt shows how full it is.
std::string Chat::prompt_text() const {
  const double used = static_cast<double>(timeline_.ids().size()) / static_cast<double>(timeline_.capacity());
  return used > 0.75 ? fmt::format("[context {:.0f} %] > ", 100 * used) : "> ";
}

std::optional<Exit> Chat::handle(const std::string& message) {
  const Typed typed = parse_typed(message);
  try {
    switch (typed.kind) {
      case Typed::Kind::nothing: return std::nullopt;
      case Typed::Kind::wrong: terminal_.error(typed.text, ""); return std::nullopt;
      case Typed::Kind::text: return ask(typed.text);
      case Typed::Kind::command: return command(typed.command, typed.text);
    }
  } catch (const Error& e) {
    const bool disk = e.code() == Exit::io && typed.kind == Typed::Kind::command;  // /save to a full disk
    if (!forgivable(e) && !disk) throw;
    terminal_.error(e.what(), e.remedy());
  }
  return std::nullopt;
}

Exit Chat::run() {
  greet();
  open_session();
  const Exit code = loop();
  save_latents();
  return code;
}

Exit Chat::loop() {
  LineEditorOptions options;
  options.colour = terminal_.out().colour();
  options.wake_descriptor = signals::wake_descriptor();
  options.on_wake = [] {
    const auto signal = signals::received();
    if (!signal) return signals::clear(), Wake::nothing;
    if (*signal != Exit::interrupted) return Wake::leave;
    signals::clear();
    return Wake::interrupt;
  };
  options.complete = [home = app_.environment.home.value_or("")](std::string_view line) { return complete_chat(line, home); };
  LineEditor editor(history_, std::move(options));
  std::chrono::steady_clock::time_point asked_to_leave{};  // never
  for (;;) {
    signals::set_mode(signals::Mode::ask);
    const LineEditor::Result r = editor.read(prompt_text());
    if (!warned_history_ && !history_.warning().empty()) {
      warned_history_ = true;
      terminal_.warning(history_.warning());
    }
    const auto now = std::chrono::steady_clock::now();
    switch (r.status) {
      case LineEditor::Status::end: return Exit::ok;
      case LineEditor::Status::hangup: return Exit::hangup;
      case LineEditor::Status::leave: return signals::received().value_or(Exit::terminated);
      case LineEditor::Status::interrupt:
        if (!r.text.empty()) break;
        if (now - asked_to_leave < std::chrono::seconds(2)) return Exit::interrupted;
        asked_to_leave = now;
        say("press Ctrl-C again or Ctrl-D to leave");
        continue;
      case LineEditor::Status::message:
        if (const auto code = handle(r.text)) return *code;
        break;
    }
    asked_to_leave = {};
  }
}

}  // namespace

Exit chat_command(App& app) {
  if (!app.terminal.stdin_is_terminal())
    throw Error(Exit::usage, "chat needs a terminal as standard input", "for text from a pipe: fathom run, or fathom run --batch FILE");
  if (!app.terminal.out().is_terminal())
    throw Error(Exit::usage, "chat needs a terminal as standard output", "to write an answer to a file: fathom run \"...\" > FILE");
  signals::set_restore(restore_terminal);
  sigbus::on_exit(restore_terminal);
  QuietKeys keys(STDIN_FILENO);
  const LoadedModel model = load_model(app);
  const std::unique_ptr<Forward> forward = forward_of(app, *model.engine);
  forward->stop_requested = signals::stop_requested;
  return Chat(app, model, *forward, keys).run();
}

}  // namespace fathom
