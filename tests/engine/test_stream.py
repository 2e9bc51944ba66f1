"""Stream: a layer step by step computes what the layer computes on whole sequences.

What it is: outputs, state, reset, `out`, refusals that change nothing. What it is not: several
streams at once (test_threads.py).
"""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, arrays, build, identical, inputs, near, threads

each_cell = pytest.mark.parametrize("cell", CELLS)


def steps(stream, x):
    """y of every step, (T, B, H)."""
    return np.stack([stream.step(x_t) for x_t in x])


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_cell
def test_steps_give_what_the_layer_gives_on_the_sequence(cell, dtype, layers, tokens):
    layer = build(cell, num_layers=layers, dtype=dtype)
    x, state, *_ = inputs(layer, tokens=tokens)
    stream = layer.stream(x.shape[1])
    y, final = layer(x)
    assert near(steps(stream, x), y)
    assert near(stream.state, final)
    stream.state = state
    y, final = layer(x, state)
    assert near(steps(stream, x), y)
    assert near(stream.state, final)


@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_steps_that_several_threads_share_give_what_the_layer_gives(cell, split):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    x, *_ = inputs(layer, T, B)
    with threads(4):
        stream = layer.stream(B)
        assert near(steps(stream, x), layer(x)[0])


def test_a_batch_first_layer_streams_rows_as_any_other():
    layer = build("lstm", batch_first=True)
    x, *_ = inputs(layer)
    assert near(steps(layer.stream(3), x.swapaxes(0, 1)), layer(x)[0].swapaxes(0, 1))


def test_a_stream_serves_one_row_unless_told_otherwise():
    layer = build("gru")
    x, *_ = inputs(layer, B=1)
    stream = layer.stream()
    assert stream.batch == 1
    assert near(steps(stream, x), layer(x)[0])


@each_cell
def test_the_state_starts_at_zero_and_reset_goes_back_there(cell):
    layer = build(cell, num_layers=2)
    x, state, *_ = inputs(layer)
    stream = layer.stream(3)
    assert [a.shape for a in arrays(stream.state)] == [a.shape for a in arrays(state)]
    assert not any(a.any() for a in arrays(stream.state))
    first = steps(stream, x)
    assert all(a.any() for a in arrays(stream.state))
    stream.reset()
    assert not any(a.any() for a in arrays(stream.state))
    assert identical(steps(stream, x), first)


@each_cell
def test_a_state_that_was_read_can_be_put_back(cell):
    layer = build(cell, num_layers=2)
    x, *_ = inputs(layer)
    stream = layer.stream(3)
    steps(stream, x[:4])
    saved = stream.state
    rest = steps(stream, x[4:])
    stream.state = saved
    assert identical(stream.state, saved)
    assert identical(steps(stream, x[4:]), rest)
    stream.state = None
    assert not any(a.any() for a in arrays(stream.state))


def test_one_half_of_an_lstm_state_may_be_none():
    layer = build("lstm")
    stream = layer.stream(3)
    _, (h, c), *_ = inputs(layer)
    stream.state = (h, None)
    assert identical(stream.state, (h, np.zeros_like(c)))
    stream.state = (None, c)
    assert identical(stream.state, (np.zeros_like(h), c))


@each_cell
def test_the_state_that_is_read_is_a_copy_and_so_is_the_one_that_is_set(cell):
    layer = build(cell)
    x, state, *_ = inputs(layer)
    stream = layer.stream(3)
    stream.state = state
    before = [a.copy() for a in arrays(state)]
    for array in arrays(stream.state, state):
        array[...] = 7
    assert identical(arrays(stream.state), before)
    seen = stream.state
    seen_before = [a.copy() for a in arrays(seen)]
    stream.step(x[0])
    assert identical(arrays(seen), seen_before)


@each_cell
def test_out_receives_y_and_is_returned(cell):
    layer = build(cell)
    x, *_ = inputs(layer)
    expected = steps(layer.stream(3), x)
    stream, out = layer.stream(3), np.empty((3, 9), np.float32)
    for x_t, y in zip(x, expected, strict=True):
        assert stream.step(x_t, out) is out
        assert identical(out, y)


@each_cell
def test_out_may_be_the_array_that_x_is(cell):
    layer = build(cell, I=9, H=9)
    x, *_ = inputs(layer)
    expected = steps(layer.stream(3), x)
    stream, both = layer.stream(3), np.empty((3, 9), np.float32)
    for x_t, y in zip(x, expected, strict=True):
        both[...] = x_t
        assert identical(stream.step(both, out=both), y)


def test_without_out_every_step_returns_an_array_of_its_own():
    layer = build("gru")
    x, *_ = inputs(layer)
    stream = layer.stream(3)
    first = stream.step(x[0])
    kept = first.copy()
    assert not np.shares_memory(stream.step(x[1]), first)
    assert identical(first, kept)


def test_streams_of_one_layer_do_not_share_their_state():
    layer = build("lstm")
    x, *_ = inputs(layer)
    alone = steps(layer.stream(3), x)
    first, second = layer.stream(3), layer.stream(3)
    for x_t, y in zip(x, alone, strict=True):
        assert identical(first.step(x_t), y)
        second.step(-x_t)


def test_floats_and_tokens_may_take_turns():
    layer = build("gru")
    ids, *_ = inputs(layer, tokens=True)
    one_hot = np.eye(layer.input_size, dtype=np.float32)[ids]
    stream = layer.stream(3)
    ys = [stream.step(one_hot[t] if t % 2 else ids[t]) for t in range(len(ids))]
    assert near(np.stack(ys), layer(ids)[0])


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8"])
def test_token_ids_may_be_of_any_integer_type(dtype):
    layer = build("gru")
    ids, *_ = inputs(layer, tokens=True)
    assert identical(steps(layer.stream(3), ids.astype(dtype)), steps(layer.stream(3), ids))


def test_token_ids_may_be_a_field_of_packed_records():
    layer = build("gru")
    ids, *_ = inputs(layer, tokens=True)
    records = np.zeros(ids.shape, [("flag", "i4"), ("id", "i8")])
    records["id"] = ids
    assert identical(steps(layer.stream(3), records["id"]), steps(layer.stream(3), ids))


def test_x_may_be_of_any_memory_layout_or_a_list():
    layer = build("lstm", dtype="float64")
    x, *_ = inputs(layer)
    expected = steps(layer.stream(3), x)
    wide = np.zeros((*x.shape[:2], 2 * x.shape[2]))
    wide[..., ::2] = x
    locked = x.copy()
    locked.flags.writeable = False
    for same in (wide[..., ::2], np.asfortranarray(x), locked, x.tolist()):
        assert identical(steps(layer.stream(3), same), expected)


@each_cell
def test_weights_from_an_optimizer_or_a_state_dict_count_from_the_next_step(cell):
    layer, other = build(cell), build(cell, seed=5)
    x, state, dy, _ = inputs(layer)
    stream = layer.stream(3)
    stream.step(x[0])
    layer.load_state_dict(other.state_dict())
    stream.state = state
    assert identical(stream.step(x[0]), layer(x[:1], state)[0][0])
    layer.forward(x)[2].backward(dy)
    fr.optim.SGD(layer, lr=0.5).step()
    stream.state = state
    changed = stream.step(x[0])
    assert identical(changed, layer(x[:1], state)[0][0])
    assert not identical(changed, other(x[:1], state)[0][0])


@each_cell
def test_weights_edited_by_hand_count_from_the_next_reset(cell):
    layer = build(cell)
    x, *_ = inputs(layer)
    stream = layer.stream(3)
    stream.step(x[0])
    layer.params["weight_ih_l0"][...] *= 2
    stream.reset()
    assert near(steps(stream, x), layer(x)[0])


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_a_step_with_out_allocates_nothing(tokens):
    layer = build("lstm", I=50, H=200, num_layers=2)
    x, *_ = inputs(layer, B=8, tokens=tokens)
    stream, out = layer.stream(8), np.empty((8, 200), np.float32)
    x_t = x[0]
    stream.step(x_t, out)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            stream.step(x_t, out)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - before < 512 and peak - before < 2048  # a row of h is 800 bytes, there are 32


BAD_X = {
    "one_axis": (lambda: np.zeros(5, np.float32), r"x: expected shape \(3, 5\), got \(5,\)"),
    "three_axes": (
        lambda: np.zeros((1, 3, 5), np.float32),
        r"x: expected shape \(3, 5\), got \(1,",
    ),
    "rows": (lambda: np.zeros((2, 5), np.float32), r"x: expected shape \(3, 5\), got \(2, 5\)"),
    "columns": (lambda: np.zeros((3, 4), np.float32), r"x: expected shape \(3, 5\), got \(3, 4\)"),
    "float64": (lambda: np.zeros((3, 5)), r"x: expected float32 .*, got an array of float64"),
    "swapped": (lambda: np.zeros((3, 5), np.dtype("f4").newbyteorder()), "x: .*foreign byte order"),
    "bool": (lambda: np.zeros(3, bool), "x: expected float32 or integer token ids, .*bool"),
    "none": (lambda: None, "x: expected float32 or integer token ids, .*object"),
    "ids": (lambda: np.zeros(2, int), r"x: expected 3 token ids, got shape \(2,\)"),
    "id_axes": (lambda: np.zeros((3, 5), int), r"x: expected 3 token ids, got shape \(3, 5\)"),
    "id_high": (lambda: np.array([0, 5, 1]), r"x: expected token ids in \[0, 5\), got 5 at b=1"),
    "id_low": (lambda: np.array([0, 1, -1]), r"x: expected token ids in \[0, 5\), got -1 at b=2"),
}


@pytest.mark.parametrize("kind", BAD_X)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bad_x_is_refused_and_the_state_stays(cell, kind):
    layer = build(cell, num_layers=2)
    stream = layer.stream(3)
    stream.step(inputs(layer)[0][0])
    before, out = stream.state, np.full((3, 9), 7, np.float32)
    make, message = BAD_X[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        stream.step(make(), out)
    assert identical(stream.state, before)
    assert (out == 7).all()


def locked():
    out = np.zeros((3, 9), np.float32)
    out.flags.writeable = False
    return out


BAD_OUT = {
    "shape": lambda: np.zeros((9, 3), np.float32),
    "dtype": lambda: np.zeros((3, 9)),
    "byte_order": lambda: np.zeros((3, 9), np.dtype("f4").newbyteorder()),
    "strided": lambda: np.zeros((3, 18), np.float32)[:, ::2],
    "read_only": locked,
    "list": lambda: [[0.0] * 9] * 3,
}


@pytest.mark.parametrize("kind", BAD_OUT)
def test_a_bad_out_is_refused_and_the_state_stays(kind):
    layer = build("lstm")
    x, *_ = inputs(layer)
    stream = layer.stream(3)
    stream.step(x[0])
    before, out = stream.state, BAD_OUT[kind]()
    message = r"out: expected a writeable C-contiguous array of float32 with shape \(3, 9\), got"
    with pytest.raises(ValueError, match=message):
        stream.step(x[1], out)
    assert identical(stream.state, before)
    assert not np.any(out)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros((1, 3, 9), np.float32), r"state: expected a pair \(h, c\), got an array"),
        ((np.zeros((1, 3, 9), np.float32),), r"state: expected a pair \(h, c\), got tuple"),
        ((None, np.ones((2, 3, 9), np.float32)), r"c: expected shape \(1, 3, 9\), got \(2, 3, 9\)"),
        ((np.ones((1, 3, 9)), None), "h: expected float32, got an array of float64"),
        ((np.ones((1, 3, 9), np.float32), "c"), "c: expected an array of float32"),
    ],
    ids=["one_array", "one_of_two", "shape", "dtype", "text"],
)
def test_a_bad_state_is_refused_and_the_state_stays(state, message):
    layer = build("lstm")
    stream = layer.stream(3)
    stream.step(inputs(layer)[0][0])
    before = stream.state
    with pytest.raises((ValueError, TypeError), match=message):
        stream.state = state
    assert identical(stream.state, before)


@pytest.mark.parametrize("batch", [0, -1, 1.5, "1", None])
def test_a_batch_that_is_no_positive_integer_is_refused(batch):
    with pytest.raises(ValueError, match="batch: expected an integer of at least 1, got"):
        build("gru").stream(batch)


@pytest.mark.parametrize("batch", [2**40, 2**59, 2**62])
def test_a_batch_beyond_any_memory_is_refused(batch):
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        build("gru").stream(batch)


def test_a_bidirectional_layer_has_no_stream():
    with pytest.raises(ValueError, match="stream: a bidirectional layer needs whole sequences"):
        build("gru", bidirectional=True).stream()


@pytest.mark.parametrize("batch", [2**45, 2**59, 2**70])
def test_a_batch_beyond_any_memory_is_refused_by_name(batch):
    with pytest.raises((ValueError, MemoryError), match=f"^batch: {batch} rows"):
        build("lstm").stream(batch)


def test_an_unsigned_token_is_named_as_it_came():
    message = rf"x: expected token ids in \[0, 5\), got {2**63 + 5} at b=0"
    with pytest.raises(ValueError, match=message):
        build("gru").stream().step(np.array([2**63 + 5], np.uint64))
