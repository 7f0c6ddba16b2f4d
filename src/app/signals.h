// SIGINT, SIGTERM and SIGHUP as a flag and a byte in a pipe; SIGPIPE is ignored and arrives as EPIPE.
//
// Signal handlers are process-wide, so this is too. Two engines in one process share it, as they share the terminal.
#pragma once

#include <cstdint>
#include <optional>

#include "src/base/error.h"

namespace fathom::signals {

// What the next signal does. leave: the process ends at once with 128 + signal (loading, reading input).
// stop: the flag is set and the work ends itself within a step; a second signal while it does so ends the process.
// ask: only the flag and the byte, for an interactive prompt that decides itself (chat).
enum class Mode { leave, stop, ask };

// Installs the handlers; ignores SIGPIPE and SIGXFSZ (a file size limit). Call once at start.
void install();
void set_mode(Mode mode);
// After `ms` milliseconds the time is up: received() is Exit::timeout, or the process ends with 124 (Mode::leave).
void set_time_limit(std::int64_t ms);

// The exit code (130, 143, 129 or 124) of a signal that has arrived, or nothing.
std::optional<Exit> received();
inline bool stop_requested() { return received().has_value(); }
// Forgets what has arrived: a chat goes on after a Ctrl-C.
void clear();
// Readable when a signal has arrived, for poll(). Drained by clear().
int wake_descriptor();

// Called in the handler before the process ends, and must be async-signal-safe: gives the terminal back as it was.
// Null removes it.
void set_restore(void (*restore)());

}  // namespace fathom::signals
