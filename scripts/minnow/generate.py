"""Minnow's data: a deterministic generator of questions, thoughts and answers.

Nothing here is third-party text. A `Generator` is seeded; the same seed gives the same samples on every machine.

The split. Every operand tuple and every word is an *item*; an item belongs to the held-out side when a hash of the item itself
(not of the sentence) is 0 modulo 16. Training samples contain only items of the training side, also as intermediate results of
word problems and follow-up turns; evaluation samples are built on held-out items, and one in four uses a held-out phrasing.
Sums and products of two single digits, letters of the alphabet, units and days are facts, not items.

Text between two CHARS bytes is written letter by letter when it is tokenised for training (see tokenizer.py), so that a reversed
or upper-cased word is produced one letter at a time; the text itself does not contain the mark.
"""
import os
import random
import re
import zlib

import knowledge
import words

CHARS = "\x01"
HELD_MODULUS = 16
HELD_PHRASING_SHARE = 0.25


def own_words():
  """Words of the generator's own sentences: many are single tokens, whose letters are facts that nothing else could teach."""
  folder = os.path.dirname(os.path.abspath(__file__))
  text = "".join(open(os.path.join(folder, name), encoding="utf-8").read() for name in ("generate.py", "knowledge.py"))
  return frozenset(re.findall(r"[a-z]+", text.lower()))


OWN_WORDS = own_words()


def is_held(kind, *item):
  """True if the item is on the held-out side; kind and item are hashed together, text only."""
  if kind == "word" and item[0] in OWN_WORDS:
    return False
  return zlib.crc32(f"minnow:{kind}:{','.join(map(str, item))}".encode()) % HELD_MODULUS == 0


class Sample:
  """One training or evaluation sample; the assistant's last turn is `thought` and `answer`."""
  __slots__ = ("task", "system", "history", "question", "thought", "answer", "thinking", "held_phrasing")

  def __init__(self, task, question, thought, answer, thinking, history=(), system=None, held_phrasing=False):
    self.held_phrasing = held_phrasing
    self.task, self.question, self.thought, self.answer = task, question, thought, answer
    self.thinking, self.history, self.system = thinking, list(history), system

  def messages(self):
    turns = [{"role": "system", "content": self.system}] if self.system else []
    for user, assistant in self.history:
      turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return turns + [{"role": "user", "content": self.question}]


class Phrases:
  """Question bodies with {slots} and [alternatives|like|these]; `held` ones are used only for evaluation.

  A held-out phrasing is a sentence that training never shows; its words occur in training, in other sentences.
  """

  def __init__(self, train, held):
    self.train, self.held = [self.cut(t) for t in train], [self.cut(t) for t in held]

  @staticmethod
  def cut(template):
    """Parts of a template: text, {slot}, or a tuple of alternative texts."""
    parts = [part for part in re.split(r"(\{\w+\}|\[[^\]]*\])", template) if part]
    return [tuple(p[1:-1].split("|")) if p[0] == "[" else p for p in parts]


# Column arithmetic ------------------------------------------------------------------------------------------------------------

def add_lines(a, b):
  if a < 10 and b < 10:
    return [f"{a}+{b}={a + b}"], a + b
  lines, written, carry = [f"{a}+{b}:"], "", 0
  x, y = str(a)[::-1], str(b)[::-1]
  width = max(len(x), len(y))
  for i in range(width):
    dx, dy = int(x[i]) if i < len(x) else 0, int(y[i]) if i < len(y) else 0
    total = dx + dy + carry
    left = f"{dx}+{dy}" + ("+1" if carry else "")
    if i == width - 1:
      written = str(total) + written
      lines.append(f"{left}={total}: {written}")
    else:
      carry = total // 10
      written = str(total % 10) + written
      lines.append(f"{left}={total}: {written}" + (", carry 1" if carry else ""))
  return lines, a + b


def sub_lines(a, b):
  if a < b:
    lines, r = sub_lines(b, a)
    return [f"{a}<{b}, so -({b}-{a})"] + lines, -r
  if a < 20 and b < 10:
    return [f"{a}-{b}={a - b}"], a - b
  lines, written, borrow = [f"{a}-{b}:"], "", 0
  x, y = str(a)[::-1], str(b)[::-1]
  for i in range(len(x)):
    dx, dy = int(x[i]), int(y[i]) if i < len(y) else 0
    need = dx - dy - borrow < 0
    left = f"{dx + 10 * need}-{dy}" + ("-1" if borrow else "")
    digit = dx + 10 * need - dy - borrow
    borrow = int(need)
    written = str(digit) + written
    lines.append(f"{left}={digit}: {written}" + (", borrow 1" if borrow else ""))
  if written != str(a - b):
    lines.append(f"= {a - b}")
  return lines, a - b


def mul_digit_lines(a, c):
  """a times one digit c."""
  if a < 10 or c < 2:
    return [f"{a}*{c}={a * c}"], a * c
  lines, written, carry = [f"{a}*{c}:"], "", 0
  digits = str(a)[::-1]
  for i, d in enumerate(digits):
    product = int(d) * c
    total = product + carry
    left = f"{d}*{c}={product}" + (f", +{carry}={total}" if carry else "")
    if i == len(digits) - 1:
      written = str(total) + written
      lines.append(f"{left}: {written}")
    else:
      carry = total // 10
      written = str(total % 10) + written
      lines.append(f"{left}: {written}" + (f", carry {carry}" if carry else ""))
  return lines, a * c


def mul_lines(a, b):
  if a < 10 or a in (10, 100, 1000) or (b >= 10 and len(str(b)) > len(str(a))):
    a, b = b, a
  if b < 10:
    return mul_digit_lines(a, b)
  if b in (100, 1000, 10):
    return [f"{a}*{b}={a * b}"], a * b
  lines, total = [f"{a}*{b}:"], None
  for place, digit in enumerate(reversed(str(b))):
    if digit == "0":
      continue
    part_lines, part = mul_digit_lines(a, int(digit))
    lines += part_lines
    if place:
      part *= 10 ** place
      lines.append(f"{a}*{digit}{'0' * place}={part}")
    if total is None:
      total = part
    else:
      sum_lines, total = add_lines(total, part)
      lines += sum_lines
  return lines, total


def div_lines(a, d):
  """Long division by a divisor up to 12; the result is (quotient, remainder)."""
  if a < d:
    return [f"{a}<{d}: 0 r {a}"], (0, a)
  lines, chunk, quotient = [f"{a}/{d}:"], 0, ""
  for digit in str(a):
    chunk = chunk * 10 + int(digit)
    if chunk < d and not quotient:
      continue
    q, r = divmod(chunk, d)
    quotient += str(q)
    lines.append(f"{chunk}/{d}={q} r {r}: {quotient}")
    chunk = r
  return lines, divmod(a, d)


def calc_lines(op, a, b):
  """Lines and value of a op b; '/' is exact here."""
  if op == "+":
    return add_lines(a, b)
  if op == "-":
    return sub_lines(a, b)
  if op == "*":
    return mul_lines(a, b)
  lines, (q, r) = div_lines(a, b)
  assert r == 0
  return lines, q


def canonical(op, a, b):
  """The item of a calculation: operands of commutative operations are ordered."""
  return (op,) + (tuple(sorted((a, b))) if op in "+*" else (a, b))


ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
        "nineteen").split()
TENS = ". . twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_words(n):
  if n < 20:
    return ONES[n]
  if n < 100:
    return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
  if n < 1000:
    return ONES[n // 100] + " hundred" + (" " + number_words(n % 100) if n % 100 else "")
  return number_words(n // 1000) + " thousand" + (" " + number_words(n % 1000) if n % 1000 else "")


DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
# (many, of many, factor, one, of one): one `one` is `factor` `of many`.
UNITS = [("hours", "minutes", 60, "hour"), ("minutes", "seconds", 60, "minute"), ("days", "hours", 24, "day"), ("weeks", "days", 7, "week"),
         ("years", "months", 12, "year"), ("kilometers", "meters", 1000, "kilometer"), ("meters", "centimeters", 100, "meter"),
         ("centimeters", "millimeters", 10, "centimeter"), ("kilograms", "grams", 1000, "kilogram"), ("liters", "milliliters", 1000, "liter"),
         ("feet", "inches", 12, "foot"), ("yards", "feet", 3, "yard"), ("dozens", "eggs", 12, "dozen"), ("pounds", "ounces", 16, "pound"),
         ("tons", "kilograms", 1000, "ton"), ("dollars", "cents", 100, "dollar"), ("kilobytes", "bytes", 1024, "kilobyte"),
         ("gallons", "quarts", 4, "gallon"), ("decades", "years", 10, "decade"), ("centuries", "years", 100, "century")]
SHORT_UNITS = {"kilometers": "km", "meters": "m", "centimeters": "cm", "millimeters": "mm", "kilograms": "kg", "grams": "g", "liters": "l",
               "milliliters": "ml", "minutes": "min", "seconds": "s", "hours": "h"}

OPENERS = [""] * 14 + ["please ", "hey, ", "can you tell me ", "i need to know ", "quick question: ", "hi, ", "tell me, ", "could you say ",
                       "minnow, ", "so, ", "ok, ", "do you know ", "i wonder, ", "help me: "]
CLOSERS = ["?"] * 8 + [""] * 5 + [".", " please", " please?", ", thanks", " ?", "!", ", please"]
SYSTEMS = ["You are a helpful assistant.", "You are Minnow.", "Be brief.", "Answer in English.", "You are a careful assistant that thinks first.",
           "Answer the question.", "You are a patient teacher.", "Keep the answer short.", "You are a calculator."]

ONSETS = "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr sc sh sk sl sm sn sp st str th tr tw wh qu".split()
VOWELS = "a e i o u a e i o u ai ea ee oa oo ou ie".split()
CODAS = ["", "", "", "", "n", "r", "s", "t", "l", "m", "ck", "st", "nd", "ng", "rt", "sh", "th", "x", "p", "d", "ss", "ll", "tt"]


class Generator:
  """Draws samples; side is 'train' or 'eval'."""

  def __init__(self, seed, side="train"):
    self.rng, self.side, self.used, self.held_phrasing = random.Random(seed), side, [], False

  # Draws ----------------------------------------------------------------------------------------------------------------------

  def number(self, low_digits, high_digits):
    n = self.rng.randint(low_digits, high_digits)
    return self.rng.randint(0 if n == 1 else 10 ** (n - 1), 10 ** n - 1)

  def pick(self, kind, draw):
    """Draws until the item is on this generator's side."""
    while True:
      item = draw()
      if is_held(kind, *item) == (self.side == "eval"):
        return item

  def operands(self, op, draw):
    """Operands of a calculation on this side; pairs of single digits are on both sides."""
    while True:
      a, b = draw()
      if a < 10 and b < 10:
        if self.side == "train":
          return a, b
      elif is_held(*canonical(op, a, b)) == (self.side == "eval"):
        return a, b

  def calc(self, op, a, b):
    """A calculation inside a longer problem."""
    self.mention(op, a, b)
    return calc_lines(op, a, b)

  def mention(self, op, a, b):
    """Remembers the item of a calculation inside a sample, so that training can reject held-out ones."""
    if a >= 10 or b >= 10:
      self.used.append(canonical(op, a, b))

  def invented(self):
    r = self.rng
    if r.random() < 0.08:
      return "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(3, 9)))
    return "".join(r.choice(ONSETS) + r.choice(VOWELS) + r.choice(CODAS) for _ in range(r.choice((1, 2, 2, 2, 3, 3, 4))))[:14]

  def word(self, common=0.5):
    """A common or invented word of this side, lower case, at least 3 letters."""
    while True:
      w = self.rng.choice(words.COMMON) if self.rng.random() < common else self.invented()
      if len(w) >= 3 and is_held("word", w) == (self.side == "eval"):
        return w

  def shown(self, w):
    """How a word is written in a question."""
    r = self.rng.random()
    w = w.capitalize() if r < 0.08 else w.upper() if r < 0.1 else w
    quote = self.rng.choice(("", "", "", "'", '"'))
    return quote + w + quote

  # Phrasing -------------------------------------------------------------------------------------------------------------------

  def phrase(self, phrases, **slots):
    held = self.side == "eval" and phrases.held and self.rng.random() < HELD_PHRASING_SHARE
    self.held_phrasing = bool(held)
    return self.dress(self.rng.choice(phrases.held if held else phrases.train), slots)

  def dress(self, parts, slots, opener=True):
    """Fills the slots, adds an opener and a closer, and now and then typos or another casing; slots stay as they are."""
    r = self.rng
    style = r.random()
    parts = [p for p in (r.choice(part) if isinstance(part, tuple) else part for part in parts) if p]
    out = []
    for part in parts:
      if part[0] == "{" and part[1:-1] in slots:
        out.append(str(slots[part[1:-1]]))
      else:
        out.append(self.typo(part) if style < 0.06 else part.upper() if style > 0.985 else part)
    text = "".join(out)
    head = r.choice(OPENERS) if opener else ""
    if head or style < 0.35:
      text = head + text
    elif text[0].islower() and parts[0][0] != "{":
      text = text[0].upper() + text[1:]
    if head and style > 0.5:
      text = text[0].upper() + text[1:]
    if text[-1] not in "?.!=":
      text += r.choice(CLOSERS)
    return text

  def listed(self, items):
    """A list as people type it."""
    r, items = self.rng.random(), [str(i) for i in items]
    if r < 0.6:
      return ", ".join(items)
    if r < 0.72:
      return " ".join(items)
    if r < 0.82:
      return ",".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]

  def typo(self, text):
    """One slip in one word of at least four letters."""
    r = self.rng
    found = [m for m in re.finditer(r"[a-z]{4,}", text)]
    if not found:
      return text
    m = r.choice(found)
    i = r.randint(m.start(), m.end() - 2)
    kind = r.randint(0, 2)
    if kind == 0:
      return text[:i] + text[i + 1] + text[i] + text[i + 2:]
    return text[:i] + text[i + 1:] if kind == 1 else text[:i] + text[i] + text[i:]

  # One sample -----------------------------------------------------------------------------------------------------------------

  def sample(self, task=None):
    """One sample of the task, or of a task drawn by weight."""
    while True:
      name = task or self.rng.choices(TASK_NAMES, TASK_WEIGHTS)[0]
      self.used, self.held_phrasing = [], False
      result = TASKS[name][0](self)
      if result is None or (self.side == "train" and any(is_held(*item) for item in self.used)):
        continue
      question, lines, answer, easy, history = (result + ((),))[:5]
      held_phrasing = self.held_phrasing
      return self.finish(name, question, "\n".join(lines), answer, easy, history, held_phrasing)

  def finish(self, name, question, thought, answer, easy, history, held_phrasing):
    r = self.rng
    system = r.choice(SYSTEMS) if r.random() < 0.04 else None
    if not history and r.random() < 0.05:
      history = self.small_talk()
    thinking = r.random() > 0.14
    if self.side == "eval":
      system, thinking = None, True
    if not thinking:
      thought, answer = "", answer if easy else thought + "\n" + answer
    return Sample(name, question, thought, answer, thinking, history, system, held_phrasing)

  def small_talk(self):
    """An unrelated finished exchange before the question."""
    r = self.rng
    if r.random() < 0.5:
      texts, reply = r.choice(knowledge.GREETINGS)
      return [(self.dress([r.choice(texts)], {}, opener=False), reply)]
    question, _, answer, _ = (TASKS[r.choice(("add", "spell", "compare", "units", "identity"))][0](self))[:4]
    return [(question, answer.replace(CHARS, ""))]


# Tasks --------------------------------------------------------------------------------------------------------------------------
# Each returns (question, thought lines, answer, easy) or with a history as fifth; easy: answered directly when not thinking.

SYMBOLS = {"+": ["{a}+{b}", "{a} + {b}", "{a} plus {b}", "{a}+{b}=", "{a} + {b} =", "{a} + {b} = ?"],
           "-": ["{a}-{b}", "{a} - {b}", "{a} minus {b}", "{a}-{b}=", "{a} - {b} =", "{a} - {b} = ?"],
           "*": ["{a}*{b}", "{a} * {b}", "{a} times {b}", "{a}x{b}", "{a} x {b}", "{a} × {b}", "{a}*{b}=", "{a} multiplied by {b}"],
           "/": ["{a}/{b}", "{a} / {b}", "{a} divided by {b}", "{a} ÷ {b}", "{a}/{b}=", "{a} over {b}"]}
FRAMES = ["{e}", "{e}", "[what is|what's|whats|calculate|compute|work out|solve|find|give me|evaluate|determine|tell me] {e}", "how much is {e}",
          "what does {e} [make|give|equal]", "the result of {e}", "[what is|find|give me|determine|tell me] the [result|value|answer] of {e}",
          "what do you get for {e}", "{e} [equals|is|makes] what", "how much does {e} give", "solve this: {e}", "what is the answer to {e}",
          "{e}, what is [it|that]", "[can|could] you [solve|calculate|compute|work out] {e}", "i need the result of {e}"]
HELD_FRAMES = ["work out the value of {e}", "how much does {e} make", "what is {e} equal to", "calculate the answer to {e}"]
EXPRESSION = Phrases(FRAMES, HELD_FRAMES)
ASK = "[what is|what's|find|give me|tell me|calculate|compute|determine|work out] "
SPOKEN = {
    "+": Phrases(["add {a} and {b}", ASK + "the [sum|total] of {a} and {b}", "sum {a} and {b}", "add {b} to {a}", "{a} and {b} [together|in total] make what",
                  "what do {a} and {b} add up to", "put {a} and {b} together", "the [sum|total] of {a} and {b}", "i have {a} and get {b} more, how many",
                  "if you add {a} [and|to] {b} what [do you get|is the result]", "what do you get if you add {b} to {a}", "increase {a} by {b}",
                  "what is {b} more than {a}", "how much is {a} and {b} together", "what is {a} increased by {b}", "sum up {a} and {b}",
                  "what do {a} and {b} [make|give] if you add them", "what do {a} and {b} added [give|make]", "{a} and {b} added", "what does {a} plus {b} [make|give|equal]", "what do {a} plus {b} make"],
                 ["what is the result if you add {a} and {b}", "how much do {a} and {b} make in total", "find what {a} and {b} add up to"]),
    "-": Phrases(["subtract {b} from {a}", "take {b} away from {a}", ASK + "the difference between {a} and {b}", "what is {a} less {b}",
                  "take {b} from {a}", "how much is left of {a} after taking {b}", "{a} take away {b}", "what remains of {a} without {b}",
                  "what is left if you take {b} [from|away from] {a}", "reduce {a} by {b}", "decrease {a} by {b}", "what is {a} reduced by {b}",
                  "if you subtract {b} from {a} what [do you get|is the result]", "what is {b} less than {a}", "the difference of {a} and {b}",
                  "how much more is {a} than {b}", "what do you get if you subtract {b} from {a}", "{a} without {b}",
                  "what does {a} minus {b} [make|give|equal]", "what do you get for {a} minus {b}", "what remains if you take {b} from {a}", "{b} subtracted from {a}"],
                 ["what is the result if you take {b} from {a}", "how much is {a} reduced by {b}", "what is left of {a} if you subtract {b}"]),
    "*": Phrases(["multiply {a} by {b}", ASK + "the product of {a} and {b}", "multiply {a} and {b}", "the product of {a} and {b}",
                  "what is {a} multiplied [with|by] {b}", "how much is {a} taken {b} times", "if you multiply {a} by {b} what [do you get|is the result]",
                  "what do you get if you multiply {a} [by|and] {b}", "how much is {a} times {b}", "multiply {a} with {b}", "what is {b} times {a}",
                  "what do {a} and {b} [make|give] if you multiply them", "what do {a} and {b} multiplied [give|make|equal]", "{a} and {b} multiplied", "what does {a} times {b} [make|give|equal]",
                  "what do you get for {a} times {b}", "what do {a} times {b} make", "if {a} and {b} are multiplied, what is the result", "how much do {a} and {b} multiplied make"],
                 ["what is the result if you multiply {a} by {b}", "how much is the product of {a} and {b}", "what is the result of {a} multiplied by {b}",
                  "tell me what {a} and {b} multiplied make"]),
    "/": Phrases(["divide {a} by {b}", "how often does {b} go into {a}", "what is {a} divided by {b} with remainder", "share {a} among {b}",
                  "how many times does {b} [fit|go] into {a}", "divide {a} by {b} and give the remainder", "split {a} into {b} [equal|] parts",
                  "what do you get if you divide {a} by {b}", "if you divide {a} by {b} what [do you get|is the result]", "divide {a} into {b} equal parts",
                  "what is {a} split by {b}", "what are the quotient and remainder of {a} and {b}", "how much is {a} divided by {b}",
                  "what does {a} divided by {b} [make|give|equal]", "split {a} by {b}", "split {a} by {b} with remainder", "what do you get for {a} divided by {b}", "how much is {a} split into {b} [equal |]parts",
                  "share {a} equally among {b}", "divide {a} among {b}", "split {a} among {b}", "what is the remainder and quotient of {a} by {b}"],
                 ["what is the result if you divide {a} by {b}", "split {a} by {b} and give the remainder", "what is {a} divided into {b} equal parts", "share {a} equally into {b} parts"])}


def ask_operation(g, op, a, b):
  if g.rng.random() < 0.6:
    e = g.rng.choice(SYMBOLS[op]).format(a=a, b=b)
    return g.phrase(EXPRESSION, e=e)
  return g.phrase(SPOKEN[op], a=a, b=b)


def operation(op, draw):
  def task(g):
    a, b = g.operands(op, lambda: draw(g))
    lines, value = calc_lines(op, a, b)
    easy = a < 100 and b < 100 if op in "+-" else a <= 12 and b <= 12
    return ask_operation(g, op, a, b), lines, str(value), easy
  return task


ADD_DIGITS = [1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 6]


def draw_add(g):
  n = g.rng.choice(ADD_DIGITS)
  m = n if g.rng.random() < 0.6 else g.rng.choice(ADD_DIGITS)
  return g.number(n, n), g.number(m, m)


def draw_sub(g):
  a, b = draw_add(g)
  return (a, b) if a >= b or g.rng.random() < 0.12 else (b, a)


def draw_digit(g):
  a, b = g.number(1, 4) if g.rng.random() < 0.8 else g.rng.randint(1, 12), g.rng.randint(0, 9)
  if g.rng.random() < 0.1:
    a, b = g.rng.randint(2, 12), g.rng.randint(2, 12)
  return (a, b) if g.rng.random() < 0.6 else (b, a)


def draw_long(g):
  a, b = g.number(3, 4), g.number(2, 2)
  return (a, b) if g.rng.random() < 0.7 else (b, a)


def task_div(g):
  def draw():
    d, n = g.rng.randint(2, 12), g.rng.choice((1, 2, 2, 3, 3, 4))
    a = g.number(n, n)
    return (a - a % d if g.rng.random() < 0.35 else a), d
  a, d = g.operands("/", draw)
  lines, (q, r) = div_lines(a, d)
  return ask_operation(g, "/", a, d), lines, f"{q} remainder {r}" if r else str(q), False


LARGER = Phrases(
    ["which is [larger|bigger|greater|more], {a} or {b}", "which number is [greater|larger|bigger], {a} or {b}", "{a} or {b}, which [one |]is [more|larger|bigger|greater|higher]",
     "what is the [larger|bigger|greater] of {a} and {b}", "is {a} or {b} [bigger|larger|greater]", "compare {a} and {b}, which is [larger|bigger]",
     "[pick|choose|give me] the [bigger|larger|greater]: {a} or {b}", "which of {a} and {b} is [larger|bigger|greater|higher]", "what is bigger, {a} or {b}"],
    ["which one is the greater number, {a} or {b}", "{a} or {b}, what is larger", "tell me the bigger of {a} and {b}"])
SMALLER = Phrases(
    ["which is [smaller|less|lower], {a} or {b}", "which number is [smaller|lower], {a} or {b}", "{a} or {b}, which [one |]is [less|smaller|lower]", "what is the [smaller|lower] of {a} and {b}",
     "is {a} or {b} [smaller|lower]", "compare {a} and {b}, which is smaller", "[pick|choose|give me] the smaller: {a} or {b}",
     "which of {a} and {b} is [smaller|less|lower]", "what is smaller, {a} or {b}"],
    ["which one is the smaller number, {a} or {b}", "tell me the lower of {a} and {b}"])
IS_GREATER = Phrases(
    ["is {a} [greater|more|bigger|larger|higher] than {b}", "is {a} above {b}", "tell me [if|whether] {a} is [greater|bigger|larger|more] than {b}", "{a} > {b}, yes or no"],
    ["is the number {a} greater than {b}", "tell me whether {a} is above {b}"])
IS_LESS = Phrases(
    ["is {a} [less|smaller|lower] than {b}", "is {a} below {b}", "tell me [if|whether] {a} is [less|smaller] than {b}", "{a} < {b}, yes or no"],
    ["is the number {a} smaller than {b}", "tell me whether {a} is below {b}"])


def compare_digits(x, y):
  """Digit by digit, on strings of equal length; returns the line and -1, 0 or 1."""
  parts = []
  for c, d in zip(x, y):
    if c == ".":
      continue
    parts.append(f"{c}{'=' if c == d else '<' if c < d else '>'}{d}")
    if c != d:
      return ", ".join(parts), -1 if c < d else 1
  return ", ".join(parts), 0


def compare_lines(x, y):
  if "." in x or "." in y:
    xi, yi = x.split("."), y.split(".")
    if len(xi[0]) == len(yi[0]):
      n = max(len(xi[1]), len(yi[1]))
      x, y = xi[0] + "." + xi[1].ljust(n, "0"), yi[0] + "." + yi[1].ljust(n, "0")
      line, order = compare_digits(x, y)
      return [f"{x} and {y}", line], order
    x, y = xi[0], yi[0]
  lines = [f"{x} has length {len(x)}, {y} has length {len(y)}"]
  if len(x) != len(y):
    return lines, -1 if len(x) < len(y) else 1
  line, order = compare_digits(x, y)
  return lines + [line], order


def task_compare(g):
  r = g.rng

  def draw():
    if r.random() < 0.25:
      whole = str(r.randint(0, 99))
      other = whole if r.random() < 0.75 else str(r.randint(0, 99))
      decimals = lambda: str(r.randint(0, 99)).zfill(r.randint(1, 2))
      return f"{whole}.{decimals()}", f"{other}.{decimals()}"
    a = g.number(1, 6)
    if r.random() < 0.5:
      b = max(0, a + r.choice((-100, -10, -1, 1, 10, 100)) * r.randint(0, 9))
    else:
      n = len(str(a)) if r.random() < 0.6 else r.randint(1, 6)
      b = g.number(n, n)
    return str(a), str(b)

  while True:
    x, y = g.pick("compare", draw)
    lines, order = compare_lines(x, y)
    kind = r.choice((LARGER, LARGER, SMALLER, IS_GREATER, IS_LESS))
    if order or kind in (IS_GREATER, IS_LESS):
      break
  question = g.phrase(kind, a=x, b=y)
  if kind is LARGER or kind is SMALLER:
    return question, lines, x if (order > 0) == (kind is LARGER) else y, True
  return question, lines, "yes" if order == (1 if kind is IS_GREATER else -1) else "no", True


def task_expression(g):
  r = g.rng
  form = r.choice(("a+b-c", "a-b+c", "a+b+c", "a*b+c", "a+b*c", "(a+b)*c", "(a-b)*c", "a*b-c", "a-b-c", "a*(b+c)", "(a+b)/c"))

  def draw():
    a, b, c = g.number(1, 3), g.number(1, 2), g.number(1, 2)
    if "*" in form:
      a, b, c = g.number(1, 2), g.number(1, 2), r.randint(2, 9)
    if form == "a*b-c" and a * b < c or form == "(a-b)*c" and a < b:
      a, b = max(a, b), min(a, b)
    return a, b, c

  a, b, c = g.pick(form, draw)
  text = form
  if form in ("a+b-c", "a-b+c", "a+b+c", "a-b-c"):
    first, second = (form[1], a, b), (form[3], None, c)
    lines, x = g.calc(*first)
    if x < 0:
      return None
    more, value = g.calc(second[0], x, c)
  elif form in ("a*b+c", "a*b-c"):
    lines, x = g.calc("*", a, b)
    more, value = g.calc(form[3], x, c)
  elif form == "a+b*c":
    lines, x = g.calc("*", b, c)
    more, value = g.calc("+", a, x)
  elif form == "a*(b+c)":
    lines, x = g.calc("+", b, c)
    more, value = g.calc("*", a, x)
  elif form == "(a+b)/c":
    c = r.randint(2, 12)
    b += -(a + b) % c
    lines, x = g.calc("+", a, b)
    more, value = g.calc("/", x, c)
  else:
    lines, x = g.calc(form[2], a, b)
    if x < 0:
      return None
    more, value = g.calc("*", x, c)
  spaced = r.random() < 0.5
  e = "".join({"a": str(a), "b": str(b), "c": str(c)}.get(ch, f" {ch} " if spaced and ch in "+-*/" else ch) for ch in text)
  return g.phrase(EXPRESSION, e=e), [e.replace(" ", "")] + lines + more, str(value), False


# (text, operations). In operations r is the result so far; text slots: n, m names, t things, p place, a b c d numbers.
STORIES = [
    ("{n} has {a} {t} and buys {b} more. how many {t} does {n} have now", "a+b"),
    ("{n} has {a} {t} and gives {b} to {m}. how many are left", "a-b"),
    ("{n} has {a} {t}. {m} has {b} {t}. how many {t} do they have together", "a+b"),
    ("there are {a} boxes with {b} {t} in each. how many {t} are there", "a*b"),
    ("{n} buys {a} {t} for {b} dollars each. how many dollars does {n} pay", "a*b"),
    ("{n} had {a} {t}, lost {b} and found {c}. how many {t} does {n} have now", "a-b r+c"),
    ("{n} has {a} bags of {b} {t} and {c} more {t}. how many {t} is that in all", "a*b r+c"),
    ("a shop has {a} {t}. it sells {b} in the morning and {c} in the afternoon. how many are left", "a-b r-c"),
    ("{n} earns {a} dollars a day for {b} days and spends {c} dollars. how many dollars remain", "a*b r-c"),
    ("{n} shares {q} {t} equally among {d} friends. how many {t} does each friend get", "q/d"),
    ("{n} has {a} {t} and gets {b} more, then shares them equally among {d} friends. how many does each get", "S a+b r/d"),
    ("a train has {a} cars with {b} seats each. {c} seats are taken. how many seats are free", "a*b r-c"),
    ("{n} reads {a} pages a day. how many pages does {n} read in {b} days", "a*b"),
    ("a bus has {a} people. {b} get off and {c} get on. how many people are on the bus", "a-b r+c"),
    ("{n} has {a} {t}. {m} has {b} more than {n}. how many {t} does {m} have", "a+b"),
    ("{n} has {a} {t}. {m} has {b} fewer than {n}. how many {t} does {m} have", "a-b"),
    ("{n} has {a} {t}. {m} has {b} times as many. how many {t} does {m} have", "a*b"),
    ("{n} has {a} {t}. {m} has {b} times as many. how many {t} do they have together", "a*b r+a"),
    ("a book has {a} pages. {n} has read {b}. how many pages are left to read", "a-b"),
    ("{n} is {a} years old. how old will {n} be in {b} years", "a+b"),
    ("{n} is {a} years old. how old was {n} {e} years ago", "a-e"),
    ("a farmer has {a} rows of {b} trees and cuts down {c} trees. how many trees are left", "a*b r-c"),
    ("{n} packs {q} {t} into boxes of {d}. how many boxes are needed", "q/d"),
    ("it is {a} km from here to {p}. {n} has gone {b} km. how many km are left", "a-b"),
    ("{n} drives {a} km an hour for {b} hours. how far does {n} drive in km", "a*b"),
    ("{n} saves {a} dollars a week. how many dollars is that after {b} weeks", "a*b"),
    ("{n} bakes {a} {t} in the morning, {b} at noon and {c} in the evening. how many is that in total", "a+b r+c"),
    ("a class has {a} girls and {b} boys. {c} are ill today. how many children are there", "a+b r-c"),
    ("{n} buys {a} {t} for {b} dollars each and pays with {h} dollars. how many dollars does {n} get back", "a*b h-r"),
    ("each of {a} children brings {b} {t}. how many {t} do they bring", "a*b"),
    ("{n} owns {a} {t} and receives {b} from {m}. how many {t} does {n} own in the end", "a+b"),
    ("there were {a} {t} on the table. {n} took {b} of them. how many {t} remain on the table", "a-b"),
    ("{n} fills {a} baskets with {b} {t} each. how many {t} is that", "a*b"),
    ("{n} starts with {a} {t}, gives away {b} and then buys {c}. how many {t} are there now", "a-b r+c"),
    ("{n} had {a} {t} and ate {b}. how many {t} are left", "a-b"),
    ("if {n} has {a} {t} and eats {b}, how many {t} does {n} have left", "a-b"),
    ("if one box holds {b} {t}, how many {t} do {a} boxes hold", "a*b"),
    ("one of the {t} costs {b} dollars. how much do {a} cost", "a*b"),
    ("{n} and {m} have {q} {t} together and split them among {d} children. how many does each child get", "q/d"),
    ("{n} picks {a} {t} on Monday and {b} on Tuesday. how many {t} did {n} pick in total", "a+b"),
    ("{n} needs {a} {t} and has {b}. how many more {t} does {n} need", "a-b"),
    ("{n} had some {t}, bought {b} more and now has {a}. how many did {n} have before", "a-b"),
    ("{n} runs {a} km every day. how many km does {n} run in {b} days", "a*b"),
    ("a box weighs {a} kg. how much do {b} boxes weigh", "a*b"),
    ("in a garden there are {a} red and {b} white {t}. how many {t} are in the garden", "a+b"),
    ("{n} sells {a} {t} for {b} dollars each and then spends {c} dollars. how many dollars are left", "a*b r-c"),
    ("{n} has {a} {t}. {m} gives {n} {b} more. then {n} loses {c}. how many {t} does {n} have", "a+b r-c"),
    ("{a} people are in a room. {b} more come in and {c} leave. how many are in the room", "a+b r-c"),
    ("there are {a} {t} in a box. {n} takes {b} of them. how many {t} are left in the box", "a-b"),
    ("there are {a} {t} in a bag and {n} takes {b} out. how many {t} are still in the bag", "a-b"),
    ("{n} has {a} {t}, gives {b} to {m} and buys {c} more. how many {t} does {n} have now", "a-b r+c"),
    ("{n} has {a} {t}, gets {b} from {m} and loses {c}. how many {t} does {n} have now", "a+b r-c"),
    ("{n} shares {q} {t} equally with {d} children. how many {t} does each child get", "q/d"),
    ("{q} {t} are split equally among {d} friends. how many {t} does each one get", "q/d"),
    ("{n} divides {q} {t} equally into {d} bags. how many {t} are in each bag", "q/d"),
    ("{d} children share {q} {t} equally. how many {t} does each child get", "q/d"),
    ("{n} puts {q} {t} into bags of {d}. how many bags does {n} fill", "q/d"),
    ("{n} found {a} {t} and {m} found {b}. how many {t} did they find together", "a+b"),
    ("{n} lost {b} of {a} {t}. how many {t} does {n} still have", "a-b"),
    ("{n} buys {a} packs of {b} {t}. how many {t} does {n} buy", "a*b"),
    ("{n} had {a} {t} and lost {b}. then {m} gave {n} {c} more. how many {t} does {n} have", "a-b r+c"),
    ("a garden has {a} rows with {b} {t} in each row. how many {t} are there", "a*b"),
    ("{n} has {a} dollars and spends {b}. how many dollars are left", "a-b"),
    ("{n} has {a} dollars and earns {b} more. how many dollars does {n} have", "a+b"),
]
HELD_STORIES = [
    ("{n} had {a} {t} and found {b} more. how many {t} does {n} have in total", "a+b"),
    ("{n} has {a} boxes with {b} {t} in each box. how many {t} does {n} have", "a*b"),
    ("{n} finds {a} {t}, loses {b} and finds {c} more. how many {t} does {n} have now", "a-b r+c"),
    ("{q} {t} are shared equally among {d} children. how many {t} does each of them get", "q/d"),
    ("{n} had {a} {t} and lost {b} of them. how many {t} are left", "a-b"),
]


def task_story(g):
  r = g.rng
  held = g.side == "eval" and r.random() < HELD_PHRASING_SHARE
  g.held_phrasing = held
  text, plan = r.choice(HELD_STORIES if held else STORIES)

  def draw():
    a, b, c = g.number(1, 3), g.number(1, 2), g.number(1, 2)
    if "a*b" in plan:
      a, b, c = r.randint(2, 60), r.randint(2, 12), r.randint(1, 40)
    return a, b, c

  a, b, c = g.pick(plan, draw)
  d, e = r.randint(2, 12), r.randint(1, 20)
  q, h = d * r.randint(2, 99), (a * b // 100 + r.randint(1, 3)) * 100
  if plan.startswith("S"):
    b += -(a + b) % d
  values = {"a": a, "b": b, "c": c, "d": d, "e": e, "q": q, "h": h}
  lines, result = [], None
  for step in plan.replace("S ", "").split():
    x, op, y = step
    left, right = (result if s == "r" else values[s] for s in (x, y))
    if op == "-" and left < right:
      return None
    more, result = g.calc(op, left, right)
    lines += more
  n, m = r.sample(words.NAMES, 2)
  slots = dict(n=n, m=m, t=r.choice(words.THINGS), p=r.choice(words.PLACES), **values)
  sentences = text.split(". ")
  if r.random() < 0.8:
    sentences = [s[0].upper() + s[1:] for s in sentences]
  question = g.dress(Phrases.cut(". ".join(sentences)), slots, opener=False)
  return question, lines, str(result), False


LETTER_COUNT = Phrases(
    ["how many {c}'s are [there |]in {w}", "how many {c} are in {w}", "count the letter {c} in {w}", "how many times does {c} [occur|appear] in {w}",
     "how many letters {c} are in the word {w}", "how many times does the letter {c} [appear|occur] in [the word |]{w}", "count the {c}s in {w}",
     "how often is {c} in {w}", "number of {c} in {w}", "how many {c}'s does [the word |]{w} have", "in the word {w}, how many {c} are there",
     "how many {c}s in {w}", "the word {w} has how many {c}'s", "tell me how many {c}'s there are in {w}", "how many times is {c} in {w}",
     "how often does [the letter |]{c} [occur|appear] in {w}", "how many {c}'s [can you find|do you see] in {w}", "[what is|give me|find] the number of {c}'s in {w}",
     "count all {c}'s in [the word |]{w}", "how many {c}'s in the word {w}",
     "how many times can [you find|i find|you see] [the letter |]{c} in [the word |]{w}", "in {w}, how [often|many times] [is|does] {c} [there|appear|occur]", "find how many {c}'s are in {w}",
     "how often can you find {c} in {w}", "count how often {c} [appears|occurs|is] in {w}", "how many of the letters [of|in] {w} are {c}", "look at {w} and count the letter {c}", "in {w} how many {c}'s are there",
     "count {c} in {w}", "how many letter {c} in {w}", "{c} in {w}, how many"],
    ["what is the number of letters {c} in {w}", "tell me how often {c} is in the word {w}", "how often do you see the letter {c} in {w}", "tell me how many times {c} appears in {w}", "in the word {w}, count the letter {c}"])


def count_lines(w, wanted):
  count, parts = 0, []
  for ch in w:
    count += ch in wanted
    parts.append(f"{ch}{count}")
  return " ".join(parts), count


def shown_letter(g, c):
  r = g.rng.random()
  return f"'{c}'" if r < 0.12 else f'"{c}"' if r < 0.2 else c.upper() if r < 0.26 else c


def task_count_letters(g):
  w = g.word()
  c = g.rng.choice(w) if g.rng.random() < 0.85 else g.rng.choice("abcdefghijklmnopqrstuvwxyz")
  line, count = count_lines(w, c)
  return g.phrase(LETTER_COUNT, c=shown_letter(g, c), w=g.shown(w)), [f"count {c}:", line], str(count), False


VOWEL_COUNT = Phrases(
    ["how many vowels are [there |]in [the word |]{w}", "count the vowels in {w}", "how many vowels does [the word |]{w} have", "[number|the number] of vowels in {w}", "what is the number of vowels in {w}", "tell me how many vowels are in {w}"],
    ["find the number of vowels in {w}", "in the word {w}, how many vowels are there"])
CONSONANT_COUNT = Phrases(
    ["how many consonants are [there |]in [the word |]{w}", "count the consonants in {w}", "how many consonants does [the word |]{w} have", "[number|what is the number] of consonants in {w}"],
    ["find the number of consonants in {w}", "tell me how many consonants are in {w}"])


def task_count_vowels(g):
  w = g.word()
  vowels = g.rng.random() < 0.65
  line, count = count_lines(w, "aeiou" if vowels else "bcdfghjklmnpqrstvwxyz")
  question = g.phrase(VOWEL_COUNT if vowels else CONSONANT_COUNT, w=g.shown(w))
  return question, ["count vowels:" if vowels else "count consonants:", line], str(count), False


SPELL = Phrases(
    ["spell {w}", "spell the word {w}", "how do you spell [the word |]{w}", "spell out {w}", "can you spell {w}", "write {w} letter by letter", "what are the letters [of|in] {w}",
     "how is {w} [spelled|spelt|written]", "[list|give me|name] the letters [in|of] {w}", "spell {w} [for me|letter by letter|out loud]", "give me the letters of {w} one by one", "say the letters of {w}"],
    ["list the letters of {w} one by one", "how is the word {w} spelled", "write the letters of {w}"])


def task_spell(g):
  w = g.word()
  return g.phrase(SPELL, w=g.shown(w)), [" ".join(w)], "-".join(w), True


REVERSE = Phrases(
    ["reverse {w}", "reverse [the word |the order of |]{w}", "spell {w} backwards", "write {w} backwards", "what is {w} backwards", "{w} in reverse", "turn {w} around",
     "what do you get if you reverse {w}", "write {w} in reverse", "{w} backwards", "what is the reverse of {w}", "read {w} [from right to left|backwards]", "give me {w} backwards", "say {w} backwards",
     "write {w} from right to left", "[how do you write|flip] {w} backwards", "what is {w} reversed", "can you reverse {w}", "what does {w} [give|make|become] backwards", "what does {w} become in reverse", "{w} from right to left", "say {w} from right to left"],
    ["give me the reverse of {w}", "spell {w} from right to left", "what does {w} give in reverse"])


def task_reverse_word(g):
  w = g.word()
  return g.phrase(REVERSE, w=g.shown(w)), [" ".join(w), " ".join(w[::-1])], CHARS + w[::-1] + CHARS, False


def task_reverse_number(g):
  (n,) = g.pick("reverse", lambda: ("".join(g.rng.choice("0123456789") for _ in range(g.rng.randint(3, 8))),))
  name = g.rng.choice(("", "the number ", "the digits of "))
  return g.phrase(REVERSE, w=name + n), [" ".join(n), " ".join(n[::-1])], n[::-1], False


REVERSE_LIST = Phrases(
    ["reverse the list {l}", "reverse this list: {l}", "write {l} in reverse order", "turn the list {l} around", "list {l} from last to first", "put {l} in [the opposite|reverse] order",
     "give [me |]{l} in reverse order", "reverse the order of {l}", "what is the list {l} in reverse", "say {l} from last to first", "[write|give|list|put] this list in [the opposite|reverse|the reverse] order: {l}", "this list backwards: {l}", "write this list from last to first: {l}", "give me the list {l} in reverse"],
    ["give me the list {l} from last to first", "say this list in reverse order: {l}", "put the list {l} in the opposite order"])


def task_reverse_list(g):
  r = g.rng
  if r.random() < 0.7:
    items = [g.word(0.8) for _ in range(r.randint(3, 6))]
  else:
    items = [str(n) for n in g.pick("list", lambda: tuple(g.number(1, 3) for _ in range(r.randint(3, 6))))]
  numbered = " ".join(f"{i + 1} {w}" for i, w in enumerate(items))
  return g.phrase(REVERSE_LIST, l=g.listed(items)), [numbered], ", ".join(reversed(items)), True


WORD_LENGTH = Phrases(
    ["how many letters are [there |]in [the word |]{w}", "how long is [the word |]{w}", "how many letters does [the word |]{w} have", "count the letters [in|of] {w}", "what is the length of {w}",
     "[number|the number] of letters in {w}", "how many characters [are in|does it take to write] {w}", "length of [the word |]{w}", "how many letters make up {w}", "tell me the length of {w}", "what is the number of letters in {w}"],
    ["find the length of the word {w}", "tell me how many letters are in {w}", "how many characters does {w} have"])
WORD_COUNT = Phrases(
    ["how many words are [there |]in {w}", "count the words: {w}", "count the words in {w}", "how many words does {w} have", "number of words in {w}", "how many words is {w}"],
    ["tell me how many words are in {w}", "find the number of words in {w}"])


def task_length(g):
  if g.rng.random() < 0.25:
    items = [g.word(0.9) for _ in range(g.rng.randint(2, 9))]
    line = " ".join(f"{w} {i + 1}" for i, w in enumerate(items))
    return g.phrase(WORD_COUNT, w='"' + " ".join(items) + '"'), ["count words:", line], str(len(items)), False
  w = g.word()
  line = " ".join(f"{ch}{i + 1}" for i, ch in enumerate(w))
  return g.phrase(WORD_LENGTH, w=g.shown(w)), ["count letters:", line], str(len(w)), False


ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
NTH = Phrases(
    ["[what is|what's|give me|tell me|name|find] the {o} letter [of|in] [the word |]{w}", "the {o} letter of {w}", "which letter [is|comes|stands] {o} in {w}", "what letter [is|comes|stands] {o} in {w}", "which is the {o} letter of {w}", "in the word {w}, what is the {o} letter"],
    ["in {w}, which letter is {o}", "say the {o} letter of {w}", "which letter of {w} is the {o}"])


def ordinal(n):
  return f"{n}{'th' if n > 3 else ('st', 'nd', 'rd')[n - 1]}"


def task_nth_letter(g):
  w, r = g.word(), g.rng
  line = " ".join(f"{ch}{i + 1}" for i, ch in enumerate(w))
  if r.random() < 0.25:
    return g.phrase(NTH, o="last", w=g.shown(w)), [line], w[-1], False
  n = r.randint(1, min(len(w), 10))
  o = ORDINALS[n - 1] if r.random() < 0.6 else ordinal(n)
  return g.phrase(NTH, o=o, w=g.shown(w)), [f"letter {n}:", line], w[n - 1], False


SORT_UP = Phrases(
    ["sort {l}", "sort [these numbers|the numbers|this list]: {l}", "put {l} in order", "order {l} from [smallest to largest|low to high|small to large|lowest to highest]", "arrange {l} in [ascending|increasing] order",
     "sort the list {l}", "sort {l} ascending", "put these in order: {l}", "order the numbers {l}", "arrange {l} from [low to high|smallest to largest|small to big]", "list {l} in [increasing|ascending] order", "can you sort {l}", "sort {l} from smallest to [largest|biggest]", "sort {l} from low to high", "[list|write|put|arrange|order] these numbers from [smallest to largest|low to high|small to big]: {l}", "[put|arrange|list] the numbers {l} in [order|increasing order]", "these numbers in ascending order: {l}", "sort the numbers {l} from smallest to largest"],
    ["put the numbers {l} in ascending order", "sort these numbers from low to high: {l}", "order {l} from small to big"])
SORT_DOWN = Phrases(
    ["sort {l} in [descending|decreasing] order", "order {l} from [largest to smallest|high to low|large to small]", "arrange {l} from [high to low|largest to smallest|big to small]", "sort {l} descending",
     "sort {l} from [biggest|largest] to smallest", "list {l} in [decreasing|descending] order", "arrange {l} in descending order", "sort {l} from high to low", "[list|write|put|arrange|order] these numbers from [largest to smallest|high to low|big to small]: {l}", "[put|arrange|list] the numbers {l} in decreasing order", "these numbers in descending order: {l}", "sort the numbers {l} from largest to smallest"],
    ["put the numbers {l} in descending order", "sort these numbers from high to low: {l}"])


def task_sort_numbers(g):
  r = g.rng
  n = r.randint(3, 6)
  width = r.randint(1, 3)
  numbers = list(g.pick("sort", lambda: tuple(g.number(1 if r.random() < 0.3 else width, width) for _ in range(n))))
  down = r.random() < 0.3
  left, lines = list(numbers), []
  while len(left) > 1:
    best = max(left) if down else min(left)
    left.remove(best)
    lines.append(f"{'max' if down else 'min'} {best}, left {', '.join(map(str, left))}")
  answer = ", ".join(map(str, sorted(numbers, reverse=down)))
  return g.phrase(SORT_DOWN if down else SORT_UP, l=g.listed(numbers)), lines, answer, False


SORT_WORDS = Phrases(
    ["sort {l}", "sort these words: {l}", "put {l} in alphabetical order", "sort {l} alphabetically", "arrange {l} alphabetically", "alphabetize {l}", "order the words {l}", "sort the words {l}", "put these words in order: {l}",
     "list {l} in alphabetical order", "[arrange|order|sort] [the words |]{l} from a to z", "order {l} by the alphabet", "can you sort {l}", "[list|write|put|order] these words [alphabetically|in alphabetical order|by the alphabet]: {l}", "these words in alphabetical order: {l}", "sort {l} by the alphabet"],
    ["put the words {l} in alphabetical order", "arrange these words from a to z: {l}", "arrange {l} by the alphabet"])


def task_sort_words(g):
  n = g.rng.randint(3, 5)
  items = []
  while len(items) < n:
    w = g.word(0.9)
    if all(w[:3] != v[:3] for v in items):
      items.append(w)
  lines = [", ".join(f"{' '.join(w[:3])} {w}" for w in items)]
  left = list(items)
  while len(left) > 1:
    best = min(left)
    left.remove(best)
    lines.append(f"first {best}, left {', '.join(left)}")
  return g.phrase(SORT_WORDS, l=g.listed(items)), lines, ", ".join(sorted(items)), False


UPPER = Phrases(
    ["write {w} in [capital letters|capitals|upper case|all caps|big letters|all capitals]", "put {w} in [upper case|capitals|capital letters]", "capitalize all letters of {w}", "uppercase {w}", "{w} in [capitals|upper case|capital letters]", "convert {w} to [upper case|capitals]", "make {w} [upper case|all capitals|all caps]", "turn {w} into capital letters", "how do you write {w} in capitals", "make all letters of {w} [big|upper case]", "turn all letters of {w} into capitals", "write {w} big"],
    ["turn {w} into upper case", "convert {w} to all caps", "make all letters of {w} capitals"])
LOWER = Phrases(
    ["write {w} in [lower case|small letters]", "put {w} in [small letters|lower case]", "lowercase {w}", "convert {w} to [lower case|small letters]", "make {w} [all small letters|lower case]", "{w} in [lower case|small letters]", "make all letters of {w} [small|lower case]", "turn all letters of {w} into small letters", "write {w} small"],
    ["turn {w} into small letters", "convert all letters of {w} to lower case"])
REPEAT = Phrases(
    ["[say|repeat|write|print] {w} {k} times", "[say|write|repeat] the word {w} {k} times", "give me {w} {k} times"],
    ["can you repeat {w} {k} times", "print the word {w} {k} times"])


def task_case(g):
  w, r = g.word(), g.rng
  kind = r.random()
  if kind < 0.55:
    return g.phrase(UPPER, w=g.shown(w)), [" ".join(w)], CHARS + w.upper() + CHARS, True
  if kind < 0.75:
    return g.phrase(LOWER, w=w.upper()), [" ".join(w)], CHARS + w + CHARS, True
  k = r.randint(2, 6)
  spelled = r.random() < 0.5
  line = " ".join(f"{i + 1} {w}" for i in range(k))
  return g.phrase(REPEAT, w=w, k=ONES[k] if spelled else k), [line], " ".join([w] * k), True


CONVERT = Phrases(
    ["how many {u} are [there |]in {k} {v}", "convert {k} {v} [to|into] {u}", "{k} {v} in {u}", "how many {u} is {k} {v}", "what is {k} {v} in {u}", "{k} {v} to {u}", "[turn|change] {k} {v} into {u}", "how many {u} make {k} {v}",
     "[express|write|give] {k} {v} in {u}", "how many {u} do {k} {v} have", "{k} {v} is how many {u}", "{k} {v} are how many {u}", "how much is {k} {v} in {u}", "{k} {v} = how many {u}"],
    ["tell me how many {u} are in {k} {v}", "change {k} {v} to {u}", "how many {u} does {k} {v} make"])
FAHRENHEIT = Phrases(["convert {k} degrees celsius to fahrenheit", "what is {k} celsius in fahrenheit", "{k} °C in °F", "how many fahrenheit is {k} celsius",
                      "{k} c in f"], ["express {k} degrees celsius in fahrenheit"])


def task_units(g):
  r = g.rng
  if r.random() < 0.08:
    (k,) = g.pick("celsius", lambda: (5 * r.randint(0, 20),))
    lines, x = g.calc("+", k // 5 * 9, 32)
    return g.phrase(FAHRENHEIT, k=k), [f"{k}/5={k // 5}", f"{k // 5}*9={k // 5 * 9}"] + lines, f"{x} °F", False
  many, of, factor, one = r.choice(UNITS)
  rule = f"1 {one} = {factor} {of}"
  u, v = of, many
  down = r.random() < 0.7 or factor in (16, 24, 1024)
  (k,) = g.pick(f"unit {one} {of} {down}", lambda: (g.number(1, 2) if r.random() < 0.9 else g.number(3, 3),))
  k = k or 1
  if factor == 1024:
    k = r.randint(1, 9)
  short = r.random() < 0.2
  name = lambda unit: SHORT_UNITS.get(unit, unit) if short else unit
  if down:
    lines, value = g.calc("*", k, factor) if factor not in (10, 100, 1000) else ([f"{k}*{factor}={k * factor}"], k * factor)
    ask_v = one if k == 1 and not short else name(v)
    return g.phrase(CONVERT, u=name(u), v=ask_v, k=k), [rule] + lines, f"{value} {of}", False
  total = k * factor
  if factor in (10, 100, 1000):
    lines = [f"{total}/{factor}={k}"]
  elif factor == 60:
    lines = [f"{total}/60 = {total // 10}/6"] + g.calc("/", total // 10, 6)[0]
  else:
    lines = g.calc("/", total, factor)[0]
  return g.phrase(CONVERT, u=name(v), v=name(u), k=total), [rule] + lines, f"{k} {many if k != 1 else one}", False


LATER = Phrases(
    ["it is {t}. what time is it in {m} minutes", "what time is it {m} minutes after {t}", "{t} plus {m} minutes", "add {m} minutes to {t}", "it is {t} now, what time will it be in {m} minutes", "what is {m} minutes later than {t}",
     "the clock shows {t}. what [does it show|will it show|time is it] {m} minutes later", "what time is {m} minutes after {t}", "{m} minutes after {t}", "it is {t}. what will the clock show in {m} minutes", "a film starts at {t} and takes {m} minutes. when does it end"],
    ["it is {t}. what time will the clock show {m} minutes later", "what time do you get if you add {m} minutes to {t}"])
BETWEEN = Phrases(["how long is it from {t} to {s}", "how much time is between {t} and {s}", "how long from {t} until {s}", "what is the time between {t} and {s}",
                   "a film starts at {t} and ends at {s}. how long is it"], ["how much time passes from {t} to {s}"])
CLOCK_24 = Phrases(["write {t} in 24-hour time", "what is {t} in 24-hour format", "convert {t} to 24-hour time", "{t} on a 24-hour clock"],
                   ["express {t} in 24-hour time"])
CLOCK_12 = Phrases(["write {t} in 12-hour time", "what is {t} with am or pm", "convert {t} to 12-hour time", "{t} on a 12-hour clock"],
                   ["express {t} in 12-hour time"])


def clock(h, m):
  return f"{h}:{m:02d}"


def task_time(g):
  r = g.rng
  kind = r.random()
  if kind < 0.4:
    h, m, k = g.pick("later", lambda: (r.randint(0, 23), r.randint(0, 59), r.choice((5, 10, 15, 20, 25, 30, 45, r.randint(1, 59)))))
    lines = [f"{m}+{k}={m + k}"]
    g.mention("+", m, k)
    h2, m2 = h, m + k
    if m2 >= 60:
      m2, h2 = m2 - 60, h + 1
      lines.append(f"{m + k}-60={m2}, {h}+1={h2}" + (", so 0" if h2 == 24 else ""))
    return g.phrase(LATER, t=clock(h, m), m=k), lines, clock(h2 % 24, m2), False
  if kind < 0.65:
    h1, m1, h2, m2 = g.pick("between", lambda: (r.randint(0, 22), r.choice((0, 15, 30, 45, r.randint(0, 59))), r.randint(1, 23), r.choice((0, 15, 30, 45, r.randint(0, 59)))))
    if (h2, m2) <= (h1, m1):
      h1, m1, h2, m2 = h2, m2, h1, m1
      if (h1, m1) == (h2, m2) or is_held("between", h1, m1, h2, m2) != (g.side == "eval"):
        return None
    if m2 >= m1:
      dh, dm = h2 - h1, m2 - m1
      g.mention("-", m2, m1)
      lines = [f"{h2}-{h1}={dh}", f"{m2}-{m1}={dm}"]
    else:
      dh, dm = h2 - 1 - h1, m2 + 60 - m1
      g.mention("-", m2 + 60, m1)
      lines = [f"{m2}<{m1}, {m2}+60={m2 + 60}, {h2}-1={h2 - 1}", f"{h2 - 1}-{h1}={dh}", f"{m2 + 60}-{m1}={dm}"]
    parts = ([f"{dh} hour{'s' * (dh != 1)}"] if dh else []) + ([f"{dm} minute{'s' * (dm != 1)}"] if dm else [])
    return g.phrase(BETWEEN, t=clock(h1, m1), s=clock(h2, m2)), lines, " ".join(parts), False
  h, m = g.pick("clock", lambda: (r.randint(0, 23), r.randint(0, 59)))
  half, h12 = "am" if h < 12 else "pm", (h - 1) % 12 + 1
  if kind < 0.83:
    lines = [f"{h12} {half}: " + ("0" if h == 0 else "12" if h == 12 else f"{h}" if h < 12 else f"{h12}+12={h}")]
    return g.phrase(CLOCK_24, t=f"{clock(h12, m)} {half}"), lines, clock(h, m), True
  lines = [f"{h}: " + ("12 am" if h == 0 else "12 pm" if h == 12 else f"{h} am" if h < 12 else f"{h}-12={h12} pm")]
  return g.phrase(CLOCK_12, t=clock(h, m)), lines, f"{clock(h12, m)} {half}", True


DAY_AFTER = Phrases(
    ["if today is {d}, what day is it in {k} days", "today is {d}. what day will it be in {k} days", "what [day|weekday] is {k} days after {d}", "it is {d}. which [weekday|day] is it in {k} days", "which day comes {k} days after {d}", "{k} days from {d} is what day", "{k} days after {d} is which day", "what weekday follows {d} by {k} days"],
    ["if it is {d}, which weekday is it in {k} days", "today is {d}. which day comes in {k} days"])
DAY_BEFORE = Phrases(
    ["if today is {d}, what day was it {k} days ago", "today is {d}. what day was it {k} days ago", "what day is {k} days before {d}", "which [day|weekday] comes {k} days before {d}", "it is {d}. which [day|weekday] was it {k} days ago", "{k} days before {d} is what day"],
    ["if it is {d}, which day was it {k} days ago", "what weekday is {k} days before {d}"])
NEXT_DAY = Phrases(["what day comes after {d}", "which day follows {d}", "what is the day after {d}", "if today is {d}, what is tomorrow"], ["name the day after {d}"])
LAST_DAY = Phrases(["what day comes before {d}", "which day is before {d}", "what is the day before {d}", "if today is {d}, what was yesterday"], ["name the day before {d}"])
DAYS_IN = Phrases(["how many days are in {m}", "how many days does {m} have", "number of days in {m}", "how long is {m} in days"], ["how many days are there in {m}"])
MONTH_NUMBER = Phrases(["what number is {m} among the months", "which month of the year is {m}", "{m} is which month number"], ["what is the number of the month {m}"])
NTH_MONTH = Phrases(
    ["what is the {o} month of the year", "which month is the {o}", "name the {o} month", "which month comes {o} in the year", "what month is {o} in the year"],
    ["which is the {o} month of the year"])
MONTH_AFTER = Phrases(["which month is {k} months after {m}", "what month comes {k} months after {m}", "it is {m}. which month is it in {k} months"],
                      ["what month follows {m} by {k} months"])
LEAP = Phrases(["is {y} a leap year", "was {y} a leap year", "tell me if {y} is a leap year", "does {y} have 366 days"], ["is the year {y} a leap year"])
DATES = Phrases(["how many days are between {m} {a} and {m} {b}", "how many days is it from {m} {a} to {m} {b}"], ["how many days pass from {m} {a} to {m} {b}"])


def task_calendar(g):
  r = g.rng
  kind = r.random()
  if kind < 0.4:
    back = r.random() < 0.3
    i, k = g.pick(f"weekday {back}", lambda: (r.randint(0, 6), r.randint(2, 6) if back else r.randint(2, 60)))
    lines = []
    steps = k
    if k >= 7:
      steps = k % 7
      lines.append(f"{k}/7={k // 7} r {steps}")
    walk = [DAYS[i]] + [f"{DAYS[(i + (-j if back else j)) % 7]} {j}" for j in range(1, steps + 1)]
    answer = DAYS[(i - steps if back else i + steps) % 7]
    return g.phrase(DAY_BEFORE if back else DAY_AFTER, d=DAYS[i], k=k), lines + [", ".join(walk)], answer, False
  if kind < 0.5:
    i = r.randint(0, 6)
    back = r.random() < 0.5
    answer = DAYS[(i + (-1 if back else 1)) % 7]
    return g.phrase(LAST_DAY if back else NEXT_DAY, d=DAYS[i]), [f"{answer}, {DAYS[i]}" if back else f"{DAYS[i]}, {answer}"], answer, True
  if kind < 0.6:
    i = r.randint(0, 11)
    answer = str(MONTH_DAYS[i]) if i != 1 else "28, or 29 in a leap year"
    return g.phrase(DAYS_IN, m=MONTHS[i]), [f"{MONTHS[i]} has {answer} days"], answer, True
  if kind < 0.67:
    i = r.randint(0, 11)
    if r.random() < 0.5:
      return g.phrase(MONTH_NUMBER, m=MONTHS[i]), [f"{i + 1} {MONTHS[i]}"], str(i + 1), True
    return g.phrase(NTH_MONTH, o=ordinal(i + 1) if i > 9 or r.random() < 0.5 else ORDINALS[i]), [f"{i + 1} {MONTHS[i]}"], MONTHS[i], True
  if kind < 0.78:
    i, k = g.pick("month", lambda: (r.randint(0, 11), r.randint(2, 11)))
    walk = [MONTHS[i]] + [f"{MONTHS[(i + j) % 12]} {j}" for j in range(1, k + 1)]
    return g.phrase(MONTH_AFTER, m=MONTHS[i], k=k), [", ".join(walk)], MONTHS[(i + k) % 12], False
  if kind < 0.9:
    (y,) = g.pick("year", lambda: (100 * r.randint(15, 24) if r.random() < 0.15 else r.randint(1500, 2499),))
    tail = y // 100 if y % 100 == 0 else y % 100
    name = f"{y} is a century" if y % 100 == 0 else f"{y} is not a century"
    leap = tail % 4 == 0
    lines = [name, f"{tail}/4={tail // 4} r {tail % 4}"]
    return g.phrase(LEAP, y=y), lines, "yes" if leap else "no", False
  i = r.randint(0, 11)
  a, b = g.pick("dates", lambda: tuple(sorted(r.sample(range(1, MONTH_DAYS[i] + 1), 2))))
  g.mention("-", b, a)
  return g.phrase(DATES, m=MONTHS[i], a=a, b=b), [f"{b}-{a}={b - a}"], str(b - a), False


TO_WORDS = Phrases(["write {n} in words", "spell the number {n} in words", "how do you write {n} in words", "{n} in words", "put {n} into words"],
                   ["express {n} in words"])
TO_DIGITS = Phrases(["write {n} in digits", "write {n} as a number", "{n} in digits", "what is {n} as a number", "turn {n} into digits"],
                    ["express {n} in digits"])


def place_values(n):
  """A line such as 4205 = 4*1000+2*100+5."""
  parts = [f"{n // 1000}*1000"] * (n >= 1000) + [f"{n // 100 % 10}*100"] * (n // 100 % 10 > 0) + [str(n % 100)] * (n % 100 > 0)
  return f"{n} = " + (str(n) if n < 100 else "+".join(parts))


def task_number_words(g):
  (n,) = g.pick("words", lambda: (g.number(1, 4),))
  text = number_words(n)
  line = place_values(n)
  if g.rng.random() < 0.55:
    return g.phrase(TO_WORDS, n=n), [line], text, True
  return g.phrase(TO_DIGITS, n=text), [line.split(" = ")[1]], str(n), True


EVEN_ODD = Phrases(
    ["is {n} even or odd", "is [the number |]{n} odd or even", "{n}: even or odd", "tell me [whether|if] {n} is even or odd", "what is the parity of {n}", "{n}, odd or even", "the parity of {n}"],
    ["tell me the parity of {n}", "is the number {n} even or odd"])
IS_EVEN = Phrases(
    ["is {n} [even|an even number]", "is the number {n} even", "is {n} divisible by 2", "can {n} be divided by 2", "tell me if {n} is even"],
    ["is the number {n} divisible by 2"])
IS_ODD = Phrases(
    ["is {n} [odd|an odd number]", "is the number {n} odd", "tell me if {n} is odd"],
    ["tell me if the number {n} is odd"])
MAXIMUM = Phrases(
    ["what is the [largest|biggest|greatest|highest] [number |][of|in|among] {l}", "which is the [biggest|largest]: {l}", "find the [maximum|largest|biggest] [of|in|among] {l}", "which number is the [largest|biggest|greatest]: {l}", "max of {l}", "what is the maximum [of|among] {l}", "which of {l} is the [largest|biggest|greatest|highest]", "the [largest|greatest|biggest] of {l}"],
    ["tell me the largest number of {l}", "find the greatest of {l}"])
MINIMUM = Phrases(
    ["what is the [smallest|least|lowest] [number |][of|in|among] {l}", "which is the [smallest|lowest]: {l}", "find the [minimum|smallest|lowest] [of|in|among] {l}", "which number is the [smallest|lowest|least]: {l}", "min of {l}", "what is the minimum [of|among] {l}", "which of {l} is the [smallest|least|lowest]", "the [smallest|lowest] of {l}"],
    ["tell me the smallest number of {l}", "find the least of {l}"])
NEXT = Phrases(["what comes next: {l}", "continue the sequence {l}", "what is the next number in {l}", "{l}, what is next", "which number follows {l}"],
               ["find the next number of the sequence {l}"])
SUM_LIST = Phrases(["add up {l}", "what is the sum of {l}", "sum {l}", "add {l}", "what do {l} add up to", "total of {l}"], ["find the total of {l}"])
AVERAGE = Phrases(["what is the average of {l}", "find the mean of {l}", "average of {l}", "compute the average of {l}"], ["what is the mean of the numbers {l}"])
PERCENT = Phrases(["what is {p}% of {n}", "{p}% of {n}", "how much is {p} percent of {n}", "calculate {p}% of {n}", "{p} percent of {n}"], ["find {p}% of {n}"])
SQUARE = Phrases(["what is {n} squared", "{n} squared", "the square of {n}", "what is the square of {n}", "square {n}"], ["find the square of {n}"])
DOUBLE = Phrases(["double {n}", "what is twice {n}", "what is the double of {n}", "two times {n}"], ["how much is twice {n}"])
HALF = Phrases(["what is half of {n}", "halve {n}", "half of {n}", "how much is half of {n}"], ["find half of {n}"])


def extreme_lines(numbers, largest):
  best, lines = numbers[0], []
  for n in numbers[1:]:
    better = n > best if largest else n < best
    lines.append(f"{best} or {n}: {n if better else best}")
    best = n if better else best
  return lines, best


def task_parity(g):
  (n,) = g.pick("parity", lambda: (g.number(1, 6),))
  word = "odd" if n % 2 else "even"
  lines = [f"{n} ends in {n % 10}, {word}"]
  kind = g.rng.choice((EVEN_ODD, IS_EVEN, IS_ODD))
  answer = word if kind is EVEN_ODD else "yes" if (kind is IS_EVEN) == (word == "even") else "no"
  return g.phrase(kind, n=n), lines, answer, True


def task_extremes(g):
  width = g.rng.randint(1, 4)
  numbers = g.pick("extreme", lambda: tuple(g.number(max(1, width - 1), width) for _ in range(g.rng.randint(3, 6))))
  largest = g.rng.random() < 0.5
  lines, best = extreme_lines(numbers, largest)
  return g.phrase(MAXIMUM if largest else MINIMUM, l=g.listed(numbers)), lines, str(best), False


def task_sequence(g):
  r = g.rng

  def draw():
    if r.random() < 0.2:
      return r.randint(1, 9), 2, r.randint(3, 5), "*"
    return g.number(1, 2), r.choice((-1, 1, 1)) * r.randint(1, 12), r.randint(3, 5), "+"

  start, step, n, op = g.pick("sequence", draw)
  if op == "+" and start + step * n < 0:
    return None
  values = [start * step ** i if op == "*" else start + step * i for i in range(n + 1)]
  if op == "*":
    lines = [f"{values[1]}/{values[0]}=2, {values[2]}/{values[1]}=2"] + g.calc("*", values[n - 1], 2)[0]
  else:
    sign = "+" if step > 0 else "-"
    lines = [f"{values[0]}{sign}{abs(step)}={values[1]}, {values[1]}{sign}{abs(step)}={values[2]}"] + g.calc(sign, values[n - 1], abs(step))[0]
  return g.phrase(NEXT, l=", ".join(map(str, values[:n]))), lines, str(values[n]), False


def task_statistics(g):
  r = g.rng
  kind = r.random()
  numbers = list(g.pick("sum", lambda: tuple(g.number(1, 2 if r.random() < 0.7 else 3) for _ in range(r.randint(3, 5)))))
  average = kind < 0.4
  if average:
    numbers[-1] += -sum(numbers) % len(numbers)
  lines, total = [], numbers[0]
  for n in numbers[1:]:
    more, total = g.calc("+", total, n)
    lines += more
  if average:
    more, total = g.calc("/", total, len(numbers))
    lines += more
  return g.phrase(AVERAGE if average else SUM_LIST, l=g.listed(numbers)), lines, str(total), False


def task_multiples(g):
  """Percentages, squares, doubles and halves."""
  r = g.rng
  kind = r.random()
  if kind < 0.4:
    p = r.choice((1, 5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 100))
    (n,) = g.pick(f"percent {p}", lambda: (20 * r.randint(1, 60) if p != 1 else 100 * r.randint(1, 60),))
    lines, x = [], n
    if p % 10 == 0:
      lines, value = [f"10% = {n}/10 = {n // 10}"], n // 10
      if p > 10:
        more, value = g.calc("*", n // 10, p // 10)
        lines += more
    elif p == 1:
      lines, value = [f"1% = {n}/100 = {n // 100}"], n // 100
    elif p == 5:
      more, value = g.calc("/", n // 10, 2)
      lines = [f"10% = {n}/10 = {n // 10}"] + more
    else:
      more, value = g.calc("/", n, 4)
      lines = [f"25% = {n}/4"] + more
      if p == 75:
        more, value = g.calc("*", value, 3)
        lines += more
    return g.phrase(PERCENT, p=p, n=n), lines, str(value), False
  if kind < 0.6:
    n, _ = g.operands("*", lambda: (lambda n: (n, n))(r.randint(2, 99)))
    lines, value = mul_lines(n, n)
    return g.phrase(SQUARE, n=n), ([f"{n}*{n}"] if n < 10 else []) + lines, str(value), n <= 12
  if kind < 0.8:
    n, _ = g.operands("*", lambda: (g.number(1, 4), 2))
    lines, value = mul_lines(n, 2)
    return g.phrase(DOUBLE, n=n), lines, str(value), n < 100
  n, _ = g.operands("/", lambda: (2 * g.number(1, 3), 2))
  lines, value = calc_lines("/", n, 2)
  return g.phrase(HALF, n=n), lines, str(value), n < 100


POWER = Phrases(["[what is|calculate|compute|find|give me] {a} to the power of {b}", "{a}^{b}", "what is {a}^{b}", "{a} to the power {b}", "raise {a} to the power [of |]{b}",
                 "what is {a} raised to {b}", "compute {a}^{b}", "{a}**{b}"], ["what do you get if you raise {a} to the power of {b}", "find {a} raised to the power {b}"])
CUBE = Phrases(["what is {a} cubed", "{a} cubed", "the cube of {a}", "what is the cube of {a}", "cube {a}"], ["find the cube of {a}"])
ROOT = Phrases(["[what is|find|give me|calculate] the square root of {n}", "square root of {n}", "sqrt({n})", "what is the root of {n}", "the square root of {n}", "which number squared is {n}"],
               ["tell me the square root of {n}", "how much is the square root of {n}"])
DIVISIBLE = Phrases(["is {n} divisible by {d}", "can {n} be divided by {d}", "is {n} a multiple of {d}", "does {d} divide {n}", "tell me [if|whether] {n} is divisible by {d}",
                     "can you divide {n} by {d} without remainder", "[tell me|say] [if|whether] {d} divides {n}", "does {d} go into {n} without remainder", "is {d} a divisor of {n}", "tell me [if|whether] {n} is a multiple of {d}",
                     "does {n} have {d} as a divisor", "is {n} divided by {d} a whole number"], ["is the number {n} a multiple of {d}", "tell me whether {d} is a divisor of {n}", "is the number {n} divisible by {d}"])


def task_power(g):
  """Powers, and square roots of perfect squares."""
  r = g.rng
  if r.random() < 0.3:
    n = r.randint(1, 30)
    return g.phrase(ROOT, n=n * n), [f"{n}*{n}={n * n}"], str(n), True
  while True:
    a, b = g.pick("power", lambda: (2, r.randint(3, 12)) if r.random() < 0.25 else (r.randint(2, 99), 2) if r.random() < 0.35 else (r.randint(2, 40), r.randint(2, 4)))
    if a ** b < 100000:
      break
  lines, value = [], a
  for _ in range(b - 1):
    more, value = g.calc("*", value, a)
    lines += more
  cube = b == 3 and r.random() < 0.5
  return g.phrase(CUBE if cube else POWER, a=a, b=b), ["*".join([str(a)] * b)] + lines, str(value), False


def task_divisible(g):
  n, d = g.operands("/", lambda: (lambda n, d: (n - n % d if g.rng.random() < 0.4 else n, d))(g.number(1, 4), g.rng.randint(2, 12)))
  lines, (_, remainder) = div_lines(n, d)
  return g.phrase(DIVISIBLE, n=n, d=d), lines, "no" if remainder else "yes", False


def task_divide_long(g):
  """Division by a number of two digits; every quotient digit is checked by its product."""
  r = g.rng

  def draw():
    d, n = r.randint(13, 99), r.choice((2, 3, 3, 4))
    a = g.number(n, n)
    return (a - a % d if r.random() < 0.35 else a), d

  a, d = g.operands("/", draw)
  lines, chunk, quotient = [f"{a}/{d}:"], 0, ""
  for digit in str(a):
    chunk = chunk * 10 + int(digit)
    if chunk < d and not quotient:
      continue
    q, rest = divmod(chunk, d)
    quotient += str(q)
    lines.append(f"{d}*{q}={d * q}, {chunk}-{d * q}={rest}: {quotient}")
    chunk = rest
  q, rest = divmod(a, d)
  if not quotient:
    lines = [f"{a}<{d}: 0 r {a}"]
  return ask_operation(g, "/", a, d), lines, f"{q} remainder {rest}" if rest else str(q), False


def decimal_text(n):
  """n hundredths without trailing zeros."""
  text = f"{n // 100}.{n % 100:02d}".rstrip("0").rstrip(".")
  return text


def task_decimals(g):
  """Sums and differences of numbers with up to two decimals, as hundredths."""
  r = g.rng
  op = r.choice("+-")

  def draw():
    step = lambda: r.choice((1, 5, 10, 10, 50))
    a, b = r.randint(1, 9999), r.randint(1, 9999) if r.random() < 0.7 else r.randint(1, 999)
    a, b = a - a % step(), b - b % step()
    return (a, b) if op == "+" or a >= b else (b, a)

  while True:
    a, b = g.pick("decimal" + op, draw)
    if a % 100 or b % 100:
      break
  x, y = decimal_text(a), decimal_text(b)
  lines, value = g.calc(op, a, b)
  lines = [f"{a // 100}.{a % 100:02d}{op}{b // 100}.{b % 100:02d}"] + lines + [f"{value}/100={value // 100}.{value % 100:02d}"]
  return ask_operation(g, op, x, y), lines, decimal_text(value), False


def task_chain(g):
  """Sums of three to six numbers written with signs."""
  r = g.rng
  numbers = list(g.pick("chain", lambda: tuple(g.number(1, 2 if r.random() < 0.8 else 3) for _ in range(r.randint(3, 6)))))
  total, lines, text = numbers[0], [], str(numbers[0])
  spaced = r.random() < 0.5
  for n in numbers[1:]:
    op = "-" if r.random() < 0.25 and total >= n else "+"
    more, total = g.calc(op, total, n)
    lines += more
    text += (f" {op} " if spaced else op) + str(n)
  return g.phrase(EXPRESSION, e=text), [text.replace(" ", "")] + lines, str(total), False


# Follow-up turns ----------------------------------------------------------------------------------------------------------------
THEN = {
    "double": Phrases(["now double it", "double it", "double that", "and doubled", "times two", "now double that", "what is twice that"], ["please double the result"]),
    "triple": Phrases(["now triple it", "triple that", "three times that", "and tripled"], ["please triple the result"]),
    "half": Phrases(["now halve it", "half of that", "halve that", "and half of it", "what is half of that", "divide it by two"], ["please halve the result"]),
    "add": Phrases(["now add {k}", "add {k}", "plus {k}", "and plus {k}", "add {k} to it", "add {k} to that", "now plus {k}", "+{k}", "what if you add {k}"],
                   ["please add {k} to the result"]),
    "sub": Phrases(["now subtract {k}", "subtract {k}", "minus {k}", "take away {k}", "subtract {k} from it", "take {k} from that", "now minus {k}", "-{k}"],
                   ["please subtract {k} from the result"]),
    "mul": Phrases(["now multiply by {k}", "times {k}", "multiply it by {k}", "multiply that by {k}", "now times {k}", "*{k}"], ["please multiply the result by {k}"]),
    "even": Phrases(["is it even or odd", "is that even or odd", "even or odd", "is that number even or odd"], ["is the result even or odd"]),
    "words": Phrases(["write it in words", "and in words", "how do you write that in words", "in words please"], ["write the result in words"]),
    "reverse": Phrases(["now reverse it", "and backwards", "spell it backwards", "reverse that word", "write it backwards", "now backwards"], ["please reverse the word"]),
    "length": Phrases(["how many letters does it have", "how long is it", "how many letters is that", "and its length"], ["count the letters of that word"]),
    "upper": Phrases(["now in capitals", "write it in capital letters", "in upper case", "make it upper case"], ["put that word in capitals"]),
    "count": Phrases(["how many {c}'s are in it", "and how many {c}'s", "how many {c} does it have", "count the {c}'s in it"], ["how many {c}'s does that word have"]),
    "about": Phrases(["and {e}", "what about {e}", "how about {e}", "now {e}", "and what is {e}", "ok, and {e}"], ["and how much is {e}"]),
}


def number_follow_up(g, value):
  """(question, lines, answer, easy) of a turn that changes the number `value`."""
  r = g.rng
  kind = r.choice(("double", "triple", "half", "add", "add", "sub", "sub", "mul", "even", "words", "about"))
  if kind == "about":
    op = r.choice("+-*")
    a, b = g.operands(op, lambda: (draw_sub(g) if op == "-" else draw_add(g) if op == "+" else draw_digit(g)))
    lines, result = calc_lines(op, a, b)
    return g.phrase(THEN["about"], e=r.choice(SYMBOLS[op][:3]).format(a=a, b=b)), lines, str(result), False
  if kind == "even":
    word = "odd" if value % 2 else "even"
    return g.phrase(THEN["even"]), [f"{value} ends in {value % 10}, {word}"], word, True
  if kind == "words":
    if value > 9999:
      return None
    line = place_values(value)
    return g.phrase(THEN["words"]), [line], number_words(value), True
  op, k = {"double": ("*", 2), "triple": ("*", 3), "half": ("/", 2), "mul": ("*", r.randint(2, 9)),
           "add": ("+", g.number(1, 3)), "sub": ("-", g.number(1, 3))}[kind]
  if kind == "half" and value % 2:
    return None
  lines, result = g.calc(op, value, k)
  return g.phrase(THEN[kind], k=k), lines, str(result), False


def word_follow_up(g, w):
  kind = g.rng.choice(("reverse", "length", "upper", "count"))
  if kind == "reverse":
    return g.phrase(THEN[kind]), [" ".join(w), " ".join(w[::-1])], CHARS + w[::-1] + CHARS, False
  if kind == "length":
    return g.phrase(THEN[kind]), ["count letters:", " ".join(f"{ch}{i + 1}" for i, ch in enumerate(w))], str(len(w)), False
  if kind == "upper":
    return g.phrase(THEN[kind]), [" ".join(w)], CHARS + w.upper() + CHARS, True
  c = g.rng.choice(w)
  line, count = count_lines(w, c)
  return g.phrase(THEN[kind], c=c), [f"count {c}:", line], str(count), False


def task_follow_up(g):
  r = g.rng
  if r.random() < 0.25:
    w = g.word()
    first = (g.phrase(SPELL, w=g.shown(w)), "-".join(w))
    result = word_follow_up(g, w)
    return result + ([first],)
  base = r.choice(("add", "add", "sub", "multiply_digit", "story", "expression"))
  start = TASKS[base][0](g)
  if start is None or not start[2].isdigit():
    return None
  history, value = [(start[0], start[2])], int(start[2])
  if r.random() < 0.25:
    step = number_follow_up(g, value)
    if step is None or not step[2].isdigit():
      return None
    history.append((step[0], step[2]))
    value = int(step[2])
  result = number_follow_up(g, value)
  return None if result is None else result + (history,)


# Talk -----------------------------------------------------------------------------------------------------------------------------

def task_greeting(g):
  texts, reply = g.rng.choice(knowledge.GREETINGS)
  text = g.rng.choice(texts)
  lead = g.rng.choice(("", "", "", "oh, ", "well, "))
  text = g.dress([lead + text], {}, opener=False)
  return text.rstrip("?") or text, ["The user is talking to me."], reply, True


def held_choice(g, key, options):
  """One of the phrasings; about one in eight is held out, by hash."""
  held = [o for o in options if zlib.crc32(f"{key}:{o}".encode()) % 8 == 0]
  train = [o for o in options if o not in held] or options
  if g.side == "eval" and held and g.rng.random() < HELD_PHRASING_SHARE:
    g.held_phrasing = True
    return g.rng.choice(held)
  return g.rng.choice(train)


def task_identity(g):
  key, texts, reply = g.rng.choice(knowledge.IDENTITY)
  return g.dress([held_choice(g, key, texts)], {}), ["A question about me."], reply, True


COMMAND = Phrases(["what does fathom {c} do", "what is fathom {c}", "what is the {c} command for", "explain fathom {c}", "what does the {c} command do",
                   "tell me about fathom {c}", "how does fathom {c} work", "when do i use fathom {c}", "what is `fathom {c}` for", "describe the {c} command"],
                  ["in fathom, what is {c} good for", "i don't understand fathom {c}"])
FLAG = Phrases(["what does {c} do", "what is {c} for", "explain {c}", "what does the {c} flag do", "what is the {c} option", "tell me about {c}",
                "in fathom, what does {c} do", "when do i use {c}", "what does the option {c} mean", "how does {c} work", "fathom {c}"],
               ["what is the meaning of {c}", "what happens with {c}"])
PURPOSE = Phrases(["how do i {c}", "how can i {c}", "how to {c}", "which flag do i use to {c}", "i want to {c}", "what option lets me {c}", "how do you {c} in fathom",
                   "is there a way to {c}", "in fathom, how do i {c}"], ["what must i type to {c}", "which option is there to {c}"])
EXIT = Phrases(["what does exit code {c} mean", "what is exit code {c}", "fathom exited with {c}, why", "exit status {c}", "why did fathom return {c}",
                "what does exit status {c} mean", "explain exit code {c}", "what does the return code {c} mean"], ["fathom ended with code {c}, what is that"])
SLASH = Phrases(["what does {c} do", "what is {c} for", "what does {c} do in chat", "explain {c}", "what is the {c} command", "in the chat, what does {c} do"],
                ["what happens when i type {c}"])
VARIABLE = Phrases(["what is {c}", "what does {c} do", "what is the variable {c} for", "explain {c}", "what does the environment variable {c} do"],
                   ["why would i set {c}"])


def task_help(g):
  r = g.rng
  kind = r.choices(("command", "flag", "purpose", "exit", "slash", "variable", "text"), (12, 22, 26, 12, 9, 5, 24))[0]
  if kind == "command":
    c = r.choice(list(knowledge.COMMANDS))
    return g.phrase(COMMAND, c=c), [f"A question about fathom {c}."], knowledge.COMMANDS[c], True
  if kind in ("flag", "purpose"):
    c = r.choice(list(knowledge.FLAGS))
    answer, purposes = knowledge.FLAGS[c]
    question = g.phrase(FLAG, c=c) if kind == "flag" else g.phrase(PURPOSE, c=r.choice(purposes))
    return question, [f"A question about fathom: {c}."], answer, True
  if kind == "exit":
    c = r.choice(list(knowledge.EXIT_CODES))
    return g.phrase(EXIT, c=c), [f"A question about exit code {c}."], knowledge.EXIT_CODES[c], True
  if kind == "slash":
    c = r.choice(list(knowledge.SLASH))
    return g.phrase(SLASH, c=c), [f"A question about the chat: {c}."], knowledge.SLASH[c], True
  if kind == "variable":
    c = r.choice(list(knowledge.ENVIRONMENT))
    return g.phrase(VARIABLE, c=c), [f"A question about {c}."], knowledge.ENVIRONMENT[c], True
  key, texts, reply = r.choice(knowledge.HELP)
  return g.dress([held_choice(g, key, texts)], {}), ["A question about fathom."], reply, True


OUTSIDE = Phrases([
    "what is the capital of {p}", "who is the president of {p}", "how many people live in {p}", "what is the weather in {p}", "tell me about {p}",
    "where is {p}", "what language do they speak in {p}", "who was the first king of {p}", "when was {p} founded", "what is {p} famous for",
    "who wrote {w}", "who invented the {w}", "what is a {w}", "why is the {w} {v}", "who discovered {w}", "what does {w} mean", "define {w}",
    "when was the {w} invented", "how do you make a {w}", "what is the history of the {w}", "how does a {w} work", "where do {w}s live",
    "what do {w}s eat", "why do {w}s {v}", "what is the best {w}", "how much does a {w} cost", "translate {w} into french", "what is {w} in german",
    "how do you say {w} in spanish", "what rhymes with {w}", "write a poem about a {w}", "write a story about {w} and {v}", "tell me a joke",
    "tell me a joke about a {w}", "sing a song", "who won the {w} cup in {y}", "what happened in {y}", "who was president in {y}",
    "what happened in {p} in {y}", "write a python program that prints {w}", "write code to {v} a {w}", "what is the news today", "what time is it now",
    "what is today's date", "what is the stock price of {w}", "recommend a book about {w}", "recommend a film", "who is {n}", "who is {n} {w}",
    "how old is {n} {w}", "when was {n} born", "is {n} rich", "what is the meaning of life", "why is the sky blue", "how tall is the highest mountain",
    "how far away is the moon", "who painted the {w}", "what is the chemical formula of {w}", "how fast is a {w}", "do you like {w}",
    "what is your favorite {w}", "can you drive a {w}", "should i buy a {w}", "how do i fix my {w}", "how do i cook {w}", "what is the recipe for {w}",
    "summarize the book {w}", "explain {w} to me", "explain quantum {w}", "what is the square root of {w}", "who is your favorite singer",
    "what is the population of {p}", "how do i get to {p}", "book a flight to {p}", "what is the currency of {p}", "send an email to {n}",
    "call {n}", "play some music", "open the {w}", "turn on the {w}", "what is the largest {w} in the world", "what is the longest river in {p}",
    "are {w}s dangerous", "can {w}s fly", "which is better, {w} or {v}", "give me an idea for a {w}", "write a letter to {n}", "what should i eat",
    "is there life on mars", "how many planets are there", "who was the first man on the moon", "what is the speed of light", "what color is a {w}",
    "i like {w}", "my {w} is broken", "i want a {w}", "i am {w}", "the {w} is {v}", "{w}", "{w} {v}", "should i {v}", "is {w} good", "do you have a {w}", "where can i find a {w}",
    "what sound does a {w} make", "how many legs does a {w} have", "what is love", "what is {w} made of", "name three {w}s", "name a famous {w}", "what is the difference between a {w} and a {v}",
    "how long does a {w} live", "which {w} is the best", "write an essay about {w}", "what is the phone number of {n}", "what is the oldest {w}", "who built {p}",
    "how big is {p}", "how old is {p}", "explain how a {w} works", "tell me a story", "tell me something about {w}s", "give me a recipe", "what do you think about {w}",
    "can you help me with my {w}", "how do i {v} a {w}", "when does the {w} open", "who plays {w}", "what is the temperature in {p}", "is {p} a country"],
    ["what is the oldest {w} in {p}", "who built the {w}", "what is the difference between {w} and {v}", "how long does a {w} live in {p}",
     "who is the king of {p}", "which {w} should i buy", "write a story about {n}", "how many {w}s live in {p}", "tell me something about {p}"])


def task_outside(g):
  r = g.rng
  question = g.phrase(OUTSIDE, p=r.choice(words.PLACES), w=g.word(0.85), v=g.word(0.9), n=r.choice(words.NAMES), y=r.randint(1200, 2030))
  return question, ["This is outside what I know."], knowledge.REFUSAL, True


# name -> (function, weight in training)
TASKS = {
    "add": (operation("+", draw_add), 6), "sub": (operation("-", draw_sub), 6), "multiply_digit": (operation("*", draw_digit), 4),
    "multiply_2x2": (operation("*", lambda g: (g.number(2, 2), g.number(2, 2))), 7), "multiply_long": (operation("*", draw_long), 4),
    "divide": (task_div, 4), "compare": (task_compare, 4), "expression": (task_expression, 5), "story": (task_story, 9),
    "count_letters": (task_count_letters, 7.5), "count_vowels": (task_count_vowels, 2.5), "spell": (task_spell, 4), "reverse_word": (task_reverse_word, 4.5),
    "reverse_number": (task_reverse_number, 1.5), "reverse_list": (task_reverse_list, 3), "length": (task_length, 3),
    "nth_letter": (task_nth_letter, 3), "sort_numbers": (task_sort_numbers, 4.5), "sort_words": (task_sort_words, 6), "case": (task_case, 4),
    "units": (task_units, 4), "time": (task_time, 4), "calendar": (task_calendar, 4), "number_words": (task_number_words, 2.5),
    "parity": (task_parity, 1), "extremes": (task_extremes, 2), "sequence": (task_sequence, 2), "statistics": (task_statistics, 3.5),
    "multiples": (task_multiples, 3), "power": (task_power, 3.5), "divisible": (task_divisible, 2.5), "divide_long": (task_divide_long, 5),
    "decimals": (task_decimals, 3), "chain": (task_chain, 2.5), "follow_up": (task_follow_up, 7), "greeting": (task_greeting, 1.5), "identity": (task_identity, 2),
    "help": (task_help, 6), "outside": (task_outside, 3),
    # Judged on their own; drawn in training as a part of "add" and "sub".
    "add_2_3": (operation("+", lambda g: (g.number(2, 3), g.number(2, 3))), 0),
    "sub_2_3": (operation("-", lambda g: tuple(sorted((g.number(2, 3), g.number(2, 3)), reverse=True))), 0),
}
TASK_NAMES = list(TASKS)
TASK_WEIGHTS = [TASKS[name][1] for name in TASK_NAMES]


def main():
  """Prints some samples of every task, to be read."""
  import argparse
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--side", choices=("train", "eval"), default="train")
  parser.add_argument("--per-task", type=int, default=2)
  args = parser.parse_args()
  g = Generator(args.seed, args.side)
  for name in TASK_NAMES:
    for _ in range(args.per_task):
      s = g.sample(name)
      print(f"[{name}]" + ("" if s.thinking else " (no think)"))
      for user, assistant in s.history:
        print(f"  U: {user}\n  A: {assistant}")
      print(f"  U: {s.question}\n  T: {s.thought!r}\n  A: {s.answer!r}")


if __name__ == "__main__":
  main()
