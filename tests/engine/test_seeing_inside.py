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

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, build, identical, inputs, near, threads, train
from drawn import THREADS, agree, of_engine, of_twin, problems


def parts(trace):
    return trace.h, trace.c, *trace.gates.values()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 34, 20, 70), (6, 1, 30, 260), (6, 12, 8, 130)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_work_split_over_threads_shows_the_same_steps_as_the_twin(cell, shape, n):
    T, B, I, H = shape
    layer = build(cell, I, H, dtype="float64")
    given = inputs(layer, T, B)
    with threads(n):
        assert agree(of_engine(layer, given, {}), of_twin(cell, layer, given, {}), layer.dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problem=problems(ragged=True), n=THREADS)
def test_random_cases_show_the_same_steps_as_the_twin(problem, n):
    cell, layer, inputs, forward = problem
    with threads(n):
        ours = of_engine(layer, inputs, forward)
    truth = of_twin(cell, layer, inputs, forward)
    assert list(ours.trace.gates) == list(truth.trace.gates)
    assert agree(ours, truth, layer.dtype)


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
