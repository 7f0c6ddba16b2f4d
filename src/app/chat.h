// `fathom chat`: a conversation at a terminal.
#pragma once

#include <functional>
#include <memory>

#include "src/app/app.h"

namespace fathom {

// Errors: usage when standard input or output is no terminal, and those of loading a model. Errors of one turn are
// said and the chat goes on, except a fault of the machine (compute, io of the terminal).
Exit chat_command(App& app);

}  // namespace fathom
