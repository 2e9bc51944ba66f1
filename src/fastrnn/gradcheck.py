"""gradcheck: compare a module's tape.backward with finite differences of its forward, in float64.

Not a proof of the function itself: a wrong formula with its right derivative passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .layers._checks import check_index, check_real, generator

# (K2): f'(0) ~ sum of weight * f(offset * eps) / eps, error O(eps^4).
_STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))
_SMALL = 1e-3


class GradcheckError(AssertionError):
    """A gradient does not agree with finite differences."""


@dataclass
class GradcheckResult:
    """What `gradcheck` found.

    Attributes
    ----------
    errors : dict of str to float
        Relative error of each gradient: ``dx``, ``dstate``, and the parameters by name. Of tuples
        by position: ``dx[0]``, ``dstate[1]``.
    tol : float
    ok : bool
        Whether all errors are at most `tol`.
    """

    tol: float
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(error <= self.tol for error in self.errors.values())  # NaN is not

    def __str__(self):
        worst_first = sorted(
            self.errors.items(), key=lambda item: -np.nan_to_num(item[1], nan=np.inf)
        )
        return "\n".join(
            f"{'ok  ' if error <= self.tol else 'FAIL'} {error:9.2e}  {name}"
            for name, error in worst_first
        )


def gradcheck(
    model,
    x,
    state=None,
    lengths=None,
    reset=None,
    *,
    eps=1e-4,
    tol=1e-7,
    max_checks=256,
    seed=0,
    raise_on_error=True,
) -> GradcheckResult:
    """Check every gradient of a layer or model against finite differences.

    Differentiated is ``sum(y * a) + sum(final state * b)`` with fixed random numbers a and b, by x,
    by the initial state and by each parameter, through ``model.forward``: (K2) of docs/math.md.

    Parameters
    ----------
    model : Module
        Of float64, without dropout. Its parameters and gradients are as before afterwards.
    x : ndarray, or tuple of them
        Each float64, or integer ids; the dx of these must be None.
    state : optional
        Initial state. None: zeros in the shape of the final state, which recurrent layers share.
    lengths : (B,) integers, optional
    reset : (T, B) booleans, optional
    eps : float, default 1e-4
        Step of the difference. Rounding costs about 1e-16/eps, the curvature eps^4. With a kink
        (relu), inputs nearer to it than 2 eps spoil the comparison.
    tol : float, default 1e-7
        Largest relative error: ``norm(analytic - numeric) / norm(numeric)`` over an array, where a
        norm below 1e-3 counts as 1e-3, because rounding would be all that is left of it.
    max_checks : int or None, default 256
        Larger arrays are compared at this many random elements; None: at all.
    seed : int, numpy Generator or None
        For a, b and the elements.
    raise_on_error : bool, default True

    Returns
    -------
    GradcheckResult

    Raises
    ------
    GradcheckError
        With the table of errors, if any is above `tol`.
    TypeError, ValueError
        ``model: expected float64, got float32``; ``forward: two calls differ``;
        ``backward: a second call did not add the same again``; a gradient of another shape than its
        array.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> layer = fr.Linear(3, 2, dtype="float64", seed=0)
    >>> x = np.random.default_rng(0).normal(size=(4, 3))
    >>> sorted(fr.gradcheck(layer, x).errors)
    ['bias', 'dx', 'weight']
    """
    if not hasattr(model, "forward"):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    if not check_real("eps", eps, "a number above 0") > 0:
        raise ValueError(f"eps: expected a number above 0, got {eps}")
    if not check_real("tol", tol, "a number >= 0") >= 0:
        raise ValueError(f"tol: expected a number >= 0, got {tol}")
    if max_checks is not None:
        check_index("max_checks", max_checks, 1)
    rng = generator(seed)
    if model.dtype not in (None, np.float64):
        raise TypeError(f"model: expected float64, got {model.dtype}")
    x = _map(_copy, x) if isinstance(x, tuple) else _copy(x)
    inputs = _leaves(x)
    for key, array in inputs.items():
        if array.dtype.kind not in "iu" and array.dtype != np.float64:
            raise TypeError(f"x{key}: expected float64 or integers, got {array.dtype}")

    def forward(state):
        return model.forward(x, state, lengths, **({} if reset is None else {"reset": reset}))

    if state is None:
        state = _map(np.zeros_like, forward(None)[1])
    state = _map(_copy, state)

    def outputs():
        y, final, _ = forward(state)
        return [_copy(y), *_leaves(_map(_copy, final)).values()]

    base = outputs()
    if not all(map(np.array_equal, base, outputs())):
        raise ValueError("forward: two calls differ; gradcheck needs dropout 0")
    weights = [rng.standard_normal(array.shape) for array in base]
    analytic = _analytic(model, forward(state), weights, isinstance(x, tuple))
    variables = {}
    for key, array in inputs.items():
        if array.dtype == np.float64:
            variables[f"dx{key}"] = array
        elif f"dx{key}" in analytic:
            raise ValueError(f"dx{key}: expected None for integer x, got an array")
    variables.update({f"dstate{key}": array for key, array in _leaves(state).items()})
    variables.update(model.params)
    result = GradcheckResult(tol)
    for name, array in variables.items():
        where = np.arange(array.size)
        if max_checks is not None and array.size > max_checks:
            where = rng.choice(array.size, max_checks, replace=False)
        numeric = [_slope(outputs, weights, array.reshape(-1), i, eps) for i in where]
        gradient = analytic.get(name, np.zeros_like(array))
        if gradient.shape != array.shape:
            raise ValueError(f"{name}: expected shape {array.shape}, got {gradient.shape}")
        result.errors[name] = _relative_error(gradient.reshape(-1)[where], np.array(numeric))
    if raise_on_error and not result.ok:
        raise GradcheckError(f"relative error above {tol:g}:\n{result}")
    return result


def _analytic(model, forward, weights, several) -> dict:
    """Gradients by name from a forward's tape, asked twice; the model's own are put back."""
    _, final, tape = forward
    remaining = iter(weights[1:])
    dfinal = _map(lambda _: next(remaining), final)
    before = {name: array.copy() for name, array in model.grads.items()}

    def ask():
        dx, dstate = tape.backward(weights[0], dfinal)
        if dx is not None and not several:
            dx = _copy(dx)  # two arrays of one shape may have come as one
        inputs = {f"dx{key}": array for key, array in _leaves(_map(_copy, dx)).items()}
        inputs |= {f"dstate{key}": array for key, array in _leaves(_map(_copy, dstate)).items()}
        return inputs, {name: array.copy() for name, array in model.grads.items()}

    try:
        model.zero_grad()
        inputs, once = ask()
        again, twice = ask()
    finally:
        for name, array in before.items():
            model.grads[name] = array
    same = inputs.keys() == again.keys() and all(np.array_equal(inputs[k], again[k]) for k in again)
    if not same or not all(np.allclose(twice[k], 2 * once[k], 1e-9, 1e-12) for k in once):
        raise ValueError("backward: a second call did not add the same again")
    return inputs | once


def _slope(outputs, weights, flat, i, eps) -> float:
    """Derivative of the weighted outputs by flat[i], which is edited in place and put back."""
    kept = flat[i]
    change = [np.zeros(w.shape) for w in weights]
    try:
        for offset, factor in _STENCIL:
            flat[i] = kept + offset * eps
            for total, value in zip(change, outputs(), strict=True):
                total += factor * value
    finally:
        flat[i] = kept
    # Differences first, sum last: what does not depend on flat[i] cancels exactly.
    return sum(float(np.sum(w * c)) for w, c in zip(weights, change, strict=True)) / eps


def _relative_error(analytic, numeric) -> float:
    return float(np.linalg.norm(analytic - numeric) / max(np.linalg.norm(numeric), _SMALL))


def _copy(array) -> np.ndarray:
    return np.array(array, order="C")  # reshape(-1) of it is a view


def _map(function, state):
    """Apply `function` to each array of x or a state: None, an array, or a tuple of these."""
    if state is None:
        return None
    if isinstance(state, (tuple, list)):
        return tuple(_map(function, entry) for entry in state)
    return function(state)


def _leaves(state, key="") -> dict[str, np.ndarray]:
    """Arrays of x or a state by position: "" for a lone one, "[0]", "[1][0]" within tuples."""
    if state is None:
        return {}
    if isinstance(state, (tuple, list)):
        found = {}
        for i, entry in enumerate(state):
            found.update(_leaves(entry, f"{key}[{i}]"))
        return found
    return {key: state}
