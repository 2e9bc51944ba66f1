"""Weights are packed once and used many times: every way to change them must be noticed.

What it is: after a change, a layer computes what a new layer with those weights computes, bit for
bit. What it is not: whether an optimizer's numbers are right (test_optim.py).
"""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, STACK, build, identical, inputs, train


def edit_in_place(layer, new):
    for name, array in layer.params.items():
        array[...] = new[name]


def assign_items(layer, new):
    for name, array in new.items():
        layer.params[name] = array


def add_in_place(layer, new):
    for name in new:
        layer.params[name] += 0.25


def edit_one_element(layer, new):
    layer.params["weight_hh_l0"][0, 0] += 1


def load(layer, new):
    layer.load_state_dict(new)


def step(layer, new):
    fr.optim.SGD(layer, lr=0.5).step()  # with the gradients that the first call left


def step_of_a_model(layer, new):
    fr.optim.Adam(fr.Sequential(layer), lr=0.5).step()


def load_into_a_model(layer, new):
    fr.Sequential(layer).load_state_dict({f"0.{name}": array for name, array in new.items()})


def edit_a_model(layer, new):
    params = fr.Sequential(layer).params
    for name, array in new.items():
        params[f"0.{name}"][...] = array


CHANGES = (
    edit_in_place,
    assign_items,
    add_in_place,
    edit_one_element,
    load,
    step,
    step_of_a_model,
    load_into_a_model,
    edit_a_model,
)


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("cell", CELLS)
def test_the_next_call_sees_new_weights(cell, change, tokens):
    layer = build(cell, **STACK)
    given = inputs(layer, tokens=tokens)
    layer(*given[:2])
    before = train(layer, *given)
    change(layer, build(cell, **STACK, seed=5).state_dict())
    again = build(cell, **STACK)
    again.load_state_dict(layer.state_dict())
    assert identical(layer(*given[:2]), again(*given[:2]))
    after = train(layer, *given)
    assert identical(after, train(again, *given))
    assert not identical(after, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_single_weight_counts_when_it_is_edited_through_an_array_held_since_long(dtype):
    layer = build("lstm", I=3, H=2, dtype=dtype)
    x, state, *_ = inputs(layer)
    held = [array.reshape(-1) for array in layer.params.values()]
    known = layer(x, state)
    for array in held:
        for i in range(array.size):
            array[i] += 0.5
            changed = layer(x, state)
            assert not identical(changed, known)
            known = changed


def test_a_change_between_two_kinds_of_call_is_seen_by_both():
    layer, again = build("gru"), build("gru", seed=3)
    ids, *_ = inputs(layer, tokens=True)
    x, state, *_ = inputs(layer)
    layer(ids, state), layer(x, state), layer.forward(x, state)
    edit_in_place(layer, again.state_dict())
    assert identical(layer(ids, state), again(ids, state))
    assert identical(layer(x, state), again(x, state))
    assert identical(layer.forward(x, state)[:2], again(x, state))


def test_a_change_between_forward_and_backward_counts_for_the_next_forward_only():
    layer = build("lstm")
    x, state, dy, dstate = inputs(layer)
    *_, expected_dx, _, _, _ = train(layer, x, state, dy, dstate)
    _, _, tape = layer.forward(x, state)
    new = build("lstm", seed=4)
    edit_in_place(layer, new.state_dict())
    dx, _ = tape.backward(dy, dstate)
    assert identical(dx, expected_dx)
    assert identical(train(layer, x, state, dy, dstate), train(new, x, state, dy, dstate))


def test_a_layer_that_moves_into_a_model_computes_the_same_and_its_tapes_reach_the_model():
    layer, twin = build("gru"), build("gru")
    x, state, dy, dstate = inputs(layer)
    _, _, tape = layer.forward(x, state)
    expected = train(twin, x, state, dy, dstate)
    model = fr.Sequential(layer)
    assert identical(layer.forward(x, state)[:2], twin(x, state))
    assert identical(model(x, (state,))[0], twin(x, state)[0])
    tape.backward(dy, dstate)
    assert identical(model._flat_grad, expected[-1])


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_a_copy_has_weights_of_its_own(copied):
    layer = build("lstm", **STACK)
    x, state, *_ = inputs(layer)
    before = layer(x, state)
    other = copied(layer)
    assert identical(other(x, state), before)
    edit_in_place(other, build("lstm", **STACK, seed=5).state_dict())
    assert not identical(other(x, state), before)
    assert identical(layer(x, state), before)


def test_weights_that_are_refused_leave_the_layer_as_it_was():
    layer = build("gru")
    x, state, *_ = inputs(layer)
    before = layer(x, state)
    new = build("gru", seed=5).state_dict()
    new["bias_hh_l0"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"bias_hh_l0: expected shape \(27,\), got \(3,\)"):
        layer.load_state_dict(new)
    assert identical(layer(x, state), before)
