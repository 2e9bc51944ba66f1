"""Dropout: some elements set to zero while training. No mask is kept in memory: a counter-based
generator gives the same one again for the gradient."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..module import Module
from ._checks import Checked, check_gradient, check_probability, check_stateless, generator


class Dropout(Module):
    """Zeroes elements at random in `forward`; a call, which is inference, hands `x` through.

    Parameters
    ----------
    p : float, default 0.5
        Probability of an element to be zeroed, 0 to 1. The others are multiplied by 1/(1-p), so
        that the mean stays.
    seed : int or numpy Generator, optional
        The same seed gives the same masks, one after another, on every machine and with any number
        of threads.

    Attributes
    ----------
    p : float
    random_state : list of int
        What the next mask depends on; `load_random_state` goes on from there.

    Raises
    ------
    TypeError, ValueError
        ``p: expected a probability from 0 to 1, got 2``, ``seed: expected None, an integer >= 0 or
        a numpy Generator, got 'a'``.

    Notes
    -----
    (F3) and (F10) to (F12) of docs/math.md. Srivastava et al., Dropout, JMLR 15, 2014. Masks are
    words of Philox 4x32-10 (Salmon et al. 2011), by the position of an element in `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> layer = fr.Dropout(0.5, seed=0)
    >>> y, state, tape = layer.forward(np.ones((2, 4)))
    >>> sorted(set(y.ravel().tolist())), state
    ([0.0, 2.0], None)
    >>> dx, dstate = tape.backward(np.ones((2, 4)))
    >>> bool((dx == y).all())
    True
    """

    p = Checked(check_probability)

    def __init__(self, p=0.5, *, seed=None):
        self.p = p
        self._allocate([], "float32")
        self.dtype = None  # no parameters: that of x, float32 or float64
        self._start_masks(generator(seed))

    def _random_layers(self):
        return [self]

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        return {"p": self.p}

    def __call__(self, x, state=None, lengths=None):
        """Return `x` itself, and None for the state.

        Parameters
        ----------
        x : ndarray of float32 or float64, any shape
        state : None
        lengths : ignored

        Returns
        -------
        x : ndarray
        state : None

        Raises
        ------
        TypeError
            ``x: expected an array of float32 or float64, got int64``.
        ValueError
            ``state: Dropout keeps no state, expected None``.
        """
        check_stateless(self, state)
        return _real(x), None

    def forward(self, x, state=None, lengths=None):
        """Drop elements of `x` and also return a tape.

        Parameters
        ----------
        x : ndarray of float32 or float64, any shape
        state : None
        lengths : ignored

        Returns
        -------
        y : ndarray like x
        state : None
        tape : DropoutTape

        Raises
        ------
        TypeError
            ``x: expected an array of float32 or float64, got int64``.
        ValueError
            ``state: Dropout keeps no state, expected None``. No mask was used up.
        """
        check_stateless(self, state)
        x = _real(x)
        tape = DropoutTape((self.p, self._key, self._calls), x)
        y = _core.dropout(x, *tape._mask)
        self._calls += 1
        return y, None, tape


class DropoutTape:
    """What `Dropout.forward` keeps for its gradient: which mask it was."""

    def __init__(self, mask, x):
        self._mask, self._dtype, self._shape = mask, x.dtype, x.shape

    def backward(self, dy, dstate=None, *, accumulate=True):
        """Return the gradient of x: `dy`, None for zeros, through the mask of forward.

        There are no gradients that `accumulate` would speak of: it is taken as by any layer.
        """
        self._check_backward(dstate)
        if dy is None:
            return np.zeros(self._shape, self._dtype), None
        return _core.dropout(check_gradient(dy, self._dtype, self._shape), *self._mask), None

    def _check_backward(self, dstate, clip_step=None):
        if dstate is not None:
            raise ValueError("dstate: Dropout keeps no state, expected None")


def _real(x):
    x = _core._as_array("x", x)
    if x.dtype not in (np.float32, np.float64) or not x.dtype.isnative:
        raise TypeError(f"x: expected an array of float32 or float64, got {x.dtype}")
    return x
