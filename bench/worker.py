"""One contender in a process of its own, which works only when asked: see ``peers.py``.

Requests come a line each on standard input, answers go back as JSON on standard output:

    hello                 {"versions": ...}
    prepare FOLDER        builds the case of FOLDER/case.json, calls each way of doing it and writes
                          the results of each to FOLDER/NAME.WAY.npz
                          {"ways": [names]} or {"blank": reason}
    choose WAYS           calls those ways by number, keeps the fastest: {"way": name, "us": time}
    time REPEATS          {"us": mean of that many calls}
    drop                  frees the case: {}
"""

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

STREAM_STEPS = 5  # whose results are compared
WARM_BELOW = 0.1  # seconds: a longer call wakes caches and threads by itself


def main():
    name, threads, here = sys.argv[1], int(sys.argv[2]), str(Path(__file__).parent)
    # Answers must be alone on standard output, whatever a library prints there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(f"contenders.{name}")
        worker = Worker(name, module.Contender(threads))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return
    for line in sys.stdin:
        request, *arguments = line.rstrip("\n").split(" ", 1)
        print(json.dumps(getattr(worker, request)(*arguments)), file=answers, flush=True)


class Worker:
    def __init__(self, name, contender):
        self.name, self.contender, self.calls = name, contender, []

    def hello(self):
        return {"versions": self.contender.versions()}

    def prepare(self, folder):
        from contenders import CannotDo
        from grid import Case

        self.drop()
        case = Case(**json.loads(Path(folder, "case.json").read_text()))
        with np.load(Path(folder, "case.npz")) as stored:
            data = dict(stored)
        try:
            for k, (way, call) in enumerate(self.contender.ways(case, data)):
                steps = STREAM_STEPS if case.mode == "stream" else 1
                # A copy: some return their own memory, which the next step overwrites.
                results = [
                    {n: np.array(v) for n, v in self.contender.result(call()).items()}
                    for _ in range(steps)
                ]
                joined = {n: np.concatenate([r[n] for r in results]) for n in results[0]}
                np.savez(Path(folder, f"{self.name}.{k}.npz"), **joined)
                self.calls.append((way, call))
        except CannotDo as reason:
            self.drop()
            return {"blank": str(reason)}
        except Exception as error:  # a library's own failure is a result too
            self.drop()
            return {"blank": f"{type(error).__name__}: {error}"[:300]}
        return {"ways": [way for way, _ in self.calls]}

    def choose(self, numbers):
        calls = [self.calls[int(k)] for k in numbers.split()]
        times = [_seconds(call) for _, call in calls]
        fastest = int(np.argmin(times))
        self.calls = [calls[fastest]]
        return {"way": calls[fastest][0], "us": times[fastest] * 1e6}

    def time(self, repeats):
        repeats, call = int(repeats), self.calls[0][1]
        if not self._long:
            call()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        took = (time.perf_counter() - start) / repeats
        self._long = took > WARM_BELOW
        return {"us": took * 1e6}

    def drop(self):
        self.calls, self._long = [], False
        gc.collect()
        return {}


def _seconds(call, at_least=0.03):
    """A first estimate: the fastest call of a few."""
    call()
    times, end = [], time.perf_counter() + at_least
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
