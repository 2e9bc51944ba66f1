"""Kill a training at random moments, go on each time, and compare with one that was never killed.

    python tests/kill_and_resume.py --kills 20 --seed 0

It runs ``fastrnn train`` as a process of its own, sends it SIGKILL, which nobody can catch, after a
random time, and resumes. A training that comes to its end is compared with the unbroken one: every
weight of the last and of the best model, everything the optimizer and the schedule remember, and
the rows of the log must be equal, exactly. Then the next training begins, until there were as many
kills as asked for. Saves follow one another closely, so that kills also hit them.

Exit code 0 if all were equal. `test_kill_and_resume.py` does a few kills of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import fastrnn as fr
from fastrnn.models import CharLM  # noqa: F401  the files name this class
from fastrnn.resume import load_training

TEXT = "".join(f"{n} bottles of beer on the wall, {n} bottles of beer. " for n in range(400))
OPTIONS = """--cell gru --hidden 24 --layers 2 --embed 8 --seq-len 10 --batch-size 16
    --schedule cosine --warmup 20 --patience 30 --save-every 0.01""".split()
CLOCK = ("seconds", "tokens_per_s", "epoch_seconds")


def main(argv=None) -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dropout", type=float, default=0.2, help="of the model")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), args.kills, random.Random(args.seed), args.dropout)


def compare(folder: Path, kills: int, rng, dropout: float = 0.2, epochs: int = 12) -> int:
    """Do as the module says in an empty folder."""
    options = [*OPTIONS, "--dropout", str(dropout), "--epochs", str(epochs)]
    unbroken = Run(folder / "unbroken", options)
    seconds = unbroken.go()
    startup = unbroken.go()  # there is nothing left to do
    expected = unbroken.result()
    print(
        f"unbroken: {seconds:.1f} s, of which {startup:.1f} s to start, "
        f"{expected['progress']['step']:,} steps",
        flush=True,
    )
    killed = trainings = 0
    moments = Counter()
    while killed < kills:
        trainings += 1
        run, before = Run(folder / str(trainings), options), killed
        while True:
            # Mostly after the start, or it would never come to its end.
            moment = rng.uniform(0.5 * startup, startup + 0.6 * max(0.1, seconds - startup))
            took = run.go(moment if killed < kills else None)
            if took is not None:
                break
            killed += 1
            moments[run.where()] += 1
        if killed == before:  # the machine has become faster, and no kill came in time
            seconds = took
        differing = run.differences(expected)
        print(
            f"training {trainings}: {killed} kills so far; "
            + ("equal" if not differing else f"DIFFERENT in {', '.join(differing)}"),
            flush=True,
        )
        if differing:
            return 1
    print(f"{killed} kills in {trainings} trainings, each equal to the unbroken one, bit for bit")
    print("killed " + ", ".join(f"{where}: {n}" for where, n in sorted(moments.items())))
    return 0


class Run:
    """One training in a folder of its own, of one process or of many."""

    def __init__(self, folder: Path, options: list[str]):
        self.folder, self.options = folder, options
        folder.mkdir()
        (folder / "text.txt").write_text(TEXT)

    def go(self, seconds: float | None = None) -> float | None:
        """Begin or resume; return the time it took, or None if it was killed after `seconds`."""
        resume = (self.folder / "model.last.safetensors").exists()
        what = ["--resume"] if resume else ["text.txt", *self.options, "--log", "log.jsonl"]
        program = [sys.executable, "-m", "fastrnn", "train", *what]
        begun = time.monotonic()
        # The same number of threads in every run: a sum split elsewhere rounds otherwise.
        process = subprocess.Popen(
            program,
            cwd=self.folder,
            env={**os.environ, "FASTRNN_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
        if process.returncode:
            raise RuntimeError(f"{' '.join(program)}: {err.decode()}")
        return time.monotonic() - begun

    def where(self) -> str:
        """Return in which part of its work a kill has hit the training."""
        if any(name.endswith(".tmp") for name in os.listdir(self.folder)):
            return "while saving"
        last = (self.folder / "model.last.safetensors").exists()
        return "between saves" if last else "before the first save"

    def result(self) -> dict:
        """Return all that must be equal."""
        saved = load_training(self.folder / "model.last.safetensors")
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        return without_clock(
            {
                "weights": saved.model.state_dict(),
                "best": fr.load(self.folder / "model.safetensors").state_dict(),
                **saved.trainer,
                "log": [json.loads(line) for line in lines],
                "files": sorted(os.listdir(self.folder)),
            }
        )

    def differences(self, expected: dict) -> list[str]:
        """Return the names of what is not equal."""
        mine = self.result()
        return [name for name in mine if not equal(mine[name], expected[name])]


def without_clock(tree):
    """Return a tree of dicts and lists without the entries that no two runs share."""
    if isinstance(tree, dict):
        return {k: without_clock(v) for k, v in tree.items() if k not in CLOCK}
    return [without_clock(v) for v in tree] if isinstance(tree, (list, tuple)) else tree


def equal(a, b) -> bool:
    """Whether two trees have the same bits everywhere."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


if __name__ == "__main__":
    sys.exit(main())
