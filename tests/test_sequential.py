"""Sequential: one buffer for all layers, states and lengths on their way, gradients back."""

import copy
import gc

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.module import Module


class Running(Module):
    """A recurrent layer that can be followed by hand: h_t = h_{t-1} + gain * x_t, y = h."""

    def __init__(self, size=1, dtype="float64"):
        self.size, self.seen = size, []
        self._allocate([("gain", (size,))], dtype)
        self._flat[...] = 1

    def config(self):
        return {"size": self.size, "dtype": self.dtype.name}

    def __call__(self, x, state=None, lengths=None, reset=None):
        return self.forward(x, state, lengths, reset)[:2]

    def forward(self, x, state=None, lengths=None, reset=None):
        self.seen.append((state, lengths, reset))
        y = np.cumsum(self._params["gain"] * x, axis=0) + (0 if state is None else state)
        return y, y[-1].copy(), RunningTape(self, x)


class RunningTape:
    def __init__(self, layer, x):
        self.layer, self.x = layer, x

    def backward(self, dy, dstate=None):
        dh = np.zeros(self.x.shape) if dy is None else dy.copy()
        if dstate is not None:
            dh[-1] += dstate
        dh = np.cumsum(dh[::-1], axis=0)[::-1]
        self.layer._grads["gain"] += (dh * self.x).sum((0, 1))
        return dh * self.layer._params["gain"], dh[0]


def chain():
    return fr.Sequential(
        Running(2), fr.Linear(2, 3, dtype="float64", seed=0), Running(3)
    )  # fmt: skip


X = np.random.default_rng(0).standard_normal((4, 2, 2))


def test_parameters_are_named_by_position():
    assert list(chain().params) == ["0.gain", "1.weight", "1.bias", "2.gain"]
    assert list(chain().grads) == list(chain().params)


def test_a_nested_chain_has_nested_names():
    model = fr.Sequential(fr.Sequential(fr.Linear(2, 2)), fr.Linear(2, 2, bias=False))
    assert list(model.params) == ["0.0.weight", "0.0.bias", "1.weight"]


def test_the_layers_keep_their_values():
    layers = [fr.Linear(2, 3, seed=0), fr.Linear(3, 2, seed=1)]
    values = np.concatenate([layer._flat.copy() for layer in layers])
    assert np.array_equal(fr.Sequential(*layers)._flat, values)


@pytest.mark.parametrize("nested", [False, True])
def test_layers_and_model_share_one_buffer(nested):
    first, second = fr.Linear(1, 2, seed=0), fr.Linear(2, 1, seed=1)
    model = fr.Sequential(fr.Sequential(first), second) if nested else fr.Sequential(first, second)
    model._flat[...] = np.arange(7)
    model._flat_grad[...] = -np.arange(7)
    assert first.params["weight"].ravel().tolist() == [0, 1]
    assert second.params["bias"].tolist() == [6] and second.grads["bias"].tolist() == [-6]
    first.params["bias"] = 9
    assert model._flat.tolist() == [0, 1, 9, 9, 4, 5, 6]


def test_it_computes_what_its_layers_compute_in_turn():
    model = chain()
    y, state = model(X)
    by_hand = np.cumsum(X, 0) @ model.params["1.weight"].T + model.params["1.bias"]
    np.testing.assert_allclose(y, np.cumsum(by_hand, 0), atol=1e-14)
    assert np.array_equal(state[0], np.cumsum(X, 0)[-1]) and state[1] is None
    assert np.array_equal(state[2], y[-1])


def test_training_gives_the_same_as_inference():
    model = chain()
    y, state = model(X)
    y_again, state_again, _ = model.forward(X)
    assert np.array_equal(y, y_again) and np.array_equal(state[2], state_again[2])


def test_two_halves_with_the_state_carried_over_are_the_whole():
    model = chain()
    first, state = model(X[:2])
    second, _ = model(X[2:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), model(X)[0], atol=1e-14)


def test_its_gradients_agree_with_finite_differences():
    result = fr.gradcheck(chain(), X)
    assert set(result.errors) == {
        "dx", "dstate[0]", "dstate[2]", "0.gain", "1.weight", "1.bias", "2.gain",
    }  # fmt: skip


def test_a_gradient_of_the_final_state_alone_reaches_the_layers_below():
    model = chain()
    y, state, tape = model.forward(X)
    dx, dstate = tape.backward(None, (None, None, np.ones_like(state[2])))
    as_dy = np.zeros_like(y)
    as_dy[-1] = 1
    dx_again, dstate_again = tape.backward(as_dy)
    assert np.array_equal(dx, dx_again) and np.array_equal(dstate[0], dstate_again[0])


def test_a_gradient_of_a_lower_state_alone_leaves_the_layers_above():
    model = chain()
    _, state, tape = model.forward(X)
    dx, dstate = tape.backward(None, (np.ones_like(state[0]), None, None))
    assert np.array_equal(dx, np.ones_like(X)) and not dstate[2].any()
    assert not model.grads["1.weight"].any() and not model.grads["2.gain"].any()


def test_lengths_and_resets_reach_the_layers_that_take_them():
    class Plain(Running):
        def __call__(self, x, state=None, lengths=None):
            return self.forward(x, state, lengths)[:2]

        def forward(self, x, state=None, lengths=None):
            return super().forward(x, state, lengths)

    plain, running = Plain(2), Running(2)
    lengths, reset = np.array([4, 2]), np.zeros((4, 2), bool)
    model = fr.Sequential(plain, running)
    model(X, None, lengths, reset)
    model.forward(X, None, lengths, reset)
    model.forward(X, reset=reset)
    assert all(given is lengths for _, given, _ in plain.seen[:2])
    assert all(given is None for _, _, given in plain.seen)
    assert [given is lengths for _, given, _ in running.seen] == [True, True, False]
    assert all(given is reset for _, _, given in running.seen)


def test_a_step_of_the_optimizer_is_a_change_of_every_layer():
    model = fr.Sequential(fr.Sequential(Running()), Running())
    versions = [model.layers[0].layers[0]._version, model.layers[1]._version]
    fr.optim.SGD(model).step()
    assert model.layers[0].layers[0]._version > versions[0]
    assert model.layers[1]._version > versions[1]


def test_reading_the_parameters_exposes_every_layer():
    model = fr.Sequential(fr.Sequential(Running()), Running())
    assert not model.layers[1].exposed
    model.params  # noqa: B018 - reading it is what is tested
    assert model.layers[1].exposed and model.layers[0].layers[0].exposed


def test_a_state_dict_goes_from_one_chain_to_another():
    one, other = chain(), chain()
    one._flat[...] = np.arange(one._flat.size)
    other.load_state_dict(one.state_dict())
    assert np.array_equal(other(X)[0], one(X)[0])


def test_a_config_builds_the_chain_again():
    model = fr.Sequential(Running(2), fr.Sequential(fr.Linear(2, 3, dtype="float64")))
    again = fr.Sequential.from_config(model.config())
    assert repr(again) == repr(model) and list(again.params) == list(model.params)


@pytest.mark.parametrize(
    "state, error, message",
    [
        ((None, None), ValueError, "expected a tuple of 3 entries, one for each layer, got 2$"),
        (np.zeros((3, 1)), TypeError, "expected a tuple of 3 entries, .*, got ndarray$"),
        ((None, np.zeros(1), None), ValueError, "Linear keeps no state"),
    ],
)
def test_a_wrong_state_is_refused(state, error, message):
    with pytest.raises(error, match=rf"^state: {message}"):
        chain()(X, state)


def test_a_wrong_gradient_of_the_state_is_refused():
    with pytest.raises(ValueError, match=r"^dstate: expected a tuple of 3 entries"):
        chain().forward(X)[2].backward(None, (None,))


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match=r"^layers: expected at least one, got none$"):
        fr.Sequential()


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"^layer 1: expected a Module, got function$"):
        fr.Sequential(fr.Linear(1, 1), np.mean.__wrapped__)


def test_a_layer_in_two_places_is_refused():
    layer = fr.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^layer 1: the same object is already in place"):
        fr.Sequential(layer, layer)


def test_a_layer_of_another_chain_is_refused():
    layer = fr.Linear(2, 2)
    model = fr.Sequential(layer)
    with pytest.raises(ValueError, match=r"^layer 0: it already belongs to another container$"):
        fr.Sequential(layer, fr.Linear(2, 2))
    assert model.layers == (layer,)


def test_a_layer_may_move_on_when_its_chain_is_gone():
    layer = fr.Linear(2, 2, seed=0)
    fr.Sequential(layer)
    gc.collect()
    assert fr.Sequential(fr.Linear(2, 2), layer).layers[1] is layer


def test_layers_of_two_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"got float32 \(layer 0\) and float64 \(layer 1\)$"):
        fr.Sequential(fr.Linear(1, 1), fr.Linear(1, 1, dtype="float64"))


def test_the_copy_of_a_chain_has_layers_and_buffers_of_its_own():
    model = fr.Sequential(fr.GRU(3, 4, seed=0), fr.Linear(4, 2, seed=1))
    twin = copy.deepcopy(model)
    twin.params["1.bias"] = 5
    assert (twin.layers[1].params["bias"] == 5).all()
    assert (model.params["1.bias"] != 5).all()


WRONG = {
    "a gradient of the state": ((np.zeros((1, 1, 1), "f4"), None), None),
    "a clip": (None, ("foo", 1)),
    "a gradient for a layer without state": ((None, 3), None),
}


@pytest.mark.parametrize(("dstate", "clip"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("nested", [False, True])
def test_a_backward_that_is_refused_adds_to_no_gradient(nested, dstate, clip):
    model = fr.Sequential(fr.GRU(3, 4, seed=0), fr.Linear(4, 2, seed=1))
    outer = fr.Sequential(model, fr.Linear(2, 2, seed=2)) if nested else model
    y, _, tape = outer.forward(np.ones((5, 2, 3), "f4"))
    if nested and dstate is not None:
        dstate = (dstate, None)
    with pytest.raises((TypeError, ValueError)):
        tape.backward(np.ones_like(y), dstate, clip_step=clip)
    assert not any(gradient.any() for gradient in outer.grads.values())


def test_a_change_of_a_lower_layer_is_refused_before_the_upper_ones_add_anything():
    model = fr.Sequential(fr.Linear(3, 4, seed=1), fr.GRU(4, 4, seed=0))
    y, _, tape = model.forward(np.ones((5, 2, 3), "f4"))
    model.params["0.weight"] = 0
    with pytest.raises(RuntimeError, match="changed since forward"):
        tape.backward(np.ones_like(y))
    assert not model.grads["1.weight_hh_l0"].any()


def test_a_forward_that_a_later_layer_refuses_uses_up_no_mask():
    model = fr.Sequential(fr.Dropout(0.5, seed=0), fr.LSTM(3, 4, 2, dropout=0.5, seed=1))
    before = model.random_state
    with pytest.raises(ValueError, match="x: expected shape"):
        model.forward(np.ones((5, 2, 7), "f4"))
    with pytest.raises(TypeError, match="state"):
        model.forward(np.ones((5, 2, 3), "f4"), (None, 3))
    assert model.random_state == before
