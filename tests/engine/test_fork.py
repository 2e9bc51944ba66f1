"""A process that has used the engine forks: parent and child both go on.

What it is: the child has none of the parent's threads and starts its own. What it is not: threads
inside one process (test_threads.py).
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, build, identical, inputs, threads, train

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # From Python 3.12 on: forking is risky where other threads hold locks. Ours do not.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
T, B, I, H = SPLITS["rows"]
PATIENCE = 60  # seconds, for a child that would otherwise hang the tests


def in_child(job):
    """Exit status of a child in which `job` returns whether all is well: 0 if so."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(PATIENCE)
            status = 0 if job() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_child_computes_the_same_and_so_does_the_parent_afterwards(cell, count):
    layer = build(cell, I, H)
    given = inputs(layer, T, B)
    with threads(count):
        expected = train(layer, *given)
        assert in_child(lambda: identical(train(layer, *given), expected)) == 0
        assert identical(train(layer, *given), expected)


def test_a_child_may_use_more_or_fewer_threads_than_its_parent():
    layer = build("gru", I, H)
    given = inputs(layer, T, B)
    expected = {}
    for count in (1, 2, 5):
        with threads(count):
            expected[count] = train(layer, *given)

    def job():
        for count in (5, 1, 2):
            fr.set_num_threads(count)
            if not identical(train(layer, *given), expected[count]):
                return False
        return True

    with threads(2):
        train(layer, *given)
        assert in_child(job) == 0
        assert fr.get_num_threads() == 2


def test_a_child_of_a_child_computes_the_same():
    layer = build("lstm", I, H)
    given = inputs(layer, T, B)
    with threads(2):
        expected = train(layer, *given)

        def job():
            same = identical(train(layer, *given), expected)
            return same and in_child(lambda: identical(train(layer, *given), expected)) == 0

        assert in_child(job) == 0


def test_a_tape_made_before_the_fork_runs_backward_in_both():
    layer = build("gru_before", I, H)
    x, state, dy, dstate = inputs(layer, T, B)
    with threads(2):
        _, _, tape = layer.forward(x, state)
        expected = build("gru_before", I, H).forward(x, state)[2].backward(dy, dstate)
        assert in_child(lambda: identical(tape.backward(dy, dstate), expected)) == 0
        assert identical(tape.backward(dy, dstate), expected)


def test_a_fork_while_another_thread_computes_leaves_a_child_that_works():
    layer, other = build("lstm", I, H), build("lstm", I, H)
    given = inputs(layer, T, B)
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            other(given[0])

    with threads(2):
        expected = train(layer, *given)
        busy = threading.Thread(target=compute)
        busy.start()
        try:
            for _ in range(10):
                time.sleep(0.003)  # another moment of the other thread's work
                assert in_child(lambda: identical(train(layer, *given), expected)) == 0
        finally:
            stop.set()
            busy.join()
        assert identical(train(layer, *given), expected)


def run_layer(seed):
    layer = build("gru", I, H, seed=seed)
    return train(layer, *inputs(layer, T, B))


def test_workers_of_multiprocessing_compute_the_same():
    with threads(2):
        expected = [run_layer(seed) for seed in range(4)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            results = pool.map_async(run_layer, range(4)).get(PATIENCE)
    for result, alone in zip(results, expected, strict=True):
        assert identical(result, alone)


def test_many_children_one_after_the_other_all_exit_cleanly():
    layer = build("rnn_tanh", I, H)
    x, *_ = inputs(layer, T, B)
    with threads(3):
        y, _ = layer(x)
        for _ in range(20):
            assert in_child(lambda: np.array_equal(layer(x)[0], y)) == 0
