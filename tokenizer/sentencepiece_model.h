// The protobuf of a SentencePiece `tokenizer.model`, read by a bounded walk of our own: the library's reader
// has known memory-safety holes (CVE-2026-1260), so it is only ever handed a message that serialize() wrote.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

struct SentencePieceModel {
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;  // by id

  // Reads and checks a model: BPE with byte fallback, no character map, white space kept as it is and written
  // as U+2581 inside pieces, no space put in front. At most 1,000,000 pieces of 1 to 256 bytes of UTF-8
  // without NUL, each once; the 256 byte pieces; one unknown piece. Errors: bad_checkpoint with the byte
  // offset where there is one, unsupported.
  static SentencePieceModel parse(std::string_view file);

  // The smallest message that means the same to the library.
  std::string serialize() const;
};

// The value of a byte piece's text, <0x0A>; nothing for another text.
std::optional<unsigned> sentencepiece_byte(std::string_view text);

}  // namespace fathom
