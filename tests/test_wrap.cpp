#include <doctest/doctest.h>

#include "src/app/wrap.h"

using namespace fathom;

TEST_CASE("wrap: lines are broken at spaces and go on under their value") {
  const std::string line =
      "  plan         cpu: weights 0.02 GiB mapped + cache 0.03 GiB, committed as it fills\n";
  CHECK(wrap(line, 100) == line);
  CHECK(wrap(line, 60) ==
        "  plan         cpu: weights 0.02 GiB mapped + cache 0.03\n"
        "               GiB, committed as it fills\n");
  CHECK(wrap("  -m, --model MODEL    directory, ORG/NAME[@REV] in the HF cache, or an alias\n", 60) ==
        "  -m, --model MODEL    directory, ORG/NAME[@REV] in the HF\n"
        "                       cache, or an alias\n");
  // Text without a key goes on where it begins; a word that is too long stays whole.
  CHECK(wrap("  aaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n", 50) ==
        "  aaaaaaaaaaaaaaaaaaaaaaaaa\n  bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n");
  // A value that would have less than a third of the line goes under its key.
  CHECK(wrap("  $XDG_RUNTIME_DIR/fathom/gpu-*.lock        who uses a GPU\n", 50) ==
        "  $XDG_RUNTIME_DIR/fathom/gpu-*.lock        who\n  uses a GPU\n");
  const std::string word(70, 'w');
  CHECK(wrap(word, 50) == word);
  CHECK(wrap("a " + word + " b", 50) == "a\n" + word + "\nb");
  // Exactly as wide as the screen is not too wide, and a screen too narrow for tables breaks lines itself.
  CHECK(wrap(std::string(50, 'x') + "\n", 50) == std::string(50, 'x') + "\n");
  CHECK(wrap(line, 40) == line);
  CHECK(wrap("", 80).empty());
  CHECK(wrap("\n\n", 80) == "\n\n");
  CHECK(wrap(std::string(200, ' '), 80).size() == 200);
}

TEST_CASE("wrap: nothing but spaces is lost") {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += (i % 17 == 0 ? "\n  key" : "") + std::string(static_cast<std::size_t>(1 + i % 3), ' ') +
            std::string(static_cast<std::size_t>(i % 13), 'a');
  const auto letters = [](std::string s) {
    std::erase_if(s, [](char c) { return c == ' ' || c == '\n'; });
    return s;
  };
  for (std::size_t width = 50; width < 120; ++width) {
    const std::string out = wrap(text, width);
    CHECK(letters(out) == letters(text));
    for (std::size_t at = 0; at < out.size();) {
      const std::size_t end = std::min(out.find('\n', at), out.size());
      std::string line = out.substr(at, end - at);
      while (line.ends_with(' ')) line.pop_back();
      CHECK(line.size() <= width);
      at = end + 1;
    }
  }
}

TEST_CASE("counted: one and many") {
  CHECK(counted(0, "token") == "0 tokens");
  CHECK(counted(1, "token") == "1 token");
  CHECK(counted(4096, "token") == "4,096 tokens");
}
