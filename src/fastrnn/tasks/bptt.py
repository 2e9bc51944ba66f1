"""Backpropagation through time, written out: J = sum of J_t, and W <- W - alpha dJ/dW.

W acts at every step, so s_t depends on it in t ways: at each k <= t explicitly, through s_{k-1}
taken as given, and from there on through the states in between:

    ds_t/dW = sum over k of (ds_t/ds_k) (explicit ds_k/dW)
    ds_t/ds_k = product over u = k+1 .. t of diag(1 - s_u^2) W

Here every term of the sum is computed by itself. BPTT gets the same number in one walk back.
"""

from __future__ import annotations

import numpy as np

from .. import RNN, Linear, Sequential, cross_entropy
from . import check

T, I, H, O = 6, 3, 4, 3


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Compute dJ/dW in three ways, compare, and go a step down.

    Returns
    -------
    dict
        J, J_after (one step), against_bptt, against_differences (relative errors), terms: the norm
        of each (ds_t/ds_k) (explicit ds_k/dW) at row t, column k.
    """
    rng = np.random.default_rng(seed)
    U, W, V = (rng.normal(0, 0.6, shape) for shape in [(H, I), (H, H), (O, H)])
    s0, x, target = rng.normal(0, 0.5, H), rng.normal(0, 1, (T, I)), rng.integers(0, O, T)

    by_terms, terms = sum_of_terms(U, W, V, s0, x, target)
    J, by_bptt = engine(U, W, V, s0, x, target)
    by_differences = differences(lambda W: engine(U, W, V, s0, x, target)[0], W)

    print("The norm of (ds_t/ds_k)(explicit ds_k/dW): how much step k's use of W matters at t\n")
    print("     t " + "".join(f"   k={k}  " for k in range(1, T + 1)))
    for t in range(T):
        print(f"    {t + 1:2d} " + "".join(f"{term:8.4f}" for term in terms[t, : t + 1]))
    print()

    def error(other):
        return float(abs(by_terms - other).max() / abs(by_terms).max())

    bptt, fd = error(by_bptt), error(by_differences)
    check(f"the sum of the terms is what BPTT finds, to {bptt:.0e} < 1e-10", bptt < 1e-10)
    check(f"and what finite differences find, to {fd:.0e} < 1e-7", fd < 1e-7)
    alpha = 0.05
    after, _ = engine(U, W - alpha * by_terms, V, s0, x, target)
    check(f"W - {alpha} dJ/dW lowers J from {J:.4f} to {after:.4f}", after < J)
    return {
        "J": J,
        "J_after": after,
        "against_bptt": bptt,
        "against_differences": fd,
        "terms": terms.tolist(),
    }


def sum_of_terms(U, W, V, s0, x, target):
    """Return dJ/dW (H, H) as the double sum over t and k, and the norm of each term (T, T)."""
    s = np.zeros((T + 1, H))  # s[t] is the state after step t
    s[0] = s0
    for t in range(1, T + 1):
        s[t] = np.tanh(W @ s[t - 1] + U @ x[t - 1])

    dJ_dW, norms = np.zeros((H, H)), np.zeros((T, T))
    for t in range(1, T + 1):
        p = np.exp(V @ s[t])
        dJ_ds = V.T @ (p / p.sum() - np.eye(O)[target[t - 1]])  # J_t = -log softmax(V s_t)[target]
        for k in range(1, t + 1):
            term = np.tensordot(between(s, W, t, k), explicit(s, k), 1)
            norms[t - 1, k - 1] = np.linalg.norm(term)
            dJ_dW += np.tensordot(dJ_ds, term, 1)
    return dJ_dW, norms


def explicit(s, k):
    """Explicit ds_k/dW (H, H, H): s_{k-1} is held fixed. Entry i, a, b is ds_k[i]/dW[a, b]."""
    return np.einsum("i,ia,b->iab", 1 - s[k] ** 2, np.eye(H), s[k - 1])


def between(s, W, t, k):
    """ds_t/ds_k (H, H): the product of the Jacobians of the steps from k to t."""
    product = np.eye(H)
    for u in range(k + 1, t + 1):
        product = np.diag(1 - s[u] ** 2) @ W @ product
    return product


def engine(U, W, V, s0, x, target):
    """Return J and dJ/dW from fastrnn in float64: one walk forward, one back."""
    double = {"bias": False, "dtype": "float64"}
    model = Sequential(RNN(I, H, **double), Linear(H, O, **double))
    model.load_state_dict({"0.weight_ih_l0": U, "0.weight_hh_l0": W, "1.weight": V})
    logits, _, tape = model.forward(x[:, None], (s0[None, None], None))
    mean, dlogits = cross_entropy(logits, target[:, None])
    tape.backward(dlogits * T)  # J is the sum over steps, cross_entropy the mean
    return mean * T, model.grads["0.weight_hh_l0"].copy()


def differences(J, W, e=1e-5):
    """Return dJ/dW by moving each element up and down."""
    gradient = np.zeros_like(W)
    for element in np.ndindex(W.shape):
        step = np.zeros_like(W)
        step[element] = e
        gradient[element] = (J(W + step) - J(W - step)) / (2 * e)
    return gradient


def picture(figures):
    """The terms of the sum: row t, column k."""
    from .drawing import panels

    figure, axes = panels(width=3.6)
    terms = np.array(figures["terms"])
    terms[np.triu_indices_from(terms, 1)] = np.nan
    edges = np.arange(len(terms) + 1) + 0.5
    mesh = axes.pcolormesh(edges, edges, terms, cmap="viridis")
    figure.colorbar(mesh, label="norm")
    axes.set(xlabel="k", ylabel="t", title="(ds$_t$/ds$_k$) (explicit ds$_k$/dW)")
    axes.invert_yaxis()
    return figure
