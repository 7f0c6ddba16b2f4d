"""Minnow in PyTorch: the DeepSeek-V3 architecture written for training a small model fast on one GPU.

Parameters are a flat dict of FP32 tensors. Experts of a layer are stored side by side (`experts.gate` [(E+1)*moe, H], the shared expert
last), so that all of them are one matrix product; the router's weights, zero for experts that were not chosen, multiply the wide
activation before `down`. `export.py` cuts them into published tensors. A batch is a flat list of tokens made of buckets: `rows` sequences
of the same padded length after one another, so shapes never change and attention runs once per bucket.
"""
import math

import torch
import torch.nn.functional as F

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 256, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "intermediate_size": 512, "moe_intermediate_size": 128, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc",
    "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 1024, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
                     "mscale_all_dim": 1.0},
    "max_position_embeddings": 4096, "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False, "use_cache": True,
    "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
}


def yarn(config):
  """(inverse frequencies [rope/2], softmax scale); the cos/sin multiplier is 1 since mscale equals mscale_all_dim."""
  d, theta, s = config["qk_rope_head_dim"], config["rope_theta"], config["rope_scaling"]
  corr = lambda n: d * math.log(s["original_max_position_embeddings"] / (2 * math.pi * n)) / (2 * math.log(theta))
  low, high = max(math.floor(corr(s["beta_fast"])), 0), min(math.ceil(corr(s["beta_slow"])), d - 1)
  i = torch.arange(d // 2, dtype=torch.float64)
  f = theta ** (-2 * i / d)
  ramp = ((i - low) / (high - low)).clamp(0, 1)
  m = 0.1 * s["mscale_all_dim"] * math.log(s["factor"]) + 1
  return f * (1 - ramp) + f / s["factor"] * ramp, (config["qk_nope_head_dim"] + d) ** -0.5 * m * m


def rope_table(config, positions):
  """cos and sin [T, 1, rope/2] in FP32."""
  angle = positions.double()[:, None] * yarn(config)[0].to(positions.device)
  return angle.cos().float()[:, None], angle.sin().float()[:, None]


def rotate(x, cos, sin):
  """Rotates adjacent pairs of the last dimension; x [T, heads, rope]."""
  a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
  return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def rms(x, weight, eps=1e-6):
  """RMSNorm in FP32; FP32 result."""
  x = x.float()
  return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def init(config, seed):
  """FP32 parameters and router biases."""
  g = torch.Generator().manual_seed(seed)
  c = config
  h, heads, moe, experts = c["hidden_size"], c["num_attention_heads"], c["moe_intermediate_size"], c["n_routed_experts"]
  layers, latent, rope = c["num_hidden_layers"] + c["num_nextn_predict_layers"], c["kv_lora_rank"], c["qk_rope_head_dim"]
  out = 0.5 / math.sqrt(2 * layers)
  p = {}

  def matrix(name, rows, cols, gain=1.0):
    p[name] = torch.randn(rows, cols, generator=g) * (gain / math.sqrt(cols))

  p["embed"] = torch.randn(c["vocab_size"], h, generator=g) * 0.5
  matrix("head", c["vocab_size"], h, 0.5)
  p["norm"] = torch.ones(h)
  for i in range(layers):
    n = f"{i}."
    for norm, size in (("attn_norm", h), ("ffn_norm", h), ("q_a_norm", c["q_lora_rank"]), ("kv_a_norm", latent)):
      p[n + norm] = torch.ones(size)
    matrix(n + "q_a", c["q_lora_rank"], h)
    matrix(n + "q_b", heads * (c["qk_nope_head_dim"] + rope), c["q_lora_rank"])
    matrix(n + "kv_a", latent + rope, h)
    matrix(n + "kv_b", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), latent)
    matrix(n + "o", h, heads * c["v_head_dim"], out)
    if i < c["first_k_dense_replace"]:
      matrix(n + "gate", c["intermediate_size"], h)
      matrix(n + "up", c["intermediate_size"], h)
      matrix(n + "down", h, c["intermediate_size"], out)
    else:
      matrix(n + "router", experts, h)
      matrix(n + "experts.gate", (experts + 1) * moe, h)
      matrix(n + "experts.up", (experts + 1) * moe, h)
      matrix(n + "experts.down", h, (experts + 1) * moe, out * math.sqrt(experts + 1))
      p[n + "bias"] = torch.zeros(experts)
  p["mtp.enorm"], p["mtp.hnorm"], p["mtp.norm"] = torch.ones(h), torch.ones(h), torch.ones(h)
  matrix("mtp.eh_proj", h, 2 * h)
  return p


FP8_NAMES = ("q_a", "q_b", "kv_a", "kv_b", "o", "gate", "up", "down", "experts.gate", "experts.up", "experts.down")


def is_fp8(name):
  return name.partition(".")[2] in FP8_NAMES


def fp8_scales(w, block=128):
  """Block scales [ceil(rows/128), ceil(cols/128)] that map the largest magnitude of each block to 448."""
  rows, cols = w.shape
  padded = F.pad(w.float(), (0, -cols % block, 0, -rows % block))
  amax = padded.unflatten(0, (-1, block)).unflatten(2, (-1, block)).abs().amax((1, 3))
  return (amax / 448).clamp(min=1e-12)


def fp8_expand(scales, shape, block=128):
  return scales.repeat_interleave(block, 0)[:shape[0]].repeat_interleave(block, 1)[:, :shape[1]]


def fp8_round(w):
  """What w becomes when it is published in FP8."""
  s = fp8_expand(fp8_scales(w), w.shape)
  return (w / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s


def prepare(params, dtype, qat):
  """Weights as the forward pass takes them; with qat rounded as published (straight-through gradient)."""
  out = {}
  for name, p in params.items():
    if name.endswith(".bias"):
      out[name] = p
      continue
    w = p
    if qat:
      with torch.no_grad():
        rounded = fp8_round(p) if is_fp8(name) else p.bfloat16().float()
        delta = rounded - p
      w = p + delta
    out[name] = w if p.ndim == 1 or name == "embed" or name.endswith("router") else w.to(dtype)
  return out


def attend(q, k, v, buckets, scale):
  """Causal attention inside every sequence; q, k [N, heads, 192], v [N, heads, 128] -> [N, heads * 128]."""
  v_dim = v.shape[-1]
  v = F.pad(v, (0, q.shape[-1] - v_dim))
  out, at = [], 0
  for rows, length in buckets:
    cut = lambda t: t[at:at + rows * length].unflatten(0, (rows, length)).transpose(1, 2)
    y = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), is_causal=True, scale=scale)
    out.append(y[..., :v_dim].transpose(1, 2).reshape(rows * length, -1))
    at += rows * length
  return torch.cat(out)


def as_is(x):
  return x


def round_rows_fp8(x, block=128):
  """Activations as FP8 products take them: e4m3 with one scale per row and 128 columns (straight-through gradient)."""
  g = x.float().unflatten(-1, (-1, block))
  s = g.detach().abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448
  return (g + ((g / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s - g).detach()).flatten(-2).to(x.dtype)


def attention_inputs(config, w, n, xn, cos, sin, act=as_is):
  """q, k [T, heads, 192] and v [T, heads, 128] of normed rows xn; act rounds the inputs of the projections."""
  c, heads, dtype = config, config["num_attention_heads"], xn.dtype
  nope, latent = c["qk_nope_head_dim"], c["kv_lora_rank"]
  xn = act(xn)
  q = F.linear(act(rms(F.linear(xn, w[n + "q_a"]), w[n + "q_a_norm"]).to(dtype)), w[n + "q_b"]).unflatten(-1, (heads, -1))
  ckr = F.linear(xn, w[n + "kv_a"])
  kv = F.linear(rms(ckr[:, :latent], w[n + "kv_a_norm"]).to(dtype), w[n + "kv_b"]).unflatten(-1, (heads, -1))
  k_pe = rotate(ckr[:, None, latent:], cos, sin).expand(-1, heads, -1)
  q = torch.cat((q[..., :nope], rotate(q[..., nope:], cos, sin)), -1)
  return q, torch.cat((kv[..., :nope], k_pe), -1), kv[..., nope:]


def ranks(c):
  """Rank of every entry along the last dimension, largest first, ties to the lower index."""
  i = torch.arange(c.shape[-1], device=c.device)
  above = (c[..., None, :] > c[..., :, None]) | ((c[..., None, :] == c[..., :, None]) & (i[None, :] < i[:, None]))
  return above.sum(-1)


def route(config, logits, bias):
  """Router weights [T, E], zero for experts not chosen (sigmoid scores, noaux_tc)."""
  c, s = config, logits.float().sigmoid()
  with torch.no_grad():
    choice = s + bias
    groups = choice.unflatten(-1, (c["n_group"], -1))
    score = torch.where(ranks(groups) < 2, groups, 0.0).sum(-1)
    keep = ranks(score) < c["topk_group"]
    choice = groups.masked_fill(~keep[..., None], -math.inf).flatten(-2)
    chosen = ranks(choice) < c["num_experts_per_tok"]
  picked = torch.where(chosen, s, 0.0)
  return picked / (picked.sum(-1, keepdim=True) + 1e-20) * c["routed_scaling_factor"], chosen


def feed_forward(config, w, n, y, act=as_is):
  """The dense or MoE block on FP32 normed rows y, computed in the weights' type; also which experts were chosen."""
  if n + "gate" in w:
    x = act(y.to(w[n + "gate"].dtype))
    return F.linear(act(F.silu(F.linear(x, w[n + "gate"])) * F.linear(x, w[n + "up"])), w[n + "down"]), None
  weights, chosen = route(config, F.linear(y, w[n + "router"].float()), w[n + "bias"])
  x = act(y.to(w[n + "experts.gate"].dtype))
  wide = act(F.silu(F.linear(x, w[n + "experts.gate"])) * F.linear(x, w[n + "experts.up"]))
  weights = torch.cat((weights, torch.ones_like(weights[:, :1])), -1).to(x.dtype)
  wide = (wide.unflatten(-1, (-1, config["moe_intermediate_size"])) * weights[..., None]).flatten(-2)
  return F.linear(wide, w[n + "experts.down"]), chosen


def layer(config, w, n, x, cos, sin, buckets, scale, dtype, act=as_is):
  """One decoder layer; x [N, H] FP32 residual stream."""
  q, k, v = attention_inputs(config, w, n, rms(x, w[n + "attn_norm"]).to(dtype), cos, sin, act)
  x = x + F.linear(act(attend(q, k, v, buckets, scale)), w[n + "o"]).float()
  y, chosen = feed_forward(config, w, n, rms(x, w[n + "ffn_norm"]), act)
  return x + y.float(), chosen


def layer_weights(w, i):
  """The weights of layer i under the prefix 'l.', so that one compiled graph serves all layers of a kind."""
  prefix = f"{i}."
  return {"l." + name[len(prefix):]: t for name, t in w.items() if name.startswith(prefix)}


def logits_of(w, x, norm, dtype):
  return F.linear(rms(x, norm).to(dtype), w["head"].to(dtype))


class Stack:
  """The main stack and the MTP module over a flat batch."""

  def __init__(self, config, buckets, device, dtype, compiled):
    self.config, self.buckets, self.dtype = config, tuple(buckets), dtype
    positions = torch.cat([torch.arange(t, device=device).repeat(rows) for rows, t in buckets])
    self.cos, self.sin = rope_table(config, positions)
    self.scale = yarn(config)[1]

    def run_layer(w, x, cos, sin):
      return layer(config, w, "l.", x, cos, sin, self.buckets, self.scale, dtype)

    def run_layer_fp8(w, x, cos, sin):
      return layer(config, w, "l.", x, cos, sin, self.buckets, self.scale, dtype, round_rows_fp8)

    def mtp_input(w, x, e):
      e = rms(e, w["mtp.enorm"])
      h = rms(rms(x, w["norm"]), w["mtp.hnorm"])
      return F.linear(torch.cat((e, h), -1).to(dtype), w["mtp.eh_proj"]).float()

    def loss(head, x, norm, target):
      logits = logits_of({"head": head}, x, norm, dtype).float()
      total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
      hits = ((logits.argmax(-1) == target) & (target >= 0)).sum()
      return total, hits

    wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
    self.layers, self.mtp_input, self.loss = {False: wrap(run_layer), True: wrap(run_layer_fp8)}, wrap(mtp_input), wrap(loss)
    self.fp8_activations = False

  def run_layer(self, *inputs):
    return self.layers[self.fp8_activations](*inputs)

  def hidden(self, w, ids):
    """Residual stream before the final norm [N, H] and the choices of every MoE layer."""
    x, choices = F.embedding(ids, w["embed"]).float(), []
    for i in range(self.config["num_hidden_layers"]):
      x, chosen = self.run_layer(layer_weights(w, i), x, self.cos, self.sin)
      if chosen is not None:
        choices.append(chosen)
    return x, choices

  def mtp_hidden(self, w, x, nxt):
    u = self.mtp_input({n: w[n] for n in ("norm", "mtp.enorm", "mtp.hnorm", "mtp.eh_proj")}, x, F.embedding(nxt, w["embed"]).float())
    return self.run_layer(layer_weights(w, self.config["num_hidden_layers"]), u, self.cos, self.sin)
