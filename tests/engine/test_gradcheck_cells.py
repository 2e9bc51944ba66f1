"""Every cell and option against finite differences, in float64 at 1e-7.

What it is: fr.gradcheck with the gradient coming in by the last step alone, by the final state
alone, and by both; none of the parts that are left out may be needed to make the others right.
What it is not: sizes; test_parity_twin.py has those.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import reference as twin

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
import matrix
from cells import CELLS

KINK = 5e-3  # a difference moves pre-activations by less


class OnlyLastStep:
    """A layer whose only output is its y of the last step."""

    def __init__(self, layer):
        self.layer, self.dtype = layer, layer.dtype
        self.zero_grad = layer.zero_grad
        self.time = 1 if layer.batch_first else 0

    params = property(lambda self: self.layer.params)
    grads = property(lambda self: self.layer.grads)

    def forward(self, x, state=None, lengths=None):
        y, _, tape = self.layer.forward(x, state)
        self.shape, self.tape = y.shape, tape
        return np.take(y, -1, self.time), None, self

    def backward(self, dlast, dstate=None):
        dy = np.zeros(self.shape)
        dy[(slice(None),) * self.time + (-1,)] = dlast
        return self.tape.backward(dy, None)


class OnlyFinalState(OnlyLastStep):
    """A layer whose only output is its final state."""

    def forward(self, x, state=None, lengths=None):
        _, final, self.tape = self.layer.forward(x, state)
        return np.zeros(0), final, self

    def backward(self, dy, dstate=None):
        return self.tape.backward(None, dstate)


THROUGH = {"last_step": OnlyLastStep, "final_state": OnlyFinalState, "both": lambda layer: layer}


def layer_and_inputs(case):
    """A layer with the case's weights; with relu, none of its kinks is near."""
    for seed in range(100):
        params, x, state, _, _ = case.inputs(seed)
        if case.cell != "rnn_relu" or clear_of_kinks(case, params, x, state):
            break
    else:
        raise AssertionError(f"{case}: a kink near every input")
    return matrix.fastrnn_layer(case, params), x, state


def clear_of_kinks(case, params, x, state):
    options = case.layer_options()
    del options["bias"], options["dtype"]
    _, _, caches = twin.stack_forward("rnn", params, x, state, **options)
    for cell in caches.cells:
        inputs = np.eye(cell.W.shape[1])[cell.x] if cell.tokens else cell.x
        a = inputs @ cell.W.T + cell.h_prev @ cell.R.T + cell.b_ih + cell.b_hh
        if abs(a).min() < KINK:
            return False
    return True


@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "T"), [(1, False, 5), (1, False, 1), (2, True, 3)]
)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_slopes_whichever_way_they_come_in(
    cell, layers, bidirectional, T, through
):
    case = matrix.Case(cell, layers, bidirectional, False, "float64", T, B=2, I=3, H=3)
    layer, x, state = layer_and_inputs(case)
    fr.gradcheck(THROUGH[through](layer), x, state, tol=1e-7)


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("bias", [False, True], ids=["nobias", "bias"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_slopes_with_and_without_bias_and_for_tokens(cell, bias, tokens):
    shape = {"T": 4, "B": 3, "I": 4, "H": 2, "bias": bias, "tokens": tokens}
    case = matrix.Case(cell, 1, True, True, "float64", **shape)
    layer, x, state = layer_and_inputs(case)
    fr.gradcheck(layer, x, state, tol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_slopes_beyond_one_vector_and_one_tile(cell):
    case = matrix.Case(cell, 1, False, False, "float64", T=2, B=11, I=5, H=11)
    layer, x, state = layer_and_inputs(case)
    fr.gradcheck(layer, x, state, tol=1e-7, max_checks=40)


@pytest.mark.parametrize("cell", CELLS)
def test_the_check_notices_a_wrong_gradient(cell):
    case = matrix.Case(cell, 1, False, False, "float64", T=3, B=2, I=3, H=3)
    layer, x, state = layer_and_inputs(case)

    class Wrong(OnlyFinalState):
        def backward(self, dy, dstate=None):
            dx, dinitial = super().backward(dy, dstate)
            return dx * (1 + 1e-6), dinitial

    with pytest.raises(AssertionError, match=r"FAIL .* dx"):
        fr.gradcheck(Wrong(layer), x, state, tol=1e-7)
