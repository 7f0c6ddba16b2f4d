// A page of a mapped shard that can no longer be read (the file was truncated, the disk failed) arrives as SIGBUS.
// This turns it into one line that names the file, and exit code 9, with the terminal restored.
#pragma once

#include <cstddef>
#include <string>

namespace fathom::sigbus {

// Installs the handler on an alternate stack for the calling thread and the process. Idempotent. Threads started
// later get an alternate stack through `use_alternate_stack`.
void install();
void use_alternate_stack();

// Called from the handler before the process ends: must be async-signal-safe (write, tcsetattr).
void on_exit(void (*restore_terminal)());

// While alive, a fault in [address, address + bytes) is reported as `name`. Cheap; any number of mappings.
class Watch {
 public:
  Watch(const void* address, std::size_t bytes, const std::string& name);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  void* entry_;
};

}  // namespace fathom::sigbus
