"""Vanishing and exploding: a gradient that goes back n steps passes n Jacobians, about c^n.

    dh_t/dh_k = product over u = k+1 .. t of dh_u/dh_{u-1}         its norm <= c^(t-k)

In an RNN with tanh, c is the norm of W. Below 1 the gradient must vanish; above 1 it may explode,
if the slopes of tanh let it. Here the recurrent matrices are orthogonal times c: their spectral
radius and norm are both c. LSTM and GRU get the same matrices in each gate, and forget gates that
start open; the states h and c of an LSTM are one vector, of which dh_t/dh_k is a part.
Equations (D2) to (D11) of docs/math.md.
"""

from __future__ import annotations

import numpy as np

from .. import GRU, LSTM, RNN, diagnostics, init
from . import check

CELLS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
FACTORS = (0.5, 0.9, 1.1, 1.5)
T, B, I, H, OPEN = 40, 8, 4, 32, 3.0
SHOWN = (1, 5, 10, 20, 40)
ROUNDING = 1 + 1e-9


def run(quick: bool = False, progress: bool | None = None, seed: int = 0) -> dict:
    """Compute two rows of powers; measure the norms of real Jacobians against their bounds.

    Returns
    -------
    dict
        powers: by c (as text) its powers 2 to 8; factors: the values of c; and by cell norm and
        bound, at each c those of 0 .. 40 steps back (geometric means over the rows of the batch).
    """
    figures = {"powers": two_rows(), "factors": list(FACTORS)}
    x = 0.5 * np.random.default_rng(seed).standard_normal((T, B, I))
    print(f"\nThe norm of dh_t/dh_k of {H} units by the steps between, and its bound\n")
    print("          c  " + "".join(f"{f't-k = {n}':>20}" for n in SHOWN))
    closest, error, power = 0.0, 0.0, 0.0
    for name in CELLS:
        figures[name] = {"norm": [], "bound": []}
        for c in FACTORS:
            layer = cell(name, c, seed)
            norm, bound = measured(layer, x)
            closest = max(closest, (norm / bound)[1:].max())
            error = max(error, difference(layer, x))
            if name == "RNN":
                power = max(power, (bound / c ** np.arange(T + 1.0)[:, None]).max())
            norm, bound = np.exp(np.log(norm).mean(1)), np.exp(np.log(bound).mean(1))
            print(
                f"    {name:5}{c:3.1f} "
                + "".join(f"{norm[n]:9.2g} <={bound[n]:8.2g}" for n in SHOWN)
            )
            figures[name]["norm"].append(norm.tolist())
            figures[name]["bound"].append(bound.tolist())
    print()
    check("no norm is above the product of the steps' norms", closest <= ROUNDING)
    check("in the RNN that product is not above c^(t-k)", power <= ROUNDING)
    check(f"states moved by hand move later ones as much, to {error:.0e} < 1e-6", error < 1e-6)
    prove({name: dict(zip(FACTORS, figures[name]["norm"], strict=True)) for name in CELLS})
    return figures


def prove(norm):
    """The claims about how norms go with distance."""
    far = norm["RNN"][0.9][T]
    check(f"RNN, c = 0.9: it vanishes, {far:.1e} < {0.9**T:.1e} = c^{T}", far < 0.9**T)
    far = norm["RNN"][1.5][T]
    check(f"RNN, c = 1.5: it explodes, {far:.0f} > 5 after {T} steps", far > 5)
    far = norm["RNN"][1.1][T]
    check(f"RNN, c = 1.1: it does not, {far:.2f} < 1: c > 1 is needed, not enough", far < 1)
    for name in "LSTM", "GRU":
        far, ratio = norm[name][0.9][T], norm[name][0.9][T] / norm["RNN"][0.9][T]
        check(f"{name}, c = 0.9: {far:.2f}, {ratio:.0f} > 50 times as much as RNN", ratio > 50)


def two_rows():
    """Print c^2 .. c^8, and check them on a net of one unit."""
    powers = {}
    for c, factor in (0.9, "vanishes"), (1.5, "explodes"):
        row = [c**n for n in range(2, 9)]
        print(f"    c = {c}, it {factor}:  " + "  ".join(f"{p:.2f}" for p in row))
        # A rectifier passes what is positive: h_t = c h_{t-1}, whose Jacobian is c itself.
        unit = RNN(1, 1, nonlinearity="relu", bias=False, dtype="float64")
        unit.load_state_dict({"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.full((1, 1), c)})
        norm = diagnostics.jacobian_norms(unit, np.ones((8, 1, 1))).norm[2:, 0]
        check(
            f"a net of one unit with W = {c} measures the same",
            np.allclose(norm, row, rtol=1e-12, atol=0),
        )
        powers[str(c)] = row
    taught = [0.81, 0.73, 0.66, 0.59, 0.53], [2.25, 3.38, 5.06, 7.59, 11.39, 17.09, 25.63]
    same = all(
        abs(p - s) <= 0.005 * ROUNDING
        for row, said in zip(powers.values(), taught, strict=True)
        for p, s in zip(row, said, strict=False)
    )
    check("they are those taught, to two digits (but .48 .43, not .46 .39, where 0.9 ends)", same)
    return powers


def cell(name, c, seed):
    """A layer whose recurrent matrices are orthogonal times c."""
    layer = init.orthogonal_(CELLS[name](I, H, dtype="float64"), c, seed=seed)
    return layer if name == "RNN" else init.forget_bias_(layer, OPEN)


def measured(layer, x):
    """Return the norm of dh_T/dh_k and its bound for each row, by T-k from 0: both (T+1, B)."""
    steps = diagnostics.step_jacobians(layer, x)  # (T, B, S, S), S = 2H for an LSTM
    product, norm, bound = np.eye(steps.shape[-1]), [np.ones(B)], [np.ones(B)]
    for J in steps[::-1]:
        product = product @ J
        norm.append(spectral(product[:, :H, :H]))
        bound.append(bound[-1] * spectral(J))
    return np.array(norm), np.array(bound)


def spectral(matrices):
    return np.linalg.norm(matrices, 2, axis=(1, 2))


def difference(layer, x, steps=10, e=1e-5):
    """Move h_0 a little where it matters most; compare what h_10 does with the Jacobian's norm."""
    J = diagnostics.jacobian(layer, x, steps, 0)[:, :H, :H]
    _, sizes, directions = np.linalg.svd(J)
    move = e * directions[:, 0]  # of each row of the batch
    ends = []
    for h in move[None], -move[None]:
        y, _ = layer(x[:steps], (h, np.zeros_like(h)) if isinstance(layer, LSTM) else h)
        ends.append(y[-1])
    grown = np.linalg.norm(ends[0] - ends[1], axis=1) / (2 * e)
    return float(abs(grown / sizes[:, 0] - 1).max())


def picture(figures):
    """The norms over the distance, and their bounds."""
    from .drawing import panels

    figure, each = panels(1, 3, width=9, sharey=True)
    for axes, name in zip(each, CELLS, strict=True):
        for i, c in enumerate(figures["factors"]):
            axes.semilogy(figures[name]["norm"][i], f"C{i}", label=f"c = {c}")
            axes.semilogy(figures[name]["bound"][i], f"C{i}:", lw=0.8)
        axes.axhline(1, color="gray", lw=0.8)
        axes.set(xlabel="t - k", title=name, ylim=(1e-7, 1e7))
    each[0].set_ylabel(r"norm of dh$_t$/dh$_k$ (dotted: bound)")
    each[2].legend(loc="upper right")  # where no curve goes
    return figure
