"""Linear: y = x W^T + b on the last axis, for any leading shape. Not recurrent, keeps no state."""

from __future__ import annotations

from .. import _core
from ..module import Module
from ._checks import Fixed, check_positive, check_stateless, generator


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

    Raises
    ------
    TypeError, ValueError
        ``in_features: expected 1 or more, got 0``, and so for each argument. A size beyond any
        memory is a ValueError, one beyond this machine's a MemoryError, with the shape.

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

    in_features, out_features, bias = Fixed(), Fixed(), Fixed()

    def __init__(self, in_features, out_features, bias=True, *, dtype="float32", seed=None):
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.bias = bool(bias)
        shapes = [("weight", (self.out_features, self.in_features))]
        if self.bias:
            shapes.append(("bias", (self.out_features,)))
        self._allocate(shapes, dtype)
        bound = self.in_features**-0.5
        self._flat[...] = generator(seed).uniform(-bound, bound, self._flat.size)
        self._touch()
        self._engine = _core.Affine(self.in_features, self.out_features, self.dtype)
        self._bound()

    def _bound(self):
        self._engine.bind(self._params, self._grads)

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
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
        if state is not None:
            check_stateless(self, state)
        return self._engine.run(x, False)

    def forward(self, x, state=None, lengths=None):
        """Map `x` and also return a tape.

        The tape keeps `x` itself, not a copy: do not write into it before backward.

        Parameters
        ----------
        x, state, lengths
            As in a call.

        Returns
        -------
        y : ndarray (..., O)
        state : None
        tape : AffineTape
            ``dx, dstate = tape.backward(dy)`` adds into `grads`; dx (..., I), dstate None.

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        if state is not None:
            check_stateless(self, state)
        return self._engine.run(x, True)
