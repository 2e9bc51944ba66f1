"""A training that goes on: from a file, after Ctrl-C, with its schedule, bit for bit."""

import json
import math
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.callbacks import (
    Checkpoints,
)
from fastrnn.checkpoint import read_tensors, write_tensors
from fastrnn.data import Streams, Whole
from fastrnn.resume import last_path, load_training, save_training
from fastrnn.schedules import Constant, CosineWithWarmup, ReduceOnPlateau, StepLR
from fastrnn.training import Callback, Interrupted, NonFiniteError, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from trainings import (
    IDS,
    LAYERS,
    OPTIMIZERS,
    At,
    Chunks,
    assert_same,
    comparable,
    diverging,
    load,
    make,
    streams,
    through_a_file,
    whole,
)

# Going on, bit for bit


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_resumed_training_equals_an_unbroken_one_bit_for_bit(cell, optimizer, tmp_path):
    options = {"cell": cell, "optimizer": optimizer}
    unbroken = make(**options)
    unbroken.fit(streams(), whole(), steps=54)
    first = make(**options)
    first.fit(streams(), whole(), steps=27)
    second = through_a_file(first, tmp_path / "t.safetensors", **options)
    second.fit(streams(), whole(), steps=54)
    assert_same(unbroken, second)


@pytest.mark.parametrize("stop", [1, 19, 20, 21, 40])
def test_it_does_not_matter_where_in_an_epoch_it_stopped(stop, tmp_path):
    unbroken = make()
    rows = unbroken.fit(streams(), whole(), epochs=3)
    first = make()
    first.fit(streams(), whole(), steps=stop)
    second = through_a_file(first, tmp_path / "t.safetensors")
    again = second.fit(streams(), whole(), epochs=3)
    assert_same(unbroken, second)
    for key in ("epoch", "step", "train_loss", "val_loss"):
        assert rows[-1][key] == again[-1][key], key


def test_stopping_at_every_single_step_changes_nothing(tmp_path):
    unbroken = make()
    unbroken.fit(streams(), steps=25)
    trainer = make()
    for step in range(1, 26):
        trainer.fit(streams(), steps=step)
        trainer = through_a_file(trainer, tmp_path / "t.safetensors")
    assert_same(unbroken, trainer)


@pytest.mark.parametrize("step", [7, 20, 33])
def test_ctrl_c_finishes_the_step_saves_and_raises_and_the_resumed_run_is_the_same(step, tmp_path):
    unbroken = make()
    unbroken.fit(streams(), whole(), steps=50)
    path = tmp_path / "m.safetensors"
    pressed = At(step, lambda: signal.raise_signal(signal.SIGINT))
    first = make(callbacks=[pressed, Checkpoints(path)])
    with pytest.raises(Interrupted):
        first.fit(streams(), whole(), steps=50)
    assert first.progress.step == step
    second = load(last_path(path))
    second.fit(streams(), whole(), steps=50)
    assert_same(unbroken, second)


def test_ctrl_c_during_validation_stops_and_validates_again_when_resumed():
    class Press(Whole):
        def epoch(self, number):
            signal.raise_signal(signal.SIGINT)
            return super().epoch(number)

    trainer = make()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(streams(), Press(IDS, 4, 5), epochs=1)
    assert (trainer.progress.epoch, trainer.progress.position) == (0, 20)
    assert trainer.evaluate(whole())["loss"] > 0
    rows = trainer.fit(streams(), whole(), epochs=1)
    assert [(r["epoch"], r["step"]) for r in rows] == [(1, 20)]


def test_a_second_ctrl_c_does_not_wait():
    def press_twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    ended = []

    class End(Callback):
        def on_end(self, trainer):
            ended.append(True)

    with pytest.raises(KeyboardInterrupt) as stop:
        make(callbacks=[At(3, press_twice), End()]).fit(streams(), steps=5)
    assert stop.type is not Interrupted
    assert ended == []


def test_the_handler_of_ctrl_c_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    make().fit(streams(), steps=1)
    with pytest.raises(NonFiniteError):
        diverging().fit(streams(), steps=50)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = make(callbacks=[At(3, lambda: signal.raise_signal(signal.SIGINT))])
        trainer.fit(streams(), steps=5)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.progress.step == 5


def test_fitting_works_in_a_thread_that_gets_no_signals():
    trainer, rows = make(), []
    thread = threading.Thread(target=lambda: rows.extend(trainer.fit(streams(), epochs=1)))
    thread.start()
    thread.join()
    assert [r["step"] for r in rows] == [20]


def test_going_on_with_fewer_chunks_than_are_done_is_refused():
    trainer = make()
    trainer.fit(streams(), steps=15)
    before = trainer.state_dict()
    message = r"^data: expected at least the 15 chunks that are done, got 4 in epoch\(0\)"
    with pytest.raises(ValueError, match=message):
        trainer.fit(Streams(IDS[:100], 4, 5), epochs=2)
    np.testing.assert_equal(trainer.state_dict(), before)


def test_a_later_epoch_without_chunks_is_refused_if_it_is_needed():
    class Once(Chunks):
        def epoch(self, number):
            return [] if number else self.chunks

    data = Once(*streams().epoch(0))
    trainer = make()
    assert [row["step"] for row in trainer.fit(data, epochs=1)] == [20]
    message = r"^data: expected at least one chunk, got none in epoch\(1\)"
    with pytest.raises(ValueError, match=message):
        trainer.fit(data, epochs=2)
    assert trainer.progress.step == 20


SCHEDULES = {
    "constant": lambda o: Constant(o, 30),
    "cosine": lambda o: CosineWithWarmup(o, 54, 10),
    "step": lambda o: StepLR(o, 1, 0.5),
    "plateau": lambda o: ReduceOnPlateau(o, 0.5, patience=0, threshold=0.2),
}


def scheduled(kind, **options):
    trainer = make(**options)
    trainer.schedule = SCHEDULES[kind](trainer.optimizer)
    return trainer


@pytest.mark.parametrize("stop", [1, 20, 27, 40])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_resumed_training_has_the_rates_of_an_unbroken_one(kind, stop, tmp_path):
    unbroken = scheduled(kind)
    unbroken.fit(streams(), whole(), steps=54)
    first = scheduled(kind)
    first.fit(streams(), whole(), steps=stop)
    second = through_a_file(first, tmp_path / "t.safetensors", schedule=SCHEDULES[kind])
    second.fit(streams(), whole(), steps=54)
    assert_same(unbroken, second)
    assert comparable(unbroken.history)[-1] == comparable(second.history)[-1]


def test_a_row_has_the_rate_of_its_last_update():
    trainer = scheduled("step")
    assert [r["lr"] for r in trainer.fit(streams(), epochs=3)] == [0.01, 0.005, 0.0025]
    trainer = scheduled("cosine")
    rows = trainer.fit(streams(), epochs=1)
    assert rows[0]["lr"] == pytest.approx(0.005 * (1 + math.cos(math.pi * 9 / 44)))


def test_without_validation_a_plateau_is_one_of_the_training_loss():
    trainer = make()
    trainer.schedule = ReduceOnPlateau(trainer.optimizer, 0.5, patience=0, threshold=0.999)
    assert [r["lr"] for r in trainer.fit(streams(), epochs=3)] == [0.01, 0.01, 0.005]


@pytest.mark.parametrize(
    ("saves", "loads", "message"),
    [
        ("step", None, "schedule: expected the state of no schedule, got that of StepLR"),
        (None, "step", "schedule: expected the state of StepLR, got none"),
        ("step", "cosine", "expected the state of CosineWithWarmup, got that of StepLR"),
    ],
)
def test_the_state_of_another_schedule_is_refused(saves, loads, message):
    one, other = (scheduled(kind) if kind else make() for kind in (saves, loads))
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())


def test_the_random_state_of_a_model_is_saved_and_loaded(tmp_path):
    class Model(fr.Linear):
        random_state = None

        def load_random_state(self, state):
            self.random_state = state

    model = Model(2, 2, seed=0)
    model.random_state = [7, 0, 2**60]
    save_training(Trainer(model, fr.optim.SGD(model)), tmp_path / "t.safetensors")
    saved = load_training(tmp_path / "t.safetensors")
    Trainer(saved.model, fr.optim.SGD(saved.model)).load_state_dict(saved.trainer)
    assert saved.model.random_state == [7, 0, 2**60]


def test_a_training_file_without_options_is_an_error_that_names_the_path(tmp_path):
    path = tmp_path / "training"
    save_training(make(), path)
    tensors, metadata = read_tensors(path)
    content = json.loads(metadata["content"])
    del content["options"]
    write_tensors(path, tensors, metadata | {"content": json.dumps(content)})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: cannot build the training"):
        load_training(path)


def test_a_state_taken_from_a_trainer_does_not_change_with_it():
    trainer = make()
    trainer.fit(streams(), whole(), epochs=1)
    saved = trainer.state_dict()
    trainer.fit(streams(), whole(), epochs=2)
    assert len(saved["history"]) == 1


def test_the_state_that_a_file_carries_on_has_the_shape_it_had(tmp_path):
    def shape(tree):
        return tuple(map(shape, tree)) if isinstance(tree, tuple) else type(tree)

    trainer = make()
    trainer.fit(streams(), steps=7)
    save_training(trainer, tmp_path / "training")
    saved = load_training(tmp_path / "training").trainer["state"]
    assert shape(saved) == shape(trainer.state)
