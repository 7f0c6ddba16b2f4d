// A tokenizer whose ordinary tokens are byte strings merged by rank: tokenizer.json and tiktoken.model.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"

namespace fathom {

class ByteBpe final : public Tokenizer {
 public:
  // Checks what every such vocabulary must fulfil. Errors (bad_checkpoint): a byte that occurs in UTF-8 has
  // no token; a control token is also what bytes or merges make. `source`: the file's name, for describe().
  ByteBpe(Bpe bpe, Pretokenizer pretokenizer, AddedVocabulary added, Special special,
          std::string_view source);

  std::vector<std::int32_t> encode(std::string_view text, AddedTokens added) const override;
  std::string_view token_bytes(std::int32_t id) const override;
  bool is_control(std::int32_t id) const override;
  std::optional<std::int32_t> find_added(std::string_view content) const override {
    return added_.find(content);
  }
  std::int32_t vocab_size() const override { return vocab_size_; }
  std::string describe() const override;

 private:
  struct Call;
  void encode_text(std::string_view text, Call& call) const;

  Bpe bpe_;
  Pretokenizer pretokenizer_;
  AddedVocabulary added_;
  std::string source_;
  std::int32_t vocab_size_ = 0;
};

}  // namespace fathom
