"""fastrnn against its peers: the same work, the same weights, the same run (``make bench-peers``).

What it is: a process for each contender and number of threads, each in an environment of its own
(NumPy in ours), which is made on the first run (bench/.envs). A case is built by all of them, their
results are compared, then slices of their times alternate. Whoever is not asked is stopped, by a
signal where the system has one: threads of some libraries spin for a tenth of a second after their
work, on the cores of the next. On a machine of two processors, where two threads are measured, a
slice is taken again if they were not two whole cores side by side before and after it (cores.py),
whosever it was, for --patience seconds in all.
Writes results/NAME.json and .md, anew after each case.
What it is not: a judgement on models; it is layers, alone.

A training step is forward, and backward of a given dy into dx and the gradients of all parameters,
with weights that may have changed since the last step. Tokens are ids, for which every contender
takes the fastest input that it has; there is no dx then. Ragged batches come padded and go padded.
Each library gets its own kind of arrays, ready, and of its ways of doing a case the fastest is
measured. What a library cannot do is left blank, and the JSON file says why.

    python bench/peers.py                            everything; hours
    python bench/peers.py --grid small --peers torch,onnxruntime --threads 2 --no-variants
    python bench/peers.py --shape 30,8,100,300 --modes infer --peers torch,onnxruntime,jax
    python bench/peers.py --drawn 24 --modes infer,train --no-variants --name peers_drawn
    python bench/peers.py --threads 2 --again bench/results/peers.json
    python bench/peers.py --only-report bench/results/peers.json --plot peers.svg
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from contenders import PACKAGES
from grid import GATES, MODES, SHAPES, cases, drawn

HERE = Path(__file__).parent
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # norm of the difference over the norm
PAUSE = 0.02  # seconds
OF_THE_MOMENT = (
    " Of the moment, where arithmetic sets the limit: multiply-adds a second over those that both "
    "cores did when asked for nothing else just before and after each slice (bench/c/cores.c), "
    "median; neighbours have a part of a shared machine, now more, now less."
)
UNSTEADY = 0.2  # quartiles this far apart, over the median: somebody else was at work


class Process:
    """Parent side of a worker: one contender with one number of threads."""

    def __init__(self, name, threads):
        self.name, self.threads, self.dead = name, threads, ""
        count, env = str(threads), dict(os.environ)
        for variable in ("OMP", "MKL", "OPENBLAS", "FASTRNN"):
            env[f"{variable}_NUM_THREADS"] = count
        env |= {"NPROC": count, "PYTHONUNBUFFERED": "1"}
        if name != "numpy":
            # Everybody imports NumPy, whose OpenBLAS has a thread that spins for 20 ms whenever its
            # process goes on: nearly a slice, on a core that the contender's own threads want.
            env["OPENBLAS_NUM_THREADS"] = "1"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python_of(name), HERE / "worker.py", name, count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=env,
        )

    def ask(self, request):
        """Send a line, return the answer; a worker that is gone answers ``{"blank": why}``."""
        if not self.dead:
            try:
                self.signal("SIGCONT")
                self.process.stdin.write(request + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
                self.signal("SIGSTOP")
            except BrokenPipeError:
                answer = ""
            if answer:
                answer = json.loads(answer)
                if "error" not in answer:
                    return answer
                self.dead = answer["error"]
            else:
                self.log.seek(0)
                last = (self.log.read().strip().splitlines() or [""])[-1]
                self.dead = f"its process ended with code {self.process.wait()}: {last}"[:300]
            print(f"{self.name}, {self.threads} threads: {self.dead}", file=sys.stderr, flush=True)
        return {"blank": self.dead}

    def signal(self, name):
        number = getattr(signal, name, None)  # Windows has none of them
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def close(self):
        self.signal("SIGCONT")
        self.process.stdin.close()
        self.process.wait()


def python_of(name):
    """The interpreter of a contender; its environment is made if it is not there."""
    if PACKAGES[name] is None:
        return sys.executable
    folder = HERE / ".envs" / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / ".ready"
    if not ready.exists():
        packages = ["numpy", *PACKAGES[name]]
        print(f"making {folder} with {' '.join(packages)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, *packages], check=True)
        ready.touch()
    return str(python)


def main():
    options = arguments()
    if options.plot and not importlib.util.find_spec("matplotlib"):  # not after half an hour
        raise SystemExit("--plot: expected matplotlib to be installed, found none")
    if options.only_report:
        result = json.loads(options.only_report.read_text(encoding="utf-8"))
        finish(result, options)
        return
    if options.drawn:
        options.shape = drawn(options.drawn, options.seed)
    todo = cases(
        options.grid, options.cells, options.modes, options.shape or SHAPES, options.variants
    )
    known = {str(case): case for case in todo}
    texts = options.match.lower().split("|")
    todo = [case for case in todo if any(text in str(case).lower() for text in texts)]
    earlier, machines = [], []
    if options.again:
        before = json.loads(options.again.read_text(encoding="utf-8"))
        earlier, machines = before["rows"], [before["limits"]]
        unsteady = {label(row) for row in earlier if spread(row) > UNSTEADY}
        todo = [case for case in todo if str(case) in unsteady]
    if not todo:
        sys.exit("peers: nothing to do with this --grid, --shape, --cells, --modes and --match")
    import limits
    import measure
    from cores import Cores

    names = ["fastrnn", *options.peers]
    for name in names:
        python_of(name)  # all of them before the first clock starts
    os.environ["FASTRNN_NUM_THREADS"] = str(max(options.threads))
    env = measure.environment()
    env["threads"] = options.threads
    if options.limits:
        machine = json.loads(options.limits.read_text(encoding="utf-8"))["limits"]
    else:
        print("measuring what the machine can do", flush=True)
        machine = limits.best([limits.measure(), *machines])
    result = {"environment": env, "limits": machine, "rows": earlier}
    two = sys.platform == "linux" and env["cores"] == 2 and "2" in machine["fma_gflops"]
    looks = options.patience > 0 and max(options.threads) > 1 and two
    cores = Cores(options.patience, machine) if looks else None
    everybody = [Process(name, count) for count in options.threads for name in names]
    start, wrong = time.monotonic(), False
    try:
        for process in everybody:
            env["versions"] |= process.ask("hello").get("versions", {})
        for k, case in enumerate(todo):
            rows, problems = run(case, everybody, cores, options)
            wrong = wrong or problems
            for row in rows:
                row["limit"] = limits.least_us(case, row["threads"], result["limits"])
                judge(row)
                print(f"[{k + 1}/{len(todo)}, {time.monotonic() - start:.0f} s] {line(row)}")
            sys.stdout.flush()
            for row in rows:
                keep_the_steadier(result["rows"], row)
            measure.write(options.name, result, report(result))
    finally:
        for process in [*everybody, *([cores] if cores else [])]:
            process.close()
    if not options.limits:
        # There are minutes when a machine is slower: what it can do is what it did at its best.
        result["limits"] = limits.best([machine, limits.measure()])
        for row in result["rows"]:
            if label(row) in known:
                case = known[label(row)]
                row["limit"] = limits.least_us(case, row["threads"], result["limits"])
                judge(row)
    path = measure.write(options.name, result, report(result))
    print(f"\n{finish(result, options)}\nwritten: {path} and .md")
    sys.exit(1 if wrong else 0)


def spread(row):
    """How far the quartiles of fastrnn's or the best peer's times lie apart, over their median."""
    those = (row["us"][name] for name in ("fastrnn", row.get("best")) if name in row["us"])
    return max((us["high"] - us["low"]) / us["median"] for us in those)


def keep_the_steadier(rows, new):
    """Put a row in the place of the same work's earlier one, unless that one was the steadier.

    Only the spread decides, of both sides: not who is faster.
    """
    for k, old in enumerate(rows):
        if (label(old), old["threads"]) == (label(new), new["threads"]):
            rows[k] = min(old, new, key=spread)
            return
    rows.append(new)


def run(case, everybody, cores, options):
    """Build, compare, time a case; return a row a number of threads, and whether any was wrong."""
    racing, blanks, wrong = {}, {}, False
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "case.npz"), **case.arrays())
        Path(folder, "case.json").write_text(json.dumps(dataclasses.asdict(case)))
        expected = None
        for process in everybody:
            key = (process.name, process.threads)
            answer = process.ask(f"prepare {folder}")
            if "blank" in answer:
                blanks[key] = answer["blank"]
                continue
            good = []
            for k, way in enumerate(answer["ways"]):
                with np.load(Path(folder, f"{process.name}.{k}.npz")) as stored:
                    results = dict(stored)
                expected = expected or results  # fastrnn comes first
                problem = difference(results, expected, TOLERANCE[case.dtype])
                if problem:
                    wrong = True
                    blanks[key] = f"{way}: {problem}"
                    print(f"{case}: {process.name}, {way}: {problem}", file=sys.stderr, flush=True)
                else:
                    good.append(k)
            if good:
                racing[key] = process, process.ask("choose " + " ".join(map(str, good)))
    times, troubled, rates = race(racing, cores, options)
    for process in everybody:
        process.ask("drop")
    rows = []
    for threads in options.threads:
        plural = "" if threads == 1 else "s"
        row = {
            "cell": case.cell,
            "work": f"{case.work}, {threads} thread{plural}",
            "mode": case.mode,
            "threads": threads,
            "shape": case.shape,
            "us": {n: quartiles(us) for (n, count), us in times.items() if count == threads},
            "ways": {n: a["way"] for (n, count), (_, a) in racing.items() if count == threads},
            "blank": {n: why for (n, count), why in blanks.items() if count == threads},
        }
        if troubled is not None:
            these = [sides for (_, count), sides in troubled.items() if count == threads]
            row["slices"] = sum(map(len, these))
            row["troubled"] = sum(map(sum, these))
            if threads == 2 and rates.get(("fastrnn", 2)):
                row["of_moment"] = share_of_moment(case, times["fastrnn", 2], rates["fastrnn", 2])
        rows.append(row)
    return rows, wrong


def difference(results, expected, tolerance):
    """What is wrong with `results`, in words; empty if nothing is."""
    for name, value in expected.items():
        if name not in results:
            return f"no {name}"
        if results[name].shape != value.shape:
            return f"{name} has shape {results[name].shape}, not {value.shape}"
        want = value.astype(np.float64)
        error = np.linalg.norm(results[name] - want) / (np.linalg.norm(want) + 1e-30)
        if not error <= tolerance:
            return f"{name} differs from fastrnn's, relative error {error:.2g}"
    return ""


def race(racing, cores, options):
    """Alternate slices.

    Return ``{key: [us a call, one for each slice]}``; of each slice whether it was taken though
    the cores were not whole (None: nobody asked); and what both cores did in multiply-adds around
    it, in GFLOP/s.
    """
    repeats, cost = {}, 0
    for key, (_, answer) in racing.items():
        us = answer["us"]
        repeats[key] = max(1, min(10**6, round(options.slice * 1e6 / us)))
        cost += PAUSE + (repeats[key] + 1) * us * 1e-6
    rounds = max(min(options.rounds, 5), min(options.rounds, int(options.seconds / cost)))
    times, troubled, rates = ({key: [] for key in racing} for _ in range(3))
    order = list(racing)
    shuffled = random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)  # nobody always comes after the same one
        for key in order:
            time.sleep(PAUSE)
            ask = functools.partial(racing[key][0].ask, f"time {repeats[key]}")
            answer, whole, rate = cores.take(ask) if cores else (ask(), True, None)
            troubled[key].append(not whole)
            if "us" in answer:
                times[key].append(answer["us"])
                rates[key].append(rate)
    times = {key: us for key, us in times.items() if us}
    return times, troubled if cores else None, rates if cores else {}


def share_of_moment(case, us, rates):
    """The median over slices of what fastrnn did of what the cores could at that time."""
    from limits import flops

    wide = 1 if case.dtype == "float32" else 2
    shares = [wide * flops(case) * 1e-3 / t / rate for t, rate in zip(us, rates, strict=True)]
    return float(np.median(shares))


def quartiles(values):
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def judge(row):
    """Add the best peer, the ratio to it and the share of the limit to a row."""
    medians = {name: us["median"] for name, us in row["us"].items()}
    ours = medians.pop("fastrnn", None)
    if ours is None:
        return
    row["of_limit"] = row["limit"]["us"] / ours
    if medians:
        row["best"] = min(medians, key=medians.get)
        row["ratio"] = medians[row["best"]] / ours


# ---- reports


def label(row):
    work = row["work"].partition(",")[0]
    return f"{row['cell'].upper()} {work}, {' '.join(map(str, row['shape']))}"


def line(row):
    ours = row["us"].get("fastrnn")
    if not ours:
        return f"{label(row)}: fastrnn failed"
    best = f"{row['ratio']:.2f} x {row['best']}" if "ratio" in row else "no peer"
    limit = f"{row['of_limit']:.0%} of the limit ({row['limit']['bound']})"
    if "of_moment" in row and row["limit"]["bound"] == "arithmetic":
        limit += f", {row['of_moment']:.0%} of the moment's"
    return f"{label(row)}, {row['threads']} thr.: {micro(ours['median'])} us, {best}, {limit}"


def micro(us):
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def report(result):
    """The Markdown file of a result."""
    from measure import headline, table

    env = dict(result["environment"])
    env["threads"] = " and ".join(map(str, env["threads"]))
    parts = [
        f"{headline(env)} Medians of alternating slices, in microseconds, for fastrnn with the "
        "quartiles. Ratio: the best peer's time over fastrnn's, more is better. Limit: the least "
        "time the machine allows (bench/limits.py), over fastrnn's time, and what sets it."
        + (OF_THE_MOMENT if any("of_moment" in row for row in result["rows"]) else "")
        + "\n",
        limits_table(result["limits"], table),
    ]
    rows = [row for row in result["rows"] if "fastrnn" in row["us"]]
    for threads in sorted({row["threads"] for row in rows}):
        for mode in MODES:
            these = [r for r in rows if r["mode"] == mode and r["threads"] == threads]
            if these:
                plural = "" if threads == 1 else "s"
                parts.append(f"### {mode}, {threads} thread{plural}\n")
                parts.append(mode_table(these, table))
                parts.append(summary(these, table))
    asked = [row for row in rows if "slices" in row]
    if asked:
        troubled, slices = (sum(row[name] for row in asked) for name in ("troubled", "slices"))
        parts.append(
            f"Of {slices:,} slices of {len(asked)} rows {troubled:,} were taken while the cores "
            "were not two whole ones side by side (bench/cores.py), after waiting in vain.\n"
        )
    reasons = {}
    for row in result["rows"]:
        for name, why in row["blank"].items():
            reasons.setdefault(f"{name}: {why}", []).append(label(row))
    if reasons:
        parts.append("### Left blank\n")
        parts += [
            f"- {why} ({len(set(w))} cases, first: {w[0]})" for why, w in sorted(reasons.items())
        ]
    return "\n".join(parts).rstrip() + "\n"


def limits_table(machine, table):
    threads = sorted(machine["fma_gflops"])
    rows = [("multiply-adds, GFLOP/s", *(machine["fma_gflops"][n]["median"] for n in threads))]
    for level, found in machine["read_gbps"].items():
        rows.append((f"reading {level}, GB/s", *(found[n]["median"] for n in threads)))
    rows.append(("dependent multiply-add, ns", *[machine["fma_ns"]["median"]] * len(threads)))
    if "barrier_ns" in machine:
        rows.append(("barrier of two threads, ns", "", machine["barrier_ns"]["median"]))
    return table(["this machine", *(f"{n} thr." for n in threads)], rows)


def mode_table(rows, table):
    peers = [name for name in PACKAGES if name != "fastrnn" and any(name in r["us"] for r in rows)]
    moments = any("of_moment" in row for row in rows)
    cells = []
    for row in rows:
        ours = row["us"]["fastrnn"]
        counts = "of_moment" in row and row["limit"]["bound"] == "arithmetic"
        times = [micro(row["us"][name]["median"]) if name in row["us"] else "" for name in peers]
        times = [
            f"**{t}**" if n == row.get("best") else t for n, t in zip(peers, times, strict=True)
        ]
        cells.append(
            (
                label(row),
                f"{micro(ours['median'])} ({micro(ours['low'])} to {micro(ours['high'])})",
                *times,
                f"{row['ratio']:.2f}" if "ratio" in row else "",
                f"{row['of_limit']:.0%} {row['limit']['bound']}",
                *([f"{row['of_moment']:.0%}" if counts else ""] if moments else []),
            )
        )
    last = ["of the moment"] if moments else []
    return table(["work, T B I H", "fastrnn", *peers, "ratio", "of limit", *last], cells)


def summary(rows, table):
    """The least ratio and the geometric mean by size and cell."""
    sizes = (
        ("H <= 64", lambda B, H: H <= 64),
        ("B = 1, 64 < H <= 256", lambda B, H: B == 1 and 64 < H <= 256),
        ("B > 1, 64 < H <= 256", lambda B, H: B > 1 and 64 < H <= 256),
        ("H > 256", lambda B, H: H > 256),
        ("all", lambda B, H: True),
    )
    cells = []
    for size, has in sizes:
        for cell in (*GATES, "all"):
            ratios = [
                row["ratio"]
                for row in rows
                if "ratio" in row
                and cell in (row["cell"], "all")
                and has(row["shape"][1], row["shape"][3])
            ]
            if ratios and (cell != "all" or size == "all"):
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                cells.append((f"{size}, {cell}", len(ratios), f"{min(ratios):.2f}", f"{mean:.2f}"))
    return table(["ratio to the best peer", "rows", "least", "geometric mean"], cells)


def finish(result, options):
    """Print or plot what was asked for; return the Markdown text."""
    markdown = report(result)
    if options.only_report:
        print(markdown, end="")
    if options.plot:
        from plots import draw

        draw(result, options.plot)
        print(f"written: {options.plot}")
    return markdown


# ---- command line


def names_of(allowed):
    def parse(text):
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"expected some of {','.join(allowed)}: {name!r}")
        return names

    return parse


def one_shape(text):
    try:
        shape = tuple(map(int, text.split(",")))
    except ValueError:
        shape = ()
    if len(shape) != 4 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected T,B,I,H, four sizes of at least 1: {text!r}")
    return shape


def thread_counts(text):
    try:
        counts = sorted(set(map(int, text.split(","))))
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, like 1,2: {text!r}")
    return counts


def arguments():
    peers = tuple(name for name in PACKAGES if name != "fastrnn")
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/peers.py --grid small --peers torch,onnxruntime --threads 2",
    )
    add = parser.add_argument
    add("--peers", type=names_of(peers), default=peers, help=f"of {','.join(peers)}; default: all")
    add("--grid", choices=("small", "large", "all"), default="all", help="which shapes (all)")
    add("--shape", type=one_shape, nargs="+", action="extend", metavar="T,B,I,H", help="your own")
    add("--drawn", type=int, metavar="COUNT", help="so many shapes drawn from the grid's range")
    add("--seed", type=int, default=0, help="of --drawn (0)")
    add("--cells", type=names_of(tuple(GATES)), default=tuple(GATES), help="of rnn,lstm,gru")
    add("--modes", type=names_of(MODES), default=MODES, help="of infer,train,stream")
    add("--threads", type=thread_counts, default=[1, 2], help="of all alike; default 1,2")
    add(
        "--no-variants",
        dest="variants",
        action="store_false",
        help="one layer, float32, not ragged",
    )
    add(
        "--match",
        default="",
        metavar="TEXT",
        help="only cases whose label has it, like 'ragged' or '2 layers|float64'",
    )
    add("--rounds", type=int, default=11, help="slices of each contender (11)")
    add("--slice", type=float, default=0.03, help="seconds of a slice (0.03)")
    add("--seconds", type=float, default=60, help="of a case: fewer rounds, at least 5 (60)")
    add(
        "--patience",
        type=float,
        default=1200,
        help="on Linux with two processors: seconds to wait in all for two whole cores side by "
        "side (1200); 0: do not look",
    )
    add("--name", default="peers", help="of the result files (peers)")
    add("--limits", type=Path, metavar="FILE.json", help="of an earlier run instead of new ones")
    add(
        "--again",
        type=Path,
        metavar="FILE.json",
        help="only the unsteady cases of an earlier run; the steadier of both stays",
    )
    add("--plot", type=Path, metavar="FILE.svg", help="draw ratios and shares of the limit")
    add("--only-report", type=Path, metavar="FILE.json", help="of an earlier run; nothing is timed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
