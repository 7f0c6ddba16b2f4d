"""Float64 NumPy forward pass of the DeepSeek-V2/V3 family, and the few file formats it needs.

This is the second reference of the golden values: it is written from the formulas alone, shares no code with
transformers and none with fathom, and uses the absorbed form of attention (keys and values are never expanded).
Everything is float64 unless a rounding is asked for: `cache="bf16"` rounds the row that enters the latent cache,
`activations="fp8"` rounds the inputs of q_a, q, q_b, kv_a, o, gate, up and down in groups of 128.
"""

import json
import math
import os
import struct

import numpy as np

# ---------------------------------------------------------------------------------------------------------------
# Number formats

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "I32": 4, "I64": 8}


def e4m3_table():
    """The 256 values of float8_e4m3fn: no infinities, NaN at 0x7F and 0xFF, largest 448, smallest 2^-9."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes >= 128, -magnitude, magnitude)


E4M3 = e4m3_table()


def round_e4m3(y):
    """Nearest e4m3 value, ties to even, saturating at 448."""
    exponent = np.maximum(np.frexp(np.where(y == 0, 1.0, y))[1] - 1, -6)
    step = 2.0 ** (exponent - 3)
    return np.clip(np.rint(y / step) * step, -448.0, 448.0)


def encode_e4m3(y):
    """Codes (uint8) of values that round_e4m3 returned; the sign of zero is kept."""
    order = np.argsort(E4M3[:127], kind="stable")
    code = order[np.searchsorted(E4M3[:127][order], np.abs(y))].astype(np.uint8)
    return code | (np.signbit(y).astype(np.uint8) << 7)


def round_bf16(x):
    """Nearest BF16 value, ties to even, of float32 or float64 input (BF16 has 8 significant bits)."""
    exponent = np.frexp(np.where(x == 0, 1.0, x))[1] - 1
    step = 2.0 ** (exponent - 7)
    return np.rint(x / step) * step


def bf16_bits(x):
    return (np.asarray(round_bf16(np.asarray(x, np.float64)), np.float32).view(np.uint32) >> 16).astype(np.uint16)


def act_quant(x, ue8m0, margins=None):
    """e4m3 with one scale per row and 128 columns, returned dequantised; the last group may be shorter."""
    out = np.empty_like(x)
    for begin in range(0, x.shape[-1], 128):
        group = x[..., begin : begin + 128]
        scale = np.maximum(np.abs(group).max(-1, keepdims=True), 1e-4) / 448.0
        if ue8m0:
            exponent = np.log2(scale)
            if margins is not None:
                margins.append(np.abs(exponent - np.rint(exponent)).min())
            scale = 2.0 ** np.ceil(exponent)
        scaled = group / scale
        out[..., begin : begin + 128] = round_e4m3(scaled) * scale
        if margins is not None:
            margins.append(tie_distance(scaled, 3, -6, 0.05))
    return out


def tie_distance(values, mantissa_bits, least_exponent, significant):
    """Smallest distance from a rounding tie, relative to the larger of the value and its row's rms.

    Values under `significant` times their row's rms are left out: they have the finest steps, hence most of the
    near-ties, and rounding one of them the other way changes its tensor by less than the tolerance.
    """
    exponent = np.maximum(np.frexp(np.where(values == 0, 1.0, values))[1] - 1, least_exponent)
    step = 2.0 ** (exponent - mantissa_bits)
    fraction = np.abs(values) / step
    distance = np.abs(fraction - np.floor(fraction) - 0.5) * step
    rms = np.sqrt(np.mean(values**2, -1, keepdims=True)) + 1e-30
    relative = distance / np.maximum(np.abs(values), rms)
    return float(np.where(np.abs(values) < significant * rms, np.inf, relative).min())


# ---------------------------------------------------------------------------------------------------------------
# safetensors

def write_safetensors(path, tensors, pad_to=8, odd=False, metadata=None):
    """tensors: name -> (dtype name, shape, bytes). Data lie in the order of the dict, without holes.

    The usual writer pads the header to a multiple of 8; odd=True makes its length odd instead, so that every tensor
    of the file lies at an address that is not even a multiple of two (the format allows it).
    """
    header = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        assert len(data) == DTYPE_BYTES[dtype] * math.prod(shape), name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    if odd:
        text += b" " * (1 - len(text) % 2)
    else:
        text += b" " * (-len(text) % pad_to)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, _, data in tensors.values():
            file.write(data)


def read_safetensors(path):
    """name -> (dtype name, shape, bytes)."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[base + entry["data_offsets"][0] : base + entry["data_offsets"][1]])
        for name, entry in header.items()
    }


def decode(dtype, shape, data):
    """Exact values of a stored tensor as float64 (integers stay integers)."""
    if dtype == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype == "F8_E4M3":
        values = E4M3[np.frombuffer(data, np.uint8)]
    elif dtype == "F8_E8M0":
        values = 2.0 ** (np.frombuffer(data, np.uint8).astype(np.float64) - 127)
    else:
        code = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8"}[dtype]
        values = np.frombuffer(data, code)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
    return values.reshape(shape)


def encode(dtype, values):
    """(dtype, shape, bytes) of values, rounded to the nearest."""
    values = np.asarray(values)
    if dtype == "BF16":
        data = bf16_bits(values).astype("<u2").tobytes()
    elif dtype == "F8_E4M3":
        data = encode_e4m3(round_e4m3(values)).tobytes()
    elif dtype == "F8_E8M0":
        data = (np.rint(np.log2(values)) + 127).astype(np.uint8).tobytes()
    else:
        code = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4"}[dtype]
        data = values.astype(code).tobytes()
    return dtype, values.shape, data


def load_checkpoint(directory):
    """config (dict) and all weights as float64, FP8 blocks already multiplied by their scales."""
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    index = os.path.join(directory, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index) as file:
            shards = sorted(set(json.load(file)["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    stored = {}
    for shard in shards:
        stored.update(read_safetensors(os.path.join(directory, shard)))
    weights = {}
    for name, entry in stored.items():
        if name.endswith("_scale_inv"):
            continue
        weights[name] = decode(*entry)
        if name + "_scale_inv" in stored:
            scale = decode(*stored[name + "_scale_inv"])
            rows, cols = weights[name].shape
            assert scale.shape == (-(-rows // 128), -(-cols // 128)), name
            weights[name] = weights[name] * scale[np.arange(rows)[:, None] // 128, np.arange(cols)[None] // 128]
    return config, weights


# ---------------------------------------------------------------------------------------------------------------
# Derived from the config

def rope_of(config):
    """(theta, scaling dict or None) from the old and the transformers-5 spelling."""
    parameters = config.get("rope_parameters")
    if parameters is not None:
        scaling = parameters if parameters.get("rope_type", "default") != "default" else None
        return parameters["rope_theta"], scaling
    return config["rope_theta"], config.get("rope_scaling")


def mscale_of(factor, k):
    return 1.0 if factor <= 1 else 0.1 * k * math.log(factor) + 1.0


def rope_frequencies(config):
    """f' per pair, and the multiplier of cos and sin."""
    theta, yarn = rope_of(config)
    d = config["qk_rope_head_dim"]
    i = np.arange(d // 2)
    f = theta ** (-2.0 * i / d)
    if yarn is None:
        return f, 1.0
    s, length = yarn["factor"], yarn["original_max_position_embeddings"]

    def corr(n):
        return d * math.log(length / (2 * math.pi * n)) / (2 * math.log(theta))

    low = max(math.floor(corr(yarn["beta_fast"])), 0)
    high = min(math.ceil(corr(yarn["beta_slow"])), d - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((i - low) / (high - low), 0, 1)
    return f * (1 - ramp) + f / s * ramp, mscale_of(s, yarn["mscale"]) / mscale_of(s, yarn["mscale_all_dim"])


def softmax_scale(config):
    _, yarn = rope_of(config)
    scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    if yarn is not None and yarn.get("mscale_all_dim"):
        scale *= mscale_of(yarn["factor"], yarn["mscale_all_dim"]) ** 2
    return scale


def is_moe(config, layer):
    return layer >= config["first_k_dense_replace"] and layer % config.get("moe_layer_freq", 1) == 0


# ---------------------------------------------------------------------------------------------------------------
# Forward pass

def silu(x):
    return x / (1 + np.exp(-x))


class Reference:
    """One checkpoint and one way of rounding. `stages` collects (stage, layer, value name) -> array.

    Margins tell how far the nearest discontinuity was: `tie_margin` for roundings (relative, see tie_distance),
    `route_gap` for expert choice (difference of scores between the last one taken and the first one left).
    """

    def __init__(self, config, weights, cache="f32", activations="f32"):
        self.config, self.weights = config, weights
        self.cache, self.activations = cache, activations
        quantization = config.get("quantization_config") or {}
        self.ue8m0 = quantization.get("scale_fmt") == "ue8m0"
        self.frequencies, self.rope_multiplier = rope_frequencies(config)
        self.scale = softmax_scale(config)
        self.stages, self.margins, self.route_gaps = {}, [], []

    def put(self, stage, layer, value, array):
        self.stages[(stage, layer, value)] = array

    def norm(self, x, name):
        mean_square = np.mean(x * x, -1, keepdims=True)
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * self.weights[name]

    def linear_input(self, x):
        return act_quant(x, self.ue8m0, self.margins) if self.activations == "fp8" else x

    def linear(self, x, name):
        return self.linear_input(x) @ self.weights[name].T

    def rotate(self, x, positions):
        """x (T, ..., rope), adjacent pairs rotate together."""
        angle = positions[:, None] * self.frequencies
        angle = angle.reshape((len(positions),) + (1,) * (x.ndim - 2) + (-1,))
        cos, sin = np.cos(angle) * self.rope_multiplier, np.sin(angle) * self.rope_multiplier
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def attention(self, normed, layer, positions):
        c = self.config
        prefix = f"model.layers.{layer}.self_attn."
        heads, nope, v_dim, latent = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
        rows = len(positions)
        if c["q_lora_rank"] is not None:
            q_latent = self.norm(self.linear(normed, prefix + "q_a_proj.weight"), prefix + "q_a_layernorm.weight")
            self.put("Latents", layer, "q_latent", q_latent)
            q = self.linear(q_latent, prefix + "q_b_proj.weight")
        else:
            q = self.linear(normed, prefix + "q_proj.weight")
        kv = self.linear(normed, prefix + "kv_a_proj_with_mqa.weight")
        kv_row = np.concatenate([self.norm(kv[:, :latent], prefix + "kv_a_layernorm.weight"),
                                 self.rotate(kv[:, latent:], positions)], -1)
        self.put("Latents", layer, "kv_row", kv_row)
        if self.cache == "bf16":
            self.margins.append(tie_distance(kv_row, 7, -126, 0.25))
            kv_row = round_bf16(kv_row)
            self.put("Latents", layer, "kv_stored", kv_row)
        q = q.reshape(rows, heads, -1)
        q = np.concatenate([q[..., :nope], self.rotate(q[..., nope:], positions)], -1)
        self.put("Query", layer, "q", q.reshape(rows, -1))

        kv_b = self.weights[prefix + "kv_b_proj.weight"].reshape(heads, nope + v_dim, latent)
        absorbed = np.einsum("thn,hnc->thc", q[..., :nope], kv_b[:, :nope])
        score = (np.einsum("thc,sc->hts", absorbed, kv_row[:, :latent])
                 + np.einsum("thr,sr->hts", q[..., nope:], kv_row[:, latent:])) * self.scale
        score = np.where(np.tril(np.ones((rows, rows), bool)), score, -np.inf)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        self.last_probabilities = p
        attended = np.einsum("hts,sc->thc", p, kv_row[:, :latent])
        attn = np.einsum("thc,hvc->thv", attended, kv_b[:, nope:]).reshape(rows, -1)
        self.put("Attend", layer, "attn", attn)
        return self.linear(attn, prefix + "o_proj.weight")

    def mlp(self, x, prefix):
        x = self.linear_input(x)
        hidden = silu(x @ self.weights[prefix + "gate_proj.weight"].T) * (x @ self.weights[prefix + "up_proj.weight"].T)
        return self.linear(hidden, prefix + "down_proj.weight")

    def route(self, normed, prefix):
        """expert_ids (T, k) ascending and expert_weights (T, k). Ties go to the lower index."""
        c = self.config
        k, groups = c["num_experts_per_tok"], c.get("n_group") or 1
        logits = normed @ self.weights[prefix + "gate.weight"].T
        if c["scoring_func"] == "sigmoid":
            s = 1 / (1 + np.exp(-logits))
        else:
            s = np.exp(logits - logits.max(-1, keepdims=True))
            s /= s.sum(-1, keepdims=True)
        choice = s
        if c["topk_method"] == "noaux_tc":
            choice = s + self.weights[prefix + "gate.e_score_correction_bias"]
        gaps = [np.full(len(s), np.inf)]
        if c["topk_method"] != "greedy" and groups > 1:
            grouped = choice.reshape(len(s), groups, -1)
            if c["topk_method"] == "noaux_tc":
                group_score = np.sort(grouped, -1)[..., -2:].sum(-1)
            else:
                group_score = grouped.max(-1)
            order = np.argsort(-group_score, -1, kind="stable")
            ranked = np.take_along_axis(group_score, order, -1)
            if c["topk_group"] < groups:
                gaps.append(ranked[:, c["topk_group"] - 1] - ranked[:, c["topk_group"]])
            keep = np.zeros(group_score.shape, bool)
            np.put_along_axis(keep, order[:, : c["topk_group"]], True, -1)
            choice = np.where(keep[..., None], grouped, -np.inf).reshape(len(s), -1)
        order = np.argsort(-choice, -1, kind="stable")
        ranked = np.take_along_axis(choice, order, -1)
        if k < choice.shape[-1]:
            gaps.append(ranked[:, k - 1] - ranked[:, k])
        ids = np.sort(order[:, :k], -1)
        weights = np.take_along_axis(s, ids, -1)
        if c["norm_topk_prob"]:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        return ids, weights * c["routed_scaling_factor"], np.min(gaps, 0)

    def ffn(self, normed, layer):
        prefix = f"model.layers.{layer}.mlp."
        if not is_moe(self.config, layer):
            dense = self.mlp(normed, prefix)
            self.put("Dense", layer, "delta", dense)
            return dense
        ids, expert_weights, gap = self.route(normed, prefix)
        self.route_gaps.append(gap)
        self.put("Route", layer, "expert_ids", ids)
        self.put("Route", layer, "expert_weights", expert_weights)
        self.put("Route", layer, "gap", gap)
        shared = self.mlp(normed, prefix + "shared_experts.")
        expert_out = np.zeros(ids.shape + (normed.shape[-1],))
        for expert in np.unique(ids):
            token, slot = np.nonzero(ids == expert)
            expert_out[token, slot] = self.mlp(normed[token], f"{prefix}experts.{expert}.")
        self.put("Shared", layer, "shared", shared)
        self.put("Routed", layer, "expert_out", expert_out)
        delta = np.einsum("tk,tkh->th", expert_weights, expert_out) + shared
        self.put("Combine", layer, "delta", delta)
        return delta

    def layer(self, x, layer, positions):
        normed = self.norm(x, f"model.layers.{layer}.input_layernorm.weight")
        self.put("AttnNorm", layer, "normed", normed)
        delta = self.attention(normed, layer, positions)
        self.put("AttnOut", layer, "delta", delta)
        x = x + delta
        self.put("AttnReduce", layer, "x", x)
        normed = self.norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        self.put("FfnNorm", layer, "normed", normed)
        x = x + self.ffn(normed, layer)
        self.put("FfnReduce", layer, "x", x)
        return x

    def forward(self, ids):
        """Logits of every row of the main stack."""
        ids = np.asarray(ids)
        positions = np.arange(len(ids), dtype=np.float64)
        x = self.weights["model.embed_tokens.weight"][ids]
        self.put("Embed", -1, "x", x)
        for layer in range(self.config["num_hidden_layers"]):
            x = self.layer(x, layer, positions)
        normed = self.norm(x, "model.norm.weight")
        self.put("FinalNorm", -1, "normed", normed)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        logits = normed @ head.T
        self.put("Logits", -1, "logits", logits)
        return logits

    def forward_mtp(self, next_ids, hidden_in):
        """MTP stack: row i holds token i+1 at position i; hidden_in is the main stack's row after FinalNorm."""
        layer = self.config["num_hidden_layers"]
        prefix = f"model.layers.{layer}."
        positions = np.arange(len(next_ids), dtype=np.float64)
        embedded = self.weights[prefix + "embed_tokens.weight"][np.asarray(next_ids)]
        joined = np.concatenate([self.norm(embedded, prefix + "enorm.weight"),
                                 self.norm(hidden_in, prefix + "hnorm.weight")], -1)
        x = joined @ self.weights[prefix + "eh_proj.weight"].T
        self.put("MtpInput", -1, "x", x)
        x = self.layer(x, layer, positions)
        normed = self.norm(x, prefix + "shared_head.norm.weight")
        self.put("FinalNorm", -1, "normed", normed)
        logits = normed @ self.weights[prefix + "shared_head.head.weight"].T
        self.put("Logits", -1, "logits", logits)
        return logits

    @property
    def tie_margin(self):
        return min(self.margins, default=math.inf)

    @property
    def route_gap(self):
        return float(min((gap.min() for gap in self.route_gaps), default=math.inf))


def top2_gap(logits):
    ranked = np.sort(logits, -1)
    return ranked[:, -1] - ranked[:, -2]
