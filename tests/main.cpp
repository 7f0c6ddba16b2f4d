#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <string_view>

#include "tests/support/fake_model.h"

// `tests/all --fake-checkpoint DIR` writes the scripted model's checkpoint;
// `tests/all --as-fathom ARGS` is fathom with a scripted model; everything else runs the tests.
int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--as-fathom") return fathom::test::fake_main(argc - 1, argv + 1);
  if (argc == 3 && std::string_view(argv[1]) == "--fake-checkpoint") return fathom::test::write_fake_checkpoint(argv[2]), 0;
  return doctest::Context(argc, argv).run();
}
