"""What a training can report besides its loss: means over counted targets, without gradients."""

from __future__ import annotations

import numpy as np

from .layers._checks import check_ignore_index
from .losses import plain_array


def accuracy(logits, targets, ignore_index=-100) -> float:
    """Share of the counted positions whose largest logit is that of the target class.

    Parameters
    ----------
    logits : array-like of real numbers (..., V)
        The first of several largest ones counts.
    targets : array-like of integers (...)
    ignore_index : int, default -100
        Positions with this target do not count.

    Returns
    -------
    float
        In [0, 1]; NaN if nothing is counted.

    Raises
    ------
    ValueError
        ``targets: expected shape (4, 5), got (5, 4)``, ``logits: expected at least one class``.
    TypeError
        ``targets: expected integers, got float64``, ``logits: expected real numbers, got <U1``,
        ``targets: expected an array without a mask, got a MaskedArray; ...``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> fr.accuracy([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [1, 1, -100])
    0.5
    """
    logits, targets = plain_array("logits", logits), plain_array("targets", targets)
    ignore_index = check_ignore_index(ignore_index)
    if logits.dtype.kind not in "fiub":
        raise TypeError(f"logits: expected real numbers, got {logits.dtype}")
    if targets.dtype.kind not in "iub":
        raise TypeError(f"targets: expected integers, got {targets.dtype}")
    if logits.ndim == 0:
        raise ValueError("logits: expected at least one axis, got a scalar")
    if not logits.shape[-1]:
        raise ValueError(f"logits: expected at least one class, got shape {logits.shape}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]}, got {targets.shape}")
    counted = targets != ignore_index
    right = (logits.argmax(axis=-1) == targets) & counted
    number = int(np.count_nonzero(counted))
    return int(np.count_nonzero(right)) / number if number else float("nan")
