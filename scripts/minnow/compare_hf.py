"""Checks a published directory against transformers' DeepseekV3ForCausalLM in FP32 (weights dequantised).

Logits of model.py against transformers', and greedy ids of both on held-out prompts; with `--fathom PROGRAM` also the ids of
`fathom run --ids ... --greedy --cache f32 --activations f32`. Ids must agree up to the first position at which the two best logits of
transformers are closer than the tolerance; such positions are listed.
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


def same(theirs, others, gaps, tolerance, eos):
  """True if the ids agree up to the first near tie, and the position of that tie or None."""
  strip = lambda ids: ids[:ids.index(eos)] if eos in ids else ids
  a, b = strip(theirs), strip(others)
  tie = next((i for i, gap in enumerate(gaps) if gap < tolerance), None)
  return (a == b if tie is None else a[:tie] == b[:tie]), tie


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("directory")
  parser.add_argument("--prompts", type=int, default=100)
  parser.add_argument("--max-new", type=int, default=64)
  parser.add_argument("--tolerance", type=float, default=1e-4)
  parser.add_argument("--fathom", help="the program to compare as well")
  parser.add_argument("--jsonl", help="writes {prompt ids, greedy ids, top-2 gaps} of transformers, one line a prompt")
  args = parser.parse_args()
  hf, tensors = hugging_face(args.directory)
  tok = tokenizer.Tokenizer(args.directory)
  decoder = evaluate.Decoder(export.from_published(tensors), torch.device("cpu"))
  g = generate.Generator(4242, "eval")
  samples = [g.sample() for _ in range(args.prompts)]
  prompts = [tok.prompt(s.messages(), s.thinking) for s in samples]
  worst, equal, program, lines = 0.0, 0, 0, []
  with torch.no_grad():
    for s, prompt in zip(samples, prompts):
      mine = decoder.generate([prompt], tok.eos, args.max_new)[0]
      ids = torch.tensor([prompt])
      theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.max_new, do_sample=False, pad_token_id=tok.pad, eos_token_id=tok.eos)[0, len(prompt):].tolist()
      full = prompt + theirs
      logits = hf(torch.tensor([full])).logits[0].float()
      stack = model.Stack(model.CONFIG, [(1, len(full))], torch.device("cpu"), torch.float32, False)
      x, _ = stack.hidden(decoder.w, torch.tensor(full))
      ours = model.logits_of(decoder.w, x, decoder.w["norm"], torch.float32)
      worst = max(worst, (ours - logits).abs().max().item())
      top = logits[len(prompt) - 1:-1].topk(2).values
      gaps = (top[:, 0] - top[:, 1]).tolist()
      ok, tie = same(theirs, mine, gaps, args.tolerance, tok.eos)
      equal += ok
      if tie is not None:
        print(f"near tie at position {tie} of {s.question!r}: gap {gaps[tie]:.1e}")
      if args.fathom:
        found = fathom_ids(args.fathom, args.directory, prompt, args.max_new)
        ok, _ = same(theirs, found, gaps, args.tolerance, tok.eos)
        program += ok
        if not ok:
          print(f"fathom differs on {s.question!r}: {tok.decode(found)!r} instead of {tok.decode(theirs)!r}")
      lines.append({"prompt": prompt, "ids": theirs, "gaps": [round(v, 5) for v in gaps]})
  print(f"worst logit difference {worst:.2e}; equal greedy replies: model.py {equal} of {len(prompts)}" + (f", fathom {program} of {len(prompts)}" if args.fathom else ""))
  if args.jsonl:
    with open(args.jsonl, "w", encoding="utf-8") as f:
      f.writelines(json.dumps(line) + "\n" for line in lines)
  raise SystemExit(0 if worst < args.tolerance and equal == len(prompts) and (not args.fathom or program == len(prompts)) else 1)


if __name__ == "__main__":
  main()
