"""The kernels' own sigmoid and tanh: how far from the truth, and what happens at the ends.

What it is: bounds in ulp for float32 over whole runs of neighbouring floats in every binade, for
float64 over a dense sample; limits, symmetry, order, NaN. FASTRNN_FULL_SWEEP=1 takes every float32
there is (about a minute on AVX2).
What it is not: the equations; docs/math.md derives them, kernels/vmath.h has them.

The truth for float32 is float64 arithmetic. One transcendental function for each of 2^32 numbers
would take minutes, so a run of 4096 neighbours x = head + tail costs one for its head, shares those
of the tails with all runs of its binade, and joins them by the addition theorems

    e^-(a+b) = e^-a e^-b        tanh(a+b) = (tanh a + tanh b) / (1 + tanh a tanh b)
"""

import os

import numpy as np
import pytest

from fastrnn import _core

FULL = os.environ.get("FASTRNN_FULL_SWEEP") == "1"
RUN = 4096  # neighbouring floats that share a head
RUNS = 2**23 // RUN  # in a binade
BATCH = 8  # runs at a time: they stay in cache
SMALLEST = 0x00800000  # bits of the first normal number; positive floats are ordered as their bits

# Binades where the function is neither a straight line nor a constant: more runs are taken here.
CURVED = {"tanh": range(-13, 4), "sigmoid": range(-24, 7)}
# Distance in floats to the correctly rounded result: k of them is an error of at most k + 1/2 ulp.
FLOATS_OFF = {"tanh": 1, "sigmoid": 2}


def rounded_truth(kind, sign, first, count):
    """float32 truth for `count` runs that begin with the positive float of bits `first`."""
    heads = np.arange(first, first + count * RUN, RUN, dtype=np.int32).view(np.float32)
    a = sign * heads.astype(np.float64)[:, None]
    b = sign * np.arange(RUN) * float(np.spacing(heads[0]))
    with np.errstate(over="ignore"):
        if kind == "sigmoid":
            result = np.exp(-a) * np.exp(-b)
            result += 1
            return np.reciprocal(result, out=result).astype(np.float32)
        tanh_a, tanh_b = np.tanh(a), np.tanh(b)
        below = tanh_a * tanh_b
        below += 1
        result = tanh_a + tanh_b
        return np.divide(result, below, out=result).astype(np.float32)


def runs_of(kind, binade):
    """Run numbers to try in a binade (-127: the subnormal numbers), in groups of neighbours."""
    portable = _core.isa() == "portable"  # ten times slower
    groups = RUNS // BATCH
    if FULL:
        step = 1
    elif binade in CURVED[kind]:
        step = 32 if portable else 4
    else:
        step = groups  # the first few
    return [g * BATCH for g in range(0, groups, step)] + ([] if step == 1 else [RUNS - BATCH])


def sweep(kind, sign):
    """Yield (bits of the first x, results, truth), both float32 of shape (BATCH * RUN,)."""
    for binade in range(-127, 128):
        for run in runs_of(kind, binade):
            first = ((binade + 127) << 23) + run * RUN
            x = np.arange(first, first + BATCH * RUN, dtype=np.int32).view(np.float32)
            y = _core.activation(kind, x if sign > 0 else -x)
            yield first, y, rounded_truth(kind, sign, first, BATCH).reshape(-1)


def check(kind, sign):
    """Bound and order of one half of the floats; results below the normal numbers count as 0."""
    previous, worst = None, 0
    for first, y, truth in sweep(kind, sign):
        bits, true_bits = y.view(np.int32), truth.view(np.int32)
        if kind == "sigmoid":
            assert bits[0] >= 0 and bits[-1] >= 0, "a negative result"
            bits, true_bits = np.maximum(bits, SMALLEST), np.maximum(true_bits, SMALLEST)
        off = np.abs(bits - true_bits).max()
        assert off <= FLOATS_OFF[kind], f"{off} floats off in the runs from bits {first:#x}"
        worst = max(worst, off)
        ordered = y if sign > 0 else y[::-1]
        assert (ordered[1:] >= ordered[:-1]).all(), f"not monotone from bits {first:#x}"
        if previous is not None:
            assert previous <= y[0] if sign > 0 else previous >= y[0], f"a step down at {first:#x}"
        previous = y[-1]
    assert worst > 0  # rounding is not perfect: otherwise the truth came from the same code


def test_float32_tanh_is_monotone_and_within_2_ulp():
    check("tanh", 1)


def test_float32_sigmoid_of_positive_numbers_is_monotone_and_within_3_ulp():
    check("sigmoid", 1)


def test_float32_sigmoid_of_negative_numbers_is_monotone_and_within_3_ulp():
    check("sigmoid", -1)


def test_the_truth_of_the_sweep_agrees_with_one_function_call_for_each_number():
    for kind in ("tanh", "sigmoid"):
        for binade in CURVED[kind]:
            first = ((binade + 127) << 23) + 77 * RUN
            x = np.arange(first, first + RUN, dtype=np.int32).view(np.float32).astype(np.float64)
            for sign in (1, -1):
                direct = np.tanh(sign * x) if kind == "tanh" else 1 / (1 + np.exp(-sign * x))
                differing = rounded_truth(kind, sign, first, 1)[0] != direct.astype(np.float32)
                assert differing.sum() <= 2  # float64 rounding, next to the middle of two floats


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_is_odd_to_the_last_bit(dtype):
    x = spread(dtype, 200_000)
    positive, negative = _core.activation("tanh", x), _core.activation("tanh", -x)
    assert (-positive).tobytes() == negative.tobytes()


def spread(dtype, n):
    """Positive finite numbers of all magnitudes, the subnormal ones included."""
    integer = np.dtype(dtype.replace("float", "int"))
    infinite = int(np.array(np.inf, dtype).view(integer))
    return np.random.default_rng(3).integers(0, infinite, n, dtype=integer).view(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_functions_are_exact_at_zero_and_where_they_saturate(dtype):
    far = np.array([40, 800, np.finfo(dtype).max, np.inf], dtype)
    assert _core.activation("tanh", far).tolist() == [1] * 4
    assert _core.activation("tanh", -far).tolist() == [-1] * 4
    zeros = _core.activation("tanh", np.array([0.0, -0.0], dtype))
    assert zeros.tolist() == [0, 0] and np.signbit(zeros).tolist() == [False, True]
    assert _core.activation("sigmoid", np.array([0.0, -0.0], dtype)).tolist() == [0.5, 0.5]
    assert _core.activation("sigmoid", far).tolist() == [1] * 4
    assert _core.activation("sigmoid", -far[1:]).tolist() == [0] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "exp"])
def test_nan_of_any_bits_gives_nan_and_leaves_its_neighbours_alone(kind, dtype):
    integer = np.dtype(dtype.replace("float", "int"))
    infinite = int(np.array(np.inf, dtype).view(integer))
    bits = np.random.default_rng(7).integers(infinite + 1, np.iinfo(integer).max, 999, integer)
    nans = np.r_[infinite + 1, np.iinfo(integer).max, bits].astype(integer).view(dtype)
    assert np.isnan(_core.activation(kind, nans)).all()
    assert np.isnan(_core.activation(kind, -nans)).all()
    x = np.ones(17, dtype)
    alone = _core.activation(kind, x)
    for at in range(17):
        x[:] = 1
        x[at] = np.nan
        y = _core.activation(kind, x)
        assert np.isnan(y[at]) and (np.delete(y, at) == np.delete(alone, at)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "exp"])
def test_a_result_does_not_depend_on_its_place_in_the_array(kind, dtype):
    x = np.random.default_rng(5).uniform(-9, 9, 67).astype(dtype)
    whole = _core.activation(kind, x)
    for start in range(34):
        assert _core.activation(kind, x[start:]).tobytes() == whole[start:].tobytes()


needs_wide = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="needs a long double of more digits than a double"
)


def double_samples(kind):
    """Numbers of every magnitude that matters, crowded where the code takes another path."""
    rng = np.random.default_rng(4)
    low, high = (-40, 5) if kind == "tanh" else (-54, 10)
    x = 2 ** rng.uniform(low, high, 300_000)
    edges = np.r_[0.5, 19.06, 20, np.arange(1, 60) * np.log(2) / 2]  # tanh halves, limits, e^r's r
    x = np.r_[x, (edges[:, None] * (1 + rng.uniform(-1e-9, 1e-9, 1000))).ravel()]
    return np.sort(np.r_[-x, x])


@needs_wide
@pytest.mark.parametrize(("kind", "limit"), [("tanh", 2), ("sigmoid", 3)])
def test_float64_functions_are_within_the_same_bounds(kind, limit):
    x = double_samples(kind)
    x = x[x > -708.3]  # below, the sigmoid is no normal number
    wide = x.astype(np.longdouble)
    truth = np.tanh(wide) if kind == "tanh" else 1 / (1 + np.exp(-wide))
    y = _core.activation(kind, x)
    ulp = np.ldexp(1.0, np.frexp(truth.astype(np.float64))[1] - 53)
    assert (np.abs(y - truth) <= limit * ulp).all()
    assert (y[1:] >= y[:-1]).all()


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_float64_functions_never_step_down_between_neighbours(kind):
    starts = np.r_[np.random.default_rng(8).permutation(double_samples(kind))[:1000], 0.5, -0.5]
    for start in starts:
        x = (start.view(np.int64) + np.arange(-300, 300)).view(np.float64)
        y = _core.activation(kind, x if start > 0 else x[::-1])
        assert (y[1:] >= y[:-1]).all()


@needs_wide
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_is_within_2_ulp(dtype):
    widest = 87 if dtype == "float32" else 708
    x = np.random.default_rng(6).uniform(-widest, widest, 200_000).astype(dtype)
    truth = np.exp(x.astype(np.longdouble))
    ulp = np.spacing(truth.astype(dtype)).astype(np.longdouble)
    assert (np.abs(_core.activation("exp", x) - truth) <= 2 * ulp).all()
