"""Truncated back-propagation through time over one long sequence: `tbptt`.

    time  0     k1    2k1   3k1   4k1        a window every k1 steps, gradients k2 steps back
          |-----|-----|-----|-----|
          [ new ]                            window 0
          [ . . . new ]                      window 1: all that there is to look back on
             [ . . . . new ]                 window 2: starts amid window 0, from the state there
                   [ . . . . new ]           window 3

Every step is new in exactly one window: there its output is computed and enters the loss. The k2-k1
steps before are run again, with the weights of now, from the state that the window before had at
their start; their outputs enter no loss. So the gradient of a window is exactly that of its loss at
a fixed initial state, (T5) to (T7) of docs/math.md, and costs k2/k1 times the steps. With k1 = k2
nothing is run again, and it is the usual walk in chunks, which `fastrnn.Trainer` takes.

Williams & Peng 1990; Sutskever 2013, section 2.8.6, for the names k1 and k2.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ._core import _as_array
from .layers._checks import check_method


def tbptt(data, k1, k2=None, *, state=None, batch_first=False) -> Iterator[Window]:
    """Walk over a long sequence: a window every `k1` steps, whose gradient looks `k2` steps back.

    Parameters
    ----------
    data : ndarray (T, B, ...), or tuple of such arrays
        Usually ``(x, target)``: the first is what the model reads. With `batch_first` (B, T, ...).
    k1 : int, at least 1
        Steps from one update to the next. The last window has what is left of T.
    k2 : int, at least k1
        Steps that the gradient of a window reaches back from its end, its new ones included; more
        than T is as T. By default k1.
    state : as the model takes it, optional
        At the start of the sequence; zeros by default.
    batch_first : bool, default False
        As in the model's layers.

    Yields
    ------
    Window
        Call ``y = window.forward(model)``, then ``window.backward(dy)``, then update, and only then
        ask for the next one.

    Raises
    ------
    ValueError
        At once: ``k1: expected an integer of at least 1, got 0``, ``k2: expected an integer of at
        least k1 = 10, got 5``, ``data: expected arrays of one length, got 100 and 99 steps``.

    Notes
    -----
    (T5) to (T7) of docs/math.md. For layers that walk forward: a state cannot be carried into a
    reverse direction. In training, a dropout layer draws new masks for the steps that are run
    again.

    References
    ----------
    Williams & Peng, An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories, Neural Computation 1990. Sutskever, Training recurrent neural networks, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn as fr
    >>> ids = np.tile(np.arange(5), 41)[:201].reshape(201, 1)  # 0 1 2 3 4 0 1 ...
    >>> model = fr.Sequential(fr.GRU(5, 16, seed=0), fr.Linear(16, 5, seed=1))
    >>> adam = fr.optim.Adam(model, lr=0.02)
    >>> for window in fr.tbptt((ids[:-1], ids[1:]), k1=2, k2=6):
    ...     y = window.forward(model)
    ...     loss, dy = fr.cross_entropy(y, window.target)
    ...     model.zero_grad()
    ...     dstate = window.backward(dy)
    ...     adam.step()
    >>> (window.first, window.start, window.stop), y.shape, loss < 0.5
    ((194, 198, 200), (2, 1, 5), True)
    """
    arrays = (
        tuple(_as_array("data", part) for part in data)
        if isinstance(data, (tuple, list))
        else (_as_array("data", data),)
    )
    axis = 1 if batch_first else 0
    for array in arrays:
        if array.ndim < 2:
            raise ValueError(f"data: expected at least 2 axes, time and batch, got {array.shape}")
    steps = [array.shape[axis] for array in arrays]
    if not steps or len(set(steps)) > 1:
        told = " and ".join(map(str, steps)) or "no"
        raise ValueError(f"data: expected arrays of one length, got {told} steps")
    k1 = _integer("k1", k1, 1, "1")
    k2 = k1 if k2 is None else _integer("k2", k2, k1, f"k1 = {k1}")
    return _windows(arrays, axis, steps[0], k1, k2, state)


def _windows(arrays, axis, T, k1, k2, state):
    previous = None
    for start in range(0, T, k1):
        stop, following = min(start + k1, T), min(start + 2 * k1, T)
        if previous is not None:
            state = previous.handed_on()
        first = max(0, stop - k2)
        hand_on_at = max(0, following - k2) if stop < T else stop
        previous = Window(arrays, axis, first, start, stop, hand_on_at, state)
        yield previous


class Window:
    """The steps from one update to the next, and those before that its gradient reaches.

    Attributes
    ----------
    first, start, stop : int
        Steps ``start`` to ``stop - 1`` are new; those from ``first`` on are looked back on.
    data : tuple of ndarray
        What belongs to the new steps, one for each array of the data, (stop - start, B, ...).
    x, target : ndarray
        The first and second of them.
    state
        Of the model at `first`; None for zeros.
    end_state
        After the last step, once `forward` has run: to go on with where the sequence goes on.
    """

    def __init__(self, arrays, axis, first, start, stop, hand_on_at, state):
        self.first, self.start, self.stop, self.state = first, start, stop, state
        self.end_state = None
        self._arrays, self._axis, self._hand_on_at = arrays, axis, hand_on_at
        self._tapes = None  # with the steps from ... to, and whether those are new
        self._next_state = None

    @property
    def data(self) -> tuple:
        return tuple(self._cut(array, self.start, self.stop) for array in self._arrays)

    @property
    def x(self) -> np.ndarray:
        return self.data[0]

    @property
    def target(self) -> np.ndarray:
        if len(self._arrays) < 2:
            raise AttributeError("target: the data of tbptt has only one array")
        return self.data[1]

    def forward(self, model) -> np.ndarray:
        """Run the model over all steps of the window.

        Parameters
        ----------
        model : Module
            With ``forward(x, state)``.

        Returns
        -------
        ndarray (stop - start, B, ...)
            y of the new steps.

        Raises
        ------
        TypeError
            ``model: expected an object with forward(), got NoneType``.
        """
        check_method("model", model, "forward")
        # Cut where the new steps begin, since only they have a gradient of their own, and where the
        # next window begins, since it needs the state there.
        edges = sorted({self.first, self.start, self._hand_on_at, self.stop})
        state, outputs, self._tapes = self.state, [], []
        self._next_state = state
        for begin, end in pairwise(edges):
            y, state, tape = model.forward(self._cut(self._arrays[0], begin, end), state)
            self._tapes.append((begin, end, tape))
            if begin >= self.start:
                outputs.append(y)
            if end == self._hand_on_at:
                self._next_state = state
        self.end_state = state
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, self._axis)

    def backward(self, dy):
        """Add the gradients into ``model.grads``, through the new steps and those before.

        Parameters
        ----------
        dy : ndarray like the y of `forward`, or None for zeros

        Returns
        -------
        The gradient of `state`: what truncation leaves out.

        Raises
        ------
        RuntimeError
            ``window: expected forward before backward``.
        ValueError
            ``dy: expected 10 steps, got 9``.
        """
        if self._tapes is None:
            raise RuntimeError("window: expected forward before backward")
        new = self.stop - self.start
        if dy is not None:
            dy = _as_array("dy", dy)
            if dy.ndim <= self._axis or dy.shape[self._axis] != new:
                raise ValueError(f"dy: expected {new} steps, got shape {dy.shape}")
        dstate = None
        for begin, end, tape in reversed(self._tapes):
            if begin >= self.start:
                part = dy
                if dy is not None:
                    part = self._cut(dy, begin - self.start, end - self.start)
                _, dstate = tape.backward(part, dstate)
            elif _is_none(dstate):
                break  # a model without a state has nothing to look back on
            else:
                _, dstate = tape.backward(None, dstate)
        return dstate

    def handed_on(self):
        """Return the state where the next window begins."""
        if self._tapes is None:
            raise RuntimeError("window: expected forward before the next window")
        return self._next_state

    def _cut(self, array, begin, end):
        return array[(slice(None),) * self._axis + (slice(begin, end),)]


def _is_none(state) -> bool:
    """Whether there is nothing in a tree of states."""
    return all(map(_is_none, state)) if isinstance(state, tuple) else state is None


def _integer(name, value, least, told) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {told}, got {value!r}")
    return number
