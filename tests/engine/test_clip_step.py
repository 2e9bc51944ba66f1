"""Clipping inside back-propagation through time: what reaches each step's state, (C3) and (C4).

What it is: backward(clip_step=) against the twin, and its promises one by one. What it is not:
clipping of the parameters' gradients; test_clip.py has that.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, STACK, arrays, build, identical, inputs, near, threads
from drawn import THREADS, agree, of_engine, of_twin, problems

KINDS = ("value", "norm")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    problem=problems(ragged=True, resets=True),
    kind=st.sampled_from(KINDS),
    limit=st.sampled_from((0.03, 0.3, 1.0, 3.0)),
    n=THREADS,
)
def test_random_cases_agree_with_the_twin(problem, kind, limit, n):
    cell, layer, given, forward = problem
    with threads(n):
        ours = of_engine(layer, given, forward, clip_step=(kind, limit))
    truth = of_twin(cell, layer, given, forward, clip_step=(kind, limit))
    assert agree(ours, truth, layer.dtype)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("cell", CELLS)
def test_work_split_over_threads_agrees_with_the_twin(cell, split, kind, n):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H, dtype="float64")
    given, clip = inputs(layer, T, B), (kind, 0.4 if kind == "value" else 0.4 * H**0.5)
    with threads(n):
        ours = of_engine(layer, given, {}, clip_step=clip)
    assert agree(ours, of_twin(cell, layer, given, {}, clip_step=clip), layer.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_no_steps_gradient_is_above_the_limit_and_some_are_at_it(cell, kind, dtype):
    layer = build(cell, **STACK, dtype=dtype)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    _, _, steps = tape.backward(100 * dy, dstate, per_step=True, clip_step=(kind, 0.5))
    for array in arrays(steps.dh, steps.dc):
        size = abs(array) if kind == "value" else np.linalg.norm(array, axis=-1)
        assert size.max() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_limit_that_nothing_reaches_changes_nothing(cell, kind):
    layer = build(cell, **STACK)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    *free, seen = tape.backward(dy, dstate, per_step=True)
    *clipped, steps = tape.backward(dy, dstate, per_step=True, clip_step=(kind, 1e6))
    assert identical((free, seen.dh, seen.dc), (clipped, steps.dh, steps.dc))
    assert near(free, tape.backward(dy, dstate, clip_step=(kind, float("inf"))))


@pytest.mark.parametrize("cell", CELLS)
def test_a_norm_is_one_rows_own(cell):
    layer = build(cell)
    x, state, dy, _ = inputs(layer, T=5, B=3)
    dy[:, 1] *= 1000
    _, _, tape = layer.forward(x, state)
    _, _, free = tape.backward(dy, per_step=True)
    _, _, steps = tape.backward(dy, per_step=True, clip_step=("norm", 50.0))
    for one, other in zip(arrays(free.dh, free.dc), arrays(steps.dh, steps.dc), strict=True):
        assert identical(one[:, :, ::2], other[:, :, ::2])
        assert not near(one[:, :, 1], other[:, :, 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_asking_to_see_the_steps_does_not_change_clipped_gradients(cell, kind):
    layer = build(cell, **STACK)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    *seen, _ = tape.backward(dy, dstate, per_step=True, clip_step=(kind, 0.1))
    assert identical(seen, tape.backward(dy, dstate, clip_step=(kind, 0.1)))


def test_an_exploding_gradient_is_held():
    layer = build("rnn_tanh", I=2, H=8, dtype="float64")
    layer.params["weight_hh_l0"] = 3 * np.linalg.qr(layer.params["weight_hh_l0"])[0]
    layer.params["bias_ih_l0"] = layer.params["bias_hh_l0"] = 0
    x = np.zeros((60, 1, 2))  # h stays 0, where tanh has slope 1
    _, _, tape = layer.forward(x)
    dlast = np.ones((1, 1, 8))
    _, free = tape.backward(None, dlast)
    _, held = tape.backward(None, dlast, clip_step=("norm", 1.0))
    assert np.linalg.norm(free) == pytest.approx(8**0.5 * 3.0**60, rel=1e-9)
    assert np.linalg.norm(held) == pytest.approx(3.0, rel=1e-9)  # the last step back is not clipped


def test_a_nan_among_the_gradients_stays_one():
    layer = build("lstm")
    x, state, dy, _ = inputs(layer)
    dy[3, 1, 2] = np.nan
    _, _, tape = layer.forward(x, state)
    for kind in KINDS:
        dx, _ = tape.backward(dy, clip_step=(kind, 1.0))
        assert np.isnan(dx[3, 1]).any()
        assert np.isfinite(dx[:, ::2]).all()


def test_sequential_hands_the_limit_to_its_recurrent_layers():
    inner = fr.Sequential(fr.Linear(4, 4, seed=1), fr.GRU(4, 3, seed=2))
    model = fr.Sequential(fr.LSTM(3, 4, seed=0), inner)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 5, 2, 3), np.float32)
    _, _, tape = model.forward(x)
    dx, _ = tape.backward(dy, clip_step=("value", 0.1))
    y, _, lstm = model.layers[0].forward(x)
    y, _, linear = inner.layers[0].forward(y)
    _, _, gru = inner.layers[1].forward(y)
    expected, _ = gru.backward(dy, clip_step=("value", 0.1))
    expected, _ = lstm.backward(linear.backward(expected)[0], clip_step=("value", 0.1))
    assert identical(dx, expected)
    assert not near(dx, tape.backward(dy)[0])
