"""The NumPy twin is the oracle of the other tests, so here it stands trial itself.

Its judges are central finite differences in float64 (equation (K1) of docs/math.md), results that
can be worked out by hand, sequences that must give the same result in two ways, and a few numbers
computed with torch 2.13. No kernel of fastrnn is run, and torch is not needed.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from fastrnn import reference as ref

ROOT = Path(__file__).resolve().parent.parent
LN2, LN3 = math.log(2), math.log(3)

# name -> (forward, backward, gates, states, options)
CELLS = {
    "rnn-tanh": (ref.rnn_forward, ref.rnn_backward, 1, 1, {"nonlinearity": "tanh"}),
    "rnn-relu": (ref.rnn_forward, ref.rnn_backward, 1, 1, {"nonlinearity": "relu"}),
    "rnn-sigmoid": (ref.rnn_forward, ref.rnn_backward, 1, 1, {"nonlinearity": "sigmoid"}),
    "lstm": (ref.lstm_forward, ref.lstm_backward, 4, 2, {}),
    "gru-after": (ref.gru_forward, ref.gru_backward, 3, 1, {"reset_after": True}),
    "gru-before": (ref.gru_forward, ref.gru_backward, 3, 1, {"reset_after": False}),
}
every_cell = pytest.mark.parametrize("name", CELLS)
every_kind = pytest.mark.parametrize("kind", ref._CELLS)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


class Cell:
    """One cell with random float64 arguments; `T` steps of 3 rows, 2 inputs, 3 units."""

    B, I, H = 3, 2, 3

    def __init__(self, name, T=4, seed=0):
        self.forward_, self.backward_, G, n_states, self.options = CELLS[name]
        rng = np.random.default_rng(seed)
        H = self.H
        self.T = T
        self.args = {"x": rng.normal(size=(T, self.B, self.I))}
        self.states = ["h0", "c0"][:n_states]
        for state in self.states:
            self.args[state] = rng.normal(size=(self.B, H))
        shapes = {"ih": (G * H, self.I), "hh": (G * H, H)}
        for side, shape in shapes.items():
            self.args[f"weight_{side}"] = rng.normal(size=shape)
            self.args[f"bias_{side}"] = rng.normal(size=G * H)
        self.dy = rng.normal(size=(T, self.B, H))
        self.dfinals = [rng.normal(size=(self.B, H)) for _ in self.states]

    def forward(self, args=None, **options):
        """-> y, list of final states, cache."""
        y, final, cache = self.forward_(**(args or self.args), **self.options, **options)
        return y, list(final) if isinstance(final, tuple) else [final], cache

    def backward(self, cache, dy=None, dfinals=None):
        return self.backward_(cache, dy, *(dfinals or []))

    def gradients(self, dy=None, dfinals=None, args=None, **options):
        return self.backward(self.forward(args, **options)[2], dy, dfinals)

    def differences(self, dy=None, dfinals=None, args=None, **options):
        """(K1) for every number of every float argument, under the names of `gradients`."""
        args = {k: v for k, v in (args or self.args).items() if v is not None}
        args = {k: v.copy() for k, v in args.items()}

        def loss():
            y, finals, _ = self.forward(args, **options)
            total = 0 if dy is None else (y * dy).sum()
            return total + sum((f * d).sum() for f, d in zip(finals, dfinals or [], strict=False))

        return {
            gradient_of(k): differences(loss, v) for k, v in args.items() if v.dtype.kind == "f"
        }


def gradient_of(argument):
    return f"d{argument}" if argument in ("x", "h0", "c0") else argument


def differences(loss, array, e=1e-5):
    """(K1): `loss()` differentiated by each element of `array`, which it reads."""
    out = np.zeros_like(array)
    for index, value in np.ndenumerate(array):
        array[index] = value + e
        above = loss()
        array[index] = value - e
        below = loss()
        array[index] = value
        out[index] = (above - below) / (2 * e)
    return out


def assert_same(actual, expected, tolerance=1e-12):
    """Two dicts of gradients, compared under the names of `expected`."""
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, tolerance, tolerance, err_msg=key)


def tokens_of(cell, seed=5):
    return np.random.default_rng(seed).integers(0, cell.I, (cell.T, cell.B))


# --- gradients against finite differences ---------------------------------------------------------

LENGTHS = np.array([4, 0, 2])
RESET = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "reset": {"reset": RESET},
    "reverse": {"reverse": True},
    "reverse lengths": {"reverse": True, "lengths": LENGTHS},
    "reverse lengths reset": {"reverse": True, "lengths": [4, 3, 2], "reset": RESET},
}


@every_cell
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_agree_with_finite_differences(name, options):
    cell = Cell(name)
    upstream = cell.dy, cell.dfinals
    expected = cell.differences(*upstream, **options)
    assert_same(cell.gradients(*upstream, **options), expected, 1e-8)


@every_cell
def test_gradients_of_a_single_step_agree_with_finite_differences(name):
    cell = Cell(name, T=1)
    upstream = cell.dy, cell.dfinals
    assert_same(cell.gradients(*upstream), cell.differences(*upstream), 1e-8)


@every_cell
@pytest.mark.parametrize("missing", [("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])
def test_gradients_without_a_bias_agree_with_finite_differences(name, missing):
    cell = Cell(name, T=3)
    args = {k: None if k in missing else v for k, v in cell.args.items()}
    actual = cell.gradients(cell.dy, args=args)
    assert all(actual[k] is None for k in missing)
    assert_same(actual, cell.differences(cell.dy, args=args), 1e-8)


@every_cell
@pytest.mark.parametrize("step", [0, 3])
def test_gradients_through_one_output_only_agree_with_finite_differences(name, step):
    cell = Cell(name)
    dy = np.zeros_like(cell.dy)
    dy[step] = cell.dy[step]
    assert_same(cell.gradients(dy), cell.differences(dy), 1e-8)


@every_cell
@both_ways
def test_gradients_through_the_final_state_only_agree_with_finite_differences(name, reverse):
    cell = Cell(name)
    upstream = None, cell.dfinals
    expected = cell.differences(*upstream, reverse=reverse)
    assert_same(cell.gradients(*upstream, reverse=reverse), expected, 1e-8)


def test_gradients_through_the_final_cell_state_of_an_lstm_agree_with_finite_differences():
    cell = Cell("lstm")
    dfinals = [np.zeros_like(cell.dfinals[0]), cell.dfinals[1]]
    actual = ref.lstm_backward(cell.forward()[2], dcT=dfinals[1])
    assert_same(actual, cell.differences(None, dfinals), 1e-8)


@every_kind
def test_gradients_of_a_stack_agree_with_finite_differences(kind):
    params, x, state, options = stack(kind)
    rng = np.random.default_rng(1)
    dy = rng.normal(size=(2, 4, 4))
    dstate = tuple(rng.normal(size=s.shape) for s in state)

    def loss():
        y, final, _ = ref.stack_forward(kind, params, x, one_or_pair(state), **options)
        finals = final if kind == "lstm" else (final,)
        return (y * dy).sum() + sum((f * d).sum() for f, d in zip(finals, dstate, strict=True))

    caches = ref.stack_forward(kind, params, x, one_or_pair(state), **options)[2]
    dx, dstart, grads = ref.stack_backward(caches, dy, one_or_pair(dstate))
    dstart = dstart if kind == "lstm" else (dstart,)
    actual = {**grads, "dx": dx, **{f"state{k}": d for k, d in enumerate(dstart)}}
    arrays = {**params, "dx": x, **{f"state{k}": s for k, s in enumerate(state)}}
    assert actual.keys() == arrays.keys()
    assert_same(actual, {k: differences(loss, v) for k, v in arrays.items()}, 1e-8)


# --- one result in two ways -----------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_tokens_are_their_one_hot_rows(name, options):
    cell = Cell(name)
    tokens = tokens_of(cell)
    by_token, one_hot = ({**cell.args, "x": x} for x in (tokens, np.eye(cell.I)[tokens]))
    np.testing.assert_allclose(
        cell.forward(by_token, **options)[0], cell.forward(one_hot, **options)[0], 1e-12
    )
    expected = cell.gradients(cell.dy, cell.dfinals, one_hot, **options)
    actual = cell.gradients(cell.dy, cell.dfinals, by_token, **options)
    assert actual.pop("dx") is None
    assert_same(actual, {k: expected[k] for k in actual})


@every_cell
def test_a_reversed_sequence_is_the_flipped_sequence_walked_forward(name):
    cell = Cell(name)
    flipped = {**cell.args, "x": cell.args["x"][::-1]}
    y, finals, _ = cell.forward(reverse=True)
    y_flipped, finals_flipped, _ = cell.forward(flipped)
    np.testing.assert_array_equal(y, y_flipped[::-1])
    np.testing.assert_array_equal(finals, finals_flipped)
    actual = cell.gradients(cell.dy, cell.dfinals, reverse=True)
    expected = cell.gradients(cell.dy[::-1], cell.dfinals, flipped)
    for name in {"dx", "dG", "dh", "dc"} & expected.keys():
        expected[name] = expected[name][::-1]
    assert_same(actual, expected)


@every_cell
def test_the_final_state_of_a_reversed_sequence_is_its_first_step(name):
    cell = Cell(name)
    y, finals, _ = cell.forward(reverse=True)
    np.testing.assert_array_equal(finals[0], y[0])


@every_cell
@both_ways
def test_a_row_with_a_length_is_that_row_cut_and_alone(name, reverse):
    cell = Cell(name)
    y, finals, _ = cell.forward(lengths=[4, 1, 3], reverse=reverse)
    for row, length in enumerate([4, 1, 3]):
        alone = dict(cell.args, x=cell.args["x"][:length, [row]])
        alone.update({s: cell.args[s][[row]] for s in cell.states})
        y_alone, finals_alone, _ = cell.forward(alone, reverse=reverse)
        np.testing.assert_allclose(y[:length, [row]], y_alone, 1e-12)
        np.testing.assert_array_equal(y[length:, row], 0)
        np.testing.assert_allclose([f[[row]] for f in finals], finals_alone, 1e-12)


@every_cell
@both_ways
def test_a_row_of_length_zero_hands_its_state_and_its_gradient_through(name, reverse):
    cell = Cell(name)
    _, finals, cache = cell.forward(lengths=[0, 4, 4], reverse=reverse)
    grads = cell.backward(cache, cell.dy, cell.dfinals)
    for state, final, dfinal in zip(cell.states, finals, cell.dfinals, strict=True):
        np.testing.assert_array_equal(final[0], cell.args[state][0])
        np.testing.assert_array_equal(grads[f"d{state}"][0], dfinal[0])


@every_cell
@both_ways
def test_what_stands_in_the_padding_is_never_used(name, reverse):
    cell = Cell(name)
    options = {"lengths": [4, 1, 3], "reverse": reverse}
    padded = np.arange(4)[:, None] >= options["lengths"]
    expected = cell.gradients(cell.dy, cell.dfinals, **options)

    x, dy = cell.args["x"].copy(), cell.dy.copy()
    x[padded] = np.nan
    dy[padded] = np.nan
    dirty = cell.gradients(dy, cell.dfinals, {**cell.args, "x": x}, reset=padded, **options)
    for key, value in expected.items():
        np.testing.assert_array_equal(dirty[key], value, err_msg=key)
    assert not dirty["dx"][padded].any()


@every_cell
def test_an_invalid_token_in_the_padding_does_no_harm(name):
    cell = Cell(name)
    tokens = tokens_of(cell)
    y = cell.forward({**cell.args, "x": tokens}, lengths=[4, 1, 3])[0]
    tokens[1:, 1] = -100
    np.testing.assert_array_equal(y, cell.forward({**cell.args, "x": tokens}, lengths=[4, 1, 3])[0])


@every_cell
def test_a_reset_splits_a_sequence_in_two(name):
    cell = Cell(name)
    reset = np.zeros((4, 3), bool)
    reset[2] = True
    first = dict(cell.args, x=cell.args["x"][:2])
    second = dict(cell.args, x=cell.args["x"][2:]) | dict.fromkeys(cell.states)
    y, finals, _ = cell.forward(reset=reset)
    y_second, finals_second, _ = cell.forward(second)
    np.testing.assert_allclose(y[:2], cell.forward(first)[0], 1e-12)
    np.testing.assert_allclose(y[2:], y_second, 1e-12)
    np.testing.assert_allclose(finals, finals_second, 1e-12)

    actual = cell.gradients(cell.dy, cell.dfinals, reset=reset)
    a = cell.gradients(cell.dy[:2], args=first)
    b = cell.gradients(cell.dy[2:], cell.dfinals, second)
    sums = {k: a[k] + b[k] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    starts = {f"d{s}": a[f"d{s}"] for s in cell.states}
    assert_same(actual, {"dx": np.concatenate([a["dx"], b["dx"]]), **starts, **sums})


@every_cell
def test_a_reset_in_reverse_separates_a_step_from_the_one_after_it(name):
    cell = Cell(name)
    reset = np.zeros((4, 3), bool)
    reset[1] = True
    first = dict(cell.args, x=cell.args["x"][:2]) | dict.fromkeys(cell.states)
    y, _, _ = cell.forward(reset=reset, reverse=True)
    np.testing.assert_allclose(y[:2], cell.forward(first, reverse=True)[0], 1e-12)


@every_cell
@both_ways
def test_a_reset_on_the_first_step_walked_discards_the_initial_state(name, reverse):
    cell = Cell(name)
    reset = np.zeros((4, 3), bool)
    reset[-1 if reverse else 0, 1] = True
    _, finals, cache = cell.forward(reset=reset, reverse=reverse)
    from_zero = dict(cell.args) | dict.fromkeys(cell.states)
    finals_from_zero = cell.forward(from_zero, reverse=reverse)[1]
    np.testing.assert_array_equal([f[1] for f in finals], [f[1] for f in finals_from_zero])
    grads = cell.backward(cache, cell.dy, cell.dfinals)
    for state in cell.states:
        assert not grads[f"d{state}"][1].any()
        assert grads[f"d{state}"][[0, 2]].all()


@every_cell
def test_windows_that_pass_state_and_gradient_on_are_one_long_sequence(name):
    cell = Cell(name)
    first = dict(cell.args, x=cell.args["x"][:3])
    y_first, middle, cache_first = cell.forward(first)
    second = dict(cell.args, x=cell.args["x"][3:]) | dict(zip(cell.states, middle, strict=True))
    y_second, _, cache_second = cell.forward(second)
    np.testing.assert_array_equal(np.concatenate([y_first, y_second]), cell.forward()[0])

    b = cell.backward(cache_second, cell.dy[3:], cell.dfinals)
    a = cell.backward(cache_first, cell.dy[:3], [b[f"d{s}"] for s in cell.states])  # (T4)
    sums = {k: a[k] + b[k] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    starts = {f"d{s}": a[f"d{s}"] for s in cell.states}
    expected = {"dx": np.concatenate([a["dx"], b["dx"]]), **starts, **sums}
    assert_same(cell.gradients(cell.dy, cell.dfinals), expected)


@every_cell
def test_backward_may_be_called_again_with_the_same_result(name):
    cell = Cell(name)
    cache = cell.forward()[2]
    once = cell.backward(cache, cell.dy, cell.dfinals)
    again = cell.backward(cache, cell.dy, cell.dfinals)
    for key, value in once.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


@every_cell
def test_a_cache_does_not_follow_later_changes_of_the_arguments(name):
    cell = Cell(name)
    expected = cell.gradients(cell.dy)
    cache = cell.forward()[2]
    for array in cell.args.values():
        array += 1
    assert_same(cell.backward(cache, cell.dy), expected, 0)


@every_cell
def test_a_sequence_of_no_steps_returns_the_initial_state(name):
    cell = Cell(name, T=0)
    y, finals, cache = cell.forward()
    assert y.shape == (0, 3, 3)
    np.testing.assert_array_equal(finals, [cell.args[s] for s in cell.states])
    grads = cell.backward(cache, None, cell.dfinals)
    np.testing.assert_array_equal([grads[f"d{s}"] for s in cell.states], cell.dfinals)
    assert not grads["weight_hh"].any()


@every_cell
def test_float32_stays_float32_and_rounds_like_it(name):
    cell = Cell(name)
    single = {k: v.astype(np.float32) for k, v in cell.args.items()}
    y, finals, cache = cell.forward(single, lengths=LENGTHS, reset=RESET)
    grads = cell.backward(cache, cell.dy, cell.dfinals)
    assert {a.dtype for a in [y, *finals, *grads.values()]} == {np.dtype(np.float32)}
    expected = cell.gradients(cell.dy, cell.dfinals, lengths=LENGTHS, reset=RESET)
    assert_same(grads, expected, 2e-5)


# --- worked out by hand ---------------------------------------------------------------------------


def column(*values):
    return np.array(values, float)[:, None]


def test_a_linear_scalar_rnn_is_a_geometric_sum():
    w, T = 0.5, 6
    y, _, cache = ref.rnn_forward(
        np.ones((T, 1, 1)), None, column(1), column(w), nonlinearity="relu"
    )
    np.testing.assert_allclose(y.ravel(), [sum(w**k for k in range(t)) for t in range(1, T + 1)])
    grads = ref.rnn_backward(cache, dhT=column(1))
    np.testing.assert_allclose(grads["dx"].ravel(), [w ** (T - t) for t in range(1, T + 1)])
    np.testing.assert_allclose(grads["weight_hh"], sum(k * w ** (k - 1) for k in range(T)))
    np.testing.assert_allclose(grads["dh0"], w**T)


@pytest.mark.parametrize(
    ("nonlinearity", "a", "h", "da"),
    [
        ("tanh", LN2, 0.6, 0.64),
        ("sigmoid", LN3, 0.75, 0.1875),
        ("relu", 2, 2, 1),
        ("relu", -2, 0, 0),
    ],
)
def test_one_step_of_an_rnn_is_as_worked_out_by_hand(nonlinearity, a, h, da):
    arguments = np.full((1, 1, 1), 2.0), column(3), column(a / 4), column(a / 6)
    y, _, cache = ref.rnn_forward(*arguments, nonlinearity=nonlinearity)  # a/2 + a/2
    np.testing.assert_allclose(y.ravel(), h)
    expected = {"bias_ih": da, "weight_ih": 2 * da, "weight_hh": 3 * da}
    expected |= {"dx": da * a / 4, "dh0": da * a / 6}
    grads = ref.rnn_backward(cache, dhT=column(1)) | {"bias_ih": da}
    assert_same(grads, expected)


def test_relu_has_derivative_zero_at_its_kink():
    _, _, cache = ref.rnn_forward(
        np.zeros((1, 1, 1)), None, column(1), column(1), nonlinearity="relu"
    )
    assert ref.rnn_backward(cache, dhT=column(1))["dx"].item() == 0


def lstm_with_known_gates():
    """i = 3/4, f = 1/4, g = 3/5, o = 1/2 from the bias alone, and c0 = 1: c = 0.25 + 0.45 = 0.7."""
    bias = np.array([LN3, -LN3, LN2, 0.0])
    zeros = np.zeros((4, 1))
    return ref.lstm_forward(np.ones((1, 1, 1)), None, column(1), zeros, zeros, bias)


def test_one_step_of_an_lstm_is_as_worked_out_by_hand():
    y, (h, c), cache = lstm_with_known_gates()
    np.testing.assert_allclose(cache.gates.ravel(), [0.75, 0.25, 0.6, 0.5])
    np.testing.assert_allclose(c, 0.7)
    np.testing.assert_allclose([h, y[0]], 0.5 * math.tanh(0.7))


def test_the_gradient_of_an_lstm_through_c_is_as_worked_out_by_hand():
    grads = ref.lstm_backward(lstm_with_known_gates()[2], dcT=column(1))
    np.testing.assert_allclose(grads["dc0"], 0.25)
    np.testing.assert_allclose(grads["bias_ih"], [0.6 * 0.1875, 0.1875, 0.75 * 0.64, 0])


def test_the_gradient_of_an_lstm_through_h_is_as_worked_out_by_hand():
    grads = ref.lstm_backward(lstm_with_known_gates()[2], dhT=column(1))
    dc = 0.5 * (1 - math.tanh(0.7) ** 2)
    expected = [dc * 0.1125, dc * 0.1875, dc * 0.48, math.tanh(0.7) * 0.25]
    np.testing.assert_allclose(grads["bias_ih"], expected)
    np.testing.assert_allclose(grads["dc0"], dc * 0.25)


def gru_with_known_gates(reset_after):
    """r = 3/4, z = 1/4, n = tanh(ln2 - 3/4 + 3/4) = 3/5, h0 = 1: h = 0.25 + 0.75*0.6 = 0.7."""
    bias = np.array([LN3, -LN3, LN2 - 0.75])
    weights = np.zeros((3, 1)), column(0, 0, 1), bias
    return ref.gru_forward(
        np.ones((1, 1, 1)), column(1), *weights, np.zeros(3), reset_after=reset_after
    )


@pytest.mark.parametrize("reset_after", [True, False])
def test_one_step_of_a_gru_is_as_worked_out_by_hand(reset_after):
    _, h, cache = gru_with_known_gates(reset_after)
    fourth = 1.0 if reset_after else 0.75  # q = h0, p = r*h0
    np.testing.assert_allclose(cache.gates.ravel(), [0.75, 0.25, 0.6, fourth])
    np.testing.assert_allclose(h, 0.7)


@pytest.mark.parametrize(
    ("reset_after", "b_hn", "R_n"), [(True, 0.36, 0.36), (False, 0.48, 0.48 * 0.75)]
)
def test_the_gradient_of_a_gru_is_as_worked_out_by_hand(reset_after, b_hn, R_n):
    grads = ref.gru_backward(gru_with_known_gates(reset_after)[2], dhT=column(1))
    np.testing.assert_allclose(grads["bias_ih"], [0.48 * 0.1875, 0.4 * 0.1875, 0.48])
    np.testing.assert_allclose(grads["bias_hh"], [0.09, 0.075, b_hn])
    np.testing.assert_allclose(grads["weight_hh"], column(0.09, 0.075, R_n))
    np.testing.assert_allclose(grads["dh0"], 0.25 + 0.48 * 0.75)


def test_the_two_forms_of_a_gru_are_different_cells():
    after, before = (Cell(f"gru-{form}").forward()[0] for form in ("after", "before"))
    assert np.abs(after - before).max() > 0.01


def test_a_saturated_lstm_hands_the_gradient_of_c_through_and_nothing_to_its_gates():
    cell = Cell("lstm")
    cell.args["bias_ih"] = np.full(12, 1000.0)  # every gate is 1: c counts the steps
    _, (_, c), cache = cell.forward()
    np.testing.assert_array_equal(c, cell.args["c0"] + 1 + 1 + 1 + 1)
    grads = ref.lstm_backward(cache, cell.dy, dcT=cell.dfinals[1])
    assert not grads["dG"].any()
    only_c = ref.lstm_backward(cache, dcT=cell.dfinals[1])
    np.testing.assert_array_equal(only_c["dc0"], cell.dfinals[1])


# --- the stack ------------------------------------------------------------------------------------


def wave(shape, k):
    """Numbers without a pattern that any language can repeat."""
    return np.sin(k + 0.7 * np.arange(math.prod(shape))).reshape(shape)


def one_or_pair(states):
    return states if len(states) == 2 else states[0]


def stack(kind, H=2):
    """Two layers, both directions, batch first, ragged: parameters, x, states, options."""
    G, n_states = len(ref._CELLS[kind][2]) or 1, 2 if kind == "lstm" else 1
    rng = np.random.default_rng(0)
    params = {}
    for layer in range(2):
        for suffix in ("", "_reverse"):
            end = f"_l{layer}{suffix}"
            params[f"weight_ih{end}"] = rng.normal(size=(G * H, 2 * H if layer else 2))
            params[f"weight_hh{end}"] = rng.normal(size=(G * H, H))
            params[f"bias_ih{end}"] = rng.normal(size=G * H)
            params[f"bias_hh{end}"] = rng.normal(size=G * H)
    x = rng.normal(size=(2, 4, 2))
    state = tuple(rng.normal(size=(4, 2, H)) for _ in range(n_states))
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True, "lengths": [4, 2]}
    return params, x, state, options


# loss, and the gradients of x, of the initial states and of the parameters against a `wave`
TORCH = {
    ("rnn", "tanh"): [9.45164642378505, -2.3351077593092, -0.444135477329026, 4.17899733274152],
    ("rnn", "relu"): [23.7827897980813, 4.21347374513437, -0.364981618974006, 64.7642073052232],
    ("lstm", "tanh"): [-1.56019836878865, 0.567675877481232, -1.95225726673982, -0.508533555312205],
    ("gru", "tanh"): [-9.26576108972649, -1.04429970472402, -3.88122453733416, -6.18986582611849],
}


@pytest.mark.parametrize(("kind", "nonlinearity"), TORCH)
def test_a_ragged_bidirectional_stack_is_that_of_torch(kind, nonlinearity):
    T, B, H = 4, 3, 3
    n_states = 2 if kind == "lstm" else 1
    G = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    shapes = {}
    for layer, I in enumerate([2, 2 * H]):
        for end in (f"_l{layer}", f"_l{layer}_reverse"):
            shapes |= {f"weight_ih{end}": (G * H, I), f"weight_hh{end}": (G * H, H)}
            shapes |= {f"bias_ih{end}": (G * H,), f"bias_hh{end}": (G * H,)}
    names = sorted(shapes)
    params = {name: wave(shapes[name], k) for k, name in enumerate(names)}
    state = [wave((4, B, H), 21 + j) for j in range(n_states)]
    y, final, caches = ref.stack_forward(
        kind,
        params,
        wave((T, B, 2), 20),
        one_or_pair(state),
        num_layers=2,
        bidirectional=True,
        lengths=[4, 1, 3],
        nonlinearity=nonlinearity,
    )
    finals = final if kind == "lstm" else [final]
    dy, dstate = wave(y.shape, 30), [wave((4, B, H), 31 + j) for j in range(n_states)]
    dx, dstart, grads = ref.stack_backward(caches, dy, one_or_pair(dstate))
    dstart = dstart if kind == "lstm" else [dstart]
    actual = [
        (y * dy).sum() + sum((f * d).sum() for f, d in zip(finals, dstate, strict=True)),
        (dx * wave(dx.shape, 40)).sum(),
        sum((d * wave(d.shape, 41 + j)).sum() for j, d in enumerate(dstart)),
        sum((grads[n] * wave(shapes[n], 50 + k)).sum() for k, n in enumerate(names)),
    ]
    np.testing.assert_allclose(actual, TORCH[kind, nonlinearity], 1e-12)


@every_kind
def test_a_stack_is_its_cells_one_after_the_other(kind):
    params, x, state, _ = stack(kind)
    x = x.swapaxes(0, 1)
    forward = ref._CELLS[kind][0]
    X, finals = x, []
    for layer in range(2):
        outputs = []
        for d, suffix in enumerate(["", "_reverse"]):
            end = f"_l{layer}{suffix}"
            weights = [params[n + end] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            start = [s[2 * layer + d] for s in state]
            y, final, _ = forward(X, *start, *weights, reverse=bool(d))
            outputs.append(y)
            finals.append(final if kind == "lstm" else (final,))
        X = np.concatenate(outputs, axis=2)
    state4 = one_or_pair(state)
    y, final, _ = ref.stack_forward(kind, params, x, state4, num_layers=2, bidirectional=True)
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(
        final if kind == "lstm" else (final,), list(zip(*finals, strict=True))
    )


@every_kind
def test_batch_first_swaps_the_axes_of_x_and_y_and_leaves_the_state(kind):
    params, x, state, options = stack(kind)
    state = one_or_pair(state)
    y, final, caches = ref.stack_forward(kind, params, x, state, **options)
    options["batch_first"] = False
    y_time, final_time, caches_time = ref.stack_forward(
        kind, params, x.swapaxes(0, 1), state, **options
    )
    np.testing.assert_array_equal(y, y_time.swapaxes(0, 1))
    np.testing.assert_array_equal(final, final_time)
    dx = ref.stack_backward(caches, np.cos(y))[0]
    dx_time = ref.stack_backward(caches_time, np.cos(y_time))[0]
    np.testing.assert_array_equal(dx, dx_time.swapaxes(0, 1))


@every_kind
def test_a_stack_takes_tokens_in_its_first_layer(kind):
    params, _, _, options = stack(kind)
    tokens = np.array([[0, 1, 1, 0], [1, 1, -100, -100]])  # padding is not read
    y, _, caches = ref.stack_forward(kind, params, tokens, **options)
    one_hot = np.eye(2)[np.maximum(tokens, 0)]
    y_one_hot, _, caches_one_hot = ref.stack_forward(kind, params, one_hot, **options)
    np.testing.assert_allclose(y, y_one_hot, 1e-12)
    dx, _, grads = ref.stack_backward(caches, np.cos(y))
    assert dx is None
    assert_same(grads, ref.stack_backward(caches_one_hot, np.cos(y))[2])


def test_a_stack_without_biases_has_no_gradients_for_them():
    params, x, _, options = stack("gru")
    params = {k: v for k, v in params.items() if k.startswith("weight")}
    y, _, caches = ref.stack_forward("gru", params, x, **options)
    assert ref.stack_backward(caches, np.ones_like(y))[2].keys() == params.keys()


def test_half_of_the_gradient_of_an_lstm_state_may_be_missing():
    params, x, state, options = stack("lstm")
    _, (h, _), caches = ref.stack_forward("lstm", params, x, state, **options)
    half = ref.stack_backward(caches, dstate=(np.ones_like(h), None))
    zero = ref.stack_backward(caches, dstate=(np.ones_like(h), np.zeros_like(h)))
    np.testing.assert_array_equal(half[0], zero[0])
    assert half[0].any()


# --- activations, losses, clipping, optimizers ----------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_sigmoid_is_accurate_in_both_tails_and_never_overflows():
    actual = ref.sigmoid(np.array([-1e4, -700.0, -40.0, 0.0, LN3, 40.0, 1e4]))
    expected = [0, math.exp(-700), math.exp(-40), 0.5, 0.75, 1, 1]
    np.testing.assert_allclose(actual, expected, 1e-15)


def test_the_cross_entropy_of_equal_logits_is_the_logarithm_of_their_number():
    loss, dlogits = ref.cross_entropy(np.full((2, 3, 5), 7.0), np.zeros((2, 3), int))
    assert loss == pytest.approx(math.log(5))
    np.testing.assert_allclose(dlogits, np.full((2, 3, 5), 0.2 / 6) - np.eye(5)[0] / 6)


def test_the_gradient_of_cross_entropy_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 4)), np.array([[0, 3, -100], [1, 1, 2]])
    expected = differences(lambda: ref.cross_entropy(logits, targets)[0], logits)
    np.testing.assert_allclose(ref.cross_entropy(logits, targets)[1], expected, atol=1e-9)


def test_ignored_targets_do_not_count():
    logits = np.array([[0.0, LN3], [5.0, 1.0]])
    loss, dlogits = ref.cross_entropy(logits, np.array([1, 9]), ignore_index=9)
    assert loss == pytest.approx(math.log(4 / 3))
    np.testing.assert_allclose(dlogits, [[0.25, -0.25], [0, 0]])


def test_the_loss_of_no_target_at_all_is_not_a_number_and_has_no_gradient():
    loss, dlogits = ref.cross_entropy(np.ones((2, 3)), np.array([-100, -100]))
    assert math.isnan(loss)
    assert not dlogits.any()


@pytest.mark.filterwarnings("error")
def test_huge_logits_do_not_overflow():
    loss, dlogits = ref.cross_entropy(np.array([[1e4, 0.0], [1e4, 0.0]]), np.array([0, 1]))
    assert loss == 5e3
    np.testing.assert_array_equal(dlogits, [[0, 0], [0.5, -0.5]])
    loss, du = ref.bce_with_logits(np.array([1e4, -1e4, 1e4, -1e4]), np.array([1.0, 0, 0, 1]))
    assert loss == 5e3
    np.testing.assert_array_equal(du, [0, 0, 0.25, -0.25])


@pytest.mark.parametrize("loss", [ref.mse, ref.bce_with_logits])
def test_the_gradients_of_elementwise_losses_agree_with_finite_differences(loss):
    rng = np.random.default_rng(0)
    y, target = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4))
    expected = differences(lambda: loss(y, target)[0], y)
    np.testing.assert_allclose(loss(y, target)[1], expected, atol=1e-9)


def test_binary_cross_entropy_is_minus_the_logarithm_of_the_probability():
    assert ref.bce_with_logits(np.array([LN3]), np.array([1.0]))[0] == pytest.approx(
        math.log(4 / 3)
    )
    assert ref.bce_with_logits(np.array([LN3]), np.array([0.0]))[0] == pytest.approx(math.log(4))


def test_clipping_by_norm_scales_all_gradients_alike():
    norm, clipped = ref.clip_grad_norm([np.array([3.0, 0.0]), np.array([[4.0]])], 2.0)
    assert norm == 5
    np.testing.assert_allclose(clipped[0], [1.2, 0], 1e-6)
    np.testing.assert_allclose(clipped[1], [[1.6]], 1e-6)


def test_clipping_by_norm_leaves_short_gradients_alone():
    norm, (clipped,) = ref.clip_grad_norm([np.array([3.0, 4.0])], 6.0)
    assert norm == 5
    np.testing.assert_array_equal(clipped, [3, 4])


def test_clipping_by_value_cuts_each_element():
    (clipped,) = ref.clip_grad_value([np.array([-3.0, 0.5, 2.0])], 1.0)
    np.testing.assert_array_equal(clipped, [-1, 0.5, 1])


# parameters [0.5, -1.0] after three steps with the gradients wave((2,), 0), wave((2,), 1), ...
AFTER_THREE_STEPS = [
    ("sgd", {"lr": 0.1}, [0.324923158836642, -1.2063262377924]),
    ("sgd", {"lr": 0.1, "momentum": 0.9}, [0.249190770203931, -1.40573729525077]),
    (
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        [0.062679532775337, -1.48221386770035],
    ),
    ("adagrad", {}, [0.482660497986453, -1.02178474614484]),
    (
        "adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1},
        [0.248488183541673, -1.20122037709239],
    ),
    ("rmsprop", {}, [0.326435117802246, -1.21816830998312]),
    (
        "rmsprop",
        {"lr": 0.1, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.1},
        [-1.07056334901067, -2.33796599989283],
    ),
    ("rmsprop", {"centered": True, "momentum": 0.5}, [0.274937501982093, -1.3377230026942]),
    ("adam", {}, [0.498396311679748, -1.00292520765605]),
    (
        "adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
        [0.227924192120829, -1.28911792138689],
    ),
    ("adamw", {}, [0.498381319271115, -1.00289517806601]),
    ("adamw", {"lr": 0.1, "weight_decay": 0.3}, [0.298200078407942, -1.19631672219864]),
]


@pytest.mark.parametrize(("name", "options", "expected"), AFTER_THREE_STEPS)
def test_three_steps_of_an_optimizer_are_those_of_torch(name, options, expected):
    p, state = np.array([0.5, -1.0]), {}
    for k in range(3):
        p = getattr(ref, name)(p, wave((2,), k), state, **options)
    np.testing.assert_allclose(p, expected, 1e-13)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "adamw"])
def test_an_optimizer_keeps_float32(name):
    p = getattr(ref, name)(np.ones(2, np.float32), np.ones(2, np.float32), {}, weight_decay=0.1)
    assert p.dtype == np.float32


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh": np.ones((3, 12))}, r"weight_hh: expected shape \(12, 3\), got \(3, 12\)"),
        ({"weight_ih": np.ones((13, 2))}, r"weight_ih: expected shape \(4\*H, I\), got \(13, 2\)"),
        ({"weight_ih": np.ones((12, 2), int)}, "weight_ih: expected a floating dtype, got int64"),
        ({"bias_hh": np.ones(3)}, r"bias_hh: expected shape \(12,\), got \(3,\)"),
        ({"c0": np.ones((1, 3))}, r"c0: expected shape \(3, 3\), got \(1, 3\)"),
        ({"x": np.ones((4, 3, 5))}, r"x: expected shape \(T, B, 2\), got \(4, 3, 5\)"),
        ({"x": np.full((4, 3), 2)}, r"x: expected tokens in \[0, 2\), got 2\.\.2"),
        ({"x": np.full((4, 3), -1)}, r"x: expected tokens in \[0, 2\), got -1\.\.-1"),
        ({"lengths": [5, 1, 1]}, r"lengths: expected 3 integers in 0\.\.4, got \[5, 1, 1\]"),
        ({"lengths": [1.5, 1, 1]}, r"lengths: expected 3 integers in 0\.\.4, got \[1\.5"),
        ({"reset": np.ones((3, 4))}, r"reset: expected shape \(4, 3\), got \(3, 4\)"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(change, message):
    cell = Cell("lstm")
    with pytest.raises(ValueError, match=message):
        cell.forward({**cell.args, **change})


def test_a_gradient_of_another_shape_is_refused():
    cell = Cell("lstm")
    with pytest.raises(ValueError, match=r"dy: expected shape \(4, 3, 3\), got \(3, 3\)"):
        cell.gradients(cell.dy[0])


def test_an_unknown_kind_or_nonlinearity_or_a_missing_weight_is_refused():
    params, x, _, options = stack("rnn")
    with pytest.raises(ValueError, match=r"kind: expected .*'gru'.*, got 'cnn'"):
        ref.stack_forward("cnn", params, x)
    with pytest.raises(ValueError, match=r"nonlinearity: expected .*'relu'.*, got 'sin'"):
        ref.stack_forward("rnn", params, x, **options, nonlinearity="sin")
    del params["weight_hh_l1_reverse"]
    with pytest.raises(KeyError, match=r"missing key\(s\): weight_hh_l1_reverse"):
        ref.stack_forward("rnn", params, x, **options)


def test_a_target_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"targets: expected classes in \[0, 3\) or -100"):
        ref.cross_entropy(np.ones((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match=r"targets: expected shape \(2,\), got \(3,\)"):
        ref.cross_entropy(np.ones((2, 3)), np.array([0, 1, 2]))


# --- the equations --------------------------------------------------------------------------------

NUMBER = r"\(([A-Z]{1,2})(\d+)\)"


def numbered_equations():
    """(letters, number) of every line of docs/math.md that is set as an equation and numbered."""
    text = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    return [(m[1], int(m[2])) for line in lines if (m := re.search(rf"\s{NUMBER}$", line))]


def test_the_equations_are_numbered_from_one_without_gaps_or_doubles():
    numbers = {}
    for letters, number in numbered_equations():
        numbers.setdefault(letters, []).append(number)
    assert len(numbers) == 17
    assert all(n == list(range(1, len(n) + 1)) for n in numbers.values()), numbers


@pytest.mark.parametrize("path", ["docs/math.md", "src/fastrnn/reference.py"])
def test_every_equation_that_is_cited_exists(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    cited = {(m[1], int(m[2])) for m in re.finditer(NUMBER, text)}
    assert len(cited) > 80
    assert cited <= set(numbered_equations())
