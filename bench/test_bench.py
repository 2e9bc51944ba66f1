"""fastrnn and NumPy under pytest-benchmark: ``pytest bench --benchmark-group-by=group``.

What it is: the everyday way to look at one shape, or to compare two commits with
``--benchmark-save`` and ``--benchmark-compare``.
What it is not: the table of the README, which ``run.py`` measures with both sides interleaved.
"""

import jobs
import pytest


@pytest.mark.parametrize("shape", jobs.SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("work", jobs.WORKS)
@pytest.mark.parametrize("cell", jobs.LAYERS)
@pytest.mark.parametrize("contender", ["fastrnn", "numpy"])
def test_bench(benchmark, contender, cell, work, shape):
    benchmark.group = f"{cell} {work} T,B,I,H={shape}"
    benchmark(jobs.contenders(cell, shape, work)[contender])
