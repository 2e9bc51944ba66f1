"""The work that fastrnn and NumPy are compared on: three cells, forward and training, some shapes.

What it is: builds both contenders from the same weights and input, and checks that they agree.
What it is not: a clock; ``run.py`` and ``test_bench.py`` time what this file builds.
"""

import numpy as np
from measure import check_equal
from numpy_rnn import CELLS

import fastrnn as fr

LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}
WORKS = ("forward", "training")

# (T, B, I, H), from one step of one row to long batches
SHAPES = (
    (1, 1, 64, 64),
    (5, 32, 10, 25),
    (50, 1, 32, 32),
    (100, 1, 128, 128),
    (100, 1, 256, 256),
    (100, 32, 64, 128),
    (35, 20, 200, 200),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
)


def contenders(cell, shape, work):
    """Build ``{"fastrnn": call, "numpy": call}`` for one cell, shape and kind of work.

    A training call is what an optimizer step needs of a layer: forward, then backward of a
    given dy into dx and all weight gradients, with weights that may have changed since the
    last call. The update itself is not part of it.
    """
    T, B, I, H = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, I), dtype=np.float32)
    dy = rng.standard_normal((T, B, H), dtype=np.float32)
    ours = LAYERS[cell](I, H, seed=0)
    theirs = CELLS[cell](ours.state_dict())

    def ours_training():
        ours._touch()  # as an optimizer does: packed weights are stale now
        y, _, tape = ours.forward(x)
        return y, tape.backward(dy, accumulate=False, need_dstate=False)[0]

    def theirs_training():
        theirs.prepare()
        return theirs.forward(x), theirs.backward(dy)

    label = f"{cell} {work} {shape}"
    if work == "forward":
        check_equal(f"{label}: y", ours(x)[0], theirs.forward(x))
        return {"fastrnn": lambda: ours(x), "numpy": lambda: theirs.forward(x)}
    (y, dx), (expected_y, expected_dx) = ours_training(), theirs_training()
    check_equal(f"{label}: y", y, expected_y)
    check_equal(f"{label}: dx", dx, expected_dx)
    for name, expected in theirs.grads.items():
        check_equal(f"{label}: gradient of {name}", ours.grads[f"{name}_l0"], expected)
    return {"fastrnn": ours_training, "numpy": theirs_training}
