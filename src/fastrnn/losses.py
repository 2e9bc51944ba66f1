"""Losses: each returns its mean and the gradient of that mean. Not layers: no parameters, no tape.

The equations (X1) to (X7) are in docs/math.md; the loops run in C (csrc/kernels/pointwise.h)."""

from __future__ import annotations

import numpy as np

from . import _core
from .layers._checks import check_ignore_index


def cross_entropy(logits, targets, ignore_index=-100):
    """Mean negative log-likelihood of the target classes under a softmax, in nats.

    Parameters
    ----------
    logits : ndarray (..., V), float32 or float64
        Unnormalised log-probabilities; -inf means "never". Any leading shape, also none.
    targets : integer ndarray (...)
        Class of each position, in [0, V), or `ignore_index`.
    ignore_index : int, default -100
        Positions with this target count nothing: neither in the sum nor in the mean. Any integer
        of 64 bits.

    Returns
    -------
    loss : float
        Mean over the counted positions, summed in double precision. NaN if there are none, as in
        PyTorch.
    dlogits : ndarray (..., V)
        ``(softmax(logits) - onehot(target)) / counted``; zeros at ignored positions, so all zeros
        where nothing is counted.

    Raises
    ------
    ValueError
        ``targets: expected shape (4, 5), got (5, 4)``, ``targets: expected values in [0, 65) or
        ignore_index -100, got 65 at position 7`` (counted in the flattened array).
    TypeError
        ``logits: expected float32 or float64, got int64``, ``targets: expected integers, got
        float64``, ``targets: expected an array without a mask, got a MaskedArray; ...``,
        ``ignore_index: expected an integer, got str``.

    Notes
    -----
    Equations (X1) to (X4). NaN in a row makes the loss and that row of dlogits NaN. A probability
    below the smallest normal number is taken as 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> loss, dlogits = fr.cross_entropy(np.zeros((3, 2, 4)), [[0, 1], [2, 3], [-100, 0]])
    >>> bool(np.isclose(loss, np.log(4))), dlogits[2].round(9).tolist()
    (True, [[0.0, 0.0, 0.0, 0.0], [-0.15, 0.05, 0.05, 0.05]])
    """
    ignore_index = check_ignore_index(ignore_index)
    at_once = _core.cross_entropy(logits, targets, ignore_index)
    if at_once is not None:
        return at_once
    logits = _float_array("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected at least one axis, got a scalar")
    targets = np.asarray(_core._as_integers("targets", targets))
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets: expected integers, got {targets.dtype}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]}, got {targets.shape}")
    _check_fits_int64(targets, logits.shape[-1], ignore_index)
    rows = _core._dense(logits).reshape(targets.size, logits.shape[-1])
    drows = np.empty_like(rows)
    flat = _core._dense(targets.astype(np.int64, copy=False)).reshape(-1)
    total, counted = _core.softmax_cross_entropy(rows, flat, ignore_index, drows)
    return total / counted if counted else float("nan"), drows.reshape(logits.shape)


def mse(y, target):
    """Mean squared error over all elements.

    Parameters
    ----------
    y : ndarray, float32 or float64
    target : array-like of the same shape
        Real numbers, taken in the dtype of `y`.

    Returns
    -------
    loss : float
        ``mean((y - target)^2)``, summed in double precision; NaN if there are no elements.
    dy : ndarray like y
        ``2 (y - target) / size``.

    Raises
    ------
    ValueError
        ``target: expected shape (2, 3), got (3,)``: nothing is broadcast.
    TypeError
        ``y: expected float32 or float64, got int64``,
        ``target: expected real numbers, got complex128``,
        ``target: expected an array without a mask, got a MaskedArray; ...``.

    Notes
    -----
    Equation (X5).

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> fr.mse(np.array([1.0, 2.0]), [0.0, 4.0])
    (2.5, array([ 1., -2.]))
    """
    y = _float_array("y", y)
    difference = np.asarray(np.subtract(y, _target_like(y, target), order="C"))
    flat = difference.reshape(-1)
    if not flat.size:
        return float("nan"), difference
    loss = _core.sum_of_squares(flat) / flat.size
    _core.scale(flat, 2 / flat.size)
    return loss, difference


def bce_with_logits(logits, target):
    """Mean binary cross-entropy of independent sigmoids, in nats.

    Parameters
    ----------
    logits : ndarray, float32 or float64
    target : array-like of the same shape
        Probabilities of the positive class, in [0, 1]; 0 and 1 for plain labels, also bool.

    Returns
    -------
    loss : float
        Mean over all elements, summed in double precision; NaN if there are none.
    dlogits : ndarray like logits
        ``(sigmoid(logits) - target) / size``.

    Raises
    ------
    ValueError
        ``target: expected shape (2, 3), got (3,)``: nothing is broadcast.
    TypeError
        ``logits: expected float32 or float64, got int64``,
        ``target: expected an array without a mask, got a MaskedArray; ...``.

    Notes
    -----
    Equations (X6) and (X7): with ``e = exp(-|x|)``, which never overflows, the loss of one element
    is ``max(x, 0) - x t + log(1 + e)``. For the sum over 88 keys of a piano roll, multiply the mean
    by 88.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> loss, dlogits = fr.bce_with_logits(np.array([0.0, 1000.0]), [1, 1])
    >>> bool(np.isclose(loss, np.log(2) / 2)), dlogits
    (True, array([-0.25,  0.  ]))
    """
    x = _float_array("logits", logits)
    t = _target_like(x, target)
    if not x.size:
        return float("nan"), np.empty_like(x)
    flat, targets = (_core._dense(a).reshape(-1) for a in (x, t))
    dlogits = np.empty_like(flat)
    loss = _core.bce_with_logits(flat, targets, 1 / x.size, dlogits)
    return loss / x.size, dlogits.reshape(x.shape)


def plain_array(name, value) -> np.ndarray:
    """Return `value` as an array and no subclass: a matrix, say, has two axes whatever is done."""
    return np.asarray(_core._as_array(name, value))


def _check_fits_int64(targets, V, ignore_index) -> None:
    """Refuse what would turn negative, and perhaps into `ignore_index`, as an int64."""
    if targets.dtype.kind == "u":
        flat = targets.reshape(-1)
        bad = flat > np.iinfo(np.int64).max
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"targets: expected values in [0, {V}) or ignore_index {ignore_index}, "
                f"got {flat[at]} at position {at}"
            )


def _float_array(name, value) -> np.ndarray:
    value = plain_array(name, value)
    if value.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {value.dtype}")
    return value


def _target_like(y, target) -> np.ndarray:
    target = plain_array("target", target)
    if target.dtype.kind not in "fiub":
        raise TypeError(f"target: expected real numbers, got {target.dtype}")
    if target.shape != y.shape:
        raise ValueError(f"target: expected shape {y.shape}, got {target.shape}")
    return target.astype(y.dtype, copy=False)
