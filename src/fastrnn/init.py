"""Initial values of recurrent layers, in place: ``fr.init.orthogonal_(fr.LSTM(10, 20), seed=0)``.

Each function takes one layer or a model, of which it changes the recurrent layers and nothing else,
and returns it. Every gate's block is made by itself, as if it were the only one: the blocks of one
matrix have nothing in common but their storage. What is drawn is drawn in float64 and then rounded,
so float32 and float64 layers of one seed start alike.

Not here: the values a layer is built with, which are those of `uniform_`. There is no ``init=``
among the constructors' arguments: they are torch's.
"""

from __future__ import annotations

import math

import numpy as np

from .layers import GRU, LSTM
from .layers._checks import check_real, generator
from .layers.container import named_layers
from .layers.recurrent import Recurrent
from .module import Module

__all__ = ["chrono_", "forget_bias_", "identity_", "orthogonal_", "uniform_"]


def uniform_(model, bound=None, *, seed=None):
    """Set all weights and biases to uniform numbers in [-bound, bound], torch's initial values.

    Parameters
    ----------
    model : Module
        RNN, LSTM, GRU, or a model that contains some.
    bound : float, optional
        Above 0; by default 1/sqrt(H) of each layer.
    seed : int or numpy Generator, optional
        Of one layer the same seed gives what ``seed=`` in its constructor gives.

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError
        ``model: expected an RNN, LSTM or GRU, or a model with one, got Linear``.
    ValueError
        ``bound: expected a number above 0, got 0``.

    Notes
    -----
    (F4) of docs/math.md.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.init.uniform_(fr.GRU(3, 4), seed=7)
    >>> bool((layer.params["weight_hh_l0"] == fr.GRU(3, 4, seed=7).params["weight_hh_l0"]).all())
    True
    """
    if bound is not None:
        _check_positive("bound", bound)
    layers, rng = _recurrent(model), generator(seed)
    for layer in layers:
        limit = 1 / np.sqrt(layer.hidden_size) if bound is None else bound
        layer._flat[...] = rng.uniform(-limit, limit, layer._flat.size)
        layer._touch()
    return model


def orthogonal_(model, gain=1.0, *, seed=None):
    """Set recurrent weights to orthogonal matrices, input weights after Glorot, biases to zero.

    Parameters
    ----------
    model : Module
        RNN, LSTM, GRU, or a model that contains some.
    gain : float
        Every singular value of each gate's block of the recurrent weights.
    seed : int or numpy Generator, optional

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError, ValueError
        As `uniform_`, with ``gain: expected a number above 0, got 0``.

    Notes
    -----
    (F5), (F6) of docs/math.md. Glorot & Bengio 2010; Saxe, McClelland & Ganguli 2014.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.init.orthogonal_(fr.LSTM(3, 4), seed=0)
    >>> forget = layer.params["weight_hh_l0"][4:8]
    >>> bool(np.allclose(forget @ forget.T, np.eye(4), atol=1e-6))
    True
    """
    _check_positive("gain", gain)
    layers, rng = _recurrent(model), generator(seed)
    for layer in layers:
        H = layer.hidden_size
        for block in _blocks(layer, "weight_ih"):
            limit = math.sqrt(6 / (block.shape[1] + H))
            block[...] = rng.uniform(-limit, limit, block.shape)  # (F5)
        for block in _blocks(layer, "weight_hh"):
            Q, U = np.linalg.qr(rng.standard_normal((H, H)))
            block[...] = gain * Q * np.where(np.diag(U) < 0, -1, 1)  # (F6)
        _zero_biases(layer)
        layer._touch()
    return model


def identity_(model, scale=1.0, *, input_std=0.001, seed=None):
    """Set recurrent weights to a multiple of the identity, as in the IRNN.

    Meant for ``RNN(..., nonlinearity="relu")``; in a gated layer every gate gets such a block.

    Parameters
    ----------
    model : Module
        RNN, LSTM, GRU, or a model that contains some.
    scale : float
        Above 0. Below 1 the layer forgets, with a factor `scale` a step.
    input_std : float
        Standard deviation of the input weights; biases become zero.
    seed : int or numpy Generator, optional

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError, ValueError
        As `uniform_`, with ``scale: expected a number above 0, got 0``.

    Notes
    -----
    (F7) of docs/math.md. Le, Jaitly & Hinton 2015, "A simple way to initialize recurrent networks
    of rectified linear units".

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.init.identity_(fr.RNN(3, 2, nonlinearity="relu"), seed=0)
    >>> layer.params["weight_hh_l0"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    _check_positive("scale", scale)
    if not 0 <= check_real("input_std", input_std, "a number >= 0") < math.inf:
        raise ValueError(f"input_std: expected a number >= 0, got {input_std}")
    layers, rng = _recurrent(model), generator(seed)
    for layer in layers:
        for block in _blocks(layer, "weight_ih"):
            block[...] = input_std * rng.standard_normal(block.shape)
        for block in _blocks(layer, "weight_hh"):
            block[...] = scale * np.eye(layer.hidden_size)
        _zero_biases(layer)
        layer._touch()
    return model


def forget_bias_(model, value=1.0):
    """Set the bias of the gate that keeps the state: f of an LSTM, z of a GRU.

    Parameters
    ----------
    model : Module
        LSTM or GRU with biases, or a model that contains some; RNNs in it are left alone.
    value : float
        What the two biases of the gate add up to; all of it goes into ``bias_ih``.

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError
        ``model: expected an LSTM or GRU, or a model with one, got RNN``.
    ValueError
        ``model: expected biases, got an LSTM with bias=False``; a value that is not finite.

    Notes
    -----
    (F8) of docs/math.md. Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015.

    Examples
    --------
    >>> import fastrnn as fr
    >>> layer = fr.init.forget_bias_(fr.LSTM(3, 2), 1.0)
    >>> (layer.params["bias_ih_l0"] + layer.params["bias_hh_l0"])[2:4].tolist()
    [1.0, 1.0]
    """
    if not math.isfinite(check_real("value", value, "a finite number")):
        raise ValueError(f"value: expected a finite number, got {value}")
    for layer in _gated(model):
        # Both keep the state through their second gate: i f g o, r z n.
        for kind, number in (("bias_ih", value), ("bias_hh", 0)):
            for keep in _blocks(layer, kind)[1 :: layer._gates]:
                keep[...] = number
        layer._touch()
    return model


def chrono_(model, longest, *, seed=None):
    """Let each unit start with a memory of its own length, from 1 step to `longest` (chrono).

    The bias of the gate that keeps the state (f of an LSTM, z of a GRU) becomes log t, with t drawn
    anew for each unit; that of an LSTM's gate i becomes -log t. Other parameters keep their values.

    Parameters
    ----------
    model : Module
        LSTM or GRU with biases, or a model that contains some; RNNs in it are left alone.
    longest : float
        Steps of the longest dependence expected, at least 2; often the length of the sequences.
    seed : int or numpy Generator, optional

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError, ValueError
        As `forget_bias_`, with ``longest: expected a number of steps >= 2, got 1``.

    Notes
    -----
    (F9) of docs/math.md. Tallec & Ollivier 2018, "Can recurrent neural networks warp time?". The
    sum of a gate's two biases is in ``bias_ih``; ``bias_hh`` is 0 there.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.init.chrono_(fr.LSTM(3, 2), longest=200, seed=0)
    >>> i, f, g, o = layer.params["bias_ih_l0"].reshape(4, 2)
    >>> bool((i == -f).all() and (0 <= f).all() and (f <= np.log(199)).all())
    True
    """
    if not 2 <= check_real("longest", longest, "a number of steps >= 2") < math.inf:
        raise ValueError(f"longest: expected a number of steps >= 2, got {longest}")
    layers, rng = _gated(model), generator(seed)
    for layer in layers:
        start, hidden = _blocks(layer, "bias_ih"), _blocks(layer, "bias_hh")
        for first in range(0, len(start), layer._gates):  # (F9), level by level
            log_t = np.log(rng.uniform(1, longest - 1, layer.hidden_size))
            start[first + 1][...], hidden[first + 1][...] = log_t, 0
            if isinstance(layer, LSTM):  # a GRU's z shuts out as much as it keeps
                start[first][...], hidden[first][...] = -log_t, 0
        layer._touch()
    return model


def _gated(model) -> list[LSTM | GRU]:
    gated = [layer for layer in _recurrent(model) if isinstance(layer, (LSTM, GRU))]
    if not gated:
        got = type(model).__name__
        raise TypeError(f"model: expected an LSTM or GRU, or a model with one, got {got}")
    for layer in gated:
        if not layer.bias:
            raise ValueError(
                f"model: expected biases, got an {type(layer).__name__} with bias=False"
            )
    return gated


def _recurrent(model) -> list[Recurrent]:
    found = []
    if isinstance(model, Module):
        found = [layer for _, layer in named_layers(model) if isinstance(layer, Recurrent)]
    if not found:
        raise TypeError(
            f"model: expected an RNN, LSTM or GRU, or a model with one, got {type(model).__name__}"
        )
    return found


def _blocks(layer, kind) -> list[np.ndarray]:
    """Views of the gate blocks of all parameters of a kind, level by level."""
    H = layer.hidden_size
    return [
        layer._params[f"{kind}{suffix}"][gate * H : (gate + 1) * H]
        for suffix in layer._suffixes()
        for gate in range(layer._gates)
    ]


def _zero_biases(layer):
    if layer.bias:
        for kind in ("bias_ih", "bias_hh"):
            for block in _blocks(layer, kind):
                block[...] = 0


def _check_positive(name, value):
    if not 0 < check_real(name, value, "a number above 0") < math.inf:
        raise ValueError(f"{name}: expected a number above 0, got {value}")
