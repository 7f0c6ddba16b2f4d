"""Makes tests/data/deepseek-v2-style: a small tokenizer.json by the rules of the DeepSeek-V2 family, and ids for it.

usage: make_v2_style.py DIR
Not a published file: the pre-tokenizer, the thirteen letters added as tokens (the bytes that UTF-8 never has, which the
vocabulary lacks) and the control tokens follow the family, the vocabulary is trained on text made here.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from compare import make
from make_sentencepiece import corpus

# Characters that normalisation would change are escaped.
LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ"
    r"ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭ"
    r"ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+")
PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
CJK = r"[一-龥ࠀ-一가-퟿]+"
CONTROL = [("<｜begin▁of▁sentence｜>", True), ("<｜end▁of▁sentence｜>", True)]
LATER = [("<｜fim▁hole｜>", False), ("<｜User｜>", False), ("<｜Assistant｜>", False), ("<|EOT|>", True)]


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        split("[\r\n]"), split(LETTERS), split(PUNCTUATION), split(r"\s+$"), split(CJK),
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    never = "\u00c0\u00c1" + "".join(chr(c) for c in range(0xF5, 0x100))
    rng = random.Random(3)
    text = list(corpus(rng)) + [make(rng, []) for _ in range(300)]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=700, show_progress=False,
        initial_alphabet=[c for c in pre_tokenizers.ByteLevel.alphabet() if c not in never]))
    for content, special in CONTROL:
        tokenizer.add_tokens([AddedToken(content, special=special, normalized=not special)])
    tokenizer.add_tokens([AddedToken(c, special=False, normalized=True) for c in "øöúÿõ÷ûýÀùÁþü"])
    for content, special in LATER:
        tokenizer.add_tokens([AddedToken(content, special=special, normalized=True)])
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {"add_bos_token": True, "bos_token": {"__type": "AddedToken", "content": CONTROL[0][0]},
              "eos_token": {"__type": "AddedToken", "content": CONTROL[1][0]}, "tokenizer_class": "LlamaTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")

    rng = random.Random(7)
    with open(directory / "sample.jsonl", "w", encoding="utf-8") as out:
        texts = ["Führer", "naïve Àé ÿ", "x   1", "a  \n  b 12½ ", " 漢字 かな 한국어。！", "<｜User｜>Grüße<|EOT|>"]
        texts += [make(rng, [c for c, _ in CONTROL + LATER])[:rng.randrange(1, 120)] for _ in range(150)]
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            out.write(json.dumps({"text": text, "ids": ids}) + "\n")


if __name__ == "__main__":
    main()
