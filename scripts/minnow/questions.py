"""Writes the fixed set of held-out questions (questions.jsonl): the tasks in turn, so that every prefix is representative."""
import argparse
import json

import evaluate
import generate

SEED, COUNT = 20261122, 500


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("file")
  args = parser.parse_args()
  per_task = -(-COUNT // len(generate.TASK_NAMES))
  sets = [evaluate.questions(task, per_task, SEED) for task in generate.TASK_NAMES]
  rows = [s[i] for i in range(per_task) for s in sets if i < len(s)][:COUNT]
  with open(args.file, "w", encoding="utf-8") as f:
    for s in rows:
      answer = evaluate.final_answer(s.answer.replace(generate.CHARS, ""))
      f.write(json.dumps({"messages": s.messages(), "answer": answer, "task": s.task}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
  main()
