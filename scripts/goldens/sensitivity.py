"""Shows that the goldens can fail: python3 scripts/goldens/sensitivity.py

Makes the family's classic mistakes one by one in the float64 forward pass and prints, per checkpoint, the first
stage that leaves the tolerance and the error of the logits. A mistake that no checkpoint notices ends the script
with status 1, unless it is listed as invisible.
"""

import os
import sys

import numpy as np

import checkpoints
import reference as ref

TOLERANCE = 1e-4
HERE = os.path.dirname(os.path.abspath(__file__))


class NoMscale(ref.Reference):
    """mscale squared left out of the softmax scale."""

    def __init__(self, config, weights, **numerics):
        super().__init__(config, weights, **numerics)
        self.scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5


class NoYarn(ref.Reference):
    """Plain frequencies although the config has rope_scaling."""

    def __init__(self, config, weights, **numerics):
        super().__init__(config, weights, **numerics)
        theta, _ = ref.rope_of(config)
        d = config["qk_rope_head_dim"]
        self.frequencies = theta ** (-2.0 * np.arange(d // 2) / d)


class HalfSplit(ref.Reference):
    """Rotates dimension i with i + d/2 instead of adjacent pairs."""

    def rotate(self, x, positions):
        half = x.shape[-1] // 2
        mixed = np.stack([x[..., :half], x[..., half:]], -1).reshape(x.shape)
        out = super().rotate(mixed, positions)
        return np.concatenate([out[..., 0::2], out[..., 1::2]], -1)


class Router(ref.Reference):
    """A router written out again, for the mistakes below."""

    group_by_max = mask_with_zero = biased_weights = ignore_groups = flip_norm = bf16_bias = False

    def route(self, normed, prefix):
        c, k, groups = self.config, self.config["num_experts_per_tok"], self.config.get("n_group") or 1
        logits = normed @ self.weights[prefix + "gate.weight"].T
        if c["scoring_func"] == "sigmoid":
            s = 1 / (1 + np.exp(-logits))
        else:
            s = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        bias = self.weights.get(prefix + "gate.e_score_correction_bias", 0.0)
        choice = s + (ref.round_bf16(np.asarray(bias, np.float64)) if self.bf16_bias else bias)
        scores = choice if self.biased_weights else s
        if groups > 1 and not self.ignore_groups:
            grouped = choice.reshape(len(s), groups, -1)
            by_sum = c["topk_method"] == "noaux_tc" and not self.group_by_max
            group_score = np.sort(grouped, -1)[..., -2:].sum(-1) if by_sum else grouped.max(-1)
            keep = np.argsort(np.argsort(-group_score, -1, kind="stable"), -1) < c["topk_group"]
            choice = np.where(keep[..., None], grouped, 0.0 if self.mask_with_zero else -np.inf).reshape(len(s), -1)
        ids = np.sort(np.argsort(-choice, -1, kind="stable")[:, :k], -1)
        weights = np.take_along_axis(scores, ids, -1)
        if c["norm_topk_prob"] != self.flip_norm:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        return ids, weights * c["routed_scaling_factor"], np.zeros(len(s))


def router(flag):
    return type(flag, (Router,), {flag: True})


class UnrotatedKey(ref.Reference):
    """Puts the key into the cache before it is rotated."""

    def rotate(self, x, positions):
        return x if x.ndim == 2 else super().rotate(x, positions)


class NormedKey(ref.Reference):
    """Scales the latent's rope part by the latent's rms too."""

    def rotate(self, x, positions):
        return super().rotate(x / np.sqrt((x * x).mean(-1, keepdims=True)) if x.ndim == 2 else x, positions)


class NoUe8m0(ref.Reference):
    """Ignores scale_fmt for activations."""

    def __init__(self, config, weights, **numerics):
        super().__init__(config, weights, **numerics)
        self.ue8m0 = False


class DefaultEps(ref.Reference):
    """The latent norms with 1e-6, as transformers builds them."""

    def norm(self, x, name):
        if "_a_layernorm" not in name:
            return super().norm(x, name)
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * self.weights[name]


class SharedScaled(ref.Reference):
    """Multiplies the shared experts by routed_scaling_factor."""

    def mlp(self, x, prefix):
        factor = self.config["routed_scaling_factor"] if "shared" in prefix else 1.0
        return super().mlp(x, prefix) * factor


def load_with_even_blocks(directory):
    """The block height taken as rows / scale rows (192 / 2 = 96 for kv_a)."""
    config, weights = ref.load_checkpoint(directory)
    stored = {}
    for file in sorted(os.listdir(directory)):
        if file.startswith("model") and file.endswith(".safetensors"):
            stored.update(ref.read_safetensors(os.path.join(directory, file)))
    for name in stored:
        if name + "_scale_inv" in stored:
            values, scale = ref.decode(*stored[name]), ref.decode(*stored[name + "_scale_inv"])
            rows, cols = (np.arange(n) * blocks // n for n, blocks in zip(values.shape, scale.shape))
            weights[name] = values * scale[rows[:, None], cols[None]]
    return config, weights


CASES = {"bf16": {"cache": "bf16"}, "fp8": {"activations": "fp8"}}
MISTAKES = {
    "none": (ref.Reference, ref.load_checkpoint, True),
    "no mscale in softmax": (NoMscale, ref.load_checkpoint, False),
    "no YaRN frequencies": (NoYarn, ref.load_checkpoint, False),
    "half-split rotation": (HalfSplit, ref.load_checkpoint, False),
    "key cached unrotated": (UnrotatedKey, ref.load_checkpoint, False),
    "key normed": (NormedKey, ref.load_checkpoint, False),
    "group score by max": (router("group_by_max"), ref.load_checkpoint, False),
    "groups ignored": (router("ignore_groups"), ref.load_checkpoint, False),
    "masked with 0": (router("mask_with_zero"), ref.load_checkpoint, False),
    "biased weights": (router("biased_weights"), ref.load_checkpoint, False),
    "norm_topk_prob wrong": (router("flip_norm"), ref.load_checkpoint, False),
    "shared experts scaled": (SharedScaled, ref.load_checkpoint, False),
    "ue8m0 ignored": (NoUe8m0, ref.load_checkpoint, False),
    "block size from shapes": (ref.Reference, load_with_even_blocks, False),
    "correction bias in BF16": (router("bf16_bias"), ref.load_checkpoint, True),
    "latent norm eps 1e-6": (DefaultEps, ref.load_checkpoint, True),
}


def first_error(directory, kind, load):
    """(case, stage, layer, relative error or None for ids) of the first stage outside the tolerance, or None."""
    config, weights = load(directory)
    goldens = {name: ref.decode(*entry)
               for name, entry in ref.read_safetensors(os.path.join(directory, "goldens.safetensors")).items()}
    for case in ("f32", "bf16", "fp8"):
        if f"{case}/input_ids" not in goldens:
            continue
        run = kind(config, weights, **CASES.get(case, {}))
        run.forward(goldens[f"{case}/input_ids"])
        for (stage, layer, value), array in run.stages.items():
            golden = goldens.get(f"{case}/{stage}/{layer}/{value}")
            if golden is None or value == "gap":
                continue
            if value == "expert_ids":
                if (golden != array).any():
                    return f"{case} {stage} {layer}: ids"
                continue
            error = np.linalg.norm(array - golden) / np.linalg.norm(golden)
            if error > TOLERANCE:
                return f"{case} {stage} {layer}: {error:.1e}"
    return None


def main():
    unnoticed = []
    for mistake, (kind, load, invisible) in MISTAKES.items():
        found = {name: first_error(os.path.join(HERE, "..", "..", "tests", "goldens", name), kind, load)
                 for name in checkpoints.CONFIGS}
        print(f"{mistake}: " + ("; ".join(f"{name} {where}" for name, where in found.items() if where) or "not noticed"))
        if not invisible and not any(found.values()):
            unnoticed.append(mistake)
        if mistake == "none" and any(found.values()):
            sys.exit("the goldens do not agree with the reference itself")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
