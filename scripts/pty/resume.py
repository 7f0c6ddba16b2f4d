"""How soon a saved conversation is open again: seconds until chat's prompt, five times.

usage: resume.py FATHOM MODEL SESSION [FLAGS]

SESSION.jsonl and its SESSION.latents, made by `fathom run --session SESSION.jsonl` or a chat, are copied and not changed.
"""
import os
import shutil
import sys
import tempfile
import time

import pexpect


def main():
    program, model, session, flags = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(session))) as folder:
        env = dict(os.environ, TERM="xterm-256color", XDG_STATE_HOME=folder)
        for _ in range(5):
            for end in ("jsonl", "latents"):
                shutil.copy(session.removesuffix("jsonl") + end, f"{folder}/talk.{end}")
            start = time.monotonic()
            child = pexpect.spawn(program, ["chat", "-m", model, "-v", "--session", f"{folder}/talk.jsonl", *flags], env=env, timeout=120)
            child.expect_exact("\x1b[?2004h")  # the editor waits for a line
            took = time.monotonic() - start
            with open(f"/proc/{child.pid}/stat") as f:
                fields = f.read().split()
            processor = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
            used = b"from the saved latent cache" in child.before
            print(f"{took:.2f} s, {processor:.2f} s of processor time, latent cache used: {used}")
            child.terminate(force=True)


if __name__ == "__main__":
    main()
