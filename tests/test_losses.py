"""Losses: values and gradients against torch's numbers, closed forms and finite differences."""

from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _core, reference

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "training.npz") as file:
        return dict(file)


def softmax(x):
    e = np.exp(x.astype("f8") - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slope(loss, x, i, eps=1e-3):
    """Fourth-order difference of loss(x) by element i."""

    def at(offset):
        moved = x.copy()
        moved.reshape(-1)[i] += offset * eps
        return loss(moved)[0]

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case, loss",
    [
        ("cross_entropy", fr.cross_entropy),
        ("cross_entropy_some_ignored", fr.cross_entropy),
        ("cross_entropy_ignore_5", lambda y, t: fr.cross_entropy(y, t, ignore_index=5)),
        ("mse", fr.mse),
        ("bce_with_logits", fr.bce_with_logits),
    ],
)
def test_losses_and_gradients_are_those_of_torch(golden, case, loss, dtype):
    y, target, expected, dy = (golden[f"loss/{case}/{k}"] for k in ("y", "target", "loss", "dy"))
    value, gradient = loss(y.astype(dtype), target)
    assert type(value) is float and gradient.dtype == dtype and gradient.shape == y.shape
    np.testing.assert_allclose(value, expected, rtol=TOLERANCE[dtype])
    scale = abs(dy).max()
    np.testing.assert_allclose(gradient / scale, dy / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: fr.cross_entropy(x, np.array([0, 4, -100, 2])),
        lambda x: fr.mse(x, np.linspace(-1, 1, 20).reshape(4, 5)),
        lambda x: fr.bce_with_logits(x, np.linspace(0, 1, 20).reshape(4, 5)),
    ],
    ids=["cross_entropy", "mse", "bce_with_logits"],
)
def test_gradients_agree_with_finite_differences(loss):
    x = np.random.default_rng(0).standard_normal((4, 5))
    numeric = [slope(loss, x, i) for i in range(x.size)]
    np.testing.assert_allclose(loss(x)[1].ravel(), numeric, rtol=0, atol=1e-11)


# Around every boundary of the kernel: 16 lanes side by side, blocks of 2048 elements.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 2), (9, 15), (9, 16), (9, 17), (300, 65), (5, 2047), (5, 2048), (3, 5000)]
)
def test_cross_entropy_is_right_for_every_number_of_classes(shape, dtype):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(shape) * 4).astype(dtype)
    targets = rng.integers(0, shape[1], shape[0])
    loss, dlogits = fr.cross_entropy(logits, targets)
    p = softmax(logits)
    rows = np.arange(shape[0])
    np.testing.assert_allclose(
        loss, -np.log(p[rows, targets]).mean(), rtol=TOLERANCE[dtype], atol=1e-12
    )
    p[rows, targets] -= 1
    np.testing.assert_allclose(dlogits * shape[0], p, rtol=0, atol=TOLERANCE[dtype])


def test_small_probabilities_keep_their_relative_precision():
    logits = np.zeros((1, 200), "f4")
    logits[0, 1:] = -np.linspace(0, 80, 199)
    _, dlogits = fr.cross_entropy(logits, [0])
    np.testing.assert_allclose(dlogits[0, 1:], softmax(logits)[0, 1:], rtol=1e-6)


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    loss, dlogits = fr.cross_entropy(np.full((3, 8), 7.0), [1, 2, 3])
    assert loss == pytest.approx(np.log(8), rel=1e-15)
    assert dlogits[0].tolist() == pytest.approx([1 / 24, -7 / 24, *[1 / 24] * 6], rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_of_many_rows_neither_overflows_nor_drifts(dtype):
    loss, _ = fr.cross_entropy(np.zeros((20_000, 50), dtype), np.zeros(20_000, int))
    assert loss == pytest.approx(np.log(50), rel=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_far_apart_neither_overflow_nor_lose_the_loss(dtype):
    loss, dlogits = fr.cross_entropy(np.array([[0, 30000.0]], dtype), [0])
    assert loss == 30000 and dlogits.tolist() == [[-1, 1]]


def test_a_class_of_minus_infinity_gets_no_probability():
    _, dlogits = fr.cross_entropy(np.array([[0.0, -np.inf, 0.0]]), [0])
    assert dlogits.tolist() == [[-0.5, 0, 0.5]]


def test_a_target_of_minus_infinity_costs_infinity():
    assert fr.cross_entropy(np.array([[0.0, -np.inf]]), [1])[0] == np.inf


@pytest.mark.parametrize("place", [0, 7, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_row_and_reaches_the_loss(place, dtype):
    logits = np.zeros((3, 65), dtype)
    logits[1, place] = np.nan
    loss, dlogits = fr.cross_entropy(logits, [5, 5, 5])
    assert np.isnan(loss) and np.isnan(dlogits[1]).all() and np.isfinite(dlogits[[0, 2]]).all()


def test_nan_in_an_ignored_row_counts_nothing():
    loss, dlogits = fr.cross_entropy(np.array([[np.nan, 1.0], [0.0, 0.0]]), [-100, 0])
    assert loss == pytest.approx(np.log(2)) and dlogits.tolist() == [[0, 0], [-0.5, 0.5]]


def test_ignored_positions_do_not_count_in_the_mean():
    logits, targets = np.random.default_rng(0).standard_normal((4, 5)), np.array([1, -1, 3, -1])
    loss, dlogits = fr.cross_entropy(logits, targets, ignore_index=-1)
    kept_loss, kept = fr.cross_entropy(logits[::2], targets[::2])
    assert loss == pytest.approx(kept_loss, rel=1e-15)
    assert np.array_equal(dlogits[::2], kept) and not dlogits[1::2].any()


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_without_counted_targets_the_loss_is_nan_and_the_gradient_zero(shape):
    loss, dlogits = fr.cross_entropy(np.ones(shape), np.full(shape[0], -100))
    assert np.isnan(loss) and dlogits.shape == shape and not dlogits.any()


def test_the_loss_of_one_position_needs_no_axis():
    loss, dlogits = fr.cross_entropy(np.zeros(4), 2)
    assert loss == pytest.approx(np.log(4)) and dlogits.tolist() == [0.25, 0.25, -0.75, 0.25]


@pytest.mark.parametrize("kind", ["int8", "int32", "uint16", ">i8"])
def test_targets_of_any_integer_dtype_are_taken(kind):
    logits, targets = np.random.default_rng(0).standard_normal((4, 5)), np.array([0, 4, 2, 2])
    assert fr.cross_entropy(logits, targets.astype(kind))[0] == fr.cross_entropy(logits, targets)[0]


def test_logits_in_any_memory_order_give_the_same_numbers():
    logits = np.random.default_rng(0).standard_normal((3, 4, 5))
    targets = np.arange(12).reshape(3, 4) % 5
    loss, dlogits = fr.cross_entropy(logits, targets)
    again, crooked = fr.cross_entropy(np.asfortranarray(logits), np.asfortranarray(targets))
    assert again == loss and np.array_equal(crooked, dlogits)


def test_logits_are_left_as_they_are():
    logits = np.random.default_rng(0).standard_normal((3, 5))
    logits.flags.writeable = False
    fr.cross_entropy(logits, [0, 1, 2])


@pytest.mark.parametrize(
    "logits, targets, error, message",
    [
        (
            np.zeros((2, 3), int),
            [0, 0],
            TypeError,
            "^logits: expected float32 or float64, got int64$",
        ),
        (np.zeros((2, 3), ">f4"), [0, 0], TypeError, "^logits: expected .*, got >f4$"),
        (np.zeros(()), 0, ValueError, "^logits: expected at least one axis"),
        (np.zeros((2, 3)), [0.0, 1.0], TypeError, "^targets: expected integers, got float64$"),
        (
            np.zeros((2, 3)),
            [[0, 0]],
            ValueError,
            r"^targets: expected shape \(2,\), got \(1, 2\)$",
        ),
        (
            np.zeros((2, 2, 3)),
            [[0, 1], [2, 3]],
            ValueError,
            r"^targets: expected values in \[0, 3\) or ignore_index -100, got 3 at position 3$",
        ),
        (np.zeros((1, 3)), [-1], ValueError, "got -1 at position 0$"),
    ],
)
def test_wrong_logits_or_targets_are_refused(logits, targets, error, message):
    with pytest.raises(error, match=message):
        fr.cross_entropy(logits, targets)


def test_a_target_out_of_range_is_found_before_anything_is_written():
    dlogits = np.full((2, 3), 7.0)
    with pytest.raises(ValueError, match=r"got 3 at position 1"):
        _core.softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 3]), -100, dlogits)
    assert (dlogits == 7).all()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_mse_is_the_mean_over_all_elements(shape):
    rng = np.random.default_rng(0)
    y, target = np.array(rng.standard_normal(shape)), np.array(rng.standard_normal(shape))
    loss, dy = fr.mse(y, target)
    assert loss == pytest.approx(((y - target) ** 2).mean(), rel=1e-14)
    assert dy.shape == shape
    np.testing.assert_allclose(dy, 2 * (y - target) / y.size, rtol=1e-15)


def test_mse_in_float32_sums_in_double_precision():
    y = np.full(10_000_001, 0.1, "f4")
    assert fr.mse(y, np.zeros_like(y))[0] == pytest.approx(float(y[0]) ** 2, rel=1e-13)


# Around every boundary of the kernel: vectors of up to 16 lanes, blocks of 512 elements.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 15, 16, 17, 31, 33, 511, 512, 513, 530, 1536, 5003])
def test_bce_is_that_of_the_twin_to_a_few_ulp_at_every_size(n, dtype):
    rng = np.random.default_rng(n)
    logits = (rng.standard_normal(n) * 8).astype(dtype)
    target = rng.random(n).round(rng.integers(0, 2)).astype(dtype)
    expected, dexpected = reference.bce_with_logits(logits.astype("f8"), target.astype("f8"))
    eps = float(np.finfo(dtype).eps)
    loss, dlogits = fr.bce_with_logits(logits, target)
    assert loss == pytest.approx(expected, rel=4 * eps)
    # One rounding of sigmoid, one of the difference, which is at most 1.
    np.testing.assert_allclose(dlogits, dexpected, rtol=4 * eps, atol=2 * eps / n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bce_of_a_sure_and_right_logit_keeps_its_relative_accuracy(dtype):
    logits = np.linspace(0, 80, 321, dtype=dtype)
    losses = [fr.bce_with_logits(np.array([x]), [1])[0] for x in logits]
    exact = np.log1p(np.exp(-logits.astype("f8")))
    np.testing.assert_allclose(losses, exact, rtol=5 * np.finfo(dtype).eps)


def test_bce_in_float32_sums_in_double_precision():
    logits = np.full(10_000_001, 0.1, "f4")
    one = fr.bce_with_logits(logits[:1], [1])[0]
    assert fr.bce_with_logits(logits, np.ones_like(logits))[0] == pytest.approx(one, rel=1e-13)


def test_bce_of_nan_is_nan_there_and_nowhere_else():
    loss, dlogits = fr.bce_with_logits(np.array([0.0, np.nan, 1.0]), [1, 1, 0])
    assert np.isnan(loss) and np.isnan(dlogits).tolist() == [False, True, False]


def test_bce_in_any_memory_order_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((3, 4, 5)), rng.random((3, 4, 5))
    loss, dlogits = fr.bce_with_logits(logits, target)
    again, crooked = fr.bce_with_logits(np.asfortranarray(logits), target.T.copy().T)
    assert again == loss and np.array_equal(crooked, dlogits)


@pytest.mark.parametrize("targets", [np.zeros(3), np.zeros(4, "f4"), np.zeros(8)[::2], [0.0] * 4])
def test_bce_refuses_targets_unlike_its_logits_before_anything_is_written(targets):
    dlogits = np.full(4, 7.0)
    with pytest.raises((ValueError, TypeError), match=r"^targets: expected"):
        _core.bce_with_logits(np.zeros(4), targets, 1.0, dlogits)
    assert (dlogits == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x", [1e4, 1e30])
def test_bce_of_large_logits_is_linear_and_never_overflows(x, dtype):
    logits = np.array([x, -x, x, -x], dtype)
    loss, dlogits = fr.bce_with_logits(logits, [1, 0, 0, 1])
    assert loss == pytest.approx(float(logits[0]) / 2) and dlogits.tolist() == [0, 0, 0.25, -0.25]


def test_bce_takes_labels_of_any_real_dtype():
    logits = np.array([0.5, -2, 3], "f4")
    results = [fr.bce_with_logits(logits, np.array([1, 0, 1], kind)) for kind in ("?", "u1", "f8")]
    assert len({loss for loss, _ in results}) == 1
    assert all(dlogits.dtype == np.float32 for _, dlogits in results)


@pytest.mark.parametrize("loss", [fr.mse, fr.bce_with_logits])
def test_no_elements_give_nan_and_an_empty_gradient(loss):
    value, gradient = loss(np.zeros((0, 3)), np.zeros((0, 3)))
    assert np.isnan(value) and gradient.shape == (0, 3)


@pytest.mark.parametrize("loss", [fr.mse, fr.bce_with_logits])
@pytest.mark.parametrize(
    "y, target, error, message",
    [
        (
            np.zeros((2, 3)),
            np.zeros(3),
            ValueError,
            r"^target: expected shape \(2, 3\), got \(3,\)$",
        ),
        (np.zeros(3, int), np.zeros(3), TypeError, ": expected float32 or float64, got int64$"),
        (
            np.zeros(3),
            np.zeros(3, complex),
            TypeError,
            "^target: expected real numbers, got complex",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_refused(loss, y, target, error, message):
    with pytest.raises(error, match=message):
        loss(y, target)


def misaligned(array):
    """The same numbers at an address that is no multiple of their size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    other = raw[1:].view(array.dtype).reshape(array.shape)
    other[...] = array
    return other


def test_arrays_of_any_alignment_are_taken():
    x, t = np.array([[0.5, -1.0]], "f4"), np.array([[1.0, 0.0]], "f4")
    ids = np.array([1])
    assert fr.bce_with_logits(misaligned(x), misaligned(t))[0] == fr.bce_with_logits(x, t)[0]
    assert fr.cross_entropy(misaligned(x), misaligned(ids))[0] == fr.cross_entropy(x, ids)[0]


def test_no_targets_may_be_an_empty_list():
    loss, dlogits = fr.cross_entropy(np.zeros((0, 4)), [])
    assert np.isnan(loss) and dlogits.shape == (0, 4)


VALUES, LABELS = np.array([[0.5, -1.0], [2.0, 1.0]]), np.array([1, 0])


@pytest.mark.parametrize("masked", [0, 1])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (fr.cross_entropy, (VALUES, LABELS)),
        (fr.accuracy, (VALUES, LABELS)),
        (fr.mse, (VALUES, VALUES)),
        (fr.bce_with_logits, (VALUES, VALUES)),
    ],
    ids=["cross_entropy", "accuracy", "mse", "bce_with_logits"],
)
def test_a_masked_array_is_refused_because_what_is_masked_would_count(function, arguments, masked):
    arguments = list(arguments)
    arguments[masked] = np.ma.masked_equal(arguments[masked], 1)
    message = "^[a-z]+: expected an array without a mask, got a MaskedArray; compress it, or .*"
    with pytest.raises(TypeError, match=message + "ignore_index"):
        function(*arguments)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("loss", [fr.mse, fr.bce_with_logits])
def test_a_matrix_is_taken_as_an_array_of_two_axes(loss):
    expected, gradient = loss(VALUES, VALUES > 0)
    value, dy = loss(np.matrix(VALUES), np.matrix(VALUES > 0))
    assert value == expected and np.array_equal(dy, gradient) and type(dy) is np.ndarray


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_the_classes_of_a_matrix_are_the_classes_of_its_rows():
    logits, targets = np.matrix(VALUES), np.array([0, 0], "i4")
    assert fr.accuracy(logits, targets) == 1
    assert fr.cross_entropy(logits, targets)[0] == fr.cross_entropy(VALUES, targets)[0]
    targets = np.matrix([[0, 1]])
    assert fr.cross_entropy(VALUES[None], targets)[0] == fr.cross_entropy(VALUES, [0, 1])[0]


def test_accuracy_broadcasts_nothing():
    with pytest.raises(ValueError, match=r"^targets: expected shape \(3, 2\), got \(2,\)"):
        fr.accuracy(np.zeros((3, 2, 4)), [0, 1])


def test_accuracy_is_nan_if_no_target_counts():
    assert np.isnan(fr.accuracy(np.zeros((2, 4)), [-100, -100]))
