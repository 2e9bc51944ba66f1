"""gradcheck: right gradients pass, every kind of wrong one is found, and the model is put back."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.gradcheck import GradcheckError
from fastrnn.module import Module


class Leaky(Module):
    """h_t = tanh(w * h_{t-1} + x_t), elementwise; `break_` spoils the tape in one way."""

    def __init__(self, size=2, dtype="float64", break_=None):
        self.size, self.break_, self.calls = size, break_, 0
        self._allocate([("w", (size,))], dtype)
        self._flat[...] = np.linspace(0.5, 1.5, size)

    def config(self):
        return {"size": self.size}

    def forward(self, x, state=None, lengths=None):
        self.calls += 1
        h = np.zeros((len(x) + 1, *x.shape[1:]))
        if state is not None:
            h[0] = state
        for t in range(len(x)):
            h[t + 1] = np.tanh(self._params["w"] * h[t] + x[t])
        if self.break_ == "dropout":
            h *= 1 + 1e-9 * self.calls
        return h[1:], h[-1].copy(), LeakyTape(self, h)


class LeakyTape:
    def __init__(self, layer, h):
        self.layer, self.h, self.asked = layer, h, 0

    def backward(self, dy, dstate=None):
        h, w, break_ = self.h, self.layer._params["w"], self.layer.break_
        self.asked += 1
        dx, dw = np.zeros(h[1:].shape), np.zeros_like(w)
        carry = np.zeros(h[0].shape) if dstate is None or break_ == "dfinal" else dstate
        for t in reversed(range(0 if break_ != "first step" else 1, len(dx))):
            dx[t] = (dy[t] + carry) * (1 - h[t + 1] ** 2)
            dw += (dx[t] * h[t]).sum(0)
            carry = dx[t] * w
        if break_ == "w":
            dw[0] *= 1 + 1e-6
        if break_ == "once":
            self.h = h + 1e-6
        if break_ == "overwrite":
            self.layer._grads["w"][...] = dw
        else:
            self.layer._grads["w"] += dw
        if break_ == "dx":
            dx[0, 0, 0] += 1e-6
        return dx, carry * (1 + 1e-6 * (break_ == "dstate"))


X = np.random.default_rng(0).standard_normal((4, 3, 2))


def test_right_gradients_pass_by_a_wide_margin():
    result = fr.gradcheck(Leaky(), X)
    assert set(result.errors) == {"dx", "dstate", "w"}
    assert result.ok and max(result.errors.values()) < 1e-10


def test_a_given_initial_state_is_differentiated_where_it_is():
    assert fr.gradcheck(Leaky(), X, np.full((3, 2), 0.5)).ok


@pytest.mark.parametrize("name", ["dx", "dstate", "w"])
def test_an_error_in_one_array_is_reported_under_its_name(name):
    result = fr.gradcheck(Leaky(break_=name), X, tol=1e-8, raise_on_error=False)
    assert not result.ok
    assert [n for n, error in result.errors.items() if error > 1e-8] == [name]


@pytest.mark.parametrize("break_", ["first step", "dfinal", "dx", "w", "dstate"])
def test_wrong_gradients_raise_with_a_table(break_):
    with pytest.raises(GradcheckError, match=r"FAIL +\d"):
        fr.gradcheck(Leaky(break_=break_), X, np.full((3, 2), 0.5), tol=1e-8)


@pytest.mark.parametrize("break_", ["once", "overwrite"])
def test_a_tape_that_does_not_add_the_same_again_is_refused(break_):
    with pytest.raises(ValueError, match=r"^backward: a second call did not add the same again$"):
        fr.gradcheck(Leaky(break_=break_), X)


def test_a_forward_that_is_random_is_refused():
    with pytest.raises(ValueError, match=r"^forward: two calls differ"):
        fr.gradcheck(Leaky(break_="dropout"), X)


def test_model_and_arguments_are_as_before():
    model, x, state = Leaky(), X.copy(), np.full((3, 2), 0.5)
    model._flat_grad[...] = 7
    before = model._flat.copy()
    fr.gradcheck(model, x, state)
    assert np.array_equal(model._flat, before) and (model._flat_grad == 7).all()
    assert np.array_equal(x, X) and (state == 0.5).all()


def test_of_a_large_array_only_so_many_elements_are_compared():
    few, all_ = Leaky(), Leaky()
    fr.gradcheck(few, X, max_checks=2)
    fr.gradcheck(all_, X, max_checks=None)
    assert few.calls < all_.calls
    assert all_.calls - few.calls == 4 * (X.size - 2 + 6 - 2)  # four calls an element; x and state


def test_states_within_tuples_are_differentiated_by_position():
    model = fr.Sequential(Leaky(), fr.Linear(2, 2, dtype="float64", seed=0), Leaky())
    result = fr.gradcheck(model, X)
    assert {name for name in result.errors if name.startswith("dstate")} == {
        "dstate[0]",
        "dstate[2]",
    }


PAIRS = {
    "attention": (
        lambda: fr.AdditiveAttention(2, 3, 2, dtype="float64", seed=0),
        (X[:2], np.random.default_rng(1).standard_normal((4, 3, 3))),
        {"dx[0]", "dx[1]"},
    ),
    "encoder and decoder": (
        lambda: fr.EncoderDecoder(4, 5, "gru", 3, dtype="float64", seed=0),
        (np.array([[0, 3], [2, 1], [1, 1]]), np.array([[4, 2], [1, -100]])),
        set(),
    ),
}


@pytest.mark.parametrize(("build", "pair", "inputs"), PAIRS.values(), ids=PAIRS)
def test_of_a_pair_each_array_of_numbers_is_differentiated(build, pair, inputs):
    model = build()
    assert set(fr.gradcheck(model, pair).errors) == inputs | set(model.params)


class Product(Module):
    """y = a b of a pair, with an error of 1e-6 in the gradient by b."""

    def forward(self, x, state=None, lengths=None):
        self.pair = x
        return x[0] * x[1], None, self

    def backward(self, dy, dstate=None):
        return (dy * self.pair[1], dy * self.pair[0] * (1 + 1e-6)), None


def test_an_error_in_one_array_of_a_pair_is_reported_by_its_place():
    model = Product()
    model._allocate([], "float64")
    result = fr.gradcheck(model, (X, X + 1), raise_on_error=False)
    assert [name for name, error in result.errors.items() if error > 1e-7] == ["dx[1]"]


def test_arrays_in_fortran_order_are_differentiated_too():
    assert fr.gradcheck(Leaky(), np.asfortranarray(X), np.asfortranarray(X[0])).ok


def test_a_gradient_that_is_zero_may_be_zero():
    result = fr.gradcheck(Leaky(), X[:1])  # one step from a zero state: no gradient for w
    assert result.ok and result.errors["w"] == 0


def test_integer_inputs_have_no_gradient_to_check():
    result = fr.gradcheck(fr.Embedding(3, 2, dtype="float64", seed=0), np.array([0, 2]))
    assert set(result.errors) == {"weight"}


@pytest.mark.parametrize(
    "model, x, error, message",
    [
        (fr.Linear(2, 2), X, TypeError, "^model: expected float64, got float32$"),
        (Leaky(), X.astype("f4"), TypeError, "^x: expected float64 or integers, got float32$"),
        (Leaky(), (X, X.astype("f4")), TypeError, r"^x\[1\]: expected float64 or .* float32$"),
    ],
)
def test_float32_is_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        fr.gradcheck(model, x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": "a"}, TypeError, "^seed: expected None, an integer >= 0 or a .* got 'a'$"),
        ({"seed": -1}, ValueError, "^seed: expected None, an integer >= 0 or a .* got -1$"),
        ({"tol": "a"}, TypeError, "^tol: expected a number >= 0, got str$"),
        ({"tol": np.nan}, ValueError, "^tol: expected a number >= 0, got nan$"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_before_anything_is_computed(options, error, message):
    model = Leaky()
    with pytest.raises(error, match=message):
        fr.gradcheck(model, X, **options)
    assert not model.calls


def test_resets_reach_the_layer():
    seen = []

    class Watched(fr.GRU):
        def forward(self, x, state=None, lengths=None, reset=None):
            seen.append(reset)
            return super().forward(x, state, lengths, reset)

    reset = np.array([[False], [True], [False]])
    fr.gradcheck(Watched(2, 2, dtype="float64"), np.ones((3, 1, 2)), reset=reset)
    assert seen and all(given is reset for given in seen)
