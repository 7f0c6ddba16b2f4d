"""Trains Minnow on one GPU. Time-boxed and resumable: `--minutes`, `--resume DIR`, `--out DIR`.

Matrices are trained with Muon (orthogonalised momentum), everything else with Adam. Experts are balanced without an auxiliary loss: after
every step the choosing bias of each expert moves by a fixed amount against the sign of its load error. The learning rate rises for
`--warmup` steps, stays, and falls linearly over the last `--decay` share of the time; `--qat` is the share at the end in which the weights
are rounded as published (FP8, BF16) in the forward pass.
"""
import argparse
import glob
import json
import math
import os
import time

import numpy as np
import torch

import data
import model
import tokenizer

PART_BYTES = 15_500_000


def save_checkpoint(params, directory):
  """BF16 matrices, FP32 vectors, in parts small enough to be carried."""
  os.makedirs(directory, exist_ok=True)
  parts, size = [{}], 0
  for name, p in params.items():
    t = p.detach().cpu()
    t = t.bfloat16() if t.ndim == 2 else t.clone()
    n = t.numel() * t.element_size()
    if size + n > PART_BYTES:
      parts.append({})
      size = 0
    parts[-1][name] = t.contiguous()
    size += n
  for i, part in enumerate(parts):
    torch.save(part, os.path.join(directory, f"part{i}.pt"))


def load_checkpoint(directory):
  out = {}
  for file in sorted(glob.glob(os.path.join(directory, "part*.pt"))):
    out.update({name: t.float() for name, t in torch.load(file, map_location="cpu").items()})
  return out


@torch.no_grad()
def orthogonalise(m, steps=5):
  """Newton-Schulz iteration on a batch of matrices [B, r, c] with r <= c: pushes all singular values towards 1."""
  x = m.bfloat16()
  x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
  for _ in range(steps):
    a = x @ x.mT
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
  return x.float()


class Muon:
  """Momentum, orthogonalised per matrix; experts count as separate matrices. Equal shapes are updated together."""

  def __init__(self, named, config, momentum=0.95, decay=0.1):
    self.moe, self.momentum, self.decay, self.groups = config["moe_intermediate_size"], momentum, decay, {}
    for name, p in named.items():
      views = self.cut(name, p)
      self.groups.setdefault(tuple(views.shape[1:]), []).append((name, p))
    self.state = {shape: torch.zeros((sum(self.cut(n, p).shape[0] for n, p in items),) + shape, device=items[0][1].device)
                  for shape, items in self.groups.items()}

  def cut(self, name, t):
    """[B, r, c] with r <= c, a copy or a view."""
    if "experts.down" in name:
      t = t.unflatten(1, (-1, self.moe)).permute(1, 2, 0)
    elif "experts." in name:
      t = t.unflatten(0, (-1, self.moe))
    else:
      t = t[None]
    return t if t.shape[1] <= t.shape[2] else t.mT

  @torch.no_grad()
  def step(self, lr):
    for shape, items in self.groups.items():
      grad = torch.cat([self.cut(n, p.grad) for n, p in items])
      state = self.state[shape]
      state.lerp_(grad, 1 - self.momentum)
      update = orthogonalise(grad.lerp(state, self.momentum)) * (0.2 * math.sqrt(max(shape)))
      at = 0
      for name, p in items:
        view = self.cut(name, p)
        view.mul_(1 - lr * self.decay).sub_(update[at:at + view.shape[0]], alpha=lr)
        at += view.shape[0]


def to_device(batch, buckets, device):
  """ids, next ids, targets of the next and of the second next token (-1: not learnt), and which positions hold text."""
  flat, first, size = (torch.from_numpy(x.astype(np.int64)).pin_memory().to(device, non_blocking=True) if device.type == "cuda"
                       else torch.from_numpy(x.astype(np.int64)) for x in batch)
  nxt, one, two, real = [], [], [], []
  at = row = 0
  for rows, t in buckets:
    ids = flat[at:at + rows * t].view(rows, t)
    f, n = first[row:row + rows, None], size[row:row + rows, None]
    position = torch.arange(t, device=device)[None]
    shift = lambda k: torch.nn.functional.pad(ids[:, k:], (0, k))
    n1 = shift(1)
    nxt.append(n1.reshape(-1))
    one.append(torch.where((position + 1 >= f) & (position + 1 < n), n1, -1).reshape(-1))
    two.append(torch.where((position + 2 >= f) & (position + 2 < n), shift(2), -1).reshape(-1))
    real.append((position < n).reshape(-1))
    at += rows * t
    row += rows
  return flat, torch.cat(nxt), torch.cat(one), torch.cat(two), torch.cat(real)


def rate(progress, step, args):
  """Learning-rate factor at a share of the time."""
  warm = min(1.0, (step + 1) / args.warmup)
  if progress <= 1 - args.decay:
    return warm
  return warm * max((1 - progress) / args.decay, 0.02)


def train(args):
  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
  torch.set_float32_matmul_precision("high")
  torch.backends.cuda.enable_cudnn_sdp(False)  # flash attention takes 192 dimensions in both directions
  torch.manual_seed(args.seed)
  start = time.time()
  config = model.CONFIG
  tok = tokenizer.Tokenizer(args.tokenizer)
  buckets = data.plan(tok, args.tokens)
  batch_tokens = sum(r * t for r, t in buckets)
  print("buckets", buckets, "tokens a step", batch_tokens, "sequences", sum(r for r, _ in buckets), flush=True)
  loader = data.Loader(args.tokenizer, buckets, args.seed, args.workers)

  params = load_checkpoint(args.resume) if args.resume else model.init(config, args.seed)
  params = {n: t.to(device).requires_grad_(not n.endswith(".bias")) for n, t in params.items()}
  print("parameters", sum(p.numel() for p in params.values()), flush=True)
  matrices = {n: p for n, p in params.items() if p.ndim == 2 and n not in ("embed", "head") and not n.endswith("router")}
  others = [p for n, p in params.items() if n not in matrices and p.requires_grad]
  muon = Muon(matrices, config)
  adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda")
  stack = model.Stack(config, buckets, device, dtype, args.compile and device.type == "cuda")
  biases = [n for n in params if n.endswith(".bias")]

  step, seen, qat = 0, 0, False
  limit = args.minutes * 60
  begin = report = None
  history = []
  while True:
    now = time.time() - start
    if now >= limit or (args.steps and step >= args.steps):
      break
    if step == args.skip:  # compilation is over
      begin, seen = now, 0
    progress = now / limit if not args.steps else step / args.steps
    if not qat and progress >= 1 - args.qat:
      qat = True
      print(f"{now:.0f} s: rounding the weights from here", flush=True)
    ids, nxt, one, two, real = to_device(loader.next(), buckets, device)
    # Half of the rounded steps round activations too, as a GPU does with a prompt; step 1 compiles that path early.
    stack.fp8_activations = args.fp8_activations and args.qat > 0 and (step == 1 or qat and step % 2 == 0)
    w = model.prepare(params, dtype, qat)
    x, choices = stack.hidden(w, ids)
    main_loss, main_hits = stack.loss(w["head"], x, w["norm"], one)
    u, mtp_choice = stack.mtp_hidden(w, x, nxt)
    mtp_loss, mtp_hits = stack.loss(w["head"], u, w["mtp.norm"], two)
    learnt, learnt2 = (one >= 0).sum(), (two >= 0).sum()
    weight = args.mtp_weight
    loss = main_loss / learnt + weight * mtp_loss / learnt2
    loss.backward()
    lr = args.lr * rate(progress, step, args)
    norm = torch.nn.utils.clip_grad_norm_(others, 1.0)
    for group in adam.param_groups:
      group["lr"] = lr
    adam.step()
    muon.step(lr)
    for p in params.values():
      p.grad = None
    gamma = args.balance * max(rate(progress, step, args), 0.05)
    with torch.no_grad():
      for name, chosen in zip(biases, choices + [mtp_choice]):
        load = (chosen & real[:, None]).float().sum(0)
        params[name].add_(gamma * torch.sign(load.mean() - load))
    step += 1
    seen += batch_tokens
    if step % args.every == 0 or step <= 3:
      loads = [(c & real[:, None]).float().sum(0) for c in choices + [mtp_choice]]
      least = min((l.min() / l.mean()).item() for l in loads)
      entry = dict(step=step, s=round(time.time() - start, 1), loss=round((main_loss / learnt).item(), 4), mtp=round((mtp_loss / learnt2).item(), 4),
                   hits=round((main_hits / learnt).item(), 4), mtp_hits=round((mtp_hits / learnt2).item(), 4), least_load=round(least, 2),
                   lr=round(lr, 6), norm=round(norm.item(), 3),
                   tok_s=round(seen / (time.time() - start - begin)) if begin is not None and step > args.skip else 0)
      history.append(entry)
      print(json.dumps(entry), flush=True)
      if not math.isfinite(entry["loss"]):
        raise SystemExit("the loss is not finite")
    if args.save_every and step % args.save_every == 0:
      save_checkpoint(params, args.out)
  loader.close()
  save_checkpoint(params, args.out)
  with open(os.path.join(args.out, "history.jsonl"), "w", encoding="utf-8") as f:
    f.writelines(json.dumps(e) + "\n" for e in history)
  print(f"saved after {step} steps, {step * batch_tokens / 1e6:.0f} M tokens, {time.time() - start:.0f} s", flush=True)


def main():
  here = os.path.dirname(os.path.abspath(__file__))
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--tokenizer", default=os.path.join(here, "../../models/minnow"))
  parser.add_argument("--out", required=True)
  parser.add_argument("--resume")
  parser.add_argument("--minutes", type=float, default=8)
  parser.add_argument("--steps", type=int, default=0, help="stop after so many steps instead of after --minutes")
  parser.add_argument("--tokens", type=int, default=65536, help="tokens in a batch, padding included")
  parser.add_argument("--lr", type=float, default=3e-3)
  parser.add_argument("--warmup", type=int, default=200)
  parser.add_argument("--decay", type=float, default=0.0)
  parser.add_argument("--qat", type=float, default=0.0)
  parser.add_argument("--mtp-weight", type=float, default=0.3)
  parser.add_argument("--balance", type=float, default=0.001)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--workers", type=int, default=8)
  parser.add_argument("--every", type=int, default=100)
  parser.add_argument("--skip", type=int, default=20, help="steps left out of the speed, for compilation")
  parser.add_argument("--save-every", type=int, default=2000)
  parser.add_argument("--no-compile", dest="compile", action="store_false")
  parser.add_argument("--no-fp8-activations", dest="fp8_activations", action="store_false")
  train(parser.parse_args())


if __name__ == "__main__":
  main()
