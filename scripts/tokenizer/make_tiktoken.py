"""Makes tests/data/tiktoken: a small tiktoken.model in Kimi's format and ids of the tiktoken package for it.

usage: make_tiktoken.py DIR
The tokens are trained on text made here. sample.jsonl holds {"text", "ids"}, ids with all control tokens matched.
"""

import base64
import json
import random
import sys
from pathlib import Path

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from compare import make
from make_sentencepiece import corpus

# The publisher's pattern (tokenization_kimi.py), with its class intersections.
PATTERN = "|".join([
    r"""[\p{Han}]+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])
CONTROL = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 17: "<|im_middle|>", 22: "<think>"}


def alphabet():
    """Hugging Face's character for each byte, the other way round."""
    shown = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    rest = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(0x100 + i): b for i, b in enumerate(rest)}


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    text = list(corpus(rng)) + [make(rng, []) for _ in range(300)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=900, show_progress=False,
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    byte_of = alphabet()
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    ranks = {bytes(byte_of[c] for c in word): i for i, (word, _) in enumerate(words)}
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (directory / "tiktoken.model").write_text("".join(lines), "ascii")
    special = {content: len(ranks) + i for i, content in CONTROL.items()}
    added = {str(i): {"content": c, "special": not c.startswith("<t")} for c, i in special.items()}
    config = {"added_tokens_decoder": added, "bos_token": "[BOS]", "eos_token": "[EOS]",
              "tokenizer_class": "TikTokenTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    encoding = tiktoken.Encoding("kimi", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    rng = random.Random(11)
    count, limit = (int(sys.argv[2]), 10**9) if len(sys.argv) > 2 else (200, 120)
    with open(directory / "sample.jsonl", "w", encoding="utf-8") as out:
        for _ in range(count):
            text = make(rng, list(special))[:rng.randrange(1, limit)]
            ids = encoding.encode(text, allowed_special="all")
            out.write(json.dumps({"text": text, "ids": ids}) + "\n")


if __name__ == "__main__":
    main()
