"""Compares fathom's token ids with those of Hugging Face's tokenizers package, text by text.

usage: compare.py DIR -- COMMAND...
  DIR      directory with a tokenizer.json
  COMMAND  reads lines {"text": ...} on stdin, writes one line of ids per text: [1, 2] or {"ids": [1, 2]},
           for example: ./fathom tokenize -m DIR --special --input /dev/stdin

Texts: about --megabytes of them, made here from a seed (code, many scripts, random scalars, emoji, runs of white
space, control tokens) and taken from --files. --sample N FILE writes N short texts with the reference's ids instead.
"""

import argparse
import glob
import json
import random
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

ALPHABETS = [  # (first, last) code points of one script each
    (0x20, 0x7E), (0xA1, 0xFF), (0x100, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58A), (0x5D0, 0x5EA),
    (0x620, 0x669), (0x900, 0x96F), (0xE01, 0xE5B), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1780, 0x17E9),
    (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x218F), (0x2190, 0x23FF), (0x3000, 0x303F), (0x3041, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF), (0x30000, 0x323AF),
]
SPACES = [" ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\u180e",
          "\u200b", "\x0b", "\x0c", "\x1c", "\x00"]
WORDS = ("the of and to in is that for it as was with be by on not he I this are or his from at which but have an "
         "don't we'll they're I'M you'VE naïve façade Führer über straße coöperate Москва мир Ελλάδα שלום سلام "
         "नमस्ते สวัสดี 你好 世界 日本語 テスト 한국어 ½ Ⅷ ² ٣٤٥ 1234567 3.14159 0xFF 1e-5 $5 €20 100% C++ a_b foo.bar "
         "{} [] () => == != // /* */ <!-- --> #include @user \\n \\\\ ... — – … “q” ‘s’ 👍🏽 👨‍👩‍👧 🇩🇪 é e\u0301 ﬁ ǅ ʰ ー 々 〇").split()
KEYWORDS = "def class return if else for while import from int void const auto self print lambda struct {}".split()


def scalar(rng):
    while True:
        c = rng.randrange(0x110000)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def make(rng, control):
    """One text of a random kind."""
    kind = rng.randrange(8)
    n = rng.randrange(1, 400)
    if kind == 0:  # prose of many languages
        return "".join(rng.choice(WORDS) + (rng.choice(SPACES) if rng.random() < 0.2 else " ") for _ in range(n))
    if kind == 1:  # code
        lines = []
        for _ in range(rng.randrange(1, 40)):
            indent = rng.choice(["", "  ", "    ", "\t", "        "]) * rng.randrange(3)
            words = [rng.choice(KEYWORDS + WORDS) + rng.choice(["", "(", ")", ";", ",", ":", " = ", " -> ", "++"])
                     for _ in range(rng.randrange(8))]
            lines.append(indent + rng.choice([" ", "", ""]).join(words))
        return rng.choice(["\n", "\r\n", "\n\n"]).join(lines)
    if kind == 2:  # uniformly random scalars
        return "".join(scalar(rng) for _ in range(n))
    if kind == 3:  # one script with spaces and digits
        a, b = rng.choice(ALPHABETS)
        return "".join(chr(rng.randint(a, b)) if rng.random() < 0.8 else rng.choice(SPACES + list("0123456789"))
                       for _ in range(n))
    if kind == 4:  # scripts mixed character by character
        return "".join(chr(rng.randint(*rng.choice(ALPHABETS))) for _ in range(n))
    if kind == 5:  # white space
        return "".join(rng.choice(SPACES) * rng.randrange(1, 6) + rng.choice(["", "x", ".", "é", "1", "中"])
                       for _ in range(rng.randrange(1, 60)))
    if kind == 6:  # runs
        return "".join(rng.choice(WORDS)[0] * rng.randrange(1, 50) for _ in range(rng.randrange(1, 20)))
    return "".join(rng.choice([rng.choice(control)] * 2 + WORDS + SPACES) if control else rng.choice(WORDS)
                   for _ in range(rng.randrange(1, 60)))


def texts(args, control):
    rng = random.Random(args.seed)
    total = 0
    for path in args.files:
        data = Path(path).read_bytes().decode("utf-8", "ignore")
        at = 0
        while at < len(data):
            size = rng.randrange(1, 20000)
            yield data[at:at + size]
            at += size
    while total < args.megabytes * 1_000_000:
        text = make(rng, control)
        total += len(text.encode())
        yield text


def sample(args, tokenizer, control):
    rng = random.Random(args.seed)
    with open(args.sample[1], "w", encoding="utf-8") as out:
        for _ in range(int(args.sample[0])):
            text = make(rng, control)
            text = text[:rng.randrange(1, 120)]
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            out.write(json.dumps({"text": text, "ids": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--files", nargs="*", default=[])
    parser.add_argument("--sample", nargs=2, metavar=("N", "FILE"))
    own, command = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1:]
    args = parser.parse_args(own)
    args.files = [p for pattern in args.files for p in glob.glob(pattern)]

    tokenizer = Tokenizer.from_file(str(Path(args.directory) / "tokenizer.json"))
    control = [t.content for t in tokenizer.get_added_tokens_decoder().values() if "holder" not in t.content]
    if args.sample:
        sample(args, tokenizer, control)
        return 0

    all_texts = list(texts(args, control))
    lines = "".join(json.dumps({"text": t}) + "\n" for t in all_texts)
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    found = [f["ids"] if isinstance(f, dict) else f for f in found]
    if len(found) != len(all_texts):
        print(f"{len(all_texts)} texts in, {len(found)} lines out")
        return 1
    different = 0
    for text, ids in zip(all_texts, found):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if ids == expected:
            continue
        different += 1
        if different <= 10:
            at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
            before = tokenizer.decode(expected[:at], skip_special_tokens=False)
            print(f"differs after {ascii(before[-30:])} in {ascii(text[len(before) - 5:len(before) + 30])}: "
                  f"expected {expected[at:at + 6]}, found {ids[at:at + 6]}")
    size = sum(len(t.encode()) for t in all_texts)
    print(f"{len(all_texts)} texts, {size} bytes: {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
