"""Random templates through tokenizer/jinja and python jinja2: what both render must be equal byte for byte.

Not part of make test. Builds a small program from the interpreter's sources once; usage: differential.py [COUNT] [SEED]
Templates that one side refuses are counted, not compared: the subset is smaller, and errors may be found in another order.
"""
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import warnings

import jinja_reference
from snippets import SNIPPETS, VALUES

ROOT = pathlib.Path(__file__).parent.parent.parent

MAIN = r"""
#include <cstdio>
#include <string>
#include "src/base/json.h"
#include "tokenizer/jinja.h"
using namespace fathom;
int main(int, char** argv) {
  std::vector<jinja::Variable> values;
  const json::Value context = json::parse(argv[1], "context");
  for (const auto& [name, value] : context.as_object()) values.push_back({name, value, true});
  for (unsigned n; std::fread(&n, 4, 1, stdin) == 1;) {
    std::string source(n, '\0'), out;
    if (n > 0 && std::fread(source.data(), 1, n, stdin) != n) return 1;
    char status = '=';
    try {
      out = jinja::Template(source, "t").render(values, 1795348800).text;
    } catch (const Error& e) {
      status = '!';
      out = e.what();
    }
    n = static_cast<unsigned>(out.size());
    std::fwrite(&status, 1, 1, stdout);
    std::fwrite(&n, 4, 1, stdout);
    std::fwrite(out.data(), 1, n, stdout);
    std::fflush(stdout);
  }
}
"""

ATOMS = ["s", "e", "u", "ws", "n", "z", "neg", "f", "t", "no", "none_value", "l", "strs", "nested", "d", "people", "deep",
         "nope", "mixed", "1", "2", "-1", "'a'", "''", "'l, '", "[1, 2]", "{'a': 1}", "(1, 2)", "2.5", "lines", "quote"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
TAILS = ["|upper", "|lower", "|title", "|capitalize", "|trim", "|length", "|list", "|first", "|last", "|join(',')", "|sort",
         "|unique|list", "|reverse|list", "|string", "|int", "|float", "|abs", "|round", "|tojson", "|tojson(indent=1)",
         "|default('D')", "|default('D', true)", "|indent(2)", "|replace('l', 'L')", "|map('string')|join", "|min", "|max",
         "|sum", "|items|list", "|dictsort", "|select|list", "|reject('string')|list", "[0]", "[-1]", "[1:]", "[::-1]",
         "[:2]", ".k", "['k']", ".split()", ".split('l')", ".strip()", ".upper()", ".replace('o', '0')", ".items()|list",
         ".get('k', 3)", ".title()", ".rsplit(' ', 1)", ".splitlines()", ".find('o')", ".count('l')", " is string",
         " is defined", " is mapping", " is iterable", " is sequence", " is odd", " is none", " is number", " is not true"]
SPACES = ["", " ", "\n", "  \n ", "\t", "\u00a0", "x", "x ", " x", "x\n"]


def expression(rng, depth):
    roll = rng.random()
    if depth <= 0 or roll < 0.2:
        return rng.choice(ATOMS)
    if roll < 0.55:
        return f"({expression(rng, depth - 1)}){rng.choice(TAILS)}"
    if roll < 0.8:
        return f"{expression(rng, depth - 1)} {rng.choice(BINARY)} {expression(rng, depth - 1)}"
    if roll < 0.85:
        return f"(not {expression(rng, depth - 1)})"
    if roll < 0.92:
        return f"({expression(rng, depth - 1)} if {expression(rng, depth - 1)} else {expression(rng, depth - 1)})"
    return f"[{expression(rng, depth - 1)}, {expression(rng, depth - 1)}]"


def tag(rng, inner, variable=False):
    a, b = ("{{", "}}") if variable else ("{%", "%}")
    return f"{a}{rng.choice(['', '', '-', '' if variable else '+'])} {inner} {rng.choice(['', '', '-', '' if variable else '+'])}{b}"


def template(rng, depth):
    out = []
    for _ in range(1 if rng.random() < 0.6 else 2):
        out.append(rng.choice(SPACES))
        roll = rng.random()
        if depth <= 0 or roll < 0.5:
            out.append(tag(rng, expression(rng, rng.randint(0, 2)), True))
        elif roll < 0.65:
            out.append(tag(rng, f"if {expression(rng, 1)}") + template(rng, depth - 1) + tag(rng, "else") +
                       template(rng, depth - 1) + tag(rng, "endif"))
        elif roll < 0.8:
            out.append(tag(rng, f"for x in {expression(rng, 1)}") + "{{ x }}{{ loop.index }}" + template(rng, depth - 1) +
                       tag(rng, "endfor"))
        elif roll < 0.9:
            out.append(tag(rng, f"set {rng.choice(['s', 'n', 'q'])} = {expression(rng, 1)}"))
        elif roll < 0.95:
            out.append(tag(rng, "set q") + template(rng, depth - 1) + tag(rng, "endset") + "{{ q }}")
        else:
            out.append(rng.choice(["{# c #}", "{#- c -#}", "{% raw %} {{ {% endraw %}", "{%- raw -%} {% {%- endraw -%}"]))
        out.append(rng.choice(SPACES))
    return "".join(out)


def mutated(rng):
    """A snippet with a part of another put into it."""
    pool = [s for group in SNIPPETS.values() for s in group]
    a, b = rng.choice(pool), rng.choice(pool)
    i, j, k = rng.randint(0, len(a)), rng.randint(0, len(b)), rng.randint(0, len(b))
    return a[:i] + b[min(j, k):max(j, k)] + a[i + rng.randint(0, 2):]


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
    warnings.simplefilter("ignore", SyntaxWarning)
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    with tempfile.TemporaryDirectory() as tmp:
        source, program = pathlib.Path(tmp) / "main.cpp", pathlib.Path(tmp) / "main"
        source.write_text(MAIN)
        parts = [*ROOT.glob("tokenizer/jinja*.cpp"), *(ROOT / "src/base" / f for f in ("json.cpp", "error.cpp", "text.cpp"))]
        subprocess.run(["g++", "-std=c++20", "-O1", f"-I{ROOT}", "-DFMT_HEADER_ONLY", source, *parts, "-o", program,
                        "-l:libutf8proc.a"], check=True)
        child = subprocess.Popen([program, json.dumps(VALUES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        environment = jinja_reference.environment()
        equal = refused = stricter = laxer = different = 0
        for _ in range(count):
            text = template(rng, 1) if rng.random() < 0.7 else mutated(rng)
            try:
                expected = environment.from_string(text).render(**json.loads(json.dumps(VALUES)))
            except Exception:
                expected = None
            raw = text.encode()
            child.stdin.write(struct.pack("<I", len(raw)) + raw)
            child.stdin.flush()
            status, size = struct.unpack("<cI", child.stdout.read(5))
            found = child.stdout.read(size).decode(errors="replace")
            if status == b"!":
                refused += expected is None
                if expected is not None:
                    stricter += 1
                    if "-v" in sys.argv:
                        print("STRICTER", repr(text), "|", found)
            elif expected is None:
                laxer += 1
                if "-v" in sys.argv:
                    print("LAXER", repr(text), "|", repr(found))
            elif found == expected or " at 0x" in expected:
                equal += 1
            else:
                different += 1
                print(f"DIFFERENT {text!r}\n  python {expected!r}\n  found  {found!r}")
    print(f"{equal} equal, {different} different; {refused} refused by both, {stricter} only here, {laxer} only by python")
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
