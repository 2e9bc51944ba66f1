"""Embedding: its lookup, the sum in its gradient, its initial values and what it refuses."""

import numpy as np
import pytest

import fastrnn as fr


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (6,), (3, 4), (2, 3, 2)])
def test_it_returns_the_row_of_each_id(shape, dtype):
    layer = fr.Embedding(5, 3, dtype=dtype, seed=0)
    ids = np.random.default_rng(0).integers(0, 5, shape)
    y, state = layer(ids)
    assert y.dtype == dtype and state is None
    assert np.array_equal(y, layer.params["weight"][ids])


@pytest.mark.parametrize("kind", ["int8", "int32", "uint8", "uint64", ">i4"])
def test_ids_of_any_integer_dtype_are_taken(kind):
    layer = fr.Embedding(5, 3, seed=0)
    ids = np.array([[4, 0], [1, 1]], kind)
    y, _, tape = layer.forward(ids)
    tape.backward(np.ones_like(y))
    assert np.array_equal(y, layer.params["weight"][ids.astype(int)])
    assert layer.grads["weight"][:, 0].tolist() == [1, 2, 0, 0, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_its_gradient_is_the_sum_over_all_places_of_an_id(dtype):
    rng = np.random.default_rng(0)
    layer = fr.Embedding(7, 5, dtype=dtype, seed=0)
    ids = rng.integers(0, 6, (9, 11))  # 6 never occurs
    dy = rng.standard_normal((9, 11, 5)).astype(dtype)
    assert layer.forward(ids)[2].backward(dy) == (None, None)
    expected = np.zeros((7, 5))
    np.add.at(expected, ids, dy.astype("f8"))
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(layer.grads["weight"], expected, rtol=0, atol=tolerance)
    assert not layer.grads["weight"][6].any()


def test_its_gradient_agrees_with_finite_differences():
    layer = fr.Embedding(4, 3, dtype="float64", seed=0)
    assert fr.gradcheck(layer, np.array([[0, 2, 2], [3, 0, 2]])).ok


def test_gradients_are_added_to_those_that_are_there():
    layer = fr.Embedding(3, 2, dtype="float64", seed=0)
    tape = layer.forward(np.array([1, 1, 2]))[2]
    for _ in range(2):
        tape.backward(np.ones((3, 2)))
    assert layer.grads["weight"].tolist() == [[0, 0], [4, 4], [2, 2]]


def test_the_tape_does_not_see_later_changes_of_the_ids():
    layer, ids = fr.Embedding(3, 1, seed=0), np.array([0, 1])
    tape = layer.forward(ids)[2]
    ids[:] = 2
    tape.backward(np.ones((2, 1), "f4"))
    assert layer.grads["weight"].ravel().tolist() == [1, 1, 0]


def test_a_gradient_in_another_memory_order_is_read_rightly():
    layer = fr.Embedding(3, 2, dtype="float64", seed=0)
    dy = np.arange(8.0).reshape(2, 2, 2)
    layer.forward(np.array([[0, 1], [2, 0]]))[2].backward(np.asfortranarray(dy))
    assert layer.grads["weight"].tolist() == [[6, 8], [2, 3], [4, 5]]


def test_no_ids_give_no_rows():
    layer = fr.Embedding(3, 2, seed=0)
    y, _, tape = layer.forward(np.zeros((0, 4), int))
    tape.backward(np.zeros((0, 4, 2), "f4"))
    assert y.shape == (0, 4, 2) and not layer._flat_grad.any()


def test_initial_values_are_standard_normal():
    flat = fr.Embedding(200, 100, seed=0)._flat
    assert abs(flat.mean()) < 0.02 and abs(flat.std() - 1) < 0.02


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.array([-1, 2]), ValueError, r"^x: expected values in \[0, 3\), got -1 to 2$"),
        (np.array([0, 3]), ValueError, r"^x: expected values in \[0, 3\), got 0 to 3$"),
        (np.array([2**63], "u8"), ValueError, r"^x: expected values in \[0, 3\), got"),
        (np.array([1.0]), TypeError, "^x: expected integers, got float64$"),
        (np.array([True]), TypeError, "^x: expected integers, got bool$"),
    ],
)
def test_wrong_ids_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        fr.Embedding(3, 2)(x)


def test_a_wrong_dy_is_refused_and_adds_nothing():
    layer = fr.Embedding(3, 2)
    tape = layer.forward(np.array([0, 1]))[2]
    with pytest.raises(ValueError, match=r"^dy: expected shape \(2, 2\), got \(2, 3\)$"):
        tape.backward(np.zeros((2, 3), "f4"))
    assert not layer._flat_grad.any()


def test_a_state_is_refused():
    with pytest.raises(ValueError, match=r"^state: Embedding keeps no state, expected None$"):
        fr.Embedding(3, 2)(np.array([0]), np.zeros(1))


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=r"expected 1 or more, got 0$"):
        fr.Embedding(*sizes)


def test_its_config_builds_it_again():
    layer = fr.Embedding(3, 2, dtype="float64")
    assert fr.Embedding(**layer.config()).config() == layer.config()


def test_an_empty_list_of_ids_and_a_matrix_are_looked_up():
    layer = fr.Embedding(5, 3, seed=0)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1, 2]])
    assert layer([])[0].shape == (0, 3)
    assert (layer(matrix)[0] == layer(np.array([[1, 2]]))[0]).all()


def test_a_state_or_its_gradient_is_refused():
    layer = fr.Embedding(5, 4)
    for call in layer, layer.forward:
        with pytest.raises(ValueError, match=r"^state: Embedding keeps no state"):
            call(np.array([1]), np.zeros(1))
    _, _, tape = layer.forward(np.array([1]))
    with pytest.raises(ValueError, match=r"^dstate: Embedding keeps no state"):
        tape.backward(np.zeros((1, 4), np.float32), np.zeros(1))
