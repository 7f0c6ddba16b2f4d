#include "src/app/batch.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "src/app/config_file.h"
#include "src/app/input.h"
#include "src/app/load.h"
#include "src/app/progress.h"
#include "src/app/record.h"
#include "src/app/signals.h"
#include "src/app/wrap.h"
#include "src/base/descriptor.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/engine/generate.h"
#include "src/engine/prompt.h"

namespace fathom {
namespace {

constexpr auto kFields = std::to_array<std::string_view>(
    {"custom_id", "messages", "prompt", "ids", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty",
     "presence_penalty", "frequency_penalty", "seed", "stop", "think"});

[[noreturn]] void refuse(std::string_view field, std::string_view expected, const json::Value& found) {
  throw Error(Exit::usage, fmt::format("{}: expected {}, found {}", field, expected, found.describe()));
}

std::int64_t integer(const json::Value& v, std::string_view field, std::int64_t lo, std::int64_t hi) {
  const auto n = v.integer_in(lo, hi);
  if (!n) refuse(field, fmt::format("an integer from {} to {}", lo, hi), v);
  return *n;
}

float number(const json::Value& v, std::string_view field, double lo, double hi) {
  // NaN fails both comparisons.
  if (!v.is_number() || !(v.as_number() >= lo && v.as_number() <= hi))
    refuse(field, fmt::format("a number from {} to {}", lo, hi), v);
  return static_cast<float>(v.as_number());
}

std::vector<std::string> stops(const json::Value& v) {
  std::vector<std::string> out;
  if (v.is_string()) out.push_back(v.as_string());
  if (v.is_array())
    for (const json::Value& s : v.as_array()) {
      if (!s.is_string()) refuse("stop", "strings", s);
      out.push_back(s.as_string());
    }
  if (!v.is_string() && !v.is_array()) refuse("stop", "a string or an array of strings", v);
  if (std::find(out.begin(), out.end(), "") != out.end()) refuse("stop", "strings that are not empty", v);
  return out;
}

std::vector<std::int32_t> token_ids(const json::Value& v) {
  if (!v.is_array() || v.as_array().empty()) refuse("ids", "an array of token ids", v);
  std::vector<std::int32_t> out;
  for (const json::Value& id : v.as_array())
    out.push_back(static_cast<std::int32_t>(integer(id, "ids", 0, std::numeric_limits<std::int32_t>::max())));
  return out;
}

Message system_message(const std::string& text) {
  Message m;
  m.role = "system";
  m.content = text;
  return m;
}

std::vector<Message> prompt_message(const json::Value& v) {
  if (!v.is_string() || v.as_string().empty()) refuse("prompt", "text", v);
  Message m;
  m.role = "user";
  m.content = v.as_string();
  return {std::move(m)};
}

// One member of the request. The sampling limits are those of the flags (parse.cpp).
void take(BatchRequest& r, std::string_view key, const json::Value& v) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  SamplingParams& s = r.sampling;
  if (key == "messages") r.messages = parse_messages(json::dump(v), "messages");
  if (key == "prompt") r.messages = prompt_message(v);
  if (key == "ids") r.ids = token_ids(v);
  if (key == "max_tokens") r.max_tokens = integer(v, key, 1, kMost);
  if (key == "temperature") s.temperature = number(v, key, 0, 100);
  if (key == "top_p") s.top_p = number(v, key, 0, 1);
  if (key == "top_k") s.top_k = static_cast<int>(integer(v, key, 0, kMost));
  if (key == "min_p") s.min_p = number(v, key, 0, 1);
  if (key == "repeat_penalty") s.repeat_penalty = number(v, key, 0.01, 100);
  if (key == "presence_penalty") s.presence_penalty = number(v, key, -100, 100);
  if (key == "frequency_penalty") s.frequency_penalty = number(v, key, -100, 100);
  if (key == "stop") r.stop = stops(v);
  if (key == "seed") {
    const auto seed = v.as_u64();
    if (!seed) refuse(key, "an integer from 0 to 2^64 - 1", v);
    s.seed = *seed;
  }
  if (key == "think") {
    if (!v.is_bool()) refuse(key, "true or false", v);
    r.think = v.as_bool();
  }
}

// Lines of a file too large to hold: one at a time, without their ends. A line over `limit` comes cut, marked so.
class LineReader {
 public:
  LineReader(const std::string& path, std::size_t limit) : file_(File::open_read(path)), limit_(limit) {}

  struct Line {
    std::string text;
    bool too_long = false, ended = false;
    std::uint64_t end = 0;  // offset behind it
  };
  std::optional<Line> next() {
    Line line;
    bool any = false;
    for (;;) {
      if (at_ == buffer_.size() && !fill()) break;
      any = true;
      const std::size_t end = std::min(buffer_.find('\n', at_), buffer_.size());
      const std::size_t take = std::min(end - at_, limit_ - std::min(limit_, line.text.size()));
      line.text.append(buffer_, at_, take);
      line.too_long = line.too_long || take < end - at_;
      line.ended = end < buffer_.size();
      at_ = end + (line.ended ? 1 : 0);
      if (line.ended) break;
    }
    if (!any) return std::nullopt;
    line.end = read_ - (buffer_.size() - at_);
    if (line.text.ends_with('\r')) line.text.pop_back();
    return line;
  }

 private:
  bool fill() {
    const std::uint64_t left = file_.size() - read_;
    buffer_.resize(std::min<std::uint64_t>(left, 1u << 20));
    at_ = 0;
    if (buffer_.empty()) return false;
    file_.read_at(read_, std::as_writable_bytes(std::span(buffer_)));
    read_ += buffer_.size();
    return true;
  }
  File file_;
  std::size_t limit_;
  std::string buffer_;
  std::size_t at_ = 0;
  std::uint64_t read_ = 0;
};

bool blank(std::string_view s) { return s.find_first_not_of(" \t\r") == s.npos; }

// A record of an earlier run: its custom_id unless it is an error or none of ours.
std::optional<std::string> finished_id(std::string_view line) {
  try {
    const json::Value v = json::parse(line, "record");
    const json::Value* id = v.find("custom_id");
    if (id != nullptr && id->is_string() && v.find("error") == nullptr) return id->as_string();
  } catch (const Error&) {
    // A line that somebody else wrote: not one of the requests.
  }
  return std::nullopt;
}

// Where records go: standard output, or a file under a lock with one synced write per record.
class Records {
 public:
  Records(const Options& options, Terminal& terminal) : terminal_(terminal) {
    if (!options.output) return;
    file_.emplace(*options.output, 0644, AppendFile::Links::follow);
    if (!file_->lock(false))
      throw Error(Exit::io, fmt::format("{}: another fathom is writing it", *options.output), "wait for it, or name another file").at(*options.output);
    if (file_->size() == 0) file_->sync_name();
    resume(*options.output);
  }
  bool done(const std::string& id) const { return done_.contains(id); }
  std::size_t done_count() const { return done_.size(); }
  void write(const std::string& record) {
    if (file_) return file_->append(record + "\n", true);
    terminal_.progress("");
    terminal_.out().raw(record + "\n");
  }

 private:
  void resume(const std::string& path) {
    LineReader reader(path, std::size_t{1} << 30);
    std::uint64_t good = 0;
    while (const auto line = reader.next()) {
      if (!line->ended) break;  // torn by a crash
      good = line->end;
      if (auto id = finished_id(line->text)) done_.insert(std::move(*id));
    }
    if (good < file_->size()) file_->truncate(good);
  }
  Terminal& terminal_;
  std::optional<AppendFile> file_;
  std::set<std::string> done_;
};

class Batch {
 public:
  explicit Batch(App& app)
      : app_(app),
        reader_(*app.options.batch, static_cast<std::size_t>(app.options.max_input)),
        records_(app.options, app.terminal),
        model_(load_model(app)),
        forward_(forward_of(app, *model_.engine)),
        timeline_(*forward_),
        defaults_(sampling_of(app.options, model_.engine->generation_config())) {
    system_ = system_text(app.options, app.terminal).value_or("");
    forward_->stop_requested = signals::stop_requested;
    signals::set_mode(signals::Mode::stop);
  }
  Exit run();

 private:
  // True when the line was answered with an error.
  bool line(const LineReader::Line& line, std::size_t number);
  std::string answer(const BatchRequest& r);
  GenerationRequest request(const BatchRequest& r) const;
  App& app_;
  LineReader reader_;
  Records records_;
  LoadedModel model_;
  std::unique_ptr<Forward> forward_;
  Timeline timeline_;
  SamplingParams defaults_;
  std::string system_;
  std::set<std::string> seen_;
};

GenerationRequest Batch::request(const BatchRequest& r) const {
  const Options& o = app_.options;
  GenerationRequest g;
  if (r.ids) {
    check_ids(*model_.engine, *r.ids);
    g.prompt.ids = *r.ids;
  } else {
    std::vector<Message> messages = *r.messages;
    // The command line's system prompt, where the request has none of its own.
    if (!system_.empty() && messages.front().role != "system")
      messages.insert(messages.begin(), system_message(system_));
    g.prompt = chat_prompt(*model_.engine, messages, r.think ? r.think : o.think);
  }
  g.sampling = r.sampling;
  g.max_tokens = r.max_tokens ? r.max_tokens : o.max_tokens;
  g.stop = r.stop.value_or(o.stop);
  g.ignore_eos = o.ignore_eos;
  g.think_budget = o.think_budget;
  g.logprobs = o.logprobs;
  return g;
}

std::string Batch::answer(const BatchRequest& r) {
  const GenerationRequest g = request(r);
  GenerationEvents events;
  events.poll = []() -> std::optional<FinishReason> {
    const auto signal = signals::received();
    if (!signal) return std::nullopt;
    return *signal == Exit::timeout ? FinishReason::timeout : FinishReason::interrupted;
  };
  const TextModel text{model_.engine->tokenizer(), model_.engine->stop_ids(), model_.engine->valid_ids()};
  const GenerationResult result = generate(timeline_, text, g, events);
  // Half an answer is no record: the request is run again on resuming.
  if (const auto signal = signals::received()) throw Error(*signal, "the batch was stopped; run it again to go on");
  RunRecord record;
  record.model = model_.name;
  record.id = new_run_id();
  record.created = unix_time();
  record.engine = model_.engine.get();
  record.request = &g;
  record.result = &result;
  record.placement = forward_->describe();
  record.hide_thinking = app_.options.show_thinking == ThinkingDisplay::hidden;
  json::Object object = run_object(record);
  object.insert(object.begin(), {"custom_id", json::Value(r.custom_id)});
  return json::dump(json::Value(std::move(object)));
}

bool Batch::line(const LineReader::Line& line, std::size_t number) {
  const std::string id = batch_id(line.text, number);
  if (records_.done(id)) return seen_.insert(id), false;
  try {
    if (line.too_long) throw Error(Exit::usage, fmt::format("the line is longer than {} bytes", app_.options.max_input), "raise --max-input");
    const BatchRequest r = parse_batch_line(line.text, number, defaults_);
    if (!seen_.insert(id).second) throw Error(Exit::usage, fmt::format("custom_id {:?} stands twice", id));
    records_.write(answer(r));
    return false;
  } catch (const Error& e) {
    // The line's own fault is its answer; a fault of the machine or a signal ends the batch.
    const bool own = e.code() == Exit::usage || e.code() == Exit::unsupported || e.code() == Exit::context;
    if (!own) throw;
    records_.write(batch_error(id, e));
    if (app_.options.strict)
      throw Error(Exit::usage, fmt::format("{}:{}: {}", *app_.options.batch, number, e.what()), e.remedy()).at(*app_.options.batch);
    app_.terminal.detail(fmt::format("{}:{}: {}", *app_.options.batch, number, e.what()));
    return true;
  }
}

Exit Batch::run() {
  const std::size_t before = records_.done_count();
  if (before > 0) app_.terminal.notice(fmt::format("{} {} answered already", counted(before, "request"), before == 1 ? "is" : "are"));
  std::size_t number = 0, wrong = 0;
  while (const auto next = reader_.next()) {
    ++number;
    if (blank(next->text)) continue;
    app_.terminal.progress(fmt::format("request {}", number));
    if (line(*next, number)) ++wrong;
  }
  app_.terminal.progress("");
  if (wrong == 0) return Exit::ok;
  app_.terminal.warning(fmt::format("{} {} answered with errors", counted(wrong, "request"), wrong == 1 ? "was" : "were"));
  return Exit::partial;
}

}  // namespace

std::string batch_id(std::string_view line, std::size_t number) {
  try {
    const json::Value v = json::parse(line, "line");
    const json::Value* id = v.find("custom_id");
    if (id != nullptr && id->is_string() && !id->as_string().empty()) return id->as_string();
  } catch (const Error&) {
    // Said when the line is parsed for good.
  }
  return fmt::format("line-{}", number);
}

BatchRequest parse_batch_line(std::string_view line, std::size_t number, const SamplingParams& defaults) {
  const json::Value v = json::parse(line, fmt::format("line {}", number), Exit::usage);
  if (!v.is_object()) refuse("the line", "an object", v);
  BatchRequest r;
  r.custom_id = fmt::format("line-{}", number);
  r.sampling = defaults;
  int prompts = 0;
  for (const auto& [key, value] : v.as_object()) {
    if (std::find(kFields.begin(), kFields.end(), key) == kFields.end()) {
      const std::string near = nearest_word(key, kFields);
      throw Error(Exit::usage, fmt::format("unknown field {:?}", key), near.empty() ? std::string() : fmt::format("did you mean {:?}?", near));
    }
    if (key == "custom_id") {
      if (!value.is_string() || value.as_string().empty()) refuse(key, "text", value);
      r.custom_id = value.as_string();
    }
    prompts += key == "messages" || key == "prompt" || key == "ids" ? 1 : 0;
    take(r, key, value);
  }
  if (prompts != 1) throw Error(Exit::usage, "expected exactly one of messages, prompt and ids");
  return r;
}

std::string batch_error(const std::string& custom_id, const Error& error) {
  return fmt::format("{{\"custom_id\":{},{}", json::quote(custom_id), error_json(error).substr(1));
}

BatchDone parse_batch_output(std::string_view text) {
  BatchDone out;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != text.npos; at = end + 1) {
    out.good_bytes = end + 1;
    if (auto id = finished_id(text.substr(at, end - at))) out.ids.insert(std::move(*id));
  }
  return out;
}

Exit batch_command(App& app) {
  if (app.options.timeout_ms) signals::set_time_limit(*app.options.timeout_ms);  // loading counts too
  check_output_is_no_input(app.options);
  return Batch(app).run();
}

}  // namespace fathom
