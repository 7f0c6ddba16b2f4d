"""Writes tokenizer/unicode_additions.h: characters that Hugging Face's tokenizers know and PCRE2 10.42 does not.

usage: unicode_additions.py > tokenizer/unicode_additions.h
PCRE2 10.42 has Unicode 14, as has Python 3.11's unicodedata; the tokenizers package is asked for the category of every
character that is unassigned there.
"""

import sys
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers

# An older character of the same category, script Han or not, and number of bytes. None lies in a range that a published
# pattern spells out.
STAND_INS = {
    ("Lo", True, 4): 0x20000, ("Lo", False, 4): 0x10280, ("So", False, 4): 0x1D100, ("Nd", False, 4): 0x104A0,
    ("Lm", False, 4): 0x16B40, ("Mn", False, 4): 0x10A01, ("Po", False, 4): 0x10100, ("Ll", False, 4): 0x1D41A,
    ("Lu", False, 4): 0x1D400, ("Mc", False, 4): 0x11000, ("No", False, 4): 0x10107, ("Cf", False, 4): 0xE0020,
    ("Sm", False, 4): 0x1D6C1, ("Pd", False, 4): 0x10EAD, ("So", False, 3): 0x2440, ("Lu", False, 3): 0xA7C2,
    ("Ll", False, 3): 0xA7C3, ("Po", False, 3): 0x2E2A, ("Mn", False, 3): 0x1AB0, ("Mc", False, 3): 0x1B04,
}
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split()


def matched(pattern, characters):
    rest = set()
    for piece, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str("".join(characters)):
        rest.update(piece)
    return set(characters) - rest


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"expected a Python with Unicode 14.0.0, found {unicodedata.unidata_version}")
    unassigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) == "Cn"]
    category = {c: name for name in CATEGORIES for c in matched(rf"\p{{{name}}}+", unassigned)}
    han = matched(r"\p{Han}+", sorted(category))
    ranges = []
    for c in sorted(category):
        stand_in = STAND_INS[category[c], c in han, len(c.encode())]
        assert unicodedata.category(chr(stand_in)) == category[c] and len(chr(stand_in).encode()) == len(c.encode())
        if ranges and ranges[-1][1] == ord(c) - 1 and ranges[-1][2] == stand_in:
            ranges[-1][1] = ord(c)
        else:
            ranges.append([ord(c), ord(c), stand_in])
    print(f"""// Characters that are assigned in the Unicode version of Hugging Face's tokenizers {tokenizers.__version__} and not in Unicode 14,
// which PCRE2 10.42 has. Written by scripts/tokenizer/unicode_additions.py.
#pragma once

namespace fathom {{

struct UnicodeAddition {{
  char32_t first, last;
  char32_t stand_in;  // an older character of the same category, script and number of UTF-8 bytes
}};

// clang-format off
inline constexpr UnicodeAddition unicode_additions[] = {{""")
    for first, last, stand_in in ranges:
        print(f"    {{0x{first:X}, 0x{last:X}, 0x{stand_in:X}}},")
    print("""};
// clang-format on

}  // namespace fathom""")


if __name__ == "__main__":
    main()
