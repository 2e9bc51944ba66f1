"""Linear: y = x W^T + b on the last axis, for any leading shape. Not recurrent, keeps no state."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..module import Module
from ._checks import check_gradient, check_positive, check_stateless


class Linear(Module):
    """Affine map of the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Sizes I and O, at least 1.
    bias : bool, default True
    dtype : {"float32", "float64"}
    seed : int or numpy Generator, optional
        For the initial values, U(-1/sqrt(I), 1/sqrt(I)) as in ``torch.nn.Linear``.

    Attributes
    ----------
    params, grads : dict
        ``weight`` (O, I) and, with `bias`, ``bias`` (O,).

    Notes
    -----
    (F1): forward is ``y = x W^T + b``. So ``dx = dy W``, ``dW = dy^T x`` and ``db`` is the sum of
    ``dy`` over all leading axes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> layer = fr.Linear(3, 2, seed=0)
    >>> y, state, tape = layer.forward(np.ones((4, 5, 3), np.float32))
    >>> y.shape, state
    ((4, 5, 2), None)
    >>> dx, dstate = tape.backward(np.ones_like(y))
    >>> dx.shape, layer.grads["bias"]
    ((4, 5, 3), array([20., 20.], dtype=float32))
    """

    def __init__(self, in_features, out_features, bias=True, *, dtype="float32", seed=None):
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.bias = bool(bias)
        shapes = [("weight", (self.out_features, self.in_features))]
        if self.bias:
            shapes.append(("bias", (self.out_features,)))
        self._allocate(shapes, dtype)
        bound = self.in_features**-0.5
        self._flat[...] = np.random.default_rng(seed).uniform(-bound, bound, self._flat.size)
        self._touch()

    def config(self):
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }

    def __call__(self, x, state=None, lengths=None):
        """Map `x` without keeping anything.

        Parameters
        ----------
        x : ndarray (..., I) of the layer's dtype
        state : None
        lengths : ignored
            Rows beyond a sequence's end are mapped like the others.

        Returns
        -------
        y : ndarray (..., O)
        state : None

        Raises
        ------
        TypeError, ValueError
            ``x: expected float32, got float64``, ``x: expected shape (..., 3), got (4, 2)``.
        """
        y, _ = self._map(x, state)
        return y, None

    def forward(self, x, state=None, lengths=None):
        """Map `x` and also return a tape.

        The tape keeps `x` itself, not a copy: do not write into it before backward.
        """
        y, rows = self._map(x, state)
        return y, None, LinearTape(self, rows, y.shape)

    def _map(self, x, state):
        check_stateless(self, state)
        x = np.asarray(x)
        if x.dtype != self.dtype:
            raise TypeError(f"x: expected {self.dtype}, got {x.dtype}")
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected shape (..., {self.in_features}), got {x.shape}")
        rows = np.ascontiguousarray(x).reshape(-1, self.in_features)
        y = np.empty((len(rows), self.out_features), self.dtype)
        if len(rows):
            bias = self._params.get("bias")
            _core.matmul(rows, self._params["weight"], y, transpose_b=True, bias=bias)
        return y.reshape(*x.shape[:-1], self.out_features), rows


class LinearTape:
    """What `Linear.forward` keeps for its gradient: the input rows."""

    def __init__(self, layer, rows, y_shape):
        self._layer, self._rows, self._y_shape = layer, rows, y_shape
        self._version = layer._version

    def backward(self, dy, dstate=None):
        """Add the gradients of weight and bias into ``layer.grads`` and return that of x.

        Parameters
        ----------
        dy : ndarray (..., O), or None for zeros
        dstate : None

        Returns
        -------
        dx : ndarray (..., I), or None if `dy` is None
        dstate : None

        Raises
        ------
        RuntimeError
            If an optimizer or load_state_dict has changed the weights since `forward`.
        """
        layer, rows = self._layer, self._rows
        check_stateless(layer, dstate, "dstate")
        if dy is None:
            return None, None
        if layer._version != self._version:
            raise RuntimeError("backward: the parameters have changed since forward")
        dy = check_gradient(dy, layer.dtype, self._y_shape)
        drows = np.ascontiguousarray(dy).reshape(-1, layer.out_features)
        dx = np.empty_like(rows)
        if len(rows):
            _core.matmul(drows, layer._params["weight"], dx)
            _core.matmul(drows, rows, layer._grads["weight"], transpose_a=True, accumulate=True)
            if layer.bias:
                layer._grads["bias"] += drows.sum(axis=0)
        return dx.reshape(*self._y_shape[:-1], layer.in_features), None
