"""The recurrent layers and their twin against files that torch.nn computed.

What it is: agreement with torch without torch; golden/make_golden_recurrent.py wrote the files.
What it is not: the wide matrix of sizes, which test_parity_twin.py compares with the twin.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import reference as twin

GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}
KINDS = ("given", "expected")
TOLERANCES = {"float32": (2e-6, 2e-5), "float64": (1e-12, 1e-11)}  # forward, gradients


@functools.cache
def golden(cell):
    """{case: (options, lengths, given, expected)} of one file; its script describes the layout."""
    with np.load(GOLDEN / f"recurrent_{cell}.npz") as file:
        index = json.loads(str(file["index"]))
        flat = {kind: iter(np.split(file[kind], ends(index, kind))) for kind in KINDS}
    return {
        name: (
            case["options"],
            case["lengths"],
            *(
                {key: next(flat[kind]).reshape(shape) for key, shape in case[kind].items()}
                for kind in KINDS
            ),
        )
        for name, case in index.items()
    }


def ends(index, kind):
    return np.cumsum([math.prod(shape) for case in index.values() for shape in case[kind].values()])


def cases():
    return [
        pytest.param(cell, name, id=f"{cell}-{name}") for cell in LAYERS for name in golden(cell)
    ]


def inputs(given, dtype):
    """Parameters, x, state, dy and dstate in a dtype."""
    given = {name: value.astype(dtype) for name, value in given.items()}
    params = {k.removeprefix("param/"): v for k, v in given.items() if k.startswith("param/")}
    state, dstate = (
        tuple(given[k]) if len(given[k]) == 2 else given[k][0] for k in ("state", "dstate")
    )
    return params, given["x"], state, given["dy"], dstate


def compare(expected, y, final, dx, dinitial, grads, dtype):
    def parts(names, state):
        return dict(zip(names, state if isinstance(state, tuple) else (state,), strict=False))

    actual = {"out/y": y} | parts(("out/h", "out/c"), final)
    actual |= {"grad/dx": dx} | parts(("grad/dh", "grad/dc"), dinitial)
    actual |= {f"grad/{name}": value for name, value in grads.items()}
    assert sorted(actual) == sorted(expected)
    forward, gradients = TOLERANCES[dtype]
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = np.linalg.norm(actual[name] - value) / np.linalg.norm(value)
        limit = forward if name.startswith("out/") else gradients
        assert error <= limit, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("cell", "name"), cases())
def test_a_layer_computes_what_torch_computed(cell, name, dtype):
    options, lengths, given, expected = golden(cell)[name]
    params, x, state, dy, dstate = inputs(given, dtype)
    layer = LAYERS[cell](x.shape[-1], params["weight_hh_l0"].shape[1], **options, dtype=dtype)
    layer.load_state_dict(params)
    y, final, tape = layer.forward(x, state, lengths)
    dx, dinitial = tape.backward(dy, dstate)
    compare(expected, y, final, dx, dinitial, layer.grads, dtype)


@pytest.mark.parametrize(("cell", "name"), cases())
def test_the_twin_computes_what_torch_computed(cell, name):
    options, lengths, given, expected = golden(cell)[name]
    params, x, state, dy, dstate = inputs(given, "float64")
    options = {key: value for key, value in options.items() if key != "bias"}
    y, final, caches = twin.stack_forward(cell, params, x, state, lengths=lengths, **options)
    dx, dinitial, grads = twin.stack_backward(caches, dy, dstate)
    compare(expected, y, final, dx, dinitial, grads, "float64")
