"""Seeing inside a recurrent layer: what a tape hands out of single steps.

Not here: computing any of it. The engine reads the states and gates from what forward has kept, and
backward writes the gradients down on its way (csrc/kernels/steps.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Trace:
    """States and gates of every step, from ``layer.forward(..., trace=True)``: ``tape.trace``.

    All arrays are copies of shape (L*D, T, B, H) in the layer's dtype, index ``layer * D +
    direction`` first. Time comes second, whatever `batch_first` is, and is that of x: in the
    reverse direction, too, entry t is the state after the step that read ``x[t]``. Entries past a
    row's length are 0.

    Attributes
    ----------
    h : ndarray (L*D, T, B, H)
    c : ndarray (L*D, T, B, H), or None
        Only an LSTM has one.
    gates : dict of str to ndarray (L*D, T, B, H)
        Activated gates: ``i f g o`` of an LSTM (L2), ``r z n`` of a GRU (G1) (G2) (G4), none of an
        RNN.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.LSTM(3, 5, seed=0)
    >>> y, state, tape = layer.forward(np.ones((7, 2, 3), np.float32), trace=True)
    >>> tape.trace.c.shape, list(tape.trace.gates)
    ((1, 7, 2, 5), ['i', 'f', 'g', 'o'])
    """

    h: np.ndarray
    c: np.ndarray | None
    gates: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class StepGradients:
    """Gradient of the loss with respect to the state of every step, from
    ``tape.backward(..., per_step=True)``.

    The whole gradient, as it goes through the cell: what y asks for at this step and what comes
    back from the step after it. Layout as in `Trace`; 0 past a row's length.

    Attributes
    ----------
    dh : ndarray (L*D, T, B, H)
        (R3), (L4), (G6) of docs/math.md.
    dc : ndarray (L*D, T, B, H), or None
        Only of an LSTM: (L6), with the path through h.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.GRU(3, 5, seed=0)
    >>> y, state, tape = layer.forward(np.ones((7, 2, 3), np.float32))
    >>> dx, dstate, steps = tape.backward(None, np.ones((1, 2, 5), np.float32), per_step=True)
    >>> steps.dh.shape, bool((steps.dh[0, -1] == 1).all())
    ((1, 7, 2, 5), True)
    """

    dh: np.ndarray
    dc: np.ndarray | None
