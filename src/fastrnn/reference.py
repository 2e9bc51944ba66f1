"""The NumPy twin: every kernel of fastrnn once more, slow and obvious.

Read it beside `docs/math.md`; the numbers in the comments, (L3) and the like, are the equations
there, and local names are the letters there. It is the oracle of the tests, and the place to start
from when adding a cell. It is not an engine: a Python loop over time that keeps every value.

All arithmetic runs in the dtype of `weight_ih`: float64 makes an oracle, float32 shows what
rounding alone does. Forward returns a cache which backward only reads, so backward may be called
again. The cache owns copies: what becomes of the caller's arrays after forward does not matter.

    cells      NAME_forward and NAME_backward for rnn, lstm, gru: one layer, one direction
    stack      stack_forward and stack_backward: layers and directions under torch's names
    losses     cross_entropy, mse, bce_with_logits
    training   clip_grad_norm, clip_grad_value; sgd, adagrad, rmsprop, adam, adamw
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "bce_with_logits",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy",
    "dropout",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "mse",
    "philox",
    "rmsprop",
    "rnn_backward",
    "rnn_forward",
    "sgd",
    "sigmoid",
    "stack_backward",
    "stack_forward",
    "stack_trace",
]


# --- activations --------------------------------------------------------------------------------


def sigmoid(x):
    """Logistic function, (A13): no overflow for any `x`, and full relative accuracy in both tails.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


# name -> (function of the pre-activation, derivative as a function of the *output*)
_NONLINEARITIES = {
    "tanh": (np.tanh, lambda h: 1 - h * h),  # (A2) (A5)
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(h.dtype)),  # (A3) (A6)
    "sigmoid": (sigmoid, lambda h: h * (1 - h)),  # (A1) (A4)
}


# --- what the three cells share -----------------------------------------------------------------


def _array(name, value, shape, dtype):
    """A copy of `value` in `dtype`; zeros for None; one clear message if the shape is another."""
    if value is None:
        return np.zeros(shape, dtype)
    value = np.array(value, dtype)
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    return value


def _begin(gates, x, states, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reset, reverse):
    """Check and copy the arguments; lay out the walk over time and its masks (M1)."""
    W = np.array(weight_ih)
    if W.ndim != 2 or W.shape[0] % gates:
        raise ValueError(f"weight_ih: expected shape ({gates}*H, I), got {W.shape}")
    if not np.issubdtype(W.dtype, np.floating):
        raise ValueError(f"weight_ih: expected a floating dtype, got {W.dtype}")
    (rows, I), dtype = W.shape, W.dtype
    H = rows // gates

    x = np.array(x)
    tokens = np.issubdtype(x.dtype, np.integer)
    if x.ndim != (2 if tokens else 3) or not (tokens or x.shape[2] == I):
        expected = "(T, B) of integers" if tokens else f"(T, B, {I})"
        raise ValueError(f"x: expected shape {expected}, got {x.shape}")
    T, B = x.shape[:2]

    lengths = np.full(B, T) if lengths is None else np.array(lengths)
    if lengths.shape != (B,) or not np.isin(lengths, range(T + 1)).all():
        raise ValueError(f"lengths: expected {B} integers in 0..{T}, got {lengths.tolist()}")
    live = np.arange(T)[:, None] < lengths  # (M1)
    fresh = _array("reset", reset, (T, B), bool)

    # Padding is never used: token 0 or zeros stand there, whatever the caller had.
    if tokens:
        x = np.where(live, x, 0)
        if ((x < 0) | (x >= I)).any():
            raise ValueError(f"x: expected tokens in [0, {I}), got {x.min()}..{x.max()}")
    else:
        x = np.where(live[..., None], x, 0).astype(dtype)

    return SimpleNamespace(
        x=x,
        tokens=tokens,
        W=W,
        R=_array("weight_hh", weight_hh, (rows, H), dtype),
        b_ih=_array("bias_ih", bias_ih, (rows,), dtype),
        b_hh=_array("bias_hh", bias_hh, (rows,), dtype),
        has_bias=(bias_ih is not None, bias_hh is not None),
        states=[_array(name, s, (B, H), dtype) for name, s in states.items()],
        live=live[..., None],
        fresh=fresh[..., None],
        order=list(range(T))[:: -1 if reverse else 1],
        dtype=dtype,
        shape=(T, B, H),
    )


def _project(s):
    """x Wᵀ of all steps at once: a product, or for tokens a gather (W5)."""
    return s.W.T[s.x] if s.tokens else s.x @ s.W.T


def _empty(s, *slots):
    """One (T, B, n·H) array per entry of `slots`."""
    T, B, H = s.shape
    return [np.zeros((T, B, n * H), s.dtype) for n in slots]


def _start(s, t, *states):
    """The states that step t starts from: zero where it is flagged (M2)."""
    return [np.where(s.fresh[t], 0, v) for v in states]


def _keep(s, t, new, old):
    """The state after step t: padding copies it on (M3)."""
    return np.where(s.live[t], new, old)


def _carry(s, t, cell, through):
    """Gradient of the state before step t: cut by a reset (M8), passed on by padding (M7)."""
    return np.where(s.live[t], np.where(s.fresh[t], 0, cell), through)


def _cotangents(s, dy, **finals):
    """dy with padding zeroed (M4) and the gradients of the final states; None is zero."""
    _, B, H = s.shape
    dy = np.where(s.live, _array("dy", dy, s.shape, s.dtype), 0)
    return [dy] + [_array(name, v, (B, H), s.dtype) for name, v in finals.items()]


def _clip_step(s, t, g, clip_step):
    """Gradient of the state of step t, clipped before it goes through the cell; 0 in padding."""
    g = np.where(s.live[t], g, 0)
    if clip_step is None:
        return g
    kind, limit = clip_step
    limit = s.dtype.type(limit)
    if kind == "value":
        return np.clip(g, -limit, limit)  # (C3)
    norm = np.sqrt(np.square(g, dtype=np.float64).sum(1, keepdims=True))
    factor = np.divide(limit, norm, where=norm > limit, out=np.ones_like(norm))
    return g * factor.astype(s.dtype)  # (C4)


def _rows(v):
    """(T, B, n) as the matrix of its T·B rows."""
    return v.reshape(-1, v.shape[-1])


def _input_gradients(s, dG):
    """dx and dW from the gradient dG of the input side, batched over time."""
    if s.tokens:
        dW = np.zeros_like(s.W)
        np.add.at(dW.T, s.x, dG)  # (W6): a token seen twice adds twice
        return None, dW
    return dG @ s.W, _rows(dG).T @ _rows(s.x)  # (W4) (W1)


def _gradients(s, dG_x, dG_h, dR, **states):
    """The dict every backward returns. dG_x, dG_h: input and recurrent side; equal but for (G)."""
    dx, dW = _input_gradients(s, dG_x)
    return {
        "dx": dx,
        **states,
        "weight_ih": dW,
        "weight_hh": dR,
        "bias_ih": _rows(dG_x).sum(0) if s.has_bias[0] else None,  # (W3)
        "bias_hh": _rows(dG_h).sum(0) if s.has_bias[1] else None,
    }


# --- vanilla RNN --------------------------------------------------------------------------------


def rnn_forward(
    x,
    h0,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    nonlinearity="tanh",
    lengths=None,
    reset=None,
    reverse=False,
):
    """Vanilla RNN, one layer, one direction.

    Parameters
    ----------
    x : ndarray, float (T, B, I) or integer (T, B)
        Inputs, or tokens in [0, I) that stand for one-hot rows.
    h0 : ndarray (B, H) or None
        Initial state; None is zero.
    weight_ih : ndarray (H, I)
        Input weights W. Their dtype is the dtype of the whole computation.
    weight_hh : ndarray (H, H)
        Recurrent weights R.
    bias_ih, bias_hh : ndarray (H,), optional
        The two biases, each by itself optional.
    nonlinearity : {"tanh", "relu", "sigmoid"}
    lengths : integers (B,) in 0..T, optional
        Steps per row. Later steps are padding: not read, and 0 in `y`.
    reset : bool (T, B), optional
        True zeroes the row's state before step t, in walking order.
    reverse : bool
        Walk from each row's own last step to its first.

    Returns
    -------
    y : ndarray (T, B, H)
        States by time.
    hT : ndarray (B, H)
        Each row's state after its own last step walked.
    cache : SimpleNamespace
        For backward; `h` and `h_prev` (T, B, H) are the states after and before each step.

    Raises
    ------
    ValueError
        ``NAME: expected shape (..), got (..)``, or lengths, tokens or a nonlinearity out of range.

    Notes
    -----
    (R1), (R2), (M1) to (M5) of docs/math.md. Elman 1990.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> y, hT, cache = rnn_forward(np.ones((3, 1, 1)), None, one, one, nonlinearity="relu")
    >>> y.ravel()
    array([1., 2., 3.])
    """
    if nonlinearity not in _NONLINEARITIES:
        raise ValueError(f"nonlinearity: expected {sorted(_NONLINEARITIES)}, got {nonlinearity!r}")
    phi, _ = _NONLINEARITIES[nonlinearity]
    states = {"h0": h0}
    s = _begin(1, x, states, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reset, reverse)
    s.nonlinearity = nonlinearity
    s.h, s.h_prev = _empty(s, 1, 1)
    xW = _project(s)
    (h,) = s.states
    for t in s.order:
        (h_prev,) = _start(s, t, h)
        a = xW[t] + h_prev @ s.R.T + s.b_ih + s.b_hh  # (R1)
        h = _keep(s, t, phi(a), h)  # (R2)
        s.h[t], s.h_prev[t] = h, h_prev
    return np.where(s.live, s.h, 0), h, s


def rnn_backward(cache, dy=None, dhT=None, *, clip_step=None):
    """Gradients of `rnn_forward`.

    Parameters
    ----------
    cache : SimpleNamespace
        From `rnn_forward`; only read.
    dy : ndarray (T, B, H), optional
        Gradient of `y`; None is zero. Padding is not read.
    dhT : ndarray (B, H), optional
        Gradient of `hT`; None is zero.
    clip_step : (str, float), optional
        ``("value", limit)`` (C3) or ``("norm", limit)`` (C4): what each step's dh is clipped to
        before it goes through the cell.

    Returns
    -------
    dict
        ``dx`` (T, B, I), None for tokens; ``dh0`` (B, H); ``weight_ih``, ``weight_hh``,
        ``bias_ih``, ``bias_hh`` like the parameters, None for a bias that was not given;
        ``dG`` (T, B, H), the gradient of the pre-activations (R4); and ``dh`` (T, B, H), the whole
        gradient that reaches each step's state (R3), 0 in padding.

    Notes
    -----
    (R3) to (R7), (M6) to (M8), (W1) to (W6) of docs/math.md.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> y, hT, cache = rnn_forward(np.ones((3, 1, 1)), None, one, one, nonlinearity="relu")
    >>> rnn_backward(cache, dhT=one)["weight_hh"]  # d(1 + w + w²)/dw at w = 1
    array([[3.]])
    """
    s = cache
    _, derivative = _NONLINEARITIES[s.nonlinearity]
    dG, dh_of = _empty(s, 1, 1)
    dy, dh_next = _cotangents(s, dy, dhT=dhT)
    for t in reversed(s.order):
        dh = dh_of[t] = _clip_step(s, t, dy[t] + dh_next, clip_step)  # (R3)
        da = dh * derivative(s.h[t])  # (R4): forward was h = φ(a)
        dG[t] = np.where(s.live[t], da, 0)  # (M6)
        dh_next = _carry(s, t, dG[t] @ s.R, dh_next)  # (R5)
    dR = _rows(dG).T @ _rows(s.h_prev)  # (R7) (W2)
    return {**_gradients(s, dG, dG, dR, dh0=dh_next), "dG": dG, "dh": dh_of}  # (R6) (R7)


# --- LSTM ---------------------------------------------------------------------------------------


def lstm_forward(
    x,
    h0,
    c0,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    lengths=None,
    reset=None,
    reverse=False,
):
    """LSTM, one layer, one direction; gate order i, f, g, o.

    Parameters
    ----------
    x : ndarray, float (T, B, I) or integer (T, B)
        Inputs or tokens, as in `rnn_forward`.
    h0, c0 : ndarray (B, H) or None
        Initial states; None is zero.
    weight_ih : ndarray (4H, I)
    weight_hh : ndarray (4H, H)
    bias_ih, bias_hh : ndarray (4H,), optional
    lengths, reset, reverse
        As in `rnn_forward`; a reset zeroes h and c.

    Returns
    -------
    y : ndarray (T, B, H)
    (hT, cT) : tuple of ndarray (B, H)
    cache : SimpleNamespace
        For backward; `h`, `c`, `h_prev`, `c_prev` (T, B, H) are the states after and before each
        step, `gates` (T, B, 4H) the activated gates i, f, g, o.

    Raises
    ------
    ValueError
        As `rnn_forward`.

    Notes
    -----
    (L1) to (L3), (M1) to (M5) of docs/math.md. Hochreiter & Schmidhuber 1997; Gers et al. 2000.

    Examples
    --------
    >>> one, zeros = np.ones((1, 1)), np.zeros((4, 1))
    >>> y, (hT, cT), cache = lstm_forward(np.ones((2, 1, 1)), None, one, zeros, zeros)
    >>> cT  # all gates are 1/2, so c halves at each step
    array([[0.25]])
    """
    states = {"h0": h0, "c0": c0}
    s = _begin(4, x, states, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reset, reverse)
    s.h, s.c, s.h_prev, s.c_prev, s.gates = _empty(s, 1, 1, 1, 1, 4)
    xW = _project(s)
    h, c = s.states
    for t in s.order:
        h_prev, c_prev = _start(s, t, h, c)
        a = xW[t] + h_prev @ s.R.T + s.b_ih + s.b_hh  # (L1)
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)  # (L2)
        c_new = f * c_prev + i * g  # (L3)
        h_new = o * np.tanh(c_new)
        h, c = _keep(s, t, h_new, h), _keep(s, t, c_new, c)
        s.h[t], s.c[t], s.h_prev[t], s.c_prev[t] = h, c, h_prev, c_prev
        s.gates[t] = np.concatenate([i, f, g, o], axis=1)
    return np.where(s.live, s.h, 0), (h, c), s


def lstm_backward(cache, dy=None, dhT=None, dcT=None, *, clip_step=None):
    """Gradients of `lstm_forward`.

    Parameters
    ----------
    cache : SimpleNamespace
        From `lstm_forward`; only read.
    dy : ndarray (T, B, H), optional
        Gradient of `y`; None is zero. Padding is not read.
    dhT, dcT : ndarray (B, H), optional
        Gradients of the final states; None is zero.
    clip_step : (str, float), optional
        As in `rnn_backward`; first of dh, then of dc.

    Returns
    -------
    dict
        As `rnn_backward`, with ``dc0`` (B, H) and ``dc`` (T, B, H) (L6) as well; ``dG`` is
        (T, B, 4H), the slots of (L10).

    Notes
    -----
    (L4) to (L12), (M6) to (M8), (W1) to (W6) of docs/math.md.

    Examples
    --------
    >>> zeros = np.zeros((4, 1))
    >>> y, state, cache = lstm_forward(np.ones((2, 1, 1)), None, np.ones((1, 1)), zeros, zeros)
    >>> lstm_backward(cache, dcT=np.ones((1, 1)))["dc0"]
    array([[0.25]])
    """
    s = cache
    dG, dh_of, dc_of = _empty(s, 4, 1, 1)
    dy, dh_next, dc_next = _cotangents(s, dy, dhT=dhT, dcT=dcT)
    for t in reversed(s.order):
        i, f, g, o = np.split(s.gates[t], 4, axis=1)
        tanh_c = np.tanh(s.c[t])
        dh = dh_of[t] = _clip_step(s, t, dy[t] + dh_next, clip_step)  # (L4)
        do = dh * tanh_c  # (L5): forward was h = o*tanh(c)
        dc = dc_next + dh * o * (1 - tanh_c**2)  # (L6)
        dc = dc_of[t] = _clip_step(s, t, dc, clip_step)
        di, df, dg = dc * g, dc * s.c_prev[t], dc * i  # (L7): forward was c = f*c_prev + i*g
        da_i, da_f = di * i * (1 - i), df * f * (1 - f)  # (L9)
        da_g, da_o = dg * (1 - g * g), do * o * (1 - o)
        dG[t] = np.where(s.live[t], np.concatenate([da_i, da_f, da_g, da_o], axis=1), 0)  # (L10)
        dh_next = _carry(s, t, dG[t] @ s.R, dh_next)  # (L11)
        dc_next = _carry(s, t, dc * f, dc_next)  # (L8)
    dR = _rows(dG).T @ _rows(s.h_prev)  # (L12) (W2)
    gradients = _gradients(s, dG, dG, dR, dh0=dh_next, dc0=dc_next)  # (L11) (L12)
    return {**gradients, "dG": dG, "dh": dh_of, "dc": dc_of}


# --- GRU ----------------------------------------------------------------------------------------


def gru_forward(
    x,
    h0,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    *,
    reset_after=True,
    lengths=None,
    reset=None,
    reverse=False,
):
    """GRU, one layer, one direction; gate order r, z, n.

    Parameters
    ----------
    x : ndarray, float (T, B, I) or integer (T, B)
        Inputs or tokens, as in `rnn_forward`.
    h0 : ndarray (B, H) or None
        Initial state; None is zero.
    weight_ih : ndarray (3H, I)
    weight_hh : ndarray (3H, H)
    bias_ih, bias_hh : ndarray (3H,), optional
    reset_after : bool
        True: r multiplies the candidate's recurrent product, as in torch and cuDNN (G). False: r
        multiplies the state before it, as in Cho et al. 2014 (GB).
    lengths, reset, reverse
        As in `rnn_forward`. `reset` has to do with sequences, not with the gate r.

    Returns
    -------
    y : ndarray (T, B, H)
    hT : ndarray (B, H)
    cache : SimpleNamespace
        For backward; `h`, `h_prev` (T, B, H) are the states after and before each step, `gates`
        (T, B, 4H) holds r, z, n and fourthly q (G3), or p (GB2) if not `reset_after`.

    Raises
    ------
    ValueError
        As `rnn_forward`.

    Notes
    -----
    (G1) to (G5), (GB1) to (GB4), (M1) to (M5) of docs/math.md. Cho et al. 2014.

    Examples
    --------
    >>> zeros = np.zeros((3, 1))
    >>> y, hT, cache = gru_forward(np.ones((2, 1, 1)), np.ones((1, 1)), zeros, zeros)
    >>> hT  # z is 1/2 and n is 0, so h halves at each step
    array([[0.25]])
    """
    states = {"h0": h0}
    s = _begin(3, x, states, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reset, reverse)
    s.reset_after = reset_after
    s.h, s.h_prev, s.gates = _empty(s, 1, 1, 4)
    xW = _project(s)
    R_r, R_z, R_n = np.split(s.R, 3)
    b_ir, b_iz, b_in = np.split(s.b_ih, 3)
    b_hr, b_hz, b_hn = np.split(s.b_hh, 3)
    (h,) = s.states
    for t in s.order:
        (h_prev,) = _start(s, t, h)
        xW_r, xW_z, xW_n = np.split(xW[t], 3, axis=1)
        r = sigmoid(xW_r + h_prev @ R_r.T + b_ir + b_hr)  # (G1) (GB1)
        z = sigmoid(xW_z + h_prev @ R_z.T + b_iz + b_hz)  # (G2) (GB1)
        if reset_after:
            fourth = q = h_prev @ R_n.T + b_hn  # (G3)
            n = np.tanh(xW_n + b_in + r * q)  # (G4)
        else:
            fourth = p = r * h_prev  # (GB2)
            n = np.tanh(xW_n + b_in + p @ R_n.T + b_hn)  # (GB3)
        h = _keep(s, t, z * h_prev + (1 - z) * n, h)  # (G5) (GB4)
        s.h[t], s.h_prev[t] = h, h_prev
        s.gates[t] = np.concatenate([r, z, n, fourth], axis=1)
    return np.where(s.live, s.h, 0), h, s


def gru_backward(cache, dy=None, dhT=None, *, clip_step=None):
    """Gradients of `gru_forward`.

    Parameters
    ----------
    cache : SimpleNamespace
        From `gru_forward`; only read.
    dy : ndarray (T, B, H), optional
        Gradient of `y`; None is zero. Padding is not read.
    dhT : ndarray (B, H), optional
        Gradient of `hT`; None is zero.
    clip_step : (str, float), optional
        ``("value", limit)`` (C3) or ``("norm", limit)`` (C4): what each step's dh is clipped to
        before it goes through the cell.

    Returns
    -------
    dict
        As `rnn_backward`; ``dG`` is (T, B, 4H), the slots da_r, da_z, da_n, dq of (G11), or if
        not `reset_after` (T, B, 3H), the slots da_r, da_z, da_n of (GB8).

    Notes
    -----
    (G6) to (G16), (GB5) to (GB10), (M6) to (M8), (W1) to (W6) of docs/math.md.

    Examples
    --------
    >>> zeros = np.zeros((3, 1))
    >>> y, hT, cache = gru_forward(np.ones((2, 1, 1)), np.ones((1, 1)), zeros, zeros)
    >>> gru_backward(cache, dhT=np.ones((1, 1)))["dh0"]
    array([[0.25]])
    """
    s = cache
    H = s.shape[2]
    R_r, R_z, R_n = np.split(s.R, 3)
    dG, dh_of = _empty(s, 4 if s.reset_after else 3, 1)
    dy, dh_next = _cotangents(s, dy, dhT=dhT)
    for t in reversed(s.order):
        h_prev = s.h_prev[t]
        r, z, n, fourth = np.split(s.gates[t], 4, axis=1)
        dh = dh_of[t] = _clip_step(s, t, dy[t] + dh_next, clip_step)  # (G6)
        dz, dn = dh * (h_prev - n), dh * (1 - z)  # (G7): forward was h = z*h_prev + (1-z)*n
        da_n = dn * (1 - n * n)  # (G8)
        da_z = dz * z * (1 - z)  # (G10)
        if s.reset_after:
            dr, dq = da_n * fourth, da_n * r  # (G9): forward was n = tanh(.. + r*q)
            da_r = dr * r * (1 - r)  # (G10)
            dh_prev = dh * z + da_r @ R_r + da_z @ R_z + dq @ R_n  # (G14)
            slots = [da_r, da_z, da_n, dq]  # (G11)
        else:
            dp = da_n @ R_n  # (GB5)
            da_r = dp * h_prev * r * (1 - r)  # (GB6): forward was p = r*h_prev
            dh_prev = dh * z + dp * r + da_r @ R_r + da_z @ R_z  # (GB7)
            slots = [da_r, da_z, da_n]  # (GB8)
        dG[t] = np.where(s.live[t], np.concatenate(slots, axis=1), 0)  # (M6)
        dh_next = _carry(s, t, dh_prev, dh_next)

    dG_x = dG[..., : 3 * H]  # (G12)
    if s.reset_after:
        dG_h = np.concatenate([dG[..., : 2 * H], dG[..., 3 * H :]], axis=2)  # (G13)
        dR = _rows(dG_h).T @ _rows(s.h_prev)  # (G16)
    else:
        dG_h = dG
        p = s.gates[..., 3 * H :]
        dR_rz = _rows(dG[..., : 2 * H]).T @ _rows(s.h_prev)  # (GB10)
        dR = np.concatenate([dR_rz, _rows(dG[..., 2 * H :]).T @ _rows(p)])
    # (G14) to (G16), (GB8) to (GB10)
    return {**_gradients(s, dG_x, dG_h, dR, dh0=dh_next), "dG": dG, "dh": dh_of}


# --- dropout ------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox 4x32-10, (F10) (F11): four random words of a counter of four and a key of two words.

    Examples
    --------
    >>> [hex(word) for word in philox([0, 0, 0, 0], [0, 0])]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    (c0, c1, c2, c3), (k0, k1), low = counter, key, 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = q >> 32 ^ c1 ^ k0, q & low, p >> 32 ^ c3 ^ k1, p & low  # (F10)
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low  # (F11)
    return [c0, c1, c2, c3]


def dropout(x, p, key, call=0, layer=0):
    """Zero elements of `x` with probability `p`, multiply the others by 1/(1-p): (F3).

    Its own derivative: backward is ``dropout(dy, p, key, call, layer)``.

    Parameters
    ----------
    x : ndarray
    p : float in [0, 1]
    key, call, layer : int
        Which mask: the same numbers, the same elements (F12).

    Examples
    --------
    >>> dropout(np.ones(8), 0.5, key=1)
    array([2., 2., 2., 2., 2., 2., 0., 2.])
    """
    x = np.asarray(x)
    low, blocks = 0xFFFFFFFF, range((x.size + 3) // 4)
    words = [philox([b & low, b >> 32, call & low, layer], [key & low, key >> 32]) for b in blocks]
    words = np.array(words, np.uint64).reshape(-1)[: x.size].reshape(x.shape)
    kept = words >= int(p * 2**32)  # (F12)
    return x * np.where(kept, 0 if p == 1 else 1 / (1 - p), 0).astype(x.dtype)  # (F3)


# --- several layers, both directions ------------------------------------------------------------

# Forward, backward, the gates as a trace names them (from the first column of `cache.gates` on),
# and the options of forward.
_CELLS = {
    "rnn": (rnn_forward, rnn_backward, "", ("nonlinearity",)),
    "lstm": (lstm_forward, lstm_backward, "ifgo", ()),
    "gru": (gru_forward, gru_backward, "rzn", ("reset_after",)),
}
_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _names(layer, direction):
    """Parameter of a cell -> its name in torch's state_dict."""
    suffix = "_reverse" if direction else ""
    return {name: f"{name}_l{layer}{suffix}" for name in _PARAMETERS}


def stack_forward(
    kind,
    params,
    x,
    state=None,
    *,
    num_layers=1,
    bidirectional=False,
    batch_first=False,
    lengths=None,
    reset=None,
    nonlinearity="tanh",
    reset_after=True,
    mask=None,
):
    """What ``torch.nn.RNN``, ``LSTM`` or ``GRU`` computes.

    Parameters
    ----------
    kind : {"rnn", "lstm", "gru"}
    params : mapping of str to ndarray
        torch's names: ``weight_ih_l0``, ``bias_hh_l1_reverse``, ...; biases may be absent.
    x : ndarray, float (T, B, I) or integer (T, B)
        Batch first if `batch_first`: (B, T, I) or (B, T).
    state : ndarray (L*D, B, H), or for "lstm" a pair (h, c) of them, optional
        Initial state, layer major and direction minor (S2); None is zero.
    num_layers : int
        L.
    bidirectional : bool
        D = 2 instead of 1.
    batch_first : bool
        Concerns `x` and `y`, never the state.
    lengths : integers (B,) in 0..T, optional
    reset : bool (T, B), optional
        Or (B, T) if `batch_first`; the same for every layer and direction.
    nonlinearity : {"tanh", "relu", "sigmoid"}
        Read by "rnn" only.
    reset_after : bool
        Read by "gru" only.
    mask : (float, int, int), optional
        ``p, key, call`` of the dropout between layers; None is no dropout.

    Returns
    -------
    y : ndarray (T, B, D*H) or (B, T, D*H)
    state : like the argument
    caches : SimpleNamespace
        For `stack_backward`; `caches.cells[l*D + d]` is the cache of layer l, direction d.

    Raises
    ------
    KeyError
        A weight is missing.
    ValueError
        As the cells, and for an unknown kind or a state of another shape.

    Notes
    -----
    (S1), (S2) of docs/math.md.

    Examples
    --------
    >>> params = {"weight_ih_l0": np.ones((4, 2)), "weight_hh_l0": np.ones((4, 1))}
    >>> y, (h, c), caches = stack_forward("lstm", params, np.zeros((5, 3, 2)))
    >>> y.shape, h.shape
    ((5, 3, 1), (1, 3, 1))
    """
    if kind not in _CELLS:
        raise ValueError(f"kind: expected {sorted(_CELLS)}, got {kind!r}")
    forward, _, _, options = _CELLS[kind]
    given = {"nonlinearity": nonlinearity, "reset_after": reset_after}
    D = 2 if bidirectional else 1
    x = np.asarray(x)
    X = x.swapaxes(0, 1) if batch_first else x
    if reset is not None and batch_first:
        reset = np.swapaxes(reset, 0, 1)
    weight_hh = np.asarray(params["weight_hh_l0"])
    shape = (num_layers * D, X.shape[1], weight_hh.shape[1])
    parts = _unpack(kind, "state", state, shape, weight_hh.dtype)

    cells, finals = [], []
    for layer in range(num_layers):
        outputs = []
        for d in range(D):
            names = _names(layer, d)
            missing = [names[n] for n in ("weight_ih", "weight_hh") if names[n] not in params]
            if missing:
                raise KeyError(f"missing key(s): {', '.join(missing)}")
            weights = {name: params.get(key) for name, key in names.items()}
            start = [part[layer * D + d] for part in parts]  # (S2)
            y, final, cache = forward(
                X,
                *start,
                **weights,
                lengths=lengths,
                reset=reset,
                reverse=d == 1,
                **{name: given[name] for name in options},
            )
            outputs.append(y)
            cells.append(cache)
            finals.append(final if kind == "lstm" else (final,))
        X = np.concatenate(outputs, axis=2)  # (S1)
        if layer < num_layers - 1:
            X = _between(X, mask, layer, batch_first)

    caches = SimpleNamespace(
        kind=kind,
        cells=cells,
        num_layers=num_layers,
        D=D,
        batch_first=batch_first,
        mask=mask,
    )
    y = X.swapaxes(0, 1) if batch_first else X
    return y, _pack(kind, finals), caches


def stack_trace(caches):
    """States and gates of every step of `stack_forward`, 0 in padding.

    Parameters
    ----------
    caches : SimpleNamespace
        From `stack_forward`; only read.

    Returns
    -------
    SimpleNamespace
        ``h`` and, None but for "lstm", ``c`` (L*D, T, B, H); ``gates``, a dict of such arrays under
        the names of the gates.

    Examples
    --------
    >>> params = {"weight_ih_l0": np.ones((4, 2)), "weight_hh_l0": np.ones((4, 1))}
    >>> y, state, caches = stack_forward("lstm", params, np.zeros((5, 3, 2)))
    >>> stack_trace(caches).gates["f"][0, 0, 0]  # sigmoid(0)
    array([0.5])
    """
    cells, names = caches.cells, _CELLS[caches.kind][2]
    H = cells[0].shape[2]
    gates = {
        name: np.stack([np.where(s.live, s.gates[..., k * H : (k + 1) * H], 0) for s in cells])
        for k, name in enumerate(names)
    }
    h, c = (
        np.stack([np.where(s.live, getattr(s, v), 0) for s in cells])
        if hasattr(cells[0], v)
        else None
        for v in "hc"
    )
    return SimpleNamespace(h=h, c=c, gates=gates)


def stack_backward(caches, dy=None, dstate=None, *, per_step=False, clip_step=None):
    """Gradients of `stack_forward`.

    Parameters
    ----------
    caches : SimpleNamespace
        From `stack_forward`; only read.
    dy : ndarray like y, optional
        None is zero.
    dstate : like the state, optional
        None is zero; for "lstm" either of the pair may be None too.
    per_step : bool
        Also return what the cells call ``dh`` and ``dc``.
    clip_step : (str, float), optional
        As in `rnn_backward`.

    Returns
    -------
    dx : ndarray like x
        None for tokens.
    dstate : like the state
    grads : dict
        Gradients under torch's names, of the parameters that forward was given.
    steps : SimpleNamespace
        Only with `per_step`: ``dh`` and, None but for "lstm", ``dc`` (L*D, T, B, H).

    Notes
    -----
    (S3), (S4) of docs/math.md.

    Examples
    --------
    >>> params = {"weight_ih_l0": np.ones((3, 2)), "weight_hh_l0": np.ones((3, 1))}
    >>> y, h, caches = stack_forward("gru", params, np.zeros((5, 3, 2)))
    >>> dx, dh, grads = stack_backward(caches, np.ones_like(y))
    >>> dx.shape, dh.shape, sorted(grads)
    ((5, 3, 2), (1, 3, 1), ['weight_hh_l0', 'weight_ih_l0'])
    """
    kind, cells, D = caches.kind, caches.cells, caches.D
    backward = _CELLS[kind][1]
    T, B, H = cells[0].shape
    dtype = cells[0].dtype
    dparts = _unpack(kind, "dstate", dstate, (caches.num_layers * D, B, H), dtype)
    if dy is not None and caches.batch_first:
        dy = np.swapaxes(dy, 0, 1)
    dX = _array("dy", dy, (T, B, D * H), dtype)

    grads, starts, steps = {}, [None] * len(cells), [None] * len(cells)
    for layer in reversed(range(caches.num_layers)):
        dinputs = []
        for d in range(D):
            k = layer * D + d
            dh = dX[..., d * H : (d + 1) * H]  # (S3)
            cell = backward(cells[k], dh, *[part[k] for part in dparts], clip_step=clip_step)
            starts[k] = [cell[name] for name in ("dh0", "dc0") if name in cell]
            steps[k] = cell["dh"], cell.get("dc")
            dinputs.append(cell["dx"])
            for name, key in _names(layer, d).items():
                if cell[name] is not None:
                    grads[key] = cell[name]
        dX = None if dinputs[0] is None else sum(dinputs)  # (S4)
        if layer:
            dX = _between(dX, caches.mask, layer - 1, caches.batch_first)

    dx = dX.swapaxes(0, 1) if caches.batch_first and dX is not None else dX
    if per_step:
        dh, dc = (None if part[0] is None else np.stack(part) for part in zip(*steps, strict=True))
        return dx, _pack(kind, starts), grads, SimpleNamespace(dh=dh, dc=dc)
    return dx, _pack(kind, starts), grads


def _between(X, mask, layer, batch_first):
    """Dropout (F3) after a layer, forward or of its gradient; masks go by place in memory."""
    if mask is None:
        return X
    if batch_first:
        return dropout(X.swapaxes(0, 1), *mask, layer).swapaxes(0, 1)
    return dropout(X, *mask, layer)


def _unpack(kind, name, state, shape, dtype):
    """The state as a list of arrays, one for h or two for h and c; None is zero."""
    if kind != "lstm":
        return [_array(name, state, shape, dtype)]
    h, c = (None, None) if state is None else state
    return [_array(f"{name}[0]", h, shape, dtype), _array(f"{name}[1]", c, shape, dtype)]


def _pack(kind, cells):
    """One list of states per cell -> torch's layout (S2)."""
    parts = tuple(np.stack(part) for part in zip(*cells, strict=True))
    return parts if kind == "lstm" else parts[0]


# --- losses -------------------------------------------------------------------------------------


def cross_entropy(logits, targets, ignore_index=-100):
    """Mean softmax cross-entropy in nats, and its gradient.

    Parameters
    ----------
    logits : ndarray (..., V)
    targets : integers (...)
        Classes in [0, V), or `ignore_index` for rows that do not count.
    ignore_index : int

    Returns
    -------
    loss : float
        Mean over the rows that count; NaN, as in torch, if none does (and no gradient).
    dlogits : ndarray (..., V)

    Raises
    ------
    ValueError
        A target is neither a class nor `ignore_index`, or the shapes do not belong together.

    Notes
    -----
    (X1) to (X4) of docs/math.md.

    Examples
    --------
    >>> loss, dlogits = cross_entropy(np.zeros((1, 2)), np.array([0]))
    >>> dlogits
    array([[-0.5,  0.5]])
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]}, got {targets.shape}")
    u, k = _rows(logits), targets.ravel()
    V = u.shape[1]
    counts = k != ignore_index
    if ((k < 0) | (k >= V))[counts].any():
        raise ValueError(f"targets: expected classes in [0, {V}) or {ignore_index}")
    N = counts.sum()
    du = np.zeros_like(u)
    if N == 0:
        return math.nan, du.reshape(logits.shape)
    u, k = u[counts], k[counts]
    rows = np.arange(N)
    m = u.max(1, keepdims=True)
    log_Z = m + np.log(np.exp(u - m).sum(1, keepdims=True))  # (X1)
    p = np.exp(u - log_Z)  # (X2)
    loss = (log_Z[:, 0] - u[rows, k]).mean()  # (X3)
    p[rows, k] -= 1
    du[counts] = p / N.astype(p.dtype)  # (X4)
    return float(loss), du.reshape(logits.shape)


def mse(y, target):
    """Mean squared error over all elements, and its gradient by `y`: (X5) of docs/math.md.

    Parameters
    ----------
    y, target : ndarray
        Of one shape.

    Returns
    -------
    loss : float
    dy : ndarray like y

    Examples
    --------
    >>> mse(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, array([0., 2.]))
    """
    y = np.asarray(y)
    error = y - _array("target", target, y.shape, y.dtype)
    return float((error**2).mean()), 2 * error / y.size


def bce_with_logits(logits, target):
    """Mean binary cross-entropy over all elements, and its gradient: (X6), (X7) of docs/math.md.

    Parameters
    ----------
    logits : ndarray
    target : ndarray like logits
        Probabilities in [0, 1].

    Returns
    -------
    loss : float
    dlogits : ndarray like logits

    Examples
    --------
    >>> bce_with_logits(np.array([0.0, 1000.0]), np.array([1.0, 1.0]))[1]
    array([-0.25,  0.  ])
    """
    u = np.asarray(logits)
    target = _array("target", target, u.shape, u.dtype)
    loss = np.maximum(u, 0) - u * target + np.log1p(np.exp(-np.abs(u)))  # (X6)
    return float(loss.mean()), (sigmoid(u) - target) / u.size  # (X7)


# --- clipping -----------------------------------------------------------------------------------


def clip_grad_norm(grads, max_norm):
    """Scale a list of gradients so that their common 2-norm is at most `max_norm`: (C1).

    Returns
    -------
    norm : float
        Before clipping.
    clipped : list of ndarray

    Examples
    --------
    >>> norm, clipped = clip_grad_norm([np.array([3.0]), np.array([4.0])], 1.0)
    >>> norm
    5.0
    """
    norm = float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads)))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return norm, [g * g.dtype.type(factor) for g in grads]


def clip_grad_value(grads, limit):
    """Clip each element of a list of gradients to [-limit, limit]: (C2).

    Examples
    --------
    >>> clip_grad_value([np.array([-3.0, 0.5])], 1.0)
    [array([-1. ,  0.5])]
    """
    return [np.clip(g, -limit, limit) for g in grads]


# --- optimizers ---------------------------------------------------------------------------------
#
# Each takes a parameter, its gradient and a dict, empty before the first step, in which it keeps
# its buffers; it returns the new parameter. Formulas and defaults are torch's.


def sgd(p, g, state, lr=1e-3, *, momentum=0.0, nesterov=False, weight_decay=0.0):
    """One step of gradient descent with momentum: (O1) to (O3) of docs/math.md.

    Examples
    --------
    >>> sgd(np.array([1.0]), np.array([0.5]), {}, lr=1.0)
    array([0.5])
    """
    g = g + weight_decay * p  # (O1)
    if momentum == 0:
        return p - lr * g
    v = state["v"] = momentum * state["v"] + g if "v" in state else g  # (O2)
    return p - lr * (g + momentum * v if nesterov else v)  # (O3)


def adagrad(p, g, state, lr=1e-2, *, lr_decay=0.0, eps=1e-10, weight_decay=0.0):
    """One step of Adagrad: (O1), (O4) of docs/math.md.

    Examples
    --------
    >>> adagrad(np.array([1.0]), np.array([4.0]), {}, lr=0.25)
    array([0.75])
    """
    g = g + weight_decay * p  # (O1)
    k = state["k"] = state.get("k", 0) + 1
    S = state["S"] = state.get("S", 0) + g * g
    return p - lr / (1 + (k - 1) * lr_decay) * g / (np.sqrt(S) + eps)  # (O4)


def rmsprop(
    p,
    g,
    state,
    lr=1e-2,
    *,
    alpha=0.99,
    eps=1e-8,
    momentum=0.0,
    centered=False,
    weight_decay=0.0,
):
    """One step of RMSprop: (O1), (O5), (O6) of docs/math.md.

    Examples
    --------
    >>> rmsprop(np.array([1.0]), np.array([4.0]), {}, lr=0.25, alpha=0.75, eps=0.0)
    array([0.5])
    """
    g = g + weight_decay * p  # (O1)
    S = state["S"] = alpha * state.get("S", 0) + (1 - alpha) * g * g  # (O5)
    if centered:
        m = state["m"] = alpha * state.get("m", 0) + (1 - alpha) * g
        S = S - m * m
    e = g / (np.sqrt(S) + eps)  # (O6)
    if momentum > 0:
        e = state["v"] = momentum * state.get("v", 0) + e
    return p - lr * e


def adam(p, g, state, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """One step of Adam: (O1), (O7), (O8) of docs/math.md.

    Examples
    --------
    >>> adam(np.array([1.0]), np.array([4.0]), {}, lr=0.25, eps=0.0)
    array([0.75])
    """
    g = g + weight_decay * p  # (O1)
    beta1, beta2 = betas
    k = state["k"] = state.get("k", 0) + 1
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g  # (O7)
    S = state["S"] = beta2 * state.get("S", 0) + (1 - beta2) * g * g
    step = lr / (1 - beta1**k)
    return p - step * m / (np.sqrt(S) / (1 - beta2**k) ** 0.5 + eps)  # (O8)


def adamw(p, g, state, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    """One step of AdamW, decay beside the gradient and not in it: (O9), then Adam.

    Examples
    --------
    >>> adamw(np.array([1.0]), np.array([0.0]), {}, lr=0.5, weight_decay=0.5)
    array([0.75])
    """
    return adam(p - lr * weight_decay * p, g, state, lr, betas=betas, eps=eps)  # (O9)
