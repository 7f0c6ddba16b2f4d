// Cuts text into the pieces within which byte pairs may merge: the steps of a tokenizer.json's
// `pre_tokenizer`.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/json.h"
#include "src/base/threads.h"
#include "tokenizer/regex.h"

namespace fathom {

// What becomes of a pattern's matches, in Hugging Face's words; the gaps between matches are pieces.
enum class SplitBehavior {
  isolated,              // each match is a piece
  removed,               // matches vanish
  merged_with_previous,  // a match ends the piece before it
  merged_with_next,      // a match begins the piece after it
  contiguous,            // matches that touch are one piece
};

class Pretokenizer {
 public:
  // The whole text is one piece.
  Pretokenizer() = default;

  // The `pre_tokenizer` of a tokenizer.json: ByteLevel alone, or a Sequence of Split, Digits and, at its end,
  // ByteLevel. Errors: unsupported naming the type, behaviour or pattern; bad_checkpoint for a malformed
  // object.
  static Pretokenizer from_json(const json::Value& value);

  void add_split(Regex pattern, SplitBehavior behavior, bool invert);

  // What one call needs: text made on the way lives here, so pieces stay valid as long as the state.
  struct State {
    MatchState match;
    std::deque<std::string> made;
  };
  // Calls on_piece(piece) for each piece of `text`, well-formed UTF-8, in order; pieces are not empty.
  // Errors: unsupported when a pattern exceeds its limits on this text.
  void split(std::string_view text, State& state, FunctionRef<void(std::string_view)> on_piece) const;

 private:
  struct Split {
    Regex pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct PrefixSpace {};  // ByteLevel's add_prefix_space
  using Step = std::variant<Split, PrefixSpace>;

  void add_step(const json::Value& value, bool last);
  void add_byte_level(const json::Value& value);
  // A text and what the patterns see in its place, of the same size.
  struct Subject {
    std::string_view text, seen;
    Subject part(std::size_t begin, std::size_t end) const {
      return {text.substr(begin, end - begin), seen.substr(begin, end - begin)};
    }
  };
  using OnPiece = FunctionRef<void(std::string_view)>;

  void run(std::size_t step, Subject subject, State& state, OnPiece& on_piece) const;
  void run_split(const Split& split, std::size_t step, Subject subject, State& state,
                 OnPiece& on_piece) const;

  std::vector<Step> steps_;
};

}  // namespace fathom
