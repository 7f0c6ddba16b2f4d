#include "src/app/doctor.h"

#include <langinfo.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstring>

#include "cuda/device.h"
#include "src/app/doctor_self_test.h"
#include "src/app/load.h"
#include "src/app/version.h"
#include "src/app/wrap.h"
#include "src/base/descriptor.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/base/text.h"
#include "src/base/threads.h"
#include "src/engine/placement.h"

namespace fathom {
namespace {

using Level = Finding::Level;

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1u << 30); }

// The value of the first line of /proc/cpuinfo that begins with `key`; empty where there is none.
std::string processor_says(std::string_view key) {
  std::string text;
  try {
    text = "\n" + read_input("/proc/cpuinfo", 8u << 20);
  } catch (const Error&) {
    return {};  // /proc is not mounted
  }
  const std::size_t at = text.find(fmt::format("\n{}", key));
  if (at == text.npos) return {};
  const std::size_t value = text.find_first_not_of(" \t:", at + 1 + key.size());
  return text.substr(value, text.find('\n', value) - value);
}

void look_at_gpus(std::vector<Finding>& out) {
  cuda::NoDevice none;
  const std::vector<cuda::DeviceInfo> devices = cuda::devices(&none);
  if (devices.empty()) {
    const bool built = cuda::built_with_cuda();
    out.push_back({"GPU", fmt::format("{}: {}", none.present ? "unusable" : "none", none.why), none.present ? Level::problem : Level::remark,
                   built ? "the CPU runs small models; a large one needs an NVIDIA GPU and its driver"
                         : "build with the CUDA Toolkit present to use a GPU"});
    return;
  }
  for (const cuda::DeviceInfo& d : devices)
    out.push_back({"GPU", fmt::format("{}: {}, compute {}.{}, {} multiprocessors, {:.1f} of {:.1f} GiB free", d.ordinal, d.name,
                                      d.major, d.minor, d.multiprocessors, gib(d.memory_free), gib(d.memory_total)),
                   Level::good, {}});
}

void look_at_driver(std::vector<Finding>& out) {
  try {
    const std::string version = driver_version(read_input("/proc/driver/nvidia/version", 4096));
    if (!version.empty()) out.push_back({"driver", fmt::format("NVIDIA {}", version), Level::good, {}});
  } catch (const Error&) {
    // No driver, or one that does not say: the line of the GPU tells what works.
  }
}

void look_at_processor(std::vector<Finding>& out) {
  utsname system{};
  ::uname(&system);
  const std::string flags = processor_says("flags");
  const auto has = [&](std::string_view f) { return (" " + flags + " ").find(fmt::format(" {} ", f)) != std::string::npos; };
  const std::string_view best = has("avx512bw") && has("avx512vl") ? "AVX-512" : has("avx2") && has("fma") ? "AVX2" : "";
  const std::string name = processor_says("model name");
  out.push_back({"processor", fmt::format("{}, {} cores for fathom, {}", name.empty() ? system.machine : name, usable_cores(),
                                          best.empty() ? "no AVX2" : best),
                 best.empty() ? Level::remark : Level::good, best.empty() ? "the CPU path will be slow here" : ""});
  out.push_back({"system", fmt::format("{} {}", system.sysname, system.release), Level::good, {}});
}

void look_at_memory(std::vector<Finding>& out) {
  const auto available = available_memory();
  if (!available) return out.push_back({"memory", "unknown: /proc/meminfo cannot be read", Level::remark, {}});
  out.push_back({"memory", fmt::format("{:.1f} GiB available to fathom", gib(*available)),
                 *available < (1u << 30) ? Level::problem : Level::good,
                 *available < (1u << 30) ? "close other programs" : ""});
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    out.push_back({"memory", fmt::format("address space is limited to {:.1f} GiB", gib(limit.rlim_cur)), Level::problem,
                   "ulimit -v unlimited"});
}

void look_at_disk(std::vector<Finding>& out, std::string_view topic, const std::optional<std::string>& path) {
  if (!path) return out.push_back({std::string(topic), "no place: HOME is not set", Level::remark, "set HOME"});
  struct statvfs s {};
  std::string existing = *path;
  while (!existing.empty() && ::statvfs(existing.c_str(), &s) != 0) existing.resize(existing.rfind('/') == existing.npos ? 0 : existing.rfind('/'));
  if (existing.empty()) return out.push_back({std::string(topic), fmt::format("{}: absent", *path), Level::remark, {}});
  const std::uint64_t free = std::uint64_t{s.f_bavail} * s.f_frsize;
  const bool writable = ::access(existing.c_str(), W_OK) == 0;
  out.push_back({std::string(topic), fmt::format("{}: {:.1f} GiB free{}{}", *path, gib(free), existing == *path ? "" : ", not made yet",
                                                 writable ? "" : ", read-only") +
                     (on_network_file_system(existing) ? ", a network file system: shards are read, not mapped" : ""),
                 Level::good, {}});
}

void look_at_terminal(std::vector<Finding>& out, App& app) {
  const bool utf8 = std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
  Screen& screen = app.terminal.out();
  out.push_back({"terminal", fmt::format("input {}, output {}, errors {}; TERM {}, {} columns, colour {}",
                                         app.terminal.stdin_is_terminal() ? "terminal" : "no terminal",
                                         screen.is_terminal() ? "terminal" : "no terminal",
                                         app.terminal.err().is_terminal() ? "terminal" : "no terminal",
                                         app.environment.term.empty() ? "unset" : app.environment.term, screen.width(),
                                         screen.colour() ? "on" : "off"),
                 Level::good, {}});
  if (!utf8)
    out.push_back({"locale", fmt::format("the locale's encoding is {}, text is read and written as UTF-8 all the same", ::nl_langinfo(CODESET)),
                   Level::remark, "export LC_CTYPE=C.UTF-8"});
}

void look_at_files(std::vector<Finding>& out, App& app) {
  look_at_disk(out, "HF cache", app.environment.hf_cache);
  look_at_disk(out, "conversations", app.environment.state_dir);
  const std::size_t models = cached_models(app.environment).size();
  out.push_back({"models", fmt::format("{} in the HF cache", models), Level::good, {}});
  if (!app.config.path.empty())
    out.push_back({"configuration", fmt::format("{}: {} defaults, {} aliases", app.config.path, app.config.defaults.size(),
                                                app.config.aliases.size()),
                   Level::good, {}});
}

std::string_view level_name(Level l) { return l == Level::good ? "ok" : l == Level::remark ? "note" : "problem"; }

std::string as_json(const std::vector<Finding>& findings) {
  json::Array list;
  for (const Finding& f : findings) {
    json::Object o{{"topic", json::Value(f.topic)}, {"level", json::Value(std::string(level_name(f.level)))}, {"text", json::Value(f.text)}};
    if (!f.remedy.empty()) o.emplace_back("remedy", json::Value(f.remedy));
    list.emplace_back(std::move(o));
  }
  return json::dump(json::Value(json::Object{{"schema", json::Value(std::string("fathom.doctor/1"))},
                                             {"version", json::Value(std::string(version_number()))},
                                             {"findings", json::Value(std::move(list))}}));
}

}  // namespace

std::vector<Finding> examine(App& app) {
  std::vector<Finding> out;
  out.push_back({"fathom", version_line(), Level::good, {}});
  look_at_gpus(out);
  look_at_driver(out);
  look_at_processor(out);
  look_at_memory(out);
  look_at_files(out, app);
  look_at_terminal(out, app);
  return out;
}

std::string driver_version(std::string_view text) {
  // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed ...": the first word of digits and points.
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find_first_of(" \t\n", at), text.size());
    const std::string_view word = text.substr(at, end - at);
    const bool numeric = word.find_first_not_of("0123456789.") == word.npos;
    if (numeric && word.find('.') != word.npos && word.find_first_of("0123456789") != word.npos) return std::string(word);
    at = end + 1;
  }
  return {};
}

Exit doctor_command(App& app) {
  if (app.options.self_test) return self_test_command(app);
  const std::vector<Finding> findings = examine(app);
  Screen& out = app.terminal.out();
  if (app.options.json) {
    out.raw(as_json(findings) + "\n");
    return Exit::ok;
  }
  const auto wrapped = [&](const std::string& line) { return out.is_terminal() ? wrap(line, static_cast<std::size_t>(out.width())) : line; };
  for (const Finding& f : findings) {
    out.text(wrapped(fmt::format("{:<8}{:<15}{}\n", level_name(f.level), f.topic, f.text)));
    if (!f.remedy.empty()) out.text(wrapped(fmt::format("{:23}{}\n", "", f.remedy)), Style::dim);
  }
  out.end_text();
  return Exit::ok;
}

}  // namespace fathom
