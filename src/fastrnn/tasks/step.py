"""One step of a recurrent network: s = tanh(W s + U x), y = V s.

The state s is all that it remembers. It is kept between calls of `step`, so the same input may give
another output: what came before counts.
"""

from __future__ import annotations

import numpy as np

from .. import RNN, Linear, Sequential
from . import check

I, H, O = 3, 8, 2


class Net:
    """The network in symbols: s = tanh(W s + U x), y = V s."""

    def __init__(self, rng):
        self.U = rng.normal(0, 0.5, (H, I))
        self.W = rng.normal(0, 0.3, (H, H))
        self.V = rng.normal(0, 0.5, (O, H))
        self.s = np.zeros(H)

    def step(self, x):
        self.s = np.tanh(self.W @ self.s + self.U @ x)
        return self.V @ self.s


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Step through a few inputs, and through the same input again and again; compare the engine.

    Returns
    -------
    dict
        difference (largest, between the class and the engine), outputs (of the same input).
    """
    rng = np.random.default_rng(seed)
    net = Net(rng)
    engine = engine_of(net)
    x = rng.normal(0, 1, (20, I))

    one_by_one = np.array([net.step(x_t) for x_t in x])
    at_once, _ = engine(x[:, None].astype("float32"))
    difference = float(abs(one_by_one - at_once[:, 0]).max())
    print("s = tanh(W s + U x), y = V s: 20 steps of the class, and the engine on the sequence\n")
    check(f"they agree to {difference:.1e} < 1e-6", difference < 1e-6)

    net.s = np.zeros(H)
    same = x[0]
    outputs = np.array([net.step(same) for _ in range(8)])
    print(f"\nThe same input x = {np.round(same, 2)}, step after step:\n")
    for t, y in enumerate(outputs, 1):
        print(f"    step {t}   y = {y[0]:7.4f} {y[1]:7.4f}")
    print()
    least = float(abs(np.diff(outputs[:4], axis=0)).max(1).min())
    check(f"four equal inputs, four outputs, at least {least:.3f} > 0.001 apart", least > 1e-3)
    net.s = np.zeros(H)
    again = net.step(same)
    check("from the same state the output is the same", bool((again == outputs[0]).all()))
    return {"difference": difference, "outputs": outputs.tolist()}


def engine_of(net):
    """Return the same network as two layers of fastrnn."""
    model = Sequential(RNN(I, H, bias=False), Linear(H, O, bias=False))
    model.load_state_dict({"0.weight_ih_l0": net.U, "0.weight_hh_l0": net.W, "1.weight": net.V})
    return model


def picture(figures):
    """The outputs of one and the same input."""
    from .drawing import panels

    figure, axes = panels(width=4)
    steps = range(1, len(figures["outputs"]) + 1)
    for j, y in enumerate(zip(*figures["outputs"], strict=True), 1):
        axes.plot(steps, y, "o-", label=f"$y_{j}$")
    axes.set(xlabel="step", title="The same input at every step, another output")
    axes.legend()
    return figure
