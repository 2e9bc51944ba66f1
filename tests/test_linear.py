"""Linear: its map, its gradients, its initial values and what it refuses."""

import numpy as np
import pytest

import fastrnn as fr

DTYPES = ["float32", "float64"]


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leading", [(), (1,), (5,), (4, 3), (2, 3, 2)])
def test_it_maps_the_last_axis_of_any_shape(leading, dtype):
    layer, x = fr.Linear(6, 5, dtype=dtype, seed=0), numbers(*leading, 6, dtype=dtype)
    y, state = layer(x)
    expected = (
        np.einsum("...i,oi->...o", x.astype("f8"), layer.params["weight"]) + layer.params["bias"]
    )
    assert y.dtype == dtype and y.shape == (*leading, 5) and state is None
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


def test_without_bias_it_is_a_product_only():
    layer, x = fr.Linear(3, 2, bias=False, dtype="float64", seed=0), numbers(4, 3)
    assert list(layer.params) == ["weight"]
    np.testing.assert_allclose(layer(x)[0], x @ layer.params["weight"].T, atol=1e-14)


def test_inference_and_training_give_the_same_y():
    layer, x = fr.Linear(3, 2, seed=0), numbers(4, 3, dtype="float32")
    assert np.array_equal(layer(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize("bias", [True, False])
def test_its_gradients_agree_with_finite_differences(bias):
    layer = fr.Linear(3, 4, bias=bias, dtype="float64", seed=0)
    assert fr.gradcheck(layer, numbers(5, 2, 3)).ok


@pytest.mark.parametrize("dtype", DTYPES)
def test_its_gradients_are_the_products_of_the_formula(dtype):
    layer = fr.Linear(3, 4, dtype=dtype, seed=0)
    x, dy = numbers(50, 3, dtype=dtype), numbers(50, 4, dtype=dtype, seed=1)
    dx, dstate = layer.forward(x)[2].backward(dy)
    tolerance = {"rtol": 0, "atol": 2e-5 if dtype == "float32" else 1e-13}
    assert dstate is None and dx.dtype == dtype
    np.testing.assert_allclose(dx, dy @ layer.params["weight"], **tolerance)
    np.testing.assert_allclose(layer.grads["weight"], dy.T @ x, **tolerance)
    np.testing.assert_allclose(layer.grads["bias"], dy.sum(0), **tolerance)


def test_gradients_are_added_to_those_that_are_there():
    layer, x, dy = fr.Linear(3, 2, dtype="float64", seed=0), numbers(4, 3), numbers(4, 2)
    tape = layer.forward(x)[2]
    first = tape.backward(dy)[0]
    once = layer._flat_grad.copy()
    assert np.array_equal(tape.backward(dy)[0], first)
    np.testing.assert_allclose(layer._flat_grad, 2 * once, rtol=1e-14)


def test_arrays_in_any_memory_order_give_the_same_numbers():
    layer, x = fr.Linear(3, 2, dtype="float64", seed=0), numbers(4, 5, 3)
    dy = numbers(4, 5, 2)
    dx = layer.forward(x)[2].backward(dy)[0]
    y = layer(x)[0]
    crooked = fr.Linear(3, 2, dtype="float64", seed=0)
    y_again, _, tape = crooked.forward(np.asfortranarray(x))
    assert np.array_equal(y_again, y)
    assert np.array_equal(tape.backward(np.asfortranarray(dy))[0], dx)
    assert np.array_equal(crooked._flat_grad, layer._flat_grad)


def test_no_rows_give_no_rows_and_leave_the_gradients():
    layer = fr.Linear(3, 2, seed=0)
    y, _, tape = layer.forward(np.zeros((0, 4, 3), "f4"))
    dx, _ = tape.backward(np.zeros((0, 4, 2), "f4"))
    assert y.shape == (0, 4, 2) and dx.shape == (0, 4, 3) and not layer._flat_grad.any()


def test_initial_values_are_uniform_up_to_one_over_the_root_of_the_inputs():
    flat = fr.Linear(100, 200, seed=0)._flat
    assert abs(flat).max() <= 0.1 and flat.max() > 0.0999 and flat.min() < -0.0999
    assert abs(flat.mean()) < 0.002 and abs(flat.std() - 0.1 / 3**0.5) < 0.001


def test_equal_seeds_give_equal_layers_and_others_do_not():
    flats = [fr.Linear(3, 2, seed=seed)._flat for seed in (1, 1, 2, None)]
    assert np.array_equal(flats[0], flats[1])
    assert not np.array_equal(flats[0], flats[2]) and not np.array_equal(flats[0], flats[3])


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros((2, 3)), TypeError, "^x: expected float32, got float64$"),
        (np.zeros((2, 3), int), TypeError, "^x: expected float32, got int64$"),
        (np.zeros((2, 3), ">f4"), TypeError, "^x: expected float32, got >f4$"),
        (np.zeros((2, 4), "f4"), ValueError, r"^x: expected shape \(..., 3\), got \(2, 4\)$"),
        (np.zeros((), "f4"), ValueError, r"^x: expected shape \(..., 3\), got \(\)$"),
    ],
)
def test_a_wrong_x_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        fr.Linear(3, 2)(x)


@pytest.mark.parametrize(
    "dy, error, message",
    [
        (np.zeros((4, 2)), TypeError, "^dy: expected float32, got float64$"),
        (np.zeros((4, 3), "f4"), ValueError, r"^dy: expected shape \(4, 2\), got \(4, 3\)$"),
        (np.zeros((2, 2, 2), "f4"), ValueError, "^dy: expected shape"),
    ],
)
def test_a_wrong_dy_is_refused_and_adds_nothing(dy, error, message):
    layer = fr.Linear(3, 2)
    tape = layer.forward(np.zeros((4, 3), "f4"))[2]
    with pytest.raises(error, match=message):
        tape.backward(dy)
    assert not layer._flat_grad.any()


def test_a_state_is_refused():
    with pytest.raises(ValueError, match=r"^state: Linear keeps no state, expected None$"):
        fr.Linear(3, 2)(np.zeros((1, 3), "f4"), np.zeros(1))


def step_of_the_optimizer(layer):
    layer.grads["weight"] = 1
    fr.optim.SGD(layer).step()


@pytest.mark.parametrize(
    "change",
    [
        step_of_the_optimizer,
        lambda layer: layer.load_state_dict(fr.Linear(3, 2, seed=9).state_dict()),
        lambda layer: layer.params["weight"].fill(0),  # by a hand that had read nothing before
    ],
    ids=["optimizer", "load_state_dict", "by hand"],
)
def test_backward_after_a_change_of_the_weight_is_refused(change):
    layer = fr.Linear(3, 2, seed=0)
    tape = layer.forward(np.zeros((4, 3), "f4"))[2]
    change(layer)
    with pytest.raises(RuntimeError, match=r"the parameters have changed since forward"):
        tape.backward(np.zeros((4, 2), "f4"))


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0), (-1, 2)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=r"_features: expected 1 or more, got"):
        fr.Linear(*sizes)


def test_sizes_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"^in_features: expected an integer, got float$"):
        fr.Linear(2.0, 3)


def test_its_config_builds_it_again():
    layer = fr.Linear(3, 2, bias=False, dtype="float64")
    assert fr.Linear(**layer.config()).config() == layer.config()


def test_a_state_or_its_gradient_is_refused():
    layer, x = fr.Linear(3, 2), np.zeros((1, 3), np.float32)
    for call in layer, layer.forward:
        with pytest.raises(ValueError, match=r"^state: Linear keeps no state"):
            call(x, np.zeros(1))
    y, _, tape = layer.forward(x)
    with pytest.raises(ValueError, match=r"^dstate: Linear keeps no state"):
        tape.backward(y, np.zeros(1))


@pytest.mark.parametrize("name", ["x", "dy"])
def test_an_array_with_a_mask_is_refused(name):
    layer, x = fr.Linear(3, 2, seed=0), numbers(4, 3, dtype="float32")
    y, _, tape = layer.forward(x)
    with pytest.raises(TypeError, match=f"^{name}: expected an array without a mask, got a Masked"):
        if name == "x":
            layer(np.ma.masked_array(x, mask=False))
        else:
            tape.backward(np.ma.masked_array(y, mask=False))
