// From the command line to a loaded engine.
#pragma once

#include <memory>
#include <string>

#include "src/app/app.h"
#include "src/app/model_path.h"
#include "src/engine/engine.h"

namespace fathom {

// -m, else FATHOM_MODEL or the configuration file, else the built-in model, which a warning names once.
ResolvedModel model_of(App& app);

// The part of the command line that concerns loading. Errors: usage.
EngineOptions engine_options_of(App& app);

struct LoadedModel {
  std::string name;  // as in JSON's "model"
  std::unique_ptr<Engine> engine;
};

// Resolves, loads, reports progress and the plan line (-v). tokenizer_required: false for --ids.
LoadedModel load_model(App& app, bool tokenizer_required = true);
LoadedModel load_model(App& app, const EngineOptions& options);

// A forward pass for one conversation; shows how far the upload to a GPU is. The test hooks may have their own.
std::unique_ptr<Forward> forward_of(App& app, const Engine& engine);

// A tensor-free look at the files of the model: for tokenize, inspect and verify.
FileSet files_of(App& app);

// Sampling of the checkpoint with the command line's words on top. The seed is random when none was given.
SamplingParams sampling_of(const Options& options, const GenerationConfig& generation);

// "cache bf16, prompt f32, generated f32": for plan lines and session headers.
std::string describe(const Numerics& numerics);

}  // namespace fathom
