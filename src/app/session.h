// A saved conversation: JSON lines, the first says what it is (fathom.session/1), then one message per line.
//
// The file grows by one synced record per message and stays locked while a chat uses it. A crash leaves at worst an
// incomplete last line, which the next reader drops. The file is untrusted input.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"
#include "tokenizer/chat_template.h"

namespace fathom {

// What the conversation was held with. Different values on resuming are said, not refused.
struct SessionHeader {
  std::string model, fingerprint;
  std::string numerics;  // "cache bf16, prompt f32, generated f32"
  bool operator==(const SessionHeader&) const = default;
};

struct SessionMessage {
  Message message;
  std::string finish_reason;  // of an answer that did not end by itself: "interrupted", "length"; else empty
};

struct SessionText {
  SessionHeader header;
  std::vector<SessionMessage> messages;
  std::vector<std::string> notes;  // what was dropped and why
  std::uint64_t good_bytes = 0;    // length of the text up to the last whole record
};

// Parses a session file's text. Errors: bad_checkpoint (no session, malformed) and unsupported (a later schema), each
// naming `where` and the line. An incomplete last line is dropped with a note.
SessionText parse_session(std::string_view text, std::string_view where);
std::string session_line(const SessionHeader& header);
std::string session_line(const SessionMessage& message);

class Session {
 public:
  static constexpr std::uint64_t kMaxBytes = 1u << 30;

  // Opens `path` or begins a new conversation there; locks it. Errors: io (unwritable, in use by another fathom),
  // bad_checkpoint, unsupported.
  static Session open(const std::string& path, const SessionHeader& header);

  const std::string& path() const { return file_.path(); }
  // As found in the file; what `open` was given when the file is new.
  const SessionHeader& header() const { return text_.header; }
  const std::vector<SessionMessage>& messages() const { return text_.messages; }
  const std::vector<std::string>& notes() const { return text_.notes; }

  // One record, synced. Errors: io; the conversation in memory keeps the message all the same.
  void append(SessionMessage message);
  // Puts other messages (and this run's header) in place of all, whole or not at all. Errors: io.
  void replace(std::vector<SessionMessage> messages, const SessionHeader& header);

 private:
  Session(AppendFile file, SessionText text) : file_(std::move(file)), text_(std::move(text)) {}
  AppendFile file_;
  SessionText text_;
};

// Writes a conversation to `path`, whole or not at all, mode 0600. Errors: io.
void save_session(const std::string& path, const SessionHeader& header, const std::vector<SessionMessage>& messages);
// Reads one without keeping it open. Errors: as parse_session; not_found.
SessionText load_session(const std::string& path);

// A name in `folder` for a conversation begun at `unix_time`: "20261122-131500-4711.jsonl". Creates the folder (0700).
std::string new_session_path(const std::string& folder, std::int64_t unix_time);
// The session in `folder` that was written last; nothing if there is none.
std::optional<std::string> newest_session(const std::string& folder);

}  // namespace fathom
