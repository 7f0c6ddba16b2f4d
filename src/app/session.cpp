#include "src/app/session.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>

#include "src/base/error.h"
#include "src/base/json.h"

namespace fathom {
namespace {

constexpr std::string_view kSchema = "fathom.session/1";
constexpr const char* kOther = "name another file with --session; this one stays as it is";
constexpr std::size_t kMaxMessages = 100'000;

std::string text_of(const json::Value& object, std::string_view key, std::string_view where) {
  const json::Value* v = object.find(key);
  if (v == nullptr || v->is_null()) return {};
  if (!v->is_string())
    throw Error(Exit::bad_checkpoint, fmt::format("{}: {}: expected a string, found {}", where, key, v->describe()));
  return v->as_string();
}

SessionHeader parse_header(std::string_view line, std::string_view where) {
  const json::Value v = json::parse(line, where);
  const std::string schema = text_of(v, "schema", where);
  if (!schema.starts_with("fathom.session/"))
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected a conversation ({:?}), found {}", where, kSchema,
                                                  schema.empty() ? v.describe() : schema));
  if (schema != kSchema)
    throw Error(Exit::unsupported, fmt::format("{}: expected {:?}, found {:?}: written by a later fathom", where, kSchema, schema),
                "use that version, or begin a new conversation");
  return {text_of(v, "model", where), text_of(v, "fingerprint", where), text_of(v, "numerics", where)};
}

SessionMessage parse_message(std::string_view line, std::string_view where) {
  const json::Value v = json::parse(line, where);
  if (!v.is_object())
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected a message, found {}", where, v.describe()));
  SessionMessage out;
  out.message.role = text_of(v, "role", where);
  const json::Value* content = v.find("content");
  if (out.message.role != "system" && out.message.role != "user" && out.message.role != "assistant" &&
      out.message.role != "tool")
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected role system, user, assistant or tool, found {:?}", where,
                                                  out.message.role.substr(0, 60)));
  if (content == nullptr) throw Error(Exit::bad_checkpoint, fmt::format("{}: the message has no content", where));
  out.message.content = text_of(v, "content", where);
  out.message.reasoning_content = text_of(v, "reasoning_content", where);
  if (const json::Value* calls = v.find("tool_calls")) out.message.tool_calls = *calls;
  out.finish_reason = text_of(v, "finish_reason", where);
  return out;
}

AppendFile open_locked(const std::string& path) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    AppendFile file(path);
    if (!file.lock(false))
      throw Error(Exit::io, fmt::format("{}: the conversation is in use by another fathom", path),
                  "end that one, or name another file with --session")
          .at(path);
    if (file.current()) return file;
  }
  throw Error(Exit::io, fmt::format("{}: the file keeps being replaced", path)).at(path);
}

std::string whole_text(const SessionHeader& header, const std::vector<SessionMessage>& messages) {
  std::string text = session_line(header);
  for (const SessionMessage& m : messages) text += session_line(m);
  return text;
}

}  // namespace

std::string session_line(const SessionHeader& h) {
  return fmt::format("{{\"schema\":\"{}\",\"model\":{},\"fingerprint\":{},\"numerics\":{}}}\n", kSchema, json::quote(h.model),
                     json::quote(h.fingerprint), json::quote(h.numerics));
}

std::string session_line(const SessionMessage& m) {
  std::string out = fmt::format("{{\"role\":{},\"content\":{}", json::quote(m.message.role), json::quote(m.message.content));
  if (!m.message.reasoning_content.empty())
    out += ",\"reasoning_content\":" + json::quote(m.message.reasoning_content);
  if (!m.message.tool_calls.is_null()) out += ",\"tool_calls\":" + json::dump(m.message.tool_calls);
  if (!m.finish_reason.empty()) out += ",\"finish_reason\":" + json::quote(m.finish_reason);
  return out + "}\n";
}

SessionText parse_session(std::string_view text, std::string_view where) {
  SessionText out;
  bool header = false;
  int number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string_view line = text.substr(at, end == text.npos ? text.npos : end - at);
    const std::string place = fmt::format("{}:{}", where, ++number);
    try {
      if (!header)
        out.header = parse_header(line, place);
      else
        out.messages.push_back(parse_message(line, place));
      header = true;
    } catch (const Error& e) {
      // A line without its end is what a crash leaves; anything else is damage.
      if (end != text.npos || e.code() == Exit::unsupported || !header) 
        throw Error(e.code(), e.what(), e.remedy().empty() ? kOther : e.remedy()).at(std::string(where), at);
      out.notes.push_back(fmt::format("{}: the last line is incomplete and was dropped", where));
      return out;
    }
    if (out.messages.size() > kMaxMessages) fail(Exit::bad_checkpoint, "{}: expected at most {} messages", where, kMaxMessages);
    at = end == text.npos ? text.size() : end + 1;
    out.good_bytes = at;
  }
  if (!header) throw Error(Exit::bad_checkpoint, fmt::format("{}: expected a conversation, found an empty file", where)).at(std::string(where));
  return out;
}

Session Session::open(const std::string& path, const SessionHeader& header) {
  AppendFile file = open_locked(path);
  const std::uint64_t size = file.size();
  if (size > kMaxBytes)
    throw Error(Exit::bad_checkpoint, fmt::format("{}: expected at most {} bytes, found {}", path, kMaxBytes, size)).at(path);
  if (size == 0) {
    // In place of the empty file: a power loss leaves no half of a first line, which nobody could tell from
    // another's file.
    save_session(path, header, {});
    return Session(open_locked(path),
                   SessionText{.header = header, .messages = {}, .notes = {}, .good_bytes = 0});
  }
  const std::string text = file.tail(kMaxBytes);
  SessionText parsed = parse_session(text, path);
  if (parsed.good_bytes < size) file.truncate(parsed.good_bytes);
  if (parsed.good_bytes > 0 && text[parsed.good_bytes - 1] != '\n') file.append("\n", true);
  return Session(std::move(file), std::move(parsed));
}

void Session::append(SessionMessage message) {
  const std::string line = session_line(message);
  text_.messages.push_back(std::move(message));
  file_.append(line, true);
}

void Session::replace(std::vector<SessionMessage> messages, const SessionHeader& header) {
  text_.messages = std::move(messages);
  text_.header = header;
  save_session(file_.path(), header, text_.messages);
  file_ = open_locked(file_.path());
}

void save_session(const std::string& path, const SessionHeader& header, const std::vector<SessionMessage>& messages) {
  AtomicFile file(path, 0600);
  file.write(whole_text(header, messages));
  file.commit();
}

SessionText load_session(const std::string& path) { return parse_session(read_file(path, Session::kMaxBytes), path); }

std::string new_session_path(const std::string& folder, std::int64_t unix_time) {
  make_directories(folder);
  const std::time_t t = unix_time;
  std::tm tm{};
  ::localtime_r(&t, &tm);
  return fmt::format("{}/{:04}{:02}{:02}-{:02}{:02}{:02}-{}.jsonl", folder, tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                     tm.tm_hour, tm.tm_min, tm.tm_sec, ::getpid());
}

std::optional<std::string> newest_session(const std::string& folder) {
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) return std::nullopt;
  std::optional<std::string> newest;
  std::pair<std::int64_t, std::int64_t> time{};
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (!name.ends_with(".jsonl") || name.starts_with('.')) continue;
    const std::string path = fmt::format("{}/{}", folder, name);
    struct stat s {};
    if (::lstat(path.c_str(), &s) != 0 || !S_ISREG(s.st_mode)) continue;
    const std::pair<std::int64_t, std::int64_t> t{s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
    if (!newest || t > time || (t == time && path > *newest)) newest = path, time = t;
  }
  ::closedir(dir);
  return newest;
}

}  // namespace fathom
