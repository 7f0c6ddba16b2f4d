// fathom tokenize: text to ids, from the tokenizer files alone.
#include <unistd.h>

#include "src/app/commands.h"
#include "src/app/input.h"
#include "src/app/lines.h"
#include "src/app/load.h"
#include "src/app/record.h"
#include "src/app/signals.h"
#include "src/base/descriptor.h"
#include "src/base/utf8.h"
#include "src/model/shards.h"

namespace fathom {
namespace {

void tokenize_lines(App& app, const Tokenizer& tokenizer, AddedTokens added) {
  const std::string& file = *app.options.input;
  const std::string text = file == "-" ? read_input(STDIN_FILENO, app.options.max_input, "standard input")
                                       : read_input(file, std::uint64_t{1} << 32, signals::stop_requested);
  std::string out;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}:{}", file, number);
    const json::Value v = json::parse(line, where, Exit::usage);
    const json::Value* t = v.find("text");
    if (t == nullptr || !t->is_string())
      throw Error(Exit::usage, fmt::format("{}: expected {{\"text\": \"...\"}}, found {}", where, v.describe()));
    const auto ids = tokenizer.encode(t->as_string(), added);
    out += json::dump(json::Value(json::Object{{"ids", ids_value(ids)}})) + "\n";
    if (out.size() > (1u << 16)) {
      app.terminal.out().raw(out);
      out.clear();
    }
  });
  app.terminal.out().raw(out);
}

json::Value tokens_value(const Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  json::Array tokens;
  for (std::int32_t id : ids) tokens.emplace_back(to_utf8(tokenizer.token_bytes(id)));
  return json::Value(std::move(tokens));
}

}  // namespace

Exit tokenize_command(App& app) {
  const Options& o = app.options;
  if (o.input && !o.positionals.empty()) throw Error(Exit::usage, "--input and TEXT exclude each other");
  if (!o.input && o.positionals.empty() && app.terminal.stdin_is_terminal())
    throw Error(Exit::usage, "no text: give it as an argument, or pipe it in");
  // Bytes as they are: a tokenizer is asked about text, and this is how it is checked.
  std::string text;
  if (!o.input)
    text = o.positionals.empty() ? read_input(STDIN_FILENO, o.max_input, "standard input", signals::stop_requested)
                                 : o.positionals[0];
  const FileSet files = files_of(app);
  const std::unique_ptr<Tokenizer> tokenizer = repairable(files, [&] { return Tokenizer::load(files); });
  const AddedTokens added = o.special ? AddedTokens::match : AddedTokens::plain;
  if (o.input) {
    tokenize_lines(app, *tokenizer, added);
    return Exit::ok;
  }
  const std::vector<std::int32_t> ids = tokenizer->encode(text, added);
  Screen& out = app.terminal.out();
  if (o.format == "count") {
    out.raw(fmt::format("{}\n", ids.size()));
  } else if (o.format == "json") {
    out.raw(json::dump(json::Value(json::Object{{"schema", json::Value(std::string("fathom.tokenize/1"))},
                                                {"count", json::Value(static_cast<std::int64_t>(ids.size()))},
                                                {"ids", ids_value(ids)},
                                                {"tokens", tokens_value(*tokenizer, ids)}})) +
            "\n");
  } else {
    out.raw(fmt::format("{}\n", fmt::join(ids, ",")));
  }
  return Exit::ok;
}

}  // namespace fathom
