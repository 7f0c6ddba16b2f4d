// Files that fathom keeps for a user: sessions, their latent caches, the history, the configuration.
#include <string>
#include <vector>

#include "src/app/config_file.h"
#include "src/app/history.h"
#include "src/app/options.h"
#include "src/app/session.h"
#include "src/app/session_cache.h"
#include "src/base/sha256.h"
#include "tests/fuzz/target.h"
#include "tests/support/files.h"

using namespace fathom;
using fuzz::require;

namespace {

void session(std::string_view input) {
  fuzz::refused_with({Exit::bad_checkpoint, Exit::unsupported}, [&] {
    const SessionText s = parse_session(input, "fuzz");
    require(s.good_bytes <= input.size(), "no more is good than there is");
    std::string again = session_line(s.header);
    for (const SessionMessage& m : s.messages) again += session_line(m);
    const SessionText t = parse_session(again, "again");
    require(t.notes.empty() && t.header == s.header && t.messages.size() == s.messages.size(), "written as read");
    for (std::size_t i = 0; i < t.messages.size(); ++i)
      require(t.messages[i].message.content == s.messages[i].message.content &&
                  t.messages[i].message.role == s.messages[i].message.role &&
                  t.messages[i].finish_reason == s.messages[i].finish_reason,
              "a message is written as it was read");
  });
}
const fuzz::Target session_target("session", session);

// The file as it is, and with its checksum made right, so that what lies behind the checksum is reached.
void latents(std::string_view input) {
  static const test::TempDir dir;
  const LatentKey key{"fingerprint", "cache bf16", "cpu", 8};
  const std::string path = dir.file("talk.latents");
  for (const bool sealed : {false, true}) {
    std::string text(input);
    if (sealed) {
      Sha256 sum;
      sum.update(as_bytes_of(text));
      text += sum.hex_digest();
    }
    dir.write("talk.latents", text);
    std::string why;
    const auto rows = read_latents(path, key, &why);
    require(rows.has_value() == why.empty(), "a refusal says why");
    if (!rows) continue;
    require(rows->rows.size() == rows->ids.size() * key.row_bytes, "every position has a row");
    require(write_latents(path, key, rows->ids, rows->rows), "what is read can be written");
    require(read_file(path, 1 << 24) == text, "written as read");
  }
}
const fuzz::Target latents_target("latents", latents);

void history(std::string_view input) {
  require(unescape_history(escape_history(input)) == input, "escaping keeps every byte");
  const std::string escaped = escape_history(input);
  for (const char c : escaped)
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a line of history has no control byte");
  static const test::TempDir dir;
  dir.write("history", input);
  const std::string path = dir.file("history");
  History first(path);
  require(first.lines().size() <= History::kMaxLines, "no more lines than the limit");
  first.add("fuzz \xff\n\x1b");
  require(History(path).lines().back() == "fuzz \xff\n\x1b", "what is added is read again");
}
const fuzz::Target history_target("history", history);

void config_file(std::string_view input) {
  fuzz::refused_with({Exit::usage}, [&] {
    const ConfigFile file = parse_config_text(input, "fuzz");
    for (const ConfigFile::Default& d : file.defaults) require(may_be_configured(d.flag), "only habits are configured");
    ParsedArgs args = parse_args(std::vector<std::string>{"run", "x"});
    merge_defaults(args, file);
    (void)make_options(args);
  });
}
const fuzz::Target config_target("config_file", config_file);

}  // namespace
