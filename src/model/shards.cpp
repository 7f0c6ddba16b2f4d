#include "src/model/shards.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "src/base/json.h"
#include "src/base/text.h"
#include "src/model/json_fields.h"
#include "src/model/safetensors.h"

namespace fathom {
namespace {

constexpr std::uint64_t kMaxIndexBytes = 64u << 20;  // the largest published index has 14 MB
constexpr std::uint64_t kMaxRecordBytes = 4096;      // of a download's metadata
constexpr std::size_t kListed = 20;                  // lines of one error

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";

// The repository's name if the directory is .../models--ORG--NAME/snapshots/COMMIT.
std::string hub_name(const std::string& path) {
  const auto models = path.rfind("models--");
  if (models == std::string::npos || path.find("/snapshots/", models) == std::string::npos) return {};
  std::string name = path.substr(models + 8, path.find('/', models) - models - 8);
  const auto separator = name.find("--");
  if (separator == std::string::npos) return {};
  return name.replace(separator, 2, "/");
}

std::string download_command(const FileSet& files, const std::vector<std::string>& names) {
  const std::string repository = hub_name(files.label());
  std::string command = "To repair:  hf download " + (repository.empty() ? "ORG/NAME" : repository);
  if (repository.empty()) command += " --local-dir " + files.label();
  if (names.size() > 8) return command + " --include '*.safetensors'";
  for (const std::string& n : names) command += " " + n;
  return command;
}

[[noreturn]] void fail_index(const std::string& index, std::string_view problem) {
  throw Error(Exit::bad_checkpoint, fmt::format("{}: {}", index, problem)).at(index);
}

// -- which files --------------------------------------------------------------------------------------------

bool is_shard_name(std::string_view name) {
  const bool printable_ascii =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c < 0x7f; });
  return printable_ascii && name.ends_with(".safetensors") && name.find('/') == name.npos &&
         name.front() != '.' && name.size() <= 255;
}

void read_index(const FileSet& files, ShardList& list) {
  const Blob text = files.read(list.index, kMaxIndexBytes);
  json::Value root =
      json::parse(text.text(), list.index, Exit::bad_checkpoint, {.depth = 16, .bytes = kMaxIndexBytes});
  const JsonFields fields(root, list.index);
  if (const auto metadata = fields.object_if("metadata"))
    if (const json::Value* total = metadata->get("total_size")) list.total_size = total->as_u64().value_or(0);
  if (!fields.object_if("weight_map")) fields.refuse("weight_map", "an object of file names by tensor");
  std::set<std::string> names;
  for (const auto& [tensor, file] : fields.get("weight_map")->as_object()) {
    if (!file.is_string() || !is_shard_name(file.as_string()))
      fail_index(list.index,
                 fmt::format("weight_map: {}: expected the plain name of a .safetensors file, found {}",
                             printable(tensor), printable(file.describe())));
    names.insert(file.as_string());
    list.weight_map.emplace(tensor, file.as_string());
  }
  if (names.empty()) fail_index(list.index, "weight_map: expected at least one tensor, found none");
  list.names.assign(names.begin(), names.end());
}

[[noreturn]] void fail_no_weights(const FileSet& files, const std::vector<std::string>& present) {
  for (const std::string& n : present) {
    if (n.ends_with(".gguf") || n.ends_with(".bin") || n.ends_with(".pth") || n.ends_with(".pt"))
      throw Error(Exit::unsupported,
                  fmt::format("{}: no *.safetensors, but {}: fathom reads safetensors only", files.label(),
                              printable(n)),
                  "use the safetensors checkpoint as its makers published it")
          .at(n);
    if (n.ends_with(".safetensors.incomplete"))
      throw Error(Exit::bad_checkpoint,
                  fmt::format("{}: {} is an unfinished download", files.label(), printable(n)),
                  download_command(files, {}))
          .at(n);
  }
  throw Error(Exit::not_found, fmt::format("{}: no *.safetensors", files.label()),
              download_command(files, {}));
}

void list_directory(const FileSet& files, const std::vector<std::string>& present, ShardList& list) {
  for (const std::string& n : present) {
    if (n.ends_with(".safetensors.incomplete")) fail_no_weights(files, {n});
    if (is_shard_name(n)) list.names.push_back(n);
  }
  if (list.names.empty()) fail_no_weights(files, present);
  // Without an index model.safetensors is the whole model; what lies beside it is something else.
  if (std::find(list.names.begin(), list.names.end(), "model.safetensors") != list.names.end())
    list.names = {"model.safetensors"};
}

// Shards of two revisions may have the same names and shapes: only their origin tells them apart.
void note_mixed_revisions(const FileSet& files, ShardList& list) {
  std::map<std::string, std::vector<std::string>> shards_of;  // by commit
  for (const std::string& n : list.names)
    if (const auto record = download_record(files, n)) shards_of[record->commit].push_back(n);
  if (shards_of.size() < 2) return;
  std::string parts;
  for (const auto& [commit, names] : shards_of)
    parts += fmt::format("{}{} {} of {}", parts.empty() ? "" : ", ", names.size(), names.size() == 1 ? "shard" : "shards",
                         printable(commit.substr(0, 12)));
  list.notes.push_back(fmt::format("the shards were downloaded from {} commits ({}): they may belong to different models",
                                   shards_of.size(), parts));
}

// -- bad shards ---------------------------------------------------------------------------------------------

struct Problem {
  std::string name, text;
  Exit code;
  bool incomplete;
};

Problem missing(const FileSet& files, const ShardList& list, const std::string& name) {
  std::string text = fmt::format("missing (named by {})", list.index);
  if (files.has(name + ".incomplete")) text += "; its download is unfinished";
  return {name, text, Exit::bad_checkpoint, true};
}

Problem problem_of(const std::string& name, const Error& e, bool incomplete) {
  std::string_view text = e.what();
  if (const std::string prefix = name + ": "; text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return {name, std::string(text), e.code(), incomplete};
}

[[noreturn]] void fail_shards(const FileSet& files, std::size_t total, const std::vector<Problem>& problems) {
  const bool incomplete =
      std::all_of(problems.begin(), problems.end(), [](const auto& p) { return p.incomplete; });
  const bool one_code = std::all_of(problems.begin(), problems.end(),
                                    [&](const auto& p) { return p.code == problems[0].code; });
  const Exit code = one_code ? problems[0].code : Exit::bad_checkpoint;
  std::size_t width = 0;
  for (const Problem& p : problems) width = std::max(width, p.name.size());
  std::string message = fmt::format("cannot use {}: {} of {} shards {} {}", display_name(files),
                                    problems.size(), total, total == 1 ? "is" : "are",
                                    incomplete                  ? "incomplete"
                                    : code == Exit::unsupported ? "unsupported"
                                    : code == Exit::not_found   ? "unreadable"
                                                                : "incomplete or damaged");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    if (i < kListed) message += fmt::format("\n  {:<{}}   {}", problems[i].name, width, problems[i].text);
    names.push_back(problems[i].name);
  }
  if (problems.size() > kListed) message += fmt::format("\n  and {} more", problems.size() - kListed);
  throw Error(code, std::move(message),
              code == Exit::bad_checkpoint ? download_command(files, names) : std::string())
      .at(problems[0].name);
}

// -- headers ------------------------------------------------------------------------------------------------

ShardHeader read_header_in_memory(const std::string& name, Bytes bytes) {
  return {name, bytes.size(), {}, parse_safetensors_header(bytes, bytes.size(), name)};
}

ShardHeader read_header_on_disk(const FileSet& files, const std::string& name) {
  const File file = files.open(name);
  std::vector<std::byte> prefix(std::min<std::uint64_t>(file.size(), kSafetensorsSniff));
  file.read_at(0, prefix);
  const std::uint64_t n = safetensors_header_length(prefix, file.size(), name);
  const std::size_t have = std::min<std::size_t>(prefix.size(), 8 + n);
  prefix.resize(8 + n);
  file.read_at(have, std::span(prefix).subspan(have));
  return {name, file.size(), file.identity(), parse_safetensors_header(prefix, file.size(), name)};
}

}  // namespace

std::optional<DownloadRecord> download_record(const FileSet& files, const std::string& name) {
  // Lines: commit, etag, time.
  const auto text = files.read_below(".cache/huggingface/download/" + name + ".metadata", kMaxRecordBytes);
  if (!text) return std::nullopt;
  const std::size_t first = text->find('\n');
  if (first == text->npos) return std::nullopt;
  const std::size_t second = text->find_first_of("\r\n", first + 1);
  DownloadRecord record{text->substr(0, text->find_first_of("\r\n")), text->substr(first + 1, second - first - 1)};
  if (record.commit.empty()) return std::nullopt;
  return record;
}

std::string display_name(const FileSet& files) {
  const std::string repository = hub_name(files.label());
  return repository.empty() ? files.label() : repository;
}

ShardList list_shards(const FileSet& files) {
  const std::vector<std::string> present = files.list();
  ShardList list;
  for (const std::string& n : present) {
    if (!n.ends_with(kIndexSuffix)) continue;
    if (!list.index.empty())
      fail_index(n, fmt::format("a second index beside {}: which one holds?", printable(list.index)));
    list.index = n;
  }
  if (list.index.empty()) {
    list_directory(files, present, list);
  } else {
    read_index(files, list);
  }
  for (const std::string& n : present)
    if (n.ends_with(".safetensors") && !std::binary_search(list.names.begin(), list.names.end(), n))
      list.notes.push_back(fmt::format("{}: not part of the checkpoint{}", printable(n),
                                       list.index.empty() ? "" : ": not named by " + printable(list.index)));
  note_mixed_revisions(files, list);
  return list;
}

Error with_repair(const FileSet& files, const Error& error) {
  if (error.code() != Exit::bad_checkpoint || !error.remedy().empty() || !files.on_disk()) return error;
  // Most errors name their file; the others begin with it.
  const std::string what = error.what(), name = error.file().empty() ? what.substr(0, what.find(':')) : error.file();
  if (name.empty() || name.find('/') != name.npos || !files.has(name)) return error;
  Error out(error.code(), what, download_command(files, {name}));
  out.at(name, error.offset());
  return out;
}

std::vector<ShardHeader> read_shard_headers(const FileSet& files, const ShardList& list) {
  std::vector<ShardHeader> shards;
  std::vector<Problem> problems;
  for (const std::string& name : list.names) {
    if (!files.has(name)) {
      problems.push_back(missing(files, list, name));
      continue;
    }
    try {
      const auto bytes = files.memory_bytes(name);
      shards.push_back(bytes ? read_header_in_memory(name, *bytes) : read_header_on_disk(files, name));
    } catch (const IncompleteFile& e) {
      problems.push_back(problem_of(name, e, true));
    } catch (const Error& e) {
      if (e.code() == Exit::io || e.code() == Exit::out_of_memory) throw;
      problems.push_back(problem_of(name, e, false));
    }
  }
  if (!problems.empty()) fail_shards(files, list.names.size(), problems);
  return shards;
}

std::vector<std::string> check_index(const ShardList& list, const std::vector<ShardHeader>& shards) {
  std::unordered_map<std::string_view, const ShardHeader*> where;
  std::vector<std::string> problems, notes = list.notes;
  std::uint64_t data = 0;
  std::size_t unlisted = 0;
  for (const ShardHeader& s : shards) {
    data += s.size - s.header.data_offset;
    notes.insert(notes.end(), s.header.notes.begin(), s.header.notes.end());
    for (const TensorEntry& t : s.header.tensors) {
      const auto [at, fresh] = where.emplace(t.name, &s);
      if (!fresh)
        problems.push_back(fmt::format("{}: in {} and in {}", printable(t.name), at->second->name, s.name));
      if (!list.index.empty() && !list.weight_map.contains(t.name)) ++unlisted;
    }
  }
  for (const auto& [tensor, file] : list.weight_map) {
    const auto at = where.find(tensor);
    if (at == where.end()) {
      problems.push_back(
          fmt::format("{}: {} says it is in {}, it is nowhere", printable(tensor), list.index, file));
    } else if (at->second->name != file) {
      problems.push_back(fmt::format("{}: {} says it is in {}, it is in {}", printable(tensor), list.index,
                                     file, at->second->name));
    }
  }
  if (!problems.empty()) {
    const std::size_t count = problems.size();
    problems.resize(std::min(count, kListed));
    throw Error(
        Exit::bad_checkpoint,
        fmt::format("the shards disagree about {} tensors\n  {}{}", count, fmt::join(problems, "\n  "),
                    count > kListed ? fmt::format("\n  and {} more", count - kListed) : ""),
        "shards and index of one revision belong together: download them again")
        .at(list.index.empty() ? shards[0].name : list.index);
  }
  if (unlisted > 0)
    notes.push_back(fmt::format("{}: {} tensors of the shards are not in it", list.index, unlisted));
  if (list.total_size != 0 && list.total_size != data)
    notes.push_back(fmt::format("{}: total_size is {}, the tensors hold {}", list.index,
                                grouped(list.total_size), grouped(data)));
  return notes;
}

}  // namespace fathom
