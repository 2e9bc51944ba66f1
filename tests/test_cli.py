"""The command line, as a user meets it: output, exit codes, files, and errors in one line."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.cli import COMMANDS, main
from fastrnn.models import CharLM
from fastrnn.resume import load_training, save_training
from fastrnn.training import Trainer

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = ["--hidden", "8", "--seq-len", "10", "--batch-size", "5"]
ROW = {"epoch", "step", "lr", "train_loss", "val_loss"}
ROW |= {"bits_per_char", "tokens_per_s", "seconds"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def trained(folder):
    assert main(["train", "text.txt", *SMALL, "--steps", "60"]) == 0
    return folder


def train(*arguments):
    return main(["train", "text.txt", *SMALL, *arguments])


def error_of(capsys, command, code, *arguments):
    """Run a command that fails; return its only line of error, after checking that it is one."""
    capsys.readouterr()
    assert main([command, *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith(f"fastrnn {command}: error: ")
    assert code == 2 or err.count("\n") == 1
    return last.removeprefix(f"fastrnn {command}: error: ")


def assert_same_training(one, other):
    """Everything but the clock is equal, bit for bit, in two saved trainings."""
    a, b = load_training(one), load_training(other)
    for name, value in a.model.state_dict().items():
        assert np.array_equal(value, b.model.state_dict()[name]), name
    for saved in (a, b):
        for key in ("seconds", "epoch_seconds"):
            del saved.trainer["progress"][key]
        for row in saved.trainer["history"]:
            for key in ("seconds", "tokens_per_s", "best"):  # best: a stop amid an epoch counts
                del row[key]
    np.testing.assert_equal(a.trainer, b.trainer)


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example_that_the_command_accepts(command, capsys):
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "example:"
    assert lines[-1].startswith(f"  fastrnn {command}")


def test_the_help_of_the_program_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {command} +\w", out, re.MULTILINE) for command in COMMANDS)


def test_every_option_of_the_contract_is_there(capsys):
    main(["train", "--help"])
    main(["sample", "--help"])
    out = capsys.readouterr().out
    options = """--cell --hidden --layers --embed --seq-len --batch-size --epochs --steps --minutes
        --optimizer --lr --clip --dropout --seed --val-fraction --out --resume --json
        --schedule --warmup --decay --decay-epochs --patience --log --save-every
        --prime --length --temperature --top-k --top-p"""
    assert [o for o in options.split() if not re.search(rf"^  {o}\b", out, re.MULTILINE)] == []


def test_help_answers_without_loading_the_engine(folder):
    script = (
        "import sys; from fastrnn.cli import main; main(['train', '--help']);"
        "sys.exit(any(m in sys.modules for m in ('tqdm', 'safetensors', 'fastrnn.training')))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "fastrnn", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"fastrnn {fr.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["--fly"], ["train", "--fly"], ["train", "a", "b"]]
)
def test_wrong_usage_is_exit_code_2_and_one_line_after_the_usage(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("usage: fastrnn")
    assert re.match(r"fastrnn( train)?: error: ", err[-1])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--hidden", "0", "argument --hidden: expected an integer >= 1, got '0'"),
        ("--layers", "1.5", "argument --layers: expected an integer >= 1, got '1.5'"),
        ("--embed", "-1", "argument --embed: expected an integer >= 0, got '-1'"),
        ("--lr", "0", "argument --lr: expected a number > 0, got '0'"),
        ("--lr", "nan", "argument --lr: expected a number > 0, got 'nan'"),
        ("--lr", "inf", "argument --lr: expected a number > 0, got 'inf'"),
        ("--clip", "-1", "argument --clip: expected a number >= 0, got '-1'"),
        ("--val-fraction", "1", "argument --val-fraction: expected a number >= 0 and < 1, got '1'"),
        ("--minutes", "x", "argument --minutes: expected a number > 0, got 'x'"),
        ("--decay", "1", "argument --decay: expected a number > 0 and < 1, got '1'"),
        (
            "--log",
            "a.txt",
            "argument --log: expected a name that ends in .csv or .jsonl, got 'a.txt'",
        ),
    ],
)
def test_a_value_out_of_range_is_refused(option, value, message, capsys):
    assert error_of(capsys, "train", 2, option, value) == message


@pytest.mark.parametrize(("option", "valid"), [("--cell", "lstm"), ("--optimizer", "rmsprop")])
def test_an_unknown_choice_is_answered_with_the_valid_ones(option, valid, capsys):
    message = error_of(capsys, "train", 2, option, "magic")
    assert "'magic'" in message
    assert valid in message


# Training


def test_training_prints_a_line_an_epoch_and_where_the_model_is(folder, capsys):
    assert train("--epochs", "2") == 0
    out = capsys.readouterr().out
    assert re.search(r"^text +text\.txt: 2,700 characters", out)
    assert re.search(
        r"^epoch +1  step +48  train \d\.\d+  validation \d\.\d+ nats", out, re.MULTILINE
    )
    assert re.search(r"^best model, \d\.\d+ nats .*: model\.safetensors$", out, re.MULTILINE)
    assert {"model.safetensors", "model.last.safetensors"} <= set(os.listdir(folder))


def test_json_is_one_object_an_epoch_and_nothing_else(folder, capsys):
    assert train("--epochs", "3", "--json", "--progress") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row.keys() == ROW for row in rows)
    assert all(row["bits_per_char"] == pytest.approx(row["val_loss"] / np.log(2)) for row in rows)
    assert "%|" in err


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "adagrad", "adamw"])
def test_every_optimizer_trains(optimizer, folder, capsys):
    assert train("--optimizer", optimizer, "--lr", "0.01", "--epochs", "4", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_cell_trains_with_layers_and_an_embedding_and_can_be_sampled(cell, folder, capsys):
    options = ["--cell", cell, "--layers", "2", "--embed", "6", "--epochs", "1"]
    assert train(*options) == 0
    capsys.readouterr()
    assert main(["sample", "model.safetensors", "--length", "20"]) == 0
    assert len(capsys.readouterr().out) == 21


def test_without_a_text_the_built_in_corpus_is_taken(folder, capsys):
    assert main(["train", *SMALL, "--steps", "2"]) == 0
    assert "the standard library's documentation: 4" in capsys.readouterr().out


def test_without_validation_the_model_is_still_kept(folder, capsys):
    assert train("--val-fraction", "0", "--epochs", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["val_loss"] is None
    assert (folder / "model.safetensors").exists()


def test_minutes_are_a_limit(folder, capsys):
    assert train("--minutes", "0.005", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] < 30


def test_the_same_seed_gives_the_same_model_and_another_seed_another(folder):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train("--steps", "30", "--seed", str(seed), "--out", f"{out}.safetensors") == 0
    weights = [fr.load(f"{out}.safetensors").state_dict()["1.weight"] for out in "abc"]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


SCHEDULES = {
    "constant": ["--warmup", "30"],
    "cosine": ["--schedule", "cosine", "--warmup", "5"],
    "step": ["--schedule", "step", "--decay", "0.1", "--decay-epochs", "1"],
    "plateau": ["--schedule", "plateau", "--decay", "0.1", "--decay-epochs", "1", "--lr", "1e-6"],
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_follows_the_schedule_and_is_told(kind, folder, capsys):
    assert train(*SCHEDULES[kind], "--epochs", "6", "--json") == 0
    rates = [json.loads(line)["lr"] for line in capsys.readouterr().out.splitlines()]
    if kind == "constant":
        assert rates == [0.002] * 6
    elif kind == "cosine":
        assert rates == sorted(rates, reverse=True)
        assert rates[0] < 0.002 and 0 < rates[-1] < 1e-5
    elif kind == "step":
        assert rates == pytest.approx([0.002 * 0.1**epoch for epoch in range(6)])
    else:
        assert rates[0] == 1e-6 and rates[-1] < 1e-6  # so small a step improves nothing
    assert train(*SCHEDULES[kind], "--epochs", "1") == 0
    assert re.search(r"^epoch .* rate \d", capsys.readouterr().out, re.MULTILINE)


def test_a_cosine_needs_to_know_how_many_updates_there_will_be(folder, capsys):
    given = ["text.txt", *SMALL, "--schedule", "cosine"]
    message = error_of(capsys, "train", 1, *given, "--minutes", "1")
    assert message == "--schedule cosine: expected a limit of --epochs or --steps, got none"
    message = error_of(capsys, "train", 1, *given, "--steps", "20", "--warmup", "20")
    assert message == "--warmup: expected less than the 20 updates in all, got 20"
    message = error_of(capsys, "train", 1, *given[:-1], "step", "--warmup", "20")
    assert message == "--warmup: expected 0 with --schedule step, got 20"


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_the_log_has_a_row_for_every_epoch_also_over_a_resumption(name, folder):
    assert train("--epochs", "2", "--log", name) == 0
    assert main(["train", "--resume", "--epochs", "4"]) == 0  # it remembers the log
    lines = (folder / name).read_text().splitlines()
    if name.endswith(".csv"):
        assert lines[0].startswith("epoch,step,lr,train_loss,val_loss,")
        assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    else:
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_log_that_cannot_be_written_is_found_before_training(folder, capsys):
    message = error_of(capsys, "train", 1, "text.txt", "--log", "nowhere/log.csv")
    assert message == "--log: cannot write nowhere/log.csv: No such file or directory"


def test_patience_ends_a_training_that_does_not_improve_and_says_so(folder, capsys):
    options = ["--lr", "3", "--optimizer", "sgd", "--clip", "0.5", "--patience", "1"]
    assert train(*options, "--epochs", "40") == 0
    out = capsys.readouterr().out
    assert "stopped: val_loss has not improved for 1 epoch\n" in out
    assert out.count("\nepoch ") < 40
    assert main(["train", "--resume"]) == 0
    assert "stopped: val_loss has not improved" in capsys.readouterr().out
    assert main(["train", "--resume", "--patience", "0"]) == 0
    assert "epoch  40" in capsys.readouterr().out


# Resuming


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_resumed_training_follows_its_schedule_bit_for_bit(kind, folder):
    options = [*SCHEDULES[kind], "--steps", "200", "--patience", "30"]
    options += ["--layers", "2", "--dropout", "0.2"]
    assert train(*options, "--out", "one.safetensors") == 0
    assert train(*options, "--save-every", "0", "--minutes", "0.001") == 0
    steps = load_training("model.last.safetensors").trainer["progress"]["step"]
    assert main(["train", "--resume", "--steps", "200"]) == 0
    assert steps < 200
    assert_same_training("one.last.safetensors", "model.last.safetensors")


@pytest.mark.parametrize("steps", [48, 60])
def test_n_steps_resumed_for_n_more_equal_2n_unbroken_ones_bit_for_bit(steps, folder):
    options = ["--layers", "2", "--embed", "4", "--cell", "gru"]
    assert train(*options, "--steps", str(2 * steps), "--out", "one.safetensors") == 0
    assert train(*options, "--steps", str(steps)) == 0
    assert main(["train", "--resume", "--steps", str(2 * steps)]) == 0
    assert_same_training("one.last.safetensors", "model.last.safetensors")


def test_ctrl_c_saves_exits_with_130_and_the_resumed_run_is_the_same(folder):
    program = [sys.executable, "-m", "fastrnn", "train"]
    process = subprocess.Popen(
        [*program, "text.txt", *SMALL, "--minutes", "9", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()  # the first epoch is done
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - pressed < 20  # far from nine minutes, however busy the machine is
    assert re.search(r"^stopped by Ctrl-C after step [\d,]+; all is saved", err)
    assert "fastrnn train --resume --out model.safetensors" in err
    steps = str(load_training("model.last.safetensors").trainer["progress"]["step"] + 60)
    subprocess.run([*program, "--resume", "--steps", steps], check=True)  # a process of its own
    assert train("--steps", steps, "--out", "one.safetensors") == 0
    assert_same_training("one.last.safetensors", "model.last.safetensors")


def test_resuming_takes_options_from_the_checkpoint_and_may_change_rate_and_clip(trained):
    assert main(["train", "--resume", "--steps", "70", "--lr", "0.5", "--clip", "0"]) == 0
    saved = load_training("model.last.safetensors")
    assert saved.options["hidden"] == 8
    assert (saved.options["lr"], saved.options["clip"]) == (0.5, 0)


@pytest.mark.parametrize(
    ("option", "value", "had"),
    [
        ("--hidden", "9", 8),
        ("--cell", "gru", "lstm"),
        ("--layers", "2", 1),
        ("--embed", "3", 0),
        ("--seq-len", "7", 10),
        ("--batch-size", "4", 5),
        ("--seed", "1", 0),
        ("--optimizer", "sgd", "adam"),
        ("--val-fraction", "0.2", 0.1),
        ("--schedule", "step", "constant"),
        ("--warmup", "7", 0),
    ],
)
def test_resuming_with_another_option_is_refused_and_changes_nothing(
    option, value, had, trained, capsys
):
    before = {name: (trained / name).read_bytes() for name in os.listdir(trained)}
    message = error_of(capsys, "train", 1, "--resume", "--steps", "80", option, value)
    assert message == f"{option}: the training to resume has {had}, got {value}"
    assert before == {name: (trained / name).read_bytes() for name in os.listdir(trained)}


def test_resuming_with_another_text_is_refused(trained, capsys):
    (trained / "text.txt").write_text(TEXT.upper())
    message = error_of(capsys, "train", 1, "--resume", "--steps", "80")
    assert message == "text.txt: not the text that the training to resume is about"


def test_resuming_where_nothing_is_saved_is_refused(folder, capsys):
    message = error_of(capsys, "train", 1, "--resume", "--out", "other.safetensors")
    assert message == "--resume: there is no other.last.safetensors to go on from"


def test_resuming_from_a_truncated_file_is_refused(trained, capsys):
    path = trained / "model.last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "model.last.safetensors" in error_of(capsys, "train", 1, "--resume", "--steps", "80")


def test_resuming_a_training_of_another_kind_or_origin_is_refused(folder, capsys):
    layer = fr.Linear(2, 3)
    save_training(Trainer(layer, fr.optim.SGD(layer)), "model.last.safetensors")
    message = error_of(capsys, "train", 1, "--resume")
    assert message.endswith("expected the training of a CharLM, got a Linear")
    model = CharLM("ab", hidden_size=2)
    save_training(Trainer(model, fr.optim.SGD(model)), "model.last.safetensors")
    message = error_of(capsys, "train", 1, "--resume")
    assert message.endswith("not a training that `fastrnn train` started")


def test_resuming_a_training_that_is_complete_says_so(trained, capsys):
    assert main(["train", "--resume"]) == 0
    assert "nothing left to do" in capsys.readouterr().out


# What can be wrong with a training


def test_a_run_that_diverges_fails_names_the_step_and_keeps_the_best_model(trained, capsys):
    before = fr.load("model.safetensors").state_dict()
    options = ["--resume", "--steps", "2000", "--lr", "3e38", "--clip", "0"]
    message = error_of_diverging(capsys, options)
    assert re.match(r"step \d+: the (loss is|gradient of|validation loss)", message)
    assert "model.safetensors is still the best model" in message
    for name, value in fr.load("model.safetensors").state_dict().items():
        assert np.array_equal(value, before[name])


def error_of_diverging(capsys, options):
    capsys.readouterr()
    assert main(["train", *options, "--json"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("fastrnn train: error: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt: the file is empty"),
        (b"abc\xff", "text.txt: expected text in UTF-8, got byte 0xff at position 3"),
        (b"short", "text: expected more than batch size x sequence length = 5 x 10 = 50 "
                   "characters to train on, got 4"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_trained_on_is_refused(content, message, folder, capsys):
    (folder / "text.txt").write_bytes(content)
    assert error_of(capsys, "train", 1, "text.txt", *SMALL) == message
    assert os.listdir(folder) == ["text.txt"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--hidden", str(10**8), "not enough memory for this model: "),
        ("--hidden", str(10**30), ""),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(option, value, message, folder, capsys):
    assert error_of(capsys, "train", 1, "text.txt", *SMALL, option, value).startswith(message)
    assert os.listdir(folder) == ["text.txt"]


def test_a_text_that_is_not_there_is_refused(folder, capsys):
    message = error_of(capsys, "train", 1, "none.txt")
    assert message == "none.txt: No such file or directory"


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("none/m.safetensors", "No such file or directory"),
        (".", "Is a directory"),
        (os.devnull, "expected a regular file"),
    ],
)
def test_an_unwritable_path_is_refused_before_training(out, reason, folder, capsys):
    message = error_of(capsys, "train", 1, "text.txt", *SMALL, "--out", out)
    assert message == f"--out: cannot write {out}: {reason}"
    assert os.listdir(folder) == ["text.txt"]


def test_a_disk_that_fills_up_during_training_ends_it_with_one_line(folder, monkeypatch, capsys):
    def full(model, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr("fastrnn.callbacks.save", full)
    assert train("--epochs", "1", "--json") == 1
    message = "fastrnn train: error: model.safetensors: No space left on device\n"
    assert capsys.readouterr().err == message


# Sampling


def test_a_sample_starts_with_the_prime_and_has_the_length_asked_for(trained, capsys):
    capsys.readouterr()
    assert main(["sample", "model.safetensors", "--prime", "the ", "--length", "30"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the ")
    assert len(out) == 4 + 30 + 1


def test_a_sample_as_json_is_one_object(trained, capsys):
    capsys.readouterr()
    assert main(["sample", "model.safetensors", "--length", "9", "--prime", "fox", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"prime", "text", "seconds", "chars_per_s"}
    assert (result["prime"], len(result["text"])) == ("fox", 9)


def test_a_prime_of_unknown_characters_is_refused_by_name(trained, capsys):
    message = error_of(capsys, "sample", 1, "model.safetensors", "--prime", "FOx")
    assert message == "--prime: expected only the 28 characters of the vocabulary, got 'F', 'O'"


def test_a_model_that_is_not_there_is_refused(folder, capsys):
    message = error_of(capsys, "sample", 1, "none.safetensors")
    assert message == "none.safetensors: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"hello", bytes(200), b"\xff" * 300])
def test_a_file_that_is_no_model_is_refused_with_its_name(content, folder, capsys):
    (folder / "m.safetensors").write_bytes(content)
    assert "m.safetensors" in error_of(capsys, "sample", 1, "m.safetensors")


def test_a_truncated_model_is_refused_with_its_name(trained, capsys):
    path = trained / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "model.safetensors" in error_of(capsys, "sample", 1, path.name)


def test_another_kind_of_model_is_refused(folder, capsys):
    fr.save(fr.Linear(2, 3), "linear.safetensors")
    message = error_of(capsys, "sample", 1, "linear.safetensors")
    assert message.endswith("expected a model written by `fastrnn train`, got a Linear")


def test_weights_that_are_not_finite_are_told_in_one_line(folder, capsys):
    model = CharLM("\nab", "gru", 4, seed=0)
    model.params["1.bias"] = np.nan
    fr.save(model, "nan.safetensors")
    for option in ("--seed=0", "--temperature=0", "--json"):
        message = error_of(capsys, "sample", 1, "nan.safetensors", option)
        assert message == "nan.safetensors: the largest logit is nan"


# Standard output


def shell(command, **environment):
    """Run a command in a process of its own, with the shell's redirections."""
    line = f"{sys.executable} -m fastrnn {command}"
    run = ["sh", "-c", line]
    return subprocess.run(run, capture_output=True, env=os.environ | environment, check=False)


def test_a_reader_that_goes_away_is_no_error_message(trained):
    run = shell("sample model.safetensors --length 20000 | head -c 10")
    assert run.stderr == b""
    assert len(run.stdout) == 10


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_a_training_and_what_is_saved_stays(folder, unbuffered):
    options = " ".join([*SMALL, "--minutes", "1", "--json"])
    run = shell(f"train text.txt {options} | head -1", PYTHONUNBUFFERED=unbuffered)
    assert run.stderr == b""
    assert json.loads(run.stdout)["epoch"] == 1
    assert fr.load("model.safetensors").config()["hidden_size"] == 8
    assert load_training("model.last.safetensors").trainer["progress"]["epoch"] >= 1


COMMAND_LINES = [
    "info",
    "demo",
    "demo bptt",
    "sample model.safetensors --length 10",
    f"train text.txt {' '.join(SMALL)} --epochs 1",
    f"train text.txt {' '.join(SMALL)} --epochs 1 --json",
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_full_disk_under_the_output_is_one_line(trained, line, unbuffered):
    run = shell(f"{line} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    message = f"fastrnn {line.split()[0]}: error: standard output: {os.strerror(errno.ENOSPC)}\n"
    assert (run.returncode, run.stderr.decode()) == (1, message)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_an_output_that_is_closed_is_one_line(trained, line):
    run = shell(f"{line} >&-")
    message = f"fastrnn {line.split()[0]}: error: standard output: {os.strerror(errno.EBADF)}\n"
    assert (run.returncode, run.stderr.decode()) == (1, message)


def test_a_character_that_the_output_lacks_is_written_as_its_number(folder):
    fr.save(CharLM("\n☃", "gru", 4, seed=0), "m.safetensors")
    run = shell("sample m.safetensors --length 20", PYTHONIOENCODING="cp1252")
    assert (run.returncode, run.stderr) == (0, b"")
    assert rb"\u2603" in run.stdout


# The other commands


def test_info_is_json_for_machines_and_the_same_in_words(capsys):
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["version"] == fr.__version__
    assert info["num_threads"] == fr.get_num_threads()
    assert info["isa"] in info["isa_available"]
    assert main(["info"]) == 0
    assert info["isa"] in capsys.readouterr().out


def test_bench_compares_equal_results_and_prints_a_ratio(capsys):
    assert main(["bench", "--quick", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["work"] for row in rows] == ["inference", "training"]
    assert all(row["ratio"] == pytest.approx(row["numpy_us"] / row["fastrnn_us"]) for row in rows)


# Files that must not be one


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("t.txt", ["--out", "t.txt"], "--out: the model and the text would be one file, t.txt"),
        ("t.txt", ["--out", "./t.txt"], "--out: the model and the text would be one file, t.txt"),
        ("t.txt", ["--out", "link"], "--out: the model and the text would be one file, link"),
        (
            "t.last.txt",
            ["--out", "t.txt"],
            "--out: the training beside the model and the text would be one file, t.last.txt",
        ),
        ("t.csv", ["--log", "t.csv"], "--log: the log and the text would be one file, t.csv"),
        (
            "t.txt",
            ["--log", "q.csv", "--out", "q.csv"],
            "--log: the log and the model would be one file, q.csv",
        ),
        (
            "t.txt",
            ["--log", "q.last.csv", "--out", "q.csv"],
            "--log: the log and the training beside the model would be one file, q.last.csv",
        ),
    ],
)
def test_no_file_is_written_over_another_one(folder, capsys, text, options, message):
    (folder / text).write_text(TEXT)
    (folder / "link").symlink_to(text)
    assert f"{message}; name another" == error_of(capsys, "train", 1, text, *SMALL, *options)
    assert (folder / text).read_text() == TEXT
    assert {p.name for p in folder.iterdir()} == {"text.txt", text, "link"}


def test_a_resumed_training_does_not_write_over_its_text_either(trained, capsys):
    (trained / "text.txt").rename(trained / "text.csv")
    message = error_of(capsys, "train", 1, "text.csv", "--resume", "--log", "text.csv")
    assert message == "--log: the log and the text would be one file, text.csv; name another"
    assert (trained / "text.csv").read_text() == TEXT


def test_what_the_library_warns_of_is_one_line(folder, capsys):
    assert train("--dropout", "0.3", "--steps", "2") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastrnn train: warning: --dropout: 0.3 has no effect on one layer")


def test_a_training_file_in_place_of_the_model_is_answered_with_the_model(trained, capsys):
    message = error_of(capsys, "sample", 1, "model.last.safetensors")
    assert message.endswith("got 'fastrnn training 1'; the model is model.safetensors")


def test_top_p_limits_what_is_drawn(trained, capsys):
    texts = []
    for options in (["--top-p", "0.0001"], ["--temperature", "0"]):
        assert main(["sample", "model.safetensors", "--length", "40", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    message = error_of(capsys, "sample", 2, "model.safetensors", "--top-p", "1.5")
    assert message == "argument --top-p: expected a number > 0 and <= 1, got '1.5'"


def test_a_second_ctrl_c_says_how_to_go_on(trained, capsys, monkeypatch):
    def interrupt(*args, **limits):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupt)
    assert train("--steps", "100") == 130  # what is saved there is of the training before
    assert capsys.readouterr().err == "interrupted\n"
    assert main(["train", "--resume", "--steps", "100"]) == 130
    assert capsys.readouterr().err == (
        "interrupted; go on from the last save with:\n"
        "  fastrnn train --resume --out model.safetensors\n"
    )


def test_without_validation_a_part_of_an_epoch_gives_the_latest_model(folder, capsys):
    assert train("--val-fraction", "0", "--steps", "2") == 0
    assert "\nlatest model: model.safetensors\n" in capsys.readouterr().out
