"""Seeing inside a recurrent layer: Jacobians from state to state, gradients over time, gates.

Each function takes a layer (`RNN`, `LSTM`, `GRU`) and an input, runs the layer, and reports numbers
in float64. Nothing here changes a layer: parameters and gradients are afterwards what they were.
Dropout is off, as in inference.

The state s_u is h after u steps *in walking order* (so s_0 is the initial state), for an LSTM the
pair [h | c] as one vector; S is its width, H or 2H. Of a layer with several levels or directions,
one is looked at: `index`, its place on the first axis of the state, level * directions + direction.

Equations (D1) to (D15) of docs/math.md. Not here: changing weights so that a factor stays in a
range (`fastrnn.rescale_recurrent_`), and clipping (`fastrnn.clip`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from .layers import GRU, LSTM, RNN
from .layers._checks import check_integer, check_real

__all__ = [
    "GateShare",
    "GradientFlow",
    "JacobianNorms",
    "gate_saturation",
    "gradient_flow",
    "jacobian",
    "jacobian_factor",
    "jacobian_norms",
    "spectral_norm",
    "spectral_radius",
    "step_jacobians",
]

# The derivative of each activation in terms of its output, (A4) to (A6).
_SLOPE = {
    "tanh": lambda h: 1 - h * h,
    "relu": lambda h: (h > 0).astype(h.dtype),
    "sigmoid": lambda h: h * (1 - h),
}
# The cells whose Jacobians are known here, and their gates.
_GATES = {RNN: "h", LSTM: "ifgo", GRU: "rzn"}


class JacobianNorms(NamedTuple):
    """Norms of the Jacobian of one state by those 0, 1, 2, ... steps before it.

    Attributes
    ----------
    distance : ndarray (n,) of int
        t - k.
    norm : ndarray (n, B)
        Spectral norm of d s_t / d s_k.
    bound : ndarray (n, B)
        Product of the spectral norms of the steps between, (D9).
    weight_bound : ndarray (n, B) or None
        For an RNN the product of ``sigma_max(R) * max |act'|`` of the steps between, (D10).
    """

    distance: np.ndarray
    norm: np.ndarray
    bound: np.ndarray
    weight_bound: np.ndarray | None


class GradientFlow(NamedTuple):
    """Norms of the gradient that reaches each step's state, by time.

    Attributes
    ----------
    h : ndarray (num_layers * directions, T, B)
        ||dh_t|| of each row, complete: from the output and from the later steps.
    c : ndarray like h, or None
        ||dc_t|| of an LSTM.
    """

    h: np.ndarray
    c: np.ndarray | None


class GateShare(NamedTuple):
    """Share of a gate's values that are nearly closed or nearly open.

    Attributes
    ----------
    low, high : ndarray (num_layers * directions,)
        Between 0 and 1; NaN if there is no step to count.
    """

    low: np.ndarray
    high: np.ndarray


def step_jacobians(layer, x, state=None, lengths=None, reset=None, *, index=0) -> np.ndarray:
    """Return the Jacobian of every step: of the state after it by the state before it.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : ndarray
        As the layer takes it: (T, B, I), (B, T, I) with batch_first, or integer ids.
    state : optional
        Initial state, zeros by default.
    lengths : (B,) integers, optional
        A padded step copies the state: its Jacobian is the identity.
    reset : bool array (T, B), or with batch_first (B, T), optional
        A step that starts afresh has the Jacobian zero.
    index : int, default 0
        Which level and direction, as on the first axis of the state.

    Returns
    -------
    ndarray (T, B, S, S) of float64
        ``[u, b, i, j]`` is d s_{u+1}[i] / d s_u[j] for row b. S is H; for an LSTM 2H, with h first
        and c second. This takes ``8 T B S^2`` bytes: 100 MB for T=100, B=1, H=180 (LSTM).

    Raises
    ------
    TypeError
        ``layer: expected an RNN, LSTM or GRU, got Linear``, ``index: expected an integer, got
        str``.
    ValueError
        ``index: expected 0 to 1, got 2``, and whatever the layer says about `x`.

    Notes
    -----
    (D1) to (D7). What the levels below and above do is not in it: their states are not varied.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 2, nonlinearity="relu", bias=False)
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, [[0.5, 0], [0, 2]]
    >>> diagnostics.step_jacobians(layer, np.ones((3, 1, 1), np.float32))[0, 0]
    array([[0.5, 0. ],
           [0. , 2. ]])
    """
    walk = _walk(layer, x, state, lengths, reset, index)
    return _step(walk, slice(None))


def jacobian(layer, x, t, k, state=None, lengths=None, reset=None, *, index=0) -> np.ndarray:
    """Return d s_t / d s_k, the product of the Jacobians of the steps between.

    Parameters
    ----------
    layer, x, state, lengths, reset, index
        As in `step_jacobians`.
    t, k : int
        Numbers of states in walking order, ``0 <= k <= t <= T``: 0 is the initial state, T the
        final one.

    Returns
    -------
    ndarray (B, S, S) of float64
        The identity if t is k. For an LSTM ``[:, :H, :H]`` is the block d h_t / d h_k.

    Raises
    ------
    ValueError
        ``t, k: expected 0 <= k <= t <= 5, got t=3, k=4``.
    TypeError
        ``t: expected an integer, got float``; both also as `step_jacobians`.

    Notes
    -----
    (D8).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 1, nonlinearity="relu", bias=False)
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, 1.5
    >>> x = np.ones((5, 1, 1), np.float32)
    >>> [diagnostics.jacobian(layer, x, t, 0).item() for t in range(4)]
    [1.0, 1.5, 2.25, 3.375]
    """
    t, k = check_integer("t", t), check_integer("k", k)
    walk = _walk(layer, x, state, lengths, reset, index)
    if not 0 <= k <= t <= walk.T:
        raise ValueError(f"t, k: expected 0 <= k <= t <= {walk.T}, got t={t}, k={k}")
    product = np.broadcast_to(np.eye(walk.S), (walk.B, walk.S, walk.S)).copy()
    for u in reversed(range(k, t)):
        product = product @ _step(walk, u)  # (D8)
    return product


def jacobian_norms(
    layer, x, state=None, lengths=None, reset=None, *, t=None, index=0
) -> JacobianNorms:
    """Return how the norm of d s_t / d s_k changes with the distance t - k, and its bounds.

    Gradients vanish if it goes to zero and explode if it grows without end (Pascanu, Mikolov &
    Bengio 2013).

    Parameters
    ----------
    layer, x, state, lengths, reset, index
        As in `step_jacobians`.
    t : int, optional
        From which state to look back, 0 to T; the final one by default.

    Returns
    -------
    JacobianNorms
        With t + 1 distances, 0 to t. What is larger than float64 holds is infinity.

    Raises
    ------
    ValueError
        ``t: expected 0 to 5, got 6``.
    TypeError
        ``t: expected an integer, got float``; both also as `step_jacobians`.

    Notes
    -----
    (D8) to (D11); norm <= bound <= weight_bound, up to rounding. The Jacobians are made one step at
    a time, so the memory does not grow with T. Bengio, Simard & Frasconi 1994.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 2, bias=False, nonlinearity="relu")
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, [[0.9, 0], [0, 0.9]]
    >>> result = diagnostics.jacobian_norms(layer, np.ones((4, 1, 1), np.float32))
    >>> result.norm[:, 0].round(2).tolist()
    [1.0, 0.9, 0.81, 0.73, 0.66]
    """
    t = None if t is None else check_integer("t", t)
    walk = _walk(layer, x, state, lengths, reset, index)
    t = walk.T if t is None else t
    if not 0 <= t <= walk.T:
        raise ValueError(f"t: expected 0 to {walk.T}, got {t}")
    vanilla = isinstance(layer, RNN)
    largest = _largest_singular_value(walk.R) if vanilla else None
    product = _Scaled(np.broadcast_to(np.eye(walk.S), (walk.B, walk.S, walk.S)), (1, 2))
    bound, weight_bound = _Scaled(np.ones(walk.B)), _Scaled(np.ones(walk.B))
    norms, bounds, weight_bounds = [np.ones(walk.B)], [np.ones(walk.B)], [np.ones(walk.B)]
    for u in reversed(range(t)):
        step = _step(walk, u)
        product.set(product.value @ step)  # (D8)
        norms.append(product.unscaled(_largest_singular_value(product.value)))
        bound.set(bound.value * _largest_singular_value(step))
        bounds.append(bound.unscaled(bound.value))  # (D9)
        if vanilla:
            slope = np.abs(_SLOPE[layer.nonlinearity](walk.h[u])).max(1)
            factor = np.where(walk.fresh[u, :, 0], 0.0, largest * slope)
            weight_bound.set(weight_bound.value * np.where(walk.live[u, :, 0], factor, 1.0))
            weight_bounds.append(weight_bound.unscaled(weight_bound.value))  # (D10)
    return JacobianNorms(
        np.arange(t + 1),
        np.array(norms),
        np.array(bounds),
        np.array(weight_bounds) if vanilla else None,
    )


def jacobian_factor(layer, x, state=None, lengths=None, reset=None, *, index=0) -> float:
    """Return the factor a step that the Jacobian over the whole sequence amounts to.

    The factor c of ``||d s_T / d s_0|| = c^T``, measured. Below 1 gradients vanish, above 1 they
    explode.

    Parameters
    ----------
    layer, x, state, lengths, reset, index
        As in `step_jacobians`. Rows without a step do not count.

    Returns
    -------
    float
        ``||d s_n / d s_0||^(1/n)`` with n the steps of a row, and the geometric mean over rows.

    Raises
    ------
    ValueError
        ``x: expected at least one step, got none``.
    TypeError, ValueError
        As `step_jacobians`.

    Notes
    -----
    (D15). At a fixed point of the layer this goes to the spectral radius of its Jacobian as T
    grows (Gelfand), in general to the largest Lyapunov factor.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 2, nonlinearity="relu", bias=False)
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, [[1.5, 0], [0, 0.9]]
    >>> diagnostics.jacobian_factor(layer, np.ones((20, 1, 1), np.float32))
    1.5
    """
    walk = _walk(layer, x, state, lengths, reset, index)
    steps = walk.live[..., 0].sum(0)
    if not steps.any():
        raise ValueError("x: expected at least one step, got none")
    product = _Scaled(np.broadcast_to(np.eye(walk.S), (walk.B, walk.S, walk.S)), (1, 2))
    for u in range(walk.T):
        product.set(_step(walk, u) @ product.value)
    with np.errstate(divide="ignore"):  # log 0: the factor is 0
        logs = np.log(_largest_singular_value(product.value)) + product.exponent * np.log(2.0)
    return float(np.exp(np.mean((logs / np.maximum(steps, 1))[steps > 0])))


def gradient_flow(
    layer, x, dy=None, dstate=None, *, state=None, lengths=None, reset=None
) -> GradientFlow:
    """Return the norm of the gradient that reaches the state of each step.

    Parameters
    ----------
    layer, x, state, lengths, reset
        As in `step_jacobians`.
    dy : ndarray like the layer's output, optional
        Gradient of the loss by the output.
    dstate : like the state, optional
        Gradient of the loss by the final state: of this alone one sees how it fades, or grows,
        on its way back.

    Returns
    -------
    GradientFlow
        0 past a row's end. By time: in the reverse direction the gradient travels with rising t.

    Raises
    ------
    ValueError
        ``dy, dstate: expected at least one of them, got neither``.
    TypeError, ValueError
        Whatever the layer says about `x`, and its tape about `dy` and `dstate`; ``layer: expected
        an RNN, LSTM or GRU, got Linear``.

    Notes
    -----
    (D12), taken from the engine's own backward pass. Gradients of the layer are left as they were;
    in a training loop ``tape.backward(..., per_step=True)`` gives the same for nothing.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 1, nonlinearity="relu", bias=False)
    >>> layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, 0.5
    >>> x, last = np.ones((4, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    >>> diagnostics.gradient_flow(layer, x, dstate=last).h.ravel()
    array([0.125, 0.25 , 0.5  , 1.   ])
    """
    _check_layer(layer)
    if dy is None and dstate is None:
        raise ValueError("dy, dstate: expected at least one of them, got neither")
    _, _, tape = _forward(layer, x, state, lengths, reset)
    before = layer._flat_grad.copy()
    try:
        _, _, steps = tape.backward(dy, dstate, need_dx=False, per_step=True)
    finally:
        layer._flat_grad[...] = before

    def norms(gradients):
        return None if gradients is None else np.linalg.norm(_float64(gradients), axis=-1)

    return GradientFlow(norms(steps.dh), norms(steps.dc))


def spectral_radius(layer) -> dict[str, dict[str, float]]:
    """Return the spectral radius of the recurrent weights, gate by gate.

    Parameters
    ----------
    layer : RNN, LSTM or GRU

    Returns
    -------
    dict of dict
        By parameter (``weight_hh_l0``, ...) and gate (i f g o, r z n, or h for an RNN): the largest
        absolute eigenvalue of that (H, H) block; NaN if a weight of it is not finite.

    Raises
    ------
    TypeError
        ``layer: expected an RNN, LSTM or GRU, got Linear``.

    Notes
    -----
    (D13).

    Examples
    --------
    >>> import fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 2)
    >>> layer.params["weight_hh_l0"] = [[0, 2], [-2, 0]]
    >>> diagnostics.spectral_radius(layer)
    {'weight_hh_l0': {'h': 2.0}}
    """
    return _by_gate(layer, _largest_eigenvalue)


def spectral_norm(layer) -> dict[str, dict[str, float]]:
    """Return the largest singular value of the recurrent weights, gate by gate.

    Parameters
    ----------
    layer : RNN, LSTM or GRU

    Returns
    -------
    dict of dict
        As `spectral_radius`, which it is never below.

    Raises
    ------
    TypeError
        ``layer: expected an RNN, LSTM or GRU, got Linear``.

    Examples
    --------
    >>> import fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.RNN(1, 2)
    >>> layer.params["weight_hh_l0"] = [[0, 2], [0, 0]]
    >>> diagnostics.spectral_norm(layer), diagnostics.spectral_radius(layer)
    ({'weight_hh_l0': {'h': 2.0}}, {'weight_hh_l0': {'h': 0.0}})
    """
    return _by_gate(layer, _largest_singular_value)


def gate_saturation(
    layer, x, state=None, lengths=None, reset=None, *, low=0.1, high=0.9
) -> dict[str, GateShare]:
    """Return which share of each gate's values is nearly closed or nearly open.

    Parameters
    ----------
    layer, x, state, lengths, reset
        As in `step_jacobians`. Padded steps are not counted.
    low, high : float
        A value below `low` counts as closed, above `high` as open. Of what passes through tanh (g,
        n, and h of an RNN) (value + 1) / 2 is looked at, which is the sigmoid of twice the
        argument.

    Returns
    -------
    dict of GateShare
        By gate: i f g o of an LSTM, r z n of a GRU, h of an RNN.

    Raises
    ------
    ValueError
        ``layer: relu does not saturate``; ``low, high: expected 0 <= low <= high <= 1, got ...``.
    TypeError
        ``low: expected a number from 0 to 1, got str``; both also as `step_jacobians`.

    Notes
    -----
    (D14). Karpathy, Johnson & Fei-Fei 2015, "Visualizing and understanding recurrent networks".

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> from fastrnn import diagnostics
    >>> layer = fr.GRU(1, 4, seed=0)
    >>> layer.params["bias_ih_l0"][4:8] = 10                    # z
    >>> shares = diagnostics.gate_saturation(layer, np.ones((3, 2, 1), np.float32))
    >>> shares["z"].low, shares["z"].high
    (array([0.]), array([1.]))
    """
    _check_layer(layer)
    for name, value in (("low", low), ("high", high)):
        check_real(name, value, "a number from 0 to 1")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low, high: expected 0 <= low <= high <= 1, got {low}, {high}")
    if getattr(layer, "nonlinearity", None) == "relu":
        raise ValueError("layer: relu does not saturate, expected another activation")
    count = layer.num_layers * (1 + layer.bidirectional)
    walks = [_walk(layer, x, state, lengths, reset, index) for index in range(count)]
    through_tanh = ("g", "n") if not isinstance(layer, RNN) else ("h", "")
    if getattr(layer, "nonlinearity", None) == "sigmoid":
        through_tanh = ()
    shares = {}
    for gate in _GATES[_kind(layer)]:
        closed, opened = [], []
        for walk in walks:
            values = (walk.h if gate == "h" else walk.gates[gate])[walk.live[..., 0]]
            if gate in through_tanh:
                values = (values + 1) / 2
            closed.append((values < low).mean() if values.size else np.nan)
            opened.append((values > high).mean() if values.size else np.nan)
        shares[gate] = GateShare(np.array(closed), np.array(opened))
    return shares


# --- one walk over the sequence, and its Jacobians ----------------------------------------------


def _walk(layer, x, state, lengths, reset, index) -> SimpleNamespace:
    """Run the layer; return states and gates of one level and direction in walking order.

    h, h_prev, c, c_prev (T, B, H), gates (dict of such), live (T, B, 1), and the recurrent weights
    R with the bias b on their side: all float64.
    """
    _check_layer(layer)
    count = layer.num_layers * (1 + layer.bidirectional)
    index = check_integer("index", index)
    if not 0 <= index < count:
        raise ValueError(f"index: expected 0 to {count - 1}, got {index}")
    suffix = layer._suffixes()[index]
    _, _, tape = _forward(layer, x, state, lengths, reset, trace=True)
    trace = tape.trace
    _, T, B, H = trace.h.shape
    order = slice(None, None, -1 if layer.bidirectional and index % 2 else 1)

    live = np.full((T, B, 1), True)
    if lengths is not None:
        live = np.arange(T)[:, None, None] < np.asarray(lengths)[:, None]
    live = live[order]
    fresh = np.full((T, B, 1), False)
    if reset is not None:
        reset = np.asarray(reset)
        fresh = (reset.T if layer.batch_first else reset)[order][..., None]
    # A step starts from the state of the step before it in walking order, if the row was live
    # there: in the reverse direction a row's first steps are padding.
    was_live = np.concatenate([np.full((1, B, 1), False), live])[:T]

    def after_and_before(states, initial):
        after = _float64(states[index, order])
        first = np.zeros((B, H)) if initial is None else _float64(initial[index])
        before = np.where(was_live, np.concatenate([first[None], after])[:T], first)
        return after, np.where(fresh, 0, before)  # (M2)

    initial = state if isinstance(layer, LSTM) and state is not None else (state, None)
    walk = SimpleNamespace(layer=layer, T=T, B=B, H=H, S=H, live=live, fresh=fresh)
    walk.R = _float64(layer._params[f"weight_hh{suffix}"])
    b = layer._params.get(f"bias_hh{suffix}")
    walk.b = np.zeros(len(walk.R)) if b is None else _float64(b)
    walk.h, walk.h_prev = after_and_before(trace.h, initial[0])
    if trace.c is not None:
        walk.S = 2 * H
        walk.c, walk.c_prev = after_and_before(trace.c, initial[1])
    walk.gates = {name: _float64(values[index, order]) for name, values in trace.gates.items()}
    return walk


def _forward(layer, *arguments, **options):
    """Run forward without dropout: what is looked at is the network, and no mask is used up."""
    kept, layer.dropout = layer.dropout, 0.0
    try:
        return layer.forward(*arguments, **options)
    finally:
        layer.dropout = kept


def _step(walk, u) -> np.ndarray:
    """Jacobian of step u, (B, S, S), or of a slice of steps, (n, B, S, S)."""
    layer = walk.layer
    if isinstance(layer, LSTM):
        J = _lstm_step(walk, u)
    elif isinstance(layer, GRU):
        J = _gru_step(walk, u)
    else:
        J = _column(_SLOPE[layer.nonlinearity](walk.h[u])) * walk.R  # (D2)
    J = np.where(walk.fresh[u][..., None], 0, J)
    return np.where(walk.live[u][..., None], J, np.eye(walk.S))  # (D7)


def _lstm_step(walk, u) -> np.ndarray:
    H = walk.H
    R_i, R_f, R_g, R_o = np.split(walk.R, 4)
    i, f, g, o = (walk.gates[name][u] for name in "ifgo")
    tanh_c = np.tanh(walk.c[u])
    through = o * (1 - tanh_c**2)  # of c_t in h_t
    c_by_h = (
        _column(g * i * (1 - i)) * R_i
        + _column(walk.c_prev[u] * f * (1 - f)) * R_f
        + _column(i * (1 - g * g)) * R_g
    )  # (D3)
    J = np.zeros((*f.shape[:-1], 2 * H, 2 * H))
    J[..., H:, :H] = c_by_h
    J[..., :H, :H] = _column(tanh_c * o * (1 - o)) * R_o + _column(through) * c_by_h
    diagonal = np.arange(H)
    J[..., H + diagonal, H + diagonal] = f
    J[..., diagonal, H + diagonal] = through * f
    return J  # (D4)


def _gru_step(walk, u) -> np.ndarray:
    R_r, R_z, R_n = np.split(walk.R, 3)
    r, z, n = (walk.gates[name][u] for name in "rzn")
    h_prev = walk.h_prev[u]
    if walk.layer.reset_after:
        q = h_prev @ R_n.T + walk.b[2 * walk.H :]  # (G3)
        a_n = _column(r) * R_n + _column(q * r * (1 - r)) * R_r
    else:
        p = _column(h_prev * r * (1 - r)) * R_r
        diagonal = np.arange(walk.H)
        p[..., diagonal, diagonal] += r
        a_n = R_n @ p
    J = _column((h_prev - n) * z * (1 - z)) * R_z + _column((1 - z) * (1 - n * n)) * a_n
    diagonal = np.arange(walk.H)
    J[..., diagonal, diagonal] += z
    return J  # (D5) (D6)


def _column(v) -> np.ndarray:
    """(..., H) -> (..., H, 1), so that a product with a matrix scales its rows: diag(v) R."""
    return v[..., None]


class _Scaled:
    """One number or matrix per row, its power of two kept apart: products never overflow."""

    def __init__(self, value, axes=()):
        self.value, self.axes, self.exponent = value, axes, 0

    def set(self, value):
        shift = np.frexp(np.abs(value).max(self.axes))[1]
        self.value = np.ldexp(value, -shift.reshape(shift.shape + (1,) * len(self.axes)))
        self.exponent = self.exponent + shift

    def unscaled(self, number):
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(number, self.exponent)


def _largest_singular_value(A) -> np.ndarray:
    """Spectral norm of (..., n, n): the root of the largest eigenvalue of A A^T; NaN if A has any.

    Several times faster than all singular values, and as accurate for the largest one. A power of
    two is taken out first, because squares overflow and underflow early.
    """
    finite = np.isfinite(A).all((-2, -1))
    A = np.where(finite[..., None, None], A, 0)
    shift = np.frexp(np.abs(A).max((-2, -1)))[1]
    A = np.ldexp(A, -shift[..., None, None])
    largest = np.linalg.eigvalsh(A @ A.swapaxes(-2, -1))[..., -1]
    return np.where(finite, np.ldexp(np.sqrt(np.maximum(largest, 0)), shift), np.nan)


def _largest_eigenvalue(block) -> float:
    """Largest absolute eigenvalue; NaN for what is not finite, which LAPACK refuses."""
    return np.abs(np.linalg.eigvals(block)).max() if np.isfinite(block).all() else np.nan


def _by_gate(layer, measure):
    _check_layer(layer)
    gates = _GATES[_kind(layer)]
    found = {}
    for suffix in layer._suffixes():
        R = _float64(layer._params[f"weight_hh{suffix}"])
        blocks = np.split(R, len(gates))
        pairs = zip(gates, blocks, strict=True)
        found[f"weight_hh{suffix}"] = {gate: float(measure(block)) for gate, block in pairs}
    return found


def _check_layer(layer):
    if not isinstance(layer, tuple(_GATES)):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {type(layer).__name__}")


def _kind(layer):
    return next(kind for kind in _GATES if isinstance(layer, kind))


def _float64(array) -> np.ndarray:
    return np.asarray(array, np.float64)
