"""Truncated BPTT: look back over the last k steps only; what came before enters as a constant.

The task has a memory of known length: at the end of a row of random tokens, say the one of DISTANCE
steps before the end. Step back fewer times, and no gradient ever tells the step that read the token
to keep it, although the state is carried over all steps. Look back as far, and it is learnt. Each
further step costs time. Equations (T1) and (T2) of docs/math.md.
"""

from __future__ import annotations

import time

import numpy as np

from .. import RNN, Linear, clip_grad_norm_, cross_entropy
from ..optim import Adam
from . import check
from .data import recall

T, B, H, SYMBOLS, DISTANCE = 32, 64, 32, 4, 8
LENGTHS = (1, 2, 4, 6, 7, 8, 9, 10, 12, 16, 32)


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train once for each k; compare what was learnt, and the time.

    Returns
    -------
    dict
        k; right (share of right answers on fresh rows), us (an update), one of each k.
    """
    lengths = (4, 7, 8, 10) if quick else LENGTHS
    print(f"Say the token of {DISTANCE} steps before the end. Guessing: {1 / SYMBOLS:.0%} right.\n")
    figures = {"k": list(lengths), "right": [], "us": []}
    for k in lengths:
        right, us = train(k, seed)
        print(f"    k = {k:2d}   {right:6.1%} right   {us:6.0f} us an update", flush=True)
        figures["right"].append(right)
        figures["us"].append(us)
    print()
    before = max(r for k, r in zip(lengths, figures["right"], strict=True) if k < DISTANCE)
    after = min(r for k, r in zip(lengths, figures["right"], strict=True) if k >= DISTANCE)
    check(f"with k < {DISTANCE} hardly more than guessing: {before:.1%} < 45%", before < 0.45)
    check(f"from k = {DISTANCE} on it is learnt: {after:.1%} > 75%", after > 0.75)
    return figures


def train(k, seed):
    """Return the share of right answers after 1,000 updates, and the median time of one."""
    rng = np.random.default_rng(seed)
    rnn, last = RNN(SYMBOLS, H, seed=seed), Linear(H, SYMBOLS, seed=seed + 1)
    net = [rnn, last]
    adam = Adam(net, lr=5e-3)
    seconds = []
    for _ in range(1000):
        x, target = recall(rng, T, B, DISTANCE, SYMBOLS)
        start = time.perf_counter()
        s = rnn(x[: T - k])[1] if k < T else None  # carried, and a constant: no tape
        _, s, tape = rnn.forward(x[T - k :], s)
        logits, _, last_tape = last.forward(s[0])
        _, dlogits = cross_entropy(logits, target)
        for layer in net:
            layer.zero_grad()
        ds, _ = last_tape.backward(dlogits)
        tape.backward(None, ds[None])  # what it returns, the gradient of the carried s, is dropped
        clip_grad_norm_(net, 1.0)
        adam.step()
        seconds.append(time.perf_counter() - start)
    x, target = recall(rng, T, 2000, DISTANCE, SYMBOLS)
    logits, _ = last(rnn(x)[1][0])
    return float((logits.argmax(1) == target).mean()), float(np.median(seconds)) * 1e6


def picture(figures):
    """Right answers over k, and the time of an update."""
    from .drawing import panels

    figure, (learnt, cost) = panels(1, 2)
    learnt.plot(figures["k"], figures["right"], "o-")
    learnt.axvline(DISTANCE, color="gray", lw=0.8)
    learnt.axhline(1 / SYMBOLS, color="gray", lw=0.8, ls=":")
    learnt.text(DISTANCE + 0.5, 0.5, "memory needed", color="gray")
    learnt.text(DISTANCE + 5, 1 / SYMBOLS, "guessing", va="bottom", color="gray")
    learnt.set(xlabel="k, steps looked back", ylabel="right answers", ylim=(0, 1.03))
    learnt.set_title("It learns when k reaches the memory")
    cost.plot(figures["k"], figures["us"], "o-")
    cost.set(xlabel="k, steps looked back", ylabel="µs an update", ylim=(0, None))
    cost.set_title("Looking back costs time")
    return figure
