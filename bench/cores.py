"""Whether the two cores of this machine are two whole cores, side by side, at the moment.

What it is: asks ``bench/c/cores.c`` between slices of time, so that a benchmark of two threads can
take a slice again that was taken while they were not.
What it is not: a judgement on a result. Nothing is known of a slice's time when it is taken again.

A virtual machine's processors are two threads of its host, which moves them about and gives their
cores to others, too. For seconds or minutes both are one core's hardware threads: together they do
then what one does, and every library is as fast with two threads as with one. Or they share no
third-level cache, and whoever lets threads meet often is slower with two. Or a neighbour has half
of a core's multipliers, or of its second-level cache.
"""

import bisect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of what a core does while the other is at work, too, when nothing disturbs them:
WHOLE = {"gflops": 0.9, "gbps": 0.85}
NEAR = 2.5  # times the shortest way there and back, of whole cores
FIRST_CHECKS, SLEEP = 40, 0.02


def _ask_the_program():
    subprocess.run(["make", "-s", "-C", ROOT / "csrc", "cores"], check=True)
    return subprocess.Popen(
        [ROOT / "csrc" / "build" / "plain" / "cores"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def there_and_back():
    """Nanoseconds that a line takes from one core to the other and back, now; None elsewhere."""
    if sys.platform != "linux" or os.cpu_count() != 2:
        return None
    answer, _ = _ask_the_program().communicate("\n")
    return json.loads(answer)["there_and_back_ns"]


class Cores:
    """The state of two cores.

    Parameters
    ----------
    patience : float
        Seconds to wait for them altogether; afterwards, everything is taken as it comes.
    machine : dict
        What they can do, from `limits.measure`.

    Attributes
    ----------
    patience : float
        What is left of them.
    gflops : float
        What both did together when they were last asked.
    """

    def __init__(self, patience, machine):
        self.patience = patience
        self.usual = {
            "gflops": machine["fma_gflops"]["2"]["median"] / 2,
            "gbps": machine["read_gbps"]["L2"]["2"]["median"] / 2,
        }
        self.process = _ask_the_program()
        self.shortest = float("inf")
        self.gflops = 0.0
        self.best = {name: [] for name in WHOLE}  # what both did at once, least first
        found = 0
        for _ in range(FIRST_CHECKS):
            found += self.are_whole()
            time.sleep(SLEEP)
        if not found:
            print("the two cores are not whole, or not side by side; waiting for it", flush=True)

    def state(self):
        """What each core does and reads while both are at work, and a line's way there and back."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"cores: the program ended with code {self.process.wait()}")
        return json.loads(answer)

    def are_whole(self):
        """Ask once: whether both are at their full rate, and near each other."""
        state = self.state()
        self.gflops = sum(state["gflops"])
        for name, best in self.best.items():  # the limits may have been measured amid others
            bisect.insort(best, min(state[name]))
            self.usual[name] = max(self.usual[name], best[-1 - len(best) // 10])
        if any(min(state[name]) < WHOLE[name] * usual for name, usual in self.usual.items()):
            return False
        self.shortest = min(self.shortest, state["there_and_back_ns"])
        return state["there_and_back_ns"] <= NEAR * self.shortest

    def take(self, measure):
        """Call `measure` until the cores were whole before and after it, while patience lasts.

        Returns
        -------
        tuple
            The last result of `measure`, whether the cores were whole, and the mean of what both
            did together just before and just after it, in GFLOP/s.
        """
        while True:
            start = time.monotonic()
            whole = self.are_whole()
            while not whole and self.patience > 0:
                time.sleep(SLEEP)
                whole = self.are_whole()
                self.patience -= time.monotonic() - start
                start = time.monotonic()
            before = self.gflops
            result = measure()
            whole = self.are_whole() and whole
            if whole or self.patience <= 0:
                return result, whole, (before + self.gflops) / 2
            self.patience -= time.monotonic() - start
            if self.patience <= 0:
                print("no patience is left: from here on, cores may be in any state", flush=True)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
