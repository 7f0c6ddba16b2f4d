"""Chats interrupted at random moments. Each must end by a documented code with the terminal's modes as they were.

usage: interrupts.py TESTS [COUNT] [SEED]          the scripted model
       interrupts.py FATHOM [COUNT] [SEED] MODEL   a real one, which answers without end and reads a long prompt
"""
import os
import random
import signal
import sys
import tempfile
import termios
import time

import pexpect
import pyte


def settings(folder):
    env = dict(os.environ, TERM="xterm-256color", XDG_STATE_HOME=f"{folder}/state", HOME=folder,
               FATHOM_FAKE_SCRIPT=f"{folder}/script", FATHOM_FAKE_DELAY_US="300", FATHOM_FAKE_PREFILL_US="2000")
    for name in ("FATHOM_MODEL", "NO_COLOR", "XDG_CONFIG_HOME"):
        env.pop(name, None)
    return env


def open_terminal(child):
    """Our own descriptor of the child's terminal: it stays open after the child is gone."""
    return os.open(os.readlink(f"/proc/{child.pid}/fd/0"), os.O_RDWR | os.O_NOCTTY)


def fresh_modes():
    """The modes of a terminal that pexpect has just made. Read behind a program that leaves them alone: the program
    under test may have changed its own before we look."""
    child = pexpect.spawn("/bin/sleep", ["60"], dimensions=(24, 80))
    terminal = open_terminal(child)
    modes = termios.tcgetattr(terminal)
    os.close(terminal)
    child.terminate(force=True)
    return modes


LONG = "Tell me about numbers. " * 100


def one(program, arguments, folder, rng, before, longest):
    """Returns (exit code, None) or (code, what is wrong). Interrupts fall within `longest` seconds."""
    child = pexpect.spawn(program, arguments, env=settings(folder), dimensions=(24, 80), timeout=5)
    child.delaybeforesend = None
    slave = open_terminal(child)
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    printed = b""

    def read():
        nonlocal printed
        while True:
            try:
                piece = child.read_nonblocking(65536, timeout=0.002)
            except (pexpect.TIMEOUT, pexpect.EOF):
                return
            printed += piece
            stream.feed(piece)

    def wait_end(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            read()
            if not child.isalive():
                read()  # its last words
                return True
        return False

    question = rng.random()
    if question < 0.4:
        child.send("a question" + "\r")
    elif question < 0.8:
        child.send("\x1b[200~" + LONG + "\x1b[201~\r")
    time.sleep(rng.random() * longest)
    read()
    kind = rng.choice(["int", "int-int", "term", "hup", "key", "winch-int", "tstp-cont-int"])
    if kind == "key":
        child.send("\x03")
    elif kind == "term":
        child.kill(signal.SIGTERM)
    elif kind == "hup":
        child.kill(signal.SIGHUP)
    else:
        if kind == "winch-int":
            child.setwinsize(rng.randint(1, 50), rng.randint(1, 200))
        if kind == "tstp-cont-int":
            child.kill(signal.SIGSTOP)
            child.kill(signal.SIGCONT)
        child.kill(signal.SIGINT)
        if kind == "int-int":
            time.sleep(rng.random() * 0.02)
            child.kill(signal.SIGINT)
    ended = wait_end(0.05)
    for attempt in range(40):
        if ended:
            break
        child.send("\x03" if attempt % 5 == 4 else "\x04")
        ended = wait_end(0.15)
    if not ended:
        child.kill(signal.SIGKILL)
        os.close(slave)
        return None, f"{kind}: it does not end; printed {printed[-200:]!r}"
    child.wait() if child.isalive() else None
    code = child.exitstatus if child.exitstatus is not None else 128 + child.signalstatus
    after = termios.tcgetattr(slave)
    os.close(slave)
    if after != before:
        return code, f"{kind}: the terminal's modes differ"
    if code not in (0, 129, 130, 143):
        return code, f"{kind}: exit code {code}"
    if printed.count(b"\x1b[?2004h") and printed.rfind(b"\x1b[?2004l") < printed.rfind(b"\x1b[?2004h"):
        return code, f"{kind}: bracketed paste is left on"
    return code, None


def main():
    program = os.path.abspath(sys.argv[1])
    model = sys.argv[4] if len(sys.argv) > 4 else None
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            os.system(f"'{program}' --fake-checkpoint {folder}/fake")
            with open(f"{folder}/script", "w") as f:
                f.write("x" * 300 + "\x1e" + "A short answer.")
            arguments = ["--as-fathom", "chat", "-m", f"{folder}/fake"]
        else:
            arguments = ["chat", "-m", model, "--ignore-eos"]
        codes, wrong, before = {}, [], fresh_modes()
        for i in range(count):
            code, problem = one(program, arguments, folder, rng, before, 0.25 if model is None else 0.8)
            codes[code] = codes.get(code, 0) + 1
            if problem:
                wrong.append((i, problem))
                print(i, problem)
    print(f"{count} interrupts, exit codes {codes}, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
