"""The training loop: what it learns, that it goes on bit for bit, and how it stops."""

import math
import os
import signal
import threading

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.callbacks import Checkpoints, EpochLog, ProgressBar
from fastrnn.data import IGNORED, Streams, Whole
from fastrnn.resume import last_path, load_training, save_training
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


def load(path, optimizer="adam", cell=None):
    """Return a new trainer from a file."""
    saved = load_training(path)
    trainer = Trainer(saved.model, OPTIMIZERS[optimizer](saved.model), clip=1.0)
    trainer.load_state_dict(saved.trainer)
    return trainer


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
    assert rows[-1]["val_loss"] == trainer.evaluate(whole())
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
    assert trainer.evaluate(Whole(IDS, 1, 7)) == pytest.approx(expected, rel=1e-5)


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
    assert trainer.evaluate(whole()) > 0
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


# Files


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
    look = At(5, lambda: steps.append(load_training(last_path(path)).trainer["progress"]["step"]))
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
