// What a user's files hold: a session, messages, a line and an earlier output of a batch, arguments. The first byte says
// which; the rest is refused with an Error or understood, and an understood session is written as it was read.
#include <cstdlib>
#include <string>
#include <vector>

#include "src/app/batch.h"
#include "src/app/input.h"
#include "src/app/options.h"
#include "src/app/session.h"
#include "src/base/error.h"

using namespace fathom;

namespace {

void session(std::string_view text) {
  const SessionText s = parse_session(text, "fuzz");
  if (s.good_bytes > text.size()) std::abort();
  std::string again = session_line(s.header);
  for (const SessionMessage& m : s.messages) again += session_line(m);
  const SessionText t = parse_session(again, "again");
  if (!t.notes.empty() || !(t.header == s.header) || t.messages.size() != s.messages.size()) std::abort();
  for (std::size_t i = 0; i < t.messages.size(); ++i)
    if (t.messages[i].message.content != s.messages[i].message.content) std::abort();
}

void arguments(std::string_view text) {
  std::vector<std::string> args;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    args.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  (void)make_options(parse_args(args));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 5) {
      case 0: session(rest); break;
      case 1: (void)parse_messages(rest, "fuzz"); break;
      case 2: (void)parse_batch_line(rest, 1, {}); break;
      case 3: (void)parse_batch_output(rest); break;
      default: arguments(rest);
    }
  } catch (const Error& e) {
    if (e.code() == Exit::failure) std::abort();
  }
  return 0;
}
