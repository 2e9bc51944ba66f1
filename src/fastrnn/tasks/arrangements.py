"""Four arrangements of inputs and outputs, of the same parts.

    one to one     a picture is a digit         an RNN of one step is an ordinary network
    one to many    a picture to its name        the picture is the state that a writer starts from
    many to one    eight rows to a digit        a reader, of which only the last state is asked
    many to many   a date in words to ISO form  a reader, and a writer that looks back at it

The digits are scikit-learn's, 1,797 pictures of 8 by 8 (the extra `demos`); without it, drawn ones:
a font of 5 by 7, moved about and under noise. The dates of the test are never seen in training, in
no form.
"""

from __future__ import annotations

import datetime
import importlib.util

import numpy as np

from .. import GRU, LSTM, RNN, EncoderDecoder, Linear, clip_grad_norm_, cross_entropy, pad_sequences
from ..optim import Adam
from ..schedules import CosineWithWarmup
from . import check

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = ".efghinorstuvwxz"  # the first one ends a name, and is what the writer reads at first
MARKS = "\n0123456789-"  # of ISO dates, likewise
MONTHS = "January February March April May June July August September October November December"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train each arrangement; test it on what it has not seen.

    Returns
    -------
    dict
        digits: where from; one_to_one, one_to_many, many_to_one, many_to_many: shares of right
        answers; date, written, attention: an example, and where in the date each mark looks.
    """
    source = digits if importlib.util.find_spec("sklearn") else drawn_digits
    pictures, labels = source(np.random.default_rng(seed))
    seen, unseen = (pictures[:1437], labels[:1437]), (pictures[1437:], labels[1437:])
    figures = {"digits": "scikit-learn" if source is digits else "drawn"}
    print(
        f"Digits: {figures['digits']}, {len(seen[0]):,} to learn and {len(unseen[0])} for the test."
    )

    for number, arrangement in enumerate((one_to_one, one_to_many, many_to_one)):
        name = arrangement.__name__
        print(f"\n{name.replace('_', ' ')}: {arrangement.__doc__.splitlines()[0]}\n")
        answers = arrangement(seen, unseen[0], 20 if quick else 40, seed + 10 * number)
        share = figures[name] = float((answers == unseen[1]).mean())
        show(unseen[0], answers, str if name != "one_to_many" else as_name)
        check(f"{share:.1%} >= 95% of the test's pictures are answered right", share >= 0.95)

    print(f"\nmany to many: {dates.__doc__.splitlines()[0]}\n")
    figures |= dates(400 if quick else 1500, seed)
    share, least = figures["many_to_many"], 0.9 if quick else 0.98
    check(f"{share:.1%} >= {least:.0%} of unseen dates are exactly right", share >= least)
    return figures


# --- digits -------------------------------------------------------------------------------------


def digits(rng):
    """Return scikit-learn's digits, shuffled: float32 (1797, 8, 8) from 0 to 1, and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = rng.permutation(len(data.target))
    return (data.images[order] / 16).astype(np.float32), data.target[order]


FONT = """
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


def drawn_digits(rng):
    """Return as many digits of a font: moved, of varying strength, and under noise."""
    rows = [line.split() for line in FONT.split("\n") if line]
    glyphs = np.array([[[mark == "#" for mark in row[d]] for row in rows] for d in range(10)])
    labels = rng.integers(0, 10, 1797)
    pictures = np.zeros((1797, 8, 8))
    for picture, label in zip(pictures, labels, strict=True):
        down, right = rng.integers(0, 2), rng.integers(0, 4)
        picture[down : down + 7, right : right + 5] = rng.uniform(0.5, 1) * glyphs[label]
    return np.clip(pictures + rng.normal(0, 0.1, pictures.shape), 0, 1).astype(np.float32), labels


def one_to_one(seen, unseen, epochs, seed):
    """All 64 pixels at once, one step without a past: s = tanh(U x), y = V s."""
    rnn, last = net = [RNN(64, 64, seed=seed), Linear(64, 10, seed=seed + 1)]

    def step(pictures, labels):
        _, s, tape = rnn.forward(pictures.reshape(1, -1, 64))
        logits, _, last_tape = last.forward(s[0])
        ds, _ = last_tape.backward(cross_entropy(logits, labels)[1])
        tape.backward(None, ds[None])

    learn(net, step, seen, epochs, seed)
    return last(rnn(unseen.reshape(1, -1, 64))[1][0])[0].argmax(1)


def one_to_many(seen, unseen, epochs, seed):
    """Captioning: the picture becomes a state; from it a GRU writes the digit's name."""
    rnn, writer, last = net = [
        RNN(64, 64, seed=seed),
        GRU(len(LETTERS), 64, seed=seed + 1),
        Linear(64, len(LETTERS), seed=seed + 2),
    ]
    names = [[LETTERS.index(letter) for letter in name + "."] for name in NAMES]
    names, _ = pad_sequences([np.array(name) for name in names], value=-100)  # (6, 10)

    def step(pictures, labels):
        target = names[:, labels]
        before = np.concatenate([np.zeros_like(target[:1]), np.maximum(target[:-1], 0)])
        _, s, tape = rnn.forward(pictures.reshape(1, -1, 64))
        h, _, writer_tape = writer.forward(before, s)
        logits, _, last_tape = last.forward(h)
        dh, _ = last_tape.backward(cross_entropy(logits, target)[1])
        _, ds = writer_tape.backward(dh)
        tape.backward(None, ds)

    learn(net, step, seen, epochs, seed)
    _, s = rnn(unseen.reshape(1, -1, 64))
    letters, written = np.zeros((1, len(unseen)), int), []
    for _ in range(len(names)):
        h, s = writer(letters, s)
        letters = last(h)[0].argmax(2)
        written.append(letters[0])
    words = ["".join(LETTERS[i] for i in word).split(".")[0] for word in np.array(written).T]
    return np.array([NAMES.index(word) if word in NAMES else -1 for word in words])


def many_to_one(seen, unseen, epochs, seed):
    """Eight steps of eight pixels, row by row, into an LSTM; the last state says which digit."""
    lstm, last = net = [LSTM(8, 64, seed=seed), Linear(64, 10, seed=seed + 1)]

    def by_row(pictures):
        return np.ascontiguousarray(pictures.swapaxes(0, 1))

    def step(pictures, labels):
        _, (h, _), tape = lstm.forward(by_row(pictures))
        logits, _, last_tape = last.forward(h[0])
        dh, _ = last_tape.backward(cross_entropy(logits, labels)[1])
        tape.backward(None, (dh[None], None))

    learn(net, step, seen, epochs, seed)
    return last(lstm(by_row(unseen))[1][0][0])[0].argmax(1)


def learn(net, step, seen, epochs, seed):
    """Go through the pictures in batches; `step` adds a batch's gradients."""
    rng, adam = np.random.default_rng(seed), Adam(net, lr=5e-3)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(seen[0])), len(seen[0]) // 32):
            for layer in net:
                layer.zero_grad()
            step(seen[0][rows], seen[1][rows])
            clip_grad_norm_(net, 1.0)
            adam.step()


def as_name(answer):
    return NAMES[answer] if answer >= 0 else "(no name)"


def show(pictures, answers, say, count=5):
    """Print the first pictures, and below each the answer."""
    for row in range(8):
        lines = ("".join(" .+#"[min(3, int(4 * p))] for p in picture[row]) for picture in pictures)
        print("    " + "   ".join(line for line, _ in zip(lines, range(count), strict=False)))
    print("    " + "   ".join(f"{say(answer):^8}" for answer in answers[:count]) + "\n")


# --- dates --------------------------------------------------------------------------------------


def dates(updates, seed):
    """A date in one of many free forms into ISO form, mark by mark, with attention."""
    rng = np.random.default_rng(seed)
    first = datetime.date(1900, 1, 1).toordinal()
    days = first + rng.permutation(datetime.date(2100, 1, 1).toordinal() - first)
    unseen, seen = days[:1000], days[1000:]
    marks = sorted({mark for day in seen[:5000] for mark in free_form(day, rng)})
    model = EncoderDecoder(len(marks), len(MARKS), "gru", 64, embedding=16, stop=0, seed=seed)
    adam = Adam(model, lr=5e-3)
    schedule = CosineWithWarmup(adam, updates, updates // 20)

    def draw(days):
        forms = [free_form(day, rng) for day in days]
        source, lengths = pad_sequences([np.array([marks.index(m) for m in f]) for f in forms])
        iso = [datetime.date.fromordinal(day).isoformat() + "\n" for day in days]
        return forms, source, lengths, np.array([[MARKS.index(m) for m in d] for d in iso]).T

    for update in range(1, updates + 1):
        _, source, lengths, target = draw(rng.choice(seen, 64))
        logits, _, tape = model.forward((source, target), lengths=lengths)
        loss, dlogits = cross_entropy(logits, target)
        model.zero_grad()
        tape.backward(dlogits)
        clip_grad_norm_(model, 1.0)
        adam.step()
        schedule.step()
        if update % (updates // 5) == 0:
            print(f"    {update:5,} updates   {loss:.4f} nats per mark", flush=True)

    forms, source, lengths, target = draw(unseen)
    written = model.generate(source, lengths, max_length=12)
    right = [np.array_equal(w, t[:-1]) for w, t in zip(written, target.T, strict=True)]
    written = ["".join(MARKS[i] for i in ids) for ids in written]
    print()
    for form, iso in list(zip(forms, written, strict=True))[:6]:
        print(f"    {form:>34}  ->  {iso}")
    print()
    _, _, tape = model.forward((source[:, :1], target[:, :1]), lengths=lengths[:1])
    return {
        "many_to_many": float(np.mean(right)),
        "date": forms[0],
        "written": written[0],
        "attention": tape.attention[:10, 0, : lengths[0]].round(3).tolist(),
    }


def free_form(day, rng):
    """Write a day as people do: one of many forms, with or without a weekday and capitals."""
    date = datetime.date.fromordinal(int(day))
    d, y, month = date.day, date.year, MONTHS.split()[date.month - 1]
    ending = "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    text = (
        f"{d} {month} {y}",
        f"{month} {d}, {y}",
        f"{d} {month[:3]} {y}",
        f"{month[:3]} {d}{ending} {y}",
        f"{d}{ending} of {month}, {y}",
        f"{d}.{date.month}.{y}",
        f"{d:02}/{date.month:02}/{y}",
        f"{y} {month} {d}",
    )[rng.integers(8)]
    weekday = DAYS.split()[date.weekday()]
    text = ("", "", f"{weekday}, ", f"{weekday[:3]} ")[rng.integers(4)] + text
    return (text, text.lower(), text.upper())[rng.integers(3)]


def picture(figures):
    """Where in the date each mark of the answer looks, and the shares of right answers."""
    from .drawing import panels

    figure, (looks, shares) = panels(1, 2, width=9, width_ratios=(2, 1))
    looks.imshow(figures["attention"], aspect="auto", interpolation="none", vmin=0, vmax=1)
    looks.set_xticks(np.arange(len(figures["date"])), figures["date"])
    written = figures["written"][:10]
    looks.set_yticks(np.arange(len(written)), written)
    looks.set(title="Many to many: where each mark looks", xlabel="read", ylabel="written")
    kinds = ("one_to_one", "one_to_many", "many_to_one", "many_to_many")
    shares.barh([kind.replace("_", " ") for kind in kinds], [figures[kind] for kind in kinds])
    shares.set(xlim=(0, 1), title="Right on what was not seen")
    shares.invert_yaxis()
    return figure
