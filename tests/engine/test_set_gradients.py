"""Gradients that are set, not added to: ``tape.backward(..., accumulate=False)`` of a layer.

They are those that a backward pass adds to zeros, to the last bit, whatever was there before.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, STACK, build, inputs, threads
from drawn import THREADS, problems

each_cell = pytest.mark.parametrize("cell", CELLS)


def added_and_set(layer, x, state, dy, dstate, **forward):
    """Gradients added to zeros, and set where there is NaN."""
    _, _, tape = layer.forward(x, state, **forward)
    layer.zero_grad()
    tape.backward(dy, dstate)
    added = layer._flat_grad.copy()
    layer._flat_grad.fill(np.nan)
    tape.backward(dy, dstate, accumulate=False)
    return added, layer._flat_grad.copy()


def check_same(added, given):
    assert added.tobytes() == given.tobytes()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [1, 2, 3])
@each_cell
def test_what_was_there_does_not_count_however_the_work_is_split(cell, count, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    with threads(count):
        check_same(*added_and_set(layer, *inputs(layer, T, B)))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 32, 33, 319, 320, 321, 700])
@pytest.mark.parametrize("tokens", [False, True])
@each_cell
def test_what_was_there_does_not_count_whatever_the_number_of_rows(cell, tokens, rows):
    layer = build(cell, 5, 9)
    for T, B in {(rows, 1), (1, rows), (max(rows // 7, 1), 7)}:
        check_same(*added_and_set(layer, *inputs(layer, T, B, tokens=tokens)))


@pytest.mark.parametrize("B", [1, 3, 16, 17, 32, 33])
@each_cell
def test_what_was_there_does_not_count_where_no_row_begins_with_anything(cell, B):
    layer = build(cell, 5, 9)
    x, _, dy, dstate = inputs(layer, 1, B)
    check_same(*added_and_set(layer, x, None, dy, dstate))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("B", [3, 13, 33])
@each_cell
def test_what_was_there_does_not_count_in_several_chunks_of_uneven_parts(cell, B, count):
    layer = build(cell, 12, 70)
    with threads(count):
        check_same(*added_and_set(layer, *inputs(layer, 300, B)))


@settings(deadline=None, max_examples=60)
@given(problems(ragged=True, resets=True), THREADS)
def test_what_was_there_does_not_count_for_any_layer(problem, count):
    _, layer, values, keywords = problem
    with threads(count):
        check_same(*added_and_set(layer, *values, **keywords))


@pytest.mark.parametrize("T, B", [(0, 3), (4, 0)])
@pytest.mark.parametrize("options", [{}, STACK], ids=["one", "stack"])
@each_cell
def test_of_no_steps_or_no_rows_gradients_are_zeros(cell, options, T, B):
    layer = build(cell, **options)
    _, given = added_and_set(layer, *inputs(layer, T, B))
    assert not given.any()


def test_of_rows_without_a_step_gradients_are_zeros():
    layer = build("lstm")
    _, given = added_and_set(layer, *inputs(layer, 4, 2), lengths=[0, 0])
    assert not given.any()


@each_cell
def test_without_a_gradient_that_comes_in_gradients_are_zeros(cell):
    layer = build(cell)
    x, state, _, _ = inputs(layer)
    _, given = added_and_set(layer, x, state, None, None)
    assert not given.any()


@pytest.mark.parametrize("clip_step", [None, ("value", 0.1), ("norm", 0.1)])
def test_per_step_and_clip_step_go_along_with_it(clip_step):
    layer = build("gru")
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    layer.zero_grad()
    first = tape.backward(dy, dstate, per_step=True, clip_step=clip_step)
    added = layer._flat_grad.copy()
    second = tape.backward(dy, dstate, per_step=True, clip_step=clip_step, accumulate=False)
    check_same(added, layer._flat_grad)
    assert first[2].dh.tobytes() == second[2].dh.tobytes()


def test_a_gradient_of_the_wrong_shape_leaves_what_was_there():
    layer = build("lstm")
    x, state, dy, _ = inputs(layer)
    _, _, tape = layer.forward(x, state)
    layer._flat_grad.fill(7)
    with pytest.raises(ValueError, match=r"dy: expected shape \(7, 3, 9\), got \(6, 3, 9\)"):
        tape.backward(dy[:-1], accumulate=False)
    assert (layer._flat_grad == 7).all()


def test_by_default_gradients_are_added_to():
    layer = build("lstm")
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    tape.backward(dy, dstate, accumulate=False)
    once = layer._flat_grad.copy()
    tape.backward(dy, dstate)
    np.testing.assert_allclose(layer._flat_grad, 2 * once, rtol=1e-5, atol=1e-6)
