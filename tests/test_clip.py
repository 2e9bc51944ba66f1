"""Clipping: torch's numbers, parameters that are shared, and gradients that are not finite."""

from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _core

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "training.npz") as file:
        return dict(file)


def with_gradient(values, dtype="float64"):
    layer = fr.Linear(np.size(values), 1, bias=False, dtype=dtype)
    layer.grads["weight"] = [values]
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["clipped", "untouched"])
def test_norm_and_gradients_are_those_of_torch(golden, case, dtype):
    layer = with_gradient(golden["clip/grad"], dtype)
    norm = fr.clip_grad_norm_(layer, golden[f"clip/{case}/max_norm"])
    assert type(norm) is float
    assert norm == pytest.approx(golden[f"clip/{case}/norm"], rel=TOLERANCE[dtype])
    np.testing.assert_allclose(
        layer.grads["weight"][0], golden[f"clip/{case}/grad"], rtol=TOLERANCE[dtype]
    )


def test_the_norm_is_one_over_all_parameters_and_modules():
    modules = [with_gradient([2, 3]), fr.Sequential(with_gradient([6]))]
    modules[1].zero_grad()
    modules[1].grads["0.weight"] = 6
    assert fr.clip_grad_norm_(modules, 1.0) == 7
    np.testing.assert_allclose(modules[0].grads["weight"], [[2 / 7, 3 / 7]], rtol=1e-6)
    np.testing.assert_allclose(modules[1].grads["0.weight"], [[6 / 7]], rtol=1e-6)


def test_a_shared_gradient_counts_and_shrinks_once():
    layer = fr.Linear(1, 2, bias=False, dtype="float64")
    model = fr.Sequential(layer)
    layer.grads["weight"] = [[3], [4]]
    assert fr.clip_grad_norm_([layer, model, model], 2.5) == 5
    np.testing.assert_allclose(layer.grads["weight"], [[1.5], [2]], rtol=1e-6)


def test_a_gradient_within_the_limit_stays_as_it_is():
    layer = with_gradient([0.3, 0.4])
    assert fr.clip_grad_norm_(layer, 0.6) == 0.5
    assert layer.grads["weight"].tolist() == [[0.3, 0.4]]


def test_an_infinite_limit_only_measures():
    layer = with_gradient([3e30, 4e30])
    assert fr.clip_grad_norm_(layer, np.inf) == pytest.approx(5e30)
    assert layer.grads["weight"].tolist() == [[3e30, 4e30]]


def test_a_float32_norm_does_not_overflow_in_its_squares():
    assert fr.clip_grad_norm_(with_gradient([3e30, 4e30], "float32"), 1.0) == pytest.approx(5e30)


@pytest.mark.parametrize("bad, left", [(np.nan, [np.nan, np.nan]), (np.inf, [0, np.nan])])
def test_what_is_not_finite_is_not_hidden(bad, left):
    layer = with_gradient([1, bad])
    norm = fr.clip_grad_norm_(layer, 1.0)
    assert not np.isfinite(norm)
    assert np.array_equal(layer.grads["weight"][0], left, equal_nan=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_raises_if_asked_for_and_changes_nothing(bad):
    layer = with_gradient([5, bad])
    with pytest.raises(FloatingPointError, match=r"^the norm of the gradients is (nan|inf)$"):
        fr.clip_grad_norm_(layer, 1.0, error_if_nonfinite=True)
    assert layer.grads["weight"][0, 0] == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_limited_on_both_sides(dtype):
    layer = with_gradient([-3, -0.5, 0, 0.5, 3, np.inf, -np.inf, np.nan], dtype)
    fr.clip_grad_value_(layer, 1)
    expected = [-1, -0.5, 0, 0.5, 1, 1, -1, np.nan]
    assert np.array_equal(layer.grads["weight"][0], expected, equal_nan=True)


@pytest.mark.parametrize(
    "clip, name", [(fr.clip_grad_norm_, "max_norm"), (fr.clip_grad_value_, "limit")]
)
@pytest.mark.parametrize("limit", [-1, np.nan])
def test_a_limit_below_zero_is_refused(clip, name, limit):
    with pytest.raises(ValueError, match=rf"^{name}: expected 0 or more, got {limit}$"):
        clip(fr.Linear(1, 1), limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
def test_the_sum_of_squares_is_right_for_every_size(size, dtype):
    flat = np.random.default_rng(0).standard_normal(size).astype(dtype)
    assert _core.sum_of_squares(flat) == pytest.approx(np.sum(flat.astype("f8") ** 2), rel=1e-14)


def test_an_infinite_limit_changes_no_gradient_whatever_it_is():
    layer = fr.Linear(1, 2, bias=False)
    layer.grads["weight"] = [[np.inf], [3]]
    assert fr.clip_grad_norm_(layer, np.inf) == np.inf
    assert layer.grads["weight"].tolist() == [[np.inf], [3]]


@pytest.mark.parametrize("clip", [fr.clip_grad_norm_, fr.clip_grad_value_])
def test_a_limit_of_zero_leaves_nothing(clip):
    layer = fr.Linear(1, 2, bias=False)
    layer.grads["weight"] = [[3], [-4]]
    clip(layer, 0)
    assert not layer.grads["weight"].any()
