"""Rows of different lengths, and rows that start afresh in the middle.

What it is: `lengths` and `reset` against the twin, finite differences, and rows cut by hand.
What it is not: agreement with torch on ragged batches; test_golden.py has that.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, STACK, arrays, build, identical, inputs, near, threads, train
from drawn import THREADS, agree, of_engine, of_twin, problems

RANDOM = settings(max_examples=40, deadline=None, derandomize=True)


def agrees_with_the_twin(problem, n):
    cell, layer, given, forward = problem
    x, state, _, _ = given
    with threads(n):
        ours = of_engine(layer, given, forward)
        inference = layer(x, state, **forward)
    assert agree(ours, of_twin(cell, layer, given, forward), layer.dtype)
    assert identical(inference, (ours.y, ours.final))


@RANDOM
@given(problem=problems(ragged=True), n=THREADS)
def test_ragged_batches_agree_with_the_twin(problem, n):
    agrees_with_the_twin(problem, n)


@RANDOM
@given(problem=problems(resets=True), n=THREADS)
def test_resets_agree_with_the_twin(problem, n):
    agrees_with_the_twin(problem, n)


@RANDOM
@given(problem=problems(ragged=True, resets=True), n=THREADS)
def test_resets_in_ragged_batches_agree_with_the_twin(problem, n):
    agrees_with_the_twin(problem, n)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("cell", CELLS)
def test_work_split_over_threads_agrees_with_the_twin(cell, split, n):
    T, B, I, H = SPLITS[split]
    rng = np.random.default_rng(5)
    layer = build(cell, I, H, dtype="float64", bidirectional=True)
    forward = {"lengths": rng.integers(1, T + 1, B), "reset": rng.random((T, B)) < 0.2}
    agrees_with_the_twin((cell, layer, inputs(layer, T, B), forward), n)


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_with_lengths_and_resets_are_the_slopes(cell, tokens):
    layer = build(cell, 3, 3, dtype="float64", **STACK)
    if cell == "rnn_relu":  # away from the kink
        layer.load_state_dict({k: abs(v) + 0.1 for k, v in layer.state_dict().items()})
    x, state, _, _ = inputs(layer, T=4, B=4, tokens=tokens)
    if cell == "rnn_relu":
        x, state = abs(x) + (0 if tokens else 0.1), abs(state)
    reset = np.random.default_rng(3).random((4, 4)) < 0.3
    reset[0, 1] = reset[3, 0] = True  # a first step in either direction
    fr.gradcheck(layer, x, state, lengths=[4, 2, 0, 3], reset=reset)


@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_row_is_two_sequences(cell):
    layer = build(cell)
    x, state, _, _ = inputs(layer, T=7, B=2)
    reset = np.zeros((7, 2), bool)
    reset[3] = True
    y, final = layer(x, state, reset=reset)
    before, _ = layer(x[:3], state)
    after, last = layer(x[3:])
    assert near((y, final), (np.concatenate([before, after]), last))


@pytest.mark.parametrize("cell", CELLS)
def test_no_gradient_crosses_a_reset(cell):
    layer = build(cell)
    x, state, dy, dstate = inputs(layer, T=7, B=2)
    reset = np.zeros((7, 2), bool)
    reset[3, 1] = True
    dy[:3] = 0
    _, _, tape = layer.forward(x, state, reset=reset, trace=True)
    dx, dinitial, steps = tape.backward(dy, dstate, per_step=True)
    dc = None if steps.dc is None else steps.dc[0, :3]
    for array in arrays(dx[:3], dinitial, steps.dh[0, :3], dc):
        assert not array[:, 1].any()
        assert array[:, 0].any()


@pytest.mark.parametrize("cell", CELLS)
def test_in_reverse_a_reset_separates_a_step_from_the_one_after_it(cell):
    layer = build(cell, bidirectional=True)
    x, state, _, _ = inputs(layer, T=5, B=1)
    reset = np.zeros((5, 1), bool)
    reset[2] = True
    H = layer.hidden_size
    y, _ = layer(x, state, reset=reset)
    x[3:] += 1
    changed, _ = layer(x, state, reset=reset)
    assert identical(changed[:3, :, H:], y[:3, :, H:])
    assert not near(changed[3:, :, H:], y[3:, :, H:])


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("cell", CELLS)
def test_no_reset_is_the_same_as_none_flagged(cell, training):
    layer = build(cell, **STACK)
    given = inputs(layer)
    run = (lambda *a, **k: train(layer, *given, **k)) if training else layer
    assert identical(run(*given[:2], reset=np.zeros((7, 3), bool)), run(*given[:2]))


@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_everywhere_leaves_single_steps(cell):
    layer = build(cell)
    x, state, _, _ = inputs(layer, T=4, B=3)
    y, _ = layer(x, state, reset=np.ones((4, 3), bool))
    alone, _ = layer(x.reshape(1, 12, -1))
    assert near(y, alone.reshape(4, 3, -1))


@pytest.mark.parametrize("cell", CELLS)
def test_the_tape_keeps_its_own_copy_of_the_flags(cell):
    layer = build(cell)
    x, state, dy, dstate = inputs(layer)
    reset = np.random.default_rng(0).random((7, 3)) < 0.3
    _, _, tape = layer.forward(x, state, reset=reset)
    expected = tape.backward(dy, dstate)
    reset[...] = ~reset
    assert identical(tape.backward(dy, dstate), expected)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_past_a_rows_end_is_read(cell, batch_first):
    layer = build(cell, **STACK, batch_first=batch_first)
    x, state, dy, dstate = inputs(layer, T=6, B=3)
    lengths, reset = np.array([2, 6, 0]), np.zeros((6, 3), bool)
    expected = train(layer, x, state, dy, dstate, lengths=lengths)
    padding = np.arange(6)[:, None] >= lengths
    reset[padding] = True
    where = padding.T if batch_first else padding
    x[where], dy[where] = np.nan, np.nan
    reset = reset.T if batch_first else reset
    assert identical(train(layer, x, state, dy, dstate, lengths=lengths, reset=reset), expected)


@pytest.mark.parametrize("T", [6, 300])  # small arrays are NumPy's own, large ones pooled
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2}, STACK])
def test_whatever_was_there_before_padding_is_zeros(stack, batch_first, T):
    layer = build("lstm", **stack, batch_first=batch_first)
    x, state, dy, dstate = inputs(layer, T=T, B=60)
    train(layer, x, state, dy, dstate)  # leaves its numbers in the memory that is used again
    lengths = np.arange(60) * T // 59
    y, _, tape = layer.forward(x, state, lengths=lengths)
    dx, _ = tape.backward(dy, dstate)
    padding = np.arange(T)[:, None] >= lengths
    for array in (y, dx):
        rows = array.swapaxes(0, 1) if batch_first else array
        assert not rows[padding].any()
        assert rows[~padding].any(axis=-1).all()


def test_lengths_and_resets_pass_through_a_sequential():
    model = fr.Sequential(fr.LSTM(3, 4, seed=0), fr.Linear(4, 4, seed=1), fr.GRU(4, 2, seed=2))
    x = np.random.default_rng(0).standard_normal((5, 2, 3), np.float32)
    reset = np.random.default_rng(1).random((5, 2)) < 0.4
    y, _, _ = model.forward(x, lengths=[3, 5], reset=reset)
    h, _ = model.layers[0](x, lengths=[3, 5], reset=reset)
    h, _ = model.layers[1](h)
    assert identical(y, model.layers[2](h, lengths=[3, 5], reset=reset)[0])
    assert identical(y, model(x, lengths=[3, 5], reset=reset)[0])
