"""Rescaling of recurrent weights so that the Jacobian's factor a step stays within a range.

Gradients vanish when that factor is below 1 and explode when it is above. Clipping treats the
gradient after it has exploded; this treats the weights. Not here: measuring
(`fastrnn.diagnostics`), clipping (`fastrnn.clip`)."""

from __future__ import annotations

import math
from typing import NamedTuple

from . import diagnostics
from .layers import RNN, Sequential
from .layers._checks import check_real
from .layers.container import named_layers
from .layers.recurrent import Recurrent
from .module import Module

_ROUNDING = 1e-6  # relative: float32 weights cannot hit a number exactly
_FARTHEST = 7.0  # of log(scale): a thousandfold
_STRIDE = 0.2  # of log(scale): the factor may rise and fall again, and must not be stepped over
_SLOPE = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25}  # largest, (D11)


class Rescaled(NamedTuple):
    """What became of one matrix of recurrent weights.

    Attributes
    ----------
    before, after : float
        The factor.
    scale : float
        What the weights were multiplied by; exactly 1 if they were left alone.
    """

    before: float
    after: float
    scale: float


def rescale_recurrent_(model, lower, upper, x=None, lengths=None) -> dict[str, Rescaled]:
    """Scale recurrent weights until the Jacobian's factor a step is within [lower, upper].

    Every level and direction is scaled by itself, all gates of it alike, lower levels first. One
    that is within the range is left alone.

    Parameters
    ----------
    model : Module
        RNN, LSTM, GRU, or a model that contains some.
    lower, upper : float
        The range, ``0 <= lower <= upper``, `lower` finite; 0 and infinity mean no limit.
    x : ndarray, optional
        Input of the model, on which the factor is measured: `diagnostics.jacobian_factor`. The
        model must then be a layer or a `Sequential`. Without it the factor is a bound from the
        weights alone: the largest singular value of a gate's block, times 1/4 in an RNN with
        sigmoids.
    lengths : (B,) integers, optional
        Of the rows of `x`.

    Returns
    -------
    dict of str to Rescaled
        For every ``weight_hh`` of the model, in its order: factor before, factor after, scale.

    Raises
    ------
    ValueError
        ``lower, upper: expected 0 <= lower <= upper, got ...``. ``weight_hh_l0: no scale brings the
        factor 0.52 into [0.9, 1.1]``: a forget gate that is half open gives an LSTM this factor
        whatever its recurrent weights are. ``weight_hh_l0: the factor is nan``: a weight or `x` is
        not finite. All weights are then as before. Whatever the layers say about `x` and `lengths`.
    TypeError
        ``lower: expected a number of at least 0, got str``.
        ``model: expected an RNN, LSTM or GRU, or a model with one, got Linear``.

    Notes
    -----
    (D15), (D16) of docs/math.md. "Within" holds up to a relative 1e-6.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.RNN(1, 2, nonlinearity="relu", bias=False)
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, 1.5 * np.eye(2)
    >>> x = np.ones((10, 1, 1), np.float32)
    >>> result = fr.rescale_recurrent_(layer, 0.9, 1.0, x)["weight_hh_l0"]
    >>> result.before, 0.9 <= result.after <= 1.0
    (1.5, True)
    """
    for name, value in (("lower", lower), ("upper", upper)):
        check_real(name, value, "a number of at least 0")
    if math.isinf(lower):
        raise ValueError(f"lower: expected a finite number, got {lower}")
    if not 0 <= lower <= upper:
        raise ValueError(f"lower, upper: expected 0 <= lower <= upper, got {lower}, {upper}")
    layers = _recurrent(model)
    if x is None and lengths is not None:
        raise ValueError("lengths: expected x with it, got None")
    kept = [(layer, layer.state_dict()) for _, layer in layers]
    results = {}
    try:
        if x is None:
            for prefix, layer in layers:
                _rescale_layer(prefix, layer, lower, upper, None, None, results)
        else:
            _rescale_along(model, "", lower, upper, x, lengths, results)
    except BaseException:
        for layer, parameters in kept:
            layer.load_state_dict(parameters)
        raise
    return results


def _recurrent(model):
    found = []
    if isinstance(model, Module):
        found = [pair for pair in named_layers(model) if isinstance(pair[1], Recurrent)]
    if not found:
        raise TypeError(
            f"model: expected an RNN, LSTM or GRU, or a model with one, got {type(model).__name__}"
        )
    return found


def _rescale_along(module, prefix, lower, upper, x, lengths, results):
    """Rescale what is recurrent in `module` on its input x; return its output after that."""
    if isinstance(module, Sequential):
        for i, layer in enumerate(module.layers):
            x = _rescale_along(layer, f"{prefix}{i}.", lower, upper, x, lengths, results)
        return x
    if isinstance(module, Recurrent):
        _rescale_layer(prefix, module, lower, upper, x, lengths, results)
        return module(x, None, lengths)[0]
    if any(isinstance(layer, Recurrent) for _, layer in named_layers(module)):
        name = type(module).__name__
        raise TypeError(f"model: with x expected a layer or a Sequential, got {name}")
    return module(x)[0]


def _rescale_layer(prefix, layer, lower, upper, x, lengths, results):
    for index, suffix in enumerate(layer._suffixes()):
        name = f"weight_hh{suffix}"
        R = layer._params[name]
        original = R.copy()

        def measure(log_scale, R=R, original=original, index=index, name=name):
            R[...] = original * math.exp(log_scale)
            layer._touch()
            if x is not None:
                return diagnostics.jacobian_factor(layer, x, lengths=lengths, index=index)
            slope = _SLOPE[layer.nonlinearity] if isinstance(layer, RNN) else 1.0
            return slope * max(diagnostics.spectral_norm(layer)[name].values())

        before = measure(0.0)
        if math.isnan(before):
            raise ValueError(
                f"{prefix}{name}: the factor is nan, expected finite weights and finite x"
            )
        log_scale, after = _search(measure, before, lower, upper)
        if log_scale is None:
            raise ValueError(
                f"{prefix}{name}: no scale brings the factor {before:.3g} "
                f"into [{lower:g}, {upper:g}]"
            )
        results[prefix + name] = Rescaled(before, after, math.exp(log_scale))


def _search(measure, before, lower, upper):
    """Return log(scale) and the factor there, within the range; (None, None) if there is none."""

    def inside(factor):
        return lower * (1 - _ROUNDING) <= factor <= upper * (1 + _ROUNDING)

    if inside(before):
        return 0.0, before
    # A little inside the range, so that rounding does not decide; its middle if it is narrow.
    if before < lower:
        aim = min(lower * 1.001, math.sqrt(lower * upper))
    else:
        aim = max(upper * 0.999, math.sqrt(lower * upper))

    def off(factor):
        return math.log(factor / aim) if factor > 0 and aim > 0 else math.copysign(60, factor - aim)

    # A large factor is only ever treated by smaller weights. A small one may come from units that
    # large weights saturate: then smaller weights raise it.
    directions = (-1,)
    if before < lower:
        grows = measure(_STRIDE / 4) > measure(-_STRIDE / 4)
        directions = (1, -1) if grows else (-1, 1)
    for direction in directions:
        there, factor = 0.0, before
        while abs(there) < _FARTHEST:
            near = there
            there = near + direction * min(max(abs(off(factor)), 0.01), _STRIDE)
            factor = measure(there)
            if inside(factor):
                return there, factor
            if off(factor) * off(before) < 0:
                break
        else:
            continue
        for _ in range(60):
            middle = (near + there) / 2
            factor = measure(middle)
            if inside(factor):
                return middle, factor
            if off(factor) * off(before) < 0:
                there = middle
            else:
                near = middle
    return None, None
