"""The grid of cases on which fastrnn and its peers are measured, and the arrays of a case.

What it is: which shapes, cells and kinds of work; their weights and input, the same for everybody.
What it is not: an implementation (``contenders/``) or a clock (``peers.py``).
"""

import dataclasses
import zlib

import numpy as np

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
MODES = ("infer", "train", "stream")

# (T, B, I, H); TOKENS: the input is ids of I tokens, as one-hot rows would be.
TOKENS = ((25, 1, 65, 100), (50, 50, 65, 128))
SHAPES = (
    (5, 32, 10, 25),
    (50, 1, 32, 32),
    (25, 1, 65, 100),
    (1, 1, 64, 64),
    (100, 1, 128, 128),
    (100, 1, 256, 256),
    (100, 32, 64, 128),
    (50, 50, 65, 128),
    (35, 20, 200, 200),
    (100, 32, 256, 256),
    (35, 20, 650, 650),
    (50, 64, 512, 512),
    (25, 128, 1024, 1024),
)
VARIED = ((50, 1, 32, 32), (100, 1, 256, 256), (100, 32, 64, 128), (100, 32, 256, 256))
RAGGED = (100, 32, 64, 128)  # lengths 5 .. 100
SMALL = 2e9  # flops of one layer of LSTM forward; a shape with more is large


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work. ``stream`` is one step of one row, with the state carried."""

    cell: str
    mode: str
    T: int
    B: int
    I: int
    H: int
    tokens: bool = False
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False
    dtype: str = "float32"

    @property
    def directions(self):
        return 1 + self.bidirectional

    @property
    def shape(self):
        return (self.T, self.B, self.I, self.H)

    @property
    def lengths(self):
        """Steps of each row of a ragged batch, ascending: 5 to T, evenly."""
        return np.linspace(5, self.T, self.B).astype(np.int64)

    @property
    def row_steps(self):
        """Steps of all rows together: T B, or the sum of the lengths."""
        return int(self.lengths.sum()) if self.ragged else self.T * self.B

    @property
    def work(self):
        """The kind of work in words, e.g. ``train 2 layers``."""
        words = [self.mode]
        words += ["tokens"] * self.tokens + [f"{self.layers} layers"] * (self.layers > 1)
        words += ["bidirectional"] * self.bidirectional + ["ragged"] * self.ragged
        words += [self.dtype] * (self.dtype != "float32")
        return " ".join(words)

    def __str__(self):
        return f"{self.cell.upper()} {self.work}, {' '.join(map(str, self.shape))}"

    def parameters(self):
        """``(name, shape)`` of every parameter, by torch's names and in its order."""
        rows = GATES[self.cell] * self.H
        for layer in range(self.layers):
            columns = self.H * self.directions if layer else self.I
            for suffix in ("", "_reverse")[: self.directions]:
                end = f"_l{layer}{suffix}"
                yield f"weight_ih{end}", (rows, columns)
                yield f"weight_hh{end}", (rows, self.H)
                yield f"bias_ih{end}", (rows,)
                yield f"bias_hh{end}", (rows,)

    def arrays(self):
        """Draw weights by name, ``x``, ``dy`` for training and ``lengths`` for ragged batches.

        x is (T, B, I) or, for tokens, ids (T, B). dy is zero past the end of a row.
        """
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        bound, dtype = self.H**-0.5, np.dtype(self.dtype)
        out = {
            name: rng.uniform(-bound, bound, shape).astype(dtype)
            for name, shape in self.parameters()
        }
        if self.tokens:
            out["x"] = rng.integers(0, self.I, (self.T, self.B))
        else:
            out["x"] = rng.standard_normal((self.T, self.B, self.I)).astype(dtype)
        if self.mode == "train":
            width = self.H * self.directions
            out["dy"] = rng.standard_normal((self.T, self.B, width)).astype(dtype)
        if self.ragged:
            out["lengths"] = rng.permutation(self.lengths)
            past = np.arange(self.T)[:, None] >= out["lengths"]
            out["x"][past] = 0  # most peers read their padding
            if self.mode == "train":
                out["dy"][past] = 0
        return out


def cases(size="all", cells=tuple(GATES), modes=MODES, shapes=SHAPES, variants=True):
    """List the cases of a grid.

    Parameters
    ----------
    size : {"small", "large", "all"}
        Of the shapes: ``small`` leaves out those that take long.
    cells, modes : iterable of str
    shapes : iterable of (T, B, I, H)
        For shapes of one's own; those of ``TOKENS`` are tokens.
    variants : bool
        Two layers, both directions, float64 and ragged batches, too.
    """
    shapes = [tuple(s) for s in shapes if size in ("all", "large" if _large(s) else "small")]
    found = []
    for cell in cells:
        for mode in modes:
            if mode == "stream":  # T and B of the grid mean nothing to it
                one = dict.fromkeys((I, H, (T, B, I, H) in TOKENS) for T, B, I, H in shapes)
                found += [Case(cell, mode, 1, 1, I, H, tokens) for I, H, tokens in one]
                continue
            found += [Case(cell, mode, *shape, shape in TOKENS) for shape in shapes]
            if variants:
                for shape in VARIED:
                    if shape in shapes:
                        found.append(Case(cell, mode, *shape, layers=2))
                        found.append(Case(cell, mode, *shape, bidirectional=True))
                        found.append(Case(cell, mode, *shape, dtype="float64"))
                if RAGGED in shapes:
                    found.append(Case(cell, mode, *RAGGED, ragged=True))
    return found


def drawn(count, seed=0):
    """Draw shapes from the range of ``SHAPES``, each number on a logarithmic scale.

    Nobody has tuned anything for these. Those of more than 40 GFLOP are drawn again.
    """
    rng = np.random.default_rng(seed)
    low, high = np.min(SHAPES, axis=0), np.max(SHAPES, axis=0)
    found = []
    while len(found) < count:
        T, B, I, H = (int(n) for n in np.rint(np.exp(rng.uniform(np.log(low), np.log(high)))))
        if _flops((T, B, I, H)) <= 4e10:
            found.append((T, B, I, H))
    return found


def _large(shape):
    return _flops(shape) > SMALL


def _flops(shape):
    T, B, I, H = shape
    return 2 * T * B * 4 * H * (I + H)
