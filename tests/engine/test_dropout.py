"""Dropout, between recurrent layers and as a layer, and the generator of its masks.

What it is: agreement with the twin, reproducibility, and the promises of the two. What it is not: a
statistical test of Philox, which its authors made; its published vectors are enough here.
"""

import copy
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr
from fastrnn import _core
from fastrnn import reference as twin

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, build, identical, inputs, near, threads, train
from drawn import THREADS, agree, of_engine, of_twin, problems

KEYS = st.integers(0, 2**64 - 1)
PUBLISHED = [  # Random123, kat_vectors: counter, key, words
    ("0" * 8 * 4, "0" * 8 * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("f" * 8 * 4, "f" * 8 * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text):
    return [int(text[k : k + 8], 16) for k in range(0, len(text), 8)]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_the_twins_generator_gives_the_published_words(counter, key, expected):
    assert twin.philox(words(counter), words(key)) == [int(w, 16) for w in expected.split()]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 200),
    p=st.floats(0, 1),
    key=KEYS,
    call=st.integers(0, 2**33),
    layer=st.integers(0, 5),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_elements_dropped_are_those_the_twin_drops(n, p, key, call, layer, dtype):
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    ours, truth = _core.dropout(x, p, key, call, layer), twin.dropout(x, p, key, call, layer)
    assert np.array_equal(ours == 0, truth == 0)
    np.testing.assert_allclose(ours, truth, rtol=1e-6 if dtype == "float32" else 1e-15)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    problem=problems(ragged=True, resets=True, dropout=0.3, num_layers=3),
    n=THREADS,
)
def test_layers_with_dropout_agree_with_the_twin(problem, n):
    cell, layer, given, forward = problem
    key, calls = layer.random_state
    with threads(n):
        ours = of_engine(layer, given, forward)
    truth = of_twin(cell, layer, given, forward | {"mask": (0.3, key, calls)})
    assert agree(ours, truth, layer.dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_through_dropout_are_the_slopes(cell):
    layer = build(cell, 3, 3, **STACK, dropout=0.4, dtype="float64")
    start = layer.random_state

    class SameMask:
        dtype, params, grads = layer.dtype, layer.params, layer.grads
        zero_grad = layer.zero_grad

        def forward(self, x, state=None, lengths=None):
            layer.load_random_state(start)
            return layer.forward(x, state, lengths)

    if cell == "rnn_relu":
        layer.load_state_dict({k: abs(v) + 0.1 for k, v in layer.state_dict().items()})
    x, state, _, _ = inputs(layer, T=3, B=2)
    fr.gradcheck(SameMask(), abs(x) + 0.1, abs(state) if cell == "rnn_relu" else state)


@pytest.mark.parametrize("cell", CELLS)
def test_masks_do_not_depend_on_threads(cell):
    def run(n):
        layer = build(cell, 20, 70, **STACK, dropout=0.5)
        with threads(n):
            return train(layer, *inputs(layer, T=9, B=34))

    one = run(1)
    for n in (2, 3):
        assert near(one, run(n))


@pytest.mark.parametrize("cell", CELLS)
def test_inference_drops_nothing(cell):
    layer, plain = build(cell, **STACK, dropout=0.5), build(cell, **STACK)
    x, state, _, _ = inputs(layer)
    assert identical(layer(x, state), plain(x, state))


def test_dropout_0_is_no_dropout():
    plain, zero = build("lstm", **STACK), build("lstm", **STACK, dropout=0)
    given = inputs(plain)
    assert identical(train(plain, *given), train(zero, *given))
    assert zero.random_state == []


def test_dropout_1_leaves_the_layer_above_nothing_to_read():
    layer = build("lstm", num_layers=2, dropout=1.0)
    x, state, dy, dstate = inputs(layer)
    y, _, tape = layer.forward(x, state)
    dx, _ = tape.backward(dy, (np.zeros_like(dstate[0]), np.zeros_like(dstate[1])))
    assert identical(y, layer.forward(-x, state)[0])
    assert not dx.any()


def test_every_forward_call_draws_another_mask_and_no_failed_one_does():
    layer = build("gru", **STACK, dropout=0.5)
    x, state, _, _ = inputs(layer)
    first = layer.forward(x, state)[0]
    with pytest.raises(ValueError, match="lengths"):
        layer.forward(x, state, [1])
    layer(x, state)
    key, calls = layer.random_state
    assert calls == 1
    assert not identical(first, layer.forward(x, state)[0])
    layer.load_random_state([key, 0])
    assert identical(first, layer.forward(x, state)[0])


def test_backward_finds_its_mask_again_after_later_calls():
    layer = build("lstm", **STACK, dropout=0.5)
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    expected = tape.backward(dy, dstate)
    layer.forward(x, state)
    assert identical(expected, tape.backward(dy, dstate))


def test_layers_of_a_stack_have_different_masks():
    x = np.ones(1000)
    masks = [_core.dropout(x, 0.5, 3, 0, layer) for layer in range(3)]
    assert not identical(masks[0], masks[1]) and not identical(masks[1], masks[2])


def test_the_same_seed_gives_the_same_masks_and_another_one_others():
    x = np.ones((4, 50), np.float32)
    same = [fr.Dropout(0.5, seed=7).forward(x)[0] for _ in range(2)]
    other = fr.Dropout(0.5, seed=8).forward(x)[0]
    assert identical(*same) and not identical(same[0], other)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_p_and_the_mean_stays(p):
    y, _, _ = fr.Dropout(p, seed=0).forward(np.ones(100_000))
    assert (y == 0).mean() == pytest.approx(p, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-15)


def test_a_call_hands_x_through():
    x = np.ones(5)
    y, state = fr.Dropout(0.5)(x)
    assert y is x and state is None


def test_the_layers_gradient_goes_through_its_mask():
    layer = fr.Dropout(0.3, seed=0)
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    y, _, tape = layer.forward(x)
    dx, dstate = tape.backward(np.ones_like(x))
    np.testing.assert_allclose(dx * x, y)
    assert dstate is None


def test_nan_stays_nan():
    y, _, _ = fr.Dropout(0.5, seed=0).forward(np.full(50, np.nan))
    assert np.isnan(y).all()


@pytest.mark.parametrize("copying", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_goes_on_with_the_same_masks(copying):
    model = fr.Sequential(
        fr.Dropout(0.2, seed=1),
        fr.LSTM(3, 4, num_layers=2, dropout=0.5, seed=2),
        fr.Sequential(fr.Linear(4, 4, seed=3), fr.Dropout(0.5, seed=4)),
    )
    x = np.ones((5, 2, 3), np.float32)
    model.forward(x)
    twin_model = copying(model)
    assert len(model.random_state) == 6
    assert twin_model.random_state == model.random_state
    assert identical(model.forward(x)[0], twin_model.forward(x)[0])


def test_a_random_state_survives_json_and_a_rebuilt_model_goes_on():
    def model():
        return fr.Sequential(fr.Dropout(0.5), fr.GRU(3, 4, 2, dropout=0.5, seed=0))

    first, second = model(), model()
    x = np.ones((5, 2, 3), np.float32)
    first.forward(x)
    second.load_random_state(json.loads(json.dumps(first.random_state)))
    assert identical(first.forward(x)[0], second.forward(x)[0])


@pytest.mark.parametrize("state", [[], [1], [1, 2, 3], [1.0, 2], [-1, 0], [2**64, 0], ["1", 2]])
def test_a_random_state_that_does_not_fit_is_refused(state):
    layer = fr.Dropout(0.5, seed=0)
    before = layer.random_state
    with pytest.raises(ValueError, match=r"^random_state: expected 2 integers .*, got \["):
        layer.load_random_state(state)
    assert layer.random_state == before


def test_config_round_trips_dropout():
    layer = fr.LSTM(3, 4, num_layers=2, dropout=0.25)
    assert fr.LSTM.from_config(layer.config()).dropout == 0.25
    assert fr.Dropout.from_config(fr.Dropout(0.3).config()).p == 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda: fr.GRU(3, 4, dropout=0.5),
        lambda: fr.CharLM("ab", dropout=0.5),
        lambda: fr.EncoderDecoder(4, 4, dropout=0.5),
    ],
)
def test_one_layer_with_dropout_warns_where_it_was_made(make):
    with pytest.warns(UserWarning, match="dropout: 0.5 has no effect on one layer") as caught:
        model = make()
    assert model.random_state == []
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_bad_probability_is_refused(p):
    with pytest.raises(ValueError, match=r"^p: expected a probability from 0 to 1, got"):
        fr.Dropout(p)


@pytest.mark.parametrize("x", [np.arange(3), np.ones(3, np.float16), np.ones(3, ">f8")])
def test_dropout_wants_floats(x):
    for run in (fr.Dropout(0.5), fr.Dropout(0.5).forward):
        with pytest.raises(TypeError, match=r"^x: expected an array of float32 or float64, got"):
            run(x)


def test_dropout_keeps_no_state():
    layer, x = fr.Dropout(0.5), np.ones(3)
    with pytest.raises(ValueError, match=r"^state: Dropout keeps no state"):
        layer.forward(x, np.ones(3))
    with pytest.raises(ValueError, match=r"^dstate: Dropout keeps no state"):
        layer.forward(x)[2].backward(x, np.ones(3))


def test_every_forward_of_the_layer_draws_another_mask():
    layer, x = fr.Dropout(0.5, seed=0), np.ones(64)
    assert len({layer.forward(x)[0].tobytes() for _ in range(4)}) == 4
    assert layer.random_state[1] == 4


def test_the_layer_refuses_a_state_and_uses_up_no_mask():
    layer = fr.Dropout(0.5, seed=0)
    for call in layer, layer.forward:
        with pytest.raises(ValueError, match=r"^state: Dropout keeps no state"):
            call(np.ones(3), np.ones(3))
    _, _, tape = layer.forward(np.ones(3))
    with pytest.raises(ValueError, match=r"^dstate: Dropout keeps no state"):
        tape.backward(np.ones(3), np.ones(3))
    assert layer.random_state[1] == 1
