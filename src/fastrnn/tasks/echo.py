"""Echo: five random numbers go in one after another; the one at `out_index` comes back.

LSTM(25) and a softmax over the ten numbers, Adam, one sequence at a time. Every sequence is new,
and answered before it is learnt from: a long row of right answers in training is already a test.
The net has to keep one number through two more and drop the other four.
"""

from __future__ import annotations

import time

import numpy as np

from .. import LSTM, Linear, Sequential, TrainStep
from ..optim import Adam
from . import check

LENGTH, NUMBERS, OUT_INDEX = 5, 10, 2


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train until 1,500 answers in a row were right; test on 10,000 fresh sequences.

    Returns
    -------
    dict
        samples (needed), us_per_step, wrong (of 10,000), parameters, curve of [samples, share of
        right answers among the last 250].
    """
    rng = np.random.default_rng(seed)
    lstm, dense = LSTM(NUMBERS, 25, seed=seed), Linear(25, NUMBERS, seed=seed + 1)
    model = Sequential(lstm, dense)
    step = TrainStep(model, Adam(model, lr=5e-3), last_only=True)  # only h of the end is looked at
    parameters = sum(p.size for p in model.state_dict().values())
    print(f"Of {LENGTH} numbers give back the third. {parameters:,} parameters.\n")

    right, in_a_row, curve, start = [], 0, [], time.perf_counter()
    while in_a_row < 1500 and len(right) < 20_000:
        x = rng.integers(0, NUMBERS, (LENGTH, 1))
        right.append(train(step, x))
        in_a_row = in_a_row + 1 if right[-1] else 0
        if len(right) % 250 == 0:
            curve.append([len(right), sum(right[-250:]) / 250])
    us = (time.perf_counter() - start) / len(right) * 1e6
    for samples, share in curve[1::2]:
        print(f"    {samples:5,} samples   {share:6.1%} of the last 250 right")

    x = rng.integers(0, NUMBERS, (LENGTH, 10_000))
    y, _ = lstm(x)
    logits, _ = dense(y[-1])
    wrong = int((logits.argmax(1) != x[OUT_INDEX]).sum())
    print(f"\n    {len(right):,} training steps of one sample, {us:.0f} us each")
    shown = " ".join(map(str, x[:, 0]))
    print(f"    for example  {shown}  ->  {logits[0].argmax()}\n")
    check(f"{1 - wrong / 10_000:.2%} of 10,000 fresh sequences are answered right", wrong == 0)
    return {
        "samples": len(right),
        "us_per_step": us,
        "wrong": wrong,
        "parameters": parameters,
        "curve": curve,
    }


def train(step, x):
    """Learn from one sequence (5, 1); return whether the answer before was right."""
    target = x[OUT_INDEX]
    step(x, target)  # integers: the same as one-hot rows
    return bool(step.output.argmax() == target[0])


def picture(figures):
    """The share of right answers as it learns."""
    from .drawing import panels

    figure, axes = panels(width=4.5)
    axes.plot(*zip(*figures["curve"], strict=True), ".-")
    axes.axhline(1 / NUMBERS, color="gray", lw=0.8, ls=":")
    axes.set(xlabel="samples", ylabel="right answers", title="Echo", ylim=(0, 1.03))
    axes.text(0, 1 / NUMBERS, "guessing", va="bottom", color="gray")
    return figure
