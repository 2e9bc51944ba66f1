"""tbptt: every window's gradient is that of its definition, (T5) to (T7), for any k1 and k2."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import reference as twin

T, B, I, H, V = 23, 3, 4, 5, 6
LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}
LENGTHS = [
    (1, 1),
    (1, 2),
    (1, 7),
    (1, T),
    (4, 4),
    (4, 6),
    (4, 8),
    (4, 9),
    (5, 99),
    (T, T),
    (99, 99),
]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, I))
TARGET = RNG.integers(0, V, (T, B))


def model_of(cell="lstm", layers=2):
    recurrent = LAYERS[cell](I, H, layers, dtype="float64", seed=1)
    return fr.Sequential(recurrent, fr.Linear(H, V, dtype="float64", seed=2))


def train(model, k1, k2, **options):
    """Walk once with plain gradient descent; return windows, outputs and gradients."""
    sgd, seen = fr.optim.SGD(model, 0.5), []
    for window in fr.tbptt((X, TARGET), k1, k2, **options):
        y = window.forward(model)
        _, dy = fr.cross_entropy(y, window.target)
        model.zero_grad()
        window.backward(dy)
        seen.append((window, y, {name: g.copy() for name, g in model.grads.items()}))
        sgd.step()
    return seen


def zero_state(cell, layers=2):
    h = np.zeros((layers, B, H))
    return (h, h) if cell == "lstm" else h


def explicit(cell, k1, k2):
    """The same with the twin, one step at a time, each window from its own definition."""
    params = {name: p.copy() for name, p in model_of(cell).params.items()}
    starts = {0: zero_state(cell)}  # the state at a step, as the latest window has it
    for start in range(0, T, k1):
        stop = min(start + k1, T)
        first = max(0, stop - k2)
        inner = {n.removeprefix("0."): p for n, p in params.items() if n.startswith("0.")}
        state, caches, outputs = starts[first], {}, []
        grads = {name: np.zeros_like(p) for name, p in params.items()}
        for t in range(first, stop):
            starts[t] = state
            h, state, caches[t] = twin.stack_forward(cell, inner, X[t : t + 1], state, num_layers=2)
            if t >= start:
                outputs.append((h[0], h[0] @ params["1.weight"].T + params["1.bias"]))
        starts[stop] = state
        y = np.array([logits for _, logits in outputs])
        _, dlogits = twin.cross_entropy(y, TARGET[start:stop])
        dstate = None
        for t in reversed(range(first, stop)):
            dy = None
            if t >= start:
                dl, h = dlogits[t - start], outputs[t - start][0]
                grads["1.weight"] += dl.T @ h
                grads["1.bias"] += dl.sum(0)
                dy = (dl @ params["1.weight"])[None]
            _, dstate, cell_grads = twin.stack_backward(caches[t], dy, dstate)
            for name, g in cell_grads.items():
                grads[f"0.{name}"] += g
        yield y, grads
        for name in params:
            params[name] = params[name] - 0.5 * grads[name]


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize(("k1", "k2"), LENGTHS)
def test_outputs_and_gradients_of_every_window_are_those_of_the_definition(k1, k2, cell):
    windows = train(model_of(cell), k1, k2)
    expected = list(explicit(cell, k1, k2))
    assert len(windows) == len(expected)
    for (_, y, grads), (y_twin, grads_twin) in zip(windows, expected, strict=True):
        np.testing.assert_allclose(y, y_twin, rtol=0, atol=1e-10)
        for name, g in grads_twin.items():
            np.testing.assert_allclose(grads[name], g, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("k2", [T, T + 1, 1000])
@pytest.mark.parametrize("cell", LAYERS)
def test_one_window_over_everything_is_back_propagation_through_time(cell, k2):
    model = model_of(cell)
    y, _, tape = model.forward(X)
    _, dy = fr.cross_entropy(y, TARGET)
    tape.backward(dy)
    expected = {name: g.copy() for name, g in model.grads.items()}
    ((_, y_window, grads),) = train(model_of(cell), T, k2)
    assert np.array_equal(y_window, y)
    for name, g in expected.items():
        assert np.array_equal(grads[name], g), name


@pytest.mark.parametrize("k1", [1, 5, 10])
def test_with_equal_weights_looking_back_on_everything_adds_up_to_the_full_gradient(k1):
    model = model_of()
    y, _, tape = model.forward(X)
    tape.backward(fr.cross_entropy(y, TARGET)[1])
    expected = {name: g.copy() for name, g in model.grads.items()}
    model.zero_grad()
    for window in fr.tbptt((X, TARGET), k1, T):
        y = window.forward(model)
        window.backward(fr.cross_entropy(y, window.target)[1] * (len(y) / T))
    for name, g in expected.items():
        np.testing.assert_allclose(model.grads[name], g, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("k1", "k2"), [(1, 4), (3, 5), (3, 7)])
def test_a_gradient_is_that_of_the_new_loss_at_a_fixed_initial_state(k1, k2):
    model = model_of("gru", 1)
    for window in fr.tbptt((X, TARGET), k1, k2):
        y = window.forward(model)
        _, dy = fr.cross_entropy(y, window.target)
        model.zero_grad()
        window.backward(dy)
        if window.first:
            break
    weight, step = model.params["0.weight_hh_l0"], 1e-5
    for i in [(0, 0), (7, 3), (14, 4)]:
        losses = []
        for shift in (step, -2 * step):
            weight[i] += shift
            y, _ = model(X[window.first : window.stop], window.state)
            losses.append(fr.cross_entropy(y[window.start - window.first :], window.target)[0])
        weight[i] += step
        difference = (losses[0] - losses[1]) / (2 * step)
        assert model.grads["0.weight_hh_l0"][i] == pytest.approx(difference, rel=1e-6, abs=1e-10)


def test_equal_lengths_are_the_walk_in_chunks_that_the_trainer_takes():
    from fastrnn.data import Streams

    ids = np.random.default_rng(1).integers(0, V, 61)
    one, other = (fr.Sequential(fr.LSTM(V, H, seed=3), fr.Linear(H, V, seed=4)) for _ in range(2))
    data = Streams(ids, batch_size=3, seq_len=5)
    fr.Trainer(one, fr.optim.Adam(one, 0.01)).fit(data, epochs=1)
    long = tuple(np.concatenate(part) for part in zip(*data.epoch(0), strict=True))
    adam = fr.optim.Adam(other, 0.01)
    for window in fr.tbptt(long, 5):
        y = window.forward(other)
        other.zero_grad()
        window.backward(fr.cross_entropy(y, window.target)[1])
        adam.step()
    for name, p in one.state_dict().items():
        assert np.array_equal(p, other.state_dict()[name]), name


@pytest.mark.parametrize(("k1", "k2"), LENGTHS)
def test_every_step_is_new_in_exactly_one_window_and_reached_from_as_far_as_k2(k1, k2):
    windows = [window for window, _, _ in train(model_of("rnn"), k1, k2)]
    assert [t for w in windows for t in range(w.start, w.stop)] == list(range(T))
    assert [w.first for w in windows] == [max(0, w.stop - k2) for w in windows]
    assert all(np.array_equal(w.x, X[w.start : w.stop]) for w in windows)
    assert all(np.array_equal(w.target, TARGET[w.start : w.stop]) for w in windows)


def test_a_walk_goes_on_from_the_last_state_of_another():
    model = model_of("gru")
    expected, _ = model(X)
    outputs, state = [], None
    for part in (X[:9], X[9:]):
        for window in fr.tbptt(part, 4, 6, state=state):
            outputs.append(window.forward(model))
        state = window.end_state
    np.testing.assert_allclose(np.concatenate(outputs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 6), (1, 7)])
def test_batch_first_is_the_same_with_two_axes_exchanged(k1, k2):
    layers = [fr.LSTM(I, H, batch_first=first, dtype="float64", seed=1) for first in (False, True)]
    for a, b in zip(
        fr.tbptt(X, k1, k2), fr.tbptt(X.swapaxes(0, 1), k1, k2, batch_first=True), strict=True
    ):
        y, z = a.forward(layers[0]), b.forward(layers[1])
        np.testing.assert_allclose(z.swapaxes(0, 1), y, rtol=0, atol=1e-14)
        a.backward(y)
        b.backward(z)
    for name, g in layers[0].grads.items():
        np.testing.assert_allclose(layers[1].grads[name], g, rtol=0, atol=1e-12)


def test_a_layer_without_a_state_has_nothing_to_look_back_on():
    layer = fr.Linear(I, V, dtype="float64", seed=0)
    for window in fr.tbptt((X, TARGET), 2, 9):
        window.backward(fr.cross_entropy(window.forward(layer), window.target)[1])
    expected = layer.grads["weight"].copy()
    layer.zero_grad()
    for window in fr.tbptt((X, TARGET), 2):
        window.backward(fr.cross_entropy(window.forward(layer), window.target)[1])
    np.testing.assert_allclose(layer.grads["weight"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, 0, 1), "k1: expected an integer of at least 1, got 0"),
        ((X, 1.5, 2), "k1: expected an integer of at least 1, got 1.5"),
        ((X, 10, 5), "k2: expected an integer of at least k1 = 10, got 5"),
        (((X, TARGET[1:]), 1, 1), "data: expected arrays of one length, got 23 and 22 steps"),
        ((X[0, 0], 1, 1), "data: expected at least 2 axes"),
        (((), 1, 1), "data: expected arrays of one length, got no steps"),
    ],
)
def test_what_cannot_be_walked_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        fr.tbptt(*arguments)


def test_calls_out_of_order_are_refused():
    windows = fr.tbptt(X, 4)
    first = next(windows)
    with pytest.raises(RuntimeError, match="window: expected forward before backward"):
        first.backward(np.zeros((4, B, V)))
    with pytest.raises(RuntimeError, match="window: expected forward before the next window"):
        next(windows)


def test_a_gradient_of_another_number_of_steps_is_refused():
    window = next(fr.tbptt(X, 4))
    y = window.forward(model_of())
    with pytest.raises(ValueError, match="dy: expected 4 steps, got shape"):
        window.backward(y[1:])


def test_data_without_targets_has_none():
    with pytest.raises(AttributeError, match="target: the data of tbptt has only one array"):
        next(fr.tbptt(X, 4)).target  # noqa: B018


def test_no_gradient_of_a_window_gives_what_zeros_give():
    model = fr.GRU(3, 4, seed=0)
    windows = iter(fr.tbptt(np.ones((6, 2, 3), np.float32), 2, 4))
    next(windows).forward(model)
    window = next(windows)
    y = window.forward(model)
    of_none, of_zeros = window.backward(None), window.backward(np.zeros_like(y))
    np.testing.assert_array_equal(of_none, of_zeros)
    assert not model._flat_grad.any()
