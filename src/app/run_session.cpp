#include "src/app/run_session.h"

#include "src/base/error.h"

namespace fathom {
namespace {

std::string session_path(const App& app) {
  const Options& o = app.options;
  if (o.session) return *o.session;
  const bool kept = !o.no_history && !app.environment.no_history && app.environment.state_dir;
  const auto newest = kept ? newest_session(*app.environment.state_dir + "/sessions") : std::nullopt;
  if (!newest) throw Error(Exit::not_found, "there is no conversation to continue", "name one with --session FILE");
  return *newest;
}

}  // namespace

SessionHeader session_header(const LoadedModel& model) {
  return {model.name, model.engine->checkpoint().fingerprint(), describe(model.engine->numerics())};
}

LatentKey latent_key(const Engine& engine, const Forward& forward) {
  return {engine.checkpoint().fingerprint(), describe(engine.numerics()), std::string(engine.backend()), forward.position_bytes()};
}

RunSession::RunSession(App& app, const LoadedModel& model, Input& input) {
  if (!app.options.session && !app.options.resume) return;
  if (input.kind != Input::Kind::chat)
    throw Error(Exit::usage, "--session and -c hold conversations: they cannot go with --raw or --ids");
  const SessionHeader header = session_header(model);
  session_.emplace(Session::open(session_path(app), header));
  for (const std::string& note : session_->notes()) app.terminal.warning(note);
  if (session_->header().fingerprint != header.fingerprint)
    app.terminal.warning(fmt::format("the conversation was held with {}; it goes on with {}", session_->header().model, model.name));
  std::vector<SessionMessage> before = session_->messages();
  const bool new_system = !input.messages.empty() && input.messages.front().role == "system";
  if (new_system && !before.empty()) {
    if (before.front().message.role == "system") before.erase(before.begin());
    before.insert(before.begin(), SessionMessage{input.messages.front(), {}});
    input.messages.erase(input.messages.begin());
    session_->replace(before, header);
  }
  for (const Message& m : input.messages) asked_.push_back({m, {}});
  std::vector<Message> all;
  for (const SessionMessage& m : before) all.push_back(m.message);
  all.insert(all.end(), input.messages.begin(), input.messages.end());
  input.messages = std::move(all);
}

void RunSession::restore(Timeline& timeline, const Engine& engine, const Forward& forward) const {
  if (!session_ || forward.position_bytes() == 0) return;
  std::string why;
  if (const auto saved = read_latents(latent_path(session_->path()), latent_key(engine, forward), &why))
    timeline.restore(saved->ids, saved->rows);
}

void RunSession::keep(const GenerationResult& result, const Timeline& timeline, const Engine& engine, const Forward& forward) {
  if (!session_) return;
  for (SessionMessage& m : asked_) session_->append(std::move(m));
  asked_.clear();
  SessionMessage answer;
  answer.message.role = "assistant";
  answer.message.content = result.content;
  answer.message.reasoning_content = result.reasoning;
  const bool own_end = result.finish_reason == FinishReason::stop || result.finish_reason == FinishReason::stop_string;
  if (!own_end) answer.finish_reason = std::string(name(result.finish_reason));
  session_->append(std::move(answer));
  if (timeline.ids().size() < kLatentsWorthSaving || forward.position_bytes() == 0) return;
  try {
    write_latents(latent_path(session_->path()), latent_key(engine, forward), timeline.ids(), timeline.save());
  } catch (const std::exception&) {
    // Only time is lost: the conversation itself is saved.
  }
}

}  // namespace fathom
