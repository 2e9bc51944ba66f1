"""Products batched over time by somebody else's BLAS: the same numbers, and its threads left alone.

What it is: NumPy's and SciPy's libraries against the twin, and a CBLAS written here, which can see
how it is called. What it is not: which setting chooses what (test_config.py).
"""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fastrnn import _blas, _core, config

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
import matrix
from cells import CELLS, SPLITS, STACK, build, identical, inputs, near, python, threads, train


@pytest.fixture
def as_before():
    """Whatever a test selects, the provider of the environment comes back."""
    yield
    config._choose_blas(os.environ.get("FASTRNN_BLAS") or "auto")


@pytest.fixture(params=["numpy", "scipy"])
def foreign(request, as_before):
    """Name of the provider in use, the BLAS of NumPy or SciPy."""
    if request.param == "scipy":
        pytest.importorskip("scipy")
    if not any("blas" in path.name.lower() for path in _blas._candidates(request.param)):
        pytest.skip(f"{request.param} brings no BLAS of its own here")
    reason = _blas.select(request.param)
    assert _core.blas().startswith(request.param + ":") and "tested on a known product" in reason
    return request.param


CASES = [
    matrix.Case(cell, 2, True, batch_first, dtype, T, B, I, H, tokens=tokens)
    for cell in CELLS
    for dtype, batch_first, tokens, (T, B, I, H) in (
        ("float32", False, False, (9, 5, 17, 19)),
        ("float64", True, False, (40, 2, 3, 6)),
        ("float64", False, True, (7, 3, 16, 16)),
    )
]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layers_agree_with_the_twin(foreign, case, count):
    given, *truth = matrix.well_posed(case)
    with threads(count):
        actual = matrix.from_fastrnn(case, *given)
    for ours, expected, tolerance in zip(actual, truth, matrix.TOLERANCES[case.dtype], strict=True):
        matrix.agree(ours, expected, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_that_was_used_before_takes_the_new_provider_and_gives_it_up_again(as_before, cell):
    layer = build(cell, **STACK)
    given = inputs(layer)
    _core.select_blas()
    own = train(layer, *given)
    with counting() as blas:
        assert near(train(layer, *given), own)
        assert blas.products > 0
        _core.select_blas()
        seen = blas.products
        assert identical(train(layer, *given), own)
        assert blas.products == seen


def test_a_fresh_process_computes_with_it_what_the_own_kernels_compute(foreign, as_before):
    folder = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); from cells import *\n"
        "layer = build('gru')\n"
        "print(*(a.tobytes().hex() for a in train(layer, *inputs(layer))))\n"
        "print(fr.show_config()['blas'])"
    )
    run = python(code, FASTRNN_BLAS=foreign)
    assert run.returncode == 0, run.stderr
    numbers, name = run.stdout.splitlines()
    assert name.startswith(foreign + ":")
    _core.select_blas()
    layer = build("gru")
    for ours, text in zip(train(layer, *inputs(layer)), numbers.split(), strict=True):
        assert near(np.frombuffer(bytes.fromhex(text), np.float32).reshape(ours.shape), ours)


def test_openblas_has_as_many_threads_after_a_call_as_before(foreign):
    openblas = openblas_threads(foreign)
    if openblas is None:
        pytest.skip(f"the BLAS of {foreign} is no OpenBLAS")
    get, put = openblas
    before = get()
    put(2)
    try:
        there = get()  # 1 where it was built without threads
        layer = build("lstm")
        train(layer, *inputs(layer))
        assert get() == there
    finally:
        put(before)


def openblas_threads(provider):
    """OpenBLAS's functions to get and set its number of threads, or None."""
    for path in _blas._candidates(provider):
        library = ctypes.CDLL(str(path))
        for prefix, suffix, _ in _blas._NAMES:
            with contextlib.suppress(AttributeError):
                return tuple(
                    getattr(library, f"{prefix}openblas_{verb}_num_threads{suffix}")
                    for verb in ("get", "set")
                )
    return None


# ---- a CBLAS of our own


class Counting:
    """cblas_sgemm and cblas_dgemm by NumPy, and a number of threads to set. It counts products, and
    notes every number of threads; `wrong` makes it a BLAS that cannot multiply."""

    def __init__(self, wrong=None):
        self.products, self.threads, self.noted, self.wrong = 0, 4, [], wrong
        self.in_product = lambda: None
        integers = [ctypes.c_int] * 6
        self.keep = [
            ctypes.CFUNCTYPE(
                None, *integers, real, at, ctypes.c_int, at, ctypes.c_int, real, at, ctypes.c_int
            )(self.gemm_of(dtype))
            for real, dtype, at in (
                (ctypes.c_float, np.float32, ctypes.c_void_p),
                (ctypes.c_double, np.float64, ctypes.c_void_p),
            )
        ]
        self.keep.append(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(self.set_threads))

    def addresses(self):
        return [ctypes.cast(function, ctypes.c_void_p).value for function in self.keep]

    def set_threads(self, n):
        old, self.threads = self.threads, n
        self.noted.append(n)
        return old

    def gemm_of(self, dtype):
        def rows(at, height, width, stride):
            size = np.dtype(dtype).itemsize
            memory = (ctypes.c_char * (((height - 1) * stride + width) * size)).from_address(at)
            flat = np.frombuffer(memory, dtype)
            return np.lib.stride_tricks.as_strided(flat, (height, width), (stride * size, size))

        def gemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
            self.products += 1
            self.in_product()
            A = rows(a, k, m, lda).T if ta == 112 else rows(a, m, k, lda)
            B = rows(b, n, k, ldb).T if tb == 112 else rows(b, k, n, ldb)
            C = rows(c, m, n, ldc)
            C[...] = alpha * (A @ B) + (beta * C if beta else 0)
            if self.wrong == dtype:
                C[0, 0] += 1

        return gemm


@contextlib.contextmanager
def counting():
    blas = Counting()
    sgemm, dgemm, set_threads = blas.addresses()
    _core.select_blas("counting", sgemm, dgemm, False, set_threads)
    blas.products = 0  # of the selection's own test
    try:
        yield blas
    finally:
        _core.select_blas()


@pytest.mark.parametrize("wrong", [np.float32, np.float64])
def test_a_blas_that_multiplies_wrongly_is_refused_and_the_old_one_stays(as_before, wrong):
    before = _core.blas()
    blas = Counting(wrong)
    with pytest.raises(RuntimeError, match="BLAS wrong: the BLAS failed on a product of known"):
        _core.select_blas("wrong", *blas.addresses()[:2])
    assert _core.blas() == before
    blas.products = 0
    layer = build("gru")
    train(layer, *inputs(layer))
    assert blas.products == 0


def test_a_blas_without_one_of_the_products_is_refused(as_before):
    sgemm, dgemm, _ = Counting().addresses()
    for addresses in ((sgemm, 0), (0, dgemm)):
        with pytest.raises(RuntimeError, match="BLAS half: a required argument is missing"):
            _core.select_blas("half", *addresses)


@pytest.mark.parametrize("split", SPLITS)
def test_it_runs_on_one_thread_during_a_call_and_gets_its_threads_back(as_before, split):
    T, B, I, H = SPLITS[split]
    layer = build("lstm", I, H)
    x, state, dy, dstate = inputs(layer, T, B)
    with counting() as blas, threads(3):
        seen = set()
        blas.in_product = lambda: seen.add(blas.threads)
        _, _, tape = layer.forward(x, state)
        assert blas.threads == 4 and seen == {1}
        tape.backward(dy, dstate)
        assert blas.threads == 4 and seen == {1}
        assert blas.noted == [1, 4] * 2


def test_it_gets_its_threads_back_after_an_error(as_before):
    layer = build("lstm")
    ids, *_ = inputs(layer, tokens=True)
    with counting() as blas:
        with pytest.raises(ValueError, match="x: expected token ids"):
            layer(ids + 5)
        assert blas.threads == 4


@pytest.mark.parametrize("leaves_first", [0, 1])
def test_it_gets_its_threads_back_when_two_calls_overlap(as_before, leaves_first):
    layers = [build("rnn_tanh", seed=seed) for seed in range(2)]
    x, *_ = inputs(layers[0])
    inside, leave = ([threading.Event() for _ in range(2)] for _ in range(2))
    seen, results, running = [], [None, None], []

    def in_product():
        i = running.index(threading.current_thread())
        inside[i].set()
        leave[i].wait(60)
        seen.append(blas.threads)

    def run(i):
        results[i] = layers[i](x)

    with counting() as blas, threads(1):
        alone = [layer(x) for layer in layers]
        blas.in_product = in_product
        for i in range(2):
            running.append(threading.Thread(target=run, args=(i,)))
            running[i].start()
            inside[i].wait(1)  # or not, if calls take turns
        for i in (leaves_first, 1 - leaves_first):
            leave[i].set()
            running[i].join(1)
        running[leaves_first].join()
    assert identical(results, alone)
    assert seen == [1, 1]
    assert blas.threads == 4


def test_a_tape_of_another_provider_is_refused_and_no_gradient_changes(as_before):
    layer = build("gru")
    x, state, dy, dstate = inputs(layer)
    with counting():
        _, _, tape = layer.forward(x, state)
    with pytest.raises(ValueError, match="packed weights do not belong to this layer"):
        tape.backward(dy, dstate)
    assert not layer._flat_grad.any()


@pytest.mark.parametrize("name", ["numpy", "scipy"])
def test_openblas_can_be_told_to_run_on_one_thread(monkeypatch, name):
    if name == "scipy":
        pytest.importorskip("scipy")
    if not any("openblas" in path.name.lower() for path in _blas._candidates(name)):
        pytest.skip(f"{name} brings no OpenBLAS here")
    given = []
    monkeypatch.setattr(_core, "select_blas", lambda *arguments: given.append(arguments))
    _blas.select(name)
    *_, swap, get, put = given[0]
    assert swap or (get and put)


def test_a_library_with_a_pair_of_functions_for_its_threads_has_both_found(monkeypatch):
    there = {"scipy_openblas_get_num_threads64_": 11, "scipy_openblas_set_num_threads64_": 12}
    monkeypatch.setattr(_blas, "_address", lambda _, symbol: there.get(symbol, 0))
    assert _blas._thread_functions(None, "scipy_", "64_") == (0, 11, 12)


def test_a_pair_of_functions_sets_the_threads_during_a_call_and_puts_them_back(as_before):
    blas = Counting()
    seen = set()
    blas.in_product = lambda: seen.add(blas.threads)
    get = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: blas.threads)
    put = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda n: setattr(blas, "threads", n))
    pair = [ctypes.cast(function, ctypes.c_void_p).value for function in (get, put)]
    layer = build("lstm")
    _core.select_blas("pair", *blas.addresses()[:2], False, 0, *pair)
    seen.clear()  # of the selection's own test
    train(layer, *inputs(layer))
    _core.select_blas()
    assert seen == {1} and blas.threads == 4
