// `fathom run --session FILE` and `run -c`: one more exchange of a saved conversation.
#pragma once

#include <optional>

#include "src/app/app.h"
#include "src/app/input.h"
#include "src/app/load.h"
#include "src/app/session.h"
#include "src/app/session_cache.h"
#include "src/engine/generate.h"
#include "src/engine/timeline.h"

namespace fathom {

// What conversations held with this model carry in their first line.
SessionHeader session_header(const LoadedModel& model);
// What rows saved by this pass are good for.
LatentKey latent_key(const Engine& engine, const Forward& forward);

class RunSession {
 public:
  // Without --session and -c it does nothing. Else opens the conversation and puts its messages before those of `input`;
  // a system prompt of `input` takes the place of the conversation's. Errors: those of Session::open; usage for --raw and
  // --ids, not_found when there is none to continue.
  RunSession(App& app, const LoadedModel& model, Input& input);

  // Takes the rows that the last run left, if they fit.
  void restore(Timeline& timeline, const Engine& engine, const Forward& forward) const;
  // Appends the question and the answer, and saves the rows. Errors: io.
  void keep(const GenerationResult& result, const Timeline& timeline, const Engine& engine, const Forward& forward);

 private:
  std::optional<Session> session_;
  std::vector<SessionMessage> asked_;
};

}  // namespace fathom
