// The whole program behind main(), and what every command is given.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "src/app/config_file.h"
#include "src/app/environment.h"
#include "src/app/options.h"
#include "src/app/terminal.h"
#include "src/base/error.h"
#include "src/base/json.h"

namespace fathom {

class Engine;
class Forward;
class GpuLock;
namespace cuda {
struct DeviceInfo;
struct NoDevice;
}

// Where tests put parts of their own in place of the real ones.
struct AppHooks {
  // The forward pass of a loaded engine; unset: the engine's own.
  std::function<std::unique_ptr<Forward>(const Engine&)> make_forward;
  // The GPUs there are; unset: those of the driver.
  std::function<std::vector<cuda::DeviceInfo>(cuda::NoDevice* none)> devices;
};

// Runs the command line and returns the exit code. Prints any Error as cli.md says.
int app_main(int argc, char** argv, const AppHooks& hooks = {});

// What a command works with. Commands return the exit code of a run that went well, and throw Error otherwise.
struct App {
  const Options& options;
  const Environment& environment;
  const ConfigFile& config;  // empty when there is none
  Terminal& terminal;
  const AppHooks& hooks;
  std::shared_ptr<GpuLock> gpu_lock = {};  // of the GPU that this command uses
};

// {"code", "name", "message", ...}: what fathom.error/1 holds under "error".
json::Value error_value(const Error& error);
// {"schema":"fathom.error/1","error":{...}} on one line, without the newline.
std::string error_json(const Error& error);

}  // namespace fathom
