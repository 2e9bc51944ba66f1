"""GRU: two gates, and no memory besides the state.

    r = sigma(W_r x + R_r h + b_ir + b_hr)              how much of the state the candidate sees
    z = sigma(W_z x + R_z h + b_iz + b_hz)              how much of the state stays
    n = tanh (W_n x + b_in + r (R_n h + b_hn))          the candidate
    h = z h + (1 - z) n

(G1) to (G5) of docs/math.md. Three products a step where LSTM has four, and about the same result.
"""

from __future__ import annotations

import numpy as np

from ..reference import gru_forward, sigmoid
from . import check
from .gates import H, compare, draw, show, trace, train_all, weights


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train the three cells alike, compare the GRU with its equations, show its gates.

    Returns
    -------
    dict
        rnn, lstm, gru: parameters, us (a character), loss (nats on unseen text); shown: gates under
        a text.
    """
    models, figures, ids = train_all(300 if quick else 1500, seed)
    model = models["gru"]
    gates, traced = trace(model, ids)
    compare(equations(*weights(model), ids), gates)
    _, _, twin = gru_forward(ids[:, None], None, *weights(model))
    difference = float(abs(twin.h - traced.h[0]).max())
    check(f"h is that of the NumPy twin to {difference:.0e} < 1e-4", difference < 1e-4)
    print()
    figures["shown"] = shown = show(gates, "rz", model.vocabulary.decode(ids))
    contrast = shown["r"]["contrast"]
    check(f"a reset gate differs by {contrast:+.2f} between words", abs(contrast) > 0.15)
    share = figures["gru"]["parameters"] / figures["lstm"]["parameters"]
    check(f"GRU has {share:.0%} of LSTM's weights and products", share == 0.75)
    rnn, lstm, gru = (figures[kind]["loss"] for kind in ("rnn", "lstm", "gru"))
    check(f"and predicts as well or nearly: {gru:.3f} < {lstm:.3f} + 0.05", gru < lstm + 0.05)
    check(f"and better than RNN: {gru:.3f} < {rnn:.3f}", gru < rnn)
    return figures


def equations(W, R, b_ih, b_hh, ids):
    """Yield the gates of each step; a character is a one-hot x, so W x is a column of W."""
    h = np.zeros(H)
    for token in ids:
        x_r, x_z, x_n = np.split(W[:, token] + b_ih, 3)
        h_r, h_z, h_n = np.split(R @ h + b_hh, 3)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * h_n)
        h = z * h + (1 - z) * n
        yield {"r": r, "z": z, "n": n}


def picture(figures):
    """Both gates under a text."""
    return draw(figures, "rz", "GRU: gates while it reads")
