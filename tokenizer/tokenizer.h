// Text to token ids and back, by the checkpoint's own tokenizer files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"

namespace fathom {

// Whether added tokens (control tokens such as <｜User｜>) written in the text become their ids. Text typed by a user is
// always `plain`: a control token in it is ordinary characters.
enum class AddedTokens { match, plain };

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Loads tokenizer.json, else tiktoken.model, else tokenizer.model (with tokenizer_config.json beside it; its
  // tokenizer_class is ignored). Errors: not_found, bad_checkpoint, unsupported.
  static std::unique_ptr<Tokenizer> load(const FileSet& files);

  // Any bytes in, ids out; never adds BOS. Invalid UTF-8 is encoded byte by byte where the vocabulary can, else as
  // U+FFFD. Near-linear in text.size().
  virtual std::vector<std::int32_t> encode(std::string_view text, AddedTokens added) const = 0;

  // The bytes that token `id` stands for; an added token's content. Empty for ids without a token.
  virtual std::string_view token_bytes(std::int32_t id) const = 0;
  // True for added tokens and control pieces: never part of an answer's text.
  virtual bool is_control(std::int32_t id) const = 0;
  // The id of an added token or control piece by its content.
  virtual std::optional<std::int32_t> find_added(std::string_view content) const = 0;
  // Largest id + 1. The model's vocab_size may be larger; the logits of the rest are masked.
  virtual std::int32_t vocab_size() const = 0;
  // "tokenizer.json (BPE, 128000 + 815)": for inspect.
  virtual std::string describe() const = 0;

  // From tokenizer_config.json: contents and the BOS rule for plain completion (templates write their own BOS).
  struct Special {
    std::string bos_token, eos_token, pad_token, unk_token;
    bool add_bos_token = false;
  };
  const Special& special() const { return special_; }

 protected:
  Special special_;
};

// Turns a stream of ids into whole UTF-8: holds back at most the 3 bytes of an incomplete character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  // Whole characters that became available; bytes that can never form one are U+FFFD.
  std::string feed(std::int32_t id);
  std::string feed_bytes(std::string_view bytes);
  // What is left at the end: U+FFFD for an incomplete tail.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace fathom
