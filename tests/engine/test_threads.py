"""Several Python threads in the engine at once, and the engine's own threads.

What it is: each result is, bit for bit, the one that a call alone would have given; idle threads
cost nothing. What it is not: runs one after the other (test_determinism.py), fork (test_fork.py).
"""

import itertools
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import _core

sys.path.insert(0, str(Path(__file__).parent))
from cells import CELLS, SPLITS, STACK, build, identical, inputs, near, python, threads, train

T, B, I, H = SPLITS["rows"]
each_cell = pytest.mark.parametrize("cell", CELLS)
on_threads = pytest.mark.parametrize("count", [1, 3])


def together(*jobs):
    """Run the jobs at the same time, each in its own Python thread; return their results."""
    results, errors = [None] * len(jobs), []
    gate = threading.Barrier(len(jobs))

    def run(i):
        try:
            gate.wait()
            results[i] = jobs[i]()
        except BaseException as error:
            errors.append(error)
            gate.abort()

    running = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return results


def repeated(job, times=4):
    return lambda: [job() for _ in range(times)]


@on_threads
@each_cell
def test_one_layer_serves_several_python_threads(cell, count):
    layer = build(cell, I, H)
    given = [inputs(layer, T, B + i, seed=i)[:2] for i in range(4)]
    with threads(count):
        expected = [layer(*x_and_state) for x_and_state in given]
        fresh = build(cell, I, H)  # its weights are packed under the eyes of all
        jobs = [repeated(lambda g=g: fresh(*g)) for g in given]
        for results, alone in zip(together(*jobs), expected, strict=True):
            assert all(identical(result, alone) for result in results)


@on_threads
@pytest.mark.parametrize("depth", [{}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
def test_one_layer_serves_floats_and_tokens_inference_and_training_at_once(depth, count):
    layer = build("lstm", I, H, **depth)
    x, state, *_ = inputs(layer, T, B)
    ids, *_ = inputs(layer, T, B, tokens=True)
    with threads(count):
        calls = [
            lambda: layer(x, state),
            lambda: layer(ids, state),
            lambda: layer.forward(x, state)[:2],
            lambda: layer.forward(ids, state)[:2],
        ]
        alone = [call() for call in calls]
        for results, expected in zip(together(*map(repeated, calls)), alone, strict=True):
            assert all(identical(result, expected) for result in results)


@on_threads
@each_cell
def test_several_layers_train_in_several_python_threads(cell, count):
    layers = [build(cell, I, H, seed=i) for i in range(3)]
    given = [inputs(layer, T, B, seed=i) for i, layer in enumerate(layers)]
    with threads(count):
        alone = [train(layer, *g) for layer, g in zip(layers, given, strict=True)]
        jobs = [
            repeated(lambda layer=layer, g=g: train(layer, *g))
            for layer, g in zip(layers, given, strict=True)
        ]
        for results, expected in zip(together(*jobs), alone, strict=True):
            assert all(identical(result, expected) for result in results)


@on_threads
def test_layers_whose_weights_are_set_meanwhile_do_not_disturb_another(count):
    layer, other = build("gru", I, H), build("gru", I, H)
    given = inputs(layer, T, B)
    values = [build("gru", I, H, seed=seed).state_dict() for seed in range(2)]

    def set_weights():
        for i in range(12):
            other.load_state_dict(values[i % 2])
            other(given[0])

    with threads(count):
        alone = train(layer, *given)
        results, _ = together(repeated(lambda: train(layer, *given)), set_weights)
        assert all(identical(result, alone) for result in results)
        assert identical(other(given[0]), build("gru", I, H, seed=1)(given[0]))


@on_threads
def test_streams_of_one_layer_run_in_several_python_threads(count):
    layer = build("lstm", I, H)
    given = [inputs(layer, T, 2, seed=i)[0] for i in range(4)]

    def steps(x):
        stream = layer.stream(2)
        return np.stack([stream.step(x_t) for x_t in x])

    with threads(count):
        alone = [steps(x) for x in given]
        assert identical(together(*(lambda x=x: steps(x) for x in given)), alone)


@on_threads
def test_products_run_in_several_python_threads(count):
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((90, 80)), rng.standard_normal((80, 70))) for _ in range(4)]

    def product(a, b):
        out = np.empty((90, 70))
        _core.matmul(a, b, out)
        return out

    with threads(count):
        alone = [product(a, b) for a, b in pairs]
        jobs = [repeated(lambda a=a, b=b: product(a, b)) for a, b in pairs]
        for results, expected in zip(together(*jobs), alone, strict=True):
            assert all(identical(result, expected) for result in results)


def test_an_error_in_one_python_thread_leaves_the_others_alone():
    layer = build("rnn_tanh", I, H)
    x, state, *_ = inputs(layer, T, B)
    bad = np.full((T, B), I)
    alone = layer(x, state)

    def fail():
        for _ in range(20):
            with pytest.raises(ValueError, match="x: expected token ids"):
                layer(bad)

    with threads(2):
        results, _ = together(repeated(lambda: layer(x, state)), fail)
    assert all(near(result, alone) for result in results)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64])
def test_the_number_of_threads_is_the_one_that_was_set(n):
    with threads(n):
        assert fr.get_num_threads() == fr.show_config()["num_threads"] == n


@pytest.mark.parametrize("n", [0, -1, 65, 2**40])
def test_a_number_of_threads_out_of_range_is_refused_and_nothing_changes(n):
    before = fr.get_num_threads()
    with pytest.raises(ValueError, match=f"n: expected 1 to 64 threads, got {n}"):
        fr.set_num_threads(n)
    assert fr.get_num_threads() == before


@pytest.mark.parametrize("n", ["2", None, 1.5])
def test_a_number_of_threads_that_is_no_small_integer_is_refused(n):
    before = fr.get_num_threads()
    with pytest.raises(TypeError, match=f"^n: expected an integer, got {type(n).__name__}$"):
        fr.set_num_threads(n)
    assert fr.get_num_threads() == before


@each_cell
def test_the_number_of_threads_may_go_up_and_down_between_calls(cell):
    layer = build(cell, I, H, dtype="float64")
    given = inputs(layer, T, B)
    expected = {}
    for n in (1, 2, 5, 3, 1, 5, 2, 3):
        with threads(n):
            result = train(layer, *given)
        assert identical(result, expected.setdefault(n, result))
        assert near(result, expected[1])


def test_a_stream_goes_on_when_more_threads_are_allowed():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cells import *
with threads(1):
    layer = build("lstm", 64, 512)
    x, *_ = inputs(layer, 30, 64)
    stream = layer.stream(64)
with threads(16):
    assert near(np.stack([stream.step(x_t) for x_t in x]), layer(x)[0])
del stream
print("done")
"""
    run = python(code)  # elsewhere: it has been seen to write past the end of a buffer
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("split", SPLITS)
@each_cell
def test_a_call_is_the_same_whether_the_other_threads_take_part_or_sleep(cell, split, count):
    T, B, I, H = SPLITS[split]
    layer = build(cell, I, H)
    given = inputs(layer, T, B)
    with threads(count):
        time.sleep(0.02)  # the others go to sleep, and are not woken for one short call
        alone = layer(*given[:2])
        for _ in range(100):  # calls close together wake them
            assert identical(layer(*given[:2]), alone)
        together = train(layer, *given)
        time.sleep(0.02)
        assert identical(train(layer, *given), together)


def test_the_plan_that_is_tested_works_ahead():
    T, B, I, H = SPLITS["ahead"]
    with threads(2):
        assert build("lstm", I, H)._engine.plan(T, B)["ahead"]


def test_a_call_after_a_pause_wakes_no_thread_if_it_is_short():
    layer = build("lstm", 10, 25)
    with threads(2):
        for backward in (False, True):
            assert layer._engine.plan(5, 32, backward=backward)["offered"]
    large = build("lstm", 300, 300)
    with threads(2):
        for backward in (False, True):
            assert not large._engine.plan(50, 32, backward=backward)["offered"]


def test_a_long_call_of_short_steps_is_timed_and_wakes_threads():
    # How long "short" is depends on the instruction set and the machine's caches.
    layers = [build("rnn_tanh", size, size) for size in range(40, 168, 8)]
    large = build("gru", 300, 300)
    with threads(2):
        plans = [layer._engine.plan(5000, 1, backward=True) for layer in layers]
        assert any(plan["units"] == 2 and plan["timed"] and not plan["offered"] for plan in plans)
        assert not large._engine.plan(5000, 1, backward=True)["timed"]


def test_more_threads_than_rows_and_units_do_no_harm():
    layer = build("gru", 3, 2)
    given = inputs(layer, 5, 1)
    with threads(1):
        alone = train(layer, *given)
    with threads(64):
        assert identical(train(layer, *given), alone)


def test_idle_threads_sleep():
    layer = build("lstm", I, H)
    x, *_ = inputs(layer, T, B)
    with threads(3):
        assert layer._engine.plan(T, B)["threads"] == 3
        layer(x)
        time.sleep(0.05)  # they look out for more work for a moment
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.05  # one that spins takes ten times as much
        layer(x)


@pytest.mark.parametrize("cell", [fr.RNN, fr.LSTM, fr.GRU])
def test_a_call_that_keeps_pythons_lock_is_short_and_waits_for_no_thread(cell):
    sizes, counts, brief = (1, 3, 16, 33, 64, 100), (1, 2, 7, 40, 8192), 0
    with threads(64):
        for input_size, hidden_size in itertools.product(sizes, repeat=2):
            engine = cell(input_size, hidden_size)._engine
            for steps, rows, backward in itertools.product(counts, counts, (False, True)):
                plan = engine.plan(steps, rows, backward)
                if plan["brief"]:
                    brief += 1
                    assert steps * rows <= 64
                    assert plan["threads"] == 1 or plan["offered"]
    assert brief > 100


WALKED_TOGETHER = {"one row": (50, 1, 32, 32), "a batch": (9, 34, 20, 70)}


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"dtype": "float64"}], ids=str)
@pytest.mark.parametrize("tokens", [False, True], ids=["x", "tokens"])
@pytest.mark.parametrize("sizes", WALKED_TOGETHER)
@each_cell
def test_directions_with_a_thread_each_give_the_bits_of_one_thread(cell, sizes, tokens, options):
    T, B, I, H = WALKED_TOGETHER[sizes]
    layer = build(cell, I, H, **STACK, **options)
    given = inputs(layer, T, B, tokens=tokens)
    with threads(1):
        expected = train(layer, *given), layer(*given[:2])
    with threads(2):
        for backward in (False, True):
            assert layer._engine.plan(T, B, backward)["together"]
        assert identical((train(layer, *given), layer(*given[:2])), expected)
        time.sleep(0.02)  # the other one sleeps
        assert identical((train(layer, *given), layer(*given[:2])), expected)


@each_cell
def test_directions_with_a_thread_each_know_lengths_resets_and_clipped_steps(cell):
    T, B, I, H = WALKED_TOGETHER["a batch"]
    layer = build(cell, I, H, **STACK)
    x, state, dy, dstate = inputs(layer, T, B)
    rng = np.random.default_rng(2)
    rows = {"lengths": rng.integers(0, T + 1, B), "reset": rng.random((T, B)) < 0.2}

    def step():
        layer.zero_grad()
        y, final, tape = layer.forward(x, state, **rows)
        back = tape.backward(dy, dstate, per_step=True, clip_step=("norm", 0.5))
        steps = back[2]
        return y, final, *back[:2], steps.dh, steps.dc, layer._flat_grad.copy()

    with threads(1):
        expected = step()
    with threads(2):
        assert identical(step(), expected)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("tokens", [False, True], ids=["x", "tokens"])
@each_cell
def test_a_layer_that_follows_another_agrees_with_one_that_waits_for_it(cell, tokens, layers):
    T, B, I, H = WALKED_TOGETHER["one row"]
    layer = build(cell, I, H, num_layers=layers)
    given = inputs(layer, T, B, tokens=tokens)
    with threads(1):
        expected = train(layer, *given)
    with threads(2):
        assert layer._engine.plan(T, B)["together"]
        following = train(layer, *given)
        assert near(following, expected)
        assert identical(layer(*given[:2]), following[: 3 if cell == "lstm" else 2])
        time.sleep(0.02)  # the other thread sleeps
        assert identical(train(layer, *given), following)


@pytest.mark.parametrize("layers", [2, 4, 5])
@on_threads
def test_inference_of_a_deep_stack_reads_no_array_that_is_gone(layers, count):
    layer = build("gru", 8, 48, num_layers=layers)  # a y of 100 KB, as large as packed weights
    x, *_ = inputs(layer, 26, 20)
    ids = inputs(layer, 26, 20, tokens=True)[0]
    with threads(count):
        expected = layer.forward(x)[:2], layer.forward(ids)[:2]  # here the tape keeps all of them
        for _ in range(3):
            assert identical(layer(x.tolist()), expected[0])
            assert identical(layer(np.asfortranarray(x)), expected[0])
            assert identical(layer(ids.astype(np.int32)), expected[1])


def test_layers_with_dropout_between_them_are_walked_one_after_the_other():
    T, B, I, H = WALKED_TOGETHER["one row"]
    results = []
    for n in (1, 2):
        layer = build("gru", I, H, num_layers=2, dropout=0.5)  # with the masks of its seed
        with threads(n):
            results.append(train(layer, *inputs(layer, T, B)))
    assert near(*results)


def test_a_step_of_a_whole_model_lets_layers_follow_as_they_do_by_themselves():
    T, B, I, H = WALKED_TOGETHER["one row"]
    model = fr.Sequential(build("lstm", I, H, num_layers=3), fr.Linear(H, 3, seed=1))
    x = inputs(model.layers[0], T, B)[0]
    targets = np.random.default_rng(3).integers(0, 3, (T, B))
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.0))
    with threads(2):
        assert model.layers[0]._engine.plan(T, B)["together"]
        _, state = step.gradients(x, targets)
        assert identical((step.output, state[0]), (model(x)[0], model.layers[0](x)[1]))


def test_a_step_of_a_whole_model_walks_directions_as_its_layers_do():
    T, B, I, H = WALKED_TOGETHER["one row"]
    model = fr.Sequential(build("lstm", I, H, **STACK), fr.Linear(2 * H, 3, seed=1))
    x = inputs(model.layers[0], T, B)[0]
    targets = np.random.default_rng(3).integers(0, 3, (T, B))
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.0))
    results = []
    for n in (1, 2):
        with threads(n):
            loss, state = step.gradients(x, targets)
            results.append((np.array(loss), state[0], model._flat_grad.copy()))
    assert identical(*results)
