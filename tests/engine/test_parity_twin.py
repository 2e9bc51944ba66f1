"""The engine against the NumPy twin: outputs, final states and every gradient.

What it is: a covering sample of parity/matrix.py, shapes big enough for every way of splitting
work, and random cases, with one, two and three threads. FASTRNN_ISA picks the instruction set.
What it is not: a test of the twin; test_golden.py holds it against torch.

The twin runs in float64 on the same numbers, so it is the truth for float32 layers as well.
"""

import functools
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
import matrix
from cells import CELLS

AXES = matrix.TORCH_AXES | {
    "cell": tuple(CELLS),
    "tokens": (False, True),
}

# (T, B, I, H) where one thread is not enough: rows to split, units to split, both, ragged tails;
# and where x W of a single row is made on the way, all of it or what the steps leave time for.
LARGE = (
    *((20, 1, 64, 300), (9, 34, 70, 257), (3, 130, 33, 130), (40, 2, 5, 384), (70, 35, 16, 96)),
    *((37, 1, 30, 200), (45, 1, 330, 264)),
)

well_posed = functools.cache(matrix.well_posed)


@pytest.fixture(params=(1, 2, 3), ids="{}thread".format)
def threads(request):
    before = fr.get_num_threads()
    fr.set_num_threads(request.param)
    yield
    fr.set_num_threads(before)


def agrees_with_twin(case):
    inputs, outputs, gradients = well_posed(case)
    forward, backward = matrix.TOLERANCES[case.dtype]
    matrix.agree(matrix.inference_of_fastrnn(case, *inputs), outputs, forward)
    our_outputs, our_gradients = matrix.from_fastrnn(case, *inputs)
    matrix.agree(our_outputs, outputs, forward)
    matrix.agree(our_gradients, gradients, backward)


@pytest.mark.parametrize("case", matrix.covering(AXES, 2), ids=str)
def test_every_pair_of_options_and_sizes_agrees_with_the_twin(case, threads):
    agrees_with_twin(case)


# Four threads may share rows and units two by two.
@pytest.mark.parametrize("threads", (1, 2, 3, 4), ids="{}thread".format, indirect=True)
@pytest.mark.parametrize("dtype", matrix.TOLERANCES)
@pytest.mark.parametrize("shape", LARGE, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("cell", CELLS)
def test_work_split_over_threads_agrees_with_the_twin(cell, shape, dtype, threads):
    agrees_with_twin(matrix.Case(cell, 1, False, False, dtype, *shape))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    case=st.builds(
        matrix.Case,
        cell=st.sampled_from(AXES["cell"]),
        layers=st.integers(1, 3),
        bidirectional=st.booleans(),
        batch_first=st.booleans(),
        dtype=st.sampled_from(sorted(matrix.TOLERANCES)),
        T=st.integers(1, 12),
        B=st.integers(1, 20),
        I=st.integers(1, 40),
        H=st.integers(1, 70),
        bias=st.booleans(),
        state=st.sampled_from(AXES["state"]),
        through=st.sampled_from(AXES["through"]),
        tokens=st.booleans(),
    )
)
def test_random_cases_agree_with_the_twin(case):
    agrees_with_twin(case)
