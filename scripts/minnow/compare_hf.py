"""Checks a published directory against transformers' DeepseekV3ForCausalLM in FP32 (weights dequantised).

Logits of model.py against transformers', and greedy replies to held-out prompts, written by `fathom run --ids ... --greedy --cache f32
--activations f32` (with `--fathom PROGRAM`) or by model.py: every id must be transformers' argmax given the ids before it. Positions at
which transformers' two best logits are closer than the tolerance are listed; there, and only there, ids may differ.
"""
import argparse
import json
import os
import subprocess
import tempfile

import torch
from safetensors.torch import save_file
import transformers

import evaluate
import export
import generate
import model
import tokenizer


def hugging_face(directory):
  """The directory's model in transformers, FP32."""
  tensors = export.dequantised(export.load(directory))
  with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
    config = json.load(f)
  config.pop("quantization_config", None)
  config["torch_dtype"] = "float32"
  mtp = f"model.layers.{config['num_hidden_layers']}."
  with tempfile.TemporaryDirectory() as folder:
    save_file({n: t.contiguous() for n, t in tensors.items() if not n.startswith(mtp)}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
      json.dump(config, f)
    hf, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
  assert not info["missing_keys"] and not info["mismatched_keys"], info
  return hf.eval(), tensors


def fathom_ids(program, directory, prompt, max_new):
  """Greedy ids of the program for a prompt given as ids."""
  command = [program, "run", "-m", directory, "--backend", "cpu", "--cache", "f32", "--activations", "f32", "--greedy", "--json",
             "-n", str(max_new), "--ids", ",".join(map(str, prompt))]
  done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
  return json.loads(done.stdout)["choices"][0]["ids"]


def first_difference(reply, prompt, logits, tolerance):
  """Where greedy decoding from these logits (of prompt + reply, all rows) leaves the reply: (position or None, near ties before it).

  Every id equal to the argmax given the ids before it means that greedy decoding produces exactly this reply.
  """
  ties = []
  for i, token in enumerate(reply):
    row = logits[len(prompt) + i - 1]
    top = row.topk(2)
    if (top.values[0] - top.values[1]).item() < tolerance:
      ties.append(i)
    if top.indices[0].item() != token:
      return i, ties
  return None, ties


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("directory")
  parser.add_argument("--prompts", type=int, default=100)
  parser.add_argument("--max-new", type=int, default=300)
  parser.add_argument("--tolerance", type=float, default=1e-4, help="of logits; also what counts as a near tie")
  parser.add_argument("--fathom", help="the program; without it the replies are those of model.py")
  args = parser.parse_args()
  hf, tensors = hugging_face(args.directory)
  tok = tokenizer.Tokenizer(args.directory)
  decoder = evaluate.Decoder(export.from_published(tensors), torch.device("cpu"))
  g = generate.Generator(4242, "eval")
  samples = [g.sample() for _ in range(args.prompts)]
  worst, equal, tokens, failed = 0.0, 0, 0, False
  with torch.no_grad():
    for s in samples:
      prompt = tok.prompt(s.messages(), s.thinking)
      if args.fathom:
        reply = fathom_ids(args.fathom, args.directory, prompt, args.max_new)
      else:
        reply = decoder.generate([prompt], tok.eos, args.max_new)[0]
      reply = reply + [tok.eos] if len(reply) < args.max_new and tok.eos not in reply else reply
      full = torch.tensor(prompt + reply)
      theirs = hf(full[None]).logits[0].float()
      x, _ = model.Stack(model.CONFIG, [(1, len(full))], torch.device("cpu"), torch.float32, False).hidden(decoder.w, full)
      worst = max(worst, (model.logits_of(decoder.w, x, decoder.w["norm"], torch.float32) - theirs).abs().max().item())
      at, ties = first_difference(reply, prompt, theirs, args.tolerance)
      tokens += len(reply)
      equal += at is None
      for i in ties:
        print(f"near tie at position {i} of the reply to {s.question!r}", flush=True)
      if at is not None:
        near = at in ties
        failed |= not near
        print(f"{'near tie' if near else 'DIFFERENT'} at position {at} of the reply to {s.question!r}", flush=True)
  print(f"{'fathom' if args.fathom else 'model.py'} gives transformers' greedy ids on {equal} of {len(samples)} prompts ({tokens} ids); "
        f"worst logit difference of model.py and transformers {worst:.1e}")
  raise SystemExit(1 if failed or worst >= args.tolerance else 0)


if __name__ == "__main__":
  main()
