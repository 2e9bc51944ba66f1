"""Whether the two cores of this machine are two whole cores, side by side, at the moment.

What it is: asks ``bench/c/cores.c`` between slices of time, so that a benchmark of two threads can
take a slice again that was taken while they were not.
What it is not: a judgement on a result. Nothing is known of a slice's time when it is taken again.

A virtual machine's processors are two threads of its host, which moves them about and gives their
cores to others, too. For seconds or minutes both are one core's hardware threads: together they do
then what one does, and every library is as fast with two threads as with one. Or they share no
third-level cache, and whoever lets threads meet often is slower with two.
"""

import json
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHOLE = 0.9  # of the best rate that a core was seen at, while the other is at work, too
NEAR = 2.5  # times the shortest way there and back, of whole cores
FIRST_CHECKS, SLEEP = 40, 0.02


class Cores:
    """The state of two cores.

    Parameters
    ----------
    patience : float
        Seconds to wait for them altogether; afterwards, everything is taken as it comes.

    Attributes
    ----------
    patience : float
        What is left of them.
    """

    def __init__(self, patience):
        self.patience = patience
        subprocess.run(["make", "-s", "-C", ROOT / "csrc", "cores"], check=True)
        self.process = subprocess.Popen(
            [ROOT / "csrc" / "build" / "plain" / "cores"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        states = []
        for _ in range(FIRST_CHECKS):
            states.append(self.state())
            time.sleep(SLEEP)
        self.best = max(max(state["gflops"]) for state in states)
        near = [s["there_and_back_ns"] for s in states if self._at_full_rate(s)]
        self.shortest = min(near, default=float("inf"))

    def state(self):
        """What each core does while both are at work, and the time of a line there and back."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def _at_full_rate(self, state):
        return min(state["gflops"]) >= WHOLE * self.best

    def are_whole(self):
        """Ask once: whether both are at their full rate, and near each other."""
        state = self.state()
        self.best = max(self.best, *state["gflops"])
        if not self._at_full_rate(state):
            return False
        self.shortest = min(self.shortest, state["there_and_back_ns"])
        return state["there_and_back_ns"] <= NEAR * self.shortest

    def take(self, measure):
        """Call `measure` until the cores were whole before and after it, while patience lasts.

        Returns
        -------
        tuple
            The last result of `measure`, and whether the cores were whole.
        """
        while True:
            start = time.monotonic()
            whole = self.are_whole()
            while not whole and self.patience > 0:
                time.sleep(SLEEP)
                whole = self.are_whole()
                self.patience -= time.monotonic() - start
                start = time.monotonic()
            result = measure()
            whole = self.are_whole() and whole
            if whole or self.patience <= 0:
                return result, whole
            self.patience -= time.monotonic() - start

    def close(self):
        self.process.stdin.close()
        self.process.wait()
