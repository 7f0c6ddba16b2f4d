"""Draws a chat as a terminal shows it: types into the real program through tmux and writes its screen as SVG.

usage: screenshot.py FATHOM OUT.svg [MODEL]
"""
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.sax.saxutils

COLUMNS, ROWS = 92, 40
CELL, LINE, MARGIN = 8.4, 19, 16  # pixels
LOOKS = {"plain": 'fill="#d5d9e0"', "dim": 'fill="#7c8491"', "bold": 'fill="#ffffff" font-weight="bold"', "warning": 'fill="#d9b45b"'}
TYPED = [("fathom chat --stats", 2.5), ("What is 17 + 25?", 2.5), ("now double it", 2.5), ("/think off", 1), ("Who are you?", 2.5), ("/tokens", 1)]


def captured(program, model):
    """The screen, with its attributes as SGR sequences."""
    with tempfile.TemporaryDirectory() as state:
        tmux = ["tmux", "-L", f"fathom-screenshot-{os.getpid()}", "-f", "/dev/null"]
        env = f"env -u FATHOM_MODEL XDG_STATE_HOME={state} TERM=tmux-256color PS1='$ ' sh"
        subprocess.run([*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), env], check=True)
        try:
            time.sleep(0.5)
            subprocess.run([*tmux, "send-keys", f"alias fathom='{program}'; clear", "Enter"], check=True)
            time.sleep(0.5)
            for line, seconds in TYPED:
                if model and line.startswith("fathom chat"):
                    line += f" -m {model}"
                subprocess.run([*tmux, "send-keys", "--", line, "Enter"], check=True)
                time.sleep(seconds)
            return subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


def runs(line, look):
    """(column, text, look) of each stretch of one look; and the look that the next line begins with."""
    out, column = [], 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b["):
            for code in part[2:-1].split(";") or ["0"]:
                look = {"2": "dim", "1": "bold", "33": "warning"}.get(code, "plain" if code in ("", "0", "22") or (code == "39" and look == "warning") else look)
        elif part:
            out.append((column, part, look))
            column += len(part)
    return out, look


def svg(screen):
    lines = screen.rstrip("\n").split("\n")
    width, height = COLUMNS * CELL + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" font-family="monospace" font-size="14">',
           f'<rect width="100%" height="100%" rx="8" fill="#16191f"/>']
    look = "plain"
    for row, line in enumerate(lines):
        stretches, look = runs(line, look)
        for column, text, how in stretches:
            if text.strip():
                out.append(f'<text x="{MARGIN + column * CELL:.1f}" y="{MARGIN + (row + 0.75) * LINE:.1f}" textLength="{len(text) * CELL:.1f}" '
                           f'xml:space="preserve" {LOOKS[how]}>{xml.sax.saxutils.escape(text)}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    screen = captured(os.path.realpath(sys.argv[1]), os.path.realpath(sys.argv[3]) if len(sys.argv) > 3 else None)
    print(re.sub(r"\x1b\[[0-9;]*m", "", screen).rstrip("\n"))
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write(svg(screen))


if __name__ == "__main__":
    main()
