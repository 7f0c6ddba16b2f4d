"""Minnow's tokenizer: trains tokenizer.model, writes tokenizer_config.json, and encodes samples as the program does.

Text is tokenised in pieces around the markers: a marker is looked up by its content in `added_tokens_decoder`, what lies between is
encoded by SentencePiece with an identity normaliser. Inside SentencePiece the markers are CONTROL pieces, which text never matches.
"""
import argparse
import json
import os

import sentencepiece

import generate

BOS, EOS, UNK = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<unk>"
USER, ASSISTANT, THINK, END_THINK, PAD = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜▁pad▁｜>"
MARKERS = [BOS, EOS, UNK, USER, ASSISTANT, THINK, END_THINK, PAD]
VOCAB_SIZE = 1024
CORPUS_SAMPLES = 120000

CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% if not thinking is defined %}{% set thinking = true %}{% endif %}"
    "{% set ns = namespace(system_prompt='', is_first_sp=true) %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{%- if ns.is_first_sp %}{% set ns.system_prompt = message['content'] %}{% set ns.is_first_sp = false %}"
    "{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}"
    "{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system_prompt }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}{%- set content = message['content'] %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}"
    "{%- endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}"
    "{% if thinking %}{{ '<think>\\n' }}{% else %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}")


class Tokenizer:
  """tokenizer.model and the markers of tokenizer_config.json of a directory."""

  def __init__(self, directory):
    self.pieces = sentencepiece.SentencePieceProcessor(model_file=os.path.join(directory, "tokenizer.model"))
    with open(os.path.join(directory, "tokenizer_config.json"), encoding="utf-8") as f:
      self.config = json.load(f)
    self.markers = {t["content"]: int(i) for i, t in self.config["added_tokens_decoder"].items()}
    self.bos, self.eos, self.pad = (self.markers[m] for m in (BOS, EOS, PAD))
    self.newline = self.pieces.encode("\n")

  def text(self, text):
    """Ids of plain text; the spans between CHARS marks are encoded letter by letter."""
    if generate.CHARS not in text:
      return self.pieces.encode(text)
    ids = []
    for i, part in enumerate(text.split(generate.CHARS)):
      ids += [self.pieces.piece_to_id(ch) for ch in part] if i % 2 else self.pieces.encode(part)
    return ids

  def prompt(self, messages, thinking=True):
    """Ids of the rendered chat template with the generation prompt."""
    m, ids = self.markers, [self.bos]
    systems = [x["content"] for x in messages if x["role"] == "system"]
    ids += self.text("\n\n".join(systems)) if systems else []
    for x in messages:
      if x["role"] == "user":
        ids += [m[USER]] + self.text(x["content"])
      elif x["role"] == "assistant":
        ids += [m[ASSISTANT]] + self.text(x["content"].split(END_THINK)[-1]) + [self.eos]
    ids += [m[ASSISTANT], m[THINK]] + self.newline
    return ids if thinking else ids + self.newline + [m[END_THINK]] + 2 * self.newline

  def completion(self, sample):
    """Ids the model has to produce for a sample, end of sentence included."""
    answer = self.text(sample.answer) + [self.eos]
    if not sample.thinking:
      return answer
    return self.text(sample.thought) + self.newline + [self.markers[END_THINK]] + 2 * self.newline + answer

  def decode(self, ids):
    """Text of ids, markers included."""
    names = {i: content for content, i in self.markers.items()}
    out, run = [], []
    for i in ids:
      if i in names:
        out += [self.pieces.decode(run), names[i]]
        run = []
      else:
        run.append(i)
    return "".join(out + [self.pieces.decode(run)])


def corpus(count):
  """Lines of text to train the pieces on: every question, thought and answer line of fresh samples."""
  g = generate.Generator(0)
  for _ in range(count):
    s = g.sample()
    for text in [s.system or "", s.question, s.thought, s.answer.replace(generate.CHARS, " ")] + [t for turn in s.history for t in turn]:
      for line in text.split("\n"):
        if line:
          yield line


def train(directory):
  prefix = os.path.join(directory, "tokenizer")
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=corpus(CORPUS_SAMPLES), model_prefix=prefix, model_type="bpe", vocab_size=VOCAB_SIZE, byte_fallback=True, split_digits=True,
      normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, character_coverage=1.0,
      bos_id=0, eos_id=1, unk_id=2, pad_id=-1, bos_piece=BOS, eos_piece=EOS, unk_piece=UNK, control_symbols=MARKERS[3:],
      required_chars="".join(chr(c) for c in range(33, 127)), num_threads=2, max_sentence_length=100000, minloglevel=1)
  os.remove(prefix + ".vocab")
  pieces = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
  added = {}
  for marker in MARKERS:
    i = pieces.piece_to_id(marker)
    assert pieces.id_to_piece(i) == marker and (marker == UNK or pieces.is_control(i)), marker
    added[str(i)] = {"content": marker, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": marker not in (THINK, END_THINK)}
  config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
            "unk_token": UNK, "legacy": False, "clean_up_tokenization_spaces": False, "model_max_length": 4096, "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer", "chat_template": CHAT_TEMPLATE}
  with open(os.path.join(directory, "tokenizer_config.json"), "w", encoding="utf-8") as f:
    json.dump(config, f, ensure_ascii=False, indent=2)
    f.write("\n")


def check(directory):
  """The Jinja template and `prompt` agree, and text survives a round trip."""
  import jinja2
  tokenizer = Tokenizer(directory)
  template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(tokenizer.config["chat_template"])
  g = generate.Generator(9)
  for _ in range(2000):
    s = g.sample()
    text = template.render(messages=s.messages(), bos_token=BOS, add_generation_prompt=True, thinking=s.thinking)
    ids = tokenizer.prompt(s.messages(), s.thinking)
    assert tokenizer.decode(ids) == text, (text, tokenizer.decode(ids))
    done = tokenizer.decode(tokenizer.completion(s))
    assert done.endswith(s.answer.replace(generate.CHARS, "") + EOS), done
  for text in ["Hello, world!", "  two  spaces ", "naïve café 你好 🙂\t\n\n x", "<｜User｜> <think>"]:
    assert tokenizer.pieces.decode(tokenizer.text(text)) == text, text


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("directory", help="where tokenizer.model and tokenizer_config.json are written")
  parser.add_argument("--check", action="store_true", help="only check what is there")
  args = parser.parse_args()
  if not args.check:
    train(args.directory)
  check(args.directory)


if __name__ == "__main__":
  main()
