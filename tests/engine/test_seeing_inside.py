"""Traces of forward and per-step gradients of backward, against the twin.

What it is: forward(trace=True) and backward(per_step=True) over cells, options, shapes and threads.
What it is not: a test of the twin; its states are outputs and its gradients are checked by
test_reference.py.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr
from fastrnn import reference as twin

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, build, identical, inputs, near, threads, train

GATES = {"rnn": "", "lstm": "ifgo", "gru": "rzn"}


def double(value):
    if isinstance(value, tuple):
        return tuple(map(double, value))
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def of_twin(cell, layer, x, state, dy, dstate, **forward):
    """The twin's y, trace and per-step gradients, in float64."""
    kind, variant = CELLS[cell]
    params = {name: double(value) for name, value in layer.params.items()}
    options = {
        "num_layers": layer.num_layers,
        "bidirectional": layer.bidirectional,
        "batch_first": layer.batch_first,
    }
    y, _, caches = twin.stack_forward(
        kind.__name__.lower(), params, double(x), double(state), **options, **variant, **forward
    )
    *_, steps = twin.stack_backward(caches, double(dy), double(dstate), per_step=True)
    return y, twin.stack_trace(caches), steps


def parts(trace):
    return trace.h, trace.c, *trace.gates.values()


def agrees(cell, layer, x, state, dy, dstate, **forward):
    y, trace, steps = of_twin(cell, layer, x, state, dy, dstate, **forward)
    our_y, _, tape = layer.forward(x, state, **forward, trace=True)
    assert near(our_y, y)
    assert list(tape.trace.gates) == list(trace.gates)
    assert near(parts(tape.trace), parts(trace))
    _, _, our_steps = tape.backward(dy, dstate, per_step=True)
    assert near((our_steps.dh, our_steps.dc), (steps.dh, steps.dc))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 34, 20, 70), (6, 1, 30, 260), (6, 12, 8, 130)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_work_split_over_threads_shows_the_same_steps_as_the_twin(cell, shape, n):
    T, B, I, H = shape
    layer = build(cell, I, H, dtype="float64")
    with threads(n):
        agrees(cell, layer, *inputs(layer, T, B))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_cases_show_the_same_steps_as_the_twin(data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    cell, T, B = draw(*CELLS), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    layer = build(
        cell,
        data.draw(st.integers(1, 20)),
        data.draw(st.integers(1, 40)),
        dtype=draw("float32", "float64"),
        num_layers=draw(1, 2, 3),
        bidirectional=draw(False, True),
        batch_first=draw(False, True),
        bias=draw(True, False),
    )
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    if cell == "rnn_relu":  # of a kink the twin and we may be on different sides
        layer.load_state_dict({k: abs(v) for k, v in layer.state_dict().items()})
    x, state, dy, dstate = inputs(layer, T, B, tokens=draw(False, True) and cell != "rnn_relu")
    if cell == "rnn_relu":
        x, state = abs(x), abs(state)
    with threads(draw(1, 2, 3)):
        agrees(cell, layer, x, state, dy, dstate, lengths=lengths)


@pytest.mark.parametrize("cell", CELLS)
def test_entries_past_a_rows_end_are_zero(cell):
    layer = build(cell, **STACK)
    x, state, dy, dstate = inputs(layer, T=5, B=3)
    _, _, tape = layer.forward(x, state, [2, 0, 5], trace=True)
    _, _, steps = tape.backward(dy, dstate, per_step=True)
    for array in (*parts(tape.trace), steps.dh, steps.dc):
        if array is not None:
            assert array.shape == (4, 5, 3, layer.hidden_size)
            assert not array[:, 2:, 0].any() and not array[:, :, 1].any()
            assert array[:, :, 2].any(-1).all()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_last_layers_states_are_y_at_the_same_time(cell, batch_first):
    layer = build(cell, **STACK, batch_first=batch_first)
    x, state, _, _ = inputs(layer)
    y, _, tape = layer.forward(x, state, trace=True)
    h = np.concatenate(tape.trace.h[2:], axis=-1)
    assert np.array_equal(y.swapaxes(0, 1) if batch_first else y, h)


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_asked_for_on_the_way_changes_no_other_result(cell):
    layer = build(cell, I=8, H=40, **STACK)
    x, state, dy, dstate = inputs(layer, T=9, B=7)
    plain = train(layer, x, state, dy, dstate)
    layer.zero_grad()
    y, final, tape = layer.forward(x, state, trace=True)
    dx, dinitial, _ = tape.backward(dy, dstate, per_step=True)
    assert near(plain, (y, final, dx, dinitial, layer._flat_grad), 1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_a_trace_outlives_its_tape_and_later_calls(cell):
    layer = build(cell)
    x, state, _, _ = inputs(layer)
    _, _, tape = layer.forward(x, state, trace=True)
    trace = tape.trace
    before = [array.copy() for array in parts(trace) if array is not None]
    del tape
    layer.forward(2 * x, state)
    assert identical(before, parts(trace))


def test_the_gradient_of_every_step_is_the_slope_of_the_loss_by_its_state():
    """dh_t and dc_t by finite differences: a run that starts from h_t, c_t."""
    layer = build("lstm", dtype="float64")
    x, state, dy, dstate = inputs(layer, T=4, B=1)
    _, _, tape = layer.forward(x, state, trace=True)
    _, _, steps = tape.backward(dy, dstate, per_step=True)

    def loss(h, c, t):
        y, (hT, cT) = layer(x[t + 1 :], (h, c))
        later = (y * dy[t + 1 :]).sum() + (h * dy[t]).sum()
        return later + (hT * dstate[0]).sum() + (cT * dstate[1]).sum()

    for t in range(4):
        h, c = tape.trace.h[:, t], tape.trace.c[:, t]
        o = tape.trace.gates["o"][:, t]
        for k in range(layer.hidden_size):
            e = np.zeros_like(h)
            e[..., k] = 1e-6
            slope = (loss(h + e, c, t) - loss(h - e, c, t)) / 2e-6
            assert steps.dh[0, t, 0, k] == pytest.approx(slope, rel=1e-6, abs=1e-8)
            # c_t also moves h_t = o tanh(c_t)
            up = loss(o * np.tanh(c + e), c + e, t)
            down = loss(o * np.tanh(c - e), c - e, t)
            assert steps.dc[0, t, 0, k] == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-8)


def test_a_tape_without_a_trace_says_so():
    _, _, tape = build("gru").forward(np.ones((2, 1, 5), np.float32))
    with pytest.raises(AttributeError, match="forward was called without trace=True"):
        _ = tape.trace


def test_a_sequence_without_steps_has_an_empty_trace():
    layer = build("lstm")
    _, _, tape = layer.forward(np.ones((0, 2, 5), np.float32), trace=True)
    _, _, steps = tape.backward(None, per_step=True)
    assert tape.trace.h.shape == tape.trace.gates["i"].shape == steps.dc.shape == (1, 0, 2, 9)


def test_traces_and_steps_are_of_documented_types():
    layer = fr.RNN(3, 4, seed=0)
    _, _, tape = layer.forward(np.ones((2, 1, 3), np.float32), trace=True)
    *_, steps = tape.backward(None, per_step=True)
    assert tape.trace.c is None and tape.trace.gates == {} and steps.dc is None
