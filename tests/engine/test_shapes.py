"""Every layout of the arguments that is allowed, down to none at all, gives the plain result.

What it is: empty, strided, read-only and unaligned arrays, token types, batch first, rows of
different length. What it is not: what is refused (test_bad_input.py), sizes beside vector and tile
widths (test_parity_twin.py).
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, arrays, build, identical, inputs, near, train

each_cell = pytest.mark.parametrize("cell", CELLS)
one_and_stack = pytest.mark.parametrize("options", [{}, STACK], ids=["one", "stack"])
kinds_of_x = pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])


@kinds_of_x
@one_and_stack
@each_cell
def test_no_steps_return_the_initial_state_and_hand_its_gradient_through(cell, options, tokens):
    layer = build(cell, **options)
    x, state, dy, dstate = inputs(layer, T=0, tokens=tokens)
    y, final = layer(x, state)
    assert y.shape == dy.shape and y.size == 0
    assert identical(final, state)
    y, final, tape = layer.forward(x, state)
    assert identical((y, final), (dy, state))
    for given in (dy, None):
        dx, dinitial = tape.backward(given, dstate)
        assert identical(dinitial, dstate)
        assert dx is None if tokens else dx.shape == x.shape
    assert not layer._flat_grad.any()
    assert not any(array.any() for array in arrays(layer(x)[1]))


@kinds_of_x
@one_and_stack
@each_cell
def test_an_empty_batch_gives_empty_arrays_and_no_gradient(cell, options, tokens):
    layer = build(cell, **options)
    x, state, dy, dstate = inputs(layer, B=0, tokens=tokens)
    y, final, tape = layer.forward(x, state)
    assert identical((y, final), (dy, state))
    dx, dinitial = tape.backward(dy, dstate)
    assert identical(dinitial, dstate)
    assert dx is None if tokens else dx.shape == x.shape
    assert identical(layer(x), (dy, state))
    assert not layer._flat_grad.any()


@each_cell
def test_one_of_everything_works(cell):
    layer = build(cell, I=1, H=1, dtype="float64")
    x, state, dy, dstate = inputs(layer, T=1, B=1)
    y, *_ = train(layer, x, state, dy, dstate)
    assert y.shape == (1, 1, 1) and np.isfinite(y).all() and y[0, 0, 0] != state[0].flat[0]


@one_and_stack
@each_cell
def test_batch_first_is_the_same_with_the_axes_of_y_and_x_exchanged(cell, options):
    layer, other = build(cell, **options), build(cell, **options, batch_first=True)
    x, state, dy, dstate = inputs(layer)
    y, *rest = train(layer, x, state, dy, dstate)
    swapped = train(other, x.swapaxes(0, 1), state, dy.swapaxes(0, 1), dstate)
    at = len(arrays(state))  # dx comes after the final states
    swapped[0] = swapped[0].swapaxes(0, 1)
    swapped[1 + at] = swapped[1 + at].swapaxes(0, 1)
    assert identical(swapped, [y, *rest])


def every_other(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def padded(a):
    wide = np.zeros((a.shape[0] + 2, a.shape[1] + 1, *(n + 3 for n in a.shape[2:])), a.dtype)
    part = wide[1:-1, 1:, *(slice(2, -1) for _ in a.shape[2:])]
    part[...] = a
    return part


def reversed_axes(a):
    return np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]


def packed_field(a):
    records = np.zeros(a.shape, [("flag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def packed_rows(a):
    records = np.zeros(a.shape[:-1], [("flag", "u1"), ("value", a.dtype, a.shape[-1:])])
    records["value"] = a
    return records["value"]


def unaligned(a):
    part = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    part[...] = a
    return part


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "every_other_element": every_other,
    "part_of_a_larger_array": padded,
    "negative_strides": reversed_axes,
    "column_order": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "field_of_packed_records": packed_field,
    "rows_of_packed_records": packed_rows,
    "unaligned": unaligned,
    "read_only": read_only,
    "subclass": lambda a: a.view(Subclass),
}


def laid_out(layout, value):
    if isinstance(value, tuple):
        return tuple(laid_out(layout, part) for part in value)
    result = LAYOUTS[layout](value)
    assert np.array_equal(result, value)
    return result


@kinds_of_x
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_arguments_of_any_memory_layout_give_the_same_bits(cell, layout, tokens):
    layer = build(cell, **STACK)
    given = inputs(layer, tokens=tokens)
    expected = train(layer, *given)
    there = tuple(laid_out(layout, value) for value in given)
    assert identical(layer(*there[:2]), expected[: 1 + len(arrays(given[1]))])
    assert identical(train(layer, *there), expected)


@each_cell
def test_repeated_rows_may_be_one_row_of_stride_zero(cell):
    layer = build(cell)
    x, _, dy, _ = inputs(layer, B=1)
    shapes = [(x.shape[0], 4, n) for n in (x.shape[2], dy.shape[2])]
    x, dy = (np.broadcast_to(a, shape) for a, shape in zip((x, dy), shapes, strict=True))
    assert identical(train(layer, x, None, dy, None), train(layer, x.copy(), None, dy.copy(), None))


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i8", ">u2", "intp"]
)
@one_and_stack
def test_token_ids_may_be_of_any_integer_type(options, dtype):
    layer = build("gru", **options)
    x, *given = inputs(layer, tokens=True)
    assert identical(train(layer, x.astype(dtype), *given), train(layer, x, *given))


@pytest.mark.parametrize("options", [{"dtype": "float64"}, STACK, {"bias": False}], ids=str)
@each_cell
def test_token_ids_give_what_one_hot_rows_give(cell, options):
    layer = build(cell, **options)
    ids, state, dy, dstate = inputs(layer, tokens=True)
    one_hot = np.eye(layer.input_size, dtype=layer.dtype)[ids]
    of_ids = train(layer, ids, state, dy, dstate)
    of_rows = train(layer, one_hot, state, dy, dstate)
    del of_rows[1 + len(arrays(state))]  # dx, which ids do not have
    assert near(of_ids, of_rows)


def test_lists_count_as_arrays_of_the_layers_dtype():
    for dtype in ("float32", "float64"):
        layer = build("rnn_tanh", dtype=dtype)
        x, *_ = inputs(layer)
        ids, *_ = inputs(layer, tokens=True)
        assert identical(layer(x.tolist()), layer(x))
        assert identical(layer(ids.tolist()), layer(ids))


def test_a_state_of_a_list_pair_counts_as_a_tuple():
    layer = build("lstm")
    x, state, dy, dstate = inputs(layer)
    assert identical(
        train(layer, x, list(state), dy, list(dstate)), train(layer, x, state, dy, dstate)
    )


LENGTHS = [2, 7, 0, 5, 7]


@kinds_of_x
@one_and_stack
@each_cell
def test_rows_of_different_length_give_what_each_gives_alone(cell, options, tokens):
    layer = build(cell, dtype="float64", **options)
    x, state, dy, dstate = inputs(layer, B=len(LENGTHS), tokens=tokens)
    together = train(layer, x, state, dy, dstate, lengths=LENGTHS)
    gradient = 0
    for b, n in enumerate(LENGTHS):
        row = slice(b, b + 1)
        own, down = ([a[:, row] for a in arrays(s)] for s in (state, dstate))
        own, down = (tuple(s) if len(s) == 2 else s[0] for s in (own, down))
        alone = train(layer, x[:n, row], own, dy[:n, row], down)
        gradient += alone.pop()
        for whole, part in zip(together[:-1], alone, strict=True):
            long = whole.shape[0] == len(x)  # y and dx, against states
            assert near(whole[:n, row] if long else whole[:, row], part)
            assert not long or not whole[n:, row].any()
    assert near(together[-1], gradient)


@one_and_stack
@each_cell
def test_steps_past_the_end_of_a_row_are_not_looked_at(cell, options):
    layer = build(cell, **options)
    x, state, dy, dstate = inputs(layer, B=len(LENGTHS))
    expected = train(layer, x, state, dy, dstate, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        x[n:, b] = dy[n:, b] = np.nan
    assert identical(train(layer, x, state, dy, dstate, lengths=LENGTHS), expected)


@pytest.mark.parametrize("dtype", ["u1", "i4", ">i8", "list"])
def test_lengths_may_be_a_list_or_of_any_integer_type(dtype):
    layer = build("gru")
    x, state, *_ = inputs(layer, B=len(LENGTHS))
    given = LENGTHS if dtype == "list" else np.array(LENGTHS, dtype)
    assert identical(layer(x, state, given), layer(x, state, np.array(LENGTHS)))
    assert identical(layer(x, state, [7] * 5)[1], layer(x, state)[1])
