// fathom run: one prompt, one answer.
#include <algorithm>

#include "src/app/answer.h"
#include "src/app/commands.h"
#include "src/app/input.h"
#include "src/app/load.h"
#include "src/app/progress.h"
#include "src/app/record.h"
#include "src/app/run_session.h"
#include "src/app/signals.h"
#include "src/engine/prompt.h"

namespace fathom {
namespace {

Prompt make_prompt(const Engine& engine, const Input& input, const Options& options) {
  switch (input.kind) {
    case Input::Kind::ids: check_ids(engine, input.ids); return {.ids = input.ids, .markers = {}, .tail = {}};
    case Input::Kind::plain: return plain_prompt(engine, input.text);
    case Input::Kind::chat: break;
  }
  return chat_prompt(engine, input.messages, options.think);
}

GenerationRequest make_request(const Engine& engine, const Options& options, const Input& input) {
  GenerationRequest r;
  r.prompt = make_prompt(engine, input, options);
  r.sampling = sampling_of(options, engine.generation_config());
  r.max_tokens = options.max_tokens;
  r.stop = options.stop;
  r.ignore_eos = options.ignore_eos;
  r.think_budget = options.think_budget;
  r.logprobs = options.logprobs;
  return r;
}

std::optional<FinishReason> poll_signals() {
  const auto received = signals::received();
  if (!received) return std::nullopt;
  return *received == Exit::timeout ? FinishReason::timeout : FinishReason::interrupted;
}

// JSON shows nothing while it is made; --jsonl writes a line per delta.
class JsonView : public AnswerView {
 public:
  JsonView(RunRecord& record, Output& output, bool lines) : record_(record), output_(output), lines_(lines) {}
  void reasoning(std::string_view text) override {
    if (!record_.hide_thinking) line("reasoning_content", text);
  }
  void content(std::string_view text) override { line("content", text); }
  void step(std::size_t, bool) override {}
  void finish(const GenerationResult& result) override {
    record_.result = &result;
    output_.write((lines_ ? last_chunk_line(record_) : json::dump(json::Value(run_object(record_)))) + "\n");
  }

 private:
  void line(std::string_view key, std::string_view text) {
    if (lines_) output_.write(chunk_line(record_, key, text) + "\n");
  }
  RunRecord& record_;
  Output& output_;
  bool lines_;
};

// Ids alone, where there is no tokenizer to make text of them.
class IdsView : public AnswerView {
 public:
  explicit IdsView(Output& output) : output_(output) {}
  void reasoning(std::string_view) override {}
  void content(std::string_view) override {}
  void step(std::size_t, bool) override {}
  void finish(const GenerationResult& result) override { output_.write(fmt::format("{}\n", fmt::join(result.ids, ","))); }

 private:
  Output& output_;
};

std::unique_ptr<AnswerView> make_view(App& app, const Engine& engine, RunRecord& record, Output& output) {
  const Options& o = app.options;
  if (o.json || o.jsonl) return std::make_unique<JsonView>(record, output, o.jsonl);
  if (engine.tokenizer() == nullptr) return std::make_unique<IdsView>(output);
  if (!o.output && app.terminal.out().is_terminal()) return make_terminal_view(o, app.terminal);
  return make_plain_view(o, app.terminal, output);
}

std::string stats_line(const Engine& engine, const GenerationResult& r, std::uint64_t seed) {
  const auto rate = [](std::size_t n, double s) { return s > 0 ? static_cast<double>(n) / s : 0.0; };
  const double tps = rate(r.decode_steps, r.decode_s);
  return fmt::format("prompt {} tokens in {:.2f} s ({:.1f} tok/s) | answer {} tokens, {:.2f} s ({:.1f} tok/s, {:.2f} GB/s of weights) | seed {}",
                     r.prompt_tokens, r.prefill_s, rate(r.prompt_tokens - r.cached_tokens, r.prefill_s), r.ids.size(), r.decode_s, tps,
                     tps * static_cast<double>(engine.weights().bytes_per_token) / 1e9, seed);
}

// Says why the answer ended, unless the model ended it.
void explain_end(App& app, const GenerationRequest& request, const GenerationResult& r, std::int32_t context) {
  if (r.loop_tokens != 0)
    app.terminal.warning(fmt::format("[the thinking repeated the same {} tokens over and over and was ended]", r.loop_tokens));
  switch (r.finish_reason) {
    case FinishReason::length:
      if (request.max_tokens && r.ids.size() == static_cast<std::size_t>(*request.max_tokens))
        app.terminal.notice(fmt::format("[stopped: reached --max-tokens {}]", *request.max_tokens));
      else
        app.terminal.warning(fmt::format("[stopped: the context of {} tokens is full]", context));
      break;
    case FinishReason::timeout: app.terminal.warning("[stopped: the time given with --timeout is over]"); break;
    case FinishReason::interrupted: app.terminal.notice("[interrupted]"); break;
    case FinishReason::stop_string: app.terminal.detail("[stopped: stop string]"); break;
    case FinishReason::stop:
      if (r.content.empty() && r.ids.size() == 1) app.terminal.notice("[the model ended its answer at once]");
      break;
    case FinishReason::error: break;
  }
}

Exit exit_of(const GenerationResult& r, const Options& options) {
  switch (r.finish_reason) {
    case FinishReason::interrupted: return signals::received().value_or(Exit::interrupted);
    case FinishReason::timeout: return Exit::timeout;
    case FinishReason::length: return options.fail_on_length ? Exit::context : Exit::ok;
    default: return Exit::ok;
  }
}

}  // namespace

Exit run_command(App& app) {
  const Options& o = app.options;
  if (o.timeout_ms) signals::set_time_limit(*o.timeout_ms);
  check_output_is_no_input(o);
  Input input = read_run_input(o, app.terminal);
  const std::unique_ptr<Output> output = make_output(o, app.terminal);
  const LoadedModel model = load_model(app, input.kind != Input::Kind::ids);
  const Engine& engine = *model.engine;
  if (engine.tokenizer() == nullptr && !o.stop.empty())
    throw Error(Exit::usage, "--stop needs a tokenizer, and the model has none: there is no text to look into");
  RunSession session(app, model, input);
  const GenerationRequest request = make_request(engine, o, input);

  const std::unique_ptr<Forward> forward = forward_of(app, engine);
  forward->stop_requested = signals::stop_requested;
  Timeline timeline(*forward);
  session.restore(timeline, engine, *forward);
  RunRecord record{.model = model.name,
                   .id = new_run_id(),
                   .created = unix_time(),
                   .engine = &engine,
                   .request = &request,
                   .placement = forward->describe(),
                   .hide_thinking = o.show_thinking == ThinkingDisplay::hidden};
  const std::unique_ptr<AnswerView> view = make_view(app, engine, record, *output);
  std::optional<Progress> reading(std::in_place, app.terminal, "reading");
  GenerationEvents events;
  events.prefill = [&](std::size_t done, std::size_t total) {
    if (done < total) return reading->count(done, total, "tokens");
    reading.reset();
  };
  events.reasoning = [&](std::string_view text) { view->reasoning(text); };
  events.content = [&](std::string_view text) { view->content(text); };
  events.step = [&](std::size_t tokens, bool in_thinking) { view->step(tokens, in_thinking); };
  events.poll = [&] {
    // JSON is written at the end only: look whether anybody is still waiting for it.
    if (!o.output && app.terminal.out().reader_gone()) throw Error(Exit::broken_pipe, "the reader is gone");
    return poll_signals();
  };

  signals::set_mode(signals::Mode::stop);
  const TextModel text{engine.tokenizer(), engine.stop_ids(), engine.valid_ids()};
  const GenerationResult result = generate(timeline, text, request, events);
  reading.reset();
  view->finish(result);
  session.keep(result, timeline, engine, *forward);
  const bool cut = result.finish_reason == FinishReason::interrupted || result.finish_reason == FinishReason::timeout;
  if (!cut) {
    output->commit();
  } else if (o.output) {
    app.terminal.warning(fmt::format("{} was not written: the answer is incomplete", *o.output));
  }
  explain_end(app, request, result, engine.context());
  if (o.stats || app.terminal.verbose() > 0) app.terminal.stats(stats_line(engine, result, request.sampling.seed));
  return exit_of(result, o);
}

}  // namespace fathom
