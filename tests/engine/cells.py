"""Layers of every cell with inputs to match, for tests of how the engine behaves.

What it is not: cases to compare with an oracle; parity/matrix.py has those.
"""

import contextlib
import os
import subprocess
import sys

import numpy as np

import fastrnn as fr

CELLS = {
    "rnn_tanh": (fr.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (fr.RNN, {"nonlinearity": "relu"}),
    "rnn_sigmoid": (fr.RNN, {"nonlinearity": "sigmoid"}),
    "lstm": (fr.LSTM, {}),
    "gru": (fr.GRU, {}),
    "gru_before": (fr.GRU, {"reset_after": False}),
}
STACK = {"num_layers": 2, "bidirectional": True}

# (T, B, I, H) worth several threads: rows shared out, hidden units shared out, both in a grid, x W
# made ahead of the steps, or on the way.
SPLITS = {
    "rows": (9, 34, 20, 70),
    "units": (6, 1, 30, 260),
    "grid": (6, 12, 8, 130),
    "ahead": (40, 1, 150, 26),
    "woven": (37, 1, 40, 200),
}


def build(cell, I=5, H=9, **options):
    """A layer with seeded weights; `options` are those of its class."""
    kind, variant = CELLS[cell]
    return kind(I, H, **{"seed": 0, **variant, **options})


def inputs(layer, T=7, B=3, seed=1, tokens=False):
    """x, state, dy and dstate for the layer."""
    rng = np.random.default_rng(seed)
    order = (B, T) if layer.batch_first else (T, B)
    directions = 1 + layer.bidirectional

    def normal(*shape):
        return rng.standard_normal(shape).astype(layer.dtype)

    def state():
        shape = (layer.num_layers * directions, B, layer.hidden_size)
        return (normal(*shape), normal(*shape)) if isinstance(layer, fr.LSTM) else normal(*shape)

    x = rng.integers(0, layer.input_size, order) if tokens else normal(*order, layer.input_size)
    return x, state(), normal(*order, directions * layer.hidden_size), state()


def train(layer, x, state, dy, dstate, **forward):
    """All that a training step computes: y, state, dx, dstate, and gradients from zero."""
    layer.zero_grad()
    y, final, tape = layer.forward(x, state, **forward)
    dx, dinitial = tape.backward(dy, dstate)
    return arrays(y, final, dx, dinitial, layer._flat_grad.copy())


def arrays(*values):
    """The arrays in nested tuples, in order; None is left out."""
    flat = []
    for value in values:
        if isinstance(value, (tuple, list)):
            flat += arrays(*value)
        elif value is not None:
            flat.append(value)
    return flat


def identical(first, second):
    """Whether two (tuples of) arrays have the same shapes and the same bits."""
    first, second = arrays(first), arrays(second)
    return [a.shape for a in first] == [a.shape for a in second] and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(first, second, strict=True)
    )


def near(first, second, tolerance=None):
    """Whether two (tuples of) arrays agree in the norm, up to rounding by default."""
    first, second = arrays(first), arrays(second)
    if [a.shape for a in first] != [a.shape for a in second]:
        return False
    for a, b in zip(first, second, strict=True):
        limit = tolerance or (2e-5 if a.dtype == np.float32 else 1e-11)
        if not np.linalg.norm(a - b) <= limit * max(np.linalg.norm(b), 1e-30):
            return False
    return True


@contextlib.contextmanager
def threads(n):
    """Let calls use `n` threads inside the block."""
    before = fr.get_num_threads()
    fr.set_num_threads(n)
    try:
        yield
    finally:
        fr.set_num_threads(before)


def python(code, **environment):
    """Run code in a fresh interpreter; return the completed process, its output as text."""
    inherited = {k: v for k, v in os.environ.items() if k not in environment}
    given = {k: v for k, v in environment.items() if v is not None}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | given,
        capture_output=True,
        text=True,
        timeout=300,
    )
