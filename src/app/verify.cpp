// fathom verify: prove that a checkpoint is whole.
#include <chrono>
#include <memory>

#include "src/app/commands.h"
#include "src/app/load.h"
#include "src/app/progress.h"
#include "src/app/verified.h"
#include "src/base/text.h"
#include "src/engine/generation_config.h"
#include "src/model/shards.h"
#include "src/model/verify.h"
#include "tokenizer/tokenizer.h"

namespace fathom {
namespace {

struct Outcome {
  json::Object members;  // of the JSON object
  std::vector<std::string> lines;
  std::optional<Error> error;  // reported after all has been said
};

json::Value text(std::string_view s) { return json::Value(std::string(s)); }
json::Value number(std::uint64_t n) { return json::Value(std::uint64_t{n}); }

VerifyProgress progress_of(App& app, std::string what) {
  auto progress = std::make_shared<Progress>(app.terminal, std::move(what));
  return [progress = std::move(progress)](std::uint64_t done, std::uint64_t total) { progress->bytes(done, total); };
}

void check_values(App& app, const Checkpoint& checkpoint, Outcome& outcome) {
  Threads threads(app.options.threads.value_or(usable_cores()));
  const ValueReport report = scan_values(checkpoint, threads, progress_of(app, "reading values"));
  app.terminal.progress("");
  json::Array notes;
  for (const ValueFinding& note : report.notes) {
    outcome.lines.push_back(fmt::format("note: {}: {}", printable(note.tensor), note.problem));
    notes.push_back(text(fmt::format("{}: {}", note.tensor, note.problem)));
  }
  outcome.members.emplace_back("tensors_read", number(report.tensors));
  outcome.members.emplace_back("bytes_read", number(report.bytes));
  outcome.members.emplace_back("value_notes", json::Value(std::move(notes)));
  try {
    require_sound(report, checkpoint);
  } catch (const Error& e) {
    outcome.error = e;
    return;
  }
  outcome.lines.push_back(fmt::format("values: {} tensors, {} bytes: no NaN, no infinity, every scale sound",
                                      grouped(report.tensors), grouped(report.bytes)));
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

struct Hashed {
  std::string hex;
  bool before = false;  // by an earlier run, of the same file
};

// The SHA-256 of a file, read unless an earlier run has read it and it is the same file still.
Hashed hash_of(App& app, const FileSet& files, const std::string& name, VerifiedFiles& verified) {
  const auto hash = [&] {
    std::string hex = hash_file(files, name, progress_of(app, fmt::format("hashing {}", name)));
    app.terminal.progress("");
    return hex;
  };
  if (!files.on_disk()) return {hash(), false};
  const FileIdentity file = files.open(name).identity();
  if (auto hex = verified.find(file)) return {std::move(*hex), true};
  const std::int64_t begin = now_ns();
  std::string hex = hash();
  // Changed while it was read: what was hashed is neither file.
  if (files.open(name).identity() == file) verified.add({file, hex}, begin);
  return {std::move(hex), false};
}

std::string verified_path(const App& app) {
  return app.environment.cache_dir ? *app.environment.cache_dir + "/verified" : std::string();
}

// Hashes every shard; mismatches are an error at the end, and so is a checkpoint that nobody vouches for.
void check_hashes(App& app, const Checkpoint& checkpoint, Outcome& outcome) {
  json::Array files;
  std::string bad;
  bool unknown = false;
  int before = 0;
  VerifiedFiles verified(verified_path(app));
  for (const std::string& name : checkpoint.files().list()) {
    const bool weights = name.ends_with(".safetensors");
    const auto expected = expected_hash(checkpoint.files(), name);
    if (!weights && !expected) continue;
    const Hashed hashed = hash_of(app, checkpoint.files(), name, verified);
    const std::string& hex = hashed.hex;
    before += hashed.before ? 1 : 0;
    const bool same = expected && expected->hex == hex;
    outcome.lines.push_back(fmt::format("{}  {}  {}", hex, printable(name),
                                        !expected ? "(nothing to compare with)" : same ? "ok" : "DIFFERS"));
    json::Object o{{"file", text(name)}, {"sha256", text(hex)}, {"hashed_before", json::Value(bool{hashed.before})}};
    if (expected) {
      o.emplace_back("expected", text(expected->hex));
      o.emplace_back("source", text(expected->source));
    }
    files.emplace_back(std::move(o));
    if (expected && !same)
      bad += fmt::format("\n  {}: expected SHA-256 {} ({}), found {}", printable(name), expected->hex, expected->source,
                         hex);
    unknown = unknown || !expected;
  }
  outcome.members.emplace_back("files", json::Value(std::move(files)));
  if (before > 0)
    outcome.lines.push_back(fmt::format("note: {} unchanged since an earlier run hashed {}; to read again remove {}",
                                        before == 1 ? "1 file is" : fmt::format("{} files are", before), before == 1 ? "it" : "them", verified_path(app)));
  if (!verified.trouble().empty()) app.terminal.detail(fmt::format("hashes are not kept: {}", verified.trouble()));
  if (!bad.empty()) {
    outcome.error = Error(Exit::bad_checkpoint, fmt::format("{}: files differ from what was published:{}",
                                                            checkpoint.files().label(), bad),
                          "download these files again");
  } else if (unknown) {
    outcome.error = Error(Exit::unsupported, fmt::format("{}: there are files that no SHA-256 is known of",
                                                         checkpoint.files().label()),
                          checkpoint.files().on_disk() ? "put a SHA256SUMS file beside them, or use the Hub cache's layout" : "");
  }
}

// What turns text into ids and back, as a run reads it. A checkpoint for ids alone has none.
void check_text_files(const FileSet& files, const Config& config, Outcome& outcome) {
  repairable(files, [&] {
    (void)read_generation_config(files, config.vocab_size);
    try {
      outcome.lines.push_back("tokenizer: " + Tokenizer::load(files)->describe());
    } catch (const Error& e) {
      if (e.code() != Exit::not_found) throw;
      outcome.lines.push_back("note: no tokenizer: the model takes and gives ids alone");
    }
  });
}

// One object, with all that was found also where it ends in an error.
Exit report_json(App& app, Outcome outcome) {
  outcome.members.emplace_back("ok", json::Value(!outcome.error));
  if (outcome.error) outcome.members.emplace_back("error", error_value(*outcome.error));
  app.terminal.out().raw(json::dump(json::Value(std::move(outcome.members))) + "\n");
  if (!outcome.error) return Exit::ok;
  app.terminal.error(outcome.error->what(), outcome.error->remedy());
  return outcome.error->code();
}

}  // namespace

Exit verify_command(App& app) {
  const Options& o = app.options;
  const ResolvedModel model = [&] {
    if (o.positionals.empty()) return model_of(app);
    return resolve_model(o.positionals[0], app.environment, app.config);
  }();
  Outcome outcome;
  const Config config = repairable(model.files, [&] { return read_config(model.files); });
  const Checkpoint checkpoint = repairable(model.files, [&] { return Checkpoint::open(model.files); });
  std::uint64_t bytes = 0;
  for (const Checkpoint::Shard& s : checkpoint.shards()) bytes += s.size;
  outcome.members = {{"schema", text("fathom.verify/1")},
                     {"model", text(model.name)},
                     {"shards", number(checkpoint.shards().size())},
                     {"bytes", number(bytes)},
                     {"tensors", number(checkpoint.tensors().size())},
                     {"fingerprint", text(checkpoint.fingerprint())}};
  outcome.lines.push_back(fmt::format("shards: {}, {} bytes, every header and size right", checkpoint.shards().size(),
                                      grouped(bytes)));
  if (o.verify != VerifyMode::quick) {
    std::vector<std::string> unknown;
    bind_weights(checkpoint, config, {.mtp = config.num_nextn_predict_layers > 0}, &unknown);
    outcome.lines.push_back(fmt::format("tensors: {}, all that the config calls for, with its shapes and types",
                                        grouped(checkpoint.tensors().size())));
    check_text_files(model.files, config, outcome);
    for (const std::string& name : unknown) outcome.lines.push_back(fmt::format("note: {} is not used", printable(name)));
  }
  for (const std::string& note : checkpoint.notes()) outcome.lines.push_back("note: " + note);
  if (o.verify == VerifyMode::values) check_values(app, checkpoint, outcome);
  if (o.verify == VerifyMode::hash) check_hashes(app, checkpoint, outcome);
  if (o.json) return report_json(app, std::move(outcome));
  for (const std::string& line : outcome.lines) app.terminal.out().text(line + "\n");
  if (!outcome.error) app.terminal.out().text(fmt::format("{} is whole\n", model.name));
  app.terminal.out().end_text();
  if (outcome.error) throw *outcome.error;
  return Exit::ok;
}

}  // namespace fathom
