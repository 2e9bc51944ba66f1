"""The training loop: what it learns, that it goes on bit for bit, and how it stops."""

import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.callbacks import (
    Checkpoints,
    CSVLog,
    EarlyStopping,
    EpochLog,
    JSONLinesLog,
    ProgressBar,
)
from fastrnn.data import IGNORED, Streams, Whole
from fastrnn.resume import last_path, load_training, save_training
from fastrnn.schedules import Constant, CosineWithWarmup, ReduceOnPlateau, StepLR
from fastrnn.training import Callback, Interrupted, NonFiniteError, Trainer

OPTIMIZERS = {
    "sgd": lambda m: fr.optim.SGD(m, 0.1),
    "momentum": lambda m: fr.optim.SGD(m, 0.05, momentum=0.9),
    "adagrad": lambda m: fr.optim.Adagrad(m, 0.1),
    "rmsprop": lambda m: fr.optim.RMSprop(m, 0.01),
    "adam": lambda m: fr.optim.Adam(m, 0.01),
    "adamw": lambda m: fr.optim.AdamW(m, 0.01),
}
LAYERS = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}
IDS = np.random.default_rng(0).integers(0, 5, 403).cumsum() % 5


def make(cell="lstm", optimizer="adam", **options):
    model = fr.Sequential(LAYERS[cell](5, 6, 2, seed=1), fr.Linear(6, 5, seed=2))
    return Trainer(model, OPTIMIZERS[optimizer](model), clip=1.0, **options)


def streams():
    return Streams(IDS, batch_size=4, seq_len=5, seed=0)  # 20 chunks an epoch


def whole():
    return Whole(IDS[:100], batch_size=4, seq_len=5)


class At(Callback):
    """Do something after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, trainer, loss):
        if trainer.progress.step == self.step:
            self.action()


def assert_same(one, other):
    """Two trainers hold the same bits in everything the next step depends on."""
    for name, value in one.model.state_dict().items():
        assert np.array_equal(value, other.model.state_dict()[name]), name
    for name, (a, b) in zip_trees(one.optimizer.state_dict(), other.optimizer.state_dict()):
        assert np.array_equal(a, b), name
    for name, (a, b) in zip_trees(one.state, other.state):
        assert np.array_equal(a, b), name


def zip_trees(a, b, name=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            yield from zip_trees(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for key, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from zip_trees(x, y, f"{name}.{key}")
    else:
        yield name, (a, b)


def through_a_file(trainer, path, **options):
    """Return a new trainer that goes on from a file where the given one stood."""
    save_training(trainer, path)
    return load(path, **options)


def load(path, optimizer="adam", cell=None, schedule=None, **options):
    """Return a new trainer from a file."""
    saved = load_training(path)
    optimizer = OPTIMIZERS[optimizer](saved.model)
    if schedule:
        options["schedule"] = schedule(optimizer)
    trainer = Trainer(saved.model, optimizer, clip=1.0, **options)
    trainer.load_state_dict(saved.trainer)
    return trainer


def comparable(rows):
    """Rows without the clock, and without "best": a stop amid an epoch measures once more."""
    left_out = ("seconds", "tokens_per_s", "best")
    return [{k: v for k, v in row.items() if k not in left_out} for row in rows]


# What it does


@pytest.mark.parametrize("cell", LAYERS)
def test_a_pattern_is_learnt(cell):
    model = fr.Sequential(LAYERS[cell](3, 12, seed=0), fr.Linear(12, 3, seed=1))
    trainer = Trainer(model, fr.optim.Adam(model, 0.02), clip=5)
    data = Streams(np.tile([0, 1, 2, 2], 100), batch_size=4, seq_len=8)  # 2 is followed by 2 or 0
    rows = trainer.fit(data, epochs=20)
    assert rows[-1]["train_loss"] < 0.1 < rows[0]["train_loss"]


def test_a_row_says_what_happened_in_its_epoch():
    trainer = make()
    rows = trainer.fit(streams(), whole(), epochs=3)
    assert [(r["epoch"], r["step"]) for r in rows] == [(1, 20), (2, 40), (3, 60)]
    assert rows[-1]["val_loss"] == trainer.evaluate(whole())["loss"]
    assert [r["best"] for r in rows] == [
        r["val_loss"] == min(s["val_loss"] for s in rows[: k + 1]) for k, r in enumerate(rows)
    ]
    assert trainer.progress.best == min(r["val_loss"] for r in rows)


def test_the_training_loss_of_a_row_is_the_mean_over_the_steps_of_its_epoch():
    losses = []

    class Keep(Callback):
        def on_step(self, trainer, loss):
            losses.append(loss)

    rows = make(callbacks=[Keep()]).fit(streams(), epochs=2)
    assert [r["train_loss"] for r in rows] == pytest.approx(
        [np.mean(losses[:20]), np.mean(losses[20:])]
    )


def test_without_validation_the_training_loss_decides_what_is_best():
    rows = make().fit(streams(), epochs=2)
    assert (rows[0]["val_loss"], rows[0]["best"]) == (None, True)


def test_the_state_is_carried_across_chunks_and_zero_at_the_start_of_an_epoch():
    seen = []

    class Spy(Callback):
        def on_step(self, trainer, loss):
            seen.append(trainer.state[0][0].copy())

    trainer = make(callbacks=[Spy()])
    trainer.optimizer.lr = 0.0  # the weights stay, so the states can be computed again
    data = streams()
    trainer.fit(data, epochs=2)
    for epoch in range(2):
        state = None
        for k, (x, _) in enumerate(data.epoch(epoch)):
            _, state = trainer.model(x, state)
            np.testing.assert_allclose(seen[20 * epoch + k], state[0][0], rtol=1e-5, atol=1e-6)


def test_the_validation_loss_is_the_mean_over_all_characters_with_carried_state():
    trainer = make()
    logits, _ = trainer.model(IDS[:-1].reshape(-1, 1))
    expected, _ = fr.cross_entropy(logits, IDS[1:].reshape(-1, 1))
    assert trainer.evaluate(Whole(IDS, 1, 7))["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluating_changes_nothing():
    one, other = make(), make()
    one.evaluate(whole())
    assert_same(one, other)


def test_the_gradient_that_the_optimizer_sees_is_no_longer_than_the_clip():
    trainer = make()
    trainer.clip = 0.01
    norms = []
    step = trainer.optimizer.step

    def spy():
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in trainer.model.grads.values())))
        step()

    trainer.optimizer.step = spy
    trainer.fit(streams(), steps=10)
    assert max(norms) <= 0.01 * (1 + 1e-5)


def test_without_clipping_the_gradient_is_left_alone():
    clipped, free = make(), make()
    clipped.clip, free.clip = 1e9, 0.0
    clipped.fit(streams(), steps=5)
    free.fit(streams(), steps=5)
    assert_same(clipped, free)


@pytest.mark.parametrize("clip", [-1.0, float("nan")])
def test_a_negative_clip_is_refused(clip):
    with pytest.raises(ValueError, match="clip: expected a norm >= 0"):
        Trainer(make().model, make().optimizer, clip=clip)


# Batches, lengths, metrics, prediction


def ragged(n=30, cell=None):
    rng = np.random.default_rng(3)
    x, lengths = fr.pad_sequences([rng.integers(0, 5, 1 + i % 7) for i in range(n)])
    return fr.Batches(x, (x + 1) % 5, batch_size=8, seed=5, lengths=lengths)


def test_ragged_batches_are_learnt_and_their_padding_is_not_counted():
    trainer = make(metrics=[fr.accuracy])
    rows = trainer.fit(ragged(), ragged(), epochs=60)
    assert rows[-1]["val_accuracy"] == 1.0
    short = fr.Batches(ragged().x[:1], ragged().y[:1], 30)  # every sequence has a first step
    assert trainer.evaluate(short)["accuracy"] == 1.0


def test_what_stands_in_the_padding_changes_nothing():
    one, other = make(), make()
    data = ragged()
    data.x = np.where(np.arange(len(data.x))[:, None] < data.lengths, data.x, 999)
    one.fit(ragged(), epochs=2)
    other.fit(data, epochs=2)
    assert_same(one, other)


def test_one_target_for_each_sample_and_a_loss_of_ones_own():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    model = fr.Linear(3, 2, dtype="float64", seed=0)
    trainer = Trainer(model, fr.optim.Adam(model, 0.1), fr.mse)
    weight = rng.standard_normal((3, 2))
    trainer.fit(fr.Batches(x, x @ weight, 10, batch_first=True), epochs=100)
    np.testing.assert_allclose(model.params["weight"], weight.T, atol=1e-3)


def test_metrics_are_means_over_all_counted_targets_of_batches_of_any_size():
    trainer = make(metrics={"right": fr.accuracy})
    data = ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    expected = fr.accuracy(y, data.y)
    assert trainer.evaluate(data)["right"] == pytest.approx(expected, rel=1e-12)
    assert trainer.evaluate(data)["loss"] == pytest.approx(fr.cross_entropy(y, data.y)[0], rel=1e-5)


def test_metrics_of_the_training_data_are_reported_if_asked_for_and_are_those_of_the_steps():
    trainer = make(metrics=[fr.accuracy], train_metrics=True)
    trainer.optimizer.lr = 0.0  # so that they can be measured again
    (row,) = trainer.fit(ragged(), epochs=1)
    assert row["train_accuracy"] == pytest.approx(trainer.evaluate(ragged())["accuracy"])
    assert "val_accuracy" not in row
    assert "train_accuracy" not in make(metrics=[fr.accuracy]).fit(ragged(), epochs=1)[0]


def test_metrics_of_an_epoch_survive_a_stop_within_it(tmp_path):
    options = {"metrics": [fr.accuracy], "train_metrics": True}
    unbroken = make(**options)
    unbroken.fit(ragged(), epochs=2)
    first = make(**options)
    first.fit(ragged(), steps=6)
    second = through_a_file(first, tmp_path / "t.safetensors", **options)
    second.fit(ragged(), epochs=2)
    assert_same(unbroken, second)
    assert comparable(unbroken.history) == comparable(second.history)


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"loss": fr.accuracy}, ValueError, "metrics: expected another name than 'loss'"),
        ([fr.accuracy, fr.accuracy], ValueError, "different names, got 'accuracy' twice"),
        ({"accuracy": 1}, TypeError, "metrics: expected callables, got accuracy: int"),
    ],
)
def test_metrics_that_cannot_be_reported_are_refused(metrics, error, message):
    with pytest.raises(error, match=message):
        make(metrics=metrics)


def test_predictions_of_an_array_are_the_outputs_of_the_model():
    trainer, data = make(), ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    assert np.array_equal(trainer.predict(data.x, data.lengths), y)


def test_predictions_of_batches_come_in_the_order_of_the_data():
    trainer, data = make(), ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    batches = fr.Batches(data.x, None, 7, shuffle=False, lengths=data.lengths)
    np.testing.assert_allclose(np.concatenate(trainer.predict(batches), axis=1), y, atol=1e-6)


def test_predictions_of_streams_carry_the_state():
    trainer = make()
    y, _ = trainer.model(IDS[:-1].reshape(-1, 1))
    chunks = trainer.predict(Whole(IDS, 1, 7))
    np.testing.assert_allclose(np.concatenate(chunks), y, atol=1e-5)


def test_an_encoder_decoder_learns_from_ragged_pairs_and_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(4)
    words = [rng.integers(2, 8, 1 + i % 3) for i in range(24)]
    source, lengths = fr.pad_sequences(words)
    target, _ = fr.pad_sequences([np.append(w[::-1], 1) for w in words], value=IGNORED)
    data = fr.Batches((source, target), target, 8, lengths=lengths)

    def trainer_of(model):
        return Trainer(model, fr.optim.Adam(model, 0.02), clip=1.0, metrics=[fr.accuracy])

    unbroken = trainer_of(fr.EncoderDecoder(8, 8, "gru", hidden_size=12, seed=0))
    unbroken.fit(data, data, epochs=60)
    assert unbroken.history[-1]["val_accuracy"] > 0.9
    first = trainer_of(fr.EncoderDecoder(8, 8, "gru", hidden_size=12, seed=0))
    first.fit(data, data, steps=100)
    save_training(first, tmp_path / "t.safetensors")
    saved = load_training(tmp_path / "t.safetensors")
    second = trainer_of(saved.model)
    second.load_state_dict(saved.trainer)
    second.fit(data, data, epochs=60)
    assert_same(unbroken, second)


@pytest.mark.parametrize("stop", [1, 20, 27])
def test_dropout_draws_the_same_masks_in_a_resumed_training(stop, tmp_path):
    def trainer_of(model):
        return Trainer(model, fr.optim.Adam(model, 0.01))

    def model():
        recurrent = fr.LSTM(5, 6, 2, dropout=0.3, seed=1)
        return fr.Sequential(recurrent, fr.Dropout(0.2, seed=3), fr.Linear(6, 5, seed=2))

    unbroken, first = trainer_of(model()), trainer_of(model())
    unbroken.fit(streams(), whole(), steps=54)
    first.fit(streams(), whole(), steps=stop)
    save_training(first, tmp_path / "t.safetensors")
    saved = load_training(tmp_path / "t.safetensors")
    second = trainer_of(saved.model)
    second.load_state_dict(saved.trainer)
    second.fit(streams(), whole(), steps=54)
    assert_same(unbroken, second)


def test_lengths_beside_data_that_has_its_own_are_refused():
    with pytest.raises(ValueError, match="lengths: expected None"):
        make().predict(ragged(), [1, 2])


# Limits


def test_the_first_limit_that_is_reached_ends_it():
    trainer = make()
    trainer.fit(streams(), epochs=100, steps=27)
    assert (trainer.progress.step, trainer.progress.epoch, trainer.progress.position) == (27, 1, 7)


def test_a_limit_in_the_middle_of_an_epoch_reports_the_part_that_was_done():
    rows = make().fit(streams(), whole(), steps=27)
    assert [(r["epoch"], r["step"]) for r in rows] == [(1, 20), (2, 27)]
    assert rows[-1]["val_loss"] is not None


def test_a_limit_at_the_end_of_an_epoch_reports_it_once():
    assert [r["step"] for r in make().fit(streams(), steps=40)] == [20, 40]


def test_a_limit_of_time_ends_it_soon():
    trainer = make()
    trainer.fit(streams(), seconds=0.05)
    assert trainer.progress.step >= 1
    assert 0.05 <= trainer.progress.seconds < 5


def test_limits_count_from_the_start_of_the_training():
    trainer = make()
    trainer.fit(streams(), epochs=1)
    assert trainer.fit(streams(), epochs=1) == []
    assert [r["epoch"] for r in trainer.fit(streams(), epochs=3)] == [2, 3]


def test_no_limit_at_all_is_refused():
    with pytest.raises(ValueError, match="expected a limit of epochs, steps or seconds"):
        make().fit(streams())


class Chunks:
    """The least that a trainer asks of its data."""

    carries_state = False

    def __init__(self, *chunks):
        self.chunks = list(chunks)

    def epoch(self, number):
        return self.chunks


def test_data_without_chunks_or_without_targets_that_count_is_refused():
    trainer = make()
    with pytest.raises(ValueError, match="data: expected at least one chunk, got none"):
        trainer.fit(Chunks(), steps=1)
    x = np.zeros((2, 1), np.int64)
    with pytest.raises(ValueError, match="data: expected targets that count, got none"):
        trainer.evaluate(Chunks((x, x + IGNORED)))


def test_data_that_carries_no_state_starts_each_chunk_from_zero():
    x, target = streams().epoch(0)[0]
    fresh, again = make(), make()
    fresh.fit(Chunks((x, target), (x, target)), steps=2)
    assert fresh.state is None
    assert fresh.evaluate(Chunks((x, target))) == fresh.evaluate(Chunks((x, target), (x, target)))
    again.fit(Chunks((x, target)), epochs=2)
    assert_same(fresh, again)


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


def test_fitting_works_in_a_thread_that_gets_no_signals():
    trainer, rows = make(), []
    thread = threading.Thread(target=lambda: rows.extend(trainer.fit(streams(), epochs=1)))
    thread.start()
    thread.join()
    assert [r["step"] for r in rows] == [20]


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


# NaN and infinity


def diverging(**options):
    trainer = make(**options)
    poison = At(25, lambda: trainer.model.params["0.weight_hh_l1"].fill(np.inf))
    trainer.callbacks.insert(0, poison)
    return trainer


def test_a_loss_that_is_not_finite_names_the_step_and_the_parameter():
    trainer = diverging()
    with pytest.raises(NonFiniteError, match=r"^step 26: the loss is nan, because 0.weight_hh_l1 "):
        trainer.fit(streams(), steps=50)
    assert trainer.progress.step == 25


def test_a_loss_that_is_not_finite_because_of_the_input_says_so():
    model = fr.Linear(2, 2, seed=0)
    x = np.ones((3, 2, 2), np.float32)
    x[1, 1, 0] = np.nan
    trainer = Trainer(model, fr.optim.SGD(model), fr.mse)
    with pytest.raises(NonFiniteError, match=r"^step 1: the loss is nan, because the input is not"):
        trainer.fit(Chunks((x, np.ones_like(x))), steps=1)


def test_finite_gradients_with_an_infinite_norm_are_told_as_such():
    model = fr.Linear(1, 1, bias=False, dtype="float64", seed=0)
    trainer = Trainer(model, fr.optim.SGD(model), lambda y, target: (1.0, target))
    x = np.ones((1, 1))
    with pytest.raises(NonFiniteError, match=r"^step 1: the norm of the gradients is inf"):
        trainer.fit(Chunks((x, np.full((1, 1), 1e200))), steps=1)


def test_a_gradient_that_is_not_finite_names_the_step_and_the_parameter_and_updates_nothing():
    trainer = make()

    def loss(y, target):
        value, dy = fr.cross_entropy(y, target)
        if trainer.progress.step == 12:
            dy[...] = np.nan
        return value, dy

    trainer.loss = loss
    before = {}
    trainer.callbacks = [At(12, lambda: before.update(trainer.model.state_dict()))]
    with pytest.raises(NonFiniteError, match=r"^step 13: the gradient of 0\.weight_ih_l0 is not"):
        trainer.fit(streams(), steps=50)
    for name, value in trainer.model.state_dict().items():
        assert np.array_equal(value, before[name])


def test_a_run_that_diverges_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "m.safetensors"
    trainer = diverging(callbacks=[Checkpoints(path)])
    with pytest.raises(NonFiniteError):
        trainer.fit(streams(), whole(), steps=50)
    saved = load_training(last_path(path))
    assert saved.trainer["progress"]["step"] == 20
    assert all(np.isfinite(a).all() for a in saved.model.state_dict().values())


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_model_that_an_update_has_ruined_is_not_saved(every, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer = make(callbacks=[Checkpoints(path, every=every)])
    trainer.fit(streams(), whole(), epochs=1)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    trainer.optimizer.step = lambda: trainer.model.params["1.bias"].fill(np.nan)
    with pytest.raises(NonFiniteError, match=r"^step 21: 1\.bias is not finite any more"):
        trainer.fit(streams(), steps=21)
    assert before == {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}


# Files


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_ends_the_training_and_leaves_the_last_good_checkpoint(
    function, tmp_path, monkeypatch
):
    unbroken = make()
    unbroken.fit(streams(), whole(), epochs=3)
    path = tmp_path / "m.safetensors"
    trainer = make(callbacks=[Checkpoints(path)])
    trainer.fit(streams(), whole(), epochs=1)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(OSError, match=r"No space left on device: .*m(\.last)?\.safetensors"):
            trainer.fit(streams(), whole(), epochs=2)
    assert sorted(os.listdir(tmp_path)) == ["m.last.safetensors", "m.safetensors"]
    second = load(last_path(path), callbacks=[Checkpoints(path)])
    assert second.progress.epoch == 1
    second.fit(streams(), whole(), epochs=3)
    assert_same(unbroken, second)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_while_a_checkpoint_is_written_costs_nothing_and_is_cleaned_up(
    function, call, tmp_path
):
    unbroken = make()
    unbroken.fit(streams(), whole(), epochs=4)
    path = tmp_path / "m.safetensors"
    program = (
        "import os, signal, sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        f"original, calls = os.{function}, []\n"
        "def kill(*arguments):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == {call}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(*arguments)\n"
        f"os.{function} = kill\n"
        f"trainer = t.make(callbacks=[t.Checkpoints({str(path)!r})])\n"
        "trainer.fit(t.streams(), t.whole(), epochs=4)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    # Flushed are a file and its folder, in turn; a rename was about to happen.
    torn = [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert len(torn) == (function == "replace" or call % 2)
    if last_path(path).exists():
        second = load(last_path(path), callbacks=[Checkpoints(path)])
    else:
        second = make(callbacks=[Checkpoints(path)])
    second.fit(streams(), whole(), epochs=4)
    assert_same(unbroken, second)
    assert sorted(os.listdir(tmp_path)) == ["m.last.safetensors", "m.safetensors"]


def test_files_of_others_are_not_taken_for_what_a_kill_has_left(tmp_path):
    others = ["m.safetensors.notes.tmp", "m.tmp", "xm.safetensors.01234567.tmp"]
    for name in [*others, "m.safetensors.01234567.tmp", "m.last.safetensors.89abcdef.tmp"]:
        (tmp_path / name).touch()
    make(callbacks=[Checkpoints(tmp_path / "m.safetensors")]).fit(streams(), steps=1)
    assert sorted(os.listdir(tmp_path)) == sorted(["m.last.safetensors", "m.safetensors", *others])


def test_what_is_saved_is_what_is_loaded(tmp_path):
    trainer = make()
    trainer.fit(streams(), whole(), steps=27)
    save_training(trainer, tmp_path / "t.safetensors", {"text": "é", "limits": [1, None, 2.5]})
    saved = load_training(tmp_path / "t.safetensors")
    assert saved.options == {"text": "é", "limits": [1, None, 2.5]}
    assert saved.trainer["progress"] == trainer.state_dict()["progress"]
    for name, (a, b) in zip_trees(saved.trainer["state"], trainer.state):
        assert np.array_equal(a, b), name


def test_saving_leaves_no_other_file_behind(tmp_path):
    make(callbacks=[Checkpoints(tmp_path / "m.safetensors")]).fit(streams(), epochs=2)
    assert sorted(os.listdir(tmp_path)) == ["m.last.safetensors", "m.safetensors"]


def test_the_best_model_is_kept_even_if_later_ones_are_worse(tmp_path):
    path = tmp_path / "m.safetensors"
    trainer = make(callbacks=[Checkpoints(path)])
    trainer.fit(streams(), whole(), epochs=1)
    best = trainer.model.state_dict()
    trainer.optimizer.lr = 1.0  # ruins it
    rows = trainer.fit(streams(), whole(), epochs=2)
    assert not rows[0]["best"]
    for name, value in fr.load(path).state_dict().items():
        assert np.array_equal(value, best[name]), name


def test_a_run_that_ends_before_its_first_validation_leaves_a_model_too(tmp_path):
    path = tmp_path / "m.safetensors"
    press = At(3, lambda: signal.raise_signal(signal.SIGINT))
    trainer = make(callbacks=[press, Checkpoints(path)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(streams(), whole(), epochs=5)
    for name, value in fr.load(path).state_dict().items():
        assert np.array_equal(value, trainer.model.state_dict()[name]), name


def test_within_an_epoch_the_training_is_saved_at_intervals(tmp_path):
    path, steps = tmp_path / "m.safetensors", []
    look = At(6, lambda: steps.append(load_training(last_path(path)).trainer["progress"]["step"]))
    make(callbacks=[Checkpoints(path, every=0.0), look]).fit(streams(), steps=6)
    assert steps == [5]


def test_a_model_file_is_no_training_to_resume(tmp_path):
    fr.save(make().model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: expected format 'fastrnn training 1'"):
        load_training(tmp_path / "m.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_file_is_refused_with_its_name(keep, tmp_path):
    path = tmp_path / "t.safetensors"
    save_training(make(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"t\.safetensors: "):
        load_training(path)


# Callbacks


def test_callbacks_are_called_in_order_and_closed_whatever_happens():
    calls = []

    class Record(Callback):
        def on_begin(self, trainer):
            calls.append("begin")

        def on_step(self, trainer, loss):
            calls.append("step")

        def on_epoch(self, trainer, row):
            calls.append("epoch")

        def on_end(self, trainer):
            calls.append("end")

        def close(self):
            calls.append("close")

    make(callbacks=[Record()]).fit(streams(), steps=2)
    assert calls == ["begin", "step", "step", "epoch", "end", "close"]
    calls.clear()
    with pytest.raises(NonFiniteError):
        diverging(callbacks=[Record()]).fit(streams(), steps=50)
    assert (calls[0], calls[-2:]) == ("begin", ["step", "close"])


def test_a_log_gets_one_line_an_epoch():
    lines = []
    make(callbacks=[EpochLog(lines.append, lambda row: f"{row['epoch']}/{row['step']}")]).fit(
        streams(), epochs=3
    )
    assert lines == ["1/20", "2/40", "3/60"]


def test_a_forced_bar_shows_loss_speed_and_time_left_on_the_error_stream(capsys):
    bar = ProgressBar(show=True, unit="chars", every=0.0)
    make(callbacks=[bar, EpochLog(bar.write, lambda row: "a line")]).fit(streams(), steps=25)
    out, err = capsys.readouterr()
    assert out.splitlines() == ["a line", "a line"]
    assert "epoch 2, step 25, loss" in err
    assert "chars/s" in err
    assert "<00:0" in err


def test_without_a_terminal_there_is_no_bar(capsys):
    bar = ProgressBar()
    make(callbacks=[bar]).fit(streams(), epochs=1)
    bar.write("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_the_share_done_is_that_of_the_nearest_limit():
    trainer, seen = make(), []
    trainer.callbacks = [At(10, lambda: seen.append(trainer.fraction))]
    trainer.fit(streams(), epochs=4, steps=40)
    assert seen == [0.25]
    trainer.fit(streams(), epochs=4)
    assert trainer.fraction == 1.0


# Logs


LOGS = {
    "csv": (CSVLog, lambda path: list(csv.DictReader(path.read_text().splitlines()))),
    "jsonl": (JSONLinesLog, lambda path: [json.loads(x) for x in path.read_text().splitlines()]),
}


@pytest.fixture(params=LOGS)
def log(request, tmp_path):
    """The callback, the path of its file, and how to read it."""
    kind, read = LOGS[request.param]
    path = tmp_path / f"log.{request.param}"
    return lambda: kind(path), path, lambda: read(path)


def test_a_log_has_the_rows_of_all_epochs(log):
    new, _, read = log
    rows = make(callbacks=[new()]).fit(streams(), whole(), epochs=3)
    assert [{k: str(v) for k, v in row.items()} for row in read()] == [
        {k: str(v) for k, v in row.items()} for row in rows
    ]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("stop", [20, 27, 40])
def test_a_resumed_training_continues_its_log_without_losing_or_repeating_a_row(
    stop, last, log, tmp_path
):
    new, path, read = log
    make(callbacks=[new()]).fit(streams(), whole(), epochs=4)
    expected = comparable(read())
    path.unlink()
    order = slice(None, None, 1 if last else -1)  # whoever comes first
    saving = tmp_path / "m.safetensors"
    make(callbacks=[new(), Checkpoints(saving)][order]).fit(streams(), whole(), steps=stop)
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[-1] + "\n1,2,{")  # written, and torn, by a kill
    second = load(last_path(saving), callbacks=[new(), Checkpoints(saving)][order])
    second.fit(streams(), whole(), epochs=4)
    assert comparable(read()) == expected


def test_a_row_that_a_limit_left_amid_an_epoch_is_in_the_log_until_the_epoch_is_over(log):
    new, _, read = log
    trainer = make(callbacks=[new()])
    trainer.fit(streams(), steps=27)
    assert [int(row["step"]) for row in read()] == [20, 27]
    trainer.fit(streams(), steps=40)
    assert [int(row["step"]) for row in read()] == [20, 40]


def test_a_new_training_replaces_an_old_log(log):
    new, path, read = log
    path.write_text("something else\n")
    make(callbacks=[new()]).fit(streams(), epochs=1)
    assert len(read()) == 1


def test_a_log_follows_when_the_columns_change(log):
    new, _, read = log
    trainer = make(callbacks=[new()])
    trainer.fit(streams(), epochs=1)
    trainer.metrics = {"accuracy": fr.accuracy}
    trainer.fit(streams(), whole(), epochs=2)
    first, second = read()
    assert first.get("val_accuracy") in (None, "")
    assert float(second["val_accuracy"]) > 0


def test_a_log_holds_no_number_that_json_does_not_know(tmp_path):
    path = tmp_path / "log.jsonl"
    make(callbacks=[JSONLinesLog(path)], metrics={"odd": lambda y, t: math.inf}).fit(
        streams(), whole(), epochs=1
    )
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["val_odd"] is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("kind", [CSVLog, JSONLinesLog])
def test_a_log_on_a_full_device_is_an_error_that_names_it_and_leaves_the_device(kind):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        make(callbacks=[kind("/dev/full")]).fit(streams(), epochs=1)
    assert not os.path.isfile("/dev/full")


# Early stopping


class Scripted(Callback):
    """Replace what is monitored by given values, for a callback that comes later."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch(self, trainer, row):
        row[self.name] = self.values[row["epoch"] - 1]


@pytest.mark.parametrize(
    ("options", "values", "epochs"),
    [
        ({"patience": 1}, [3, 2, 2, 1], 3),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1, 0], 6),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.6, 1], 3),
        ({"patience": 2, "monitor": "val_accuracy", "mode": "max"}, [1, 2, 2, 1, 3], 4),
        ({"patience": 9}, [3, 2, 2, 1, 1, 1, 0], 7),
    ],
)
def test_a_training_that_does_not_improve_is_stopped(options, values, epochs):
    script = Scripted(options.get("monitor", "val_loss"), values)
    trainer = make(callbacks=[script, EarlyStopping(**options)])
    assert len(trainer.fit(streams(), whole(), epochs=7)) == epochs
    assert bool(trainer.stopped) == (epochs < 7)


def test_the_reason_of_a_stop_is_told():
    trainer = make(callbacks=[Scripted("val_loss", [1, 1]), EarlyStopping(1)])
    trainer.fit(streams(), whole(), epochs=7)
    assert trainer.stopped == "val_loss has not improved for 1 epoch"


def test_without_validation_it_is_the_training_loss_that_has_to_improve():
    trainer = make(callbacks=[Scripted("train_loss", [2, 1, 1, 0]), EarlyStopping(1)])
    assert len(trainer.fit(streams(), epochs=7)) == 3


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("stop", [20, 27, 40, 47, 60, 80])
def test_patience_goes_on_where_a_training_was_resumed(stop, last, tmp_path):
    path, values = tmp_path / "m.safetensors", [3, 2, 2, 2, 1]

    def callbacks():
        some = [Scripted("val_loss", values), EarlyStopping(2), Checkpoints(path)]
        return some if last else [some[2], *some[:2]]

    unbroken = make(callbacks=callbacks())
    assert len(unbroken.fit(streams(), whole(), epochs=5)) == 4
    make(callbacks=callbacks()).fit(streams(), whole(), steps=stop)
    second = load(last_path(path), callbacks=callbacks())
    second.fit(streams(), whole(), epochs=5)
    assert_same(unbroken, second)
    assert second.stopped
    again = load(last_path(path), callbacks=callbacks())
    assert again.fit(streams(), whole(), epochs=5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience: expected an integer of at least 1, got 0"),
        ({"min_delta": -1}, "min_delta: expected a number of at least 0, got -1"),
        ({"mode": "least"}, "mode: expected 'min' or 'max', got 'least'"),
    ],
)
def test_an_early_stopping_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


def test_monitoring_what_is_not_in_a_row_is_refused():
    trainer = make(callbacks=[EarlyStopping(monitor="loss")])
    with pytest.raises(ValueError, match=r"monitor: expected one of epoch, step, .*, got 'loss'"):
        trainer.fit(streams(), epochs=1)


# The state of callbacks


class Count(Callback):
    def __init__(self):
        self.seen = np.zeros(2, np.int64)

    def on_step(self, trainer, loss):
        self.seen += (1, trainer.progress.step)

    def state_dict(self):
        return {"seen": self.seen, "nested": [1, (2, {"a": self.seen + 1})]}

    def load_state_dict(self, saved):
        assert np.array_equal(saved["nested"][1][1]["a"], saved["seen"] + 1)
        self.seen = saved["seen"]


def test_callbacks_of_one_class_each_get_their_own_state_back(tmp_path):
    path = tmp_path / "t.safetensors"
    unbroken, first, second = ([Count(), Count()] for _ in range(3))
    make(callbacks=unbroken).fit(streams(), steps=30)
    trainer = make(callbacks=first)
    first[1].seen += 100
    trainer.fit(streams(), steps=17)
    trainer = through_a_file(trainer, path)
    trainer.callbacks = second  # set after loading
    trainer.fit(streams(), steps=30)
    assert np.array_equal(second[0].seen, unbroken[0].seen)
    assert np.array_equal(second[1].seen, unbroken[1].seen + 100)


def test_the_state_of_a_callback_that_is_not_there_is_kept(tmp_path):
    path = tmp_path / "t.safetensors"
    first, second = Count(), Count()
    trainer = make(callbacks=[first])
    trainer.fit(streams(), steps=3)
    trainer = through_a_file(trainer, path)
    trainer.fit(streams(), steps=5)
    trainer = through_a_file(trainer, path, callbacks=[second])
    assert np.array_equal(second.seen, first.seen)
