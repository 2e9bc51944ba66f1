"""Callbacks: bars, logs, early stopping, and their state in a resumed training."""

import csv
import json
import math
import os
import sys
from pathlib import Path

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
from fastrnn.resume import last_path
from fastrnn.training import Callback, NonFiniteError, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from trainings import (
    At,
    assert_same,
    comparable,
    diverging,
    load,
    make,
    streams,
    through_a_file,
    whole,
)

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


def test_every_callback_is_closed_even_if_one_of_them_fails():
    calls = []

    class Close(Callback):
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def close(self):
            calls.append(self.name)
            if self.error:
                raise self.error

    failing = [Close("a"), Close("b", OSError("no")), Close("c")]
    with pytest.raises(OSError, match="no"):
        make(callbacks=failing).fit(streams(), steps=1)
    assert calls == ["a", "b", "c"]


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


def test_a_state_that_was_loaded_before_its_callback_was_there_is_saved_as_it_was():
    trainer = make(callbacks=[Count()])
    trainer.fit(streams(), steps=3)
    saved = trainer.state_dict()["callbacks"]
    again = make()
    again.load_state_dict(trainer.state_dict())
    again.callbacks = [Count()]
    np.testing.assert_equal(again.state_dict()["callbacks"], saved)


def test_a_state_that_a_callback_refuses_is_offered_again():
    trainer, stopping = make(), EarlyStopping()
    trainer.load_state_dict(trainer.state_dict() | {"callbacks": {"EarlyStopping": {}}})
    trainer.callbacks = [stopping]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^EarlyStopping: missing key"):
            trainer.fit(streams(), steps=1)
    assert trainer.progress.step == 0


def test_early_stopping_starts_from_the_first_number_after_nan():
    stopping, trainer = EarlyStopping(patience=2, monitor="loss"), make()
    for value in (math.nan, 0.5, 0.4, 0.3):
        stopping.on_epoch(trainer, {"loss": value})
    assert stopping.best == 0.3 and trainer.stopped is None


def test_early_stopping_counts_epochs_of_nan_as_no_improvement():
    stopping, trainer = EarlyStopping(patience=2, monitor="loss"), make()
    for value in (0.5, math.nan, math.nan):
        stopping.on_epoch(trainer, {"loss": value})
    assert stopping.best == 0.5 and trainer.stopped is not None


# Checkpoints that cannot be written are found before the first step


class Remember(Callback):
    """A callback with a given state."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, saved):
        self.state = saved


class Undescribed(fr.Linear):
    config = fr.module.Module.config


class Described(fr.Linear):
    def config(self):
        return super().config() | {"in_features": np.int64(5)}


def over(kind):
    model = kind(5, 5, seed=0)
    return Trainer(model, fr.optim.SGD(model))


UNSAVABLE = {
    "no config": (lambda: over(Undescribed), {}, r"Undescribed: no config\(\) is defined"),
    "config": (lambda: over(Described), {}, "model/config/in_features: expected .* got int64"),
    "option": (make, {"a": np.int64(1)}, "options/a: expected what JSON can hold, got int64"),
    "option in a list": (make, {"a": [1, {2}]}, "options/a/1: expected what JSON .* got set"),
    "key of an option": (make, {"a": {1: 2}}, "options/a: expected text as keys, got 1"),
    "state": (
        lambda: make(callbacks=[Remember(a=(1, {2}))]),
        {},
        "trainer/callbacks/Remember/a/1: expected what JSON can hold, got set",
    ),
    "key of a state": (
        lambda: make(callbacks=[Remember(a={1: 2})]),
        {},
        "trainer/callbacks/Remember/a: expected text as keys, got 1",
    ),
    "array of objects": (
        lambda: make(callbacks=[Remember(a=np.array([None]))]),
        {},
        "trainer/callbacks/Remember/a: expected an array of numbers, got one of object",
    ),
    "complex number": (
        lambda: make(callbacks=[Remember(a=1j)]),
        {},
        "trainer/callbacks/Remember/a: expected what JSON can hold, got complex",
    ),
}


@pytest.mark.parametrize("kind", UNSAVABLE)
def test_what_cannot_be_saved_is_found_before_the_first_step(kind, tmp_path):
    build, options, message = UNSAVABLE[kind]
    path, trainer = tmp_path / "m.safetensors", build()
    files = {path: b"the best", last_path(path): b"the last"}
    for file, content in files.items():
        file.write_bytes(content)
    trainer.callbacks.append(Checkpoints(path, options))
    with pytest.raises(TypeError, match=f"^{message}"):
        trainer.fit(streams(), steps=1)
    assert trainer.progress.step == 0
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none/m.safetensors", "No such file or directory"),
        ("folder", "Is a directory"),
        ("before", "Is a directory"),  # in the way of the second file
        ("device", "expected a regular file"),
        ("x" * 250, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_found_before_the_first_step(name, error, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "before.last").mkdir()
    (tmp_path / "device").symlink_to(os.devnull)
    before, trainer = sorted(os.listdir(tmp_path)), make(callbacks=[Checkpoints(tmp_path / name)])
    with pytest.raises(OSError, match=rf"{error}: '.*{name}(\.last)?'"):
        trainer.fit(streams(), steps=1)
    assert trainer.progress.step == 0
    assert sorted(os.listdir(tmp_path)) == before


def test_numbers_of_numpy_in_the_state_of_a_callback_come_back_as_those_of_python(tmp_path):
    numbers = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.float64(0.25)}
    trainer = make(callbacks=[Remember(**numbers, array=np.arange(3), text="é", none=None)])
    trainer.callbacks.append(Checkpoints(tmp_path / "m.safetensors"))
    trainer.fit(streams(), steps=1)
    loaded = Remember()
    load(last_path(tmp_path / "m.safetensors"), callbacks=[loaded])
    values = {name: loaded.state[name] for name in numbers}
    assert values == {"a": 0.5, "b": 3, "c": True, "d": 0.25}
    assert [type(value) for value in values.values()] == [float, int, bool, float]
    assert np.array_equal(loaded.state["array"], np.arange(3))


@pytest.mark.parametrize("patience", [2.5, math.inf])
def test_a_patience_that_is_no_whole_number_is_refused(patience):
    with pytest.raises(ValueError, match=r"^patience"):
        fr.callbacks.EarlyStopping(patience=patience)


def test_within_an_epoch_a_training_is_saved_once_an_interval(tmp_path, monkeypatch):
    clock = iter(range(10**6))  # a second passes whenever somebody looks
    monkeypatch.setattr(fr.callbacks.time, "monotonic", lambda: next(clock))
    saved = []
    monkeypatch.setattr(fr.callbacks, "save_training", lambda trainer, *_: saved.append(trainer))
    trainer = make(callbacks=[Checkpoints(tmp_path / "model", every=4)])
    trainer.fit(streams(), steps=20)
    assert 2 <= len(saved) <= 6
