"""Compares fathom with transformers at the true dimensions of DeepSeek-V3, one dense and one MoE layer.

    full_width.py FATHOM FOLDER [--small] [--backends cuda,cpu]

Random weights are made on the GPU (FP8 with 128x128 scales, as published), written to FOLDER as a checkpoint of 12 GB,
and loaded, dequantised to float32, into transformers' DeepseekV3ForCausalLM, 48 GB, on the same GPU. FATHOM generates
greedily from random ids; transformers evaluates the same ids at once. Of every generated position the log-probabilities
of the 20 most probable ids are compared. --small: a few hundred columns, for a try without a GPU.
"""

import json
import math
import os
import subprocess
import sys

import torch
from safetensors.torch import save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

SMALL = "--small" in sys.argv
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
    "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "vocab_size": 4096, "max_position_embeddings": 163840,
    "rope_theta": 10000, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]}}
if SMALL:
    CONFIG |= {"hidden_size": 384, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 256,
               "intermediate_size": 512, "moe_intermediate_size": 128, "n_routed_experts": 32}
GAIN = 0.5  # of every linear layer: the model does not amplify rounding


class Maker:
    """Tensors of the checkpoint as they are stored, and dequantised on the way into the model."""

    def __init__(self, folder):
        self.folder, self.shard, self.stored, self.index = folder, 0, {}, {}
        self.random = torch.Generator(device=DEVICE).manual_seed(7)

    def normal(self, *shape, std):
        return torch.randn(*shape, generator=self.random, device=DEVICE) * std

    def plain(self, name, values, dtype):
        values = values.to(dtype)
        self.stored[name] = values.cpu().contiguous()
        return values.float()

    def linear(self, name, rows, cols):
        w = self.normal(rows, cols, std=GAIN / math.sqrt(cols))
        padded = torch.zeros(-(-rows // 128) * 128, -(-cols // 128) * 128, device=DEVICE)
        padded[:rows, :cols] = w
        blocks = padded.view(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
        wide = scale[:, None, :, None]
        codes = (blocks / wide).to(torch.float8_e4m3fn)
        values = (codes.float() * wide).reshape(padded.shape)[:rows, :cols]
        self.stored[name + ".weight"] = codes.reshape(padded.shape)[:rows, :cols].cpu().contiguous()
        self.stored[name + ".weight_scale_inv"] = scale.cpu()
        return values

    def flush(self):
        self.shard += 1
        file = f"model-{self.shard:05d}.safetensors"
        save_file(self.stored, os.path.join(self.folder, file))
        self.index |= {name: file for name in self.stored}
        self.stored = {}


def make(folder):
    """Writes the checkpoint; returns transformers' model with the same values in float32."""
    c = CONFIG
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f)
    dropped = ("quantization_config", "architectures", "model_type", "torch_dtype")
    hf = DeepseekV3Config(**{k: v for k, v in c.items() if k not in dropped}, attn_implementation="eager")
    hf._experts_implementation = "eager"
    with torch.device(DEVICE):
        model = DeepseekV3ForCausalLM(hf).float().eval()
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = c["rms_norm_eps"]
    state, m, filled = model.state_dict(), Maker(folder), set()

    def put(name, values, at=None):
        target = state[name] if at is None else state[name][at]
        assert target.shape == values.shape, (name, target.shape, values.shape)
        target.copy_(values)
        filled.add(name)

    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    head = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    def norm(n):
        return 1 + m.normal(n, std=0.1)

    embedding = m.normal(c["vocab_size"], hidden, std=0.25)
    put("model.embed_tokens.weight", m.plain("model.embed_tokens.weight", embedding, torch.bfloat16))
    for i in range(2):
        p = f"model.layers.{i}."
        for name, n in (("input_layernorm", hidden), ("post_attention_layernorm", hidden),
                        ("self_attn.q_a_layernorm", c["q_lora_rank"]), ("self_attn.kv_a_layernorm", c["kv_lora_rank"])):
            put(f"{p}{name}.weight", m.plain(f"{p}{name}.weight", norm(n), torch.bfloat16))
        a = p + "self_attn."
        for name, rows, cols in (("q_a_proj", c["q_lora_rank"], hidden), ("q_b_proj", heads * head, c["q_lora_rank"]),
                                 ("kv_a_proj_with_mqa", c["kv_lora_rank"] + c["qk_rope_head_dim"], hidden),
                                 ("kv_b_proj", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"]),
                                 ("o_proj", hidden, heads * c["v_head_dim"])):
            put(f"{a}{name}.weight", m.linear(a + name, rows, cols))

        def mlp(prefix, width):
            for name, rows, cols in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
                put(f"{prefix}{name}.weight", m.linear(prefix + name, rows, cols))

        if i == 0:
            mlp(p + "mlp.", c["intermediate_size"])
            m.flush()
            continue
        mlp(p + "mlp.shared_experts.", c["moe_intermediate_size"])
        router = m.normal(c["n_routed_experts"], hidden, std=1 / math.sqrt(hidden))
        put(p + "mlp.gate.weight", m.plain(p + "mlp.gate.weight", router, torch.bfloat16))
        put(p + "mlp.gate.e_score_correction_bias",
            m.plain(p + "mlp.gate.e_score_correction_bias", m.normal(c["n_routed_experts"], std=0.05), torch.float32))
        inner = c["moe_intermediate_size"]
        for e in range(c["n_routed_experts"]):
            q = f"{p}mlp.experts.{e}."
            put(p + "mlp.experts.gate_up_proj", m.linear(q + "gate_proj", inner, hidden), (e, slice(0, inner)))
            put(p + "mlp.experts.gate_up_proj", m.linear(q + "up_proj", inner, hidden), (e, slice(inner, None)))
            put(p + "mlp.experts.down_proj", m.linear(q + "down_proj", hidden, inner), e)
            if e % 64 == 63:
                m.flush()
    put("model.norm.weight", m.plain("model.norm.weight", norm(hidden), torch.bfloat16))
    head = m.normal(c["vocab_size"], hidden, std=GAIN / math.sqrt(hidden))
    put("lm_head.weight", m.plain("lm_head.weight", head, torch.bfloat16))
    m.flush()
    assert filled == set(state), set(state) - filled
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": m.index}, f)
    return model


def compare(fathom, folder, model, backend, flags, prompt, count):
    command = [fathom, "run", "-m", folder, "--backend", backend, "--ids", ",".join(map(str, prompt)), "-n", str(count),
               "--temp", "0", "--ignore-eos", "--logprobs", "20", "--json", "--ctx", "256", "-q", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    label = f"{backend} {' '.join(flags)}"
    if done.returncode:
        return print(f"{label}: exit {done.returncode}: {done.stderr[-500:]}")
    choice = json.loads(done.stdout)["choices"][0]
    content = choice["logprobs"]["content"]
    ids = [t["id"] for t in content]
    with torch.no_grad():
        tokens = torch.tensor([prompt + ids[:-1]], device=DEVICE)
        want = model(tokens, use_cache=False).logits[0, len(prompt) - 1:].double().log_softmax(-1).cpu()
    square = norm = worst = 0.0
    same = 0
    for row, token in zip(want, content):
        same += int(row.argmax()) == token["id"]
        got = torch.tensor([t["logprob"] for t in token["top_logprobs"]], dtype=torch.float64)
        ref = row[torch.tensor([t["id"] for t in token["top_logprobs"]])]
        spread = row - row.mean()  # logits but for a constant
        square += float(((got - ref) ** 2).mean())
        norm += float((spread**2).mean())
        worst = max(worst, float((got - ref).abs().max()))
    print(f"{label}: {same} of {len(content)} greedy ids are transformers'; log-probabilities of the 20 best: "
          f"relative error {math.sqrt(square / norm):.2e} of the logits' spread, largest difference {worst:.2e}")


def main():
    torch.set_grad_enabled(False)
    fathom, folder = sys.argv[1:3]
    backends = sys.argv[sys.argv.index("--backends") + 1].split(",") if "--backends" in sys.argv else ["cuda", "cpu"]
    model = make(folder)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()  # FATHOM shares the GPU
    random = torch.Generator().manual_seed(3)
    prompt = torch.randint(2, CONFIG["vocab_size"], (24,), generator=random).tolist()
    for backend in backends:
        for flags in (["--cache", "f32", "--activations", "f32"], ["--activations", "f32"], ["--activations", "bf16"],
                      ["--activations", "fp8"], []):
            compare(fathom, folder, model, backend, flags, prompt, 12)


main()
