"""Drawing from a softmax: frequencies, limits on what is drawn, rows of a batch."""

import numpy as np
import pytest

from fastrnn.sampling import check_sampling, choose

LOGITS = np.log([0.5, 0.3, 0.15, 0.05])


def frequencies(**options):
    rng = np.random.default_rng(0)
    drawn = choose(np.tile(LOGITS, (20_000, 1)), rng=rng, **options)
    return np.bincount(drawn, minlength=4) / len(drawn)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_probabilities_at_the_temperature(temperature):
    expected = np.exp(LOGITS / temperature)
    found = frequencies(temperature=temperature)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.4}, [0]),
        ({"top_p": 0.6}, [0, 1]),
        ({"top_p": 0.94}, [0, 1, 2]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        # The nucleus is taken of what top_k leaves: 0.5 and 0.3 of 0.8, so 0.625 and 0.375.
        ({"top_k": 2, "top_p": 0.6}, [0]),
        # At temperature 2 the largest has 0.38.
        ({"temperature": 2.0, "top_p": 0.45}, [0, 1]),
    ],
)
def test_only_what_is_allowed_is_drawn_in_proportion(options, allowed):
    found = frequencies(**options)
    weights = np.exp(LOGITS / options.get("temperature", 1.0))
    expected = np.zeros(4)
    expected[allowed] = weights[allowed] / weights[allowed].sum()
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_the_order_of_the_logits_does_not_matter_for_the_nucleus():
    rng = np.random.default_rng(0)
    shuffled = np.tile(LOGITS[[3, 1, 0, 2]], (1000, 1))
    assert set(choose(shuffled, rng=rng, top_p=0.6).tolist()) == {1, 2}


def test_temperature_zero_takes_the_largest_logit_of_each_row():
    rows = np.array([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert choose(rows, 0).tolist() == [1, 0]
    assert choose(rows[0], 0) == 1


def test_a_row_of_a_batch_is_drawn_as_it_would_be_alone():
    rows = np.random.default_rng(1).standard_normal((5, 7))
    together = choose(rows, 0.8, 3, np.random.default_rng(2), top_p=0.9)
    rng = np.random.default_rng(2)
    assert together.tolist() == [choose(row, 0.8, 3, rng, top_p=0.9) for row in rows]


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
@pytest.mark.parametrize(
    ("row", "largest"),
    [
        ([0.0, np.nan, 1.0], "nan"),
        ([0.0, np.inf, 1.0], "inf"),
        ([np.inf, np.nan, 1.0], "nan"),
        ([-np.inf, -np.inf, -np.inf], "-inf"),
    ],
)
def test_logits_of_which_none_can_be_drawn_are_an_error(row, largest, options):
    rng = np.random.default_rng(0)
    for logits in (np.array(row), np.array([[0.0, 1.0, 2.0], row], "f4")):
        with pytest.raises(FloatingPointError, match=f"^the largest logit is {largest}$"):
            choose(logits, rng=rng, **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_a_logit_of_minus_infinity_is_never_drawn(options):
    rows = np.tile([-np.inf, 0.0, 0.0], (200, 1))
    assert 0 not in choose(rows, rng=np.random.default_rng(0), **options)


def test_without_a_generator_each_draw_is_another():
    assert len(set(choose(np.zeros((200, 1000))).tolist())) > 10
    assert choose(LOGITS) in range(4)


class AlmostOne:
    """A generator whose numbers are the largest below 1."""

    def random(self, shape):
        return np.full(shape, np.nextafter(1.0, 0.0))


def test_the_largest_random_number_leads_to_the_last_index_that_is_allowed():
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = rng.standard_normal(9)
        order = np.argsort(logits)[::-1]
        assert choose(logits, 1.0, 4, AlmostOne()) == max(order[:4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 1), "temperature: expected a number >= 0, got -1"),
        ((float("nan"), 0, 1), "temperature: .* got nan"),
        ((1, -1, 1), "top_k: expected an integer >= 0, got -1"),
        ((1, 0, 0), "top_p: .* got 0"),
        ((1, 0, 1.1), "top_p: .* got 1.1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_sampling(*arguments)


@pytest.mark.parametrize("temperature", [np.inf, np.nan, -1])
def test_a_temperature_that_is_no_finite_number_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature"):
        check_sampling(temperature, 0, 1.0)
