"""Training batches: worker processes draw samples, encode them and pack them into buckets of fixed shape."""
import collections
import multiprocessing

import numpy as np

import generate
import tokenizer

LENGTHS = (48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


def encode(tok, sample, rng):
  """(ids, index of the first id to learn)."""
  messages = sample.messages()
  if sample.history and rng.random() < 0.1:  # a caller may keep the newlines that follow the thinking block
    messages = [dict(m, content="\n\n" + m["content"]) if m["role"] == "assistant" else m for m in messages]
  prompt = tok.prompt(messages, sample.thinking)
  return prompt + tok.completion(sample), len(prompt)


def plan(tok, tokens, seed=1234, count=8000):
  """Rows per bucket so that `tokens` per batch hold lengths in the proportion in which they are drawn."""
  g, found = generate.Generator(seed), collections.Counter()
  for _ in range(count):
    n = len(encode(tok, g.sample(), g.rng)[0])
    found.update([t for t in LENGTHS if n <= t][:1])
  padded = sum(t * n for t, n in found.items())
  return [(max(1, round(found[t] * tokens / padded)), t) for t in LENGTHS if found[t]]


def batches(tok, buckets, seed):
  """Endless batches (ids, first, length per sequence): uint16 [N] and int16 [sequences]."""
  g, waiting = generate.Generator(seed), {t: collections.deque(maxlen=4 * rows + 16) for rows, t in buckets}
  lengths = [t for _, t in buckets]
  while True:
    while any(len(waiting[t]) < rows for rows, t in buckets):
      ids, first = encode(tok, g.sample(), g.rng)
      fit = [t for t in lengths if len(ids) <= t]
      if fit:
        waiting[fit[0]].append((ids, first))
    flat, firsts, sizes = [], [], []
    for rows, t in buckets:
      block = np.full((rows, t), tok.pad, np.uint16)
      for r in range(rows):
        ids, first = waiting[t].popleft()
        block[r, :len(ids)] = ids
        firsts.append(first)
        sizes.append(len(ids))
      flat.append(block.reshape(-1))
    yield np.concatenate(flat), np.array(firsts, np.int16), np.array(sizes, np.int16)


def work(directory, buckets, seed, queue):
  tok = tokenizer.Tokenizer(directory)
  for batch in batches(tok, buckets, seed):
    queue.put(batch)


class Loader:
  """Batches of several worker processes; every worker has its own seed."""

  def __init__(self, directory, buckets, seed, workers):
    context = multiprocessing.get_context("spawn")
    self.queue = context.Queue(8 * workers)
    self.workers = [context.Process(target=work, args=(directory, buckets, seed * 1000 + i, self.queue), daemon=True) for i in range(workers)]
    for w in self.workers:
      w.start()

  def next(self):
    return self.queue.get()

  def close(self):
    for w in self.workers:
      w.terminate()
