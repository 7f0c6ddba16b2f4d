// Pipes, terminals and the standard descriptors: the door for what is not a file of a checkpoint.
// Fault injection sits here (faults::Site::io).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace fathom {

// Writes all of `text` to `fd`. `interrupted` is asked when a signal breaks a blocked write; true stops it with
// Error(interrupted). Errors: broken_pipe (EPIPE), io naming `name`.
void write_descriptor(int fd, std::string_view text, std::string_view name,
                      const std::function<bool()>& interrupted = {});

// Reads what is there, waiting for the first byte; 0 at the end. Returns early with Error(interrupted) when
// `interrupted` says true after a signal. Errors: io naming `name`.
std::size_t read_descriptor(int fd, std::span<char> out, std::string_view name,
                            const std::function<bool()>& interrupted = {});

// True when `fd` has bytes or its end within `timeout_ms`; false when not, or when a signal came.
bool wait_readable(int fd, int timeout_ms);

// Reads a file, pipe or device to its end. Errors: not_found (absent, unreadable), io: larger than max_bytes ("name: more
// than N bytes"), a directory, a failing read.
std::string read_input(const std::string& path, std::uint64_t max_bytes,
                       const std::function<bool()>& interrupted = {});
// The same from an open descriptor, which stays open.
std::string read_input(int fd, std::uint64_t max_bytes, std::string_view name,
                       const std::function<bool()>& interrupted = {});

// Opens `path` for writing as it is (a FIFO or a device), never creating it. Errors: io.
int open_for_writing(const std::string& path);
// Closes and reports what close() reports. Errors: io naming `name`.
void close_descriptor(int fd, std::string_view name);

// Opens /dev/null on each of descriptors 0 to 2 that is closed, so that no file of ours ever takes their place.
void reserve_standard_descriptors();

}  // namespace fathom
