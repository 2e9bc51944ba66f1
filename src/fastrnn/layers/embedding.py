"""Embedding: a row of a table for each integer id. Not one-hot rows times a matrix: nothing is
multiplied, and the gradient touches only the rows that were used."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..module import Module
from ._checks import Fixed, check_gradient, check_positive, check_stateless, generator


class Embedding(Module):
    """Table of learned vectors, looked up by integer.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Number of rows V and their length D, at least 1.
    dtype : {"float32", "float64"}
    seed : int or numpy Generator, optional
        For the initial values, N(0, 1) as in ``torch.nn.Embedding``.

    Attributes
    ----------
    params, grads : dict
        ``weight`` (V, D).

    Raises
    ------
    TypeError, ValueError
        ``num_embeddings: expected 1 or more, got 0``, and so for each argument.

    Notes
    -----
    (F2): forward is ``y[i] = W[x[i]]``. So ``dW[v]`` is the sum of ``dy[i]`` over all i with
    ``x[i] = v``, taken in the order of i: the same on every run.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> layer = fr.Embedding(5, 2, seed=0)
    >>> y, _, tape = layer.forward(np.array([[3, 1], [3, 0]]))
    >>> y.shape
    (2, 2, 2)
    >>> tape.backward(np.ones_like(y))
    (None, None)
    >>> layer.grads["weight"][:, 0]
    array([1., 1., 0., 2., 0.], dtype=float32)
    """

    num_embeddings, embedding_dim = Fixed(), Fixed()

    def __init__(self, num_embeddings, embedding_dim, *, dtype="float32", seed=None):
        self.num_embeddings = check_positive("num_embeddings", num_embeddings)
        self.embedding_dim = check_positive("embedding_dim", embedding_dim)
        self._allocate([("weight", (self.num_embeddings, self.embedding_dim))], dtype)
        self._flat[...] = generator(seed).standard_normal(self._flat.size)
        self._touch()

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype.name,
        }

    def __call__(self, x, state=None, lengths=None):
        """Look up `x` without keeping anything.

        Parameters
        ----------
        x : integer ndarray (...), values in [0, V)
        state : None
        lengths : ignored
            Ids beyond a sequence's end are looked up like the others, so they must be valid.

        Returns
        -------
        y : ndarray (..., D)
        state : None

        Raises
        ------
        TypeError, ValueError
            ``x: expected integers, got float32``, ``x: expected values in [0, 5), got -1 to 3``.
        """
        y, _ = self._look_up(x, state)
        return y, None

    def forward(self, x, state=None, lengths=None):
        """Look up `x` and also return a tape.

        Parameters
        ----------
        x, state, lengths
            As in a call.

        Returns
        -------
        y : ndarray (..., D)
        state : None
        tape : EmbeddingTape
            ``tape.backward(dy)`` adds into `grads` and returns (None, None).

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        y, ids = self._look_up(x, state)
        return y, None, EmbeddingTape(self, ids, y.shape)

    def _look_up(self, x, state):
        check_stateless(self, state)
        x = np.asarray(_core._as_integers("x", x))  # a matrix would keep its two axes
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got {x.dtype}")
        if x.size:
            low, high = x.min(), x.max()
            if low < 0 or high >= self.num_embeddings:
                raise ValueError(
                    f"x: expected values in [0, {self.num_embeddings}), got {low} to {high}"
                )
        ids = x.astype(np.int64).ravel()  # a copy: the tape does not follow a buffer that is reused
        y = np.empty((ids.size, self.embedding_dim), self.dtype)
        np.take(self._params["weight"], ids, axis=0, out=y, mode="clip")  # "raise" would buffer
        return y.reshape(*x.shape, self.embedding_dim), ids


class EmbeddingTape:
    """What `Embedding.forward` keeps for its gradient: the ids."""

    def __init__(self, layer, ids, y_shape):
        self._layer, self._ids, self._y_shape = layer, ids, y_shape

    def backward(self, dy, dstate=None, *, accumulate=True):
        """Add the gradient of the table into ``layer.grads``.

        Parameters
        ----------
        dy : ndarray (..., D), or None for zeros
        dstate : None
        accumulate : bool, default True
            False: ``layer.grads`` are set, not added to.

        Returns
        -------
        dx, dstate : None
            Ids have no gradient.

        Raises
        ------
        TypeError, ValueError
            ``dy: expected shape (2, 2, 2), got (2, 2)``; no gradient has changed.
        """
        layer = self._layer
        self._check_backward(dstate)
        if dy is not None:
            dy = check_gradient(dy, layer.dtype, self._y_shape)
        if not accumulate:
            layer.zero_grad()
        if dy is None:
            return None, None
        rows = np.ascontiguousarray(dy).reshape(-1, layer.embedding_dim)
        _core.scatter_add(layer._grads["weight"], self._ids, rows)
        return None, None

    def _check_backward(self, dstate, clip_step=None):
        check_stateless(self._layer, dstate, "dstate")
