"""A long chat: neither the tokens read nor the time to the first one may grow with the turns, a fresh process must say the same, and resuming must
not read the conversation again.

usage: turns.py FATHOM MODEL [TURNS]
"""
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

import pexpect

QUESTIONS = ["What is 7 + 8?", "Add 5 to it.", "What is 12 * 3?", "Is 91 prime?", "What is 100 - 37?", "Hello, who are you?"]


def chat(program, model, env, arguments=()):
    child = pexpect.spawn(program, ["chat", "-m", model, "--greedy", "-n", "60", "--stats", *arguments], env=env, dimensions=(40, 120),
                          timeout=60, encoding="utf-8", codec_errors="replace")
    child.delaybeforesend = None
    # The editor turns bracketed paste on when it waits for a line.
    child.expect_exact("\x1b[?2004h")
    return child


def ask(child, text):
    """Seconds from Enter to the first byte of the answer, and the prompt tokens that were not in the cache."""
    child.send(text)
    child.expect_exact(text[-1])
    time.sleep(0.05)
    while True:  # the echo of the line
        try:
            child.read_nonblocking(4096, timeout=0.05)
        except pexpect.TIMEOUT:
            break
    start = time.monotonic()
    child.send("\r")
    child.expect_exact("\x1b[?2004l")
    child.expect(r"m[^\x1b\r\n]")
    first = time.monotonic() - start
    child.expect(r"prompt ([\d,]+) tokens \(([\d,]+) cached\)")
    prompt, cached = (int(child.match.group(i).replace(",", "")) for i in (1, 2))
    child.expect_exact("\x1b[?2004h")
    return first, prompt - cached


def conversation(folder):
    path = max(glob.glob(f"{folder}/fathom/sessions/*.jsonl"), key=os.path.getmtime)
    with open(path) as f:
        return path, [json.loads(line) for line in f][1:]


def main():
    program, model = os.path.abspath(sys.argv[1]), sys.argv[2]
    turns = int(sys.argv[3]) if len(sys.argv) > 3 else 30
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, TERM="xterm-256color", XDG_STATE_HOME=folder)
        child = chat(program, model, env)
        times, read = zip(*(ask(child, QUESTIONS[i % len(QUESTIONS)]) for i in range(turns)))
        child.send("/tokens\r")
        child.expect(r"([\d,]+) of ([\d,]+) tokens")
        print(f"{turns} turns, {child.match.group(1)} of {child.match.group(2)} tokens used")
        child.send("\x04")
        child.wait()
        early, late = sorted(times[1:6])[2], sorted(times[-5:])[2]
        print("prompt tokens read in each turn: " + " ".join(map(str, read)))
        print("time to first token, ms: " + " ".join(f"{1000 * t:.0f}" for t in times))
        print(f"time to first token: turns 2-6 {1000 * early:.0f} ms, last five {1000 * late:.0f} ms (medians)")

        path, messages = conversation(folder)
        prompt = [{"role": m["role"], "content": m["content"], **({"reasoning_content": m["reasoning_content"]}
                                                                 if "reasoning_content" in m else {})} for m in messages[:-1]]
        with open(f"{folder}/messages.json", "w") as f:
            json.dump(prompt, f)
        out = subprocess.run([program, "run", "-m", model, "--greedy", "-n", "60", "--json", "--messages", f"{folder}/messages.json"],
                             env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
        fresh = json.loads(out)["choices"][0]["message"]
        same = all(fresh.get(k, "") == messages[-1].get(k, "") for k in ("content", "reasoning_content"))
        print(f"a fresh process given the same messages says the same: {same}")

        latents = path.replace(".jsonl", ".latents")
        size = os.path.getsize(latents) if os.path.exists(latents) else 0
        start = time.monotonic()
        child = chat(program, model, env, ["-c", "-v"])
        resumed = time.monotonic() - start
        note = "from the saved latent cache" in (child.before or "")
        child.send("/retry\r")
        child.expect_exact("\x1b[?2004h")
        child.send("/stats\r")
        child.expect(r"prompt ([\d,]+) tokens \(([\d,]+) cached\)")
        print(f"resumed in {resumed:.2f} s from {size:,} bytes of rows (used: {note}); "
              f"{child.match.group(2)} of {child.match.group(1)} prompt tokens from the cache")
        child.send("\x04")
        child.wait()
        _, again = conversation(folder)
        print(f"after resuming the same answer comes: {again[-1].get('content') == messages[-1].get('content')}")
        # The last answer (60 tokens at most, without its thinking) and the question: never the conversation.
        ok = same and max(read) <= 90 and late < 3 * early + 0.1
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
