// fathom eval: perplexity of a text, accuracy on questions, log-probabilities of given ids.
#include <algorithm>
#include <cmath>
#include <map>

#include "src/app/commands.h"
#include "src/app/input.h"
#include "src/app/lines.h"
#include "src/app/load.h"
#include "src/app/record.h"
#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/engine/prompt.h"

namespace fathom {
namespace {

constexpr std::uint64_t kMaxFile = std::uint64_t{1} << 32;

json::Value text(std::string_view s) { return json::Value(std::string(s)); }

// log p(ids[i] | ids before it) for i >= 1.
std::vector<double> score(Timeline& timeline, const Engine& engine, std::span<const std::int32_t> ids) {
  std::vector<double> logprobs;
  logprobs.reserve(ids.size());
  // The last token's logits predict nothing that is known.
  timeline.score(ids.first(ids.size() - 1), [&](std::size_t i, std::span<const float> logits) {
    for (float l : logits.first(static_cast<std::size_t>(engine.valid_ids())))
      if (std::isnan(l)) fail(Exit::compute, "position {}: a logit is NaN", i);
    logprobs.push_back(log_probability(logits, engine.valid_ids(), ids[i + 1]));
  });
  return logprobs;
}

// -- perplexity -----------------------------------------------------------------------------------------------------

Exit perplexity(App& app) {
  const std::string& file = app.options.positionals[0];
  const std::string content = read_prompt_file(file, kMaxFile, app.terminal);
  const LoadedModel model = load_model(app);
  const Engine& engine = *model.engine;
  const std::vector<std::int32_t> ids = plain_prompt(engine, content).ids;
  if (ids.size() < 2) throw Error(Exit::usage, fmt::format("{}: {} tokens, expected at least 2", file, ids.size()));
  const auto forward = forward_of(app, engine);
  forward->stop_requested = signals::stop_requested;
  Timeline timeline(*forward);
  // Windows of the context's length, side by side: the first token of each is given, not predicted.
  const auto window = static_cast<std::size_t>(engine.context());
  double sum = 0;
  std::size_t predicted = 0;
  for (std::size_t begin = 0; begin + 1 < ids.size(); begin += window) {
    const auto part = std::span(ids).subspan(begin, std::min(window, ids.size() - begin));
    if (part.size() < 2) break;
    for (double l : score(timeline, engine, part)) sum -= l;
    predicted += part.size() - 1;
    app.terminal.progress(fmt::format("{} of {} tokens", begin + part.size(), ids.size()));
  }
  app.terminal.progress("");
  const double nll = sum / static_cast<double>(predicted);
  if (app.options.json) {
    app.terminal.out().raw(json::dump(json::Value(json::Object{
                               {"schema", text("fathom.eval/1")},
                               {"model", text(model.name)},
                               {"tokens", json::Value(static_cast<std::int64_t>(ids.size()))},
                               {"predicted", json::Value(static_cast<std::int64_t>(predicted))},
                               {"context", json::Value(std::int64_t{engine.context()})},
                               {"nll", json::Value(nll)},
                               {"perplexity", json::Value(std::exp(nll))},
                               {"numerics", text(describe(engine.numerics()))},
                               {"fingerprint", text(engine.checkpoint().fingerprint())}})) +
                           "\n");
  } else {
    app.terminal.out().raw(fmt::format("perplexity {:.4f} over {} tokens (context {}, {})\n", std::exp(nll), predicted,
                                       engine.context(), describe(engine.numerics())));
  }
  return Exit::ok;
}

// -- log-probabilities of given ids ---------------------------------------------------------------------------------

Exit score_ids(App& app) {
  const std::string& file = *app.options.ids;
  const std::string lines = read_prompt_file(file, kMaxFile, app.terminal);
  const LoadedModel model = load_model(app, false);
  const Engine& engine = *model.engine;
  const auto forward = forward_of(app, engine);
  forward->stop_requested = signals::stop_requested;
  Timeline timeline(*forward);
  for_each_line(lines, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}:{}", file, number);
    const json::Value v = json::parse(line, where, Exit::usage);
    const json::Value* list = v.find("ids");
    if (list == nullptr || !list->is_array() || list->as_array().empty())
      throw Error(Exit::usage, fmt::format("{}: expected {{\"ids\": [...]}}, found {}", where, v.describe()));
    std::vector<std::int32_t> ids;
    for (const json::Value& e : list->as_array()) {
      const auto id = e.integer_in(0, engine.config().vocab_size - 1);
      if (!id)
        throw Error(Exit::usage, fmt::format("{}: expected ids below vocab_size {}, found {}", where,
                                             engine.config().vocab_size, e.describe()));
      ids.push_back(static_cast<std::int32_t>(*id));
    }
    json::Array logprobs;
    logprobs.emplace_back();  // nothing comes before the first
    if (ids.size() > 1)
      for (double l : score(timeline, engine, ids)) logprobs.emplace_back(l);
    app.terminal.out().raw(json::dump(json::Value(json::Object{
                               {"ids", ids_value(ids)}, {"logprobs", json::Value(std::move(logprobs))}})) +
                           "\n");
  });
  return Exit::ok;
}

// -- questions ------------------------------------------------------------------------------------------------------

struct Question {
  std::vector<Message> messages;
  std::string answer, task;
};

std::string_view trimmed(std::string_view s) {
  const auto begin = s.find_first_not_of(" \t\r\n");
  if (begin == s.npos) return {};
  return s.substr(begin, s.find_last_not_of(" \t\r\n") + 1 - begin);
}

// The last line of the content that is not blank, without white space around it: what has to equal the answer, letter
// for letter (the rule of scripts/minnow/evaluate.py).
std::string final_answer(std::string_view content) {
  content = trimmed(content);
  const auto newline = content.rfind('\n');
  return std::string(trimmed(newline == content.npos ? content : content.substr(newline + 1)));
}

std::vector<Question> read_questions(App& app, const std::string& file) {
  std::vector<Question> questions;
  for_each_line(read_prompt_file(file, kMaxFile, app.terminal), [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}:{}", file, number);
    const json::Value v = json::parse(line, where, Exit::usage);
    const json::Value *messages = v.find("messages"), *answer = v.find("answer"), *task = v.find("task");
    if (messages == nullptr || answer == nullptr || !answer->is_string() || (task != nullptr && !task->is_string()))
      throw Error(Exit::usage, fmt::format("{}: expected {{\"messages\": [...], \"answer\": \"...\", \"task\": \"...\"}}", where));
    questions.push_back({parse_messages(json::dump(*messages), where), answer->as_string(),
                         task == nullptr ? "all" : task->as_string()});
  });
  if (questions.empty()) throw Error(Exit::usage, fmt::format("{}: no questions", file));
  return questions;
}

struct Tally {
  std::int64_t right = 0, asked = 0;
  double accuracy() const { return asked == 0 ? 0 : static_cast<double>(right) / static_cast<double>(asked); }
};

json::Value tally_value(const Tally& t) {
  return json::Value(json::Object{{"right", json::Value(std::int64_t{t.right})},
                                  {"questions", json::Value(std::int64_t{t.asked})},
                                  {"accuracy", json::Value(t.accuracy())}});
}

Exit ask_questions(App& app) {
  const std::vector<Question> questions = read_questions(app, *app.options.questions);
  const LoadedModel model = load_model(app);
  const Engine& engine = *model.engine;
  const auto forward = forward_of(app, engine);
  forward->stop_requested = signals::stop_requested;
  Timeline timeline(*forward);
  const TextModel text_model{engine.tokenizer(), engine.stop_ids(), engine.valid_ids()};
  std::map<std::string, Tally> tasks;
  Tally all;
  GenerationEvents events;
  events.poll = []() -> std::optional<FinishReason> {
    return signals::stop_requested() ? std::optional(FinishReason::interrupted) : std::nullopt;
  };
  signals::set_mode(signals::Mode::stop);
  for (const Question& q : questions) {
    GenerationRequest request;
    request.prompt = chat_prompt(engine, q.messages, std::nullopt);
    request.sampling.temperature = 0;
    request.max_tokens = 4096;
    const GenerationResult r = generate(timeline, text_model, request, events);
    if (r.finish_reason == FinishReason::interrupted) throw Error(Exit::interrupted, "interrupted");
    const std::string said = final_answer(r.content);
    const bool right = said == trimmed(q.answer);
    for (Tally* t : {&tasks[q.task], &all}) t->right += right, ++t->asked;
    if (!right)
      app.terminal.detail(fmt::format("{}: expected {}, found {}: {}", q.task, json::quote(q.answer), json::quote(said),
                                      json::quote(q.messages.back().content)));
    app.terminal.progress(fmt::format("{} of {} questions, {:.1f} % right", all.asked, questions.size(), 100 * all.accuracy()));
  }
  app.terminal.progress("");
  if (app.options.json) {
    json::Object by_task;
    for (const auto& [task, t] : tasks) by_task.emplace_back(task, tally_value(t));
    app.terminal.out().raw(json::dump(json::Value(json::Object{
                               {"schema", text("fathom.eval/1")},
                               {"model", text(model.name)},
                               {"overall", tally_value(all)},
                               {"tasks", json::Value(std::move(by_task))},
                               {"numerics", text(describe(engine.numerics()))},
                               {"fingerprint", text(engine.checkpoint().fingerprint())}})) +
                           "\n");
    return Exit::ok;
  }
  std::string out;
  for (const auto& [task, t] : tasks)
    out += fmt::format("{:<24} {:6.2f} %  {} of {}\n", task, 100 * t.accuracy(), t.right, t.asked);
  out += fmt::format("{:<24} {:6.2f} %  {} of {}\n", "overall", 100 * all.accuracy(), all.right, all.asked);
  app.terminal.out().text(out);
  app.terminal.out().end_text();
  return Exit::ok;
}

}  // namespace

Exit eval_command(App& app) {
  const Options& o = app.options;
  const int wanted = (o.positionals.empty() ? 0 : 1) + (o.questions ? 1 : 0) + (o.ids ? 1 : 0);
  if (wanted != 1)
    throw Error(Exit::usage, "expected one of FILE, --questions FILE and --ids FILE",
                "fathom eval FILE measures perplexity");
  if (o.questions) return ask_questions(app);
  if (o.ids) return score_ids(app);
  return perplexity(app);
}

}  // namespace fathom
