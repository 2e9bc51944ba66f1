"""What may not change a result, to the last bit: another run, a tape, a second backward pass.

What it is: equality of the engine with itself. What it is not: several Python threads at once
(test_threads.py), fork (test_fork.py), agreement with an oracle (test_parity_twin.py).
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import (
    CELLS,
    SPLITS,
    STACK,
    arrays,
    build,
    identical,
    inputs,
    near,
    python,
    threads,
    train,
)

each_cell = pytest.mark.parametrize("cell", CELLS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [1, 2, 4])
@each_cell
def test_the_same_call_gives_the_same_bits_again(cell, count, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    given = inputs(layer, T, B)
    with threads(count):
        first = train(layer, *given)
        assert all(identical(train(layer, *given), first) for _ in range(2))


@pytest.mark.parametrize("what", ["T", "B", "threads", "lengths"])
def test_a_layer_has_memory_for_a_large_call_after_a_small_one(what):
    """Sizes of scratch are kept from call to call; of the small one they would not do by far.

    In a process of its own: writing past the end of memory is as likely to end it as to show.
    """
    large = {"T": 3000, "B": 3000, "threads": 48, "lengths": [3000, 2]}[what]
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_determinism import large_after_small
assert large_after_small({what!r}, {large!r})
"""
    run = python(code)
    assert run.returncode == 0, run.stderr[-2000:]


def large_after_small(what, large):
    """Whether a layer that has seen a small call answers a large one like a layer that has not."""
    sizes = {"T": 4, "B": 4, "threads": 1, "lengths": None}
    layers = [build("lstm", 8, 70), build("lstm", 8, 70)]

    def both_passes(layer, T, B, threads, lengths):
        fr.set_num_threads(threads)
        given = inputs(layer, T, B)
        return train(layer, *given, lengths=lengths), layer(*given[:2], lengths=lengths)

    if what == "lengths":
        sizes |= {"T": 3000, "B": 2, "lengths": [1, 1]}
    if what == "threads":
        sizes |= {"T": 50, "B": 96}  # work for all of them
    both_passes(layers[0], **sizes)
    sizes[what] = large
    return identical(*(both_passes(layer, **sizes) for layer in layers))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_another_number_of_threads_gives_the_same_up_to_rounding(cell, split, count):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H, dtype="float64")
    given = inputs(layer, T, B)
    with threads(1):
        alone = train(layer, *given)
    with threads(count):
        assert layer._engine.plan(T, B)["threads"] > 1
        assert near(train(layer, *given), alone)


def digest():
    """A hash of everything that every cell computes, with two threads."""
    sha = hashlib.sha256()
    with threads(2):
        for cell in CELLS:
            for T, B, I, H in SPLITS.values():
                layer = build(cell, I, H)
                for array in train(layer, *inputs(layer, T, B)):
                    sha.update(array.tobytes())
    return sha.hexdigest()


def test_a_fresh_process_computes_the_same_bits():
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import test_determinism as test\n"
    run = python(code + "print(test.digest())", FASTRNN_ISA=fr.show_config()["isa"])
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("options", [{"dtype": "float64"}, STACK, {"batch_first": True}], ids=str)
@each_cell
def test_inference_and_training_compute_the_same_bits(cell, options, tokens):
    layer = build(cell, **options)
    x, state, _, _ = inputs(layer, tokens=tokens)
    assert identical(layer(x, state), layer.forward(x, state)[:2])
    assert identical(layer(x), layer.forward(x)[:2])


@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_inference_and_training_compute_the_same_bits_on_several_threads(cell, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    x, state, _, _ = inputs(layer, T, B)
    with threads(2):
        assert identical(layer(x, state), layer.forward(x, state)[:2])


@each_dtype
@each_cell
def test_no_state_is_a_state_of_zeros(cell, dtype):
    layer = build(cell, dtype=dtype, **STACK)
    x, state, dy, dstate = inputs(layer)
    zeros = tuple(map(np.zeros_like, state)) if cell == "lstm" else np.zeros_like(state)
    assert identical(train(layer, x, None, dy, dstate), train(layer, x, zeros, dy, dstate))
    if cell == "lstm":
        for half in ((None, state[1]), (state[0], None)):
            filled = tuple(z if s is None else s for s, z in zip(half, zeros, strict=True))
            assert identical(layer(x, half), layer(x, filled))


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5, 6), (3,)], ids=str)
@each_dtype
@each_cell
def test_a_sequence_in_pieces_gives_the_outputs_and_gradients_of_the_whole(cell, dtype, cuts):
    layer = build(cell, dtype=dtype, num_layers=2)
    x, state, dy, dstate = inputs(layer, T=7)
    y, final, dx, dinitial, gradient = train_parts(layer, x, state, dy, dstate, ())
    y2, final2, dx2, dinitial2, gradient2 = train_parts(layer, x, state, dy, dstate, cuts)
    assert near((y2, final2), (y, final))
    assert near((dx2, dinitial2, gradient2), (dx, dinitial, gradient))


@pytest.mark.parametrize("B", [1, 4])
@each_cell
def test_a_long_sequence_in_halves_gives_the_outputs_and_gradients_of_the_whole(cell, B):
    layer = build(cell, I=3, H=5, dtype="float64")
    given = inputs(layer, T=700, B=B)
    whole, halves = train_parts(layer, *given, ()), train_parts(layer, *given, (377,))
    assert near(halves, whole)


def train_parts(layer, x, state, dy, dstate, cuts):
    """One training step with the state, and then its gradient, handed from piece to piece."""
    layer.zero_grad()
    ys, tapes, dxs = [], [], []
    for piece in np.split(x, cuts):
        y, state, tape = layer.forward(piece, state)
        ys.append(y)
        tapes.append(tape)
    for tape, piece in zip(tapes[::-1], np.split(dy, cuts)[::-1], strict=True):
        dx, dstate = tape.backward(piece, dstate)
        dxs.append(dx)
    return np.concatenate(ys), state, np.concatenate(dxs[::-1]), dstate, layer._flat_grad.copy()


@pytest.mark.parametrize("options", [{}, STACK], ids=["one", "stack"])
@each_dtype
@each_cell
def test_backward_twice_gives_the_same_and_adds_the_gradient_twice(cell, dtype, options):
    layer = build(cell, dtype=dtype, **options)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    first = tape.backward(dy, dstate)
    once = layer._flat_grad.copy()
    assert once.any()
    assert identical(tape.backward(dy, dstate), first)
    assert near(layer._flat_grad, 2 * once)
    layer.zero_grad()
    assert identical(tape.backward(dy, dstate), first)
    assert identical(layer._flat_grad, once)


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@each_cell
def test_backward_adds_to_the_gradients_that_are_there(cell, tokens):
    layer = build(cell, dtype="float64", **STACK)
    x, state, dy, dstate = inputs(layer, tokens=tokens)
    _, _, tape = layer.forward(x, state)
    tape.backward(dy, dstate)
    alone = layer._flat_grad.copy()
    there = np.random.default_rng(2).standard_normal(alone.shape)
    layer._flat_grad[...] = there
    tape.backward(dy, dstate)
    assert near(layer._flat_grad - there, alone)


@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_backward_twice_on_several_threads_gives_the_same_bits(cell, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    x, state, dy, dstate = inputs(layer, T, B)
    with threads(4):
        _, _, tape = layer.forward(x, state)
        first = (tape.backward(dy, dstate), layer._flat_grad.copy())
        layer.zero_grad()
        assert identical((tape.backward(dy, dstate), layer._flat_grad), first)


@each_cell
def test_a_tape_may_be_run_with_another_number_of_threads_than_its_forward(cell):
    T, B, I, H = SPLITS["grid"]
    layer = build(cell, I, H, dtype="float64")
    x, state, dy, dstate = inputs(layer, T, B)
    with threads(1):
        expected = train(layer, x, state, dy, dstate)
        _, _, tape = layer.forward(x, state)
    layer.zero_grad()
    with threads(5):
        assert near(
            (tape.backward(dy, dstate), layer._flat_grad), expected[-2 - len(arrays(state)) :]
        )


@each_cell
def test_a_missing_gradient_counts_as_zeros(cell):
    layer = build(cell, dtype="float64", **STACK)
    x, state, dy, dstate = inputs(layer)
    no_dy = np.zeros_like(dy)
    none = tuple(map(np.zeros_like, dstate)) if cell == "lstm" else np.zeros_like(dstate)
    assert identical(train(layer, x, state, None, dstate), train(layer, x, state, no_dy, dstate))
    assert identical(train(layer, x, state, dy, None), train(layer, x, state, dy, none))
    nothing = train(layer, x, state, None, None)
    assert not any(array.any() for array in nothing[1 + len(arrays(state)) :])
    if cell == "lstm":
        for half in ((dstate[0], None), (None, dstate[1])):
            filled = tuple(z if d is None else d for d, z in zip(half, none, strict=True))
            assert identical(
                train(layer, x, state, dy, half), train(layer, x, state, dy, filled)
            )  # fmt: skip


@pytest.mark.parametrize("options", [{}, STACK], ids=["one", "stack"])
@each_cell
def test_the_gradient_of_x_can_be_left_out_and_nothing_else_changes(cell, options):
    layer = build(cell, **options)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    _, dinitial = tape.backward(dy, dstate)
    gradient = layer._flat_grad.copy()
    layer.zero_grad()
    dx, again = tape.backward(dy, dstate, need_dx=False)
    assert dx is None
    assert identical((again, layer._flat_grad), (dinitial, gradient))


@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_the_gradient_of_the_initial_state_can_be_left_out_and_nothing_else_changes(cell, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    x, state, dy, dstate = inputs(layer, T, B)
    with threads(2):
        _, _, tape = layer.forward(x, state)
        dx, _ = tape.backward(dy, dstate)
        gradient = layer._flat_grad.copy()
        layer.zero_grad()
        again, dinitial = tape.backward(dy, dstate, need_dstate=False)
    assert dinitial is None
    assert identical((again, layer._flat_grad), (dx, gradient))


def test_without_need_of_dstate_a_stack_of_both_directions_gives_the_same_dx():
    layer = build("lstm", **STACK)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    dx, _, steps = tape.backward(dy, dstate, per_step=True)
    again, dinitial, same = tape.backward(dy, dstate, per_step=True, need_dstate=False)
    assert dinitial is None
    assert identical((again, same.dh, same.dc), (dx, steps.dh, steps.dc))


@each_cell
def test_a_tape_does_not_see_what_happens_after_its_forward(cell):
    layer = build(cell, **STACK)
    x, state, dy, dstate = inputs(layer)
    expected = train(layer, x, state, dy, dstate)
    y, final, tape = layer.forward(x, state)
    for array in (*layer.params.values(), *arrays(state, final)):
        array[...] = 7  # weights, the initial state, the final state
    other, _, dother, _ = inputs(layer, T=5, B=4, seed=9)
    layer.forward(other)[2].backward(dother)
    layer.zero_grad()
    dx, dinitial = tape.backward(dy, dstate)
    assert identical(
        (y, dx, dinitial, layer._flat_grad), (expected[0], *expected[1 + len(arrays(state)) :])
    )


@each_cell
def test_a_call_writes_to_none_of_its_arguments(cell):
    layer = build(cell, **STACK)
    given = inputs(layer)
    before = [array.copy() for array in arrays(given)]
    weights = layer.state_dict()
    train(layer, *given)
    assert identical(arrays(given), before)
    assert identical(tuple(layer.state_dict().values()), tuple(weights.values()))


@each_cell
def test_what_a_call_returns_is_the_callers_own(cell):
    layer = build(cell)
    x, state, dy, dstate = inputs(layer)
    first = [arrays(*layer(x, state)), arrays(*layer.forward(x, state)[2].backward(dy, dstate))]
    copies = [[array.copy() for array in part] for part in first]
    again = [arrays(*layer(x, state)), arrays(*layer.forward(x, state)[2].backward(dy, dstate))]
    assert not any(
        np.shares_memory(a, b)
        for a, b in zip(first[0] + first[1], again[0] + again[1], strict=True)
    )
    for part, copy in zip(first, copies, strict=True):
        assert identical(part, copy)
        assert all(array.flags.writeable and array.flags.c_contiguous for array in part)


def test_the_y_that_a_tape_needs_again_is_read_only():
    layer = build("gru")
    x, *_ = inputs(layer)
    y, final, _ = layer.forward(x)
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 0
    final[...] = 0  # nobody needs that


@pytest.mark.parametrize("count", [1, 2])
def test_the_caller_keeps_subnormal_numbers_though_the_engine_flushes_them(count):
    tiny = np.full(4, 1e-39, np.float32)
    layer = build("rnn_relu", I=1, H=130, bias=False)
    layer.params["weight_ih_l0"] = 1
    layer.params["weight_hh_l0"] = 0
    x = np.full((3, 70, 1), tiny[0])
    with threads(count):
        y, _, tape = layer.forward(x)
        tape.backward(np.ones_like(y))
    assert not y.any()
    assert (tiny * np.float32(0.5)).all()
