"""The simplified RNN: s = sigma(U x + W s), y = sigma(V s), loss = -log p(true).

It learns to add binary numbers as one does on paper: two bits in, one bit of the sum out, lowest
first. The state has to remember the carry. With tanh in place of the inner sigma it learns faster:
the slope of sigma is at most 1/4, that of tanh 1, and each step back multiplies the gradient by it.
"""

from __future__ import annotations

import numpy as np

from .. import RNN, Linear, Sequential, bce_with_logits, clip_grad_norm_
from ..optim import Adam
from . import check
from .data import binary_sums

H, BITS, LEARNT = 16, 8, 0.05


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train with sigma and with tanh on sums of 8 bits; test on sums of 30.

    Returns
    -------
    dict
        For "sigmoid" and "tanh": losses (at each update), updates (until the loss is below 0.05),
        right (share of sums with every bit right). difference: from the equations as written.
    """
    difference = compare(seed)
    print("s = sigma(U x + W s), y = sigma(V s), loss -log p(true)\n")
    check(f"written out in NumPy: the same loss to {difference:.0e} < 1e-6", difference < 1e-6)

    figures = {"difference": difference}
    print(f"\n    adding numbers of {BITS} bits, {H} units")
    for inner in "sigmoid", "tanh":
        figures[inner] = trained = train(inner, seed)
        print(
            f"    inner {inner:<8} loss below {LEARNT} after {trained['updates']:4d} updates, then "
            f"{trained['right']:.1%} of sums of 30 bits are right"
        )
    print()
    sigma, tanh = figures["sigmoid"], figures["tanh"]
    for name, one in ("sigma", sigma), ("tanh", tanh):
        check(f"with {name}, {one['right']:.1%} >= 99% of long sums right", one["right"] >= 0.99)
    ratio = sigma["updates"] / tanh["updates"]
    check(f"tanh needs {ratio:.1f} times fewer updates", ratio > 1)
    return figures


def compare(seed):
    """Return how far the engine's loss is from the equations, one step after another."""
    rng = np.random.default_rng(seed)
    model = net("sigmoid", seed)
    p = model.state_dict()
    U, W, V = p["0.weight_ih_l0"], p["0.weight_hh_l0"], p["1.weight"]
    b, c = p["0.bias_ih_l0"] + p["0.bias_hh_l0"], p["1.bias"]  # the formula leaves biases out
    x, true = binary_sums(rng, BITS, 1)
    s, losses = np.zeros(H), []
    for x_t, true_t in zip(x[:, 0], true[:, 0], strict=True):
        s = sigma(U @ x_t + W @ s + b)
        y = sigma(V @ s + c)
        losses.append(-np.log(y if true_t else 1 - y))
    return abs(float(np.mean(losses)) - bce_with_logits(model(x)[0], true)[0])


def sigma(a):
    return 1 / (1 + np.exp(-a))


def net(inner, seed):
    return Sequential(RNN(2, H, nonlinearity=inner, seed=seed), Linear(H, 1, seed=seed + 1))


def train(inner, seed):
    rng = np.random.default_rng(seed)
    model = net(inner, seed)
    adam = Adam(model, lr=1e-2)
    losses = []
    for _ in range(2000):
        x, true = binary_sums(rng, BITS, 32)
        y, _, tape = model.forward(x)
        loss, dy = bce_with_logits(y, true)  # the outer sigma and -log p(true) in one
        model.zero_grad()
        tape.backward(dy)
        clip_grad_norm_(model, 1.0)
        adam.step()
        losses.append(loss)
    updates = next((k for k, loss in enumerate(losses, 1) if loss < LEARNT), len(losses))
    x, true = binary_sums(rng, 30, 1000)
    right = ((model(x)[0] > 0) == (true > 0.5)).all(axis=(0, 2)).mean()
    return {"updates": updates, "right": float(right), "losses": losses[::20]}


def picture(figures):
    """Both losses while they learn."""
    from .drawing import panels

    figure, axes = panels(width=4.5)
    for inner, label in ("sigmoid", r"inner $\sigma$"), ("tanh", "inner tanh"):
        losses = figures[inner]["losses"]
        axes.semilogy(np.arange(len(losses)) * 20, losses, label=label)
    axes.axhline(LEARNT, color="gray", lw=0.8, ls=":")
    axes.set(xlabel="updates", ylabel="nats per bit", title="Learning to add")
    axes.legend()
    return figure
