#include <doctest/doctest.h>

#include <set>
#include <sstream>

#include "tests/support/subprocess.h"

using namespace fathom;

TEST_CASE("the program needs nothing at run time but libc, libstdc++ and libsentencepiece") {
  const test::Outcome ldd = test::shell("ldd \"$FATHOM\"");
  REQUIRE(ldd.code == 0);
  // libm, libgcc_s and the loader come with libc and libstdc++; what libsentencepiece itself needs, by distribution.
  const std::set<std::string> allowed{"linux-vdso.so.1", "libc.so.6",   "libm.so.6",        "libgcc_s.so.1",
                                      "libstdc++.so.6",  "libdl.so.2",  "libpthread.so.0",  "librt.so.1",
                                      "libsentencepiece.so.0", "/lib64/ld-linux-x86-64.so.2"};
  const std::set<std::string> sanitizers{"libasan.so.8", "libubsan.so.1", "libtsan.so.2"};
  std::istringstream lines(ldd.out);
  bool sentencepiece = false;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    sentencepiece = sentencepiece || name == "libsentencepiece.so.0";
    const bool by_sentencepiece = name.starts_with("libprotobuf") || name.starts_with("libabsl") || name == "libz.so.1";
    CHECK_MESSAGE((allowed.contains(name) || sanitizers.contains(name) || by_sentencepiece), name);
  }
  CHECK(sentencepiece);
}
