"""What the layers refuse: one clear error, nothing changed, nothing leaked.

What it is: constructor arguments, x, tokens, state, lengths, dy, dstate, and `out` of a product;
and numbers that are not finite, which are no error but must stay in their row. What it is not:
layouts that are allowed (test_shapes.py), streams (test_stream.py), the environment
(test_config.py), model files (test_checkpoint.py).
"""

import contextlib
import gc
import os
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _core

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, arrays, build, identical, inputs, python, threads, train

each_cell = pytest.mark.parametrize("cell", CELLS)
SWAPPED = np.dtype("f4").newbyteorder()


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@contextlib.contextmanager
def refused(layer, message, *given):
    """The block raises with this message; the layer and the given arrays stay as they are."""
    layer._flat_grad[...] = 3
    weights, copies = layer.state_dict(), [array.copy() for array in arrays(given)]
    x, state, *_ = inputs(layer)
    before = layer(x, state)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        yield
    assert len(caught.value.args) == 1 and "\n" not in str(caught.value)
    assert (layer._flat_grad == 3).all()
    assert identical(tuple(layer.state_dict().values()), tuple(weights.values()))
    assert identical(arrays(given), copies)
    assert identical(layer(x, state), before)


# ---- x -------------------------------------------------------------------------------------------

BAD_X = {
    "two_axes": (zeros(4, 5), r"x: expected shape \(T, B, 5\), got \(4, 5\)"),
    "four_axes": (zeros(1, 4, 2, 5), r"x: expected shape \(T, B, 5\), got \(1, 4, 2, 5\)"),
    "no_axes": (np.float32(1), r"x: expected shape \(T, B, 5\), got \(\)"),
    "wrong_size": (zeros(4, 2, 6), r"x: expected shape \(T, B, 5\), got \(4, 2, 6\)"),
    "size_zero": (zeros(4, 2, 0), r"x: expected shape \(T, B, 5\), got \(4, 2, 0\)"),
    "float64": (np.zeros((4, 2, 5)), r"x: expected float32 or .* got an array of float64"),
    "float16": (zeros(4, 2, 5, dtype="f2"), "x: expected float32 or .* got an array of float16"),
    "complex": (zeros(4, 2, 5, dtype="c8"), "x: expected float32 or .* got an array of complex64"),
    "byte_order": (zeros(4, 2, 5, dtype=SWAPPED), "x: expected float32 .* foreign byte order"),
    "objects": (zeros(4, 2, 5, dtype=object), "x: expected float32 or .* got an array of object"),
    "booleans": (zeros(4, 2, dtype=bool), "x: expected float32 or .* got an array of bool"),
    "records": (zeros(4, 2, dtype=[("a", "f4")]), "x: expected float32 or .* got an array of"),
    "dates": (zeros(4, 2, dtype="M8[s]"), "x: expected float32 or .* got an array of datetime64"),
    "text": ("hello", "x: expected float32 or .* got an array of str"),
    "none": (None, "x: expected float32 or integer token ids, got"),
    "ragged": ([[1, 2], [3]], "x: expected an array, got a list with rows of different length"),
    "one_axis_of_ids": (zeros(4, dtype=int), r"x: expected token ids of shape \(T, B\), got shape"),
    "three_axes_of_ids": (zeros(4, 2, 5, dtype=int), r"x: expected token ids of shape \(T, B\)"),
}


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("kind", BAD_X)
def test_a_bad_x_is_refused(kind, training):
    layer = build("lstm", **STACK)
    x, message = BAD_X[kind]
    with refused(layer, message, x if isinstance(x, np.ndarray) else ()):
        (layer.forward if training else layer)(x)


def test_a_batch_first_layer_names_the_axes_in_its_own_order():
    layer = build("gru", batch_first=True)
    with refused(layer, r"x: expected shape \(B, T, 5\), got \(4, 5\)"):
        layer(zeros(4, 5))
    with refused(layer, r"x: expected token ids of shape \(B, T\), got shape \(4,\)"):
        layer(zeros(4, dtype=int))


def test_a_float64_layer_refuses_float32():
    layer = build("gru", dtype="float64")
    with refused(layer, "x: expected float64 or integer token ids, got an array of float32"):
        layer(zeros(4, 2, 5))


# ---- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("dtype", ["i1", "i8", ">i8"])
@pytest.mark.parametrize("bad", [-1, 5, -128])
@pytest.mark.parametrize("batch_first", [False, True], ids=["TB", "BT"])
def test_a_token_out_of_range_is_refused_and_its_place_named(batch_first, bad, dtype, training):
    layer = build("gru", **STACK, batch_first=batch_first)
    ids = np.ones((7, 3), dtype)
    ids[4, 2] = ids[6, 0] = bad  # the first is the one to name
    ids = ids.T if batch_first else ids
    message = rf"x: expected token ids in \[0, 5\), got {bad} at t=4, b=2$"
    with refused(layer, message, ids):
        (layer.forward if training else layer)(ids)


@pytest.mark.parametrize("wrong", [{"lengths": [[1], [1, 2]]}, {"reset": [[True], []]}])
def test_ragged_lengths_and_resets_are_refused_by_name(wrong):
    layer = build("gru")
    (name,) = wrong
    with refused(layer, f"^{name}: expected an array, got a list with rows of different length"):
        layer(zeros(3, 2, 5), **wrong)


@pytest.mark.parametrize("bad", [2**63, 2**64 - 1, 2**32, 5])
def test_a_token_beyond_any_signed_integer_is_refused(bad):
    layer = build("lstm")
    with refused(layer, rf"x: expected token ids in \[0, 5\), got {bad} at t=1, b=0$"):
        layer(np.array([[0], [bad]], np.uint64))


def masked(*shape, dtype=np.float32):
    return np.ma.masked_less(zeros(*shape, dtype=dtype), 1)


# What is masked would count like the rest.
MASKED = {
    "x": lambda layer: layer(masked(3, 2, 4)),
    "x in training": lambda layer: layer.forward(masked(3, 2, 4)),
    "tokens": lambda layer: layer(masked(3, 2, dtype=np.int64)),
    "h": lambda layer: layer(zeros(3, 2, 4), masked(1, 2, 5)),
    "dy": lambda layer: layer.forward(zeros(3, 2, 4))[2].backward(masked(3, 2, 5)),
    "dh": lambda layer: layer.forward(zeros(3, 2, 4))[2].backward(None, masked(1, 2, 5)),
    "lengths": lambda layer: layer(zeros(3, 2, 4), lengths=masked(2, dtype=np.int64)),
    "reset": lambda layer: layer(zeros(3, 2, 4), reset=masked(3, 2, dtype=bool)),
    "x of a stream": lambda layer: layer.stream(2).step(masked(2, 4)),
    "weight": lambda layer: layer.load_state_dict(
        layer.state_dict() | {"weight_hh_l0": masked(15, 5)}
    ),
}


@pytest.mark.parametrize("kind", MASKED)
def test_an_array_with_a_mask_is_refused(kind):
    layer = fr.GRU(4, 5, seed=0)
    with refused(layer, ".*: expected an array without a mask, got a MaskedArray"):
        MASKED[kind](layer)


def test_tokens_past_the_end_of_a_row_may_be_anything():
    layer = build("gru")
    ids = np.array([[1, 2], [3, 99], [4, -7]])
    y, h = layer(ids, lengths=[3, 1])
    ids[1:, 1] = 0
    assert identical((y, h), layer(ids, lengths=[3, 1]))
    ids[0, 1] = 99
    with refused(layer, r"x: expected token ids in \[0, 5\), got 99 at t=0, b=1"):
        layer(ids, lengths=[3, 1])


# ---- state and dstate ----------------------------------------------------------------------------

OF_ONE = {  # for a layer with (4, 3, 9)
    "wrong_layers": (zeros(2, 3, 9), r"h: expected shape \(4, 3, 9\), got \(2, 3, 9\)"),
    "wrong_batch": (zeros(4, 1, 9), r"h: expected shape \(4, 3, 9\), got \(4, 1, 9\)"),
    "wrong_size": (zeros(4, 3, 5), r"h: expected shape \(4, 3, 9\), got \(4, 3, 5\)"),
    "axes": (zeros(3, 9), r"h: expected shape \(4, 3, 9\), got \(3, 9\)"),
    "float64": (np.zeros((4, 3, 9)), "h: expected float32, got an array of float64 with shape"),
    "integers": (zeros(4, 3, 9, dtype=int), "h: expected float32, got an array of int64"),
    "byte_order": (zeros(4, 3, 9, dtype=SWAPPED), "h: expected float32, .* foreign byte order"),
    "number": (0.0, r"h: expected an array of float32 with shape \(4, 3, 9\), got float"),
    "text": ("zeros", r"h: expected an array of float32 .* got str"),
}
GOOD = zeros(4, 3, 9)
OF_TWO = {f"h_{kind}": ((bad, GOOD), message) for kind, (bad, message) in OF_ONE.items()}
OF_TWO |= {f"c_{kind}": ((GOOD, bad), f"c{text[1:]}") for kind, (bad, text) in OF_ONE.items()}
OF_TWO |= {
    "one_array": (GOOD, r"state: expected a pair \(h, c\), got an array of float32"),
    "stacked": (zeros(2, 4, 3, 9), r"state: expected a pair \(h, c\), got an array of float32"),
    "one_in_a_tuple": ((GOOD,), r"state: expected a pair \(h, c\), got tuple"),
    "three": ((GOOD, GOOD, GOOD), r"state: expected a pair \(h, c\), got tuple"),
    "mapping": ({"h": GOOD, "c": GOOD}, r"state: expected a pair \(h, c\), got dict"),
}
PAIR = (GOOD, GOOD)
BAD_STATE = [pytest.param("gru", *case, id=f"gru-{kind}") for kind, case in OF_ONE.items()]
BAD_STATE += [pytest.param("lstm", *case, id=f"lstm-{kind}") for kind, case in OF_TWO.items()]
BAD_STATE += [pytest.param("gru", PAIR, "h: expected an array of .* got tuple", id="gru-pair")]


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize(("cell", "state", "message"), BAD_STATE)
def test_a_bad_state_is_refused(cell, state, message, training):
    layer = build(cell, **STACK)
    x, *_ = inputs(layer)
    with refused(layer, f"^{message}", x):
        (layer.forward if training else layer)(x, state)


@pytest.mark.parametrize(("cell", "dstate", "message"), BAD_STATE)
def test_a_bad_dstate_is_refused(cell, dstate, message):
    layer = build(cell, **STACK)
    x, state, dy, _ = inputs(layer)
    _, _, tape = layer.forward(x, state)
    with refused(layer, f"^d{message}", dy):
        tape.backward(dy, dstate)


# ---- dy ------------------------------------------------------------------------------------------

BAD_DY = {
    "steps": (zeros(6, 3, 18), r"dy: expected shape \(7, 3, 18\), got \(6, 3, 18\)"),
    "rows": (zeros(7, 1, 18), r"dy: expected shape \(7, 3, 18\), got \(7, 1, 18\)"),
    "one_direction": (zeros(7, 3, 9), r"dy: expected shape \(7, 3, 18\), got \(7, 3, 9\)"),
    "axes": (zeros(18), r"dy: expected shape \(7, 3, 18\), got \(18,\)"),
    "float64": (np.zeros((7, 3, 18)), "dy: expected float32, got an array of float64"),
    "integers": (zeros(7, 3, 18, dtype=int), "dy: expected float32, got an array of int64"),
    "byte_order": (zeros(7, 3, 18, dtype=SWAPPED), "dy: expected float32, .* foreign byte order"),
    "number": (1.0, r"dy: expected an array of float32 with shape \(7, 3, 18\), got float"),
    "list": ([[[0.0] * 18] * 3] * 7, "dy: expected an array of float32 .* got list"),
}


@pytest.mark.parametrize("kind", BAD_DY)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bad_dy_is_refused_and_the_tape_stays_good(cell, kind):
    layer = build(cell, **STACK)
    x, state, good, dstate = inputs(layer)
    expected = train(layer, x, state, good, dstate)
    y, final, tape = layer.forward(x, state)
    dy, message = BAD_DY[kind]
    with refused(layer, f"^{message}", dy if isinstance(dy, np.ndarray) else ()):
        tape.backward(dy, dstate)
    layer.zero_grad()
    dx, dinitial = tape.backward(good, dstate)
    assert identical((y, final, dx, dinitial, layer._flat_grad), expected)


def test_backward_wants_to_be_told_where_the_gradient_comes_in():
    _, _, tape = build("gru").forward(zeros(7, 3, 5))
    with pytest.raises(TypeError, match="backward"):
        tape.backward()
    with pytest.raises(TypeError, match="backward"):
        tape.backward(None, None, False)


BAD_CLIPS = {
    "number": 1.0,
    "name": "norm",
    "unknown": ("size", 1.0),
    "zero": ("norm", 0.0),
    "negative": ("value", -1.0),
    "nan": ("value", float("nan")),
    "text": ("value", "much"),
    "three": ("value", -1.0, 1.0),
    "list": (["value"], 1.0),
}


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_a_bad_clip_step_is_refused(kind):
    layer = build("lstm", **STACK)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    message = (
        r'^clip_step: expected \("value", limit\) or \("norm", limit\) with a limit above 0, got'
    )
    with refused(layer, message, dy):
        tape.backward(dy, dstate, clip_step=BAD_CLIPS[kind])


# ---- lengths -------------------------------------------------------------------------------------

BAD_LENGTHS = {
    "too_long": ([7, 8, 1], "lengths: expected 0 to 7, got 8 at b=1"),
    "negative": ([7, 1, -1], "lengths: expected 0 to 7, got -1 at b=2"),
    "huge": (
        np.array([1, 2, 2**63 + 1], "u8"),
        f"lengths: expected 0 to 7, got {2**63 + 1} at b=2",
    ),
    "too_few": ([7, 1], r"lengths: expected shape \(3,\), got \(2,\)"),
    "two_axes": ([[7, 1, 1]], r"lengths: expected shape \(3,\), got \(1, 3\)"),
    "number": (7, r"lengths: expected shape \(3,\), got \(\)"),
    "floats": ([7.0, 1.0, 1.0], "lengths: expected integers, got an array of float64"),
    "booleans": ([True, True, False], "lengths: expected integers, got an array of bool"),
    "text": ("717", "lengths: expected integers, got an array of str"),
    "none": ([7, None, 1], "lengths: expected integers, got an array of object"),
}


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("kind", BAD_LENGTHS)
def test_bad_lengths_are_refused(kind, training):
    layer = build("lstm", **STACK)
    x, *_ = inputs(layer)
    lengths, message = BAD_LENGTHS[kind]
    with refused(layer, f"^{message}", x):
        (layer.forward if training else layer)(x, lengths=lengths)


BAD_RESETS = {
    "transposed": (
        np.zeros((3, 7), bool),
        r"reset: expected shape \(7, 3\) booleans, got \(3, 7\)",
    ),
    "one_axis": ([True, False, True], r"reset: expected shape \(7, 3\) booleans, got \(3,\)"),
    "integers": (np.zeros((7, 3), int), "reset: expected shape .* booleans, got an array of int64"),
    "floats": (np.zeros((7, 3)), "reset: expected shape .* booleans, got an array of float64"),
    "text": ("reset", "reset: expected shape .* booleans, got an array of str"),
}


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("kind", BAD_RESETS)
def test_bad_reset_flags_are_refused(kind, training):
    layer = build("lstm", **STACK)
    x, *_ = inputs(layer)
    reset, message = BAD_RESETS[kind]
    with refused(layer, f"^{message}", x):
        (layer.forward if training else layer)(x, reset=reset)


# ---- constructors --------------------------------------------------------------------------------

BAD_OPTIONS = {
    "input_zero": ({"input_size": 0}, ValueError, "input_size: expected .*1.*, got 0"),
    "hidden_zero": ({"hidden_size": 0}, ValueError, "hidden_size: expected .*1.*, got 0"),
    "hidden_negative": ({"hidden_size": -3}, ValueError, "hidden_size: expected .*1.*, got -3"),
    "hidden_float": (
        {"hidden_size": 8.0},
        TypeError,
        "hidden_size: expected an integer, got float",
    ),
    "hidden_text": ({"hidden_size": "8"}, TypeError, "hidden_size: expected an integer, got str"),
    "hidden_none": ({"hidden_size": None}, TypeError, "hidden_size: .* integer, got NoneType"),
    "hidden_array": ({"hidden_size": np.ones(2, int)}, TypeError, "hidden_size: .* got ndarray"),
    "layers_zero": ({"num_layers": 0}, ValueError, "num_layers: expected .*1.*, got 0"),
    "layers_float": ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer, got float"),
    "float16": ({"dtype": "float16"}, ValueError, "dtype: expected 'float32' or .* got 'float16'"),
    "int": ({"dtype": "int32"}, ValueError, "dtype: expected 'float32' or 'float64', got 'int32'"),
    "byte_order": ({"dtype": SWAPPED}, ValueError, "dtype: expected 'float32' or 'float64', got"),
    "dtype_none": ({"dtype": None}, ValueError, "dtype: expected 'float32' or 'float64', got None"),
    "dropout_high": ({"dropout": 1.5}, ValueError, "dropout: expected a probability .* got 1.5"),
    "dropout_low": ({"dropout": -0.1}, ValueError, "dropout: expected a probability .* got -0.1"),
    "dropout_nan": ({"dropout": float("nan")}, ValueError, "dropout: expected .* got nan"),
    "dropout_text": ({"dropout": "a"}, TypeError, "dropout: expected a probability .* got str"),
    "dropout_none": ({"dropout": None}, TypeError, "dropout: expected a probability .* NoneType"),
    "layers_huge": ({"num_layers": 2**40}, ValueError, "num_layers: expected at most .* got 10995"),
    "input_huge": ({"input_size": 2**62}, ValueError, "weight_ih_l0: shape .* larger than any mem"),
    "unknown": ({"proj_size": 3}, TypeError, "unexpected keyword argument 'proj_size'"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
@pytest.mark.parametrize("layer", [fr.RNN, fr.LSTM, fr.GRU])
def test_a_bad_option_is_refused(layer, kind):
    options, error, message = BAD_OPTIONS[kind]
    with pytest.raises(error, match=message):
        layer(**{"input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize("nonlinearity", ["gelu", "TANH", "", None, ["tanh"], 1])
def test_an_unknown_nonlinearity_is_refused(nonlinearity):
    with pytest.raises(ValueError) as caught:
        fr.RNN(3, 4, nonlinearity=nonlinearity)
    expected = f"nonlinearity: expected one of tanh, relu, sigmoid, got {nonlinearity!r}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_only_the_plain_rnn_has_a_nonlinearity(cell):
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonlinearity'"):
        build(cell, nonlinearity="tanh")


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
@pytest.mark.parametrize("size", [2**40, 2**62, 2**63, 2**70])
@pytest.mark.parametrize("layer", [fr.RNN, fr.LSTM, fr.GRU])
def test_sizes_beyond_any_memory_are_refused_at_once(layer, size, name):
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        layer(**{"input_size": 2, "hidden_size": 3, name: size})


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize("shape", [(2**24, 2**24), (2**29, 2**30), (2**58, 1), (1, 2**58)], ids=str)
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_sequences_beyond_any_memory_are_refused_at_once(tokens, shape, training):
    layer = build("lstm", I=1)
    x = np.broadcast_to(0 if tokens else np.float32(0), shape if tokens else (*shape, 1))
    weights = layer.state_dict()
    with pytest.raises((ValueError, MemoryError)):
        (layer.forward if training else layer)(x)
    assert identical(tuple(layer.state_dict().values()), tuple(weights.values()))


LIMITED = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cells import *
layer = build("lstm", 16, 200)
given = inputs(layer, 20, 64)
with threads(1):
    before = train(layer, *given)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), resource.RLIM_INFINITY))

def refused(call):
    try:
        call()
    except (MemoryError, RuntimeError, ValueError) as error:
        print(type(error).__name__, error)
"""
needs_limits = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux's limit of a process's memory"
)


@needs_limits
def test_a_call_for_which_there_is_no_memory_is_refused_and_the_next_one_works():
    run = python(
        LIMITED
        + """
with threads(1):
    long = np.zeros((400, 64, 16), np.float32)  # y takes 20 MB, what backward needs 100 MB
    refused(lambda: layer.forward(long))
    assert identical(train(layer, *given), before)
"""
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"MemoryError cannot allocate \d{9} bytes\n", run.stdout)


@needs_limits
def test_threads_that_the_system_does_not_start_are_an_error_and_fewer_work():
    run = python(
        LIMITED
        + """
with threads(64):  # with 8 MB of stack each, of 60
    assert layer._engine.plan(20, 64)["threads"] > 10
    refused(lambda: layer(*given[:2]))
    refused(lambda: layer.forward(*given[:2]))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
with threads(1):
    assert identical(train(layer, *given), before)
with threads(16):
    assert near(layer(*given[:2]), before[:3])
"""
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "RuntimeError forward: the system would not start a thread\n" * 2


# ---- products ------------------------------------------------------------------------------------


def locked(array):
    array.flags.writeable = False
    return array


BAD_PRODUCTS = {
    "read_only_out": ({"out": locked(zeros(2, 4))}, "out: the array is read-only"),
    "out_shape": ({"out": zeros(4, 2)}, r"out: expected shape \(2, 4\), got \(4, 2\)"),
    "out_dtype": ({"out": np.zeros((2, 4), int)}, "out: expected an array of float32 or float64"),
    "out_strided": ({"out": zeros(2, 8)[:, ::2]}, "out: expected a C-contiguous array"),
    "inner": ({"b": zeros(4, 3)}, "b: expected 3 rows in the product, got 4"),
    "a_axes": ({"a": zeros(3)}, r"a: expected a 2-D array of float32, got an array of float32"),
    "b_dtype": ({"b": np.zeros((3, 4))}, "b: expected a 2-D array of float32, got .* float64"),
    "a_list": ({"a": [[1.0] * 3] * 2}, "a: expected a 2-D array of float32, got list"),
    "a_strided": ({"a": zeros(2, 6)[:, ::2]}, "a: expected a C-contiguous array"),
    "a_order": ({"a": zeros(2, 3, dtype=SWAPPED)}, "a: expected a 2-D .* foreign byte order"),
    "bias_shape": ({"bias": zeros(3)}, r"bias: expected shape \(4,\), got \(3,\)"),
    "bias_dtype": ({"bias": np.zeros(4)}, "bias: expected float32, got an array of float64"),
    "bias_list": ({"bias": [0.0] * 4}, "bias: expected an array of float32 .* got list"),
}


@pytest.mark.parametrize("kind", BAD_PRODUCTS)
def test_a_bad_product_is_refused_and_out_stays(kind):
    change, message = BAD_PRODUCTS[kind]
    given = {"a": zeros(2, 3), "b": zeros(3, 4), "out": zeros(2, 4), **change}
    if given["out"].flags.writeable:
        given["out"][...] = 7
    before = given["out"].copy()
    with pytest.raises((ValueError, TypeError), match=message):
        _core.matmul(**given)
    assert identical(given["out"], before)


def test_operands_of_a_product_may_be_read_only():
    out = zeros(2, 4)
    a, b, bias = (locked(zeros(*shape) + 1) for shape in ((2, 3), (3, 4), (4,)))
    _core.matmul(a, b, out, bias=bias)
    assert (out == 4).all()


# ---- leaks ---------------------------------------------------------------------------------------


def attempts():
    """Calls that must fail, each with the arrays that it is given, big enough to be missed."""
    layer = build("lstm", I=50, H=64, **STACK)
    x, state, dy, dstate = inputs(layer, T=40, B=20)
    ids = np.zeros((40, 20), int)
    ids[-1, -1] = 50
    _, _, tape = layer.forward(x, state)
    short = state[1][:, :-1]
    given = (x, ids, dy, short, *state, *dstate)
    return given, {
        "token": lambda: layer.forward(ids, state),
        "state": lambda: layer.forward(x, (state[0], short)),
        "lengths": lambda: layer.forward(x, state, [41] * 20),
        "x": lambda: layer.forward(x[..., :-1], state),
        "dy": lambda: tape.backward(dy[:-1], dstate),
        "dstate": lambda: tape.backward(dy, (dstate[0], short)),
        "product": lambda: _core.matmul(x[0], x[0], dy[0]),
    }


def resident():
    """Bytes of memory in use by this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["token", "state", "lengths", "x", "dy", "dstate", "product"])
def test_a_refused_call_leaves_no_memory_behind(kind):
    given, calls = attempts()

    def fail(times):
        for _ in range(times):
            with contextlib.suppress(ValueError, TypeError):
                calls[kind]()
                raise AssertionError("the call succeeded")
        gc.collect()

    fail(20)
    references = [sys.getrefcount(array) for array in given]
    has_resident = os.path.exists("/proc/self/statm")
    before = resident() if has_resident else 0
    tracemalloc.start()
    try:
        fail(20)
        traced, _ = tracemalloc.get_traced_memory()
        fail(200)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - traced < 20_000  # one y is 400 KB
    assert [sys.getrefcount(array) for array in given] == references
    if has_resident:
        assert resident() - before < 40e6  # one reserve is 2 MB, times 220


def test_calls_that_succeed_leave_no_memory_behind():
    layer = build("lstm", I=50, H=40, **STACK)
    given = inputs(layer, T=20, B=10)  # y is 64 KB
    train(layer, *given)
    references = [sys.getrefcount(array) for array in arrays(given)]
    tracemalloc.start()
    try:
        train(layer, *given)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            train(layer, *given)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    assert [sys.getrefcount(array) for array in arrays(given)] == references


# ---- numbers that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@each_cell
def test_what_is_not_finite_stays_in_its_row(cell, bad, count):
    layer = build(cell, I=17, H=33)
    x, state, dy, dstate = inputs(layer, T=6, B=15)
    row, others = 7, np.delete(np.arange(15), 7)
    with threads(count):
        clean = train(layer, x, state, dy, dstate)
        x[2, row, 3] = bad
        spoilt = train(layer, x, state, dy, dstate)
    for ours, without in zip(spoilt[:-1], clean[:-1], strict=True):  # all but the weights' gradient
        assert identical(ours[:, others], without[:, others])
    y, dx = spoilt[0], spoilt[1 + len(arrays(state))]
    assert identical(y[:2, row], clean[0][:2, row])
    if np.isnan(bad):
        assert np.isnan(y[2:, row]).all()
        if cell != "rnn_relu":  # whose slope is 0 where h > 0 is not true
            assert np.isnan(dx[2, row]).all()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "both"])
@each_cell
def test_a_nan_reaches_everything_after_it_and_nothing_before(cell, reverse):
    layer = build(cell, bidirectional=reverse)
    x, state, *_ = inputs(layer)
    x[3, 1, 0] = np.nan
    y, _ = layer(x, state)
    nan = np.isnan(y[:, 1])
    assert (nan[:, :9] == (np.arange(7) >= 3)[:, None]).all()
    if reverse:
        assert (nan[:, 9:] == (np.arange(7) <= 3)[:, None]).all()


@each_cell
def test_a_nan_in_the_state_or_the_weights_is_seen(cell):
    layer = build(cell)
    x, state, *_ = inputs(layer)
    for array in arrays(state):
        array[0, 1, 0] = np.nan
    y, _ = layer(x, state)
    assert np.isnan(y[:, 1]).any() and not np.isnan(y[:, [0, 2]]).any()
    layer.params["bias_hh_l0"][0] = np.nan
    assert np.isnan(layer(x)[0]).any()
