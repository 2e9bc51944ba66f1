"""Sequences made to measure memory: each function draws a batch from a NumPy Generator.

Inputs are time first, as the layers want them, and each function says what knowing nothing costs.
"""

from __future__ import annotations

import numpy as np

from ..layers._checks import check_index

BLANK, GO = 8, 9  # the copy task's tokens besides 0..7


def adding(rng, T, B):
    """Two numbers of a long row are marked; the target is their sum.

    Hochreiter & Schmidhuber 1997. One mark falls into each half. Always saying 1, the mean of the
    sum, costs a squared error of 1/6, its variance.

    Parameters
    ----------
    rng : numpy.random.Generator
    T, B : int
        Length, at least 2, and batch.

    Returns
    -------
    x : float32 (T, B, 2)
        Numbers from [0, 1), and 1 at the two marks.
    target : float32 (B, 1)

    Raises
    ------
    TypeError, ValueError
        ``T: expected an integer >= 2, got 1``, and so for B.

    Examples
    --------
    >>> x, target = adding(np.random.default_rng(0), 10, 3)
    >>> np.allclose((x[..., 0] * x[..., 1]).sum(0), target[:, 0])
    True
    """
    T, B = check_index("T", T, 2), check_index("B", B)
    x = np.zeros((T, B, 2), np.float32)
    x[..., 0] = rng.random((T, B), np.float32)
    rows = np.arange(B)
    x[rng.integers(0, T // 2, B), rows, 1] = 1
    x[rng.integers(T // 2, T, B), rows, 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(0)[:, None]


def copying(rng, T, B):
    """Ten symbols, T blanks of which the last says go, then the ten symbols are to be said again.

    Hochreiter & Schmidhuber 1997; in this form Arjovsky, Shah & Bengio 2016. Without memory the
    best is `copying_baseline`: blanks at first, then a guess among eight.

    Parameters
    ----------
    rng : numpy.random.Generator
    T, B : int
        Blanks to bridge, at least 1, and batch.

    Returns
    -------
    x, target : integers (T + 20, B)
        Tokens: symbols 0..7, BLANK, GO; the target has no GO.

    Raises
    ------
    TypeError, ValueError
        ``T: expected an integer >= 1, got 0``, and so for B.

    Examples
    --------
    >>> x, target = copying(np.random.default_rng(0), T=3, B=1)
    >>> print(*x[:, 0])
    6 5 4 2 2 0 0 0 1 6 8 8 9 8 8 8 8 8 8 8 8 8 8
    >>> print(*target[:, 0])
    8 8 8 8 8 8 8 8 8 8 8 8 8 6 5 4 2 2 0 0 0 1 6
    """
    T, B = check_index("T", T, 1), check_index("B", B)
    symbols = rng.integers(0, 8, (10, B))
    x = np.full((T + 20, B), BLANK)
    target = x.copy()
    x[:10], x[T + 9], target[T + 10 :] = symbols, GO, symbols
    return x, target


def copying_baseline(T):
    """Nats per step of the copy task without memory: 10 ln 8 / (T + 20).

    Parameters
    ----------
    T : int
        Blanks to bridge.

    Returns
    -------
    float

    Examples
    --------
    >>> round(copying_baseline(80), 4)
    0.2079
    """
    return float(10 * np.log(8) / (T + 20))


def recall(rng, T, B, distance, symbols=8):
    """Random tokens; at the end one of them is asked for, `distance` steps from the end.

    Without memory: ln `symbols` nats.

    Parameters
    ----------
    rng : numpy.random.Generator
    T, B : int
        Length and batch.
    distance : int
        From 1, the last token itself, to T, the first.
    symbols : int

    Returns
    -------
    x : integers (T, B)
    target : integers (B,)

    Raises
    ------
    TypeError, ValueError
        ``distance: expected 1 to T = 6, got 7``, ``symbols: expected an integer >= 1, got 0``, and
        so for T and B.

    Examples
    --------
    >>> x, target = recall(np.random.default_rng(0), T=6, B=4, distance=2)
    >>> np.array_equal(target, x[4])
    True
    """
    T, B = check_index("T", T, 1), check_index("B", B)
    distance, symbols = check_index("distance", distance, 1), check_index("symbols", symbols, 1)
    if distance > T:
        raise ValueError(f"distance: expected 1 to T = {T}, got {distance}")
    x = rng.integers(0, symbols, (T, B))
    return x, x[T - distance].copy()


def binary_sums(rng, bits, B):
    """Two binary numbers, lowest bits first, and a last step of zeros; the target is their sum.

    Parameters
    ----------
    rng : numpy.random.Generator
    bits, B : int
        Length of the numbers, at most 62, and batch.

    Returns
    -------
    x : float32 (bits + 1, B, 2)
    target : float32 (bits + 1, B, 1)

    Raises
    ------
    TypeError, ValueError
        ``bits: expected 1 to 62, got 63``, and so for B.

    Examples
    --------
    >>> x, target = binary_sums(np.random.default_rng(0), 3, 1)
    >>> weights = [1, 2, 4, 8]
    >>> weights @ x[:, 0], weights @ target[:, 0]
    (array([5., 6.]), array([11.]))
    """
    bits, B = check_index("bits", bits, 1), check_index("B", B)
    if bits > 62:
        raise ValueError(f"bits: expected 1 to 62, got {bits}")
    place = np.arange(bits + 1)[:, None]
    numbers = rng.integers(0, 1 << bits, (2, 1, B))
    x = (numbers >> place & 1).astype(np.float32)
    total = (numbers.sum(0) >> place & 1).astype(np.float32)
    return np.ascontiguousarray(x.transpose(1, 2, 0)), total[..., None]
