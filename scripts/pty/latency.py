"""How soon fathom reacts: first sign, Ctrl-C to silence in decode and in prefill, a reader that leaves.

usage: latency.py TESTS [COUNT]          the scripted model
       latency.py FATHOM COUNT MODEL     a real one, which answers without end and reads a long prompt
"""
import os
import pty
import random
import statistics
import subprocess
import sys
import tempfile
import time

import pexpect


def environment(folder, **more):
    env = dict(os.environ, TERM="xterm-256color", XDG_STATE_HOME=f"{folder}/state", HOME=folder,
               FATHOM_FAKE_SCRIPT=f"{folder}/script", FATHOM_FAKE_ENDLESS="1")
    env.pop("FATHOM_MODEL", None)
    env.update(more)
    return env


def chat(command, folder, **more):
    child = pexpect.spawn(command[0], [*command[1:], "chat", *ENDLESS], env=environment(folder, **more), dimensions=(24, 80), timeout=10)
    child.delaybeforesend = None
    child.expect("> ")
    return child


def first_sign(command, folder):
    """Seconds from the start to the first byte on the terminal. Without pexpect, whose own start takes longer."""
    master, slave = pty.openpty()
    start = time.monotonic()
    process = subprocess.Popen([*command, "chat", *ENDLESS], env=environment(folder), stdin=slave,
                               stdout=slave, stderr=slave, start_new_session=True)
    os.read(master, 1)
    took = time.monotonic() - start
    process.kill()
    process.wait()
    os.close(master)
    os.close(slave)
    return took


def silence(child):
    """Seconds from the first Ctrl-C to the last byte of the answer that followed it."""
    start = last = time.monotonic()
    child.send("\x03")
    while time.monotonic() - last < 0.4 and time.monotonic() - start < 5:
        try:
            child.read_nonblocking(65536, timeout=0.05)
            last = time.monotonic()
        except pexpect.TIMEOUT:
            continue
        except pexpect.EOF:
            break
    return last - start


def quantiles(name, values, goal):
    values = sorted(values)
    p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
    print(f"{name}: median {1000 * statistics.median(values):.1f} ms, p99 {1000 * p99:.1f} ms, worst {1000 * values[-1]:.1f} ms "
          f"over {len(values)} (goal {goal} ms) {'ok' if 1000 * p99 <= goal else 'MISSED'}")


ENDLESS = []  # flags of the model
LONG = "Tell me about numbers. " * 350


def main():
    program = os.path.abspath(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    model = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None
    rng = random.Random(3)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            os.system(f"'{program}' --fake-checkpoint {folder}/fake")
            with open(f"{folder}/script", "w") as f:
                f.write("</think>y")
            command, question, reading = [program, "--as-fathom"], "a prompt that takes long to read", 0.2
            ENDLESS.extend(["-m", f"{folder}/fake"])
        else:
            command, question, reading = [program], f"\x1b[200~{LONG}\x1b[201~", 0.05
            ENDLESS.extend(["-m", model, "--ignore-eos", "--hide-thinking"])
        sign, decode, prefill, pipe = [], [], [], []
        for _ in range(count):
            sign.append(first_sign(command, folder))

            child = chat(command, folder, FATHOM_FAKE_DELAY_US="2000")
            child.send("go\r")
            child.expect(r"\n[^\n]*\n?[a-zA-Z0-9]") if model else child.expect("yyy")
            time.sleep(rng.random() * 0.1)
            decode.append(silence(child))
            child.terminate(force=True)

            child = chat(command, folder, FATHOM_FAKE_PREFILL_US="200000")
            child.send(question + "\r")
            time.sleep(reading + rng.random() * 0.5)
            prefill.append(silence(child))
            child.terminate(force=True)

            run = subprocess.Popen([*command, "run", *ENDLESS, "hi"], env=environment(folder), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            os.read(run.stdout.fileno(), 10)
            start = time.monotonic()
            run.stdout.close()  # as head -c 10 does by ending
            assert run.wait() == 141, run.returncode
            pipe.append(time.monotonic() - start)
        quantiles("first visible sign after start", sign, 100)
        quantiles("Ctrl-C to silence, decode", decode, 200)
        quantiles("Ctrl-C to silence, prefill", prefill, 500)
        quantiles("run | head -c 10, from its end", pipe, 200)


if __name__ == "__main__":
    main()
