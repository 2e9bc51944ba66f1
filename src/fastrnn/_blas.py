"""Finds a CBLAS that is already in the process, for FASTRNN_BLAS=numpy or scipy.

NumPy's wheels carry OpenBLAS with its symbols renamed; NumPy itself may also be linked to a
system BLAS. The library is found among what NumPy has loaded, by symbol, and believed only after
it has multiplied two known matrices correctly (csrc/gemm.c). SciPy carries a library of its own
in the same manner.
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path

from fastrnn import _core

# (prefix, suffix, 64-bit integers): NumPy and SciPy wheels first, then plain builds.
_NAMES = (
    ("scipy_", "64_", True),
    ("scipy_", "", False),
    ("", "64_", True),
    ("", "", False),
)


def select(name: str) -> str:
    """Make the BLAS of NumPy or SciPy the provider; return the reason in words.

    Raises
    ------
    RuntimeError
        If none is found there, or it fails the test.
    """
    tried = []
    for path in _candidates(name):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        tried.append(path.name)
        for prefix, suffix, ilp64 in _NAMES:
            symbols = [_address(library, f"{prefix}cblas_{c}gemm{suffix}") for c in "sd"]
            if not all(symbols):
                continue
            threads = _thread_functions(library, prefix, suffix)
            _core.select_blas(f"{name}:{path.name}"[:31], *symbols, ilp64, *threads)
            return f"asked for; {path.name}, tested on a known product"
    raise RuntimeError(
        f"FASTRNN_BLAS={name}: no usable CBLAS found"
        + (f" in {', '.join(tried)}" if tried else "; is the package installed?")
    )


def _thread_functions(library, prefix, suffix):
    """Addresses of what swaps, gets and sets OpenBLAS's number of threads, 0 where there is none.

    The one that swaps is missing from the library of NumPy 2.5, and never had its names changed
    before.
    """
    swap = "openblas_set_num_threads_local"
    swap = _address(library, f"{prefix}{swap}{suffix}") or _address(library, swap)
    pair = (_address(library, f"{prefix}openblas_{v}_num_threads{suffix}") for v in ("get", "set"))
    return swap, *pair


def _candidates(name):
    """Shared libraries that come with the package, then whatever its core module is linked to."""
    try:
        if name == "scipy":
            importlib.import_module("scipy.linalg.cython_blas")
        package = importlib.import_module(name)
    except ImportError:
        return
    root = Path(package.__file__).parent
    for folder in (root.parent / f"{name}.libs", root / ".libs", root / ".dylibs"):
        if folder.is_dir():
            yield from sorted(p for p in folder.iterdir() if "blas" in p.name.lower())
    if name == "numpy":
        core = importlib.import_module("numpy._core._multiarray_umath")
        yield Path(core.__file__)


def _address(library, symbol):
    try:
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0
