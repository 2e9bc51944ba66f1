"""Jacobians against finite differences of the engine, norms against their bounds, gate shares."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import diagnostics

CELLS = {
    "rnn_tanh": (fr.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (fr.RNN, {"nonlinearity": "relu"}),
    "rnn_sigmoid": (fr.RNN, {"nonlinearity": "sigmoid"}),
    "lstm": (fr.LSTM, {}),
    "gru": (fr.GRU, {}),
    "gru_before": (fr.GRU, {"reset_after": False}),
}
EPS = 1e-3
STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))  # error of order EPS^4


def build(cell, I=3, H=5, scale=2.0, **options):
    """A layer of float64 whose weights are large enough for every term to count."""
    kind, variant = CELLS[cell]
    layer = kind(I, H, **{"seed": 0, "dtype": "float64", **variant, **options})
    for array in layer.params.values():
        array *= scale
    return layer


def inputs(layer, T=6, B=2, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((T, B, layer.input_size))
    shape = (layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size)
    h = rng.standard_normal(shape)
    return x, (h, rng.standard_normal(shape)) if isinstance(layer, fr.LSTM) else h


def as_vector(state):
    """h, or [h | c], of index 0: (B, S)."""
    return np.concatenate([part[0] for part in state], 1) if isinstance(state, tuple) else state[0]


def as_state(layer, vector):
    if isinstance(layer, fr.LSTM):
        return tuple(part[None].copy() for part in np.split(vector, 2, axis=1))
    return vector[None].copy()


def by_differences(layer, x, start):
    """d (state after all of x) / d (state before), (B, S, S), through the engine."""
    s = as_vector(start)
    J = np.zeros((*s.shape, s.shape[1]))
    for j in range(s.shape[1]):
        for offset, factor in STENCIL:
            moved = s.copy()
            moved[:, j] += offset * EPS
            J[:, :, j] += factor / EPS * as_vector(layer(x, as_state(layer, moved))[1])
    return J


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("cell", CELLS)
def test_each_step_jacobian_equals_finite_differences_of_that_step(cell):
    layer = build(cell)
    x, state = inputs(layer)
    jacobians = diagnostics.step_jacobians(layer, x, state)
    for t in range(len(x)):
        assert relative_error(jacobians[t], by_differences(layer, x[t : t + 1], state)) < 1e-6
        _, state = layer(x[t : t + 1], state)


@pytest.mark.parametrize(("t", "k"), [(6, 0), (4, 1), (6, 5)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_product_of_step_jacobians_equals_finite_differences_over_all_steps(cell, t, k):
    layer = build(cell)
    x, state = inputs(layer)
    _, at_k = layer(x[:k], state) if k else (None, state)
    expected = by_differences(layer, x[k:t], at_k)
    assert relative_error(diagnostics.jacobian(layer, x, t, k, state), expected) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_the_jacobian_of_a_state_by_itself_is_the_identity(cell):
    layer = build(cell)
    x, state = inputs(layer)
    S = as_vector(state).shape[1]
    assert (diagnostics.jacobian(layer, x, 3, 3, state) == np.eye(S)).all()


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "gru_before"])
def test_a_layer_without_biases_has_the_jacobians_of_one_whose_biases_are_zero(cell):
    without, with_zeros = build(cell, bias=False), build(cell)
    for name, array in with_zeros.params.items():
        array[...] = without.params.get(name, 0)
    x, state = inputs(without)
    pair = [diagnostics.step_jacobians(layer, x, state) for layer in (without, with_zeros)]
    np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_the_reverse_direction_walks_from_the_end(cell):
    layer = build(cell, bidirectional=True)
    x, _ = inputs(layer)
    backwards = build(cell)
    for name in backwards.params:
        backwards.params[name] = layer.params[f"{name}_reverse"]
    np.testing.assert_allclose(
        diagnostics.step_jacobians(layer, x, index=1),
        diagnostics.step_jacobians(backwards, x[::-1].copy()),
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_an_upper_level_is_a_layer_fed_with_the_level_below(cell):
    layer = build(cell, num_layers=2)
    x, _ = inputs(layer)
    below, above = build(cell), build(cell, I=5)
    for name in below.params:
        below.params[name] = layer.params[name]
        above.params[name] = layer.params[name.replace("l0", "l1")]
    np.testing.assert_allclose(
        diagnostics.step_jacobians(layer, x, index=1),
        diagnostics.step_jacobians(above, below(x)[0]),
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_in_the_reverse_direction_a_row_starts_at_its_own_end_from_the_initial_state(cell):
    layer = build(cell, bidirectional=True)
    x, state = inputs(layer)
    ragged = diagnostics.step_jacobians(layer, x, state, [2, 6], index=1)
    alone = tuple(s[:, :1] for s in state) if isinstance(state, tuple) else state[:, :1]
    short = diagnostics.step_jacobians(layer, x[:2, :1], alone, index=1)
    np.testing.assert_allclose(ragged[4:, :1], short, rtol=1e-12, atol=1e-15)
    assert (ragged[:4, 0] == np.eye(ragged.shape[-1])).all()


@pytest.mark.parametrize("cell", CELLS)
def test_padded_steps_have_the_identity_as_jacobian(cell):
    layer = build(cell)
    x, state = inputs(layer)
    ragged = diagnostics.step_jacobians(layer, x, state, [2, 6])
    S = ragged.shape[-1]
    assert (ragged[2:, 0] == np.eye(S)).all()
    whole = diagnostics.step_jacobians(layer, x, state)
    np.testing.assert_allclose(ragged[:2, 0], whole[:2, 0], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ragged[:, 1], whole[:, 1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_that_starts_afresh_has_jacobian_zero_and_the_next_ones_follow_it(cell, batch_first):
    layer = build(cell, batch_first=batch_first)
    x, state = inputs(layer)
    reset = np.zeros((6, 2), bool)
    reset[3, 0] = True
    given = (x.swapaxes(0, 1), state, None, reset.T) if batch_first else (x, state, None, reset)
    jacobians = diagnostics.step_jacobians(layer, *given)
    assert (jacobians[3, 0] == 0).all()
    alone = x[3:, :1].swapaxes(0, 1) if batch_first else x[3:, :1]
    afresh = diagnostics.step_jacobians(layer, alone)
    np.testing.assert_allclose(jacobians[4:, :1], afresh[1:], rtol=1e-10, atol=1e-13)
    norms = diagnostics.jacobian_norms(layer, *given)
    assert (norms.norm[3:, 0] == 0).all() and (norms.norm[:, 1] > 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_off_and_no_mask_is_used_up(cell):
    dropping, plain = build(cell, num_layers=2, dropout=0.5), build(cell, num_layers=2)
    x, state = inputs(plain)
    before = dropping.random_state
    for layer in (dropping, plain):
        layer.load_state_dict(plain.state_dict())
    pair = [diagnostics.step_jacobians(m, x, state, index=1) for m in (dropping, plain)]
    np.testing.assert_array_equal(*pair)
    flows = [diagnostics.gradient_flow(m, x, dstate=state).h for m in (dropping, plain)]
    np.testing.assert_array_equal(*flows)
    assert dropping.random_state == before and dropping.dropout == 0.5


def test_token_ids_and_batch_first_give_the_jacobians_of_the_same_one_hot_rows():
    layer, first = build("lstm"), build("lstm", batch_first=True)
    ids = np.array([[0, 2], [1, 1], [2, 0]])
    one_hot = diagnostics.step_jacobians(layer, np.eye(3)[ids])
    np.testing.assert_allclose(diagnostics.step_jacobians(layer, ids), one_hot, rtol=1e-12)
    np.testing.assert_allclose(diagnostics.step_jacobians(first, ids.T), one_hot, rtol=1e-12)


def test_a_float32_layer_gives_float64_jacobians_near_those_of_its_float64_twin():
    layer = build("gru", dtype="float32")
    twin = build("gru")
    twin.load_state_dict(layer.state_dict())
    x, state = inputs(twin)
    single = diagnostics.step_jacobians(layer, x.astype(np.float32), state.astype(np.float32))
    assert single.dtype == np.float64
    assert relative_error(single, diagnostics.step_jacobians(twin, x, state)) < 1e-5


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("cell", CELLS)
def test_the_measured_norm_never_exceeds_the_bound(cell, scale):
    layer = build(cell, scale=scale)
    x, state = inputs(layer, T=30)
    result = diagnostics.jacobian_norms(layer, x, state)
    rounding = 1 + 1e-12
    assert result.distance.tolist() == list(range(31))
    assert (result.norm <= result.bound * rounding).all()
    if result.weight_bound is not None:
        assert (result.bound <= result.weight_bound * rounding).all()


@pytest.mark.parametrize("cell", CELLS)
def test_norms_are_the_largest_singular_values_of_the_products(cell):
    layer = build(cell)
    x, state = inputs(layer)
    result = diagnostics.jacobian_norms(layer, x, state, t=5)
    steps = diagnostics.step_jacobians(layer, x, state)
    for distance in range(6):
        product = diagnostics.jacobian(layer, x, 5, 5 - distance, state)
        expected = np.linalg.norm(product, 2, axis=(1, 2))
        np.testing.assert_allclose(result.norm[distance], expected, rtol=1e-10)
        between = np.linalg.norm(steps[5 - distance : 5], 2, axis=(2, 3)).prod(0)
        np.testing.assert_allclose(result.bound[distance], between, rtol=1e-10)


@pytest.mark.parametrize("c", [0.9, 1.5])
def test_a_linear_network_with_factor_c_has_norms_c_to_the_power_of_the_distance(c):
    layer = fr.RNN(1, 3, nonlinearity="relu", bias=False, dtype="float64")
    layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, c * np.eye(3)
    result = diagnostics.jacobian_norms(layer, np.ones((8, 1, 1)))
    for values in (result.norm, result.bound, result.weight_bound):
        np.testing.assert_allclose(values[:, 0], c ** np.arange(9), rtol=1e-12)


def test_norms_beyond_the_range_of_float64_are_infinite_and_raise_nothing():
    layer = fr.RNN(1, 2, nonlinearity="relu", bias=False, dtype="float64")
    layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 0, 1e10 * np.eye(2)
    x, h = np.zeros((40, 1, 1)), np.full((1, 1, 2), 1e-300)
    result = diagnostics.jacobian_norms(layer, x, h, t=40)
    assert np.isinf(result.norm[-1]).all() and np.isinf(result.bound[-1]).all()
    np.testing.assert_allclose(result.norm[20], 1e200, rtol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_that_reaches_a_state_is_the_last_one_times_the_jacobian_between(cell):
    layer = build(cell)
    x, state = inputs(layer)
    last = inputs(layer, seed=2)[1]
    flow = diagnostics.gradient_flow(layer, x, dstate=last, state=state)
    for t in range(1, 6):
        ds = np.einsum("bi,bij->bj", as_vector(last), diagnostics.jacobian(layer, x, 6, t, state))
        norms = np.linalg.norm(ds[:, :5], axis=1)
        np.testing.assert_allclose(flow.h[0, t - 1], norms, rtol=1e-9)
        if flow.c is not None:
            gates = diagnostics._walk(layer, x, state, None, None, 0)
            tanh_c = np.tanh(gates.c[t - 1])
            dc = ds[:, 5:] + ds[:, :5] * gates.gates["o"][t - 1] * (1 - tanh_c**2)  # (L6)
            np.testing.assert_allclose(flow.c[0, t - 1], np.linalg.norm(dc, axis=1), rtol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_flow_of_an_output_starts_at_that_output(cell):
    layer = build(cell)
    x, _ = inputs(layer)
    dy = np.zeros((6, 2, 5))
    dy[3, 1] = 2.0
    flow = diagnostics.gradient_flow(layer, x, dy)
    assert (flow.h[0, 4:] == 0).all() and (flow.h[0, :, 0] == 0).all()
    assert np.isclose(flow.h[0, 3, 1], 2 * np.sqrt(5))
    assert (flow.h[0, :3, 1] > 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_a_spectral_radius_is_that_of_each_gates_block(cell):
    layer = build(cell, bidirectional=True)
    radii = diagnostics.spectral_radius(layer)
    norms = diagnostics.spectral_norm(layer)
    for suffix in ("_l0", "_l0_reverse"):
        name = f"weight_hh{suffix}"
        blocks = np.split(layer.params[name], len(radii[name]))
        for block, radius, norm in zip(
            blocks, radii[name].values(), norms[name].values(), strict=True
        ):
            assert np.isclose(radius, abs(np.linalg.eigvals(block)).max())
            assert np.isclose(norm, np.linalg.norm(block, 2))


@pytest.mark.parametrize(("bias", "share"), [(-9, (1, 0)), (0, (0, 0)), (9, (0, 1))])
@pytest.mark.parametrize(("cell", "gate"), [("lstm", "ifgo"), ("gru", "rzn")])
def test_gates_held_open_or_closed_by_their_bias_are_counted_so(cell, gate, bias, share):
    layer = build(cell, scale=0.0)
    layer.params["bias_ih_l0"] = bias
    shares = diagnostics.gate_saturation(layer, inputs(layer)[0])
    assert list(shares) == list(gate)
    for low, high in shares.values():
        assert (low.item(), high.item()) == share


def test_gate_shares_do_not_count_padding():
    layer = build("lstm")
    x, state = inputs(layer, T=4)
    x[2:, 0] = np.nan
    ragged = diagnostics.gate_saturation(layer, x, state, [2, 0])
    h, c = state
    short = diagnostics.gate_saturation(layer, x[:2, :1], (h[:, :1], c[:, :1]))
    assert {k: (v.low, v.high) for k, v in ragged.items()} == {
        k: (v.low, v.high) for k, v in short.items()
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer, x: diagnostics.step_jacobians(fr.Linear(3, 2), x), "layer: expected an RNN"),
        (lambda layer, x: diagnostics.step_jacobians(layer, x, index=1), "index: expected 0 to 0"),
        (lambda layer, x: diagnostics.gradient_flow(layer, x), "dy, dstate: expected at least one"),
        (lambda layer, x: diagnostics.jacobian(layer, x, 3, 4), "got t=3, k=4"),
        (lambda layer, x: diagnostics.jacobian(layer, x, 7, 4), "0 <= k <= t <= 6"),
        (lambda layer, x: diagnostics.jacobian_norms(layer, x, t=7), "t: expected 0 to 6, got 7"),
        (lambda layer, x: diagnostics.gate_saturation(layer, x, low=0.9, high=0.1), "low, high"),
        (
            lambda layer, x: diagnostics.gate_saturation(build("rnn_relu"), x),
            "relu does not saturate",
        ),
        (lambda layer, x: diagnostics.jacobian(layer, x, "a", 0), "^t: expected an integer, got"),
        (lambda layer, x: diagnostics.jacobian(layer, x, 3, 1.5), "^k: expected an integer, got"),
        (lambda layer, x: diagnostics.jacobian_norms(layer, x, t=1.5), "^t: expected an integer"),
        (
            lambda layer, x: diagnostics.gate_saturation(layer, x, low="a"),
            "^low: expected a number from 0 to 1, got str",
        ),
        (
            lambda layer, x: diagnostics.gate_saturation(layer, x, high=None),
            "^high: expected a number from 0 to 1, got NoneType",
        ),
        (lambda layer, x: diagnostics.gradient_flow(layer, x, x), "^dy: expected shape"),
        (lambda layer, x: diagnostics.gradient_flow(layer, x, dstate=3), "^dh: expected"),
        (lambda layer, x: layer.forward(x)[2].trace, "^tape.trace: .* without trace=True"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    layer = build("rnn_tanh")
    with pytest.raises((AttributeError, TypeError, ValueError), match=message):
        call(layer, inputs(layer)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_looking_inside_leaves_parameters_and_gradients_alone(cell):
    layer = build(cell)
    x, state = inputs(layer)
    layer.grads["weight_hh_l0"] = 3
    before = layer._flat.copy(), layer._flat_grad.copy()
    diagnostics.jacobian_norms(layer, x, state)
    diagnostics.spectral_radius(layer)
    diagnostics.gradient_flow(layer, x, dstate=state)
    np.testing.assert_array_equal(before, (layer._flat, layer._flat_grad))


WALKS = {
    "step_jacobians": diagnostics.step_jacobians,
    "jacobian": lambda layer, x, **options: diagnostics.jacobian(layer, x, 2, 1, **options),
    "jacobian_norms": diagnostics.jacobian_norms,
    "jacobian_factor": diagnostics.jacobian_factor,
    "gate_saturation": diagnostics.gate_saturation,
    "gradient_flow": lambda layer, x, **options: diagnostics.gradient_flow(
        layer, x, dstate=np.ones((1, 2, 5)), **options
    ),
}


@pytest.mark.parametrize("function", WALKS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"layer": None},
        {"layer": "gru"},
        {"layer": fr.GRU},
        {"x": None},
        {"x": "a"},
        {"x": np.zeros((6, 2, 4))},
        {"x": np.zeros((6, 2))},
        {"state": "a"},
        {"state": np.zeros((1, 3, 5))},
        {"lengths": "a"},
        {"lengths": [7, 1]},
        {"reset": 3},
        {"reset": np.zeros((2, 6), bool)},
    ],
    ids=lambda wrong: "-".join(f"{name}_{type(value).__name__}" for name, value in wrong.items()),
)
def test_whatever_walks_over_a_sequence_names_what_is_wrong(function, wrong):
    layer = build("gru")
    arguments = {"layer": layer, "x": np.ones((6, 2, 3)), **wrong}
    before = layer.dropout, layer._flat_grad.copy()
    name = next(iter(wrong)).replace("state", "h")  # the state of a GRU is h alone
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        WALKS[function](arguments.pop("layer"), arguments.pop("x"), **arguments)
    assert layer.dropout == before[0]
    np.testing.assert_array_equal(layer._flat_grad, before[1])


@pytest.mark.parametrize("function", sorted(set(WALKS) - {"gate_saturation", "gradient_flow"}))
@pytest.mark.parametrize("index", ["a", None, 1.5, -1])
def test_an_index_that_is_none_is_refused_by_name(function, index):
    with pytest.raises((TypeError, ValueError), match=r"^index: expected"):
        WALKS[function](build("gru"), np.ones((6, 2, 3)), index=index)


@pytest.mark.parametrize("function", [diagnostics.spectral_norm, diagnostics.spectral_radius])
@pytest.mark.parametrize("layer", [None, "a", 3, fr.Linear(2, 3), fr.GRU])
def test_a_spectrum_is_refused_of_what_is_not_recurrent(function, layer):
    with pytest.raises(TypeError, match=r"^layer: expected an RNN, LSTM or GRU, got "):
        function(layer)


@pytest.mark.parametrize("function", [diagnostics.spectral_norm, diagnostics.spectral_radius])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_spectrum_of_what_is_not_finite_is_nan_for_that_gate_alone(function, value):
    layer = build("gru")
    layer.params["weight_hh_l0"][0, 0] = value
    found = function(layer)["weight_hh_l0"]
    assert np.isnan(found["r"])
    assert found["z"] > 0 and found["n"] > 0
