"""LSTM: a memory c with a gate at every door.

    i = sigma(W_i x + R_i h + b_i)        how much of the candidate comes in
    f = sigma(W_f x + R_f h + b_f)        how much of the memory stays
    g = tanh (W_g x + R_g h + b_g)        the candidate
    o = sigma(W_o x + R_o h + b_o)        how much of the memory is shown
    c = f c + i g        h = o tanh(c)

(L1) to (L3) of docs/math.md. Trained on a text, some gates open and shut with its words.
"""

from __future__ import annotations

import numpy as np

from ..reference import lstm_forward, sigmoid
from . import check
from .gates import H, compare, draw, show, trace, train_all, weights


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Train the three cells alike, compare the LSTM with its equations, show its gates.

    Returns
    -------
    dict
        rnn, lstm, gru: parameters, us (a character), loss (nats on unseen text); shown: gates under
        a text.
    """
    models, figures, ids = train_all(300 if quick else 1500, seed)
    model = models["lstm"]
    gates, traced = trace(model, ids)
    compare(equations(*weights(model), ids), gates)
    _, _, twin = lstm_forward(ids[:, None], None, None, *weights(model))
    difference = float(max(abs(twin.h - traced.h[0]).max(), abs(twin.c - traced.c[0]).max()))
    check(f"h and c are those of the NumPy twin to {difference:.0e} < 1e-4", difference < 1e-4)
    print()
    figures["shown"] = shown = show(gates, "ifo", model.vocabulary.decode(ids))
    contrast = shown["f"]["contrast"]
    check(f"a forget gate differs by {contrast:+.2f} between words", abs(contrast) > 0.15)
    lstm, rnn = figures["lstm"]["loss"], figures["rnn"]["loss"]
    if not quick:  # at first the two are level
        check(f"LSTM predicts better than RNN: {lstm:.3f} < {rnn:.3f}", lstm < rnn)
    return figures


def equations(W, R, b_ih, b_hh, ids):
    """Yield the gates of each step; a character is a one-hot x, so W x is a column of W."""
    h = c = np.zeros(H)
    for token in ids:
        a_i, a_f, a_g, a_o = np.split(W[:, token] + R @ h + b_ih + b_hh, 4)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c = f * c + i * g
        h = o * np.tanh(c)
        yield {"i": i, "f": f, "g": g, "o": o}


def picture(figures):
    """Three gates under a text."""
    return draw(figures, "ifo", "LSTM: gates while it reads")
