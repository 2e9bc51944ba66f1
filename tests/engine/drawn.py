"""Layers and inputs that Hypothesis draws, and what the twin makes of them in float64.

What it is not: the matrix of sizes that parity with torch walks; parity/matrix.py has that.
"""

from types import SimpleNamespace

import numpy as np
from cells import CELLS, arrays, build, inputs, near
from hypothesis import strategies as st

from fastrnn import reference as twin

THREADS = st.sampled_from((1, 2, 3))


def double(value):
    """A value, or a tuple of values, with its floats in float64."""
    if isinstance(value, tuple):
        return tuple(map(double, value))
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if floats else value


@st.composite
def problems(draw, ragged=False, resets=False, tokens=True, **options):
    """A layer, its inputs as a tuple, and keywords of forward; `options` are those of the layer."""

    def pick(*values):
        return draw(st.sampled_from(values))

    cell, T, B = pick(*CELLS), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    layer = build(
        cell,
        draw(st.integers(1, 20)),
        draw(st.integers(1, 40)),
        **{
            "dtype": pick("float32", "float64"),
            "num_layers": pick(1, 2, 3),
            "bidirectional": pick(False, True),
            "batch_first": pick(False, True),
            "bias": pick(True, False),
            "seed": draw(st.integers(0, 99)),
        }
        | options,
    )
    by_token = tokens and pick(False, True)
    x, state, dy, dstate = inputs(layer, T, B, seed=draw(st.integers(0, 99)), tokens=by_token)
    if cell == "rnn_relu":  # rounding may put the twin on the other side of the kink: stay clear
        layer.load_state_dict({k: abs(v) + 0.01 for k, v in layer.state_dict().items()})
        x, state = abs(x), abs(state)
    keywords = {}
    if ragged:
        keywords["lengths"] = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    if resets:
        flags = st.lists(st.booleans(), min_size=T * B, max_size=T * B)
        keywords["reset"] = np.array(draw(flags)).reshape((B, T) if layer.batch_first else (T, B))
    if pick(True, True, False):
        return cell, layer, (x, state, dy, dstate), keywords
    return cell, layer, (x, None, dy, None), keywords


def of_twin(cell, layer, given, forward, **backward):
    """Everything the twin computes: y, final, dx, dinitial, grads, trace, steps."""
    x, state, dy, dstate = map(double, given)
    kind, variant = CELLS[cell]
    names = ("num_layers", "bidirectional", "batch_first")
    y, final, caches = twin.stack_forward(
        kind.__name__.lower(),
        {name: double(value) for name, value in layer.state_dict().items()},
        x,
        state,
        **{name: getattr(layer, name) for name in names},
        **variant,
        **forward,
    )
    dx, dinitial, grads, steps = twin.stack_backward(caches, dy, dstate, per_step=True, **backward)
    return SimpleNamespace(
        y=y,
        final=final,
        dx=dx,
        dinitial=dinitial,
        grads=[grads[name] for name in layer.grads],
        trace=twin.stack_trace(caches),
        steps=steps,
    )


def of_engine(layer, given, forward, **backward):
    """The same from a layer."""
    x, state, dy, dstate = given
    layer.zero_grad()
    y, final, tape = layer.forward(x, state, **forward, trace=True)
    dx, dinitial, steps = tape.backward(dy, dstate, per_step=True, **backward)
    return SimpleNamespace(
        y=y,
        final=final,
        dx=dx,
        dinitial=dinitial,
        grads=[grad.copy() for grad in layer.grads.values()],
        trace=tape.trace,
        steps=steps,
    )


def everything(result):
    """All the arrays of a result, in order."""
    return arrays(
        result.y,
        result.final,
        result.dx,
        result.dinitial,
        *result.grads,
        result.trace.h,
        result.trace.c,
        *result.trace.gates.values(),
        result.steps.dh,
        result.steps.dc,
    )


def agree(ours, truth, dtype):
    """Whether engine and twin agree up to the rounding of a dtype."""
    return near(everything(ours), everything(truth), 5e-5 if dtype == np.float32 else 1e-10)
