"""Clipping of gradients, in place, after backward and before the optimizer's step.

Not inside back-propagation through time: what is limited is the gradient of the parameters."""

from __future__ import annotations

import math

from . import _core
from .layers._checks import check_real
from .module import roots


def clip_grad_norm_(model, max_norm, *, error_if_nonfinite=False) -> float:
    """Scale all gradients down so that their common Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    model : Module or sequence of Modules
        A parameter that belongs to several of them counts once.
    max_norm : float
        At least 0; infinity only measures, whatever the norm.
    error_if_nonfinite : bool, default False
        Raise if the norm is infinite or NaN, and leave the gradients as they are. Otherwise they
        become what the formula gives: zero or NaN.

    Returns
    -------
    float
        The norm before clipping, from a sum of squares in double precision.

    Raises
    ------
    ValueError
        ``max_norm: expected 0 or more, got -1``.
    FloatingPointError
        ``the norm of the gradients is nan``, if asked for.

    Notes
    -----
    (C1): the factor is ``min(1, max_norm / (norm + 1e-6))``, as in PyTorch (Pascanu et al. 2013).

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 2, bias=False)
    >>> layer.grads["weight"] = [[3], [4]]
    >>> fr.clip_grad_norm_(layer, 1.0)
    5.0
    >>> float(np.linalg.norm(layer.grads["weight"]).round(4))
    1.0
    """
    if not check_real("max_norm", max_norm, "0 or more") >= 0:
        raise ValueError(f"max_norm: expected 0 or more, got {max_norm}")
    gradients = [module._flat_grad for module in roots(model)]
    norm = math.sqrt(sum(_core.sum_of_squares(flat) for flat in gradients))
    if error_if_nonfinite and not math.isfinite(norm):
        raise FloatingPointError(f"the norm of the gradients is {norm}")
    factor = 1.0 if max_norm == math.inf else max_norm / (norm + 1e-6)
    if not factor >= 1:  # so that NaN is not hidden
        for flat in gradients:
            _core.scale(flat, factor)
    return norm


def clip_grad_value_(model, limit) -> None:
    """Limit every element of the gradients to [-limit, limit] (C2); NaN stays NaN.

    Parameters
    ----------
    model : Module or sequence of Modules
    limit : float
        At least 0.

    Raises
    ------
    ValueError
        ``limit: expected 0 or more, got -1``.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.Linear(1, 2, bias=False)
    >>> layer.grads["weight"] = [[3], [-0.5]]
    >>> fr.clip_grad_value_(layer, 1)
    >>> layer.grads["weight"].tolist()
    [[1.0], [-0.5]]
    """
    if not check_real("limit", limit, "0 or more") >= 0:
        raise ValueError(f"limit: expected 0 or more, got {limit}")
    for module in roots(model):
        _core.clip(module._flat_grad, -limit, limit)
