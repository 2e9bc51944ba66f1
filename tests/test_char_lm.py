"""The character model: shapes, generation, and drawing from a softmax."""

import itertools

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.models import CharLM
from fastrnn.sampling import choose


@pytest.mark.parametrize("embedding", [0, 3])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_step_with_the_carried_state_equals_the_same_step_of_a_sequence(
    cell, num_layers, embedding
):
    model = CharLM("abcd", cell, 8, num_layers, embedding, seed=0)
    ids = np.array([[0, 3], [1, 1], [2, 0]])
    whole, _ = model(ids)
    assert whole.shape == (3, 2, 4)
    state = None
    for t in range(3):
        logits, state = model(ids[t : t + 1], state)
        np.testing.assert_allclose(logits[0], whole[t], rtol=1e-5, atol=1e-6)


def test_a_saved_model_generates_what_it_generated_before(tmp_path):
    model = CharLM("\nabc", "gru", 8, 2, 5, seed=3)
    fr.save(model, tmp_path / "m.safetensors")
    loaded = fr.load(tmp_path / "m.safetensors")
    assert type(loaded) is CharLM
    assert [*loaded.generate("ab", 30, seed=1)] == [*model.generate("ab", 30, seed=1)]


def test_layers_of_one_seed_start_from_different_weights():
    weights = CharLM("ab", "rnn", 4, 1, 2, seed=0).state_dict()
    assert weights["0.weight"].ravel()[0] != weights["1.weight_ih_l0"].ravel()[0]
    assert weights["1.weight_ih_l0"].ravel()[0] != weights["2.weight"].ravel()[0]


def test_an_unknown_cell_is_refused_by_name():
    with pytest.raises(ValueError, match="cell: expected one of rnn, lstm, gru, got 'elman'"):
        CharLM("ab", "elman")


@pytest.fixture(scope="module")
def model():
    return CharLM("\nabc", "lstm", 8, seed=0)


def test_generating_gives_as_many_characters_as_asked_for(model):
    assert [len([*model.generate("a", n, seed=0)]) for n in (0, 1, 17)] == [0, 1, 17]


def test_generating_without_a_length_never_ends(model):
    assert len([*itertools.islice(model.generate("a"), 100)]) == 100


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model):
    one, again, other = ("".join(model.generate("a", 50, seed=s)) for s in (1, 1, 2))
    assert one == again != other


def test_temperature_zero_and_the_single_likeliest_character_are_the_same_text(model):
    greedy = [*model.generate("ab", 40, temperature=0, seed=1)]
    assert greedy == [*model.generate("ab", 40, temperature=1.0, top_k=1, seed=2)]


def test_greedy_text_takes_the_largest_logit_of_the_whole_text_so_far(model):
    text = "ab"
    for character in model.generate("ab", 10, temperature=0):
        logits, _ = model(model.vocabulary.encode(text).reshape(-1, 1))
        assert character == model.vocabulary.characters[logits[-1, 0].argmax()]
        text += character


def test_an_empty_prime_goes_on_from_a_line_break(model):
    assert [*model.generate("", 20, seed=5)] == [*model.generate("\n", 20, seed=5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prime": "axb"}, "prime: expected only the 4 characters of the vocabulary, got 'x'"),
        ({"temperature": -1.0}, "temperature: expected a number >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected a number >= 0, got nan"),
        ({"top_k": -1}, "top_k: expected an integer >= 0, got -1"),
        ({"length": -1}, "length: expected an integer >= 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_character(model, arguments, message):
    with pytest.raises(ValueError) as error:
        model.generate(**arguments)
    assert str(error.value) == message


def test_weights_that_are_not_finite_end_a_text_with_an_error():
    broken = CharLM("ab", "gru", 4, seed=0)
    broken.params["1.bias"] = np.nan
    for temperature in (0, 1):
        with pytest.raises(FloatingPointError, match=r"^the largest logit is nan$"):
            next(broken.generate("a", temperature=temperature))


def frequencies(logits, temperature, top_k, draws=20_000):
    rng = np.random.default_rng(0)
    drawn = [choose(logits, temperature, top_k, rng) for _ in range(draws)]
    return np.bincount(drawn, minlength=len(logits)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_of_the_logits_over_the_temperature(temperature):
    logits = np.array([1.0, 0.0, -1.0, 2.0])
    expected = np.exp(logits / temperature)
    drawn = frequencies(logits, temperature, 0)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.015)


def test_top_k_leaves_only_the_k_largest_in_their_proportion():
    drawn = frequencies(np.log([0.1, 0.2, 0.3, 0.4]), 1.0, 2)
    np.testing.assert_allclose(drawn, [0, 0, 3 / 7, 4 / 7], atol=0.015)


@pytest.mark.parametrize("temperature", [1e-310, 1e-3, 1e300])
def test_extreme_temperatures_and_logits_neither_warn_nor_leave_the_range(temperature):
    rng = np.random.default_rng(0)
    logits = np.array([3e38, -3e38, 0], np.float32)
    assert all(0 <= choose(logits, temperature, 0, rng) < 3 for _ in range(100))


@pytest.mark.parametrize("options", [{}, {"embedding": 2}])
def test_every_layer_has_the_dtype_of_the_model(options):
    model = CharLM("abc", dtype="float64", **options)
    assert {layer.dtype for layer in model.layers if layer.dtype} == {np.dtype("float64")}
