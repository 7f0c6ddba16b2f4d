"""Writes trained parameters as a published checkpoint: config.json, two shards, index, generation_config.json."""
import argparse
import json
import os

import torch
from safetensors.torch import load_file, save_file

import model

SHARDS = 2
SPLIT_BYTES = 9_900_000


def named(params, config=model.CONFIG):
  """Published name -> FP32 tensor, without rounding."""
  moe, experts, layers = config["moe_intermediate_size"], config["n_routed_experts"], config["num_hidden_layers"]
  out = {"model.embed_tokens.weight": params["embed"]}
  short = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "q_a": "self_attn.q_a_proj", "q_a_norm": "self_attn.q_a_layernorm",
           "q_b": "self_attn.q_b_proj", "kv_a": "self_attn.kv_a_proj_with_mqa", "kv_a_norm": "self_attn.kv_a_layernorm",
           "kv_b": "self_attn.kv_b_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
           "router": "mlp.gate"}
  for i in range(layers + config["num_nextn_predict_layers"]):
    base = f"model.layers.{i}."
    if i == layers:
      out[base + "embed_tokens.weight"] = params["embed"]
      out[base + "enorm.weight"], out[base + "hnorm.weight"] = params["mtp.enorm"], params["mtp.hnorm"]
      out[base + "eh_proj.weight"] = params["mtp.eh_proj"]
      out[base + "shared_head.norm.weight"], out[base + "shared_head.head.weight"] = params["mtp.norm"], params["head"]
    for name, t in model.layer_weights(params, i).items():
      name = name[2:]
      if name in short:
        out[f"{base}{short[name]}.weight"] = t
      elif name == "bias":
        out[base + "mlp.gate.e_score_correction_bias"] = t
      else:
        kind = name.split(".")[1]
        for e in range(experts + 1):
          owner = "shared_experts" if e == experts else f"experts.{e}"
          cut = slice(e * moe, (e + 1) * moe)
          out[f"{base}mlp.{owner}.{kind}_proj.weight"] = t[:, cut] if kind == "down" else t[cut]
  out["model.norm.weight"], out["lm_head.weight"] = params["norm"], params["head"]
  return out


def stays_bf16(name):
  return ("norm" in name or "embed_tokens" in name or "head" in name or name.endswith(("mlp.gate.weight", "eh_proj.weight")))


def published(params, fp8=True):
  """Published name -> tensor in its published type; with fp8=False projections are BF16."""
  out = {}
  for name, t in named(params).items():
    t = t.detach().float().cpu().contiguous()
    if name.endswith("e_score_correction_bias"):
      out[name] = t
    elif stays_bf16(name) or not fp8:
      out[name] = t.bfloat16()
    else:
      scales = model.fp8_scales(t)
      out[name] = (t / model.fp8_expand(scales, t.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
      out[name + "_scale_inv"] = scales
  return out


def dequantised(tensors):
  """FP32 tensors of a published dict, scales applied."""
  out = {}
  for name, t in tensors.items():
    if not name.endswith("_scale_inv"):
      scales = tensors.get(name + "_scale_inv")
      out[name] = t.float() if scales is None else t.float() * model.fp8_expand(scales, t.shape)
  return out


def write(params, directory, fp8=True):
  os.makedirs(directory, exist_ok=True)
  tensors = published(params, fp8)
  shards, size = [{} for _ in range(SHARDS)], 0
  at = 0
  for name, t in tensors.items():
    # The cut falls behind a weight and before its scale: readers must look every tensor up in the index.
    if size >= SPLIT_BYTES * (at + 1) and at + 1 < SHARDS and (name.endswith("_scale_inv") or not fp8):
      at += 1
    shards[at][name] = t.clone()
    size += t.numel() * t.element_size()
  files = [f"model-{i + 1:05d}-of-{SHARDS:06d}.safetensors" for i in range(SHARDS)]
  for file, shard in zip(files, shards):
    save_file(shard, os.path.join(directory, file), metadata={"format": "pt"})
  index = {"metadata": {"total_size": size}, "weight_map": {name: file for file, shard in zip(files, shards) for name in shard}}
  config = dict(model.CONFIG)
  if not fp8:
    del config["quantization_config"]
  generation = {"_from_model_config": True, "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False}
  for name, value in (("config.json", config), ("generation_config.json", generation), ("model.safetensors.index.json", index)):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
      json.dump(value, f, indent=2)
      f.write("\n")
  return size


def load(directory):
  """All tensors of a published directory, as stored."""
  with open(os.path.join(directory, "model.safetensors.index.json"), encoding="utf-8") as f:
    files = sorted(set(json.load(f)["weight_map"].values()))
  return {name: t for file in files for name, t in load_file(os.path.join(directory, file)).items()}


def from_published(tensors, config=model.CONFIG):
  """Parameters of model.py (FP32) from dequantised published tensors."""
  params = {name: torch.zeros_like(t) for name, t in model.init(config, 0).items()}
  for name, view in named(params, config).items():
    view.copy_(tensors[name])
  return params


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("checkpoint", help="what train.py saved (.pt or a folder of its parts)")
  parser.add_argument("directory")
  parser.add_argument("--bf16", action="store_true", help="do not quantise")
  args = parser.parse_args()
  import train
  print(write(train.load_checkpoint(args.checkpoint), args.directory, not args.bf16), "bytes")


if __name__ == "__main__":
  main()
