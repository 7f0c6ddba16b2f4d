// Power loss: what a save may leave on the disk when everything that was not synced is lost, or only part of
// it.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace fathom::test {

// Runs `save` in a child process and records its calls on the files below `directory`, which holds plain
// files. Then, for every moment between two calls, puts the directory into each state that a crash at that
// moment may leave, and calls `check`: names as last synced (fsync of the directory) or as last changed; of
// each file, what was not synced is lost, kept, half there, or there in length but zero. Afterwards the
// directory is as `save` left it. The number of states; 0 when this machine lets no process trace another.
// Throws when `save` fails.
std::size_t after_power_loss(const std::string& directory, const std::function<void()>& save,
                             const std::function<void()>& check);

}  // namespace fathom::test
