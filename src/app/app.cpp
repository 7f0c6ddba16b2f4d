#include "src/app/app.h"

#include <algorithm>
#include <clocale>
#include <new>
#include <optional>

#include "src/app/batch.h"
#include "src/app/chat.h"
#include "src/app/commands.h"
#include "src/app/doctor.h"
#include "src/app/gpu_lock.h"
#include "src/app/help.h"
#include "src/app/pager.h"
#include "src/app/signals.h"
#include "src/app/version.h"
#include "src/base/descriptor.h"
#include "src/base/json.h"
#include "src/base/sigbus.h"

namespace fathom {
namespace {

// --json or --jsonl among the arguments: an error in the others is reported as JSON too.
bool asks_for_json(std::span<const std::string> args) {
  for (const std::string& a : args) {
    if (a == "--") break;
    if (a == "--json" || a == "--jsonl") return true;
  }
  return false;
}

// The configuration file that applies; none for help and version, which must work with a broken one.
ConfigFile read_config(const ParsedArgs& args, const Environment& environment) {
  const bool informs = args.command == Command::none || args.command == Command::help ||
                       args.command == Command::completions || args.has("help") || args.has("version");
  if (informs || args.has("no-config")) return {};
  const auto given = args.given.find("config");
  const std::string named = given != args.given.end() ? given->second.back() : environment.config.value_or("");
  const std::string usual = environment.config_dir ? *environment.config_dir + "/config.toml" : "";
  return load_config_file(named, usual).value_or(ConfigFile{});
}

// The command line with the configuration file's defaults. A value that is wrong in the file is reported with its line.
Options options_of(ParsedArgs& parsed, const ConfigFile& config, bool& as_json) {
  const ParsedArgs typed = parsed;
  merge_defaults(parsed, config);
  as_json = as_json || parsed.has("json") || parsed.has("jsonl");
  try {
    return make_options(parsed);
  } catch (const Error& e) {
    for (const ConfigFile::Default& d : config.defaults)
      if (!typed.has(d.flag) && std::string_view(e.what()).starts_with(fmt::format("--{}: ", d.flag)))
        throw Error(e.code(), fmt::format("{}:{}: {}", config.path, d.line, e.what() + 2), e.remedy()).at(config.path);
    throw;
  }
}

Exit dispatch(App& app) {
  const Options& o = app.options;
  if (o.version) {
    app.terminal.out().raw((o.json ? version_json() : version_line()) + "\n");
    return Exit::ok;
  }
  if (o.help) {
    show_text(app.terminal, app.environment, command_help(o.command, help_width(app.terminal.out())));
    return Exit::ok;
  }
  switch (o.command) {
    case Command::none: app.terminal.out().raw(short_help()); return Exit::ok;
    case Command::help: return help_command(app);
    case Command::completions: return completions_command(app);
    case Command::run: return app.options.batch ? batch_command(app) : run_command(app);
    case Command::chat: return chat_command(app);
    case Command::doctor: return doctor_command(app);
    case Command::tokenize: return tokenize_command(app);
    case Command::inspect: return inspect_command(app);
    case Command::models: return models_command(app);
    case Command::verify: return verify_command(app);
    case Command::quantize: return quantize_command(app);
    case Command::eval: return eval_command(app);
    case Command::bench: return bench_command(app);
    default: break;
  }
  throw Error(Exit::unsupported, fmt::format("`fathom {}` is not built yet", find_command(o.command)->name));
}

// The message, led by the name of its file unless it says that itself.
std::string with_file(const Error& error) {
  const std::string_view what = error.what();
  if (error.file().empty() || what.find(error.file()) != what.npos) return std::string(what);
  return fmt::format("{}: {}", error.file(), what);
}

// Says what went wrong, on stderr as text and under --json on stdout as an object.
Exit report(Terminal& terminal, const Error& error, bool as_json) {
  if (error.code() == Exit::broken_pipe) return error.code();
  const bool signalled = signals::stop_requested();
  const Exit code = error.code() == Exit::interrupted ? signals::received().value_or(Exit::interrupted) : error.code();
  if (!(signalled && error.code() == Exit::interrupted)) terminal.error(with_file(error), error.remedy());
  if (!as_json) return code;
  try {
    terminal.out().raw(error_json(error) + "\n");
  } catch (const Error&) {
    // stdout is what failed: the text on stderr has said so.
  }
  return code;
}

}  // namespace

json::Value error_value(const Error& error) {
  json::Object body{{"code", json::Value(std::int64_t{static_cast<int>(error.code())})},
                    {"name", json::Value(std::string(exit_name(error.code())))},
                    {"message", json::Value(std::string(error.what()))}};
  if (!error.remedy().empty()) body.emplace_back("remedy", json::Value(error.remedy()));
  if (!error.file().empty()) body.emplace_back("file", json::Value(error.file()));
  if (error.offset()) body.emplace_back("offset", json::Value(std::uint64_t{*error.offset()}));
  return json::Value(std::move(body));
}

std::string error_json(const Error& error) {
  return json::dump(json::Value(json::Object{{"schema", json::Value(std::string("fathom.error/1"))},
                                             {"error", error_value(error)}}));
}

int app_main(int argc, char** argv, const AppHooks& hooks) {
  reserve_standard_descriptors();
  // The input encoding only: numbers are never read or written through the locale.
  std::setlocale(LC_CTYPE, "");
  const std::vector<std::string> args(argv + std::min(argc, 1), argv + argc);
  const Environment environment = read_environment();
  Log log(environment.log);
  TerminalOptions looks;
  looks.log = &log;
  std::optional<Terminal> terminal(std::in_place, environment, looks);
  bool as_json = asks_for_json(args);
  try {
    signals::install();
    sigbus::install();
    ParsedArgs parsed = parse_args(args);
    const ConfigFile config = read_config(parsed, environment);
    const Options options = options_of(parsed, config, as_json);
    looks = {options.color, options.unsafe_output, options.quiet, options.verbose, &log};
    terminal.emplace(environment, looks);
    App app{options, environment, config, *terminal, hooks};
    try {
      return static_cast<int>(dispatch(app));
    } catch (const Error& e) {
      throw with_gpu_holder(app, e);
    }
  } catch (const Error& e) {
    return static_cast<int>(report(*terminal, e, as_json));
  } catch (const std::bad_alloc&) {
    const Error e(Exit::out_of_memory, "the host has no more memory", "close other programs, or use a smaller --ctx");
    return static_cast<int>(report(*terminal, e, as_json));
  } catch (const std::exception& e) {
    const Error error(Exit::failure, fmt::format("internal error: {}", e.what()), "this is a bug; please report it");
    return static_cast<int>(report(*terminal, error, as_json));
  }
}

}  // namespace fathom
