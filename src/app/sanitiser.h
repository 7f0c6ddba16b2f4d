// Makes untrusted text safe to show on a terminal: what the model writes, names of files and tensors, config strings.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// A stream of bytes in, printable UTF-8 out. Newline and tab pass, as does every printable character; C0, DEL, C1 (as
// characters and as raw bytes) and a carriage return that ends no line become visible (␛, ␇, \x9b); bidirectional
// overrides, tags and line separators become \u{202E}. Bytes that are no UTF-8 become U+FFFD. Because every ESC is
// replaced, no control sequence can be split across two calls.
class Sanitiser {
 public:
  std::string feed(std::string_view text);
  // What was held back (a carriage return, an incomplete character) at the end of the text.
  std::string finish();

 private:
  std::string pending_;
};

// One whole text. `newlines` false: a newline is shown as ␊, for names inside a message.
std::string sanitise(std::string_view text, bool newlines = true);

}  // namespace fathom
