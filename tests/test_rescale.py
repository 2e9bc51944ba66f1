"""rescale_recurrent_: the factor ends within the range, measured anew by the diagnostics."""

import numpy as np
import pytest

import fastrnn as fr

CELLS = {
    "rnn_tanh": (fr.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (fr.RNN, {"nonlinearity": "relu"}),
    "rnn_sigmoid": (fr.RNN, {"nonlinearity": "sigmoid"}),
    "lstm": (fr.LSTM, {}),
    "gru": (fr.GRU, {}),
    "gru_before": (fr.GRU, {"reset_after": False}),
}


def build(cell, scale=1.0, **options):
    kind, variant = CELLS[cell]
    layer = kind(3, 6, **{"seed": 0, **variant, **options})
    for name in layer.params:
        if name.startswith("weight_hh"):
            layer.params[name] *= scale
    return layer


def data(T=12, B=3, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((T, B, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.2, 8.0])
@pytest.mark.parametrize("cell", CELLS)
def test_without_data_the_spectral_norm_ends_within_the_range(cell, scale, dtype):
    layer = build(cell, scale, dtype=dtype)
    result = fr.rescale_recurrent_(layer, 0.9, 1.1)["weight_hh_l0"]
    gamma = 0.25 if cell == "rnn_sigmoid" else 1
    factor = gamma * max(fr.diagnostics.spectral_norm(layer)["weight_hh_l0"].values())
    assert not 0.9 <= result.before <= 1.1
    assert 0.9 <= factor <= 1.1
    assert factor == result.after


@pytest.mark.parametrize(
    ("cell", "scale", "lower", "upper"),
    [
        ("rnn_tanh", 0.2, 0.7, 0.8),
        ("rnn_tanh", 6.0, 0.1, 0.5),
        ("rnn_relu", 8.0, 0.9, 1.0),
        ("rnn_relu", 0.2, 1.0, float("inf")),
        ("rnn_sigmoid", 20.0, 0.2, 0.3),
        ("lstm", 8.0, 0.0, 0.8),
        ("gru", 8.0, 0.0, 0.8),
        ("gru_before", 8.0, 0.6, 0.7),
    ],
)
def test_with_data_the_measured_factor_ends_within_the_range(cell, scale, lower, upper):
    layer, x = build(cell, scale), data()
    if cell == "rnn_relu":  # units that are never all dead, whatever the scale
        layer.params["weight_hh_l0"] = abs(layer.params["weight_hh_l0"])
        layer.params["bias_ih_l0"] = 5
    result = fr.rescale_recurrent_(layer, lower, upper, x)["weight_hh_l0"]
    assert not lower <= result.before <= upper
    assert lower <= result.after <= upper
    assert fr.diagnostics.jacobian_factor(layer, x) == result.after


def test_a_range_of_one_point_is_hit_up_to_rounding():
    layer = build("rnn_tanh", 3.0)
    result = fr.rescale_recurrent_(layer, 0.8, 0.8, data())["weight_hh_l0"]
    assert abs(result.after / 0.8 - 1) <= 1e-6


def test_all_gates_are_scaled_by_the_returned_scale_and_nothing_else_changes():
    layer = build("lstm", 8.0)
    before = layer.state_dict()
    result = fr.rescale_recurrent_(layer, 0.0, 0.8, data())["weight_hh_l0"]
    for name, array in layer.params.items():
        factor = result.scale if name == "weight_hh_l0" else 1
        np.testing.assert_allclose(array, before[name] * factor, rtol=1e-6)


def test_a_factor_within_the_range_is_left_alone_bit_for_bit():
    layer = build("gru")
    before = layer._flat.copy()
    result = fr.rescale_recurrent_(layer, 0.0, 100.0, data())["weight_hh_l0"]
    assert (result.scale, result.before) == (1.0, result.after)
    np.testing.assert_array_equal(layer._flat, before)


def test_every_level_and_direction_of_a_model_ends_within_the_range():
    model = fr.Sequential(
        fr.RNN(3, 5, 2, bidirectional=True, seed=0), fr.RNN(10, 4, seed=1), fr.Linear(4, 2, seed=2)
    )
    for name in model.params:
        if "weight_hh" in name:
            model.params[name] *= 5
    results = fr.rescale_recurrent_(model, 0.3, 0.6, data())
    assert list(results) == [name for name in model.params if "weight_hh" in name]
    first, second, _ = model.layers
    for index in range(4):
        assert 0.3 <= fr.diagnostics.jacobian_factor(first, data(), index=index) <= 0.6
    assert 0.3 <= fr.diagnostics.jacobian_factor(second, first(data())[0]) <= 0.6


def test_saturated_units_are_woken_by_smaller_weights():
    layer = build("rnn_tanh")
    layer.params["weight_hh_l0"] = 5 * np.eye(6)  # each unit holds itself at +1 or -1
    result = fr.rescale_recurrent_(layer, 0.5, 0.6, data())["weight_hh_l0"]
    assert result.before < 0.5 <= result.after <= 0.6
    assert result.scale < 1


def test_rows_are_measured_over_their_own_steps():
    layer, x = build("rnn_tanh", dtype="float64"), data(dtype=np.float64)
    ragged = fr.diagnostics.jacobian_factor(layer, x, lengths=[12, 4, 0])
    rows = [fr.diagnostics.jacobian_factor(layer, x[:n, b : b + 1]) for b, n in [(0, 12), (1, 4)]]
    assert np.isclose(ragged, np.sqrt(rows[0] * rows[1]), rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_factor_that_cannot_be_reached_is_an_error_that_changes_nothing(depth):
    layer = fr.init.forget_bias_(build("lstm", num_layers=depth), 10.0)  # c alone gives about 1
    before = layer._flat.copy()
    with pytest.raises(ValueError, match=r"weight_hh_l0: no scale brings the factor .* \[0, 0.5\]"):
        fr.rescale_recurrent_(layer, 0, 0.5, data())
    np.testing.assert_array_equal(layer._flat, before)


def test_the_engine_runs_with_the_new_weights():
    layer, x = build("rnn_relu", 8.0), data()
    layer(x)
    fr.rescale_recurrent_(layer, 0.5, 0.9)
    fresh = build("rnn_relu")
    fresh.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer(x)[0], fresh(x)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: fr.rescale_recurrent_(m, 2, 1), "lower, upper: .* got 2, 1"),
        (lambda m: fr.rescale_recurrent_(m, -1, 1), "lower, upper: .* got -1, 1"),
        (lambda m: fr.rescale_recurrent_(m, 0, float("nan")), "lower, upper"),
        (lambda m: fr.rescale_recurrent_(fr.Linear(2, 2), 0, 1), "got Linear"),
        (lambda m: fr.rescale_recurrent_(m, 0, 1, lengths=[1]), "lengths: expected x"),
        (lambda m: fr.rescale_recurrent_(m, 0, 1, data(T=0)), "x: expected at least one step"),
        (lambda m: fr.rescale_recurrent_(m, "a", 1), "^lower: expected a number .* got str"),
        (lambda m: fr.rescale_recurrent_(m, 0, None), "^upper: expected a number .* NoneType"),
        (lambda m: fr.rescale_recurrent_(m, np.inf, np.inf), "^lower: expected a finite number"),
        (lambda m: fr.rescale_recurrent_(None, 0, 1), "^model: expected an RNN, .* got NoneType"),
        (lambda m: fr.rescale_recurrent_(fr.GRU, 0, 1), "^model: expected an RNN, .* got type"),
        (lambda m: fr.rescale_recurrent_(m, 0, 1, "a"), "^x: expected"),
        (lambda m: fr.rescale_recurrent_(m, 0, 1, data()[:, :, :1]), "^x: expected shape"),
        (lambda m: fr.rescale_recurrent_(m, 0, 1, data(), "a"), "^lengths: expected integers"),
        (
            lambda m: fr.rescale_recurrent_(m, 0, 1, data() * np.nan),
            "^weight_hh_l0: the factor is nan, expected finite weights and finite x",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    layer = build("rnn_tanh")
    before = layer._flat.copy()
    with pytest.raises((TypeError, ValueError), match=message):
        call(layer)
    np.testing.assert_array_equal(layer._flat, before)
