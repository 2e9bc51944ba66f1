"""``tape.backward(dy, accumulate=False)`` sets the gradients of any layer and model.

What it is not: the recurrent layers by themselves; engine/test_set_gradients.py has those.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from test_no_gradient import CASES, IDS, X, flat


@pytest.mark.parametrize("none", [False, True], ids=["dy", "none"])
@pytest.mark.parametrize("kind", CASES)
def test_gradients_are_those_that_are_added_to_zeros(kind, none):
    model, x = CASES[kind]
    y, _, tape = model.forward(x)
    dy = None if none else np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    model.zero_grad()
    of_added = flat(tape.backward(dy))
    added = model._flat_grad.copy()
    model._flat_grad.fill(np.nan)
    of_set = flat(tape.backward(dy, accumulate=False))
    np.testing.assert_array_equal(model._flat_grad, added)
    for a, b in zip(of_added, of_set, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)


def test_of_no_rows_a_linear_layer_sets_zeros():
    layer = fr.Linear(3, 2, seed=0)
    layer._flat_grad.fill(np.nan)
    layer.forward(X[:0])[2].backward(np.zeros((0, 2, 2), np.float32), accumulate=False)
    assert not layer._flat_grad.any()


class Doubled(fr.Module):
    """A layer of a user, whose tape has never heard of `accumulate`."""

    def __init__(self):
        self._allocate([("factor", (1,))], "float32")
        self.params["factor"] = 2

    def forward(self, x, state=None):
        layer = self

        class Tape:
            def backward(self, dy, dstate=None):
                layer.grads["factor"][...] += (dy * x).sum()
                return dy * layer.params["factor"], None

        return x * self.params["factor"], None, Tape()


def test_the_tape_of_a_user_need_not_know_of_it():
    model = fr.Sequential(fr.GRU(3, 4, seed=0), Doubled(), fr.Linear(4, 2, seed=0))
    y, _, tape = model.forward(X)
    model.zero_grad()
    tape.backward(np.ones_like(y))
    added = model._flat_grad.copy()
    model._flat_grad.fill(7)
    tape.backward(np.ones_like(y), accumulate=False)
    np.testing.assert_array_equal(model._flat_grad, added)


@pytest.mark.parametrize("kind", ["embedding", "linear", "attention", "sequential"])
def test_a_gradient_of_the_wrong_shape_leaves_what_was_there(kind):
    model, x = CASES[kind]
    y, _, tape = model.forward(x)
    model._flat_grad.fill(7)
    with pytest.raises(ValueError, match="dy: expected shape"):
        tape.backward(np.ones((*y.shape, 1), y.dtype), accumulate=False)
    assert (model._flat_grad == 7).all()
    model.zero_grad()


def test_what_was_set_is_added_to_by_default():
    model = fr.Sequential(fr.Embedding(3, 4, seed=0), fr.GRU(4, 2, seed=0))
    y, _, tape = model.forward(IDS)
    tape.backward(np.ones_like(y), accumulate=False)
    once = model._flat_grad.copy()
    tape.backward(np.ones_like(y))
    np.testing.assert_allclose(model._flat_grad, 2 * once, rtol=1e-5, atol=1e-6)
