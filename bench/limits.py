"""What a machine can do at most, measured, and what that means for one piece of work.

What it is: runs ``bench/c/limits.c`` and models the least time a case can take.
What it is not: a bound in the mathematical sense; it says what hardware of this kind has to give.

The least time is the largest of three, each of which could be alone:

- arithmetic: flops over the measured peak of multiply-adds;
- weights: their bytes over the read bandwidth of the level of cache that holds them. The recurrent
  weights are read in every step (in training once more, on the way back), the input weights once:
  their product is the same for all steps;
- the serial chain: a step cannot start before the one before it has ended. Its length is counted in
  dependent multiply-adds (``CHAIN``); where a step is split over threads, a barrier is added.

Several threads may share the units of a step (they wait for each other in every step, and each
reads its own part of the weights), share the rows of a batch (no waiting, all read all the
weights), take a direction each, or be left unused: the plan with the least time counts.
"""

import json
import subprocess
from pathlib import Path

from grid import GATES

ROOT = Path(__file__).parents[1]

# Dependent multiply-adds of one step: the end of a product and its bias, 2; tanh or the logistic
# function 12 (reduction of the range 2, a polynomial of degree 6, scaling 1, a division 3); LSTM's
# gates, c and tanh(c) follow each other, and so do GRU's r and n; the arithmetic between them, 3.
CHAIN = {"rnn": 2 + 12, "lstm": 2 + 12 + 12 + 3, "gru": 2 + 12 + 12 + 3}
# On the way back nothing is transcendental: the product, dh, then dc, the gate's gradient.
CHAIN_BACK = {"rnn": 2 + 2, "lstm": 2 + 5, "gru": 2 + 5}


def measure(rounds=9):
    """Compile and run the C program; return its figures as a dict."""
    command = ["make", "-s", "-C", ROOT / "csrc", "limits", f"ARGS=--rounds {rounds}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def best(found):
    """Of several results of `measure`, the best of each figure: what it did once, it can do."""
    kept = {}
    for key, value in found[0].items():
        figures = [machine[key] for machine in found]
        if key == "cache_bytes":
            kept[key] = value
        elif "median" in value:
            choose = min if key.endswith("_ns") else max
            kept[key] = choose(figures, key=lambda figure: figure["median"])
        else:
            kept[key] = best(figures)
    return kept


def flops(case):
    """Multiply-adds of the products, counted as two: forward, and three times that for training.

    Tokens take their row of the input weights; no arithmetic is needed for it.
    """
    total = 0
    for layer in range(case.layers):
        inputs = case.directions * case.H if layer else 0 if case.tokens else case.I
        total += 2 * case.row_steps * GATES[case.cell] * case.H * (inputs + case.H)
    total *= case.directions
    return total * 3 if case.mode == "train" else total


def least_us(case, threads, machine):
    """Model the least time of a case in microseconds.

    Parameters
    ----------
    case : grid.Case
    threads : int
    machine : dict
        From `measure`.

    Returns
    -------
    dict
        ``us``, and ``bound``: which of ``arithmetic``, ``weights`` and ``chain`` it is.
    """
    threads = min(threads, max(map(int, machine["fma_gflops"])))  # measured for one and two
    plans = [_plan(case, 1, machine, 1, 0)]
    if threads > 1:
        barrier = machine.get("barrier_ns", {"median": 0})["median"]
        plans.append(_plan(case, threads, machine, threads, barrier))
        if case.B >= threads:
            plans.append(_plan(case, threads, machine, 1, 0))
        if case.directions >= threads:  # a direction each
            plans.append(_plan(case, threads, machine, threads, 0))
    best = min(plans, key=lambda plan: max(plan.values()))
    bound = max(best, key=best.get)
    return {"us": best[bound], "bound": bound}


def _plan(case, threads, machine, parts, barrier_ns):
    """Three times in us, where the weights are cut into `parts`, one for each thread."""
    size = 4 if case.dtype == "float32" else 8
    peak = machine["fma_gflops"][str(threads)]["median"] * 4 / size
    passes = 2 if case.mode == "train" else 1
    steps = case.T * case.layers * passes

    recurrent = GATES[case.cell] * case.H * case.H * size * case.directions
    inputs = 0
    for layer in range(case.layers):
        columns = case.directions * case.H if layer else 0 if case.tokens else case.I
        inputs += GATES[case.cell] * case.H * columns * size * case.directions
    level = _level(recurrent // case.directions // parts, threads, machine)
    bandwidth = machine["read_gbps"][level][str(threads)]["median"]
    copies = threads // parts  # how often all threads together read every weight
    weights = (recurrent * steps + inputs * passes) * copies / bandwidth

    links = CHAIN[case.cell] + (CHAIN_BACK[case.cell] if passes == 2 else 0)
    chain = case.T * case.layers * links * machine["fma_ns"]["median"] + steps * barrier_ns
    return {
        "arithmetic": flops(case) / peak * 1e-3,
        "weights": weights * 1e-3,
        "chain": chain * 1e-3,
    }


def _level(size, threads, machine):
    """The first level that holds `size` bytes for each thread; L3 is shared."""
    caches = machine["cache_bytes"]
    for level, share in (("L1", size), ("L2", size), ("L3", size * threads)):
        if share <= caches[level]:
            return level
    return "DRAM"
