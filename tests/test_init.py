"""Initial values: what each gate's block is, by itself, and that the engine takes notice."""

import numpy as np
import pytest

import fastrnn as fr

CELLS = {"rnn": (fr.RNN, 1), "lstm": (fr.LSTM, 4), "gru": (fr.GRU, 3)}
ALL = [fr.init.uniform_, fr.init.orthogonal_, fr.init.identity_]
GATED = ["lstm", "gru"]


def chrono(layer, seed):
    return fr.init.chrono_(layer, 20, seed=seed)


def blocks(layer, kind, gates):
    """Gate blocks of every parameter of a kind: weight_ih of all levels and directions, say."""
    return [
        block
        for name, array in layer.params.items()
        if name.startswith(kind)
        for block in np.split(array, gates)
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_uniform_gives_what_the_constructor_gives_for_the_same_seed(cell):
    kind, _ = CELLS[cell]
    layer = fr.init.uniform_(kind(3, 5, 2, bidirectional=True, seed=1), seed=9)
    np.testing.assert_array_equal(layer._flat, kind(3, 5, 2, bidirectional=True, seed=9)._flat)


def test_uniform_keeps_to_a_given_bound():
    layer = fr.init.uniform_(fr.GRU(30, 40), 0.01, seed=0)
    largest = abs(layer._flat).max()
    assert 0.0099 < largest <= np.float32(0.01)


@pytest.mark.parametrize("gain", [1.0, 0.5])
@pytest.mark.parametrize("cell", CELLS)
def test_every_recurrent_block_is_orthogonal_times_the_gain_and_unlike_the_others(cell, gain):
    kind, gates = CELLS[cell]
    layer = kind(3, 6, 2, bidirectional=True, dtype="float64")
    found = blocks(fr.init.orthogonal_(layer, gain, seed=0), "weight_hh", gates)
    assert len(found) == 4 * gates
    for i, block in enumerate(found):
        np.testing.assert_allclose(block @ block.T, gain**2 * np.eye(6), atol=1e-12)
        assert all(not np.allclose(block, other) for other in found[:i])


@pytest.mark.parametrize("cell", CELLS)
def test_input_blocks_are_uniform_with_glorots_limit_of_one_block(cell):
    kind, gates = CELLS[cell]
    layer = fr.init.orthogonal_(kind(200, 100), seed=0)
    for block in blocks(layer, "weight_ih", gates):
        limit = np.sqrt(6 / 300)
        assert 0.999 * limit < abs(block).max() <= limit
        assert abs(block.var() / (2 / 300) - 1) < 0.05
    assert all((block == 0).all() for block in blocks(layer, "bias", gates))


def test_orthogonal_matrices_have_determinants_of_both_signs():
    # Without the sign correction of (F6) LAPACK's Q alone would decide.
    signs = {
        np.sign(np.linalg.det(fr.init.orthogonal_(fr.RNN(1, 4), seed=s).params["weight_hh_l0"]))
        for s in range(20)
    }
    assert signs == {-1, 1}


@pytest.mark.parametrize("cell", CELLS)
def test_identity_blocks_with_small_inputs_and_no_bias(cell):
    kind, gates = CELLS[cell]
    layer = fr.init.identity_(kind(50, 40), 0.5, seed=0)
    assert all((block == 0.5 * np.eye(40)).all() for block in blocks(layer, "weight_hh", gates))
    assert all((block == 0).all() for block in blocks(layer, "bias", gates))
    assert abs(np.std(layer.params["weight_ih_l0"]) / 0.001 - 1) < 0.1


def test_a_relu_network_from_the_identity_adds_up_its_inputs():
    layer = fr.init.identity_(fr.RNN(2, 2, nonlinearity="relu"), seed=0)
    layer.params["weight_ih_l0"] = np.eye(2)
    x = np.random.default_rng(0).random((9, 3, 2), dtype=np.float32)
    np.testing.assert_allclose(layer(x)[0], x.cumsum(0), rtol=1e-6)


@pytest.mark.parametrize(("cell", "rows"), [("lstm", slice(5, 10)), ("gru", slice(5, 10))])
def test_only_the_keeping_gates_biases_change(cell, rows):
    kind, _ = CELLS[cell]
    layer = kind(3, 5, 2, bidirectional=True, seed=0)
    before = layer.state_dict()
    fr.init.forget_bias_(layer, 2.0)
    for name, array in layer.params.items():
        expected = before[name]
        if name.startswith("bias"):
            expected[rows] = 2.0 if name.startswith("bias_ih") else 0.0
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_large_forget_bias_makes_the_layer_keep_its_state(cell):
    kind, _ = CELLS[cell]
    layer = fr.init.forget_bias_(fr.init.orthogonal_(kind(3, 5, dtype="float64"), seed=0), 30.0)
    state = np.full((1, 2, 5), 0.5)
    x = np.zeros((4, 2, 3))
    if cell == "gru":
        np.testing.assert_allclose(layer(x, state)[1], state, atol=1e-9)
    else:
        flow = fr.diagnostics.gate_saturation(layer, x, (state, state))
        assert flow["f"].high == 1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_chrono_draws_a_memory_up_to_the_longest_for_each_unit_of_each_level(cell):
    kind, gates = CELLS[cell]
    layer = fr.init.chrono_(kind(3, 500, 2, bidirectional=True, dtype="float64"), 200, seed=0)
    lengths = [np.exp(b) for b in blocks(layer, "bias_ih", gates)[1::gates]]
    for t in lengths:
        assert 1 <= t.min() < 3 and 197 < t.max() <= 199
        assert abs(t.mean() / 100 - 1) < 0.1 and abs(t.std() * np.sqrt(12) / 198 - 1) < 0.1
    assert len({t[0] for t in lengths}) == 4


def test_chrono_closes_an_lstms_input_gate_as_far_as_its_forget_gate_is_open():
    layer = fr.init.chrono_(fr.LSTM(3, 5, 2, seed=0), 50, seed=1)
    for i, f, _, _ in zip(*[iter(blocks(layer, "bias_ih", 4))] * 4, strict=True):
        np.testing.assert_array_equal(i, -f)
    for i, f, _, _ in zip(*[iter(blocks(layer, "bias_hh", 4))] * 4, strict=True):
        assert not i.any() and not f.any()


@pytest.mark.parametrize(("cell", "rows"), [("lstm", slice(0, 10)), ("gru", slice(5, 10))])
def test_chrono_changes_no_other_biases_and_no_weights(cell, rows):
    kind, _ = CELLS[cell]
    layer = kind(3, 5, 2, bidirectional=True, seed=0)
    before = layer.state_dict()
    fr.init.chrono_(layer, 30, seed=0)
    for name, array in layer.params.items():
        changed = array != before[name]
        expected = np.zeros_like(changed)
        expected[rows] = name.startswith("bias")
        np.testing.assert_array_equal(changed, expected)


def test_chrono_keeps_a_gradient_alive_over_as_many_steps():
    x, last = np.zeros((200, 1, 2)), np.ones((1, 1, 20))
    kept = []
    for start in (fr.init.forget_bias_, lambda layer: fr.init.chrono_(layer, 200, seed=1)):
        layer = start(fr.LSTM(2, 20, dtype="float64", seed=0))
        _, _, tape = layer.forward(x)
        _, (_, dc) = tape.backward(None, (last, last))
        kept.append(abs(dc).max())
    assert kept[0] < 1e-12 and kept[1] > 1e-2


@pytest.mark.parametrize(
    ("cell", "initialise"), [*((c, f) for c in CELLS for f in ALL), *((c, chrono) for c in GATED)]
)
def test_a_seed_gives_the_same_values_in_both_dtypes_and_another_seed_others(cell, initialise):
    kind, _ = CELLS[cell]
    single = initialise(kind(3, 5, seed=0), seed=1)._flat
    double = initialise(kind(3, 5, dtype="float64", seed=0), seed=1)._flat
    np.testing.assert_array_equal(single, double.astype(np.float32))
    assert (initialise(kind(3, 5, seed=0), seed=2)._flat != single).any()


@pytest.mark.parametrize(
    "initialise", [*ALL, chrono, lambda layer, seed: fr.init.forget_bias_(layer, 3)]
)
def test_the_engine_notices_new_values(initialise):
    layer = fr.LSTM(3, 5, seed=0)
    x = np.ones((4, 2, 3), np.float32)
    layer(x)  # packs the weights
    initialise(layer, seed=1)
    fresh = fr.LSTM(3, 5)
    fresh.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer(x)[0], fresh(x)[0])


def test_of_a_model_the_recurrent_layers_change_and_each_gets_values_of_its_own():
    model = fr.Sequential(fr.RNN(4, 4, seed=0), fr.RNN(4, 4, seed=1), fr.Linear(4, 2, seed=2))
    before = model.state_dict()
    assert fr.init.orthogonal_(model, seed=0) is model
    after = model.state_dict()
    assert not np.allclose(after["0.weight_hh_l0"], after["1.weight_hh_l0"])
    np.testing.assert_array_equal(after["2.weight"], before["2.weight"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fr.init.uniform_(fr.Linear(2, 2)), "model: expected an RNN.*got Linear"),
        (lambda: fr.init.orthogonal_([1]), "model: expected an RNN.*got list"),
        (lambda: fr.init.uniform_(fr.RNN(2, 2), 0), "bound: expected a number above 0, got 0"),
        (lambda: fr.init.orthogonal_(fr.RNN(2, 2), -1), "gain: expected a number above 0, got -1"),
        (lambda: fr.init.identity_(fr.RNN(2, 2), float("nan")), "scale: .*got nan"),
        (lambda: fr.init.identity_(fr.RNN(2, 2), input_std=-1), "input_std: .*got -1"),
        (lambda: fr.init.forget_bias_(fr.RNN(2, 2)), "expected an LSTM or GRU.*got RNN"),
        (lambda: fr.init.forget_bias_(fr.LSTM(2, 2, bias=False)), "expected biases, got an LSTM"),
        (lambda: fr.init.forget_bias_(fr.LSTM(2, 2), float("inf")), "value: .*got inf"),
        (lambda: fr.init.chrono_(fr.RNN(2, 2), 9), "expected an LSTM or GRU.*got RNN"),
        (lambda: fr.init.chrono_(fr.GRU(2, 2, bias=False), 9), "expected biases, got an? GRU"),
        (
            lambda: fr.init.chrono_(fr.GRU(2, 2), 1),
            "longest: expected a number of steps >= 2, got 1",
        ),
        (lambda: fr.init.chrono_(fr.GRU(2, 2), float("inf")), "longest: .*got inf"),
        (
            lambda: fr.init.chrono_(fr.GRU(2, 2), "9"),
            "longest: expected a number of steps.*got str",
        ),
        (lambda: fr.init.chrono_(fr.GRU(2, 2), 9, seed=-1), "seed"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
