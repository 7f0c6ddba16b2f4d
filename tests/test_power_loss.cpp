// Power loss at every moment of every kind of save, with what was not synced dropped, halved or zeroed: the
// old content or the new, never half of one, and no record that was acknowledged is lost.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "src/app/history.h"
#include "src/app/session.h"
#include "src/app/session_cache.h"
#include "src/base/file.h"
#include "src/model/checkpoint.h"
#include "src/model/quantize.h"
#include "tests/support/files.h"
#include "tests/support/saves.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/support/unsynced.h"

using namespace fathom;
using test::kHeader;
using test::put;
using test::said;

namespace {

void say_states(const char* what, std::size_t states) {
  if (states == 0) {
    MESSAGE("this machine lets no process trace another: not tested");
    return;
  }
  MESSAGE(std::string(what) << ": " << states << " states after a power loss");
  CHECK(states >= 16);
}

// What a conversation says; its file may be absent or not yet a conversation: nothing.
std::vector<std::string> told(const std::string& path) {
  std::vector<std::string> out;
  for (const SessionMessage& m : load_session(path).messages) out.push_back(m.message.content);
  return out;
}

}  // namespace

// The test's own test: a file that is renamed before it is synced is found empty.
TEST_CASE("power loss: a save that does not sync is caught") {
  const test::TempDir dir;
  const std::string path = dir.file("saved");
  put(path, "old");
  bool lost = false;
  const std::size_t states = test::after_power_loss(
      dir.path(),
      [&] {
        dir.write("fresh", "new");
        std::filesystem::rename(dir.file("fresh"), path);
      },
      [&] {
        const std::string now = read_file(path, 100);
        lost = lost || (now != "old" && now != "new");
      });
  CHECK((lost || states == 0));
}

TEST_CASE("power loss: a file put in place of another") {
  const test::TempDir dir;
  const std::string path = dir.file("saved"), big(300'000, 'n');
  put(path, "old");
  bool olds = false, news = false;
  say_states("an atomic file",
             test::after_power_loss(
                 dir.path(),
                 [&] {
                   AtomicFile f(path);
                   for (int i = 0; i < 3; ++i) f.write(std::string_view(big).substr(0, 100'000));
                   f.write_at(0, as_bytes_of("n"));
                   f.commit();
                 },
                 [&] {
                   const std::string now = read_file(path, 1 << 24);
                   olds = olds || now == "old";
                   news = news || now == big;
                   CHECK((now == "old" || now == big));
                   put(path, "later");
                   CHECK(FileSet::directory(dir.path()).list() == std::vector<std::string>{"saved"});
                 }));
  CHECK(olds == news);  // both were seen, or nothing was tested
  CHECK((read_file(path, 1 << 24) == big || !news));
}

TEST_CASE("power loss: a conversation keeps every message that was acknowledged") {
  const test::TempDir dir;
  const std::string path = dir.file("talk.jsonl"), marks = dir.file("marks");
  put(path, session_line(kHeader) + session_line(said("old")));
  put(marks, "");
  // After each acknowledged step a mark is written and synced, which a crash cannot take back.
  const auto acknowledge = [&] { AppendFile(marks).append("x", true); };
  const std::vector<std::vector<std::string>> kStates{
      {"old"}, {"old", "more"}, {"replaced", "twice"}, {"replaced", "twice", "last"}};
  say_states("a conversation", test::after_power_loss(
                                   dir.path(),
                                   [&] {
                                     Session s = Session::open(path, kHeader);
                                     s.append(said("more"));
                                     acknowledge();
                                     s.replace({said("replaced"), said("twice")}, kHeader);
                                     acknowledge();
                                     s.append(said("last"));
                                     acknowledge();
                                   },
                                   [&] {
                                     const std::size_t acknowledged = read_file(marks, 100).size();
                                     const std::vector<std::string> now = told(path);
                                     const auto state = std::find(kStates.begin(), kStates.end(), now);
                                     REQUIRE(state != kStates.end());
                                     CHECK(static_cast<std::size_t>(state - kStates.begin()) >= acknowledged);
                                     Session again = Session::open(path, kHeader);
                                     again.append(said("after"));
                                     CHECK(told(path).back() == "after");
                                     CHECK(told(path).size() == now.size() + 1);
                                   }));
}

TEST_CASE("power loss: a conversation that begins can be begun again") {
  const test::TempDir dir;
  const std::string path = dir.file("talk.jsonl"), marks = dir.file("marks");
  put(marks, "");
  say_states("a new conversation", test::after_power_loss(
                                       dir.path(),
                                       [&] {
                                         Session::open(path, kHeader).append(said("first"));
                                         AppendFile(marks).append("x", true);
                                       },
                                       [&] {
                                         const std::size_t acknowledged = read_file(marks, 100).size();
                                         Session s = Session::open(path, kHeader);
                                         CHECK(s.messages().size() >= acknowledged);
                                         CHECK(s.messages().size() <= 1);
                                         s.append(said("after"));
                                         CHECK(told(path).back() == "after");
                                       }));
}

TEST_CASE("power loss: the history loses no old line") {
  const test::TempDir dir;
  const std::string path = dir.file("history");
  std::string many;
  for (std::size_t i = 0; i < 2 * History::kMaxLines; ++i) many += fmt::format("line {}\n", i);
  for (const bool cut : {false, true}) {
    put(path, cut ? many : "one\ntwo\n");
    const std::string last_old = cut ? fmt::format("line {}", 2 * History::kMaxLines - 1) : "two";
    say_states(cut ? "a history that is cut" : "a history",
               test::after_power_loss(
                   dir.path(),
                   [&] {
                     History h(path);
                     h.add("three");
                     h.add("four");
                   },
                   [&] {
                     History h(path);
                     CHECK(h.warning().empty());
                     CHECK(std::find(h.lines().begin(), h.lines().end(), last_old) != h.lines().end());
                     h.add("after");
                     CHECK(History(path).lines().back() == "after");
                   }));
  }
}

TEST_CASE("power loss: the latent cache of a conversation is whole, old or new") {
  const test::TempDir dir;
  const std::string path = dir.file("talk.latents");
  const LatentKey key{"f", "cache bf16", "cpu", 64};
  const std::vector<std::int32_t> before(100, 1), after(200, 2);
  const std::vector<std::byte> rows(64 * 200, std::byte{7});
  REQUIRE(write_latents(path, key, before, std::span(rows).first(64 * 100)));
  say_states("a latent cache", test::after_power_loss(
                                   dir.path(), [&] { write_latents(path, key, after, rows); },
                                   [&] {
                                     std::string why;
                                     const auto now = read_latents(path, key, &why);
                                     CHECK(why.empty());
                                     REQUIRE(now.has_value());
                                     CHECK((now->ids == before || now->ids == after));
                                   }));
}

TEST_CASE("power loss: a quantised checkpoint is whole or not there") {
  const test::TempDir dir;
  const std::string out = dir.file("fp8");
  test::ConfigText text = test::tiny_v3_config();
  text.erase("quantization_config").set("num_hidden_layers", "1").set("num_nextn_predict_layers", "0");
  test::TinyCheckpoint tiny(text);
  const auto make = [&](const std::string& into) {
    Threads one(1);
    quantize_checkpoint(tiny.files(), into, one);
  };
  const test::TempDir sound;
  make(sound.file("fp8"));
  const std::string whole = Checkpoint::open(FileSet::directory(sound.file("fp8"))).fingerprint();
  say_states("a quantised checkpoint",
             test::after_power_loss(
                 dir.path(), [&] { make(out); },
                 [&] {
                   if (!std::filesystem::exists(out + "/config.json")) return;
                   CHECK(Checkpoint::open(FileSet::directory(out)).fingerprint() == whole);
                 }));
}
