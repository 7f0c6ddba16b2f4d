// tokenizer.json of Hugging Face's tokenizers library, as far as byte-level BPE goes. Vocabulary and merges
// are read as events into arrays; the small rest is kept as trees.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/utf8.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/loaders.h"

namespace fathom {
namespace {

constexpr std::size_t max_token = 65'536;      // bytes of a token's text in the file
constexpr std::size_t max_tokens = 4'000'000;  // entries of the vocabulary, merges likewise

// Strings end to end in one array.
class StringList {
 public:
  void add(std::string_view s) {
    characters_ += s;
    ends_.push_back(characters_.size());
  }
  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(characters_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string characters_;
  std::vector<std::size_t> ends_;
};

std::string shown(std::string_view s) { return json::quote(s.substr(0, 80)); }

// Collects the document.
class Document : public json::Events {
 public:
  StringList token_texts;  // model.vocab in file order
  std::vector<std::int32_t> token_ids;
  StringList merge_parts;  // left and right of each merge
  bool has_vocab = false, has_merges = false;
  json::Object root, model;  // the rest

  bool null() override {
    return scalar([](json::Events& e) { return e.null(); }, "null");
  }
  bool boolean(bool v) override {
    return scalar([&](json::Events& e) { return e.boolean(v); }, "true or false");
  }
  bool number(double v) override {
    return scalar([&](json::Events& e) { return e.number(v); }, "a fraction");
  }
  bool integer(std::int64_t v) override {
    if (place_ == Place::vocab)
      fail(Exit::bad_checkpoint, "model.vocab: token {} has the id {}; ids count from 0", shown(key_), v);
    return scalar([&](json::Events& e) { return e.integer(v); }, "an integer");
  }
  bool unsigned_integer(std::uint64_t v) override {
    if (place_ != Place::vocab)
      return scalar([&](json::Events& e) { return e.unsigned_integer(v); }, "an integer");
    if (v >= 2 * max_tokens) {
      fail(Exit::bad_checkpoint, "model.vocab: token {} has the id {}; at most {} is accepted", shown(key_),
           v, 2 * max_tokens - 1);
    }
    token_texts.add(key_);
    token_ids.push_back(static_cast<std::int32_t>(v));
    return true;
  }
  bool string(std::string&& v) override {
    if (place_ == Place::merges) return add_merge(v);
    if (place_ == Place::merge_pair) return add_merge_part(v);
    return scalar([&](json::Events& e) { return e.string(std::move(v)); }, "a string");
  }

  bool key(std::string&& v) override {
    if (place_ == Place::tree) return tree_.key(std::move(v)) || duplicate(*tree_.duplicate);
    if (place_ == Place::vocab) {
      if (v.size() > max_token) {
        fail(Exit::bad_checkpoint, "model.vocab: a token of {} bytes, {}; at most {} are accepted", v.size(),
             shown(v), max_token);
      }
      if (token_ids.size() == max_tokens)
        fail(Exit::bad_checkpoint, "model.vocab: more than {} tokens", max_tokens);
    } else {
      auto& seen = place_ == Place::model ? model_keys_ : root_keys_;
      for (const std::string& k : seen)
        if (k == v) duplicate(v);
      if (seen.size() == 256) fail(Exit::bad_checkpoint, "an object with more than 256 keys");
      seen.push_back(v);
    }
    key_ = std::move(v);
    return true;
  }

  bool start_object() override {
    if (place_ == Place::outside) return enter(Place::root);
    if (place_ == Place::root && key_ == "model") return enter(Place::model);
    if (place_ == Place::model && key_ == "vocab") {
      has_vocab = true;
      return enter(Place::vocab);
    }
    return open_tree([](json::Events& e) { return e.start_object(); }, "an object");
  }
  bool start_array() override {
    if (place_ == Place::model && key_ == "merges") {
      has_merges = true;
      return enter(Place::merges);
    }
    if (place_ == Place::merges) {
      pair_parts_ = 0;
      ++merges_;
      return enter(Place::merge_pair);
    }
    return open_tree([](json::Events& e) { return e.start_array(); }, "an array");
  }
  bool end_object() override {
    if (place_ == Place::tree) return close_tree([](json::Events& e) { return e.end_object(); });
    return leave();
  }
  bool end_array() override {
    if (place_ == Place::tree) return close_tree([](json::Events& e) { return e.end_array(); });
    if (place_ == Place::merge_pair && pair_parts_ != 2) {
      fail(Exit::bad_checkpoint, "model.merges: merge {} has {} parts, expected 2", merges_ - 1, pair_parts_);
    }
    return leave();
  }

 private:
  enum class Place { outside, root, model, vocab, merges, merge_pair, tree };

  bool enter(Place place) {
    above_.push_back(place_);
    place_ = place;
    return true;
  }
  bool leave() {
    place_ = above_.back();
    above_.pop_back();
    return true;
  }
  [[noreturn]] static bool duplicate(std::string_view k) {
    fail(Exit::bad_checkpoint, "duplicate key {}", shown(k));
  }
  [[noreturn]] void misplaced(std::string_view what) const {
    switch (place_) {
      case Place::outside:
        fail(Exit::bad_checkpoint, "expected an object, found {}", what);
      case Place::vocab:
        fail(Exit::bad_checkpoint, "model.vocab: token {}: expected an integer id, found {}", shown(key_),
             what);
      default:
        fail(Exit::bad_checkpoint, "model.merges: merge {}: expected \"a b\" or [\"a\", \"b\"], found {}",
             merges_, what);
    }
  }
  json::Object& members() { return place_ == Place::model ? model : root; }

  template <typename Forward>
  bool scalar(Forward forward, std::string_view what) {
    if (place_ == Place::tree) return forward(tree_);
    if (place_ != Place::root && place_ != Place::model) misplaced(what);
    json::TreeBuilder leaf;
    forward(leaf);
    members().emplace_back(key_, std::move(leaf.root));
    return true;
  }
  template <typename Forward>
  bool open_tree(Forward forward, std::string_view what) {
    if (place_ != Place::tree) {
      if (place_ != Place::root && place_ != Place::model) misplaced(what);
      tree_ = {};
      tree_depth_ = 0;
      tree_key_ = key_;
      enter(Place::tree);
    }
    ++tree_depth_;
    return forward(tree_);
  }
  template <typename Forward>
  bool close_tree(Forward forward) {
    forward(tree_);
    if (--tree_depth_ > 0) return true;
    leave();
    members().emplace_back(tree_key_, std::move(tree_.root));
    return true;
  }

  bool add_merge(std::string_view v) {
    ++merges_;
    const std::size_t space = v.find(' ');
    if (space == v.npos || v.find(' ', space + 1) != v.npos) {
      fail(Exit::bad_checkpoint,
           "model.merges: merge {}: expected two tokens with one space between them, found {}", merges_ - 1,
           shown(v));
    }
    pair_parts_ = 0;
    return add_merge_part(v.substr(0, space)) && add_merge_part(v.substr(space + 1));
  }
  bool add_merge_part(std::string_view v) {
    if (v.empty() || v.size() > max_token || ++pair_parts_ > 2) {
      fail(Exit::bad_checkpoint, "model.merges: merge {}: expected two tokens of 1 to {} bytes, found {}",
           merges_ - 1, max_token, shown(v));
    }
    if (merge_parts.size() == 2 * max_tokens)
      fail(Exit::bad_checkpoint, "model.merges: more than {} merges", max_tokens);
    merge_parts.add(v);
    return true;
  }

  Place place_ = Place::outside;
  std::vector<Place> above_;
  std::string key_, tree_key_;
  std::vector<std::string> root_keys_, model_keys_;
  json::TreeBuilder tree_;
  int tree_depth_ = 0, pair_parts_ = 0;
  std::size_t merges_ = 0;  // begun
};

const json::Value& member(const json::Object& object, std::string_view key) {
  static const json::Value null;
  for (const json::Member& m : object)
    if (m.first == key) return m.second;
  return null;
}

// GPT-2's alphabet: each byte is one printable character, so that a vocabulary file is text. Bytes 21-7E,
// A1-AC and AE-FF are the characters of these numbers, the other 68 are U+0100 and up, in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t extra = 0x100;
    byte_of_.fill(-1);
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      byte_of_[itself ? static_cast<char32_t>(b) : extra++] = static_cast<std::int16_t>(b);
    }
  }
  // The bytes that `text` spells; false when a character is none of the alphabet, as in the text of a control
  // token.
  bool decode(std::string_view text, std::string& bytes) const {
    bytes.clear();
    while (!text.empty()) {
      const std::size_t size = utf8_sequence(text).size;
      const char32_t c = utf8_decode(text.substr(0, size));
      if (c >= byte_of_.size() || byte_of_[c] < 0) return false;
      bytes += static_cast<char>(byte_of_[c]);
      text.remove_prefix(size);
    }
    return true;
  }

 private:
  std::array<std::int16_t, 256 + 68> byte_of_;
};

// Refuses every option of the model that changes ids and is not implemented.
void check_model(const Document& document) {
  const json::Value& type = member(document.model, "type");
  if (!type.is_null() && !(type.is_string() && type.as_string() == "BPE"))
    fail(Exit::unsupported, "model.type: expected \"BPE\", found {}", type.describe());
  if (!document.has_vocab || !document.has_merges) {
    fail(Exit::bad_checkpoint, "model: expected an object vocab and an array merges; {} is missing",
         document.has_vocab ? "merges" : "vocab");
  }
  const auto off = [](const json::Value& v) {
    return v.is_null() || (v.is_bool() && !v.as_bool()) || (v.is_string() && v.as_string().empty()) ||
           (v.is_number() && v.as_number() == 0.0);
  };
  for (const std::string_view key : {"dropout", "unk_token", "continuing_subword_prefix",
                                     "end_of_word_suffix", "fuse_unk", "byte_fallback"}) {
    const json::Value& v = member(document.model, key);
    // fuse_unk joins unknown tokens, of which a byte alphabet has none.
    if (!off(v) && key != "fuse_unk")
      fail(Exit::unsupported, "model.{}: expected it unset, found {}", key, v.describe());
  }
}

void check_normalizer(const json::Value& normalizer) {
  if (normalizer.is_null()) return;
  const json::Value* type = normalizer.find("type");
  const json::Value* list = normalizer.find("normalizers");
  const bool sequence = type != nullptr && type->is_string() && type->as_string() == "Sequence";
  if (sequence && list != nullptr && list->is_array()) {
    if (list->as_array().empty()) return;
    type = list->as_array().front().find("type");
  }
  fail(Exit::unsupported, "normalizer: expected none or an empty Sequence, found {}",
       type != nullptr ? type->describe() : normalizer.describe());
}

void check_decoder(const json::Value& decoder) {
  const json::Value* type = decoder.find("type");
  if (type != nullptr && type->is_string() && type->as_string() == "ByteLevel") return;
  fail(Exit::unsupported, "decoder: expected ByteLevel, found {}",
       type != nullptr ? type->describe() : decoder.describe());
}

AddedVocabulary read_added_tokens(const json::Value& list) {
  AddedVocabulary added;
  if (list.is_null()) return added;
  if (!list.is_array())
    fail(Exit::bad_checkpoint, "added_tokens: expected an array, found {}", list.describe());
  for (const json::Value& entry : list.as_array()) {
    const json::Value* id = entry.find("id");
    const auto value = id == nullptr ? std::nullopt : id->integer_in(0, 2 * std::int64_t{max_tokens} - 1);
    if (!value) {
      fail(Exit::bad_checkpoint, "added_tokens: expected objects with an id from 0 to {}, found {}",
           2 * max_tokens - 1, id == nullptr ? entry.describe() : id->describe());
    }
    added.add(
        read_added_token(entry, static_cast<std::int32_t>(*value), fmt::format("added_tokens {}", *value)));
  }
  return added;
}

// The vocabulary as the file spells it, checked to be 0 .. n-1 together with the added tokens.
struct Spelling {
  TokenTexts texts;
  TextIndex index;
};

Spelling read_vocabulary(const Document& document, const AddedVocabulary& added) {
  Spelling spelling;
  const std::size_t count = document.token_ids.size();
  std::int32_t highest = -1;
  for (const std::int32_t id : document.token_ids) highest = std::max(highest, id);
  const auto slots = static_cast<std::size_t>(highest) + 1;
  if (slots > count + added.tokens().size()) {
    fail(Exit::bad_checkpoint, "model.vocab: {} tokens, but the highest id is {}: ids have gaps", count,
         highest);
  }
  spelling.texts.resize(slots);
  spelling.index.reserve(count);
  std::vector<bool> taken(slots);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t id = document.token_ids[i];
    const auto at = static_cast<std::size_t>(id);
    if (taken[at]) {
      fail(Exit::bad_checkpoint, "model.vocab: tokens {} and {} have the same id {}",
           shown(spelling.texts[id]), shown(document.token_texts[i]), id);
    }
    taken[at] = true;
    spelling.texts.set(id, document.token_texts[i]);
    if (!spelling.index.insert(spelling.texts, id))
      fail(Exit::bad_checkpoint, "model.vocab: token {} occurs twice", shown(document.token_texts[i]));
  }
  for (const AddedToken& t : added.tokens()) {
    const auto at = static_cast<std::size_t>(t.id);
    const auto known = spelling.index.find(spelling.texts, t.content);
    const bool same = at < slots && taken[at] && spelling.texts[t.id] == t.content;
    if (known ? *known != t.id : at < slots && taken[at] && !same) {
      fail(Exit::bad_checkpoint,
           "added token {} with id {} contradicts model.vocab, which has {} there and the id {} "
           "for the content",
           shown(t.content), t.id, shown(spelling.texts[t.id]), known.value_or(-1));
    }
    if (at >= taken.size()) taken.resize(at + 1);
    taken[at] = true;
  }
  for (std::size_t id = 0; id < taken.size(); ++id)
    if (!taken[id]) fail(Exit::bad_checkpoint, "no token has the id {}, but higher ids are taken", id);
  return spelling;
}

void read_merges(const Document& document, const Spelling& spelling, const AddedVocabulary& added, Bpe& bpe) {
  const std::size_t count = document.merge_parts.size() / 2;
  bpe.merges.reserve(count);
  std::string joined;
  const auto id_of = [&](std::string_view token, std::size_t merge) {
    const auto id = spelling.index.find(spelling.texts, token);
    if (!id)
      fail(Exit::bad_checkpoint, "model.merges: merge {}: {} is not in the vocabulary", merge, shown(token));
    return *id;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view left = document.merge_parts[2 * i], right = document.merge_parts[2 * i + 1];
    joined.assign(left).append(right);
    const std::int32_t a = id_of(left, i), b = id_of(right, i), token = id_of(joined, i);
    if (const AddedToken* t = added.by_id(token); t != nullptr && t->is_control()) {
      fail(Exit::bad_checkpoint, "model.merges: merge {} makes {}, which is an added token", i,
           shown(joined));
    }
    if (!bpe.merges.insert(a, b, {static_cast<std::uint32_t>(i), token}))
      fail(Exit::bad_checkpoint, "model.merges: merge {} repeats the pair {} {}", i, shown(left),
           shown(right));
  }
}

void read_bytes(const Spelling& spelling, Bpe& bpe) {
  const ByteAlphabet alphabet;
  std::string bytes;
  bpe.bytes.resize(spelling.texts.size());
  for (std::size_t i = 0; i < spelling.texts.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const bool spelled = alphabet.decode(spelling.texts[id], bytes);
    bpe.bytes.set(id, spelled ? bytes : spelling.texts[id]);
    if (spelled && bytes.size() == 1) bpe.byte_token[static_cast<unsigned char>(bytes[0])] = id;
  }
}

void index_whole_pieces(const AddedVocabulary& added, Bpe& bpe) {
  TextIndex& index = bpe.whole_pieces.emplace();
  index.reserve(bpe.bytes.size());
  for (std::size_t i = 0; i < bpe.bytes.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const AddedToken* t = added.by_id(id);
    if (!bpe.bytes[id].empty() && (t == nullptr || !t->is_control())) index.insert(bpe.bytes, id);
  }
}

std::unique_ptr<Tokenizer> build(std::string_view text, Tokenizer::Special special) {
  Document document;
  json::parse_events(text, "tokenizer.json", document);
  check_model(document);
  check_normalizer(member(document.root, "normalizer"));
  check_decoder(member(document.root, "decoder"));
  Pretokenizer pretokenizer = Pretokenizer::from_json(member(document.root, "pre_tokenizer"));
  AddedVocabulary added = read_added_tokens(member(document.root, "added_tokens"));
  Bpe bpe;
  const Spelling spelling = read_vocabulary(document, added);
  read_bytes(spelling, bpe);
  read_merges(document, spelling, added, bpe);
  const json::Value& ignore_merges = member(document.model, "ignore_merges");
  if (!ignore_merges.is_null() && !ignore_merges.is_bool())
    fail(Exit::bad_checkpoint, "model.ignore_merges: expected true or false, found {}",
         ignore_merges.describe());
  if (ignore_merges.is_bool() && ignore_merges.as_bool()) index_whole_pieces(added, bpe);
  return std::make_unique<ByteBpe>(std::move(bpe), std::move(pretokenizer), std::move(added),
                                   std::move(special), "tokenizer.json");
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view file, TokenizerConfig config) {
  try {
    return build(file, std::move(config.special));
  } catch (Error& e) {
    if (e.file().empty()) e.at("tokenizer.json");
    throw;
  }
}

}  // namespace fathom
