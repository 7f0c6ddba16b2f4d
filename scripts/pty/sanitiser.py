"""Every byte string of length 1 to 3 through the sanitiser into a terminal emulator: nothing but text may come of it.

usage: sanitiser.py TESTS [STEP]

`TESTS --sanitise` reads strings (one length byte each) and writes what the sanitiser makes of each, newline and tab
left out, with a length byte before it. Each result is then judged in two ways:
 * by bytes: well-formed UTF-8 without C0, DEL or C1 characters;
 * by pyte: title, icon name, modes, margins, charsets, saved cursors and attributes stay as they were, no report is sent.
All distinct results are judged by bytes; pyte is fed them in blocks, STEP (1) of every STEP, which decides the time.
"""
import itertools
import os
import subprocess
import sys

import pyte


class Watched(pyte.Screen):
    """Counts whatever is not the drawing of text."""

    def __init__(self):
        self.wrong = []
        self.ready = False
        super().__init__(132, 50)
        self.ready = True

    def note(name):
        def call(self, *args, **kwargs):
            if self.ready:
                self.wrong.append((name, args))
            return getattr(super(Watched, self), name)(*args, **kwargs)
        return call

    for _name in ("set_title", "set_icon_name", "set_mode", "reset_mode", "set_margins", "define_charset", "shift_in", "shift_out",
                  "save_cursor", "restore_cursor", "select_graphic_rendition", "report_device_status", "report_device_attributes",
                  "erase_in_display", "erase_in_line", "cursor_position", "cursor_up", "cursor_back", "cursor_forward",
                  "insert_lines", "delete_lines", "bell", "backspace", "write_process_input", "reset", "alignment_display",
                  "reverse_index", "set_tab_stop", "clear_tab_stop", "debug"):
        locals()[_name] = note(_name)


def encoded(length, first):
    """All strings of `length` that begin with byte `first`, each after its length."""
    head = bytes([length, first])
    if length == 1:
        return head
    tails = itertools.product(range(256), repeat=length - 1)
    return b"".join(head + bytes(t) for t in tails)


def judge(outputs, screen, stream, step, count):
    for i, out in enumerate(outputs):
        text = out.decode("utf-8")  # raises for what is not well-formed
        for c in text:
            n = ord(c)
            # LINE and PARAGRAPH SEPARATOR, bidi controls and tags included
            if (n < 32 and c not in "\n\t") or 0x7F <= n < 0xA0 or 0x202A <= n <= 0x202E or 0x2066 <= n <= 0x2069 or 0xE0000 <= n <= 0xE007F:
                raise SystemExit(f"output {out!r} holds U+{n:04X}")
    drawn = [o for i, o in enumerate(outputs) if (count + i) % step == 0]
    stream.feed(b"".join(drawn).decode("utf-8").replace("\n", "").replace("\t", ""))
    if screen.wrong:
        raise SystemExit(f"the terminal was steered: {screen.wrong[:3]}")


def split(data):
    outputs, at = [], 0
    while at < len(data):
        n = data[at]
        outputs.append(data[at + 1:at + 1 + n])
        at += 1 + n
    return outputs


def main():
    tests = os.path.abspath(sys.argv[1])
    step = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    screen = Watched()
    stream = pyte.Stream(screen)
    count = 0
    for length in (1, 2, 3):
        for first in range(256):
            data = subprocess.run([tests, "--sanitise"], input=encoded(length, first), capture_output=True, check=True).stdout
            outputs = split(data)
            assert len(outputs) == 256 ** (length - 1)
            judge(outputs, screen, stream, step, count)
            count += len(outputs)
    print(f"{count} byte strings: nothing but text reached the terminal (pyte saw 1 of every {step})")


if __name__ == "__main__":
    main()
