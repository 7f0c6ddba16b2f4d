"""The tiny random checkpoints: their configs, tensors and files.

Every weight comes from a generator seeded by (checkpoint, tensor name), so a tensor does not change when another
is added. Gain of every linear layer, router and head is at most 0.5 (standard deviation of a weight at most
0.5 / sqrt(columns)), so that the model does not amplify rounding; the standard deviation of embedding rows is 0.25,
so that what the layers add is of the same order as what they are added to.
"""

import json
import os
import zlib

import numpy as np

import reference as ref

YARN_V3 = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
           "original_max_position_embeddings": 4096, "type": "yarn"}
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

COMMON = {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
          "max_position_embeddings": 163840, "moe_layer_freq": 1, "rms_norm_eps": 1e-06,
          "tie_word_embeddings": False, "use_cache": True, "vocab_size": 160}
V3 = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "scoring_func": "sigmoid",
      "topk_method": "noaux_tc", "norm_topk_prob": True, "aux_loss_alpha": 0.001, "seq_aux": True,
      "n_shared_experts": 1, "ep_size": 1, "bos_token_id": 0, "eos_token_id": 1}
V2 = {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "scoring_func": "softmax",
      "norm_topk_prob": False, "aux_loss_alpha": 0.001, "seq_aux": True, "n_shared_experts": 2,
      "pretraining_tp": 1, "bos_token_id": 150, "eos_token_id": 151, "rope_theta": 10000,
      "torch_dtype": "bfloat16", "transformers_version": "4.39.3"}

CONFIGS = {
    "v3": COMMON | V3 | {
        "hidden_size": 256, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 320, "moe_intermediate_size": 128,
        "n_routed_experts": 12, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4,
        "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1, "rope_theta": 10000, "rope_scaling": YARN_V3,
        "quantization_config": FP8, "torch_dtype": "bfloat16", "transformers_version": "4.33.1"},
    "v3-e8m0": COMMON | V3 | {
        "hidden_size": 128, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 64, "intermediate_size": 320, "moe_intermediate_size": 192,
        "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "num_experts_per_tok": 3,
        "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1, "rope_theta": 10000, "rope_scaling": YARN_V3,
        "quantization_config": FP8 | {"scale_fmt": "ue8m0"}, "torch_dtype": "bfloat16",
        "transformers_version": "4.44.2"},
    "v2-lite": COMMON | V2 | {
        "hidden_size": 64, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "q_lora_rank": None, "kv_lora_rank": 128, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 176, "moe_intermediate_size": 64,
        "n_routed_experts": 8, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "num_experts_per_tok": 3,
        "routed_scaling_factor": 1.0, "rope_scaling": YARN_V3 | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    "v2": COMMON | V2 | {
        "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16, "v_head_dim": 24, "intermediate_size": 96, "moe_intermediate_size": 32,
        "n_routed_experts": 16, "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy",
        "num_experts_per_tok": 4, "routed_scaling_factor": 16.0, "tie_word_embeddings": True,
        "rope_scaling": YARN_V3 | {"factor": 8, "original_max_position_embeddings": 256},
        "max_position_embeddings": 2048},
    "moonlight": COMMON | V3 | {
        "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "q_lora_rank": None, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 64, "head_dim": 32, "intermediate_size": 88,
        "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 2, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 3, "routed_scaling_factor": 2.446, "rms_norm_eps": 1e-05,
        "max_position_embeddings": 8192, "bos_token_id": 154, "eos_token_id": 155, "dtype": "bfloat16",
        "rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}, "transformers_version": "5.0.0"},
    "kimi": COMMON | V3 | {
        "model_type": "kimi_k2", "hidden_size": 128, "num_hidden_layers": 2, "first_k_dense_replace": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 128, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 192,
        "moe_intermediate_size": 128, "n_routed_experts": 6, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "routed_scaling_factor": 2.827, "num_nextn_predict_layers": 0,
        "max_position_embeddings": 131072, "bos_token_id": 154, "eos_token_id": 155, "rope_theta": 50000.0,
        "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096, "type": "yarn"},
        "quantization_config": FP8, "torch_dtype": "bfloat16", "transformers_version": "4.48.3"},
}

GENERATION = {
    "v3": {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.6, "top_p": 0.95},
    "v3-e8m0": {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 1.0, "top_p": 0.95},
    "v2-lite": {"bos_token_id": 150, "eos_token_id": 151, "do_sample": True, "temperature": 0.3, "top_p": 0.95},
    "v2": {"bos_token_id": 150, "eos_token_id": 151, "do_sample": True, "temperature": 0.3, "top_p": 0.95},
    "moonlight": {"eos_token_id": 156, "max_length": 8192},
    "kimi": {"eos_token_id": [155, 156], "max_length": 131072},
}

SHARDS = {"v3": 2, "v3-e8m0": 1, "v2-lite": 0, "v2": 0, "moonlight": 2, "kimi": 3}  # 0: one file without an index


def tensor_list(name, config):
    """(tensor name, shape, kind) in the order of the published files. kind: linear, norm, table, router, bias, buffer."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, v_dim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    latent, q_lora, vocab = config["kv_lora_rank"], config["q_lora_rank"], config["vocab_size"]

    def mlp(prefix, width):
        return [(prefix + "gate_proj.weight", (width, hidden), "linear"),
                (prefix + "up_proj.weight", (width, hidden), "linear"),
                (prefix + "down_proj.weight", (hidden, width), "linear")]

    def layer(number):
        prefix = f"model.layers.{number}."
        attn, ffn = prefix + "self_attn.", prefix + "mlp."
        out = [(prefix + "input_layernorm.weight", (hidden,), "norm")]
        if q_lora is None:
            out += [(attn + "q_proj.weight", (heads * (nope + rope), hidden), "linear")]
        else:
            out += [(attn + "q_a_proj.weight", (q_lora, hidden), "linear"),
                    (attn + "q_a_layernorm.weight", (q_lora,), "norm"),
                    (attn + "q_b_proj.weight", (heads * (nope + rope), q_lora), "linear")]
        out += [(attn + "kv_a_proj_with_mqa.weight", (latent + rope, hidden), "linear"),
                (attn + "kv_a_layernorm.weight", (latent,), "norm"),
                (attn + "kv_b_proj.weight", (heads * (nope + v_dim), latent), "linear"),
                (attn + "o_proj.weight", (hidden, heads * v_dim), "linear")]
        if name == "v2":  # an old-style leftover that a loader has to pass over
            out += [(attn + "rotary_emb.inv_freq", (rope // 2,), "buffer")]
        out += [(prefix + "post_attention_layernorm.weight", (hidden,), "norm")]
        if not ref.is_moe(config, number):
            return out + mlp(ffn, config["intermediate_size"])
        out += [(ffn + "gate.weight", (config["n_routed_experts"], hidden), "router")]
        if config["topk_method"] == "noaux_tc":
            out += [(ffn + "gate.e_score_correction_bias", (config["n_routed_experts"],), "bias")]
        for expert in range(config["n_routed_experts"]):
            out += mlp(f"{ffn}experts.{expert}.", config["moe_intermediate_size"])
        return out + mlp(ffn + "shared_experts.", config["n_shared_experts"] * config["moe_intermediate_size"])

    out = [("model.embed_tokens.weight", (vocab, hidden), "table")]
    for number in range(config["num_hidden_layers"]):
        out += layer(number)
    out += [("model.norm.weight", (hidden,), "norm")]
    if not config["tie_word_embeddings"]:
        out += [("lm_head.weight", (vocab, hidden), "head")]
    if name == "v3":  # v3-e8m0 names an MTP layer in its config and does not ship it
        number = config["num_hidden_layers"]
        prefix = f"model.layers.{number}."
        out += [(prefix + "embed_tokens.weight", (vocab, hidden), "table"),
                (prefix + "enorm.weight", (hidden,), "norm"), (prefix + "hnorm.weight", (hidden,), "norm"),
                (prefix + "eh_proj.weight", (hidden, 2 * hidden), "head")]
        out += layer(number)
        out += [(prefix + "shared_head.norm.weight", (hidden,), "norm"),
                (prefix + "shared_head.head.weight", (vocab, hidden), "head")]
    return out


def rng_of(name, tensor):
    return np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(tensor.encode())])


def draw(name, tensor, shape, kind):
    """Values before rounding to the stored dtype."""
    # The MTP layer's embedding and head are copies of the main ones, as published.
    if tensor.endswith("shared_head.head.weight"):
        tensor = "lm_head.weight"
    if tensor.endswith(".embed_tokens.weight"):
        tensor = "model.embed_tokens.weight"
    rng = rng_of(name, tensor)
    if kind == "norm":
        # Larger where attention scores and SwiGLU start, so that attention is not flat and experts do say something.
        wide = "_a_layernorm" in tensor or "post_attention" in tensor
        return rng.uniform(1.0, 2.0, shape) if wide else rng.uniform(0.5, 1.5, shape)
    if kind == "bias":
        # v3's bias makes about half of the biased scores negative: a router that masks with 0 instead of -inf,
        # or weighs with the biased score, chooses or weighs differently.
        return rng.normal(-0.5 if name == "v3" else 0.0, 0.1, shape)
    if kind == "buffer":
        return 1.0 / 10000 ** (np.arange(shape[0]) / shape[0])
    if kind == "table":
        return rng.normal(0, 0.25, shape)
    return rng.normal(0, 0.5 / np.sqrt(shape[1]), shape)


def quantise_blocks(name, tensor, values, scale_dtype):
    """FP8 codes and block scales. Blocks differ in size by up to 2x, so that a wrong scale shows."""
    rows, cols = values.shape
    blocks = (-(-rows // 128), -(-cols // 128))
    row, col = np.arange(rows)[:, None] // 128, np.arange(cols)[None] // 128
    values = values * (2.0 ** rng_of(name, tensor + "/blocks").uniform(-1, 0, blocks))[row, col]
    amax = np.zeros(blocks)
    np.maximum.at(amax, (row, col), np.abs(values))
    scale = (amax / 448).astype(np.float32).astype(np.float64)
    if scale_dtype == "F8_E8M0":
        scale = 2.0 ** np.ceil(np.log2(scale))
    return ref.encode("F8_E4M3", values / scale[row, col]), ref.encode(scale_dtype, scale)


def stored_dtype(name, tensor, kind):
    if kind in ("bias", "buffer"):
        return "BF16" if (name, kind) == ("moonlight", "bias") else "F32"
    if name == "v2":  # one file with three dtypes
        if kind in ("norm", "router"):
            return "F32"
        return "F16" if ".self_attn." in tensor else "BF16"
    return "F32" if (name, kind) == ("kimi", "norm") else "BF16"


def make_tensors(name, config):
    tensors = {}
    scale_dtype = {"v3": "F32", "kimi": "F32", "v3-e8m0": "F8_E8M0"}.get(name)
    for tensor, shape, kind in tensor_list(name, config):
        values = draw(name, tensor, shape, kind)
        if kind == "linear" and scale_dtype:
            tensors[tensor], tensors[tensor + "_scale_inv"] = quantise_blocks(name, tensor, values, scale_dtype)
        else:
            tensors[tensor] = ref.encode(stored_dtype(name, tensor, kind), values)
    return tensors


def shard_of(name, tensor, position, count, shards):
    """Shards follow the order of the tensors, but about half of v3's scales lie in the other shard."""
    shard = min(position * shards // count, shards - 1)
    if name == "v3" and tensor.endswith("_scale_inv") and zlib.crc32(tensor.encode()) % 2:
        shard = 1 - shard
    return shard


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def write_checkpoint(directory, name):
    config = CONFIGS[name]
    os.makedirs(directory, exist_ok=True)
    write_json(os.path.join(directory, "config.json"), dict(sorted(config.items())))
    write_json(os.path.join(directory, "generation_config.json"), GENERATION[name])
    tensors, shards = make_tensors(name, config), SHARDS[name]
    metadata = {"format": "pt"}
    if shards == 0:
        ref.write_safetensors(os.path.join(directory, "model.safetensors"), tensors, metadata=metadata)
        return
    total = sum(len(data) for _, _, data in tensors.values())
    # Real files of the family count shards with six digits after "of".
    files = [f"model-{i + 1:05d}-of-{shards:06d}.safetensors" for i in range(shards)]
    weight_map = {tensor: files[shard_of(name, tensor, i, len(tensors), shards)] for i, tensor in enumerate(tensors)}
    for i, file in enumerate(files):
        part = {tensor: entry for tensor, entry in tensors.items() if weight_map[tensor] == file}
        ref.write_safetensors(os.path.join(directory, file), part, odd=name == "v3" and i == 1, metadata=metadata)
    write_json(os.path.join(directory, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
