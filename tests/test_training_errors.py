"""What goes wrong in a training: numbers that are not finite, full disks, kills, broken files."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.callbacks import (
    Checkpoints,
)
from fastrnn.resume import last_path, load_training, save_training
from fastrnn.training import NonFiniteError, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from trainings import (
    At,
    Chunks,
    assert_same,
    diverging,
    load,
    make,
    streams,
    whole,
    zip_trees,
)

# NaN and infinity


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
