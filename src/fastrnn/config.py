"""Threads, instruction set and BLAS: what the environment asks for, and what is in use.

Read once, at import:

    FASTRNN_NUM_THREADS   else OMP_NUM_THREADS, else the CPUs this process may run on
    FASTRNN_ISA           portable, avx2, avx512 or neon; else the best this machine has
    FASTRNN_BLAS          own (default, auto), numpy or scipy: whose products batched over time
"""

from __future__ import annotations

import os

from fastrnn import _core
from fastrnn._version import __version__

_MOST_THREADS = 64
_PROVIDERS = ("auto", "own", "numpy", "scipy")


def set_num_threads(n: int) -> None:
    """Let a call use up to `n` threads.

    Parameters
    ----------
    n : int
        1 to 64. Small calls use fewer, whatever is set here.

    Raises
    ------
    ValueError
        ``n: expected 1 to 64 threads, got 0``.
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads a call may use."""
    return _core.get_num_threads()


def show_config() -> dict:
    """Return the version, instruction sets, threads and BLAS provider, and the reason for it.

    Returns
    -------
    dict
        version, isa, isa_available (list, best first), num_threads, cpus, blas, blas_reason.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.show_config()["isa"] in fr.show_config()["isa_available"]
    True
    """
    return {
        "version": __version__,
        "isa": _core.isa(),
        "isa_available": [name for name, usable in _core.isas().items() if usable],
        "num_threads": get_num_threads(),
        "cpus": _cpus(),
        "blas": _core.blas(),
        "blas_reason": _blas_reason,
    }


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads_wanted() -> int:
    for name in ("FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP allows one per nesting level
        if not text:
            continue
        if text.isdecimal() and 1 <= int(text) <= _MOST_THREADS:
            return int(text)
        if name == "FASTRNN_NUM_THREADS":
            raise ValueError(f"{name}: expected 1 to {_MOST_THREADS}, got {text!r}")
    return min(_cpus(), _MOST_THREADS)


def _choose_blas(name: str) -> str:
    """Select the provider; return the reason in words."""
    if name not in _PROVIDERS:
        raise ValueError(f"FASTRNN_BLAS: expected one of {', '.join(_PROVIDERS)}, got {name!r}")
    if name in ("auto", "own"):
        _core.select_blas()
        return (
            "asked for"
            if name == "own"
            else "own kernels: level with OpenBLAS when large, ahead when small, one thread pool"
        )
    from fastrnn import _blas  # only who asks for a foreign BLAS pays for looking for one

    return _blas.select(name)


_core.set_num_threads(_threads_wanted())
if os.environ.get("FASTRNN_ISA"):
    _core.select_isa(os.environ["FASTRNN_ISA"])
_blas_reason = _choose_blas(os.environ.get("FASTRNN_BLAS") or "auto")
