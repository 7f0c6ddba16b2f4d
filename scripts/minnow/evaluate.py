"""Accuracy of a published directory on held-out questions: greedy decoding in FP32 with the dequantised weights, many questions at once.

The final answer of a reply is the last non-empty line after `</think>`, stripped; it has to equal the expected one exactly.
Reported per task: accuracy, MTP acceptance (how often the MTP module's guess equals the second next token of the model's own greedy
reply, thoughts included) and, over all, each expert's load relative to the mean of its layer.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

import export
import generate
import model
import tokenizer

MAX_NEW = 480


def final_answer(text):
  """The last non-empty line after the thinking block."""
  lines = [line.strip() for line in text.split(tokenizer.END_THINK)[-1].split("\n")]
  return next((line for line in reversed(lines) if line), "")


def questions(task, count, seed, thinking=True):
  """`count` different held-out samples of a task."""
  g, out, seen = generate.Generator(seed, "eval"), [], set()
  tries = 0
  while len(out) < count and tries < 50 * count:
    tries += 1
    s = g.sample(task)
    key = json.dumps(s.messages())
    if key not in seen:
      seen.add(key)
      out.append(s)
  return out


class Decoder:
  """Batched greedy decoding with an expanded key and value cache."""

  def __init__(self, params, device, config=model.CONFIG, fp8_prompt=False):
    """With fp8_prompt the rows of prompts are computed on FP8 activations, as the program does on a GPU."""
    self.config, self.device = config, device
    self.prompt_act = model.round_rows_fp8 if fp8_prompt else model.as_is
    self.w = {n: t.to(device).float() for n, t in params.items()}
    self.scale = model.yarn(config)[1]
    self.cos, self.sin = model.rope_table(config, torch.arange(1024, device=device))
    self.layers = config["num_hidden_layers"]

  def block(self, n, x, cos, sin, attend, act=model.as_is):
    """One layer on rows x [T, H]; attend(q, k, v) -> [T, heads * v]."""
    q, k, v = model.attention_inputs(self.config, self.w, n, model.rms(x, self.w[n + "attn_norm"]), cos, sin, act)
    x = x + F.linear(act(attend(q, k, v)), self.w[n + "o"])
    y, chosen = model.feed_forward(self.config, self.w, n, model.rms(x, self.w[n + "ffn_norm"]), act)
    return x + y, chosen

  @torch.no_grad()
  def generate(self, prompts, eos, max_new=MAX_NEW):
    """Greedy replies, the end of sentence left out."""
    d, rows = self.device, len(prompts)
    lengths = torch.tensor([len(p) for p in prompts], device=d)
    width = max(map(len, prompts))
    room = width + max_new
    ids = torch.zeros(rows, width, dtype=torch.long, device=d)
    for i, p in enumerate(prompts):
      ids[i, :len(p)] = torch.tensor(p, device=d)
    heads, qk, vd = self.config["num_attention_heads"], self.config["qk_nope_head_dim"] + self.config["qk_rope_head_dim"], self.config["v_head_dim"]
    keys = [torch.zeros(rows, heads, room, qk, device=d) for _ in range(self.layers)]
    values = [torch.zeros(rows, heads, room, vd, device=d) for _ in range(self.layers)]
    x = self.w["embed"][ids].flatten(0, 1)
    cos, sin = self.cos[:width].repeat(rows, 1, 1), self.sin[:width].repeat(rows, 1, 1)
    for l in range(self.layers):
      def prefill(q, k, v):
        q, k, v = (t.unflatten(0, (rows, width)).transpose(1, 2) for t in (q, k, v))
        keys[l][:, :, :width], values[l][:, :, :width] = k, v
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale).transpose(1, 2).reshape(rows * width, -1)
      x, _ = self.block(f"{l}.", x, cos, sin, prefill, self.prompt_act)
    x = x.unflatten(0, (rows, width))[torch.arange(rows, device=d), lengths - 1]
    out = torch.full((rows, max_new), eos, dtype=torch.long, device=d)
    done = torch.zeros(rows, dtype=torch.bool, device=d)
    row = torch.arange(rows, device=d)
    for step in range(max_new):
      token = model.logits_of(self.w, x, self.w["norm"], torch.float32).argmax(-1)
      token = torch.where(done, eos, token)
      out[:, step] = token
      done |= token == eos
      if step % 8 == 7 and bool(done.all()):
        break
      position = lengths + step
      seen = width + step + 1
      mask = (torch.arange(seen, device=d)[None] <= position[:, None])[:, None, None]
      x = self.w["embed"][token]
      cos, sin = self.cos[position], self.sin[position]
      for l in range(self.layers):
        def decode(q, k, v):
          keys[l][row, :, position], values[l][row, :, position] = k, v
          score = (q[:, :, None] @ keys[l][:, :, :seen].mT) * self.scale
          p = score.masked_fill(~mask, float("-inf")).softmax(-1)
          return (p @ values[l][:, :, :seen]).flatten(1)
        x, _ = self.block(f"{l}.", x, cos, sin, decode)
    return [r[:r.index(eos)] if eos in r else r for r in out.tolist()]

  @torch.no_grad()
  def judge(self, prompts, replies, eos):
    """Teacher-forced over prompt and reply: right MTP guesses and all of them per reply, and the load of every expert [layers, E]."""
    d = self.device
    rows, width = len(prompts), max(len(p) + len(r) + 1 for p, r in zip(prompts, replies))
    ids = torch.zeros(rows, width, dtype=torch.long, device=d)
    want = torch.full((rows, width), -1, dtype=torch.long, device=d)
    real = torch.zeros(rows, width, dtype=torch.bool, device=d)
    for i, (p, r) in enumerate(zip(prompts, replies)):
      full = p + r + [eos]
      ids[i, :len(full)] = torch.tensor(full, device=d)
      real[i, :len(full)] = True
      reply = torch.tensor(full[len(p):], device=d)
      # Row i holds the token chosen at i (id i + 1) and guesses id i + 2; the first guess is the reply's second token.
      want[i, len(p) - 1:len(full) - 2] = reply[1:]
    x, loads = self.w["embed"][ids].flatten(0, 1), []
    cos, sin = self.cos[:width].repeat(rows, 1, 1), self.sin[:width].repeat(rows, 1, 1)

    def attend(q, k, v):
      q, k, v = (t.unflatten(0, (rows, width)).transpose(1, 2) for t in (q, k, v))
      return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale).transpose(1, 2).reshape(rows * width, -1)

    for l in range(self.layers + 1):
      if l == self.layers:
        e = model.rms(self.w["embed"][F.pad(ids[:, 1:], (0, 1))].flatten(0, 1), self.w["mtp.enorm"])
        h = model.rms(model.rms(x, self.w["norm"]), self.w["mtp.hnorm"])
        x = F.linear(torch.cat((e, h), -1), self.w["mtp.eh_proj"])
      x, chosen = self.block(f"{l}.", x, cos, sin, attend)
      if chosen is not None:
        loads.append((chosen & real.flatten()[:, None]).sum(0))
    guess = model.logits_of(self.w, x, self.w["mtp.norm"], torch.float32).argmax(-1).view(rows, width)
    return ((guess == want) & (want >= 0)).sum(1).tolist(), (want >= 0).sum(1).tolist(), torch.stack(loads).cpu()


def evaluate(params, tok, per_task, device, seed=777, batch=2048, tasks=None, log=None, fp8_prompt=False):
  """Dict of results; `log` collects every wrong reply."""
  decoder = Decoder(params, device, fp8_prompt=fp8_prompt)
  tasks = tasks or generate.TASK_NAMES
  samples = [s for task in tasks for s in questions(task, per_task, seed)]
  prompts = [tok.prompt(s.messages(), s.thinking) for s in samples]
  order = sorted(range(len(samples)), key=lambda i: (len(samples[i].thought) + len(samples[i].answer) + len(prompts[i])))
  result = {t: [0, 0, 0, 0] for t in tasks}  # right, all, MTP right, MTP all
  phrasing = {False: [0, 0], True: [0, 0]}  # right, all for phrasings of training and for held-out ones
  load = 0
  for at in range(0, len(order), batch):
    part = order[at:at + batch]
    replies = decoder.generate([prompts[i] for i in part], tok.eos)
    by_index = dict(zip(part, replies))
    for i, reply in by_index.items():
      text, s = tok.decode(reply), samples[i]
      ok = final_answer(text) == final_answer(s.answer.replace(generate.CHARS, ""))
      result[s.task][0] += ok
      result[s.task][1] += 1
      phrasing[s.held_phrasing][0] += ok
      phrasing[s.held_phrasing][1] += 1
      if not ok and log is not None:
        log.append({"task": s.task, "messages": s.messages(), "expected": s.answer, "thought": s.thought, "reply": text})
    for cut in range(0, len(part), 256):
      some = part[cut:cut + 256]
      good, guesses, loads = decoder.judge([prompts[i] for i in some], [by_index[i] for i in some], tok.eos)
      load = load + loads
      for i, right, total in zip(some, good, guesses):
        result[samples[i].task][2] += right
        result[samples[i].task][3] += total
  right, total = sum(r[0] for r in result.values()), sum(r[1] for r in result.values())
  relative = load.float() / load.float().mean(1, keepdim=True)
  return {"overall": right / total, "questions": total, "mtp": sum(r[2] for r in result.values()) / max(1, sum(r[3] for r in result.values())),
          "known_phrasings": phrasing[False][0] / max(1, phrasing[False][1]), "held_out_phrasings": phrasing[True][0] / max(1, phrasing[True][1]),
          "held_out_phrasing_questions": phrasing[True][1], "least_expert_load": relative.min().item(), "greatest_expert_load": relative.max().item(),
          "expert_load": [[round(v, 2) for v in row] for row in relative.tolist()],
          "tasks": {t: {"accuracy": r[0] / max(1, r[1]), "questions": r[1], "mtp": r[2] / max(1, r[3])} for t, r in result.items()}}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("directory", help="published directory, or with --checkpoint a folder of train.py")
  parser.add_argument("--checkpoint", action="store_true")
  parser.add_argument("--bf16", action="store_true", help="with --checkpoint: round to BF16 instead of FP8")
  parser.add_argument("--fp8-prompt", action="store_true", help="compute prompts on FP8 activations")
  parser.add_argument("--tokenizer")
  parser.add_argument("--per-task", type=int, default=1000)
  parser.add_argument("--tasks", nargs="*")
  parser.add_argument("--batch", type=int, default=2048)
  parser.add_argument("--json")
  parser.add_argument("--wrong", help="JSONL of wrong replies")
  args = parser.parse_args()
  if args.checkpoint:
    import train
    tensors = export.dequantised(export.published(train.load_checkpoint(args.directory), not args.bf16))
  else:
    tensors = export.dequantised(export.load(args.directory))
  params = export.from_published(tensors)
  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  tok = tokenizer.Tokenizer(args.tokenizer or args.directory)
  log, start = [], time.time()
  result = evaluate(params, tok, args.per_task, device, batch=args.batch, tasks=args.tasks, log=log, fp8_prompt=args.fp8_prompt)
  for task, r in result["tasks"].items():
    print(f"{task:16} {100 * r['accuracy']:6.2f} %  of {r['questions']:5}  MTP {100 * r['mtp']:5.1f} %")
  print(f"known phrasings {100 * result['known_phrasings']:.2f} %, held-out phrasings {100 * result['held_out_phrasings']:.2f} % "
        f"of {result['held_out_phrasing_questions']}")
  print(f"overall {100 * result['overall']:.2f} % of {result['questions']}, MTP {100 * result['mtp']:.1f} %, least expert load "
        f"{result['least_expert_load']:.2f} of the mean, {time.time() - start:.0f} s")
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(result, f, indent=1)
  if args.wrong:
    with open(args.wrong, "w", encoding="utf-8") as f:
      f.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in log)


if __name__ == "__main__":
  main()
