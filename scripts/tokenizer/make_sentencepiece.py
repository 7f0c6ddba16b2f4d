"""Makes tests/data/sentencepiece: a small SentencePiece model and ids of the sentencepiece package for it.

usage: make_sentencepiece.py DIR
The text it is trained on is made here. sample.jsonl holds {"text", "match", "plain"}: ids with control tokens matched
(text cut at them, each part encoded by the package) and with the text encoded as it stands.
"""

import io
import json
import random
import re
import sys
from pathlib import Path

import sentencepiece

from compare import make

BOS, EOS, UNK = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<unk>"
CONTROL = ["<｜User｜>", "<｜Assistant｜>"]
DEFINED = ["<think>", "</think>"]  # the library matches these in any text: fathom must not
SUBJECTS = "the cat,a small dog,every tree,my teacher,this river,the old house,nobody,a letter,the year 2025".split(",")
VERBS = "sees,likes,finds,is near,was under,can read,does not know,walks to,writes 12 lines about".split(",")
ENDS = "the sea.,a red apple!,your garden?,naïve café culture.,the 3rd street;,an idea,x = y + 1".split(",")


def corpus(rng):
    for _ in range(4000):
        yield f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(ENDS)}"


def train(directory):
    rng = random.Random(3)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(rng), model_writer=model, model_type="bpe", vocab_size=512, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        character_coverage=1.0, bos_id=0, eos_id=1, unk_id=2, pad_id=-1, bos_piece=BOS, eos_piece=EOS, unk_piece=UNK,
        control_symbols=CONTROL, user_defined_symbols=DEFINED, num_threads=1, minloglevel=2)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    markers = {pieces.piece_to_id(m): m for m in [BOS, EOS, UNK] + CONTROL + DEFINED}
    added = {str(i): {"content": m, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": m not in DEFINED} for i, m in sorted(markers.items())}
    added[str(pieces.get_piece_size())] = {"content": "<｜extra▁1｜>", "special": True, "normalized": False}
    config = {"add_bos_token": True, "added_tokens_decoder": added, "bos_token": BOS, "eos_token": EOS}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return pieces, {int(i): a["content"] for i, a in added.items()}


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    pieces, markers = train(directory)
    ids = {m: i for i, m in markers.items()}
    cut = re.compile("(" + "|".join(re.escape(m) for m in sorted(ids, key=len, reverse=True)) + ")")
    rng = random.Random(5)
    with open(directory / "sample.jsonl", "w", encoding="utf-8") as out:
        for i in range(200):
            text = make(rng, list(ids))[:rng.randrange(1, 120)].replace("\x00", "")
            if i % 2:
                text = rng.choice(SUBJECTS) + " " * rng.randrange(4) + rng.choice(ENDS) + text[:20]
            parts = [p for p in cut.split(text) if p]
            match = [x for p in parts for x in ([ids[p]] if p in ids else pieces.encode(p))]
            # As ordinary characters: the package would match what is user-defined.
            plain = pieces.encode(text) if not any(d in text for d in DEFINED) else None
            out.write(json.dumps({"text": text, "match": match, "plain": plain}) + "\n")


if __name__ == "__main__":
    main()
