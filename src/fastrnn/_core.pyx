# cython: boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The boundary between Python and the C core.

It checks shapes, dtypes and strides, owns memory, releases the GIL, calls, and turns a status into
an exception. A layer of any depth and both directions is one call (`Engine`). Not here: arithmetic
(csrc/), parameter handling (module.py), what people read first (layers/recurrent.py).
"""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

import operator

import numpy as np

from fastrnn.inside import StepGradients, Trace

cnp.import_array()

include "_engine.pxi"
include "_pointwise.pxi"
include "_memory.pxi"
include "_recurrent.pxi"
include "_linear.pxi"
include "_stream.pxi"
include "_step.pxi"
include "_attention.pxi"


# ---- dense products ------------------------------------------------------------------------------

def matmul(a, b, out, bint transpose_a=False, bint transpose_b=False, bint accumulate=False,
           bias=None):
    """Write ``op(a) @ op(b) [+ bias]`` to `out`, or add it, with the library's own threads.

    Parameters
    ----------
    a, b : ndarray of shape (M, K) and (K, N), or transposed
        2-D, C-contiguous, of one dtype, float32 or float64.
    out : ndarray of shape (M, N)
        Written, or added into with `accumulate`. Must not overlap the others.
    transpose_a, transpose_b, accumulate : bool
    bias : ndarray of shape (N,), optional
        Added to every row.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was expected and what came; `out` is unchanged.
    """
    cdef fr_gemm_args g
    cdef fr_status status
    cdef Block scratch
    memset(&g, 0, sizeof(g))
    dtype = _real_dtype("out", out)
    for name, array in (("a", a), ("b", b), ("out", out)):
        if getattr(array, "ndim", None) != 2 or array.dtype != dtype:
            raise TypeError(f"{name}: expected a 2-D array of {dtype}, got {_describe(array)}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: expected a C-contiguous array")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only")
    g.M, g.K = (a.shape[1], a.shape[0]) if transpose_a else a.shape
    inner, g.N = (b.shape[1], b.shape[0]) if transpose_b else b.shape
    if inner != g.K:
        raise ValueError(f"b: expected {g.K} rows in the product, got {inner}")
    if out.shape != (g.M, g.N):
        raise ValueError(f"out: expected shape {(g.M, g.N)}, got {out.shape}")
    if bias is not None:
        _check_array("bias", bias, (g.N,), dtype)
    g.dtype = FR_F32 if dtype == np.float32 else FR_F64
    g.C, g.A, g.B = _data(out), _data(a), _data(b)
    g.ldc, g.lda, g.ldb = max(1, out.shape[1]), max(1, a.shape[1]), max(1, b.shape[1])
    g.transpose_a, g.transpose_b, g.accumulate = transpose_a, transpose_b, accumulate
    g.bias = NULL if bias is None else _data(bias)
    g.threads = fr_get_num_threads()  # asked once: another thread may change it meanwhile
    scratch = Block(fr_gemm_scratch_bytes(&g))
    g.scratch = scratch.p
    with nogil:
        status = fr_gemm(&g)
    _check_status("matmul", status)


# ---- the machine ---------------------------------------------------------------------------------

def activation(str kind, x):
    """``exp``, ``sigmoid`` or ``tanh`` of a 1-D array by the kernels' own vector code (for tests)."""
    cdef int which = ("exp", "sigmoid", "tanh").index(kind)
    x = np.ascontiguousarray(x)
    dtype = _real_dtype("x", x)
    out = np.empty_like(x)
    fr_activation(FR_F32 if dtype == np.float32 else FR_F64, which, _data(out), _data(x), x.size)
    return out


def isa():
    """Return the name of the instruction set in use."""
    return fr_isa().decode()


def isas():
    """Return the names of all instruction sets compiled in, best first, with their availability."""
    found, i = {}, 0
    while fr_isa_name(i) != NULL:
        found[fr_isa_name(i).decode()] = bool(fr_isa_available(fr_isa_name(i)))
        i += 1
    return found


def select_isa(str name):
    """Use this instruction set; called once, at import, before any weights are packed."""
    encoded = name.encode()
    if fr_isa_select(encoded) != FR_OK:
        usable = ", ".join(n for n, there in isas().items() if there)
        raise ValueError(f"FASTRNN_ISA: expected one of {usable}, got {name!r}")


def get_num_threads():
    """Return how many threads a call may use."""
    return fr_get_num_threads()


def set_num_threads(n):
    """Let a call use up to `n` threads, 1 to 64."""
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected an integer, got {type(n).__name__}") from None
    if not 0 < n <= FR_MAX_THREADS or fr_set_num_threads(n) != FR_OK:
        raise ValueError(f"n: expected 1 to {FR_MAX_THREADS} threads, got {n}")


def blas():
    """Return the name of the provider of time-batched products."""
    return fr_blas_name().decode()


def select_blas(name=None, uintptr_t sgemm=0, uintptr_t dgemm=0, bint ilp64=False,
                uintptr_t set_threads=0, uintptr_t get_threads=0, uintptr_t put_threads=0):
    """Let this CBLAS compute time-batched products; without a name, our own kernels do.

    Its threads are set by one function that returns the old number, or by a pair."""
    cdef fr_blas b
    global _blas_serial
    _blas_serial += 1  # weights are packed differently for another provider
    if name is None:
        fr_blas_select(NULL)
        return
    encoded = name.encode()
    b.name, b.sgemm, b.dgemm, b.ilp64 = encoded, <void *> sgemm, <void *> dgemm, ilp64
    b.set_threads = <int (*)(int) noexcept nogil> <void *> set_threads
    b.get_threads = <int (*)() noexcept nogil> <void *> get_threads
    b.put_threads = <void (*)(int) noexcept nogil> <void *> put_threads
    status = fr_blas_select(&b)
    if status != FR_OK:
        raise RuntimeError(f"BLAS {name}: {fr_status_text(status).decode()}")
