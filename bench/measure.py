"""Timing shared by the benchmarks: interleaved medians, the machine's description, result files.

What it is: the one place that knows how a time is taken and how it is written down.
What it is not: a benchmark; those are ``run.py``, ``peers.py``, ``echo.py`` and their like.

Machines are shared and their clocks drift, so contenders are never timed one after the other:
they alternate, A B A B ..., and the median of each side is compared. Between two
sides there is a short pause, because OpenBLAS's threads (and ours) spin for a while after a call
and would steal a core from whoever runs next.
"""

import datetime
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def interleaved(sides, rounds=7, slice_seconds=0.05, pause=0.01):
    """Time callables against each other.

    Parameters
    ----------
    sides : dict of str to callable
        What to time, by name.
    rounds : int
        Slices per side. The sides alternate, one slice each.
    slice_seconds : float
        Each slice repeats the call until about this long has passed.
    pause : float
        Seconds of sleep before each slice.

    Returns
    -------
    dict of str to dict
        ``median``, ``low`` and ``high`` (quartiles of the slices), in microseconds a call.
    """
    repeats = {}
    for name, call in sides.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(slice_seconds / (time.perf_counter() - start + 1e-9)))
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            time.sleep(pause)
            call()  # caches and thread teams wake outside the clock
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values):
    """Median and quartiles of a list of numbers, as a dict."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def check_equal(name, actual, expected, tolerance=1e-4):
    """Raise unless norm(actual - expected) <= tolerance * norm(expected)."""
    expected = np.asarray(expected, np.float64)
    error = np.linalg.norm(actual - expected) / (np.linalg.norm(expected) + 1e-30)
    if not error <= tolerance:
        raise SystemExit(f"{name}: the contenders disagree, relative error {error:.2g}")


def environment(packages=("numpy",)):
    """Describe machine, versions, configuration and commit of a run, as a JSON-able dict."""
    import fastrnn as fr

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "-uno", "--", "src", "csrc")),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"fastrnn": fr.__version__} | {p: metadata.version(p) for p in packages},
        "threads": fr.get_num_threads(),
        "isa": _isa(),
    }


def write(name, report, markdown):
    """Write results/NAME.json and results/NAME.md; return the JSON file's path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown, encoding="utf-8")
    return path


def headline(env):
    """One line for the top of a table: where, with what and when it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    dirty = " (modified)" if env["modified"] else ""
    return (
        f"{env['cpu']}, {env['cores']} cores, {env['threads']} threads, ISA {env['isa']}, "
        f"Python {env['python']}, {versions}, commit {env['commit']}{dirty}, {env['date'][:10]}."
    )


def table(header, rows):
    """A Markdown table: first columns left, the rest right aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _isa():
    from fastrnn import _core

    return _core.isa()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _git(*arguments):
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _cpu_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
