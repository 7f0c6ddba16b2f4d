#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "src/app/sanitiser.h"
#include "tests/support/fake_model.h"

namespace {

// Strings in, each behind a byte with its length; what a terminal would get of each out, in the same form.
int sanitise_strings() {
  for (int length; (length = std::getchar()) != EOF;) {
    std::string text;
    for (int i = 0; i < length; ++i) text += static_cast<char>(std::getchar());
    const std::string shown = fathom::sanitise(text);
    std::putchar(static_cast<int>(shown.size()));
    std::fwrite(shown.data(), 1, shown.size(), stdout);
  }
  return 0;
}

}  // namespace

// `tests/all --sanitise` shows the sanitiser to scripts/pty; `tests/all --fake-checkpoint DIR` writes the scripted model's checkpoint;
// `tests/all --as-fathom ARGS` is fathom with a scripted model; everything else runs the tests.
int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--as-fathom") return fathom::test::fake_main(argc - 1, argv + 1);
  if (argc == 2 && std::string_view(argv[1]) == "--sanitise") return sanitise_strings();
  if (argc == 3 && std::string_view(argv[1]) == "--fake-checkpoint") return fathom::test::write_fake_checkpoint(argv[2]), 0;
  return doctest::Context(argc, argv).run();
}
