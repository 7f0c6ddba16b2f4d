// From argv to values: the option table decides what is accepted, CLI11 walks it, from_chars reads the numbers.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "src/app/config_file.h"
#include "src/app/options.h"
#include "src/base/error.h"
#include "src/base/utf8.h"

namespace fathom {
namespace {

[[noreturn]] void usage(std::string message, std::string remedy = {}) {
  throw Error(Exit::usage, std::move(message), std::move(remedy));
}

const OptionRow* find_short(char c) {
  for (const OptionRow& row : option_table())
    if (row.short_name != 0 && row.short_name == c) return &row;
  return nullptr;
}

// True when this token is an option whose value is the next token: "--temp", "-n", "-qn", but not "--temp=1" or "-n5".
bool wants_next(std::string_view token) {
  if (token.starts_with("--")) {
    const OptionRow* row = find_option(token.substr(2));
    return row != nullptr && takes_value(*row);
  }
  if (token.size() < 2 || token[0] != '-') return false;
  for (std::size_t i = 1; i < token.size(); ++i) {
    const OptionRow* row = find_short(token[i]);
    if (row == nullptr) return false;
    if (takes_value(*row)) return i + 1 == token.size();
  }
  return false;
}

[[noreturn]] void unknown_command(std::string_view word) {
  std::vector<std::string_view> names;
  for (const CommandRow& c : command_table()) names.push_back(c.name);
  const std::string near = nearest_word(word, names);
  usage(fmt::format("there is no command '{}'", word),
        near.empty() ? std::string("`fathom help` lists the commands; `fathom run \"...\"` asks a question")
                     : fmt::format("did you mean `fathom {}`?", near));
}

[[noreturn]] void unknown_flag(std::string_view token, Command command) {
  const std::string_view shown = token.substr(0, std::min(token.find('='), std::size_t{80}));
  const std::string dash_hint = command == Command::run || command == Command::tokenize
                                    ? "\nto pass text that begins with '-', put -- before it"
                                    : "";
  if (shown.starts_with("--")) {
    const CommandRow* c = find_command(command);
    if (const OptionRow* row = find_option(shown.substr(2)); row != nullptr && c != nullptr) {
      std::string takers;
      for (const CommandRow& other : command_table())
        if ((row->commands & only(other.command)) != 0) takers += fmt::format(" {}", other.name);
      usage(fmt::format("`fathom {}` does not take {}", c->name, shown),
            fmt::format("these commands take it:{}", takers));
    }
    std::vector<std::string_view> names;
    for (const OptionRow& row : option_table())
      if (command == Command::none || (row.commands & only(command)) != 0) names.push_back(row.long_name);
    if (const std::string near = nearest_word(shown.substr(2), names); !near.empty())
      usage(fmt::format("unknown option {}", shown), fmt::format("did you mean --{}?{}", near, dash_hint));
  }
  usage(fmt::format("unknown option {}", shown),
        fmt::format("`fathom help{}{}` lists the options{}", command == Command::none ? "" : " ",
                    command == Command::none ? "" : find_command(command)->name, dash_hint));
}

// The command word, the arguments, and the options with their values. "--flag=value" is split in two, so that an empty
// value is seen as one.
struct Split {
  Command command = Command::none;
  std::vector<std::string> positionals, options;
};

Split split_arguments(std::span<const std::string> args) {
  Split split;
  bool options_end = false, value_next = false;
  for (const std::string& token : args) {
    const bool dashed = !options_end && token.size() > 1 && token[0] == '-';
    if (value_next) {
      value_next = false;
      split.options.push_back(token);
    } else if (dashed && token == "--") {
      options_end = true;
    } else if (const auto equals = token.find('='); dashed && token[1] == '-' && equals != token.npos) {
      const OptionRow* row = find_option(std::string_view(token).substr(2, equals - 2));
      if (row == nullptr) {
        split.options.push_back(token);
      } else if (!takes_value(*row)) {
        usage(fmt::format("--{} takes no value", row->long_name));
      } else {
        split.options.push_back(token.substr(0, equals));
        split.options.push_back(token.substr(equals + 1));
      }
    } else if (dashed && (token[1] < '0' || token[1] > '9')) {
      value_next = wants_next(token);
      split.options.push_back(token);
    } else if (split.command == Command::none) {
      const CommandRow* c = find_command(token);
      if (c == nullptr) unknown_command(token);
      split.command = c->command;
    } else {
      split.positionals.push_back(token);
    }
  }
  if (value_next) usage(fmt::format("{} needs a value", args.back()));
  return split;
}

// Flags that exclude each other.
constexpr auto kExclusive = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"json", "jsonl"},      {"think", "no-think"},      {"quiet", "verbose"},   {"mmap", "no-mmap"},
    {"system", "system-file"}, {"greedy", "temp"},      {"show-thinking", "hide-thinking"},
    {"config", "no-config"}, {"quick", "values"},       {"quick", "hash"},      {"values", "hash"},
    {"ids", "messages"},    {"ids", "raw"},             {"ids", "file"},        {"ids", "system"},
    {"ids", "system-file"}, {"raw", "messages"},        {"raw", "system"},      {"raw", "system-file"},
    {"ids", "template"},    {"raw", "template"},        {"messages", "file"},
    {"raw", "think"},       {"raw", "no-think"},        {"raw", "think-budget"},
    {"ids", "think"},       {"ids", "no-think"},        {"ids", "think-budget"},
    {"batch", "messages"},  {"batch", "ids"},           {"batch", "file"},      {"batch", "raw"},
    {"batch", "session"},   {"batch", "continue"},      {"batch", "jsonl"},     {"batch", "no-stream"},
    {"batch", "stats"},     {"batch", "fail-on-length"},
    {"session", "continue"}, {"session", "raw"},        {"session", "ids"},
    {"continue", "raw"},    {"continue", "ids"},        {"continue", "no-history"},
    {"jsonl", "no-stream"},   {"json", "csv"},
});

// Flags that mean nothing without another.
constexpr auto kNeeds = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"strict", "batch"},
    {"layers", "random-weights"},
});

}  // namespace

ParsedArgs parse_args(std::span<const std::string> args) {
  for (std::size_t i = 0; i < args.size(); ++i)
    if (!is_utf8(args[i]))
      usage(fmt::format("argument {} is not valid UTF-8", i + 1), "pass other bytes through a file or a pipe");

  Split split = split_arguments(args);
  ParsedArgs parsed;
  parsed.command = split.command;

  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<std::pair<const OptionRow*, CLI::Option*>> options;
  for (const OptionRow& row : option_table()) {
    if (split.command != Command::none && (row.commands & only(split.command)) == 0) continue;
    const std::string name = row.short_name != 0 ? fmt::format("-{},--{}", row.short_name, row.long_name)
                                                 : fmt::format("--{}", row.long_name);
    CLI::Option* option = takes_value(row) ? app.add_option(name)->expected(1) : app.add_flag(name);
    // TakeAll: repeating is judged here, not there; no extra args: "[a,b]" stays one value.
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
    options.emplace_back(&row, option);
  }

  std::vector<std::string> reversed(split.options.rbegin(), split.options.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    usage(e.what());
  }
  for (const std::string& extra : app.remaining()) unknown_flag(extra, split.command);
  parsed.positionals = std::move(split.positionals);
  for (const auto& [row, option] : options) {
    if (option->count() == 0) continue;
    auto& values = parsed.given[std::string(row->long_name)];
    values = option->results();
    if (!takes_value(*row)) values.assign(values.size(), "");
  }
  return parsed;
}

void merge_defaults(ParsedArgs& args, const ConfigFile& file) {
  // Giving one of two flags that exclude each other on the command line silences the other's default.
  const auto silenced = [&](std::string_view flag) {
    if (flag == "color" && args.has("no-color")) return true;
    for (const auto& [a, b] : kExclusive)
      if ((flag == a && args.has(b)) || (flag == b && args.has(a))) return true;
    return args.has(flag);
  };
  std::vector<std::pair<std::string, std::vector<std::string>>> merged;
  for (const ConfigFile::Default& d : file.defaults) {
    const OptionRow* row = find_option(d.flag);
    if (row == nullptr || silenced(d.flag) || (row->commands & only(args.command)) == 0) continue;
    if (takes_value(*row)) {
      merged.emplace_back(d.flag, d.values);
    } else if (d.values.empty() || d.values[0] == "true") {
      merged.emplace_back(d.flag, std::vector<std::string>{""});
    }
  }
  for (auto& [flag, values] : merged) args.given[flag] = std::move(values);
  for (const auto& [flag, needed] : kNeeds) {
    const auto is_flag = [&name = flag](const auto& m) { return m.first == name; };
    if (!args.has(needed) && std::any_of(merged.begin(), merged.end(), is_flag)) args.given.erase(args.given.find(flag));
  }
}

// -- values ---------------------------------------------------------------------------------------------------------

std::int64_t read_integer(std::string_view text, std::string_view what, std::int64_t lo, std::int64_t hi) {
  std::int64_t v = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (error != std::errc() || end != text.data() + text.size() || v < lo || v > hi)
    usage(fmt::format("{}: expected an integer from {} to {}, found '{}'", what, lo, hi, text.substr(0, 80)));
  return v;
}

double read_number(std::string_view text, std::string_view what, double lo, double hi) {
  double v = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(v) || v < lo || v > hi)
    usage(fmt::format("{}: expected a number from {} to {}, written with a point, found '{}'", what, lo, hi,
                      text.substr(0, 80)));
  return v;
}

namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

// The unit that is exactly `name`; nullptr when there is none.
template <std::size_t N>
const Unit* find_unit(const std::array<Unit, N>& units, std::string_view name) {
  const auto it = std::find_if(units.begin(), units.end(), [&](const Unit& u) { return u.name == name; });
  return it == units.end() ? nullptr : &*it;
}

}  // namespace

std::uint64_t read_size(std::string_view text, std::string_view what) {
  static constexpr std::array<Unit, 14> kUnits{{{"", 1},
                                                {"B", 1},
                                                {"kB", 1000},
                                                {"KB", 1000},
                                                {"MB", 1000'000},
                                                {"GB", 1000'000'000},
                                                {"TB", 1000'000'000'000},
                                                {"KiB", 1ull << 10},
                                                {"MiB", 1ull << 20},
                                                {"GiB", 1ull << 30},
                                                {"TiB", 1ull << 40},
                                                {"K", 1ull << 10},
                                                {"M", 1ull << 20},
                                                {"G", 1ull << 30}}};
  std::uint64_t v = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, v);
  const Unit* unit = error == std::errc() ? find_unit(kUnits, {end, static_cast<std::size_t>(last - end)}) : nullptr;
  std::uint64_t bytes = 0;
  if (unit == nullptr || v == 0 || __builtin_mul_overflow(v, unit->factor, &bytes))
    usage(fmt::format("{}: expected a size such as 64MiB, 70GB or 4096, found '{}'", what, text.substr(0, 80)));
  return bytes;
}

std::int64_t read_duration_ms(std::string_view text, std::string_view what) {
  static constexpr std::array<Unit, 5> kUnits{{{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3600'000}}};
  double v = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, v, std::chars_format::fixed);
  const Unit* unit = error == std::errc() ? find_unit(kUnits, {end, static_cast<std::size_t>(last - end)}) : nullptr;
  // A year is longer than any run.
  const double ms = unit == nullptr ? -1 : v * static_cast<double>(unit->factor);
  if (!(ms >= 1 && ms <= 366.0 * 24 * 3600'000))
    usage(fmt::format("{}: expected a duration such as 10s, 500ms, 2m or 1h, found '{}'", what, text.substr(0, 80)));
  return static_cast<std::int64_t>(ms);
}

// -- from text to Options -------------------------------------------------------------------------------------------

namespace {

// Reads values by long name; of a repeated option the last counts, unless it is a list.
class Reader {
 public:
  explicit Reader(const ParsedArgs& args) : args_(args) {}

  bool flag(std::string_view name) const { return args_.has(name); }
  int count(std::string_view name) const {
    const auto it = args_.given.find(name);
    return it == args_.given.end() ? 0 : static_cast<int>(it->second.size());
  }
  std::vector<std::string> list(std::string_view name) const {
    const auto it = args_.given.find(name);
    return it == args_.given.end() ? std::vector<std::string>{} : it->second;
  }
  std::optional<std::string> text(std::string_view name) const {
    const auto it = args_.given.find(name);
    if (it == args_.given.end()) return std::nullopt;
    return it->second.back();
  }
  // A text that names something: empty is an error.
  std::optional<std::string> word(std::string_view name) const {
    auto v = text(name);
    if (v && v->empty()) usage(fmt::format("--{}: expected {}, found nothing", name, find_option(name)->argument));
    return v;
  }
  template <typename T>
  std::optional<T> integer(std::string_view name, std::int64_t lo, std::int64_t hi) const {
    const auto v = text(name);
    if (!v) return std::nullopt;
    return static_cast<T>(read_integer(*v, fmt::format("--{}", name), lo, hi));
  }
  std::optional<float> number(std::string_view name, double lo, double hi) const {
    const auto v = text(name);
    if (!v) return std::nullopt;
    return static_cast<float>(read_number(*v, fmt::format("--{}", name), lo, hi));
  }
  // One of the row's choices, or `fallback`.
  std::string choice(std::string_view name, std::string fallback) const {
    const auto v = text(name);
    if (!v) return fallback;
    const std::string_view choices = find_option(name)->argument;
    for (std::size_t i = 0; i <= choices.size();) {
      const std::size_t end = std::min(choices.find('|', i), choices.size());
      if (choices.substr(i, end - i) == *v) return *v;
      i = end + 1;
    }
    usage(fmt::format("--{}: expected {}, found '{}'", name, choices, v->substr(0, 80)));
  }
  void exclusive(std::string_view a, std::string_view b) const {
    if (flag(a) && flag(b)) usage(fmt::format("--{} and --{} exclude each other", a, b), "give one of them");
  }

 private:
  const ParsedArgs& args_;
};

void check_contradictions(const ParsedArgs& args, const Reader& r) {
  for (const auto& [a, b] : kExclusive) r.exclusive(a, b);
  if (args.command == Command::run && !args.positionals.empty())
    for (const char* other : {"messages", "ids", "batch"})
      if (r.flag(other)) usage(fmt::format("--{} and PROMPT exclude each other", other), "give one of them");
  if (r.flag("logprobs") && !r.flag("json") && !r.flag("jsonl") && !r.flag("batch"))
    usage("--logprobs is reported in JSON only", "add --json or --jsonl");
  for (const auto& [flag, needed] : kNeeds)
    if (r.flag(flag) && !r.flag(needed)) usage(fmt::format("--{} needs --{} {}", flag, needed, find_option(needed)->argument));
}

void check_positionals(const ParsedArgs& args) {
  struct Arity {
    Command command;
    std::size_t most;
    std::string_view hint;
  };
  using enum Command;
  static constexpr std::array<Arity, 11> kArity{{{run, 1, "put the prompt in quotes"},
                                                 {tokenize, 1, "put the text in quotes"},
                                                 {inspect, 1, ""},
                                                 {verify, 1, ""},
                                                 {quantize, 2, ""},
                                                 {eval, 1, ""},
                                                 {completions, 1, ""},
                                                 {help, 1, ""},
                                                 {chat, 0, "a prompt is answered by `fathom run`"},
                                                 {bench, 0, "give the model with -m"},
                                                 {models, 0, ""}}};
  std::size_t most = 0;
  std::string_view hint;
  for (const Arity& a : kArity)
    if (a.command == args.command) most = a.most, hint = a.hint;
  if (args.positionals.size() > most)
    usage(fmt::format("unexpected argument '{}'", args.positionals[most].substr(0, 80)), std::string(hint));
}

}  // namespace

Options make_options(const ParsedArgs& args) {
  const Reader r(args);
  Options o;
  o.command = args.command;
  o.positionals = args.positionals;
  o.help = r.flag("help");
  o.version = r.flag("version");
  o.json = r.flag("json");
  if (o.help || o.version) return o;
  check_contradictions(args, r);
  check_positionals(args);

  constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();
  constexpr std::int64_t kMaxInt64 = std::numeric_limits<std::int64_t>::max();
  o.model = r.word("model");
  o.backend = r.choice("backend", "auto");
  o.experts = r.choice("experts", "auto");
  o.color = r.flag("no-color") ? "never" : r.choice("color", "auto");
  o.gpus = r.word("gpus");
  if (const auto v = r.text("gpu-memory")) o.gpu_memory = read_size(*v, "--gpu-memory");
  o.threads = r.integer<int>("threads", 1, 1024);
  const std::string cache = r.choice("cache", "bf16");
  o.cache = cache == "f32" ? CacheType::f32 : cache == "fp8" ? CacheType::fp8 : CacheType::bf16;
  const std::string activations = r.choice("activations", "auto");
  if (activations != "auto")
    o.activations = activations == "f32"    ? ActivationType::f32
                    : activations == "bf16" ? ActivationType::bf16
                                            : ActivationType::fp8;
  o.quiet = r.flag("quiet");
  o.verbose = r.count("verbose");
  o.config_file = r.word("config");
  o.no_config = r.flag("no-config");

  o.system = r.text("system");
  o.system_file = r.word("system-file");
  o.files = r.list("file");
  o.messages = r.word("messages");
  o.batch = r.word("batch");
  o.raw = r.flag("raw");
  o.ids = r.word("ids");
  o.chat_template = r.word("template");
  if (const auto v = r.text("max-input")) o.max_input = read_size(*v, "--max-input");

  o.max_tokens = r.integer<std::int64_t>("max-tokens", 1, kMaxInt);
  o.ctx = r.integer<std::int32_t>("ctx", 2, kMaxInt);
  o.temp = r.flag("greedy") ? 0.0f : r.number("temp", 0, 100);
  o.top_p = r.number("top-p", 0, 1);
  o.top_k = r.integer<int>("top-k", 0, kMaxInt);
  o.min_p = r.number("min-p", 0, 1);
  o.repeat_penalty = r.number("repeat-penalty", 0.01, 100);
  o.presence_penalty = r.number("presence-penalty", -100, 100);
  o.frequency_penalty = r.number("frequency-penalty", -100, 100);
  if (const auto v = r.text("seed")) {
    std::uint64_t seed = 0;
    const auto [end, error] = std::from_chars(v->data(), v->data() + v->size(), seed);
    if (error != std::errc() || end != v->data() + v->size())
      usage(fmt::format("--seed: expected an integer from 0 to 18446744073709551615, found '{}'", v->substr(0, 80)));
    o.seed = seed;
  }
  o.stop = r.list("stop");
  for (const std::string& s : o.stop)
    if (s.empty()) usage("--stop: expected a string, found nothing");
  o.ignore_eos = r.flag("ignore-eos");
  o.logprobs = r.integer<int>("logprobs", 0, 1000);
  o.fail_on_length = r.flag("fail-on-length");
  if (const auto v = r.text("timeout")) o.timeout_ms = read_duration_ms(*v, "--timeout");

  if (r.flag("think")) o.think = true;
  if (r.flag("no-think")) o.think = false;
  o.think_budget = r.integer<std::int64_t>("think-budget", 0, kMaxInt64);
  const std::string shown = r.flag("hide-thinking") ? "hidden" : r.choice("show-thinking", "auto");
  o.show_thinking = shown == "full"      ? ThinkingDisplay::full
                    : shown == "summary" ? ThinkingDisplay::summary
                    : shown == "hidden"  ? ThinkingDisplay::hidden
                                         : ThinkingDisplay::automatic;

  o.jsonl = r.flag("jsonl");
  o.output = r.word("output");
  if (o.output == "-") o.output.reset();  // standard output, as elsewhere
  o.no_stream = r.flag("no-stream");
  o.stats = r.flag("stats");
  if (r.choice("markdown", "never") == "auto")
    throw Error(Exit::unsupported, "--markdown auto: rendering is not there yet", "leave --markdown at never");
  o.unsafe_output = r.flag("unsafe-output");
  o.strict = r.flag("strict");
  o.no_input = r.flag("no-input");
  o.session = r.word("session");
  o.resume = r.flag("continue");
  o.no_history = r.flag("no-history");
  if (r.flag("mmap")) o.mmap = true;
  if (r.flag("no-mmap")) o.mmap = false;
  const std::string check = r.choice("check", "quick");
  o.check = check == "values" ? CheckLevel::values : check == "none" ? CheckLevel::none : CheckLevel::quick;

  o.format = r.choice("format", "ids");
  o.input = r.word("input");
  o.special = r.flag("special");
  o.tensors = r.flag("tensors");
  o.plan = r.flag("plan");
  o.self_test = r.flag("self-test");
  o.csv = r.flag("csv");
  o.random_weights = r.word("random-weights");
  o.questions = r.word("questions");
  o.layers = r.integer<int>("layers", 1, 100000);
  if (r.flag("quick")) o.verify = VerifyMode::quick;
  if (r.flag("values")) o.verify = VerifyMode::values;
  if (r.flag("hash")) o.verify = VerifyMode::hash;
  return o;
}

}  // namespace fathom
