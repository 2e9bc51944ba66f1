"""What the demos of LSTM and GRU share: a small job on a text, and gates shown under the text."""

from __future__ import annotations

import time
from itertools import chain, count, islice

import numpy as np

from ..data import Streams, Vocabulary, Whole, builtin_corpus, split
from ..models import CharLM
from ..optim import Adam
from ..training import Trainer
from . import check

H, SHOWN = 64, 72


def train_all(updates, seed):
    """Train the three cells on the same text, alike; return models and figures by cell."""
    text = builtin_corpus()
    vocabulary = Vocabulary.of(text)
    training, validation = split(vocabulary.encode(text), 0.1)
    data, unseen = Streams(training, 32, 50, seed=seed), Whole(validation[:30_000], 30, 50)
    models, rows = {}, {}
    print(f"The next character, {H} units, {updates} updates\n")
    print("           parameters   us a character   nats on unseen text")
    for kind in "rnn", "lstm", "gru":
        model = models[kind] = CharLM(vocabulary.characters, kind, H, seed=seed)
        trainer = Trainer(model, Adam(model, 5e-3), clip=5)
        us = []
        for x, target in islice(chain.from_iterable(map(data.epoch, count())), updates):
            start = time.perf_counter()
            trainer.train_step(x, target)
            us.append((time.perf_counter() - start) * 1e6 / x.size)
        recurrent = sum(p.size for p in model.layers[0].state_dict().values())
        rows[kind] = {
            "parameters": recurrent,
            "us": float(np.median(us)),
            "loss": trainer.evaluate(unseen)["loss"],
        }
        print("    {:5}  {parameters:10,}   {us:14.2f}   {loss:19.3f}".format(kind, **rows[kind]))
    print()
    return models, rows, prose(vocabulary, validation)


def prose(vocabulary, ids, length=400):
    """Return the passage with the most words and spaces, and the fewest other characters."""
    plain = np.array([c.isalpha() or c == " " for c in vocabulary.characters])
    double = (ids[1:] == ids[:-1]) & (ids[1:] == vocabulary.characters.index(" "))
    score = np.cumsum(plain[ids[1:]] & ~double)
    start = 1 + int((score[length:] - score[:-length]).argmax())
    return ids[start : start + length]


def trace(model, ids):
    """Return the gates (T, H) by name, and h, as the engine has them on one text."""
    _, _, tape = model.layers[0].forward(ids[:, None], trace=True)
    gates = {name: values[0, :, 0] for name, values in tape.trace.gates.items()}
    return gates, tape.trace


def weights(model):
    """Return W, R, b_ih, b_hh of the recurrent layer, in float64."""
    return (p.astype(float) for p in model.layers[0].state_dict().values())


def compare(steps, gates):
    """Check the engine's gates against those of the equations, gate by gate."""
    steps = list(steps)
    written = {name: np.array([step[name] for step in steps]) for name in gates}
    worst = max(float(abs(written[name] - gates[name]).max()) for name in gates)
    check(
        f"gates {', '.join(gates)} are those of the equations to {worst:.0e} < 1e-4", worst < 1e-4
    )


def show(gates, names, text):
    """Print gates under a text, of the units that tell letters from what stands between them.

    Returns
    -------
    dict
        text (the part shown); by gate: unit, contrast (mean between words minus mean in words) and
        values.
    """
    letters = np.array([c.isalpha() for c in text])
    shown = " ".join(text[:SHOWN].split("\n"))
    print(f"Gates under a text it has not seen, 0 shut to 9 open\n\n    {'':9}{shown}")
    figures = {"text": shown}
    for name in names:
        contrasts = gates[name][~letters].mean(0) - gates[name][letters].mean(0)
        unit = int(abs(contrasts).argmax())
        values = gates[name][:SHOWN, unit]
        digits = "".join(str(min(9, int(10 * v))) for v in values)
        print(f"    {name} of {unit:3d} {digits}")
        figures[name] = {
            "unit": unit,
            "contrast": float(contrasts[unit]),
            "values": values.round(4).tolist(),
        }
    print()
    return figures


def draw(figures, names, title):
    """The gates of `show`, one row each, above the characters."""
    from .drawing import panels

    shown = figures["shown"]
    figure, axes = panels(width=7.2, height=0.5 + 0.45 * len(names))
    rows = [shown[name]["values"] for name in names]
    image = axes.imshow(rows, vmin=0, vmax=1, aspect="auto", cmap="viridis", interpolation="none")
    figure.colorbar(image, label="open", ticks=[0, 1], pad=0.01)
    axes.set_yticks(range(len(names)), [f"{n}, unit {shown[n]['unit']}" for n in names])
    axes.set_xticks(range(len(shown["text"])), list(shown["text"]), family="monospace", fontsize=7)
    axes.tick_params(length=0)
    axes.set_title(title)
    return figure
