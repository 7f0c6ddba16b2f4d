#include "tokenizer/chat_template.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "tokenizer/jinja.h"
#include "tokenizer/templates.h"

namespace fathom {

struct ChatTemplate::Impl {
  std::string source;
  std::string where;
  Tokenizer::Special special;
  jinja::Template program;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;
const std::string& ChatTemplate::source() const { return impl_->source; }

// -- finding one --------------------------------------------------------------------------------------------

namespace {

// Files larger than this are refused unread; a template has its own, smaller limit.
constexpr std::uint64_t kMaxFile = 256u << 20;
constexpr const char* kRemedy = "choose a template with --template NAME|FILE";

[[noreturn]] void no_template(const std::string& where, const std::string& found) {
  throw Error(Exit::unsupported, fmt::format("{}: expected a chat_template, found {}", where, found), kRemedy)
      .at(where);
}

// The text of a `chat_template` entry.
std::string template_text(const json::Value& entry, const std::string& where) {
  if (entry.is_string()) return entry.as_string();
  if (!entry.is_array())
    throw Error(Exit::bad_checkpoint, fmt::format("{}: chat_template: expected a string or a list, found {}",
                                                  where, entry.describe()))
        .at(where);
  for (const json::Value& e : entry.as_array()) {
    const json::Value *name = e.find("name"), *text = e.find("template");
    if (!name || !text || !name->is_string() || !text->is_string())
      throw Error(Exit::bad_checkpoint,
                  fmt::format("{}: chat_template: expected a list of name and template, found {}", where,
                              e.describe()))
          .at(where);
    if (name->as_string() == "default") return text->as_string();
  }
  no_template(where, "a list without the name \"default\"");
}

}  // namespace

ChatTemplate ChatTemplate::from_text(std::string_view jinja, std::string_view where,
                                     const Tokenizer::Special& special) {
  return ChatTemplate(std::make_unique<Impl>(
      Impl{std::string(jinja), std::string(where), special, jinja::Template(jinja, where)}));
}

ChatTemplate ChatTemplate::from_checkpoint(const FileSet& files, const Tokenizer::Special& special) {
  if (files.has("chat_template.jinja"))
    return from_text(files.read("chat_template.jinja", kMaxFile).text(), "chat_template.jinja", special);
  const std::string where = "tokenizer_config.json";
  if (!files.has(where)) no_template(files.label(), "neither chat_template.jinja nor tokenizer_config.json");
  const json::Value config = json::parse(files.read(where, kMaxFile).text(), where);
  const json::Value* entry = config.find("chat_template");
  if (!entry || entry->is_null()) no_template(where, "none");
  return from_text(template_text(*entry, where), where + " chat_template", special);
}

std::optional<ChatTemplate> ChatTemplate::builtin(std::string_view name, const Tokenizer::Special& special) {
  const auto source = builtin_template(name);
  if (!source) return std::nullopt;
  return from_text(*source, fmt::format("built-in template {}", name), special);
}

// -- rendering ----------------------------------------------------------------------------------------------

namespace {

json::Value text_value(const std::string& s) { return json::Value(s); }

json::Value message_value(const Message& m) {
  json::Object o;
  o.emplace_back("role", text_value(m.role));
  const bool calls_only = m.content.empty() && !m.tool_calls.is_null();
  o.emplace_back("content", calls_only ? json::Value() : text_value(m.content));
  if (!m.reasoning_content.empty()) o.emplace_back("reasoning_content", text_value(m.reasoning_content));
  if (!m.tool_calls.is_null()) o.emplace_back("tool_calls", m.tool_calls);
  if (!m.name.empty()) o.emplace_back("name", text_value(m.name));
  if (!m.tool_call_id.empty()) o.emplace_back("tool_call_id", text_value(m.tool_call_id));
  return json::Value(std::move(o));
}

std::vector<jinja::Variable> context(std::span<const Message> messages, const RenderOptions& options,
                                     const Tokenizer::Special& special) {
  std::vector<jinja::Variable> out;
  json::Array all;
  for (const Message& m : messages) all.push_back(message_value(m));
  out.push_back({"messages", json::Value(std::move(all)), true});
  out.push_back({"tools", options.tools, true});
  out.push_back({"documents", json::Value(), false});
  out.push_back({"add_generation_prompt", json::Value(options.add_generation_prompt), false});
  const std::pair<const char*, const std::string*> tokens[] = {{"bos_token", &special.bos_token},
                                                               {"eos_token", &special.eos_token},
                                                               {"pad_token", &special.pad_token},
                                                               {"unk_token", &special.unk_token}};
  for (const auto& [name, text] : tokens)
    if (!text->empty()) out.push_back({name, text_value(*text), false});
  if (options.thinking) {
    out.push_back({"thinking", json::Value(*options.thinking), false});
    out.push_back({"enable_thinking", json::Value(*options.thinking), false});
  }
  return out;
}

std::string_view without_outer_space(std::string_view s) {
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (!s.empty() && space(s.front())) s.remove_prefix(1);
  while (!s.empty() && space(s.back())) s.remove_suffix(1);
  return s;
}

// Length of the rendering up to the end of the last message's content; its trailing white space stays if
// rendered.
std::size_t end_of_final_message(std::string_view text, const Message& last, const std::string& where) {
  const std::string_view core = without_outer_space(last.content);
  const std::size_t at = core.empty() ? text.npos : text.rfind(core);
  if (at == text.npos)
    throw Error(Exit::unsupported,
                fmt::format("{}: the last message does not appear in the rendering as it is written, so it "
                            "cannot be continued",
                            where),
                kRemedy);
  const std::string_view tail =
      std::string_view(last.content)
          .substr(static_cast<std::size_t>(core.data() - last.content.data()) + core.size());
  std::size_t end = at + core.size();
  for (std::size_t i = 0; i < tail.size() && end < text.size() && text[end] == tail[i]; ++i) ++end;
  return end;
}

}  // namespace

std::vector<RenderedPiece> ChatTemplate::render(std::span<const Message> messages,
                                                const RenderOptions& options) const {
  RenderOptions used = options;
  if (options.continue_final_message) used.add_generation_prompt = false;
  const std::int64_t now = options.now.value_or(static_cast<std::int64_t>(std::time(nullptr)));
  const jinja::Rendered all = impl_->program.render(context(messages, used, impl_->special), now);
  std::size_t limit = all.text.size();
  if (options.continue_final_message && !messages.empty())
    limit = end_of_final_message(all.text, messages.back(), impl_->where);
  std::vector<RenderedPiece> pieces;
  std::size_t begin = 0;
  for (const jinja::Run& run : all.runs) {
    const std::size_t end = std::min(run.end, limit);
    if (begin < end) pieces.push_back({all.text.substr(begin, end - begin), run.message});
    begin = run.end;
  }
  return pieces;
}

// -- encoding -----------------------------------------------------------------------------------------------

namespace {

// The added tokens of a tokenizer, looked up by their text.
class AddedTexts {
 public:
  explicit AddedTexts(const Tokenizer& tokenizer) {
    for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      if (!tokenizer.is_control(id)) continue;
      const std::string_view text = tokenizer.token_bytes(id);
      if (text.empty()) continue;
      by_first_byte_[static_cast<unsigned char>(text[0])].push_back({text, id});
    }
    for (auto& entries : by_first_byte_)  // longest first
      std::stable_sort(entries.begin(), entries.end(),
                       [](const Entry& a, const Entry& b) { return a.text.size() > b.text.size(); });
  }

  struct Entry {
    std::string_view text;
    std::int32_t id;
  };

  // The longest added token at s[i], null if there is none.
  const Entry* at(std::string_view s, std::size_t i) const {
    for (const Entry& e : by_first_byte_[static_cast<unsigned char>(s[i])])
      if (s.substr(i).starts_with(e.text)) return &e;
    return nullptr;
  }

 private:
  std::array<std::vector<Entry>, 256> by_first_byte_;
};

class PieceEncoder {
 public:
  explicit PieceEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer), added_(tokenizer) {}

  void template_text(std::string_view s) {
    std::size_t from = 0;
    for (std::size_t i = 0; i < s.size();) {
      const AddedTexts::Entry* e = added_.at(s, i);
      if (!e) {
        ++i;
        continue;
      }
      plain_ += s.substr(from, i - from);
      flush();
      ids_.push_back(e->id);
      from = i += e->text.size();
    }
    plain_ += s.substr(from);
  }

  void message_text(std::string_view s) { plain_ += s; }

  std::vector<std::int32_t> finish() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    if (plain_.empty()) return;
    const std::vector<std::int32_t> ids = tokenizer_.encode(plain_, AddedTokens::plain);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    plain_.clear();
  }

  const Tokenizer& tokenizer_;
  AddedTexts added_;
  std::string plain_;
  std::vector<std::int32_t> ids_;
};

}  // namespace

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, std::span<const RenderedPiece> pieces) {
  PieceEncoder encoder(tokenizer);
  // Template pieces that touch are one text: a control token may be written in two parts.
  std::string text;
  for (std::size_t i = 0; i < pieces.size();) {
    text.clear();
    const bool message = pieces[i].from_message;
    for (; i < pieces.size() && pieces[i].from_message == message; ++i) text += pieces[i].text;
    message ? encoder.message_text(text) : encoder.template_text(text);
  }
  return encoder.finish();
}

}  // namespace fathom
