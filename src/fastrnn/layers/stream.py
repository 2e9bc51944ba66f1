"""Stream: a recurrent layer one time step at a time, for real-time loops and for sampling."""

from __future__ import annotations

import numpy as np


class Stream:
    """One step per call, the state kept in between.

    Made by ``layer.stream(batch)``. It computes exactly what the layer computes on sequences.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Not bidirectional: the future is not there yet.
    batch : int
        Rows that advance together, B.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.GRU(3, 4, seed=0)
    >>> stream = layer.stream()
    >>> x = np.ones((5, 1, 3), np.float32)
    >>> ys = np.stack([stream.step(x_t) for x_t in x])
    >>> bool(np.allclose(ys, layer(x)[0], atol=1e-6))
    True
    """

    def __init__(self, layer, batch=1):
        if layer.bidirectional:
            raise ValueError("stream: a bidirectional layer needs whole sequences")
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        self.layer, self.batch = layer, batch
        self._time = 1 if layer.batch_first else 0
        self._out = (batch, layer.hidden_size)
        self.reset()

    def reset(self) -> None:
        """Return to the zero state."""
        shape = (self.layer.num_layers, self.batch, self.layer.hidden_size)
        pair = self.layer._engine.has_c
        zeros = [np.zeros(shape, self.layer.dtype) for _ in range(1 + pair)]
        self.state = tuple(zeros) if pair else zeros[0]

    def step(self, x, out=None):
        """Advance by one time step.

        Parameters
        ----------
        x : ndarray of shape (B, I), or integer token ids of shape (B,)
        out : ndarray of shape (B, H), optional
            Where to put y.

        Returns
        -------
        y : ndarray of shape (B, H)
            Output of the last layer; `out` if it was given.
        """
        x = np.asarray(x)
        if x.shape[:1] != (self.batch,):
            raise ValueError(f"x: expected {self.batch} rows, got shape {x.shape}")
        if out is not None and (
            out.shape != self._out or out.dtype != self.layer.dtype or not out.flags.writeable
        ):
            raise ValueError(
                f"out: expected a writeable array of {self.layer.dtype} with shape {self._out}, "
                f"got {out.dtype} with shape {out.shape}"
            )
        y, self.state = self.layer(np.expand_dims(x, self._time), self.state)
        y = y.reshape(self._out)
        if out is None:
            return y
        out[...] = y
        return out
