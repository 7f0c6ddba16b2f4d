"""Writes the tiny checkpoints and their golden values: python3 scripts/goldens/make_goldens.py [NAME ...]

Everything is deterministic. README.md beside this file says what the tensors of goldens.safetensors are.
Every case is computed twice, by transformers in float32 and by reference.py in float64; the script fails if any
stage of the two differs by more than AGREEMENT, or if a router chooses differently.
"""

import argparse
import os
import zlib

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # fixed order of sums
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import checkpoints
import hf
import reference as ref

AGREEMENT = 1e-5    # ||transformers - float64|| / ||float64|| per stage tensor
TIE_MARGIN = 1e-6   # least relative distance of any value from a rounding tie, in the cases that round
ROUTE_GAP = 1e-3    # least difference of scores between chosen and not chosen, prompts of the short cases
TOP2_GAP = 5e-3     # least difference of the two largest logits, prompts of the short cases
LONG_ROUTE_GAP = 2e-5  # the same for the long prompts, of which only the last rows are kept
ROWS, FP8_ROWS = 12, 8
LONG_ROWS, LONG_KEPT = 270, 4
LEAN = {("Latents", "kv_row"), ("Latents", "kv_stored"), ("Attend", "attn"), ("Route", "expert_ids"), ("Route", "expert_weights"),
        ("AttnReduce", "x"), ("FfnReduce", "x"), ("Logits", "logits")}

FP8 = ("v3", "v3-e8m0", "kimi")
LONG = ("v3", "v2-lite", "kimi")


def difference(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def draw_prompt(name, case, attempt, rows, vocab):
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(case.encode()), attempt])
    return rng.integers(2, vocab - 10, rows)  # no bos, no eos


def same_rounding(ours, theirs):
    """No value of a cached row fell on the other side of a tie in float32."""
    return all((theirs.stages[key].astype(np.float32) == value.astype(np.float32)).all()
               for key, value in ours.stages.items() if key[2] == "kv_stored")


def find_prompt(name, case, config, weights, theirs, rows, **numerics):
    """The first prompt that keeps away from the discontinuities: see the constants above."""
    for attempt in range(5000):
        ids = draw_prompt(name, case, attempt, rows, config["vocab_size"])
        run = ref.Reference(config, weights, **numerics)
        logits = run.forward(ids)
        used = [len(np.unique(v)) for k, v in run.stages.items() if k[2] == "expert_ids"]
        if case == "long":
            if run.route_gap >= LONG_ROUTE_GAP:
                theirs.forward(ids)
                return ids, run, attempt
        elif (run.route_gap >= ROUTE_GAP and run.tie_margin >= TIE_MARGIN and ref.top2_gap(logits).min() >= TOP2_GAP
              and min(used) >= 0.6 * config["n_routed_experts"]):
            theirs.forward(ids)
            if same_rounding(run, theirs):
                return ids, run, attempt
    raise SystemExit(f"{name}/{case}: no prompt is far enough from rounding ties and router ties")


def compare(name, case, ours, theirs, report):
    """Both references, stage by stage. Raises on disagreement."""
    worst = {}
    for key, value in ours.items():
        if key[2] == "gap":
            continue
        other = theirs[key]
        assert other.shape == value.shape, (name, case, key, other.shape, value.shape)
        if value.dtype.kind in "iu":
            assert (other == value).all(), (name, case, key)
            continue
        error = difference(other, value)
        assert error <= AGREEMENT, (name, case, key, error)
        column = "kv_stored" if key[2] == "kv_stored" else key[0]
        worst[column] = max(worst.get(column, 0.0), error)
    report.setdefault(name, {})[case] = worst


def add_case(goldens, case, ids, stages, keep=None, rows=slice(None)):
    goldens[f"{case}/input_ids"] = np.asarray(ids, np.int32)
    for (stage, layer, value), array in stages.items():
        if keep is not None and (stage, value) not in keep:
            continue
        kind = np.int32 if array.dtype.kind in "iu" else np.float32
        goldens[f"{case}/{stage}/{layer}/{value}"] = np.ascontiguousarray(array[rows], kind)
        if value == "logits":
            goldens[f"{case}/Logits/-1/top2_gap"] = ref.top2_gap(array[rows]).astype(np.float32)
            goldens[f"{case}/Logits/-1/argmax"] = array[rows].argmax(-1).astype(np.int32)


def with_gaps(stages, float64_stages):
    """The router's gaps are only known to the float64 reference."""
    return stages | {key: value for key, value in float64_stages.items() if key[2] == "gap"}


def make(directory, name, report, notes):
    checkpoints.write_checkpoint(directory, name)
    config, weights = ref.load_checkpoint(directory)
    goldens = {}

    def run_case(case, rows, **numerics):
        theirs = hf.Transformers(config, weights, **numerics)
        ids, ours, attempt = find_prompt(name, case, config, weights, theirs, rows, **numerics)
        compare(name, case, ours.stages, theirs.stages, report)
        gaps = ref.top2_gap(ours.stages[("Logits", -1, "logits")])
        notes.append((name, case, attempt, len(ids), ours.tie_margin, ours.route_gap, float(gaps.min())))
        return ids, ours, theirs

    ids, ours, theirs = run_case("f32", ROWS)
    add_case(goldens, "f32", ids, with_gaps(theirs.stages, ours.stages))
    if name == "v3":
        hidden = theirs.stages[("FinalNorm", -1, "normed")]
        next_ids = np.append(ids[1:], theirs.stages[("Logits", -1, "logits")][-1].argmax())
        mtp = ref.Reference(config, weights)
        mtp.forward_mtp(next_ids, hidden)
        theirs.forward_mtp(next_ids, hidden)
        compare(name, "mtp", mtp.stages, theirs.stages, report)
        gaps = ref.top2_gap(mtp.stages[("Logits", -1, "logits")])
        notes.append((name, "mtp", 0, len(next_ids), mtp.tie_margin, mtp.route_gap, float(gaps.min())))
        add_case(goldens, "mtp", next_ids, with_gaps(theirs.stages, mtp.stages))
        goldens["mtp/hidden_in"] = hidden.astype(np.float32)
    ids, ours, _ = run_case("bf16", ROWS, cache="bf16")
    add_case(goldens, "bf16", ids, ours.stages, LEAN)
    if name in FP8:
        ids, ours, _ = run_case("fp8", FP8_ROWS, activations="fp8")
        add_case(goldens, "fp8", ids, ours.stages, LEAN)
    if name in LONG:
        ids, _, theirs = run_case("long", LONG_ROWS)
        add_case(goldens, "long", ids, theirs.stages, LEAN, slice(-LONG_KEPT, None))
    ref.write_safetensors(os.path.join(directory, "goldens.safetensors"),
                          {key: ref.encode("I32" if value.dtype.kind == "i" else "F32", value)
                           for key, value in goldens.items()})


def write_report(path, report, notes):
    stages = []
    for cases in report.values():
        for worst in cases.values():
            stages += [stage for stage in worst if stage not in stages]
    lines = ["# Agreement of the two references", "",
             "Written by make_goldens.py. Largest ||transformers float32 - NumPy float64|| / ||float64|| over the layers, in",
             "units of 1e-7. Expert ids are equal everywhere.", "",
             "| checkpoint | case | " + " | ".join(stages) + " |", "|---" * (len(stages) + 2) + "|"]
    for name, cases in report.items():
        for case, worst in cases.items():
            cells = [f"{worst[s] * 1e7:.1f}" if s in worst else "" for s in stages]
            lines.append(f"| {name} | {case} | " + " | ".join(cells) + " |")
    lines += ["", "# Distance from discontinuities", "",
              "Which draw of the prompt was taken, and over all its rows and layers: the least relative distance of a rounded",
              "value from a tie, the least difference of router scores between chosen and not chosen experts or groups, the",
              "least difference between the two largest logits. The goldens hold the last two for every row.", "",
              "| checkpoint | case | draw | rows | rounding tie | router | top two logits |", "|---|---|---|---|---|---|---|"]
    for name, case, attempt, rows, tie, route, gap in notes:
        lines.append(f"| {name} | {case} | {attempt} | {rows} | {tie:.1e} | {route:.1e} | {gap:.1e} |")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description="write tiny checkpoints and golden values")
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("names", nargs="*", help="checkpoints to write (default: all, and the report)")
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "tests", "goldens"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    report, notes = {}, []
    for name in options.names or checkpoints.CONFIGS:
        make(os.path.join(options.out, name), name, report, notes)
        print("wrote", name, flush=True)
    if not options.names:
        write_report(os.path.join(here, "agreement.md"), report, notes)


if __name__ == "__main__":
    main()
