"""Taming gradients that explode: clip them, or keep the Jacobian's factor c in a range.

An RNN reads one number and has to say it 30 steps later: the gradient passes 30 Jacobians. The
recurrent matrix starts orthogonal times 2, so their product is large; one step of SGD throws the
weights far away, where the next is larger still. The same run, with the same numbers, learns with

    value       every element of the gradient within [-limit, limit]              (C2)
    norm        the whole gradient no longer than max_norm                        (C1)
    inside      the gradient reaching each step's state no longer than a limit    (C4)
    Jacobian    W rescaled until the factor c a step is within [lower, upper]     (D15), (D16)

W is rescaled before every update, and the learning rate falls to 0 in a line, in all runs alike.
The numbers of equations are those of docs/math.md. A loss of 1 is what saying nothing costs.
"""

from __future__ import annotations

import math

import numpy as np

from .. import (
    RNN,
    Linear,
    Sequential,
    clip_grad_norm_,
    clip_grad_value_,
    diagnostics,
    init,
    mse,
    rescale_recurrent_,
)
from ..optim import SGD
from . import check

T, B, H, UPDATES, LR = 30, 32, 32, 400, 0.07
WAYS = {
    "none": "nothing is done",
    "value": "each element within 0.03",
    "norm": "norm at most 0.5",
    "inside": "at each step at most 0.003",
    "jacobian": "c in [0.9, 1.05]",
}


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train once as it is, and once with each of the four.

    Returns
    -------
    dict
        By way: losses (finite ones, at each update), norms (of the gradient as backward left it),
        factors (c before and after), updates (how many before it broke off), last (mean loss at
        the end; None if it broke off).
    """
    figures = {}
    print(f"Say a number {T} steps after it was read. 1 is what it costs to say nothing.\n")
    print("                                        c      largest gradient   loss at the end")
    for way, told in WAYS.items():
        figures[way] = one = train(way, seed)
        before, after = one["factors"]
        ended = (
            f"{one['last']:.4f}" if one["last"] is not None else f"broken off at {one['updates']}"
        )
        c = f"{before:.2f} -> {after:.2f}" if after is not None else f"{before:.2f} -> ?"
        print(f"    {way:9} {told:27} {c:13} {max(one['norms']):10.3g}         {ended}")
    print()
    none = figures["none"]
    check(
        f"without, it explodes: no finite loss after {none['updates']} updates",
        none["last"] is None,
    )
    for way in list(WAYS)[1:]:
        last = figures[way]["last"]
        learnt = last is not None and last < 0.2
        check(f"with {way} it learns: {'no end' if last is None else f'{last:.4f}'} < 0.2", learnt)
    return figures


def train(way, seed):
    """Train by plain SGD and tame the gradients in one way."""
    rng = np.random.default_rng(seed)
    rnn = init.orthogonal_(RNN(1, H, bias=False, seed=seed), 2.0, seed=seed)
    model = Sequential(rnn, Linear(H, 1, bias=False, seed=seed + 1))
    sgd = SGD(model, lr=LR)
    losses, norms, factors = [], [], [diagnostics.jacobian_factor(rnn, draw(rng)[0]), None]
    for update in range(UPDATES):
        sgd.lr = LR * (1 - update / UPDATES)
        x, target = draw(rng)
        if way == "jacobian":
            rescale_recurrent_(rnn, 0.9, 1.05, x[:, :4])
        y, _, tape = model.forward(x)
        with np.errstate(over="ignore", invalid="ignore"):  # what explodes may overflow here
            loss, dlast = mse(y[-1], target)
        if not math.isfinite(loss):
            return summary(losses, norms, factors, broken=True)
        dy = np.zeros_like(y)
        dy[-1] = dlast
        model.zero_grad()
        tape.backward(dy, clip_step=("norm", 0.003) if way == "inside" else None)
        norm = clip_grad_norm_(model, 0.5 if way == "norm" else math.inf)
        if not math.isfinite(norm):
            return summary(losses, norms, factors, broken=True)
        if way == "value":
            clip_grad_value_(model, 0.03)
        sgd.step()
        losses.append(3 * loss)  # 1/3 is the variance of a number from [-1, 1]
        norms.append(norm)
    factors[1] = diagnostics.jacobian_factor(rnn, draw(rng)[0])
    return summary(losses, norms, factors, broken=False)


def summary(losses, norms, factors, broken):
    last = None if broken else float(np.mean(losses[-50:]))
    return {
        "losses": losses,
        "norms": norms,
        "factors": factors,
        "updates": len(losses),
        "last": last,
    }


def draw(rng):
    """Numbers from [-1, 1] at the first step, then nothing; and the numbers."""
    x = np.zeros((T, B, 1), np.float32)
    x[0] = rng.uniform(-1, 1, (B, 1))
    return x, x[0]


def picture(figures):
    """The gradient's norm and the loss of each run."""
    from .drawing import panels

    figure, (sizes, learnt) = panels(1, 2, width=8)
    for way in WAYS:
        for axes, values in (sizes, figures[way]["norms"]), (learnt, figures[way]["losses"]):
            means = [float(np.mean(values[i : i + 5])) for i in range(0, len(values), 5)]
            axes.semilogy(5 * np.arange(len(means)), means, lw=1, label=way)
    sizes.set(xlabel="updates", title="Norm of the gradient", ylim=(1e-3, 1e6))
    learnt.set(xlabel="updates", title="Loss / loss of saying nothing", ylim=(1e-4, 1e3))
    sizes.legend()
    return figure
