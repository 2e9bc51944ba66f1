"""How far back does it remember? Two tasks that need it, at growing lengths, for the three cells.

Adding: two numbers of a row are marked, say their sum at the end; always saying 1 costs 1/6.
Copying: ten symbols, a wait, say them again; without memory it costs 10 ln 8 / (T + 20) a step.
A cell breaks where it does no better than these baselines. All have the same number of units and
at most the same number of updates, so a cell that breaks here may still learn in a longer run.
"""

from __future__ import annotations

import numpy as np

from .. import GRU, LSTM, RNN, Linear, Sequential, clip_grad_norm_, cross_entropy, mse
from ..optim import Adam
from . import check
from .data import adding, copying, copying_baseline

CELLS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
LENGTHS = {"adding": (10, 50, 100, 200), "copy": (1, 10, 20, 40)}
QUICK = {"adding": (10, 50), "copy": (10,)}


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train each cell at each length.

    Returns
    -------
    dict
        For "adding" and "copy": lengths, and by cell the loss at each, in units of the baseline: 1
        is as bad as no memory at all.
    """
    lengths = QUICK if quick else LENGTHS
    figures = {}
    for task, title in ("adding", "Adding"), ("copy", "Copying"):
        print(f"{title}: the loss, where 1 is what it costs to remember nothing\n")
        print("          " + "".join(f"   T = {T:<4d}" for T in lengths[task]))
        figures[task] = {"lengths": list(lengths[task])}
        for name in CELLS:
            print(f"    {name:6}", end="", flush=True)
            figures[task][name] = []
            for T in lengths[task]:
                loss = add(name, T, seed) if task == "adding" else copy(name, T, seed, quick)
                figures[task][name].append(loss)
                print(f"{loss:11.3f}", end="", flush=True)
            print()
        print()
    prove(figures, quick)
    return figures


def prove(figures, quick):
    """Check where each cell holds and where it breaks, over the lengths that have been tried."""

    def pick(task, name, least, most):
        row = zip(figures[task]["lengths"], figures[task][name], strict=True)
        return zip(*[(T, loss) for T, loss in row if least <= T <= most], strict=True)

    for name, most in ("RNN", 10), ("LSTM", 100), ("GRU", 200):
        T, losses = pick("adding", name, 0, most)
        check(f"adding: at T <= {max(T)} {name} learns, {max(losses):.3f} < 0.1", max(losses) < 0.1)
    T, losses = pick("adding", "RNN", 50, 200)
    check(f"adding: at T >= {min(T)} RNN does not, {min(losses):.2f} > 0.75", min(losses) > 0.75)
    T, losses = pick("copy", "RNN", 10, 40)
    check(f"copy: at T >= {min(T)} RNN does not, {min(losses):.3f} > 0.97", min(losses) > 0.97)
    for name, most in (("GRU", 40),) if quick else (("LSTM", 10), ("GRU", 40)):
        T, losses = pick("copy", name, 0, most)
        check(
            f"copy: at T <= {max(T)} {name} remembers, {max(losses):.2f} < 0.95", max(losses) < 0.95
        )


def add(name, T, seed):
    rng, fresh = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    x_test, target_test = adding(fresh, T, 1000)
    model = net(name, 2, 32, 1, 1e-2, seed)

    def error():
        y, _ = model(x_test)
        return mse(y[-1], target_test)[0] * 6

    for _ in range(20):  # until it is learnt, at most 2,000 updates
        train(model, 100, lambda: adding(rng, T, 32), at_the_end)
        if error() < 0.03:
            break
    return error()


def at_the_end(y, target):
    """Squared error of the last output; the others are not asked for."""
    dy = np.zeros_like(y)
    loss, dy[-1] = mse(y[-1], target)
    return loss, dy


def copy(name, T, seed, quick):
    rng, fresh = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    model = net(name, 10, 64, 9, 5e-3, seed)
    train(model, 700 if quick else 1500, lambda: copying(rng, T, 32), cross_entropy)
    x, target = copying(fresh, T, 1000)
    return cross_entropy(model(x)[0], target)[0] / copying_baseline(T)


def net(name, inputs, units, outputs, lr, seed):
    cell = CELLS[name](inputs, units, seed=seed)
    if name == "LSTM":
        start = cell.state_dict()
        start["bias_ih_l0"][units : 2 * units] += 1  # forget gates that remember at first
        cell.load_state_dict(start)
    model = Sequential(cell, Linear(units, outputs, seed=seed + 1))
    model.adam = Adam(model, lr=lr)
    return model


def train(model, updates, draw, loss):
    for _ in range(updates):
        x, target = draw()
        y, _, tape = model.forward(x)
        _, dy = loss(y, target)
        model.zero_grad()
        tape.backward(dy)
        clip_grad_norm_(model, 1.0)
        model.adam.step()


def picture(figures):
    """The loss over the length, for each cell."""
    from .drawing import panels

    figure, both = panels(1, 2, sharey=True)
    for axes, (task, xlabel) in zip(
        both, {"adding": "steps", "copy": "blanks to bridge"}.items(), strict=True
    ):
        for name, marker in zip(CELLS, "o^s", strict=True):
            axes.plot(figures[task]["lengths"], figures[task][name], f"{marker}-", label=name)
        axes.axhline(1, color="gray", lw=0.8, ls=":")
        axes.set(xlabel=f"T, {xlabel}", title=task.capitalize(), ylim=(0, 1.15))
    both[0].set_ylabel("loss / loss without memory")
    both[1].legend()
    return figure
