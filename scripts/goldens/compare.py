"""Judges a fathom binary from outside: python3 scripts/goldens/compare.py FATHOM CHECKPOINT_DIR [options]

For some random prompts it runs

    FATHOM run -m DIR --ids @FILE --greedy --ignore-eos -n N --logprobs 5 --json --cache f32 --activations f32

and feeds prompt and answer together to transformers in float32 (teacher forcing). At every generated position the
chosen id has to be transformers' own and every reported log-probability has to agree within the tolerance. Where
transformers' two best logits are closer than ten times the tolerance another id is no error; those positions are
listed. Exit status: 0 agreement, 1 disagreement, 2 fathom failed or wrote something else than its specification.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

import hf
import reference as ref


def ask(options, prompt):
    """choices[0] of the JSON answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
        file.write(",".join(map(str, prompt)))
        file.flush()
        command = [options.fathom, "run", "-m", options.model, "--ids", "@" + file.name, "--greedy", "--ignore-eos",
                   "-n", str(options.tokens), "--logprobs", "5", "--json", "--cache", "f32", "--activations", "f32",
                   *options.extra]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(fail(f"{' '.join(command)}\nexit status {done.returncode}\n{done.stderr}"))
    answer = json.loads(done.stdout)
    if answer.get("schema") != "fathom.run/1":
        sys.exit(fail(f"expected schema fathom.run/1, found {answer.get('schema')!r}"))
    choice = answer["choices"][0]
    if len(choice["ids"]) != options.tokens or len(choice["logprobs"]["content"]) != options.tokens:
        sys.exit(fail(f"expected {options.tokens} ids and log-probabilities, found {len(choice['ids'])} and "
                      f"{len(choice['logprobs']['content'])}"))
    return choice


def fail(text):
    print("compare.py:", text, file=sys.stderr)
    return 2


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def judge(options, prompt, choice, model):
    """(errors, near ties, largest difference of a log-probability) of one prompt."""
    ids = choice["ids"]
    logits = model.forward(prompt + ids[:-1])[len(prompt) - 1 :, : options.vocab]
    expected, gaps = log_softmax(logits), ref.top2_gap(logits)
    errors, ties, worst = [], [], 0.0
    for step, (token, entry) in enumerate(zip(ids, choice["logprobs"]["content"])):
        best = int(logits[step].argmax())
        near_tie = gaps[step] < 10 * options.tolerance
        if near_tie:
            ties.append(f"step {step}: gap {gaps[step]:.2e}, transformers {best}, fathom {token}")
        elif token != best:
            errors.append(f"step {step}: id {token}, transformers {best} (gap {gaps[step]:.2e})")
        if entry["id"] != token:
            errors.append(f"step {step}: id {token} but logprobs.content says {entry['id']}")
        tops = entry["top_logprobs"]
        if len(tops) != 5 or any(a["logprob"] < b["logprob"] for a, b in zip(tops, tops[1:])):
            errors.append(f"step {step}: top_logprobs are not 5 in descending order")
        for top in {top["id"]: top for top in [entry, *tops]}.values():
            difference = abs(top["logprob"] - expected[step, top["id"]])
            worst = max(worst, difference)
            if not difference <= options.tolerance:
                errors.append(f"step {step}: log-probability of {top['id']} is {top['logprob']:.6f}, "
                              f"transformers {expected[step, top['id']]:.6f}")
        if tops and tops[-1]["logprob"] < np.sort(expected[step])[-len(tops)] - options.tolerance:
            errors.append(f"step {step}: top_logprobs leaves out a better id")
    return errors, ties, worst


def main():
    parser = argparse.ArgumentParser(description="compare fathom with transformers float32, teacher-forced")
    parser.add_argument("fathom")
    parser.add_argument("model", help="checkpoint directory")
    parser.add_argument("-n", "--tokens", type=int, default=32)
    parser.add_argument("--lengths", default="1,12,270", help="prompt lengths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of a log-probability")
    parser.add_argument("--vocab", type=int, help="ids from here on are padding rows (default: none are)")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further arguments for fathom")
    options = parser.parse_args()
    options.fathom = os.path.abspath(options.fathom)

    config, weights = ref.load_checkpoint(options.model)
    model = hf.Transformers(config, weights)
    rng = np.random.default_rng(options.seed)
    failed = False
    for length in map(int, options.lengths.split(",")):
        prompt = rng.integers(2, (options.vocab or config["vocab_size"]) - 10, length).tolist()
        errors, ties, worst = judge(options, prompt, ask(options, prompt), model)
        print(f"prompt of {length}: {options.tokens} steps, largest difference {worst:.2e}, "
              f"{len(errors)} errors, {len(ties)} near ties")
        for line in errors:
            print("  ERROR", line)
        for line in ties:
            print("  near tie", line)
        failed |= bool(errors)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
