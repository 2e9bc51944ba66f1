"""Measure fastrnn against NumPy and write the table: ``python bench/run.py`` (``make bench``).

What it is: both contenders in one process, alternating, checked equal before they are timed;
writes results/NAME.json and results/NAME.md.
What it is not: the comparison with other frameworks, nor of more than one thread each: after a
product, OpenBLAS's threads go on spinning for tens of milliseconds on the cores that ours want, and
large cases came out at half their speed. ``peers.py`` has a process for each side.

    python bench/run.py                        all cells and shapes, a few minutes
    python bench/run.py --cells lstm --rounds 15 --name lstm
    python bench/compare.py bench/results/before.json bench/results/numpy.json
"""

import argparse
import math
import os

COLUMNS = ("work, T B I H", "fastrnn us", "NumPy us", "ratio")


def main():
    options = arguments()
    # Both sides read these when they are first imported, hence before the imports below.
    for name in ("FASTRNN_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    import jobs
    import measure

    rows = []
    for cell in options.cells or jobs.LAYERS:
        for work in options.works or jobs.WORKS:
            for shape in jobs.SHAPES:
                sides = jobs.contenders(cell, shape, work)
                times = measure.interleaved(sides, options.rounds, options.slice)
                ratio = times["numpy"]["median"] / times["fastrnn"]["median"]
                row = {"cell": cell, "work": work, "shape": shape, "us": times, "ratio": ratio}
                print(f"{label(row):38}{ratio:7.1f} x", flush=True)
                rows.append(row)
    env = measure.environment()
    markdown = report(rows, env, measure)
    path = measure.write(options.name, {"environment": env, "rows": rows}, markdown)
    print(f"\n{markdown}\nwritten: {path} and .md")


def label(row):
    return f"{row['cell'].upper()} {row['work']}, {' '.join(map(str, row['shape']))}"


def report(rows, env, measure):
    cells = [
        (
            label(row),
            f"{row['us']['fastrnn']['median']:,.1f}",
            f"{row['us']['numpy']['median']:,.1f}",
            f"{row['ratio']:.1f}",
        )
        for row in rows
    ]
    means = [
        f"{work} {geometric_mean([row['ratio'] for row in rows if row['work'] == work]):.1f}"
        for work in sorted({row["work"] for row in rows})
    ]
    return (
        f"{measure.headline(env)} float32; medians of alternating slices; "
        f"ratio = NumPy / fastrnn, more is better.\n\n{measure.table(COLUMNS, cells)}\n"
        f"Geometric mean of the ratios: {', '.join(means)}.\n"
    )


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/run.py --cells lstm gru",
    )
    parser.add_argument("--cells", nargs="+", choices=("rnn", "lstm", "gru"), help="default: all")
    parser.add_argument("--works", nargs="+", choices=("forward", "training"), help="default: both")
    parser.add_argument("--rounds", type=int, default=7, help="slices per side (default 7)")
    parser.add_argument("--slice", type=float, default=0.05, help="seconds a slice (default 0.05)")
    parser.add_argument("--threads", type=int, default=1, help="of both sides (default 1)")
    parser.add_argument("--name", default="numpy", help="of the result files (default numpy)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
