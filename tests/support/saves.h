// What the tests of interrupted saves write.
#pragma once

#include <string>
#include <string_view>

#include "src/app/session.h"
#include "src/base/file.h"

namespace fathom::test {

inline void put(const std::string& path, std::string_view text) {
  AtomicFile f(path, 0600);
  f.write(text);
  f.commit();
}

inline SessionMessage said(const char* content) {
  SessionMessage m;
  m.message.role = "user";
  m.message.content = content;
  return m;
}

inline const SessionHeader kHeader{"m", std::string(64, 'a'), "cache bf16"};

}  // namespace fathom::test
