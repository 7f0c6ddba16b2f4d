#include "src/app/model_path.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "src/app/builtin.h"
#include "src/base/descriptor.h"
#include "src/base/error.h"

namespace fathom {
namespace {

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

bool is_directory(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}

std::string last_part(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return std::string(path.substr(path.rfind('/') + 1));
}

// Names in a directory, sorted; empty when it cannot be read.
std::vector<std::string> names_in(const std::string& directory) {
  try {
    return FileSet::directory(directory).list();
  } catch (const Error&) {
    return {};
  }
}

// "models--ORG--NAME" -> "ORG/NAME"; empty for another name.
std::string name_of_folder(std::string_view folder) {
  if (!folder.starts_with("models--")) return {};
  folder.remove_prefix(8);
  const auto split = folder.find("--");
  if (split == folder.npos) return std::string(folder);
  return fmt::format("{}/{}", folder.substr(0, split), folder.substr(split + 2));
}

std::string folder_of_name(std::string_view name) {
  const auto slash = name.find('/');
  return fmt::format("models--{}--{}", name.substr(0, slash), name.substr(slash + 1));
}

// The commit in refs/REV, "" when there is none.
std::string commit_of_ref(const std::string& repository, const std::string& revision) {
  if (revision.find("..") != revision.npos) return {};
  try {
    std::string text = read_input(repository + "/refs/" + revision, 4096);
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    const bool plain = !text.empty() && text.find_first_not_of("0123456789abcdef") == text.npos;
    return plain ? text : std::string();
  } catch (const Error&) {
    return {};
  }
}

// The snapshot directory of a revision: a ref, or the prefix of one commit. Empty when there is none.
std::string snapshot_of(const std::string& repository, const std::string& revision) {
  const std::string snapshots = repository + "/snapshots/";
  if (const std::string commit = commit_of_ref(repository, revision); !commit.empty() && exists(snapshots + commit))
    return snapshots + commit;
  std::string found;
  if (revision.size() < 4) return found;
  for (const std::string& commit : names_in(snapshots))
    if (commit.starts_with(revision)) {
      if (!found.empty()) throw Error(Exit::usage, fmt::format("'{}' begins more than one commit", revision));
      found = snapshots + commit;
    }
  return found;
}

std::string expand_home(const std::string& path, const Environment& environment) {
  if (path == "~" || path.starts_with("~/")) return environment.home.value_or("~") + path.substr(1);
  return path;
}

bool is_path(const std::string& wanted) {
  return wanted.starts_with('.') || wanted.starts_with('/') || wanted.starts_with('~') ||
         (wanted.find('/') != wanted.npos && exists(wanted));
}

ResolvedModel from_path(const std::string& wanted, const Environment& environment) {
  std::string path = expand_home(wanted, environment);
  // A shard or an index stands for its directory.
  if (!is_directory(path) && (path.ends_with(".safetensors") || path.ends_with(".index.json"))) {
    const auto slash = path.rfind('/');
    path = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  }
  ResolvedModel m{last_part(path), path, false, FileSet::directory(path)};
  if (m.name == "." || m.name == ".." || m.name.empty() || m.name == "/") m.name = path;
  return m;
}

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return out;
}

// A model that `wanted` may have meant; empty when there is none. NAME alone is compared too.
std::string meant(std::string_view wanted, const std::vector<std::string>& known) {
  for (const std::string& k : known)
    if (lower(last_part(k)) == lower(wanted)) return k;
  const std::vector<std::string_view> views(known.begin(), known.end());
  return nearest_word(wanted, views);
}

[[noreturn]] void no_revision(const std::string& name, const std::string& revision, const std::string& repository) {
  std::string held;
  for (const std::string& commit : names_in(repository + "/snapshots")) held += fmt::format("{}{}@{}", held.empty() ? "" : ", ", name, commit.substr(0, 7));
  throw Error(Exit::not_found, fmt::format("{}: the cache holds no revision '{}'", name, revision),
              fmt::format("{}To download:  hf download {} --revision {}", held.empty() ? "" : fmt::format("It holds {}\n", held), name, revision));
}

[[noreturn]] void not_found(const std::string& wanted, const Environment& environment, const ConfigFile& config) {
  std::vector<std::string> known;
  for (const CachedModel& m : cached_models(environment)) known.push_back(m.name);
  for (const auto& [alias, target] : config.aliases) known.push_back(alias);
  std::string message = fmt::format("there is no model '{}'", wanted);
  message += fmt::format("\n  not a directory: ./{}", wanted);
  if (environment.hf_cache) message += fmt::format("\n  not in the Hugging Face cache: {}", *environment.hf_cache);
  message += fmt::format("\n  not an alias{}", config.path.empty() ? "" : " in " + config.path);
  std::string remedy;
  if (const std::string near = meant(wanted.substr(0, wanted.find('@')), known); !near.empty())
    remedy = fmt::format("did you mean {}?", near);
  else if (lower(wanted) == "minnow" && builtin_model())
    remedy = "the built-in Minnow answers without -m";
  const std::string name = wanted.find('/') != wanted.npos ? wanted.substr(0, wanted.find('@')) : "ORG/" + wanted;
  remedy += fmt::format("{}To download:  hf download {}", remedy.empty() ? "" : "\n", name);
  throw Error(Exit::not_found, message, remedy);
}

}  // namespace

std::string CachedModel::argument() const { return main ? name : fmt::format("{}@{}", name, revision.substr(0, 7)); }

std::vector<CachedModel> cached_models(const Environment& environment) {
  std::vector<CachedModel> models;
  if (!environment.hf_cache) return models;
  for (const std::string& folder : names_in(*environment.hf_cache)) {
    const std::string name = name_of_folder(folder);
    if (name.empty()) continue;
    const std::string repository = *environment.hf_cache + "/" + folder;
    std::string directory = snapshot_of(repository, "main");
    const bool main = !directory.empty();
    if (!main) {
      std::int64_t newest = -1;
      for (const std::string& commit : names_in(repository + "/snapshots")) {
        struct stat s {};
        const std::string candidate = repository + "/snapshots/" + commit;
        if (::stat(candidate.c_str(), &s) == 0 && s.st_mtim.tv_sec > newest)
          newest = s.st_mtim.tv_sec, directory = candidate;
      }
    }
    if (!directory.empty()) models.push_back({name, last_part(directory), directory, main});
  }
  return models;
}

ResolvedModel resolve_model(const std::optional<std::string>& wanted, const Environment& environment,
                            const ConfigFile& config) {
  if (!wanted) {
    auto files = builtin_model();
    if (!files)
      throw Error(Exit::not_found, "no model was named, and this build has no built-in one",
                  "give a model with -m, or run from the source tree, which holds models/minnow");
    return {"Minnow", {}, true, std::move(*files)};
  }
  if (is_path(*wanted)) return from_path(*wanted, environment);
  const auto at = wanted->find('@');
  const std::string name = wanted->substr(0, at), revision = at == wanted->npos ? "main" : wanted->substr(at + 1);
  if (const auto slash = name.find('/'); slash != name.npos && name.find('/', slash + 1) == name.npos &&
                                         name.find("..") == name.npos && environment.hf_cache) {
    const std::string repository = *environment.hf_cache + "/" + folder_of_name(name);
    if (is_directory(repository)) {
      const std::string directory = snapshot_of(repository, revision);
      if (directory.empty())
        no_revision(name, revision, repository);
      return {name, directory, false, FileSet::directory(directory)};
    }
  }
  if (const auto target = config.alias(*wanted)) {
    if (target == wanted) not_found(*wanted, environment, config);
    // One step only: an alias names a model, not another alias.
    ConfigFile without;
    without.path = config.path;
    ResolvedModel m = resolve_model(target, environment, without);
    return m;
  }
  if (is_directory(*wanted)) return from_path("./" + *wanted, environment);
  not_found(*wanted, environment, config);
}

}  // namespace fathom
