"""RNN, LSTM and GRU: what people call. torch.nn's arguments, names, shapes and gate order.

Here: constructor arguments, parameters and their initial values. Not here: computing
(`fastrnn._core`), the equations (docs/math.md), one step at a time (`fastrnn.layers.stream`).
"""

from __future__ import annotations

import operator

import numpy as np

from fastrnn import _core
from fastrnn.layers._checks import Checked, Fixed, check_probability, generator, warn
from fastrnn.layers.stream import Stream
from fastrnn.module import Module

_MOST_LAYERS = 65536  # more is a mistake, and would fill the memory with names of parameters
_NONLINEARITIES = ("tanh", "relu", "sigmoid")


class Recurrent(Module):
    """What RNN, LSTM and GRU share. Use one of those."""

    _gates = 1

    input_size, hidden_size, num_layers = Fixed(), Fixed(), Fixed()
    bias, batch_first, bidirectional = Fixed(), Fixed(), Fixed()
    dropout = Checked(check_probability)

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers,
        bias,
        batch_first,
        dropout,
        bidirectional,
        dtype,
        seed,
        cell,
    ):
        self.input_size = _positive("input_size", input_size)
        self.hidden_size = _positive("hidden_size", hidden_size)
        self.num_layers = _positive("num_layers", num_layers)
        if self.num_layers > _MOST_LAYERS:
            raise ValueError(f"num_layers: expected at most {_MOST_LAYERS}, got {num_layers}")
        self.bias, self.batch_first = bool(bias), bool(batch_first)
        self.bidirectional = bool(bidirectional)
        self.dropout = dropout
        if self.dropout and self.num_layers == 1:
            warn(f"dropout: {self.dropout} has no effect on one layer; it acts between layers")
        self._allocate(self._shapes(), dtype)
        self._engine = _core.Engine(
            cell,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.batch_first,
            self.dtype,
        )
        self._bound()
        bound = 1 / np.sqrt(self.hidden_size)
        rng = generator(seed)
        self._flat[...] = rng.uniform(-bound, bound, self._flat.size)
        self._start_masks(rng)

    def _random_layers(self):
        return [self] if self.dropout and self.num_layers > 1 else []

    def _suffixes(self):
        """`_l0`, `_l0_reverse`, `_l1`, ... in the engine's order."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{d}" for layer in range(self.num_layers) for d in directions]

    def _shapes(self):
        rows, H = self._gates * self.hidden_size, self.hidden_size
        directions = 1 + self.bidirectional
        shapes = []
        for i, suffix in enumerate(self._suffixes()):
            columns = self.input_size if i < directions else H * directions
            shapes += [(f"weight_ih{suffix}", (rows, columns)), (f"weight_hh{suffix}", (rows, H))]
            if self.bias:
                shapes += [(f"bias_ih{suffix}", (rows,)), (f"bias_hh{suffix}", (rows,))]
        return shapes

    def _bound(self):
        for i, suffix in enumerate(self._suffixes()):
            names = [f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            self._engine.bind(
                i,
                tuple(self._params.get(name) for name in names),
                tuple(self._grads.get(name) for name in names),
            )

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        names = "input_size hidden_size num_layers bias batch_first dropout bidirectional".split()
        return {**{name: getattr(self, name) for name in names}, "dtype": self.dtype.name}

    def __call__(self, x, state=None, lengths=None, reset=None):
        """Run over whole sequences; nothing is kept for a backward pass.

        Parameters
        ----------
        x : ndarray of shape (T, B, I), or with batch_first (B, T, I)
            In the layer's dtype. Or integer token ids of shape (T, B) or (B, T), in [0, I): the
            same result as one-hot rows, which are never built.
        state : ndarray of shape (num_layers * directions, B, H), optional
            Initial state, zeros by default; for LSTM a pair (h, c) of such arrays.
        lengths : array-like of shape (B,), optional
            Steps of each row, 0 to T, in any order. Outputs past a row's end are 0, final states
            are each row's own last, and the reverse direction starts at each row's own end.
        reset : bool array of shape (T, B), or with batch_first (B, T), optional
            True where a row starts afresh: its state, h and c, is zeroed before that step, in every
            layer, and no gradient crosses. In the reverse direction, before that step of the walk
            from the end. Past a row's end it is not read.

        Returns
        -------
        y : ndarray of shape (T, B, H * directions), or (B, T, H * directions)
            Output of the last layer.
        state : as `state`
            Final state of every layer and direction.

        Raises
        ------
        ValueError, TypeError
            Naming the argument, what was expected and what came.
        """
        return self._engine.run(self, x, state, lengths, reset, False)

    def forward(self, x, state=None, lengths=None, reset=None, *, trace=False):
        """Run like ``layer(x, state, lengths, reset)`` and keep what the backward pass needs.

        The tape refers to `x` and `y`: y is returned read-only, and x must not change before
        ``tape.backward``.

        Parameters
        ----------
        x, state, lengths, reset
            As in a call.
        trace : bool, default False
            Copy the states and gates of every step to ``tape.trace``, a `fastrnn.inside.Trace`.
            Without it the tape has no such attribute.

        Returns
        -------
        y, state
            As from a call.
        tape : Tape
            ``dx, dstate = tape.backward(dy, dstate=None)`` adds into `grads`.
        """
        mask = (self.dropout, self._key, self._calls) if self._random_layers() else None
        result = self._engine.run(self, x, state, lengths, reset, True, bool(trace), mask)
        self._calls += mask is not None
        return result

    def stream(self, batch=1) -> Stream:
        """Return a `Stream`: this layer one step at a time, with nothing allocated in a step."""
        return Stream(self, batch)


class RNN(Recurrent):
    """Vanilla (Elman) recurrent layers: ``h_t = act(x_t W^T + h_{t-1} R^T + b)``.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
    nonlinearity : {"tanh", "relu", "sigmoid"}
    bias, batch_first, bidirectional : bool
    dropout : float, default 0
        Probability, 0 to 1, with which `forward` zeroes an element of what one layer hands to the
        next (F3); the others are multiplied by 1/(1-dropout). A call, which is inference, has none.
    dtype : {"float32", "float64"}
    seed : int, numpy Generator or None
        Of the initial values, uniform in ±1/sqrt(H), and of the dropout masks.

    Raises
    ------
    TypeError, ValueError
        Naming the argument: ``hidden_size: expected at least 1, got 0``, ``dtype: expected
        'float32' or 'float64', got 'int8'``, ``dropout: expected a probability from 0 to 1, got
        2``, ``seed: expected None, an integer >= 0 or a numpy Generator, got 'a'``,
        ``nonlinearity: expected one of tanh, relu, sigmoid, got 'elu'``.
    MemoryError
        ``weight_hh_l0: no memory for shape ...``.

    Notes
    -----
    Parameters, per layer and direction: ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H),
    ``bias_ih_l0`` and ``bias_hh_l0`` (H,). Equations (R1) to (R7) of docs/math.md; Elman, Finding
    structure in time, Cognitive Science 1990.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.RNN(3, 5, seed=0)
    >>> y, h = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    nonlinearity = Fixed()

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity="tanh",
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        dtype="float32",
        seed=None,
    ):
        if not isinstance(nonlinearity, str) or nonlinearity not in _NONLINEARITIES:
            raise ValueError(
                f"nonlinearity: expected one of {', '.join(_NONLINEARITIES)}, got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            seed,
            f"rnn_{nonlinearity}",
        )

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        return {**super().config(), "nonlinearity": self.nonlinearity}


class LSTM(Recurrent):
    """Long short-term memory layers.

    ``i, f, g, o = x_t W^T + h_{t-1} R^T + b``, then ``c_t = f * c_{t-1} + i * g`` and
    ``h_t = o * tanh(c_t)``, with i, f, o through the logistic sigmoid and g through tanh.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
    bias, batch_first, bidirectional : bool
    dropout : float, default 0
        Probability, 0 to 1, with which `forward` zeroes an element of what one layer hands to the
        next (F3); the others are multiplied by 1/(1-dropout). A call, which is inference, has none.
    dtype : {"float32", "float64"}
    seed : int, numpy Generator or None
        Of the initial values, uniform in ±1/sqrt(H), and of the dropout masks.

    Raises
    ------
    TypeError, ValueError
        Naming the argument: ``hidden_size: expected at least 1, got 0``, ``dtype: expected
        'float32' or 'float64', got 'int8'``, ``dropout: expected a probability from 0 to 1, got
        2``, ``seed: expected None, an integer >= 0 or a numpy Generator, got 'a'``.
    MemoryError
        ``weight_hh_l0: no memory for shape ...``.

    Notes
    -----
    The state is a pair (h, c). Parameters, per layer and direction: ``weight_ih_l0`` (4H, I),
    ``weight_hh_l0`` (4H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (4H,), gates in the order i, f, g,
    o. Equations (L1) to (L13) of docs/math.md; Hochreiter & Schmidhuber 1997, forget gate of Gers
    et al. 2000.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.LSTM(3, 5, bidirectional=True, seed=0)
    >>> y, (h, c), tape = layer.forward(np.ones((7, 2, 3), np.float32))
    >>> dx, (dh, dc) = tape.backward(np.ones_like(y))
    >>> y.shape, h.shape, dx.shape
    ((7, 2, 10), (2, 2, 5), (7, 2, 3))
    """

    _gates = 4

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        dtype="float32",
        seed=None,
    ):
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            seed,
            "lstm",
        )


class GRU(Recurrent):
    """Gated recurrent units.

    ``h_t = z * h_{t-1} + (1 - z) * n`` with update gate z, reset gate r and candidate n, where
    ``n = tanh(x W_n^T + b_in + r * (h R_n^T + b_hn))`` or, with ``reset_after=False``,
    ``n = tanh(x W_n^T + b_in + (r * h) R_n^T + b_hn)``.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int, default 1
    bias, batch_first, bidirectional : bool
    dropout : float, default 0
        Probability, 0 to 1, with which `forward` zeroes an element of what one layer hands to the
        next (F3); the others are multiplied by 1/(1-dropout). A call, which is inference, has none.
    reset_after : bool, default True
        True: the form of PyTorch and cuDNN. False: the form of Cho et al. 2014, which needs two
        products a step.
    dtype : {"float32", "float64"}
    seed : int, numpy Generator or None
        Of the initial values, uniform in ±1/sqrt(H), and of the dropout masks.

    Raises
    ------
    TypeError, ValueError
        Naming the argument: ``hidden_size: expected at least 1, got 0``, ``dtype: expected
        'float32' or 'float64', got 'int8'``, ``dropout: expected a probability from 0 to 1, got
        2``, ``seed: expected None, an integer >= 0 or a numpy Generator, got 'a'``.
    MemoryError
        ``weight_hh_l0: no memory for shape ...``.

    Notes
    -----
    Parameters, per layer and direction: ``weight_ih_l0`` (3H, I), ``weight_hh_l0`` (3H, H),
    ``bias_ih_l0`` and ``bias_hh_l0`` (3H,), gates in the order r, z, n. Equations (G1) to (G16) and
    (GB1) to (GB10) of docs/math.md.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.GRU(65, 16, seed=0)
    >>> y, h = layer(np.array([[0, 64], [3, 1]]))    # token ids, (T, B)
    >>> y.shape
    (2, 2, 16)
    """

    _gates = 3
    reset_after = Fixed()

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        *,
        reset_after=True,
        dtype="float32",
        seed=None,
    ):
        self.reset_after = bool(reset_after)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            seed,
            "gru" if reset_after else "gru_before",
        )

    def config(self) -> dict:
        """Return the constructor's arguments, without ``seed``."""
        return {**super().config(), "reset_after": self.reset_after}


def _positive(name, value):
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number
