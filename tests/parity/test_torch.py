"""fastrnn against torch.nn: outputs, final states and every gradient.

What it is: the parity matrix in a seeded sample in which every three axes take every combination
of values, or all of it with ``pytest tests/parity --full``. Skipped where torch is not installed;
``make parity`` makes an environment that has it.
What it is not: needed by the other tests, which compare with golden files and with the twin.

A float32 layer is held against torch in float64 on the same numbers: torch's own rounding is not
ours to reproduce.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import matrix

torch = pytest.importorskip("torch", reason="torch is not installed here; `make parity` does it")
torch.set_num_threads(1)  # more would only get in the way of small cases


def pytest_generate_tests(metafunc):
    full = metafunc.config.getoption("--full", default=False)
    cases = list(matrix.everything()) if full else matrix.covering(matrix.TORCH_AXES, 3)
    metafunc.parametrize("case", cases, ids=str)


def test_outputs_and_gradients_agree_with_torch(case):
    try:
        agrees_with_torch(case, case.inputs())
    except AssertionError:  # or are these numbers such that rounding alone fails them?
        inputs, *_ = matrix.well_posed(case)
        agrees_with_torch(case, inputs)


def agrees_with_torch(case, inputs):
    """Assert that outputs, inference included, and gradients are within the case's tolerances."""
    expected = from_torch(case, *inputs)
    tolerances = matrix.TOLERANCES[case.dtype]
    for ours, theirs, tolerance in zip(
        matrix.from_fastrnn(case, *inputs), expected, tolerances, strict=True
    ):
        matrix.agree(ours, theirs, tolerance)
    matrix.agree(matrix.inference_of_fastrnn(case, *inputs), expected[0], tolerances[0])


def from_torch(case, params, x, state, dy, dstate):
    """Outputs and gradients of the torch.nn layer, computed in float64."""

    def tensors(value, **options):
        parts = value if isinstance(value, tuple) else (value,)
        return [torch.tensor(part, dtype=torch.float64, **options) for part in parts]

    cell = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.kind]
    options = case.layer_options()
    options.pop("reset_after", None)
    layer = cell(case.I, case.H, **(options | {"dtype": torch.float64}))
    layer.load_state_dict({name: tensors(value)[0] for name, value in params.items()})
    x = tensors(x, requires_grad=True)[0]
    if state is None:  # torch's zeros, but such that they have a gradient
        zeros = np.zeros((case.layers * case.directions, case.B, case.H))
        state = (zeros, zeros) if case.kind == "lstm" else zeros
    start = tensors(state, requires_grad=True)
    y, final = layer(x, tuple(start) if case.kind == "lstm" else start[0])
    finals = final if isinstance(final, tuple) else (final,)
    loss = 0
    if dy is not None:
        loss = loss + (y * tensors(dy)[0]).sum()
    if dstate is not None:
        loss = loss + sum((a * b).sum() for a, b in zip(finals, tensors(dstate), strict=True))
    loss.backward()
    outputs = {"y": y} | matrix.named(("h", "c"), finals)
    gradients = {"dx": x.grad} | matrix.named(("dh", "dc"), tuple(part.grad for part in start))
    gradients |= {name: value.grad for name, value in layer.named_parameters()}
    return [
        {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        for tensors in (outputs, gradients)
    ]
