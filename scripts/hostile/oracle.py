"""Asks the reference reader about damaged safetensors files: none that fathom accepts may be refused by it.

FATHOM_MUTATION_DUMP=headers FATHOM_MUTATIONS=100000 build/.../tests/all --test-case='mutations: damaged headers'
python3 scripts/hostile/oracle.py headers
"""
import struct
import sys

from safetensors import deserialize

both = neither = stricter = 0
wrong = []
with open(sys.argv[1], "rb") as dump:
    while head := dump.read(9):
        size, code = struct.unpack("<QB", head)
        data = dump.read(size)
        try:
            deserialize(data)
            theirs = True
        except Exception:
            theirs = False
        if code == 0 and not theirs:
            wrong.append(data)
        elif code == 0:
            both += 1
        elif theirs:
            stricter += 1
        else:
            neither += 1
for data in wrong[:10]:
    print("WRONG ACCEPT", data[:300])
print(f"{both + neither + stricter + len(wrong)} files: {both} accepted by both, {neither} refused by both, "
      f"{stricter} refused by fathom only, {len(wrong)} wrong accepts")
sys.exit(1 if wrong else 0)
