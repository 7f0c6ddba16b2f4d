"""Checks a published directory against transformers' DeepseekV3ForCausalLM in FP32 (weights dequantised): logits and greedy ids."""
import argparse
import json
import os
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


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("directory")
  parser.add_argument("--prompts", type=int, default=100)
  parser.add_argument("--max-new", type=int, default=64)
  parser.add_argument("--tolerance", type=float, default=1e-4)
  parser.add_argument("--jsonl", help="writes {prompt ids, greedy ids, top-2 gaps} of transformers, one line a prompt")
  args = parser.parse_args()
  hf, tensors = hugging_face(args.directory)
  tok = tokenizer.Tokenizer(args.directory)
  decoder = evaluate.Decoder(export.from_published(tensors), torch.device("cpu"))
  g = generate.Generator(4242, "eval")
  samples = [g.sample() for _ in range(args.prompts)]
  prompts = [tok.prompt(s.messages(), s.thinking) for s in samples]
  worst, equal, lines = 0.0, 0, []
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
      theirs = theirs[:-1] if theirs and theirs[-1] == tok.eos else theirs
      equal += theirs == mine
      lines.append({"prompt": prompt, "ids": theirs, "gaps": [round(v, 5) for v in gaps]})
  print(f"worst logit difference {worst:.2e}; equal greedy replies {equal} of {len(prompts)}")
  if args.jsonl:
    with open(args.jsonl, "w", encoding="utf-8") as f:
      f.writelines(json.dumps(line) + "\n" for line in lines)
  raise SystemExit(0 if worst < args.tolerance and equal == len(prompts) else 1)


if __name__ == "__main__":
  main()
