"""Drawing from a softmax: the one sampler of everything here that generates."""

from __future__ import annotations

import numpy as np

from .layers._checks import check_index, check_real


def check_sampling(temperature, top_k, top_p) -> None:
    """Refuse what `choose` cannot work with, before anything is computed.

    Raises
    ------
    ValueError
        ``temperature: expected a number >= 0, got -1``, ``top_k: expected an integer >= 0, got
        -1``, ``top_p: expected a number above 0 and at most 1, got 0``.
    """
    check_real("temperature", temperature, "a number >= 0")
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
    check_index("top_k", top_k)
    if not 0 < check_real("top_p", top_p, "a number above 0 and at most 1") <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p}")


def choose(logits, temperature=1.0, top_k=0, rng=None, *, top_p=1.0):
    """Draw an index from the softmax of ``logits / temperature``, for each row.

    Parameters
    ----------
    logits : ndarray (..., V)
        -inf means "never".
    temperature : float
        0: the index of the largest logit; nothing is drawn.
    top_k : int
        If not 0, only the `top_k` largest logits take part, and those equal to the last of them.
    rng : numpy.random.Generator, optional
        One number is drawn for each row. None: from a new one, seeded by the system.
    top_p : float
        If below 1, only the most probable indices take part, as many as it takes for their
        probabilities (at this temperature, after `top_k`) to reach `top_p`: the nucleus.

    Returns
    -------
    int, or ndarray (...) of int64

    Raises
    ------
    FloatingPointError
        ``the largest logit is nan``, or inf, or of a row without any choice -inf.

    Notes
    -----
    (X8), (X9) of docs/math.md. Nucleus: Holtzman et al. 2020, arXiv:1904.09751.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.sampling import choose
    >>> choose(np.array([0.0, 2.0, 1.0]), temperature=0)
    1
    >>> rng = np.random.default_rng(0)
    >>> choose(np.array([[0.0, 2.0, 1.9], [9.0, 0.0, 8.0]]), 1.0, 0, rng, top_p=0.4)
    array([1, 0])
    """
    logits = np.asarray(logits)
    largest = logits.max(-1, keepdims=True)  # NaN, if there is one
    finite = np.isfinite(largest)
    if not finite.all():
        raise FloatingPointError(f"the largest logit is {largest[~finite][0]}")
    if temperature == 0:
        drawn = np.argmax(logits, axis=-1)
        return int(drawn) if drawn.ndim == 0 else drawn
    # In float64: float32 probabilities of a large vocabulary do not add up to 1 closely enough.
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is what it should become
        scaled = (logits.astype(np.float64) - largest) / temperature
    if 0 < top_k < scaled.shape[-1]:
        scaled[scaled < np.partition(scaled, -top_k)[..., -top_k, None]] = -np.inf
    weights = np.exp(scaled)
    if top_p < 1:
        weights = _nucleus(weights, top_p)
    cumulative = np.cumsum(weights, axis=-1)
    total = cumulative[..., -1]
    rng = np.random.default_rng() if rng is None else rng
    # Rounding up to the total would lead to the last index, whatever its probability.
    drawn = np.minimum(rng.random(logits.shape[:-1]) * total, np.nextafter(total, 0))
    index = (cumulative <= np.asarray(drawn)[..., None]).sum(-1)
    return int(index) if index.ndim == 0 else index


def _nucleus(weights, top_p):
    """Set to zero what is not among the most probable that together reach `top_p`."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, -1)
    before = np.cumsum(ordered, axis=-1) - ordered
    ordered[before >= top_p * ordered.sum(-1, keepdims=True)] = 0
    result = np.empty_like(weights)
    np.put_along_axis(result, order, ordered, -1)
    return result
