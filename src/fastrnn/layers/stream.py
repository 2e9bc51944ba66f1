"""Stream: a recurrent layer one time step at a time, for real-time loops and for sampling."""

from __future__ import annotations

import numpy as np

from fastrnn import _core


class Stream:
    """One step per call, the state kept in between.

    Made by ``layer.stream(batch)``. It computes what the layer computes on sequences. Nothing is
    allocated in a step when `out` is given.

    New weights from an optimizer or ``load_state_dict`` count from the next step on. Arrays of
    ``layer.params`` that were edited by hand are looked at again by `reset`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Not bidirectional: the future is not there yet.
    batch : int
        Rows that advance together, B.

    Raises
    ------
    TypeError
        ``layer: expected an RNN, LSTM or GRU, got Linear``.
    ValueError
        ``stream: a bidirectional layer needs whole sequences``, ``batch: expected an integer of at
        least 1, got 0``.

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
        if not isinstance(getattr(layer, "_engine", None), _core.Engine):
            raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {type(layer).__name__}")
        if layer.bidirectional:
            raise ValueError("stream: a bidirectional layer needs whole sequences")
        if not isinstance(batch, (int, np.integer)) or batch < 1:
            raise ValueError(f"batch: expected an integer of at least 1, got {batch!r}")
        self.layer, self.batch = layer, int(batch)
        # h and c of every layer, twice
        if 4 * layer.num_layers * self.batch * layer.hidden_size * layer.dtype.itemsize >= 2**63:
            raise ValueError(f"batch: {batch} rows of state are more than any memory holds")
        self._stepper = _core.Stepper(layer._engine, layer, self.batch)

    @property
    def state(self):
        """Copy of the state: (num_layers, B, H), for LSTM a pair. Assigning sets it; None: zeros.

        Raises
        ------
        ValueError, TypeError
            On assignment: ``h: expected shape ..., got ...``. The state is unchanged.
        """
        return self._stepper.get_state()

    @state.setter
    def state(self, value):
        self._stepper.set_state(value)

    def reset(self) -> None:
        """Return to the zero state, with the weights as they are now."""
        self._stepper.reset()

    def step(self, x, out=None):
        """Advance by one time step.

        Parameters
        ----------
        x : ndarray of shape (B, I), or integer token ids of shape (B,)
        out : ndarray of shape (B, H), optional
            C-contiguous, in the layer's dtype: receives y.

        Returns
        -------
        y : ndarray of shape (B, H)
            Output of the last layer; `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            Naming the argument, what was expected and what came. The state is unchanged.
        """
        return self._stepper.step(x, out)
