#include "src/base/error.h"

namespace fathom {

std::string_view exit_name(Exit code) {
  switch (code) {
    case Exit::ok: return "ok";
    case Exit::failure: return "failure";
    case Exit::usage: return "usage";
    case Exit::not_found: return "not-found";
    case Exit::bad_checkpoint: return "bad-checkpoint";
    case Exit::unsupported: return "unsupported";
    case Exit::out_of_memory: return "out-of-memory";
    case Exit::context: return "context";
    case Exit::compute: return "compute";
    case Exit::io: return "io";
    case Exit::partial: return "partial";
    case Exit::timeout: return "timeout";
    case Exit::hangup: return "hangup";
    case Exit::interrupted: return "interrupted";
    case Exit::broken_pipe: return "broken-pipe";
    case Exit::terminated: return "terminated";
  }
  return "failure";
}

}  // namespace fathom
